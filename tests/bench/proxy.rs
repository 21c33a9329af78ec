//! A large file through the registry proxy, on a Unix socket and on TCP, against nginx's `proxy_pass` to the same TLS
//! upstream, and against a caching index of Python's that has not seen the file yet.
//!
//! Everybody is asked by one reader, in turn.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::nginx::{self, Peers, Upstream, free_port};
use super::reader::{Place, Way, in_turns};
use super::sandbox::Sandbox;
use super::table::{Table, Target, Unit};

/// All of it, for each build.
pub(crate) fn against_nginx(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], rounds: usize) {
    let Some(program) = nginx::find() else { return };
    let upstream = Upstream::start(program, &sandboxes[0].path("upstream"));
    let peers = Peers::start(program, sandboxes[0].path("nginx"), upstream.port);
    let served = sandboxes.each_ref().map(|sandbox| Served::start(sandbox, &upstream));
    for (carrier, place) in [("Unix", Place::Unix(peers.socket())), ("TCP", Place::Tcp(peers.port))] {
        let mut ways: Vec<Way> = [
            ("nginx, as Debian ships it", "/plain"),
            ("nginx with buffers of 64 KiB", "/wide"),
            ("the same without temporary files", "/bare"),
        ]
        .map(|(name, target)| Way::new(name, place.clone(), target))
        .into();
        let others = ways.len();
        ways.extend(served.iter().map(|served| served.way(carrier == "TCP")));
        in_turns(&mut ways, rounds);
        for own in &ways[others..] {
            for (peer, target) in ways.iter().zip([Target::AtLeast(0.9), Target::AtLeast(0.9), Target::None])
            {
                let note = format!("{:.0} against {:.0} MiB/s, {rounds} rounds", own.rate(), peer.rate());
                let measure = format!("200 MiB on {carrier}, {}, against {}", own.name, peer.name);
                table.row(measure, target, own.rate() / peer.rate(), Unit::Times, &note);
            }
        }
    }
}

/// The same file under a new name each round, so that the index has to fetch it first.
pub(crate) fn against_proxpi(
    table: &mut Table,
    sandboxes: &[Sandbox<'_>; 2],
    python: Option<&Path>,
    rounds: usize,
) {
    let (Some(program), Some(python)) = (nginx::find(), python) else { return };
    let upstream = Upstream::start(program, &sandboxes[0].path("upstream-of-caches"));
    let file = |number: usize| format!("acme_large-{number}-py3-none-any.whl");
    let link = |number| format!("<a href=\"../../{0}\">{0}</a>\n", file(number));
    // The first one warms everything up.
    let page: String = (0..=rounds).map(link).collect();
    upstream.write_public(
        "simple/acme-large/index.html",
        &format!("<!DOCTYPE html><html><body>{page}</body></html>"),
    );
    (0..=rounds).for_each(|number| upstream.link_public(&file(number)));
    let served = sandboxes.each_ref().map(|sandbox| Served::start(sandbox, &upstream));
    let index = Proxpi::start(python, &sandboxes[0], &upstream);
    let mut peer = Way::new("proxpi", Place::Tcp(index.port), "");
    let carriers = [("Unix", false), ("TCP", true)];
    let mut own: Vec<(&str, Way)> = carriers
        .iter()
        .flat_map(|(carrier, on_tcp)| served.iter().map(|served| (*carrier, served.way(*on_tcp))))
        .collect();
    for number in 0..=rounds {
        index.forget();
        peer.target = format!("/index/acme-large/{}", file(number));
        for way in own.iter_mut().map(|(_, way)| way).chain([&mut peer]) {
            let took = way.fetch();
            if number > 0 {
                way.times.push(took);
            }
        }
    }
    for (carrier, own) in own {
        let note = format!("{:.0} against {:.0} MiB/s, {rounds} rounds", own.rate(), peer.rate());
        let measure = format!("200 MiB on {carrier}, {}, against proxpi's first fetch", own.name);
        table.row(measure, Target::AtLeast(5.0), own.rate() / peer.rate(), Unit::Times, &note);
    }
}

/// A daemon that serves the upstream's repository on every carrier, in front of this sandbox.
pub(crate) struct Served<'a> {
    pub sandbox: &'a Sandbox<'a>,
    pub daemon: Child,
    pub port: u16,
    host: String,
}

impl<'a> Served<'a> {
    pub(crate) fn start(sandbox: &'a Sandbox<'a>, upstream: &Upstream) -> Self {
        sandbox.stop();
        let (port, host) = (free_port(), upstream.host());
        let repositories = format!("repositories = [\"https://{host}/acme/private\"]");
        let lines = format!(
            "{}[[listener]]\ntcp = \"127.0.0.1:{port}\"\n{repositories}\n[[listener]]\nagent = \"{}\"\n{repositories}\n",
            upstream.configuration(),
            sandbox.path("agent.sock").display(),
        );
        sandbox.configure(&upstream.certificate, &lines);
        let daemon = sandbox.serve();
        sandbox.wait_until("it serves on every carrier", || {
            let agent = std::os::unix::net::UnixStream::connect(sandbox.path("agent.sock"));
            agent.is_ok() && std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { sandbox, daemon, port, host }
    }

    pub(crate) fn target(&self) -> String {
        format!("/registry/{}/acme/private/wheel", self.host)
    }

    pub(crate) fn way(&self, on_tcp: bool) -> Way {
        let place = if on_tcp { Place::Tcp(self.port) } else { Place::Unix(self.sandbox.socket()) };
        Way::new(self.sandbox.build.name, place, self.target())
    }

    pub(crate) fn by_agent(&self) -> Way {
        let place = Place::Agent(self.sandbox.path("agent.sock"));
        Way::new(self.sandbox.build.name, place, self.target())
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.daemon.kill();
        } else {
            self.sandbox.stop();
        }
        let _ = self.daemon.wait();
        self.sandbox.configure("", "");
    }
}

/// proxpi, as its manual starts it.
struct Proxpi {
    child: Child,
    port: u16,
    cache: std::path::PathBuf,
}

impl Proxpi {
    fn start(python: &Path, sandbox: &Sandbox<'_>, upstream: &Upstream) -> Self {
        let (port, cache) = (free_port(), sandbox.path("proxpi"));
        let mut command = sandbox.command(python);
        command
            .args(["-m", "flask", "--app", "proxpi.server", "run", "--port", &port.to_string()])
            .env("PROXPI_INDEX_URL", format!("https://{}/acme/public/simple/", upstream.host()))
            .env("PROXPI_CACHE_DIR", &cache)
            // Else it sends the client away to where the file comes from, when that takes it too long.
            .env("PROXPI_DOWNLOAD_TIMEOUT", "600")
            .env("PROXPI_LOGGING_LEVEL", "ERROR")
            .env("REQUESTS_CA_BUNDLE", sandbox.path("ca.pem"))
            .stdout(Stdio::null());
        let child = command.spawn().expect("proxpi");
        let index = Self { child, port, cache };
        let give_up = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < give_up, "proxpi does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        index
    }

    /// Its files go, so that they do not fill the disk. It asks for them by name anyway.
    fn forget(&self) {
        let _ = fs::remove_dir_all(&self.cache);
    }
}

impl Drop for Proxpi {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
