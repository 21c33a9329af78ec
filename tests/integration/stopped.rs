//! A daemon that is stopped, as by ctrl-Z or a debugger: the kernel lets connections in for it, and nothing is answered.
//! Each command says so at once, with the pid, and a helper does without it.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::assert_given;
use super::harness::{Daemon, Sandbox};
use super::listeners::{repository, with_package};

fn send(daemon: &Daemon<'_>, signal: Signal) {
    kill_process(Pid::from_child(&daemon.child), signal).unwrap();
}

/// Until the kernel says so: a signal takes a moment.
fn stop(daemon: &Daemon<'_>) {
    send(daemon, Signal::STOP);
    let pid = i32::try_from(daemon.pid()).unwrap();
    Sandbox::wait_until("it is stopped", || valetkey::sys::is_stopped(pid));
}

#[test]
fn a_stopped_daemon_is_named_by_every_command_that_needs_it() {
    let sandbox = with_package();
    sandbox.sign_in();
    let mut daemon = sandbox.serve();
    stop(&daemon);
    let pid = daemon.pid();
    let granted = repository(&sandbox, "acme/private");
    for words in [
        &["stop"][..],
        &["status"],
        &["status", "--json"],
        &["reload"],
        &["docker", "args", &granted],
        &["exec", "--", "/bin/true"],
        &["doctor"],
    ] {
        let run = sandbox.run(sandbox.valetkey().args(words));
        assert_ne!(run.code, Some(0), "{words:?}: {run:?}");
        let said = format!("{}{}", run.stdout, run.stderr);
        let wanted = format!("the daemon (pid {pid}) does not answer: it is stopped");
        assert!(said.contains(&wanted), "{words:?}: {run:?}");
        let remedy = format!("let it go on with `kill -CONT {pid}`, or end it with `kill -9 {pid}`");
        assert!(said.contains(&remedy), "{words:?}: {run:?}");
    }
    let run = sandbox.run(sandbox.valetkey().arg("serve"));
    let wanted = format!("end it with `kill -9 {pid}`");
    assert!(run.code == Some(1) && run.stderr.contains(&wanted), "{run:?}");
    // Helpers answer by themselves.
    assert_given(&sandbox.run(&mut sandbox.get()));
    // Both remedies are true.
    send(&daemon, Signal::CONT);
    assert_eq!(sandbox.run(sandbox.valetkey().arg("status")).code, Some(0));
    stop(&daemon);
    daemon.kill();
    let run = sandbox.run(sandbox.valetkey().args(["exec", "--", "/bin/true"]));
    assert_eq!(run.code, Some(0), "{run:?}");
}

/// It is waited for by nobody, whichever way it was found.
#[test]
fn a_stopped_daemon_is_named_where_a_variable_or_a_mount_leads_to_it() {
    let sandbox = with_package();
    sandbox.sign_in();
    let daemon = sandbox.serve();
    stop(&daemon);
    let pid = daemon.pid();
    for socket in ["run/valetkey/valetkey.sock", "run/valetkey/container/valetkey.sock"] {
        for words in [&["status"][..], &["token"], &["exec", "--", "/bin/true"], &["stop"]] {
            let mut command = sandbox.valetkey();
            let run = sandbox.run(command.args(words).env("VALETKEY_SOCKET", sandbox.path(socket)));
            assert_eq!(run.code, Some(3), "{words:?}: {run:?}");
            let wanted = format!(
                "the daemon (pid {pid}) does not answer: it is stopped\nhint: let it go on with `kill -CONT {pid}`"
            );
            assert!(run.stderr.contains(&wanted), "{words:?}: {run:?}");
        }
    }
}

/// It is not stopped, and yet it does not answer: somebody else's lock, a dead disk.
#[test]
fn a_daemon_that_is_stuck_is_named_as_well() {
    let sandbox = with_package();
    sandbox.sign_in();
    let mut daemon = sandbox.serve();
    daemon.kill();
    // What it left behind, and a process that accepts nothing, in its place.
    let note = sandbox.runtime().join("daemon.lock");
    let text = std::fs::read_to_string(&note).unwrap();
    let own = std::process::id();
    std::fs::write(&note, text.replace(&format!("\"pid\":{}", daemon.pid()), &format!("\"pid\":{own}")))
        .unwrap();
    std::fs::remove_file(sandbox.socket()).unwrap();
    let silent = std::os::unix::net::UnixListener::bind(sandbox.socket()).unwrap();
    for words in [&["stop"][..], &["status"], &["reload"]] {
        let run = sandbox.run(sandbox.valetkey().args(words));
        assert_eq!(run.code, Some(3), "{run:?}");
        let wanted = format!("the daemon (pid {own}) does not answer");
        let remedy = format!("hint: end it with `kill -9 {own}`");
        assert!(run.stderr.contains(&wanted) && run.stderr.contains(&remedy), "{run:?}");
    }
    drop(silent);
    std::fs::remove_file(sandbox.socket()).unwrap();
}

/// As through the mount of a container, where nobody knows its number.
#[test]
fn exec_says_what_it_waits_for_where_nobody_accepts() {
    let sandbox = Sandbox::new();
    let socket = sandbox.path("silent.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut command = sandbox.valetkey();
    command.args(["exec", "--", "/bin/true"]).env("VALETKEY_SOCKET", &socket);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let wanted = format!("valetkey: the daemon at {} does not answer; it may be stopped", socket.display());
    assert!(line.starts_with(&wanted), "{line}");
    assert!(child.try_wait().unwrap().is_none(), "it goes on waiting");
    child.kill().unwrap();
    child.wait().unwrap();
    let run = sandbox.run(sandbox.valetkey().arg("status").env("VALETKEY_SOCKET", &socket));
    let wanted =
        "(VALETKEY_SOCKET) does not answer\nhint: run `valetkey status` where it runs: it may be stopped";
    assert!(run.code == Some(3) && run.stderr.contains(wanted), "{run:?}");
}
