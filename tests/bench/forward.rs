//! `exec`'s forward proxy, with the TLS that its clients ask for, against what its carrier gives to the same reader
//! without it: the daemon's Unix socket, and the agent carrier.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use super::nginx::{self, Upstream, free_port};
use super::proxy::Served;
use super::reader::{Place, Way, in_turns, trusting};
use super::sandbox::Sandbox;
use super::table::{Table, Target, Unit};

pub(crate) fn against_its_carrier(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], rounds: usize) {
    let Some(program) = nginx::find() else { return };
    let upstream = Upstream::start(program, &sandboxes[0].path("upstream-of-exec"));
    for sandbox in sandboxes {
        let served = Served::start(sandbox, &upstream);
        let [straight, by_agent] = [false, true].map(|agent| Run::start(&served, agent));
        let through = |run: &Run| Way::new("exec", run.place(&upstream), "/acme/private/wheel");
        let mut ways =
            [served.way(false), through(&straight), served.by_agent(), through(&by_agent)];
        in_turns(&mut ways, rounds);
        for (carrier, pair) in ["Unix", "the agent carrier"].into_iter().zip(ways.chunks(2)) {
            let [bare, exec] = [pair[0].rate(), pair[1].rate()];
            let note = format!("{exec:.0} against {bare:.0} MiB/s, {rounds} rounds");
            let measure = format!("200 MiB through exec on {carrier}, {}, against the carrier", sandbox.build.name);
            table.row(measure, Target::AtLeast(0.8), exec / bare, Unit::Times, &note);
        }
    }
}

/// A run of `valetkey exec` whose command waits for the end of its input.
struct Run {
    child: Child,
    port: u16,
    trust: String,
}

impl Run {
    fn start(served: &Served<'_>, by_agent: bool) -> Self {
        let sandbox = served.sandbox;
        let port = free_port();
        let mut command = sandbox.command(sandbox.path("bin/valetkey"));
        command
            .args(["exec", "--port", &port.to_string(), "--"])
            .args(["/bin/sh", "-c", "echo \"$SSL_CERT_FILE\"; read -r end"])
            .stdin(Stdio::piped());
        if by_agent {
            command.env("SSH_AUTH_SOCK", sandbox.path("agent.sock"));
        }
        let mut child = command.spawn().expect("exec");
        let mut path = String::new();
        let said = child.stdout.as_mut().expect("its output");
        BufReader::new(said).read_line(&mut path).expect("a path");
        let trust = std::fs::read_to_string(path.trim()).expect("what its command trusts");
        Self { child, port, trust }
    }

    fn place(&self, upstream: &Upstream) -> Place {
        Place::Forward { port: self.port, host: upstream.host(), trust: trusting(&self.trust) }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
