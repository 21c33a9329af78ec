//! How long the proxy waits: for a registry that says nothing, or half of it, and for a client that does not read or
//! does not write. The daemon's clock runs twenty times as fast as ours, so that a minute is three seconds.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::exec::real_path;
use super::harness::{Daemon, Sandbox, is_ci};
use super::passing::{Answer, exchange, lines};
use super::stand_in::Fault;

const PAGE: &str = "/acme/private/simple/acme-hello/";

/// Where Debian and its kin put libfaketime: below a directory named after the architecture.
pub(super) fn hurry() -> Option<PathBuf> {
    let entries = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = entries.map(|entry| entry.path().join("faketime/libfaketime.so.1")).find(|it| it.exists());
    assert!(found.is_some() || !is_ci(), "CI has libfaketime");
    if found.is_none() {
        println!("skipped: there is no libfaketime");
    }
    found
}

fn serve<'a>(sandbox: &'a Sandbox, library: &PathBuf) -> Daemon<'a> {
    sandbox.sign_in();
    sandbox.serve_with(sandbox.valetkey().env("LD_PRELOAD", library).env("FAKETIME", "+0 x20"))
}

fn at(sandbox: &Sandbox, path: &str) -> String {
    format!("/registry/localhost:{}{path}", sandbox.google.port())
}

fn request(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

fn ask(sandbox: &Sandbox, target: &str) -> Answer {
    Answer::read(&exchange(sandbox, request(target).as_bytes()), false)
}

/// What the daemon has open.
fn descriptors(daemon: &Daemon<'_>) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

/// Asks once, so that whatever is opened once is open.
fn calm(sandbox: &Sandbox, daemon: &Daemon<'_>) -> usize {
    assert_eq!(ask(sandbox, &at(sandbox, PAGE)).status, 200);
    // A kept connection goes by itself, and so does ours.
    let mut least = usize::MAX;
    Sandbox::wait_until("the connections are closed", || {
        let (before, now) = (least, descriptors(daemon));
        least = now.min(before);
        now < before && before != usize::MAX
    });
    least
}

#[track_caller]
fn assert_calm(daemon: &Daemon<'_>, before: usize) {
    Sandbox::wait_until("everything is given back", || descriptors(daemon) <= before);
}

#[track_caller]
fn assert_late(answer: &Answer) {
    assert_eq!(answer.status, 504, "{answer:?}");
    let detail = answer.problem()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("localhost:") && detail.contains(" did not answer within "), "{detail}");
}

#[test]
fn a_registry_that_never_answers_is_given_up_with_a_sentence() {
    let Some(library) = hurry() else { return };
    let sandbox = Sandbox::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    sandbox.configure(&format!("[[registry]]\nhost = \"localhost:{port}\"\n"));
    let daemon = serve(&sandbox, &library);
    let before = calm(&sandbox, &daemon);
    // It takes the connection, and says nothing of TLS.
    assert_late(&ask(&sandbox, &format!("/registry/localhost:{port}/acme/private/simple/x/")));
    // It takes the request.
    sandbox.google.registry_fault(PAGE, Fault::Hang);
    assert_late(&ask(&sandbox, &at(&sandbox, PAGE)));
    sandbox.google.registry_fault(PAGE, Fault::Hang);
    assert_late(&ask(&sandbox, &at(&sandbox, PAGE).replace("/registry/", "/index/")));
    // It begins a head.
    sandbox.google.stop_in_heads(true);
    assert_late(&ask(&sandbox, &at(&sandbox, PAGE)));
    sandbox.google.stop_in_heads(false);
    assert_calm(&daemon, before);
    assert_eq!(ask(&sandbox, &at(&sandbox, PAGE)).status, 200);
}

#[test]
fn a_registry_that_stops_in_a_body_ends_the_answer_there() {
    let Some(library) = hurry() else { return };
    let sandbox = Sandbox::new();
    let daemon = serve(&sandbox, &library);
    let before = calm(&sandbox, &daemon);
    for place in ["/registry/", "/index/"] {
        sandbox.google.registry_fault(PAGE, Fault::HalfThenSilence);
        let mut stream = UnixStream::connect(sandbox.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        stream.write_all(request(&at(&sandbox, PAGE).replace("/registry/", place)).as_bytes()).unwrap();
        let mut reply = Vec::new();
        let end = stream.read_to_end(&mut reply).map_err(|error| error.kind());
        assert_ne!(end, Err(ErrorKind::WouldBlock), "nobody but us ended it");
        let answer = Answer::read(&reply, false);
        assert_eq!((answer.status, answer.whole), (200, false), "{answer:?}");
    }
    assert!(lines(&daemon, 3)[1..].iter().all(|line| line["verdict"] == "broken off"));
    assert_calm(&daemon, before);
}

#[test]
fn a_client_that_stops_reading_is_given_up() {
    let Some(library) = hurry() else { return };
    let sandbox = Sandbox::new();
    let daemon = serve(&sandbox, &library);
    let before = calm(&sandbox, &daemon);
    sandbox.google.registry_fault(PAGE, Fault::HugeBody(1 << 40));
    let mut stream = UnixStream::connect(sandbox.socket()).unwrap();
    stream.write_all(request(&at(&sandbox, PAGE)).as_bytes()).unwrap();
    stream.read_exact(&mut [0; 4096]).unwrap();
    assert_calm(&daemon, before);
    assert_eq!(lines(&daemon, 2)[1]["verdict"], "broken off");
    drop(stream);
}

#[test]
fn an_upload_that_is_answered_after_minutes_is_answered_as_the_registry_does() {
    let Some(library) = hurry() else { return };
    let sandbox = Sandbox::new();
    let port = sandbox.google.port();
    let repository = format!("https://localhost:{port}/acme/private/");
    sandbox.configure(&format!("[build]\nrepositories = [\"{repository}\"]\naccess = \"write\"\n"));
    let _daemon = serve(&sandbox, &library);
    // Two minutes of the daemon's.
    sandbox.google.registry_fault_always("/acme/private/", Fault::Delay(Duration::from_secs(6)));
    let name = |name: &str| (format!("acme-{name}"), format!("acme_{name}-1.0.0.tar.gz"));
    let is_there = |(project, file): &(String, String)| {
        sandbox.google.file("acme", "private", project, file).is_some_and(|content| content == b"content")
    };
    let direct = name("direct");
    let fields = format!(
        "--b\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\n{}\r\n--b\r\nContent-Disposition: form-data; \
         name=\"content\"; filename=\"{}\"\r\n\r\ncontent\r\n--b--\r\n",
        direct.0, direct.1
    );
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: multipart/form-data; boundary=b\r\n\
         content-length: {}\r\n\r\n",
        at(&sandbox, "/acme/private/"),
        fields.len()
    );
    let answer = Answer::read(&exchange(&sandbox, format!("{head}{fields}").as_bytes()), false);
    assert!(answer.status == 200 && is_there(&direct), "{answer:?}");
    // The forwarder's clock runs as fast, over the socket and through the agent.
    sandbox.write("home/content", "content");
    for way in [None, Some(sandbox.path("run/valetkey/build.sock"))] {
        let sent = name(if way.is_some() { "agent" } else { "socket" });
        let mut command = sandbox.valetkey();
        command
            .env("PATH", real_path(&sandbox))
            .env("LD_PRELOAD", &library)
            .env("FAKETIME", "+0 x20")
            .env("PIP_CONFIG_FILE", "/dev/null")
            .envs(way.map(|way| ("SSH_AUTH_SOCK", way)))
            .args(["exec", "--", "curl", "-sS", "-w", "%{http_code}", "-o", "/dev/null"])
            .args(["-F", &format!("name={}", sent.0), "-F", &format!("content=@content;filename={}", sent.1)])
            .arg(&repository);
        let run = sandbox.run(&mut command);
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), "200"), "{run:?}");
        assert!(is_there(&sent), "{run:?}");
    }
}

#[test]
fn a_download_that_pauses_for_more_than_a_minute_comes_whole() {
    let Some(library) = hurry() else { return };
    let sandbox = Sandbox::new();
    let _daemon = serve(&sandbox, &library);
    // A minute and a half of the daemon's.
    sandbox.google.registry_fault(PAGE, Fault::HalfThenRest(Duration::from_millis(4500)));
    let answer = ask(&sandbox, &at(&sandbox, PAGE));
    assert!(answer.status == 200 && answer.whole, "{answer:?}");
}

#[test]
fn a_client_that_stops_in_its_upload_is_told_and_given_up() {
    let Some(library) = hurry() else { return };
    let sandbox = Sandbox::new();
    let daemon = serve(&sandbox, &library);
    let before = calm(&sandbox, &daemon);
    let target = at(&sandbox, "/acme/private/");
    let head =
        format!("POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100\r\n\r\n");
    let answer = Answer::read(&exchange(&sandbox, format!("{head}a piece").as_bytes()), false);
    assert_eq!(answer.status, 504, "{answer:?}");
    answer.problem();
    assert_calm(&daemon, before);
    assert_eq!(sandbox.google.registry_requests().len(), 1, "the page alone came whole");
}
