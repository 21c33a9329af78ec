//! Runs a command with everything wired: its requests to private registries come to a forwarder on loopback, which
//! carries them to the daemon, and no token is in the command, its environment or a file.
//!
//! In this order: find the daemon and ask what it grants; make a certificate authority for this run and a directory in
//! memory; take the port; set the environment; run the command and serve it until it ends; leave nothing behind.

mod alert;
pub mod authority;
mod beyond;
pub mod bundle;
mod caller;
pub mod child;
pub mod forward;
mod ground;
pub mod intercept;
pub mod place;
pub mod reach;
pub mod tunnel;
pub mod watch;
mod wire;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hyper::header::HeaderValue;

use self::authority::Authority;
use self::child::ChildFault;
use self::forward::Forwarder;
use self::intercept::Courier;
use self::place::Place;
use self::wire::Wire;
use crate::carrier::agent::find;
use crate::client::Client;
use crate::client::granted::{Granted, HostPattern, Proxied};
use crate::client::locate::Carrier;
use crate::client::stream::Way;
use crate::clock::Clock;
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind, printable};
use crate::http::server::failure_from_problem;
use crate::sys;
use crate::wiring::Wiring;
use crate::wiring::command::Command;
use crate::wiring::files::Files;
use crate::wiring::index;
use crate::wiring::proxies::{self, Ports, own_ways};

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
    sys::raise_descriptor_limit();
    let (way, whose) = find(client)?;
    let granted = ask(&way, order.say)?;
    let outdated = granted.outdated().filter(|_| !matches!(way, Way::Unix { own: true, .. }));
    if let Some(outdated) = outdated {
        (order.say)(&outdated);
    }
    let credential = granted.credential.is_some();
    // What a run around this one, or before it, has led to its index is led there by this one: nobody else can.
    let index = order.index.clone().or_else(|| index::inherited(&client.environment));
    let proxied = proxied(granted, &way, index.as_deref())?;
    let place = Place::new(&client.environment, child::serves_others())?;
    if !place.is_in_memory() {
        let place = shown_path(place.path());
        (order.say)(&format!("{place} is not in memory: what a killed run leaves there stays"));
    }
    let mut hosts = proxied.hosts;
    if index.is_some() {
        hosts.push(HostPattern::Exact { host: index::HOST.to_owned(), port: 443 });
    }
    let authority = Authority::new(&hosts, Clock::system())?;
    let command = words_of(order);
    let files = Files::read(&client.environment, &command, &wire::working_directory(), wire::text);
    let mut ways = own_ways(&client.environment, &files);
    // A file in the working directory is not worth a refusal of what is another tool's run.
    ways.retain(|tool, way| {
        !way.of_file || command.runs(tool.program()) || beyond::address(&way.named, &way.proxy).is_ok()
    });
    for way in ways.values() {
        beyond::address(&way.named, &way.proxy)?;
    }
    let (listener, general) = listen(order)?;
    let (environment, notes) = beyond::checked(&client.environment, general)?;
    let mut ports = Ports { general, own: BTreeMap::new() };
    let mut listeners = vec![listener];
    for tool in ways.keys() {
        let (listener, port) = ready(TcpListener::bind(ANY_PORT)).map_err(|error| no_port(0, error))?;
        ports.own.insert(*tool, port);
        listeners.push(listener);
    }
    let wire = Wire {
        environment: &client.environment,
        command: &command,
        files: &files,
        ports: &ports,
        hosts: &hosts,
        place: &place,
        authority: &authority,
        index: index.as_deref(),
        credential,
    };
    let wiring = wire.wiring()?;
    for note in notes.iter().chain(&wiring.notes) {
        (order.say)(note);
    }
    let bundle = wiring.value("CURL_CA_BUNDLE").map(Path::new);
    let idle = matches!(way, Way::Unix { own: true, .. }).then_some(client.config.idle);
    let connector = beyond::connector(&environment, general, bundle)?;
    let courier = Courier::new(way.clone(), whose, order.say);
    let mut forwarders = vec![Forwarder::new(general, hosts, authority, courier, connector)];
    for (tool, way) in &ways {
        let environment = proxies::beyond(&environment, way);
        let (environment, _) = beyond::checked(&environment, general)?;
        let connector = beyond::connector(&environment, general, bundle)?;
        forwarders.push(forwarders[0].beside(ports.of(*tool), connector));
    }
    let served = forwarders.into_iter().zip(listeners).collect();
    let outcome = watch(order, &wiring, served, way, idle);
    outcome.map_err(|error| Failure::new(Kind::Local, "cannot run a command").with_cause(error))
}

fn words_of(order: &Order) -> Command {
    let words = [&order.program].into_iter().chain(&order.arguments);
    Command::new(words.map(|word| word.to_string_lossy().into_owned()))
}

/// Starts the command and serves it until it ends.
fn watch(
    order: &Order,
    wiring: &Wiring,
    served: Vec<(Forwarder, TcpListener)>,
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
        let mut background = tokio::task::JoinSet::new();
        for (forwarder, listener) in served {
            background.spawn(forwarder.run(tokio::net::TcpListener::from_std(listener)?));
        }
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
fn ask(way: &Way, say: fn(&str)) -> Result<Granted, Failure> {
    let path = shown_path(way.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Local, "cannot start").with_cause(error))?;
    let (status, body) = runtime.block_on(async {
        let mut answer = pin!(way.ask("/v1/grant", PATIENCE));
        if let Ok(answer) = tokio::time::timeout(QUIET, answer.as_mut()).await {
            return answer;
        }
        say(&format!("the daemon at {path} does not answer; it may be stopped, or its machine too busy"));
        answer.await
    })?;
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
fn proxied(granted: Granted, way: &Way, index: Option<&str>) -> Result<Proxied, Failure> {
    let serves_merged = granted.index;
    let proxied = granted.proxy.filter(|proxied| !proxied.hosts.is_empty());
    let proxied = proxied.ok_or_else(|| nothing_granted(way, granted.remedy.as_deref()))?;
    if index == Some(MERGED) && !serves_merged {
        let text = format!("the daemon at {} serves no merged index", shown_path(way.path()));
        return Err(Failure::new(Kind::Refused, text)
            .with_hint("name a repository behind --index, or configure [index] where the daemon runs"));
    }
    let hosts = index.map(hosts_of).unwrap_or_default();
    if let Some(host) = hosts.into_iter().find(|host| !covers(&proxied, host)) {
        let text = format!(
            "the daemon at {} grants no repository of {host} to this process",
            shown_path(way.path())
        );
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
    let text = format!("the daemon at {} grants no registry to this process", shown_path(way.path()));
    let usual =
        "list the repositories in its config.toml: [build] repositories = [\"LOCATION/PROJECT/REPOSITORY\"]";
    Failure::new(Kind::Refused, text).with_hint(remedy.map_or_else(|| usual.to_owned(), printable))
}

/// Takes a port: the one that was asked for; in a step of a build, where everything ends with the step, the usual one;
/// elsewhere any. Whoever listens there after the run is asked by what outlives it, so that nobody should know beforehand.
fn listen(order: &Order) -> Result<(TcpListener, u16), Failure> {
    let in_build = || !find::mounted(Path::new(find::MOUNTS)).is_empty();
    let wanted = order.port.or_else(|| in_build().then_some(PORT)).unwrap_or(0);
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)).or_else(|error| {
        if order.port.is_some() || error.kind() != io::ErrorKind::AddrInUse {
            return Err(error);
        }
        TcpListener::bind(ANY_PORT)
    });
    ready(bound).map_err(|error| no_port(wanted, error))
}

fn ready(bound: io::Result<TcpListener>) -> io::Result<(TcpListener, u16)> {
    let listener = bound?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

fn no_port(wanted: u16, error: io::Error) -> Failure {
    let port = if wanted == 0 { "a port".to_owned() } else { format!("port {wanted}") };
    Failure::new(Kind::Local, format!("cannot listen on {port} of 127.0.0.1"))
        .with_cause(error)
        .with_hint("name another one with --port")
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

/// Where the forwarder listens in a build: a port that no known service has, below those that systems give out by
/// themselves.
pub const PORT: u16 = 18417;
const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
const PATIENCE: Duration = Duration::from_secs(20);
/// After that a person wants to know what is waited for.
const QUIET: Duration = Duration::from_secs(4);
/// The index that is there only where the configuration says what it merges.
const MERGED: &str = "/simple/";
