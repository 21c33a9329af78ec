//! `exec`'s forward proxy, with the TLS that its clients ask for, against what its carrier gives to the same reader
//! without it: the daemon's Unix socket, and the agent carrier.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use super::carrier::{NO_CARRY, figures, median as middle};
use super::engine::{Engine, output};
use super::nginx::{self, Upstream, free_port};
use super::proxy::Served;
use super::reader::{Place, Way, in_turns, trusting};
use super::sandbox::Sandbox;
use super::table::{Table, Target, Unit};

pub(crate) fn against_its_carrier(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], rounds: usize) {
    let program = match nginx::find() {
        Ok(program) => program,
        Err(reason) => return missing(table, sandboxes, &reason),
    };
    let upstream = Upstream::start(&program, &sandboxes[0].path("upstream-of-exec"));
    for sandbox in sandboxes {
        let served = Served::start(sandbox, &upstream);
        let [straight, by_agent] = [false, true].map(|agent| Run::start(&served, agent));
        let (daemon, reader) = (("daemon", served.daemon.id()), ("reader", std::process::id()));
        let through = |run: &Run| {
            let way = Way::new("exec", run.place(&upstream), "/acme/private/wheel");
            way.watching(&[daemon, ("exec", run.child.id()), reader])
        };
        let bare = |way: Way| way.watching(&[daemon, reader]);
        let mut ways =
            [bare(served.way(false)), through(&straight), bare(served.by_agent()), through(&by_agent)];
        in_turns(&mut ways, rounds);
        for (carrier, pair) in CARRIERS.into_iter().zip(ways.chunks(2)) {
            let [bare, exec] = [pair[0].rate(), pair[1].rate()];
            let note = format!(
                "{exec:.0} against {bare:.0} MiB/s, {rounds} rounds; ms of processor: {} against {}",
                pair[1].used(),
                pair[0].used()
            );
            table.row(measure(carrier, sandbox.build.name), TARGET, exec / bare, Unit::Times, &note);
        }
    }
}

fn missing(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], reason: &str) {
    for sandbox in sandboxes {
        for carrier in CARRIERS {
            table.missing(measure(carrier, sandbox.build.name), TARGET, Unit::Times, reason);
        }
    }
}

fn measure(carrier: &str, build: &str) -> String {
    format!("200 MiB through exec on {carrier}, {build}, against the carrier")
}

/// The same inside of a `docker build`, where the agent carrier is what there is. The step has no network.
pub(crate) fn in_a_build(table: &mut Table, sandbox: &Sandbox<'_>, carry: Option<&Path>, rounds: usize) {
    let (measure, target) = ("200 MiB through exec in a docker build, against the carrier", TARGET);
    match log_of_build(sandbox, carry, rounds) {
        Ok(log) => {
            let seen: Vec<[f64; 2]> = figures(&log, "forward ");
            let of = |pick: fn(&[f64; 2]) -> f64| middle(seen.iter().map(pick).collect());
            let note =
                format!("{:.0} against {:.0} MiB/s, {} rounds", of(|it| it[1]), of(|it| it[0]), seen.len());
            table.row(measure.to_owned(), target, of(|it| it[1] / it[0]), Unit::Times, &note);
        }
        Err(reason) => table.missing(measure.to_owned(), target, Unit::Times, &reason),
    }
}

fn log_of_build(sandbox: &Sandbox<'_>, carry: Option<&Path>, rounds: usize) -> Result<String, String> {
    let carry = carry.ok_or(NO_CARRY)?;
    let program = nginx::find()?;
    let directory = sandbox.path("forward");
    let context = directory.join("context");
    fs::create_dir_all(&context).expect("a directory");
    let upstream = Upstream::start(&program, &sandbox.path("upstream-of-builds"));
    let served = Served::start(sandbox, &upstream);
    fs::copy(carry, context.join("carry")).expect("a copy of the program");
    fs::copy(&sandbox.build.binary, context.join("valetkey")).expect("a copy of the program");
    // Where there is no bundle at all, the command is given none.
    fs::write(context.join("bundle.pem"), &upstream.certificate).expect("a file");
    let dockerfile = format!(
        "FROM scratch\nCOPY carry valetkey /\nCOPY bundle.pem /etc/ssl/certs/ca-certificates.crt\nRUN --mount=type=ssh,id=valetkey,required=true [\"/valetkey\", \
         \"exec\", \"--\", \"/carry\", \"forward\", \"{}\", \"--rounds\", \"{rounds}\"]\n",
        upstream.host()
    );
    fs::write(context.join("Dockerfile"), dockerfile).expect("a Dockerfile");
    let engine = Engine::start(&directory)?;
    let mut command = engine.docker()?;
    let socket = format!("valetkey={}", sandbox.path("agent.sock").display());
    command.args(["build", "--progress=plain", "--no-cache", "--network=none", "--ssh", &socket]);
    let log = output(command.arg(&context));
    drop(served);
    log
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

const CARRIERS: [&str; 2] = ["Unix", "the agent carrier"];
const TARGET: Target = Target::AtLeast(0.8);
