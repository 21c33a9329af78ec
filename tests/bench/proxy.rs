//! A large file through the registry proxy, on a Unix socket and on TCP, against nginx's `proxy_pass` to the same TLS
//! upstream.
//!
//! Everybody is asked by one reader, in turn.

use std::process::Child;

use super::nginx::{self, Peers, Upstream, free_port};
use super::reader::{Place, Way, in_turns};
use super::sandbox::Sandbox;
use super::table::{Table, Target, Unit};

/// All of it, for each build.
pub(crate) fn against_nginx(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], rounds: usize) {
    let program = match nginx::find() {
        Ok(program) => program,
        Err(reason) => return missing(table, sandboxes, &reason),
    };
    let upstream = Upstream::start(&program, &sandboxes[0].path("upstream"));
    let peers = Peers::start(&program, sandboxes[0].path("nginx"), upstream.port);
    let served = sandboxes.each_ref().map(|sandbox| Served::start(sandbox, &upstream));
    for (carrier, place) in CARRIERS.into_iter().zip([Place::Unix(peers.socket()), Place::Tcp(peers.port)]) {
        let peers = KINDS.iter().map(|(name, target, _)| Way::new(name, place.clone(), *target));
        let mut ways: Vec<Way> = peers.collect();
        ways.extend(served.iter().map(|served| served.way(carrier == "TCP")));
        in_turns(&mut ways, rounds);
        let (peers, own) = ways.split_at(KINDS.len());
        for own in own {
            for (peer, (name, _, target)) in peers.iter().zip(KINDS) {
                let note = format!("{:.0} against {:.0} MiB/s, {rounds} rounds", own.rate(), peer.rate());
                let ratio = own.rate() / peer.rate();
                table.row(measure(carrier, &own.name, name), target, ratio, Unit::Times, &note);
            }
        }
    }
}

fn missing(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], reason: &str) {
    for carrier in CARRIERS {
        for sandbox in sandboxes {
            for (peer, _, target) in KINDS {
                table.missing(measure(carrier, sandbox.build.name, peer), target, Unit::Times, reason);
            }
        }
    }
}

fn measure(carrier: &str, build: &str, peer: &str) -> String {
    format!("200 MiB on {carrier}, {build}, against {peer}")
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

const CARRIERS: [&str; 2] = ["Unix", "TCP"];
/// Each nginx, where it has the file, and what is asked of us against it.
const KINDS: [(&str, &str, Target); 3] = [
    ("nginx, as Debian ships it", "/plain", Target::AtLeast(0.9)),
    ("nginx with buffers of 64 KiB", "/wide", Target::AtLeast(0.9)),
    ("the same without temporary files", "/bare", Target::None),
];
