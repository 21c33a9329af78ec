//! A large file through the registry proxy, on a Unix socket and on TCP, against caching indexes of Python's that have
//! not seen the file yet: devpi-server, which the goal is set against, and proxpi.
//!
//! The same file has another name each round, so that an index has to fetch it. Nobody is asked while an index still
//! stores what it was asked for before.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::seq::SliceRandom;
use serde_json::{Value, json};

use super::nginx::{self, Upstream, free_port};
use super::process::processor_time;
use super::proxy::Served;
use super::reader::{PATIENCE, Place, Way};
use super::sandbox::Sandbox;
use super::table::{Table, Target, Unit};

/// The programs of the indexes, where there are any.
pub(crate) struct Programs<'a> {
    /// `devpi-server`, with `devpi-init` beside it.
    pub devpi: Option<&'a Path>,
    /// proxpi's Python.
    pub proxpi: Option<&'a Path>,
}

/// All of it, for each build.
pub(crate) fn first_fetches(
    table: &mut Table,
    sandboxes: &[Sandbox<'_>; 2],
    programs: &Programs<'_>,
    rounds: usize,
) {
    let upstream = nginx::find().map(|program| {
        let upstream = Upstream::start(&program, &sandboxes[0].path("upstream-of-caches"));
        publish(&upstream, rounds);
        upstream
    });
    let upstream = match upstream {
        Ok(upstream) => upstream,
        Err(reason) => return PEERS.iter().for_each(|peer| missing(table, sandboxes, peer, &reason)),
    };
    let served = sandboxes.each_ref().map(|sandbox| Served::start(sandbox, &upstream));
    // Behind the daemons, whose start has written down whom to trust.
    let started = [
        programs
            .devpi
            .ok_or("not measured: no --devpi".to_owned())
            .and_then(|program| devpi(program, &sandboxes[0], &upstream, rounds)),
        programs
            .proxpi
            .ok_or("not measured: no --proxpi".to_owned())
            .and_then(|python| proxpi(python, &sandboxes[0], &upstream, rounds)),
    ];
    let mut own = Vec::new();
    for carrier in CARRIERS {
        own.extend(served.iter().map(|served| (carrier, served.way(carrier == "TCP"))));
    }
    let mut indexes = Vec::new();
    let mut seen = Vec::new();
    for (peer, index) in PEERS.iter().zip(started) {
        match index {
            Ok(index) => {
                indexes.push(index);
                seen.push(peer);
            }
            Err(reason) => missing(table, sandboxes, peer, &reason),
        }
    }
    if indexes.is_empty() {
        return;
    }
    in_turns(&mut own, &mut indexes, rounds);
    for (peer, index) in seen.into_iter().zip(&indexes) {
        for (carrier, own) in &own {
            let (ours, theirs) = (own.rate(), index.way.rate());
            let note = format!("{ours:.0} against {theirs:.0} MiB/s, {rounds} rounds{}", peer.note);
            table.row(measure(carrier, &own.name, peer), peer.target, ours / theirs, Unit::Times, &note);
        }
    }
}

/// Each reads once a round, in an order drawn anew. The first round warms everything up.
fn in_turns(own: &mut [(&str, Way)], indexes: &mut [Index], rounds: usize) {
    let mut order: Vec<usize> = (0..own.len() + indexes.len()).collect();
    for round in 0..=rounds {
        order.shuffle(&mut rand::thread_rng());
        for &number in &order {
            let (way, took) = if let Some((_, way)) = own.get_mut(number) {
                let took = way.fetch();
                (way, took)
            } else {
                let index = &mut indexes[number - own.len()];
                let took = index.first_fetch(round);
                (&mut index.way, took)
            };
            if round > 0 {
                way.times.push(took);
            }
        }
    }
}

/// The large file under as many names as there are rounds, and the pages that lead to it.
fn publish(upstream: &Upstream, rounds: usize) {
    let sum = upstream.sum();
    let link = |number| format!("<a href=\"../../{0}#sha256={sum}\">{0}</a>\n", file(number));
    let links: String = (0..=rounds).map(link).collect();
    let page = |body: &str| format!("<!DOCTYPE html><html><body>{body}</body></html>");
    upstream.write_public("simple/index.html", &page(&format!("<a href=\"{PROJECT}/\">{PROJECT}</a>")));
    upstream.write_public(&format!("simple/{PROJECT}/index.html"), &page(&links));
    (0..=rounds).for_each(|number| upstream.link_public(&file(number)));
}

fn index_url(upstream: &Upstream) -> String {
    format!("https://{}/acme/public/simple/", upstream.host())
}

fn file(number: usize) -> String {
    format!("acme_large-{number}-py3-none-any.whl")
}

fn measure(carrier: &str, build: &str, peer: &Peer) -> String {
    format!("200 MiB on {carrier}, {build}, against {}'s first fetch", peer.name)
}

fn missing(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], peer: &Peer, reason: &str) {
    for carrier in CARRIERS {
        for sandbox in sandboxes {
            let measure = measure(carrier, sandbox.build.name, peer);
            table.missing(measure, peer.target, Unit::Times, reason);
        }
    }
}

/// A caching index that serves.
struct Index {
    way: Way,
    /// Where it has the file of each round.
    targets: Vec<String>,
    store: Store,
    server: Server,
}

/// What an index keeps of what it has served.
enum Store {
    /// It is there when the file is served: all of this directory.
    Early(PathBuf),
    /// It comes into its place, below this directory, some time after the reader has got everything.
    Late(PathBuf),
}

impl Index {
    fn first_fetch(&mut self, round: usize) -> Duration {
        self.way.target.clone_from(&self.targets[round]);
        let took = self.way.fetch();
        // What it has stored goes, so that it does not fill the disk.
        match &self.store {
            Store::Early(directory) => {
                let _ = fs::remove_dir_all(directory);
            }
            Store::Late(directory) => {
                let stored = directory.join(self.way.target.trim_start_matches('/'));
                let there = within(PATIENCE, || stored.exists());
                assert!(there, "{} does not store {}", self.way.name, self.way.target);
                fs::remove_file(stored).expect("a file that goes");
            }
        }
        self.server.rest();
        took
    }
}

/// A mirror of devpi-server's. It has nothing but what the upstream lists.
fn devpi(program: &Path, sandbox: &Sandbox<'_>, upstream: &Upstream, rounds: usize) -> Result<Index, String> {
    let (port, directory) = (free_port(), sandbox.path("devpi"));
    let mut init = sandbox.command(program.with_file_name("devpi-init"));
    init.arg("--serverdir").arg(&directory).arg("--no-root-pypi").stdout(Stdio::null());
    let mut init = Server::start("devpi-init", &mut init)?;
    within(PATIENCE, || init.has_ended());
    if !init.0.try_wait().ok().flatten().is_some_and(|status| status.success()) {
        return Err("not measured: devpi-init fails or does not end".to_owned());
    }
    let mut command = sandbox.command(program);
    command
        .arg("--serverdir")
        .arg(&directory)
        .args(["--host", "127.0.0.1", "--port", &port.to_string()])
        .env("REQUESTS_CA_BUNDLE", sandbox.path("ca.pem"))
        .stdout(Stdio::null());
    let mut server = Server::start("devpi-server", &mut command)?;
    server.wait_for("devpi-server", port)?;

    let login = json!({"user": "root", "password": ""}).to_string();
    let login: Value = serde_json::from_str(&call(port, "POST /+login", "", &login)?)
        .map_err(|error| format!("not measured: devpi-server's login: {error}"))?;
    let token = login["result"]["password"].as_str().unwrap_or_default();
    let shown = format!("x-devpi-auth: {}\r\n", STANDARD.encode(format!("root:{token}")));
    let mirror = json!({"type": "mirror", "mirror_url": index_url(upstream), "volatile": false});
    call(port, "PUT /root/mirror", &shown, &mirror.to_string())?;

    // It knows no file before it has read the page.
    let page = call(port, &format!("GET /root/mirror/+simple/{PROJECT}/"), "", "")?;
    let find = |number| {
        let mut links = page.split("href=\"../../").skip(1).filter_map(|rest| rest.split(['"', '#']).next());
        let link = links.find(|link| link.ends_with(&file(number)));
        let link =
            link.ok_or_else(|| format!("not measured: devpi-server does not list {}", file(number)))?;
        Ok(format!("/root/mirror/{link}"))
    };
    let targets = (0..=rounds).map(find).collect::<Result<_, String>>()?;
    let way = Way::new("devpi-server", Place::Tcp(port), "");
    Ok(Index { way, targets, store: Store::Late(directory.join("+files")), server })
}

/// proxpi, as its manual starts it.
fn proxpi(python: &Path, sandbox: &Sandbox<'_>, upstream: &Upstream, rounds: usize) -> Result<Index, String> {
    let (port, cache) = (free_port(), sandbox.path("proxpi"));
    let mut command = sandbox.command(python);
    command
        .args(["-m", "flask", "--app", "proxpi.server", "run", "--port", &port.to_string()])
        .env("PROXPI_INDEX_URL", index_url(upstream))
        .env("PROXPI_CACHE_DIR", &cache)
        // Else it sends the client away to where the file comes from, when that takes it too long.
        .env("PROXPI_DOWNLOAD_TIMEOUT", "600")
        .env("PROXPI_LOGGING_LEVEL", "ERROR")
        .env("REQUESTS_CA_BUNDLE", sandbox.path("ca.pem"))
        .stdout(Stdio::null());
    let mut server = Server::start("proxpi", &mut command)?;
    server.wait_for("proxpi", port)?;
    let targets = (0..=rounds).map(|number| format!("/index/{PROJECT}/{}", file(number))).collect();
    let way = Way::new("proxpi", Place::Tcp(port), "");
    Ok(Index { way, targets, store: Store::Early(cache), server })
}

/// A process that ends with its value.
struct Server(Child);

impl Server {
    fn start(name: &str, command: &mut Command) -> Result<Self, String> {
        command.spawn().map(Self).map_err(|error| format!("not measured: {name}: {error}"))
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Waits until it takes no processor time any more, which would be taken from whoever is next.
    fn rest(&self) {
        let mut before = processor_time(self.0.id());
        let rests = within(PATIENCE, || {
            std::thread::sleep(Duration::from_millis(200));
            let now = processor_time(self.0.id());
            std::mem::replace(&mut before, now) == now
        });
        assert!(rests, "an index does not come to rest");
    }

    fn wait_for(&mut self, name: &str, port: u16) -> Result<(), String> {
        let listens = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        if within(PATIENCE, || self.has_ended() || listens()) && !self.has_ended() {
            return Ok(());
        }
        Err(format!("not measured: {name} does not start"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One request to devpi-server. In HTTP/1.0 no answer comes in chunks.
fn call(port: u16, act: &str, more: &str, body: &str) -> Result<String, String> {
    let request = format!(
        "{act} HTTP/1.0\r\nhost: 127.0.0.1:{port}\r\naccept: application/json, text/html\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n{more}\r\n{body}",
        body.len()
    );
    let mut answer = String::new();
    let mut ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        stream.read_to_string(&mut answer)
    };
    ask().map_err(|error| format!("not measured: devpi-server, {act}: {error}"))?;
    let status = answer.lines().next().unwrap_or_default();
    match answer.split_once("\r\n\r\n") {
        Some((_, body)) if status.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(format!("not measured: devpi-server, {act}: {status}")),
    }
}

/// Whether it comes to that in time.
fn within(length: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let give_up = Instant::now() + length;
    while !holds() {
        if Instant::now() > give_up {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// What there is to be said of an index before it is measured.
struct Peer {
    name: &'static str,
    target: Target,
    note: &'static str,
}

/// The goal asks for one of them.
const PEERS: [Peer; 2] = [
    Peer { name: "devpi-server", target: Target::AtLeast(5.0), note: "" },
    Peer { name: "proxpi", target: Target::None, note: "; the other peer" },
];
const CARRIERS: [&str; 2] = ["Unix", "TCP"];
const PROJECT: &str = "acme-large";
