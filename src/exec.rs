//! Runs a command with everything wired: its requests to private registries come to a forwarder on loopback, which
//! carries them to the daemon, and no token is in the command, its environment or a file.
//!
//! In this order: find the daemon and ask what it grants; make a certificate authority for this run and a directory in
//! memory; take the port; set the environment; run the command and serve it until it ends; leave nothing behind.

pub mod authority;
pub mod bundle;
pub mod child;
pub mod forward;
pub mod intercept;
pub mod place;
pub mod tunnel;

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyper::header::HeaderValue;

use self::authority::Authority;
use self::child::ChildFault;
use self::forward::Forwarder;
use self::intercept::Courier;
use self::place::Place;
use crate::client::Client;
use crate::client::granted::{Granted, Proxied};
use crate::client::locate::Carrier;
use crate::client::stream::Way;
use crate::clock::Clock;
use crate::error::{Failure, Kind, printable};
use crate::http::proxy::ProxyConnector;
use crate::http::server::failure_from_problem;
use crate::paths::read_regular;
use crate::sys;
use crate::wiring::files::Files;
use crate::wiring::proxies::{beyond, proxies};
use crate::wiring::{Wiring, index, keyring_providers, path_with, trust};

/// What is to be run.
#[derive(Debug)]
pub struct Order {
    pub program: OsString,
    pub arguments: Vec<OsString>,
    /// The index that every installer gets, as a path of the daemon's.
    pub index: Option<String>,
    /// The port that was asked for, instead of the usual one.
    pub port: Option<u16>,
    /// Shows a person one sentence.
    pub say: fn(&str),
}

/// Runs the command to its end.
///
/// # Errors
/// When nothing answers or nothing is granted, or the command could not be wired. Then it was not started.
pub fn run(client: &Client, order: &Order) -> Result<Result<ExitCode, ChildFault>, Failure> {
    sys::refuse_dumps();
    let (way, whose) = find(client)?;
    let granted = ask(&way)?;
    let outdated = granted.outdated().filter(|_| !matches!(way, Way::Unix { own: true, .. }));
    if let Some(outdated) = outdated {
        (order.say)(&outdated);
    }
    let credential = granted.credential.is_some();
    let proxied = proxied(granted, &way, order)?;
    let place = Place::new(&client.environment)?;
    if !place.is_in_memory() {
        let place = place.path().display();
        (order.say)(&format!("{place} is not in memory: what a killed run leaves there stays"));
    }
    let authority = Authority::new(&proxied.hosts, Clock::system())?;
    let (listener, port) = listen(order)?;
    let files = Files::read(&client.environment, |path| read_regular(path, LARGEST_FILE).ok());
    let wiring = wire(client, order, &place, &files, port, &proxied, &authority, credential)?;
    for note in &wiring.notes {
        (order.say)(note);
    }
    let idle = matches!(way, Way::Unix { own: true, .. }).then_some(client.config.idle);
    let beyond = ProxyConnector::new(&beyond(&client.environment, &files));
    let courier = Courier::new(way.clone(), whose, order.say);
    let forwarder = Forwarder::new(port, proxied.hosts, authority, courier, beyond);
    let outcome = watch(order, &wiring, listener, forwarder, way, idle);
    outcome.map_err(|error| Failure::new(Kind::Local, "cannot run a command").with_cause(error))
}

/// Starts the command and serves it until it ends.
fn watch(
    order: &Order,
    wiring: &Wiring,
    listener: TcpListener,
    forwarder: Forwarder,
    way: Way,
    idle: Option<Duration>,
) -> io::Result<Result<ExitCode, ChildFault>> {
    // Before there is a thread that would not know of it.
    let signals = child::hold_signals()?;
    let command = child::command(&order.program, &order.arguments, wiring, &signals);
    // One thread, which no carrier outruns. With two, each piece of a download wakes the other one for nothing.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .thread_keep_alive(Duration::from_secs(1))
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let signals = signals.listen()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut background = tokio::task::JoinSet::new();
        background.spawn(forwarder.run(listener));
        if let Some(idle) = idle {
            background.spawn(keep_awake(way, idle));
        }
        match child::spawn(command) {
            Ok(child) => Ok(Ok(child::supervise(child, &signals).await?)),
            Err(fault) => Ok(Err(fault)),
        }
    });
    // Connections of processes that outlive the command are cut: what vouched for them goes too.
    runtime.shutdown_background();
    outcome
}

/// The way to the daemon, which is started where it is this user's own and not running. That one is told whose token
/// to make the requests with.
fn find(client: &Client) -> Result<(Way, Option<HeaderValue>), Failure> {
    let (carrier, named) = client.locate()?;
    let mut whose = None;
    if matches!(carrier, Carrier::Owner(_)) {
        client.start_daemon(named.as_ref(), Instant::now() + PATIENCE)?;
        let text = client.whose(named).to_json()?.to_string();
        let odd = |_| Failure::new(Kind::Usage, "a path of the credential or of this home is not printable");
        whose = Some(HeaderValue::from_maybe_shared(text).map_err(odd)?);
    }
    Ok((Way::of(&carrier), whose))
}

/// What the daemon grants.
fn ask(way: &Way) -> Result<Granted, Failure> {
    let path = way.path().display();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Local, "cannot start").with_cause(error))?;
    let (status, body) = runtime.block_on(way.ask("/v1/grant", PATIENCE))?;
    match status.as_u16() {
        200 => serde_json::from_slice(&body).map_err(|error| {
            Failure::new(Kind::Local, format!("what the daemon at {path} says of its grant cannot be read"))
                .with_cause(error)
                .with_hint("install the same version of valetkey on both sides")
        }),
        // A path that is not granted has no route.
        404 => Err(nothing_granted(way, None)),
        status => Err(failure_from_problem(&body).unwrap_or_else(|| {
            Failure::new(
                Kind::Upstream,
                format!("the daemon at {path} answered {status} when asked for its grant"),
            )
        })),
    }
}

/// What is granted, where that is enough for what is ordered.
fn proxied(granted: Granted, way: &Way, order: &Order) -> Result<Proxied, Failure> {
    let serves_merged = granted.index;
    let proxied = granted.proxy.filter(|proxied| !proxied.hosts.is_empty());
    let proxied = proxied.ok_or_else(|| nothing_granted(way, granted.remedy.as_deref()))?;
    if order.index.as_deref() == Some(MERGED) && !serves_merged {
        let text = format!("the daemon at {} serves no merged index", way.path().display());
        return Err(Failure::new(Kind::Refused, text)
            .with_hint("name a repository behind --index, or configure [index] where the daemon runs"));
    }
    let hosts = order.index.as_deref().map(hosts_of).unwrap_or_default();
    if let Some(host) = hosts.into_iter().find(|host| !covers(&proxied, host)) {
        let text =
            format!("the daemon at {} grants no repository of {host} to this process", way.path().display());
        return Err(Failure {
            hint: granted.remedy.as_deref().map(printable),
            ..Failure::new(Kind::Refused, text)
        });
    }
    Ok(proxied)
}

/// The hosts in the path of an index: `/index/` or `/merged/`, then `HOST/PROJECT/REPOSITORY` once or several times.
fn hosts_of(index: &str) -> Vec<&str> {
    let places = index.strip_prefix("/index/").or_else(|| index.strip_prefix("/merged/"));
    let places = places.and_then(|places| places.strip_suffix("/simple/"));
    places.map(|places| places.split('/').step_by(3).collect()).unwrap_or_default()
}

fn covers(proxied: &Proxied, address: &str) -> bool {
    let (host, port) = address.split_once(':').unwrap_or((address, "443"));
    port.parse().is_ok_and(|port| proxied.hosts.iter().any(|pattern| pattern.covers(host, port)))
}

/// The daemon knows where the grant of this socket is written; an older one does not say.
fn nothing_granted(way: &Way, remedy: Option<&str>) -> Failure {
    let text = format!("the daemon at {} grants no registry to this process", way.path().display());
    let usual =
        "list the repositories in its config.toml: [build] repositories = [\"LOCATION/PROJECT/REPOSITORY\"]";
    Failure::new(Kind::Refused, text).with_hint(remedy.map_or_else(|| usual.to_owned(), printable))
}

/// Takes the usual port, which cache mounts remember, or another one where that is taken.
fn listen(order: &Order) -> Result<(TcpListener, u16), Failure> {
    let wanted = order.port.unwrap_or(PORT);
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).or_else(|error| {
        if order.port.is_some() || error.kind() != io::ErrorKind::AddrInUse {
            return Err(error);
        }
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        (order.say)(&format!(
            "port {wanted} is taken, so this run has port {}: what is cached by address is not found again",
            other.local_addr()?.port()
        ));
        Ok(other)
    });
    let listener = bound.and_then(|listener| {
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok((listener, port))
    });
    listener.map_err(|error| {
        Failure::new(Kind::Local, format!("cannot listen on port {wanted} of 127.0.0.1"))
            .with_cause(error)
            .with_hint("name another one with --port")
    })
}

#[expect(clippy::too_many_arguments, reason = "this is where everything comes together, once")]
fn wire(
    client: &Client,
    order: &Order,
    place: &Place,
    files: &Files,
    port: u16,
    proxied: &Proxied,
    authority: &Authority,
    credential: bool,
) -> Result<Wiring, Failure> {
    let environment = &client.environment;
    let wanted = trust::bundles(environment, files);
    let mut wiring = proxies(environment, files, port, &proxied.hosts).and(bundle::write(
        place.path(),
        authority.pem(),
        &wanted,
        environment,
    )?);
    if credential {
        wiring = wiring.and(keyring_providers(environment));
        wiring.set("PATH", path_with(environment, &place.link_keyring()?));
    }
    if let Some(path) = &order.index {
        let url = format!("http://127.0.0.1:{port}{path}");
        wiring = wiring.and(index::index(&url, &place.empty()?));
        wiring.notes.extend(index_warnings(order));
    }
    Ok(wiring)
}

/// Index lines in the requirements files that a command names: pip heeds them whatever the environment says.
fn index_warnings(order: &Order) -> Vec<String> {
    let words: Vec<String> = order.arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut warnings = Vec::new();
    for file in index::requirements_files(&words) {
        let Ok(text) = read_regular(Path::new(&file), LARGEST_FILE) else { continue };
        for (line, option) in index::index_lines(&text) {
            warnings.push(format!(
                "warning: {file}:{line}: `{option}` leads past the merged index; remove that line"
            ));
        }
    }
    warnings
}

/// A daemon that started by itself ends when nobody has asked it anything for a while; a shell may be open for longer.
async fn keep_awake(way: Way, idle: Duration) {
    let pause = (idle / 3).clamp(Duration::from_secs(1), Duration::from_secs(900));
    loop {
        tokio::time::sleep(pause).await;
        // Where it is gone, the next request says so.
        let _ = way.ask("/v1/grant", PATIENCE).await;
    }
}

/// Where the forwarder listens: a port that no known service has, below those that systems give out by themselves.
pub const PORT: u16 = 18417;
const PATIENCE: Duration = Duration::from_secs(20);
/// The index that is there only where the configuration says what it merges.
const MERGED: &str = "/simple/";
const LARGEST_FILE: u64 = 1 << 20;
