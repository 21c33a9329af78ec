//! `valetkey reload` and listeners: new ones are opened, those that are gone are closed, the rest is not disturbed, and
//! what could not be opened is told.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::harness::{CONFIGURATION, Run, Sandbox};
use super::listeners::{agent, container, message, on_stream, opened, page, repository, unix, with_package};

fn reload(sandbox: &Sandbox) -> Run {
    sandbox.run(sandbox.valetkey().arg("reload"))
}

/// A `[[listener]]` that grants the private repository.
fn listener(sandbox: &Sandbox, address: &str) -> String {
    format!("\n[[listener]]\n{address}\nrepositories = [\"{}\"]\n", repository(sandbox, "acme/private"))
}

fn at(kind: &str, path: &Path) -> String {
    format!("{kind} = \"{}\"", path.display())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn by_port(sandbox: &Sandbox, port: u16) -> Option<u16> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let host = format!("host: 127.0.0.1:{port}\r\n");
    Some(on_stream(stream, &message("GET", &page(sandbox, "acme/private"), &host, "")).0)
}

/// One more request on a connection that stays open.
fn ask_again(stream: &mut UnixStream, path: &str) -> u16 {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    let text = String::from_utf8(text).unwrap().to_lowercase();
    let length = text.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
    stream.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn new_listeners_are_opened_those_gone_are_closed_and_the_others_are_not_disturbed() {
    let sandbox = with_package();
    sandbox.sign_in();
    let [stays, goes, comes, carried] =
        ["stays", "goes", "comes", "carried"].map(|name| sandbox.path(&format!("run/{name}.sock")));
    let port = free_port();
    let kept = listener(&sandbox, &at("unix", &stays));
    sandbox.configure(&(kept.clone() + &listener(&sandbox, &at("unix", &goes))));
    let daemon = sandbox.serve();
    let mut lasting = [&stays, &container(&sandbox), &goes].map(|path| UnixStream::connect(path).unwrap());
    for stream in &mut lasting {
        assert!([200, 404].contains(&ask_again(stream, "/v1/grant")));
    }
    let inode = |path: &Path| valetkey::carrier::unix::inode(path);
    let before = [&stays, &container(&sandbox), &sandbox.socket()].map(|path| inode(path));
    let new = listener(&sandbox, &at("unix", &comes))
        + &listener(&sandbox, &at("agent", &carried))
        + &listener(&sandbox, &format!("tcp = \"127.0.0.1:{port}\""));
    sandbox.configure(&(kept.clone() + &new));
    let run = reload(&sandbox);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert_eq!(unix(&comes, "GET", &page(&sandbox, "acme/private"), "").0, 200);
    assert_eq!(agent(&carried, "GET", &page(&sandbox, "acme/private"), "").0, 200);
    assert_eq!(by_port(&sandbox, port), Some(200));
    assert!(!goes.exists() && UnixStream::connect(&goes).is_err());
    let after = [&stays, &container(&sandbox), &sandbox.socket()].map(|path| inode(path));
    assert_eq!(before, after);
    let [stays_open, container_open, gone] = &mut lasting;
    assert_eq!(ask_again(stays_open, "/v1/grant"), 200);
    assert_eq!(ask_again(container_open, "/v1/grant"), 200);
    assert_eq!(gone.read(&mut [0]).unwrap(), 0, "a connection of one that is gone is closed");
    let (_, status) = unix(&sandbox.socket(), "GET", "/v1/status", "");
    assert!(status.contains("comes.sock") && !status.contains("goes.sock"), "{status}");
    // And back again, by the signal that a service manager sends.
    sandbox.configure(&kept);
    let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    Sandbox::wait_until("they are closed", || !comes.exists() && !carried.exists());
    Sandbox::wait_until("the port is free", || by_port(&sandbox, port).is_none());
    assert!(stays.exists());
}

#[test]
fn one_address_may_change_its_way_and_its_grant() {
    let sandbox = with_package();
    sandbox.sign_in();
    let path = sandbox.path("run/one.sock");
    let port = free_port();
    let beyond = format!("tcp = \"0.0.0.0:{port}\"\nbeyond_loopback = true\npeers = [\"anyone\"]");
    sandbox.configure(
        &(listener(&sandbox, &at("unix", &path))
            + &listener(&sandbox, &format!("tcp = \"127.0.0.1:{port}\""))),
    );
    let _daemon = sandbox.serve();
    assert_eq!(by_port(&sandbox, port), Some(200));
    // The port is taken over from the listener that has to give it up first, though somebody is connected.
    let _connected = TcpStream::connect(("127.0.0.1", port)).unwrap();
    sandbox.configure(&(listener(&sandbox, &at("agent", &path)) + &listener(&sandbox, &beyond)));
    let run = reload(&sandbox);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(agent(&path, "GET", &page(&sandbox, "acme/private"), "").0, 200);
    let (_, status) = unix(&sandbox.socket(), "GET", "/v1/status", "");
    assert!(status.contains(&format!("0.0.0.0:{port}")) && !status.contains("127.0.0.1"), "{status}");
    // Its grant alone, at the same place.
    sandbox.configure(
        &(listener(&sandbox, &at("agent", &path)).replace("private", "other") + "access = \"write\"\n"),
    );
    assert_eq!(reload(&sandbox).code, Some(0));
    assert_eq!(agent(&path, "GET", &page(&sandbox, "acme/private"), "").0, 403);
    assert_eq!(agent(&path, "GET", &page(&sandbox, "acme/other"), "").0, 200);
}

#[test]
fn what_could_not_be_opened_is_told_with_its_line_and_the_rest_counts() {
    let sandbox = with_package();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let good = sandbox.path("run/good.sock");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let twin = sandbox.path("run/twin.sock");
    let (agents, file) = (sandbox.path("run/agent.sock"), sandbox.write("run/notes", "mine"));
    let other = UnixListener::bind(&agents).unwrap();
    let place = |line: usize| format!("the [[listener]] at {}:{line}", sandbox.path(CONFIGURATION).display());
    for (address, problem) in [
        (format!("tcp = \"127.0.0.1:{port}\""), "Address already in use"),
        (at("agent", &agents), "another program listens there"),
        (at("unix", &file), "something else than a socket is there"),
        (at("unix", &sandbox.socket()), "valetkey itself listens there"),
        (at("agent", &sandbox.runtime().join("build.sock")), "it is listed twice"),
        (at("unix", &sandbox.path("none/x.sock")), "No such file"),
        (format!("{}\n[[listener]]\n{}", at("unix", &twin), at("agent", &twin)), "it is listed twice"),
    ] {
        let text = listener(&sandbox, &address) + &listener(&sandbox, &at("unix", &good));
        sandbox.configure(&text);
        let run = reload(&sandbox);
        assert_eq!(run.code, Some(3), "{address}: {run:?}");
        assert!(run.stderr.contains(problem), "{address}: {run:?}");
        assert!([7, 9, 10].iter().any(|line| run.stderr.contains(&place(*line))), "{address}: {run:?}");
        assert!(run.stderr.contains("the rest of the configuration counts"), "{run:?}");
        assert_eq!(unix(&good, "GET", &page(&sandbox, "acme/private"), "").0, 200, "{address}");
    }
    // Nothing of what was in the way was touched.
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    let _mine = UnixStream::connect(&agents).unwrap();
    other.accept().unwrap();
    assert_eq!(unix(&sandbox.socket(), "GET", "/health/live", "").0, 200);
    // Once it is free, another reload opens it.
    sandbox.configure(&listener(&sandbox, &format!("tcp = \"127.0.0.1:{port}\"")));
    assert_eq!(reload(&sandbox).code, Some(3));
    drop(taken);
    assert_eq!(reload(&sandbox).code, Some(0));
    assert_eq!(by_port(&sandbox, port), Some(200));
}

#[test]
fn a_socket_that_somebody_removed_is_opened_again_and_a_dead_one_is_replaced() {
    let sandbox = with_package();
    sandbox.sign_in();
    let (removed, dead) = (sandbox.path("run/removed.sock"), sandbox.path("run/dead.sock"));
    drop(UnixListener::bind(&dead).unwrap());
    sandbox
        .configure(&(listener(&sandbox, &at("unix", &removed)) + &listener(&sandbox, &at("agent", &dead))));
    let mut daemon = sandbox.serve();
    assert_eq!(agent(&dead, "GET", &page(&sandbox, "acme/private"), "").0, 200);
    fs::remove_file(&removed).unwrap();
    fs::remove_file(container(&sandbox)).unwrap();
    assert_eq!(reload(&sandbox).code, Some(0));
    for socket in [&removed, &container(&sandbox)] {
        assert_ne!(unix(socket, "GET", "/v1/grant", "").0, 0);
    }
    // What a crash leaves is dead, too.
    daemon.kill();
    let _daemon = sandbox.serve();
    assert_eq!(unix(&removed, "GET", &page(&sandbox, "acme/private"), "").0, 200);
}

#[test]
fn a_wrong_configuration_changes_nothing_and_what_has_to_wait_is_named() {
    let sandbox = with_package();
    sandbox.sign_in();
    let path = sandbox.path("run/new.sock");
    let _daemon = sandbox.serve();
    sandbox.configure(&(listener(&sandbox, &at("unix", &path)) + "[build]\nrepositories = [\"nonsense\"]\n"));
    let run = reload(&sandbox);
    assert!(run.code == Some(2) && run.stderr.contains("is not a repository"), "{run:?}");
    assert!(!path.exists());
    let said = |text: &str| {
        sandbox.configure(text);
        let path = sandbox.path(CONFIGURATION);
        let rest = fs::read_to_string(&path).unwrap();
        if text.contains("log") {
            fs::write(&path, format!("log = \"debug\"\n{}", rest.replace("log = \"debug\"\n", ""))).unwrap();
        }
        let run = reload(&sandbox);
        assert_eq!(run.code, Some(0), "{run:?}");
        run.stderr
    };
    assert_eq!(said("[build]\naccess = \"write\"\n"), "");
    assert_eq!(said("[daemon]\nidle = \"2h\"\n"), "`idle` counts from the daemon's next start on\n");
    let both = said("log = \"debug\"\n[daemon]\nidle = \"2h\"\n");
    assert!(both.contains("`idle` counts") && both.contains("`log` counts"), "{both}");
    assert_eq!(said(""), "", "as it was at the start");
}

#[test]
fn a_certificate_counts_at_reload() {
    let sandbox = with_package();
    sandbox.sign_in();
    let granted = format!("[build]\nrepositories = [\"{}\"]\n", repository(&sandbox, "acme/private"));
    sandbox.configure(&granted);
    let good = fs::read_to_string(sandbox.path(CONFIGURATION)).unwrap();
    let without: String = good.split_inclusive('\n').filter(|line| !line.starts_with("extra_ca")).collect();
    sandbox.write(CONFIGURATION, &without);
    let _daemon = sandbox.serve();
    let page = page(&sandbox, "acme/private");
    assert_eq!(unix(&container(&sandbox), "GET", &page, "").0, 503);
    sandbox.write(CONFIGURATION, &good);
    assert_eq!(reload(&sandbox).code, Some(0));
    assert_eq!(unix(&container(&sandbox), "GET", &page, "").0, 200);
}

#[test]
fn a_socket_of_a_build_for_a_host_that_is_not_named_any_more_is_closed_and_keeps_no_reload_back() {
    let sandbox = with_package();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let granted = repository(&sandbox, "acme/private");
    let socket = opened(&sandbox.run(sandbox.valetkey().args(["docker", "args", &granted])));
    let path = sandbox.path(CONFIGURATION);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.split("[[registry]]").next().unwrap()).unwrap();
    let run = reload(&sandbox);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(!socket.exists());
    fs::write(&path, text).unwrap();
}
