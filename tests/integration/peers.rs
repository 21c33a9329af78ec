//! Other users of the machine. Needs root to play them; without root (and outside CI) it says so and passes.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;

use super::assert_given;
use super::harness::Sandbox;

const NOBODY: u32 = 65_534;

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || !super::harness::is_ci(), "CI runs this as root");
    if !root {
        println!("skipped: {test} needs root");
    }
    root
}

/// Opens the way to the socket, as a careless administrator would: the peer check is the second wall.
fn open_the_way(sandbox: &Sandbox) {
    for below in ["", "run", "run/valetkey", "bin"] {
        fs::set_permissions(sandbox.path(below), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(sandbox.socket(), fs::Permissions::from_mode(0o666)).unwrap();
}

#[test]
fn another_user_gets_nothing_and_the_refusal_is_logged() {
    if !is_root("another_user_gets_nothing_and_the_refusal_is_logged") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let mut daemon = sandbox.serve();
    assert_given(&sandbox.run(&mut sandbox.get()));
    open_the_way(&sandbox);
    let program = sandbox.copy(super::harness::VALETKEY, "bin/copy");
    for arguments in [&["token"][..], &["status"], &["stop"], &["reload"]] {
        let mut command = sandbox.command(&program);
        command.args(arguments).env("VALETKEY_SOCKET", sandbox.socket()).env("HOME", "/").current_dir("/");
        let run = sandbox.run(command.uid(NOBODY).gid(NOBODY));
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
        assert!(run.stderr.contains("serves its owner only"), "{run:?}");
    }
    daemon.terminate();
    let log = daemon.log();
    assert_eq!(log.matches("\"verdict\":\"refused: not admitted\"").count(), 4, "{log}");
    assert!(log.contains(&format!("\"uid\":{NOBODY}")), "{log}");
}

#[test]
fn a_socket_that_another_user_serves_is_not_believed() {
    if !is_root("a_socket_that_another_user_serves_is_not_believed") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let theirs = sandbox.path("theirs");
    fs::DirBuilder::new().mode(0o700).create(&theirs).unwrap();
    chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(sandbox.path("bin"), fs::Permissions::from_mode(0o755)).unwrap();
    let program = sandbox.copy(super::harness::VALETKEY, "bin/copy");
    let mut command = sandbox.command(&program);
    command.arg("serve").env("XDG_RUNTIME_DIR", &theirs).env("HOME", "/").current_dir("/");
    let mut impostor = command.uid(NOBODY).gid(NOBODY).spawn().unwrap();
    let socket = theirs.join("valetkey/valetkey.sock");
    Sandbox::wait_until("the impostor serves", || socket.exists());
    fs::DirBuilder::new().mode(0o700).create(sandbox.runtime()).unwrap();
    fs::hard_link(&socket, sandbox.socket()).unwrap();
    let run = sandbox.run(&mut sandbox.get());
    let _ = impostor.kill();
    let _ = impostor.wait();
    assert_given(&run);
    assert!(run.stderr.contains(&format!("is served by uid {NOBODY}")), "{run:?}");
    assert_eq!(sandbox.google.token_requests().len(), 1);
}

#[test]
fn a_daemon_answers_nobody_but_its_owner_and_not_even_that_one_can_look_into_it() {
    if !is_root("a_daemon_answers_nobody_but_its_owner_and_not_even_that_one_can_look_into_it") {
        return;
    }
    let sandbox = Sandbox::new();
    for below in ["", "bin"] {
        fs::set_permissions(sandbox.path(below), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let theirs = sandbox.path("theirs");
    fs::DirBuilder::new().mode(0o700).create(&theirs).unwrap();
    chown(&theirs, Some(NOBODY), Some(NOBODY)).unwrap();
    let as_nobody = |program: &Path, argument: &str| {
        let mut command = sandbox.command(program);
        command.arg(argument).env("XDG_RUNTIME_DIR", &theirs).env("HOME", "/").current_dir("/");
        command.uid(NOBODY).gid(NOBODY);
        command
    };
    let program = sandbox.copy(super::harness::VALETKEY, "bin/copy");
    let mut daemon = as_nobody(&program, "serve").spawn().unwrap();
    let mut other = as_nobody(Path::new("/bin/sleep"), "60").spawn().unwrap();
    let socket = theirs.join("valetkey/valetkey.sock");
    Sandbox::wait_until("it serves", || socket.exists());
    let look = |pid: u32| sandbox.run(&mut as_nobody(Path::new("/bin/cat"), &format!("/proc/{pid}/maps")));
    let (seen, control) = (look(daemon.id()), look(other.id()));
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.id())).unwrap();
    let mut answer = String::new();
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let _ = stream.read_to_string(&mut answer);
    for child in [&mut daemon, &mut other] {
        let _ = child.kill();
        let _ = child.wait();
    }
    assert_eq!(control.code, Some(0), "{control:?}");
    assert!(seen.code != Some(0) && seen.stdout.is_empty(), "{seen:?}");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}
