//! `valetkey exec`: what comes of a command's requests, streams, signals and end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::harness::{Run, Sandbox};
use super::registry_daemon::{LARGE, REFUSED, RegistryDaemon};

/// `valetkey exec` with these words behind it, with the daemon's socket named and a real PATH.
pub(super) fn exec<'a>(
    sandbox: &Sandbox,
    daemon: &RegistryDaemon,
    words: impl IntoIterator<Item = &'a str>,
) -> Command {
    let mut command = sandbox.valetkey();
    wire(&mut command, sandbox, daemon);
    command.arg("exec").args(words);
    command
}

pub(super) fn wire(command: &mut Command, sandbox: &Sandbox, daemon: &RegistryDaemon) {
    command
        .env("VALETKEY_SOCKET", &daemon.socket)
        .env("PATH", real_path(sandbox))
        // What stands for the public world is signed by the same authority as the registry.
        .env("SSL_CERT_FILE", sandbox.path("ca.pem"))
        .env("PIP_CONFIG_FILE", "/dev/null");
}

/// Our programs, and those of the machine.
pub(super) fn real_path(sandbox: &Sandbox) -> String {
    format!("{}:/usr/local/bin:/usr/bin:/bin", sandbox.path("bin").display())
}

pub(super) fn url(daemon: &RegistryDaemon, path: &str) -> String {
    format!("https://{}{path}", daemon.host())
}

/// What a shell in the run's environment prints.
pub(super) fn shell(sandbox: &Sandbox, daemon: &RegistryDaemon, script: &str) -> Run {
    sandbox.run(&mut exec(sandbox, daemon, ["--", "sh", "-c", script]))
}

/// A run that lasts until it is told to end, and its environment.
pub(super) struct Held {
    pub(super) child: Child,
    pub(super) port: u16,
    /// The directory of the run.
    pub(super) place: PathBuf,
}

impl Held {
    pub(super) fn start(sandbox: &Sandbox, daemon: &RegistryDaemon) -> Self {
        Self::start_with(&mut exec(sandbox, daemon, ["--", "sh", "-c", HELD]), Stdio::null())
    }

    /// The same by a command that ends in [`HELD`].
    pub(super) fn start_with(command: &mut Command, stderr: Stdio) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next().unwrap().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
        let place = Path::new(&lines.next().unwrap().unwrap()).parent().unwrap().to_owned();
        Self { child, port, place }
    }

    /// One message to the forwarder, and the head of what comes back.
    pub(super) fn raw(&self, message: &str) -> String {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        stream.write_all(message.as_bytes()).unwrap();
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
            answer.push(byte[0]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// What a run said, but for where its port is: another test may have the usual one.
pub(super) fn said(run: &Run) -> String {
    let lines = run.stderr.split_inclusive('\n');
    lines.filter(|line| !line.contains(" is taken, so this run has port ")).collect()
}

/// What a shell says of a run before it waits.
pub(super) const HELD: &str = "echo $HTTPS_PROXY; echo $SSL_CERT_FILE; read line";

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[test]
fn a_granted_registry_answers_and_no_token_is_in_the_command() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let page = url(&daemon, "/acme/private/simple/acme-hello/");
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "curl", "-sS", "-u", "me:own", &page]));
    assert!(run.stdout.contains("Links for acme-hello"), "{run:?}");
    let head = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "curl", "-sSI", &page]));
    assert!(head.stdout.starts_with("HTTP/1.1 200 OK"), "{head:?}");
    let old = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "curl", "-sS0", &page]));
    assert!(old.stdout.contains("Links for acme-hello"), "{old:?}");
    let seen = daemon.seen();
    let target = format!("/registry/{}/acme/private/simple/acme-hello/", daemon.host());
    assert_eq!((seen[0].method.as_str(), seen[0].target.as_str()), ("GET", target.as_str()));
    assert_eq!(seen[1].method, "HEAD");
    let run =
        shell(&sandbox, &daemon, "env; cat /proc/$PPID/environ | tr '\\0' '\\n'; cat /proc/$PPID/cmdline");
    sandbox.hear(run.stdout.as_bytes());
}

#[test]
fn any_other_host_is_reached_untouched() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    // The same server, by a name that is not granted: it shows its own certificate and asks for a credential.
    let other = format!("https://127.0.0.1:{}/acme/private/simple/acme-hello/", sandbox.google.port());
    // Loopback needs no proxy: curl is told to use it all the same.
    let run = shell(&sandbox, &daemon, &format!("NO_PROXY= no_proxy= curl -sSv {other}"));
    assert!(run.stderr.contains("CONNECT 127.0.0.1:"), "{run:?}");
    assert!(run.stderr.contains("issuer: CN=stand-in certificate authority"), "{run:?}");
    assert!(run.stderr.contains("401 Unauthorized"), "{run:?}");
    let git = other.replace("/acme/private/simple/acme-hello/", "/acme/tree.git");
    let run = shell(
        &sandbox,
        &daemon,
        &format!(
            "export NO_PROXY= no_proxy= GIT_SSL_CAINFO=$SSL_CERT_FILE GIT_TERMINAL_PROMPT=0; git ls-remote {git}"
        ),
    );
    assert!(
        sandbox.google.registry_requests().iter().any(|it| it.path == "/acme/tree.git/info/refs"),
        "{run:?}"
    );
    assert!(daemon.seen().is_empty());
}

/// A proxy of a company's: it is told where to, and makes the way.
fn upstream_proxy() -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let to = head.split(' ').nth(1).unwrap().to_owned();
            tell.send(head).unwrap();
            let mut beyond = std::net::TcpStream::connect(to).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut back, mut forth) = (beyond.try_clone().unwrap(), stream.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut forth));
            let _ = std::io::copy(&mut stream, &mut beyond);
        }
    });
    (port, told)
}

#[test]
fn any_other_host_is_reached_by_the_proxy_that_the_environment_names() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let (port, told) = upstream_proxy();
    let other = format!("https://127.0.0.1:{}/acme/private/simple/x/", sandbox.google.port());
    let script = format!("NO_PROXY= no_proxy= curl -sS -o /dev/null -w '%{{http_code}}' {other}");
    let mut command = exec(&sandbox, &daemon, ["--", "sh", "-c", &script]);
    let run = sandbox.run(command.env("HTTPS_PROXY", format!("http://user:word@127.0.0.1:{port}")));
    assert_eq!(run.stdout, "401", "{run:?}");
    let head = told.try_recv().unwrap();
    assert!(head.starts_with(&format!("CONNECT 127.0.0.1:{} ", sandbox.google.port())), "{head}");
    assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic dxnlcjp3b3jk"), "{head}");
    // What is granted does not go that way.
    let page = url(&daemon, "/acme/private/simple/acme-hello/");
    let mut command = exec(&sandbox, &daemon, ["--", "curl", "-sS", &page]);
    let run =
        sandbox.run(command.env("HTTPS_PROXY", format!("http://127.0.0.1:{port}")).env("NO_PROXY", "*"));
    assert!(run.stdout.contains("Links for acme-hello"), "{run:?}");
    assert!(told.try_recv().is_err());
}

#[test]
fn the_end_of_the_command_is_ours() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
    {
        assert_eq!(shell(&sandbox, &daemon, script).code, Some(code), "{script}");
    }
    for (program, code) in [("/nowhere/at/all", 127), ("no-such-program", 127), ("/etc/passwd", 126)] {
        let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--", program]));
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.stderr.contains(program), "{run:?}");
    }
    assert_eq!(sandbox.run(&mut exec(&sandbox, &daemon, [])).code, Some(2));
}

#[test]
fn standard_streams_and_the_directory_pass() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let text = sandbox.write("home/in", "one\ntwo\n");
    let mut command = exec(&sandbox, &daemon, ["--", "sh", "-c", "pwd; umask; cat; echo three >&2"]);
    let run = sandbox.run(command.stdin(fs::File::open(text).unwrap()));
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::process::umask(umask);
    let home = sandbox.path("home").canonicalize().unwrap();
    assert_eq!(run.stdout, format!("{}\n{:04o}\none\ntwo\n", home.display(), umask.as_raw_mode()));
    assert!(run.stderr.ends_with("three\n"), "{run:?}");
}

#[test]
fn signals_are_passed_on() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let signals = [
        ("TERM", Signal::TERM),
        ("INT", Signal::INT),
        ("HUP", Signal::HUP),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("WINCH", Signal::WINCH),
    ];
    let traps: Vec<_> = signals.iter().map(|(name, _)| format!("trap 'echo {name}' {name}; ")).collect();
    let traps = traps.concat();
    // It ends by itself when it has heard nothing.
    let script = format!("{traps} echo ready; for i in $(seq 3000); do sleep 0.02; done");
    // A shell cannot trap what it was started to ignore, as a job in the background is.
    let shell = ["--", "env", "--default-signal", "sh", "-c", &script];
    let mut command = exec(&sandbox, &daemon, shell);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    for (name, signal) in signals {
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), name);
    }
    // The directory of the run holds the shell's number nowhere, so it is found by its parent.
    let own = child.id();
    let shell = children_of(own).pop().unwrap();
    kill_process(shell, Signal::KILL).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

fn children_of(parent: u32) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

#[test]
fn what_is_hostile_is_refused_and_goes_nowhere() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let held = Held::start(&sandbox, &daemon);
    let port = held.port;
    let google = sandbox.google.port();
    for (message, status) in [
        (format!("CONNECT u:p@localhost:{google} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400),
        (format!("CONNECT localhost:{google} HTTP/1.1\r\nHost: evil.test\r\n\r\n"), 400),
        (format!("CONNECT localhost:{google} HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"), 400),
        ("CONNECT localhost HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("CONNECT localhost:0 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 400),
        ("CONNECT a%2eb:443 HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("CONNECT evilpkg.dev.invalid:443 HTTP/1.1\r\n\r\n".to_owned(), 502),
        ("CONNECT [::1]:1 HTTP/1.1\r\n\r\n".to_owned(), 502),
        ("CONNECT us-python.pkg.dev.invalid:8443 HTTP/1.1\r\n\r\n".to_owned(), 502),
        ("GET http://example.test/ HTTP/1.1\r\nHost: example.test\r\n\r\n".to_owned(), 501),
        (format!("GET /v1/grant HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"), 404),
        (format!("GET /simple HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"), 404),
        (format!("POST /v1/stop HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\ncontent-length: 0\r\n\r\n"), 404),
        ("GET /simple/x/ HTTP/1.1\r\nHost: rebound.test\r\n\r\n".to_owned(), 403),
        (format!("GET /simple/x/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: https://x.test\r\n\r\n"), 403),
        (
            format!(
                "GET /simple/x/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Big: {}\r\n\r\n",
                "x".repeat(300_000)
            ),
            431,
        ),
        ("CONNECT a\rb:443 HTTP/1.1\r\n\r\n".to_owned(), 400),
    ] {
        let answer = held.raw(&message);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{message:.80}: {answer:.200}");
    }
    assert!(daemon.seen().is_empty(), "{:?}", daemon.seen());
}

#[test]
fn the_connection_to_one_host_serves_no_other() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let page = url(&daemon, "/acme/private/simple/acme-hello/");
    // Another name in the TLS greeting: the handshake ends.
    let to = format!("us-python.pkg.dev:443:{}", daemon.host());
    let run = sandbox.run(&mut exec(
        &sandbox,
        &daemon,
        [
            "--",
            "curl",
            "-sSk",
            "--connect-to",
            &to,
            "https://us-python.pkg.dev/acme/private/simple/acme-hello/",
        ],
    ));
    assert_eq!(run.code, Some(35), "{run:?}");
    // Another name in the request: it is told so.
    let run = sandbox.run(&mut exec(
        &sandbox,
        &daemon,
        ["--", "curl", "-sS", "-H", "Host: us-python.pkg.dev", "-w", "%{http_code}", &page],
    ));
    assert!(run.stdout.ends_with("421"), "{run:?}");
    assert!(daemon.seen().is_empty());
}

#[test]
fn a_refusal_reaches_client_and_person() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let page = url(&daemon, REFUSED);
    let big = sandbox.path("home/big");
    fs::write(&big, vec![b'x'; 8 << 20]).unwrap();
    let upload = format!(
        "curl -sS -o /dev/null -w '%{{http_code}} ' -H Expect: --data-binary @{} {page}",
        big.display()
    );
    let read = format!("curl -sS -o /dev/null -w '%{{http_code}} ' {page}");
    let run = shell(&sandbox, &daemon, &format!("{read}; {upload}"));
    assert_eq!(run.stdout, "403 403 ", "{run:?}");
    let told = run.stderr.matches("acme/other is not granted here; add to config.toml").count();
    assert_eq!(told, 1, "{run:?}");
}

#[test]
fn a_download_survives_breaks_and_a_restart_of_the_daemon() {
    let sandbox = Sandbox::new();
    let mut daemon = RegistryDaemon::start(&sandbox);
    let content: Vec<u8> = (0..24_u32 << 20).map(|it| (it.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    daemon.serve_large(content.clone(), "\"one\"", &[3 << 20, 5 << 20]);
    let (page, out) = (url(&daemon, LARGE), sandbox.path("home/out"));
    let fetch = ["--", "curl", "-sS", "-o", out.to_str().unwrap(), &page];
    let run = sandbox.run(&mut exec(&sandbox, &daemon, fetch));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(fs::read(&out).unwrap() == content);
    let seen = daemon.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen[0].headers.get("range").is_none());
    for again in &seen[1..] {
        assert_eq!(again.headers["if-range"], "\"one\"");
        assert!(again.headers["range"].to_str().unwrap().starts_with("bytes="));
    }
    // A reader at a modest pace, and a daemon that is killed under it.
    daemon.serve_large(content.clone(), "\"one\"", &[]);
    let slow = ["--", "curl", "-sS", "--limit-rate", "12M", "-o", out.to_str().unwrap(), &page];
    fs::remove_file(&out).unwrap();
    let mut child = exec(&sandbox, &daemon, slow).spawn().unwrap();
    Sandbox::wait_until("some of it is there", || out.metadata().is_ok_and(|data| data.len() > 2 << 20));
    daemon.go_away();
    daemon.come_back();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(fs::read(&out).unwrap() == content);
    assert!(daemon.seen().last().unwrap().headers.get("range").is_some());
}

#[test]
fn a_download_that_cannot_go_on_fails() {
    const PART: usize = 256 << 10;
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let (page, content) = (url(&daemon, LARGE), vec![7; 4 << 20]);
    for (etag, breaks, requests) in
        [("W/\"one\"", &[1 << 20][..], 1), ("\"one\"", &[1 << 20, PART, PART, PART, PART], 4)]
    {
        daemon.serve_large(content.clone(), etag, breaks);
        let before = daemon.seen().len();
        let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "curl", "-sS", "-o", "/dev/null", &page]));
        // "Transferred a partial file", or the end of TLS in the middle.
        assert!(matches!(run.code, Some(18 | 56)), "{run:?}");
        assert_eq!(daemon.seen().len() - before, requests, "{etag}");
    }
}

#[test]
fn no_private_key_is_in_a_file_and_nothing_is_left() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let held = Held::start(&sandbox, &daemon);
    let place = held.place.clone();
    let files: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    // What says that the run lives is empty.
    for file in files.iter().filter(|file| file.metadata().is_ok_and(|data| data.is_file() && data.len() > 0))
    {
        let text = fs::read_to_string(file).unwrap();
        let expected = if file.ends_with("before") { "HTTPS_PROXY=" } else { "BEGIN CERTIFICATE" };
        assert!(text.contains(expected) && !text.contains("PRIVATE"), "{}", file.display());
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
        let shut = if file.ends_with("before") { 0o077 } else { 0o022 };
        assert_eq!(mode & shut, 0, "{}: {mode:o}", file.display());
    }
    drop(held);
    assert!(!place.exists());

    let mut held = Held::start(&sandbox, &daemon);
    let place = held.place.clone();
    let orphan = children_of(held.child.id());
    kill_process(Pid::from_child(&held.child), Signal::KILL).unwrap();
    held.child.wait().unwrap();
    assert!(place.exists());
    let memory = 0x0102_1994;
    assert_eq!(rustix::fs::statfs(&place).unwrap().f_type, memory, "{}", place.display());
    drop(held);
    for pid in orphan {
        let _ = kill_process(pid, Signal::KILL);
    }
    // The next run takes it away, and not that of one that lives.
    let living = Held::start(&sandbox, &daemon);
    assert_eq!(shell(&sandbox, &daemon, "exit 7").code, Some(7));
    assert!(!place.exists() && living.place.exists());
}

#[test]
fn without_a_daemon_or_a_grant_nothing_is_started() {
    let sandbox = Sandbox::new();
    let mut daemon = RegistryDaemon::start(&sandbox);
    let marker = sandbox.path("home/started");
    let touch = ["--", "touch", marker.to_str().unwrap()];
    for grant in [
        "",
        r#"{"proxy":null,"credential":"read"}"#,
        r#"{"proxy":{"access":"read","hosts":[]},"credential":null}"#,
    ] {
        daemon.grant(grant);
        let run = sandbox.run(&mut exec(&sandbox, &daemon, touch));
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains("grants no registry"), "{run:?}");
    }
    daemon.grant(r#"{"proxy":{"access":"read","hosts":["a.test"]},"credential":null}"#);
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--index", "--", "true"]));
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("serves no merged index"), "{run:?}");
    daemon.grant("{\"proxy\":{\"access\":\"read\",\"hosts\":[\"*\"]}}");
    assert_eq!(sandbox.run(&mut exec(&sandbox, &daemon, touch)).code, Some(3));
    daemon.go_away();
    let run = sandbox.run(&mut exec(&sandbox, &daemon, touch));
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stderr.contains("nobody answers at"), "{run:?}");
    let mut own = sandbox.valetkey();
    let run = sandbox.run(own.arg("exec").args(touch));
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stderr.contains("valetkey serve"), "{run:?}");
    assert!(!marker.exists());
}

/// The sign-in is one that a daemon is worth starting for.
#[test]
fn the_owners_daemon_is_started() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    assert!(!sandbox.socket().exists());
    sandbox.run(sandbox.valetkey().args(["exec", "--", "true"]));
    assert!(sandbox.socket().exists());
}

#[test]
fn keyring_comes_first_where_credentials_are_granted_and_only_there() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let script = "command -v keyring; echo ${PIP_KEYRING_PROVIDER-unset}; keyring --list-backends; dirname $SSL_CERT_FILE";
    let run = shell(&sandbox, &daemon, script);
    let own = sandbox.path("bin/keyring");
    assert!(run.stdout.starts_with(&format!("{}\nunset\n", own.display())), "{run:?}");
    let grant =
        format!(r#"{{"proxy":{{"access":"read","hosts":["{}"]}},"credential":"read"}}"#, daemon.host());
    daemon.grant(&grant);
    let run = shell(&sandbox, &daemon, script);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines[0], format!("{}/bin/keyring", lines[3]), "{run:?}");
    assert_eq!(lines[1..3], ["subprocess", "valetkey.Keyring (priority: 9)"], "{run:?}");
}

#[test]
fn one_index_for_every_installer() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    sandbox.write("home/req.txt", "acme-hello\n--extra-index-url https://user:hunter2@x.test/simple/\n");
    let script = "echo $PIP_INDEX_URL; echo $PIP_EXTRA_INDEX_URL; echo ${UV_EXTRA_INDEX_URL-unset}; \
                  ls $PIP_FIND_LINKS; curl -sS ${UV_DEFAULT_INDEX}acme-hello/ # -r req.txt";
    let mut command = exec(&sandbox, &daemon, ["--index", "--", "sh", "-c", script]);
    command
        .env("UV_EXTRA_INDEX_URL", "https://x.test/simple/")
        .env("PIP_EXTRA_INDEX_URL", "https://x.test/simple/")
        .env("PIP_FIND_LINKS", "https://x.test/links/");
    let run = sandbox.run(&mut command);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert!(lines[0] == "https://index.valetkey.invalid/simple/", "{run:?}");
    assert_eq!((lines[1], lines[2]), (lines[0], "unset"), "{run:?}");
    assert!(run.stdout.contains("../../registry/localhost:"), "{run:?}");
    assert!(run.stderr.contains("req.txt:2: `--extra-index-url` leads past"), "{run:?}");
    assert!(!run.stderr.contains("hunter2"), "{run:?}");
    assert_eq!(daemon.seen()[0].target, "/simple/acme-hello/");

    let one = url(&daemon, "/acme/private/simple/");
    let run =
        sandbox.run(&mut exec(&sandbox, &daemon, ["--index", &one, "--", "sh", "-c", "echo $PIP_INDEX_URL"]));
    let path = format!("/index/{}/acme/private/simple/\n", daemon.host());
    assert!(run.stdout.ends_with(&path), "{run:?}");
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--index", "https://x.test/a/b/", "--", "true"]));
    assert!(run.code == Some(1) && run.stderr.contains("grants no repository of x.test"), "{run:?}");
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--index", "https://x.test/a/", "--", "true"]));
    assert_eq!(run.code, Some(2), "{run:?}");
    // Of a registry that the configuration here does not name.
    let mut elsewhere = exec(&sandbox, &daemon, ["--index", &one, "--", "sh", "-c", "echo $PIP_INDEX_URL"]);
    let run = sandbox.run(elsewhere.env("HOME", sandbox.path("tmp")));
    assert!(run.stdout.ends_with(&path), "{run:?}");
}

#[test]
fn the_port_is_the_one_that_is_named_or_any() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--port", &port, "--", "true"]));
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stderr.contains("--port"), "{run:?}");
    drop(taken);
    let run =
        sandbox.run(&mut exec(&sandbox, &daemon, ["--port", &port, "--", "sh", "-c", "echo $HTTPS_PROXY"]));
    assert_eq!(run.stdout, format!("http://127.0.0.1:{port}\n"), "{run:?}");
    let (one, other) = (Held::start(&sandbox, &daemon), Held::start(&sandbox, &daemon));
    assert_ne!(one.port, other.port);
    // Nobody knows beforehand where to wait for what outlives a run.
    assert!(one.port != 18417 && other.port != 18417);
}

#[test]
fn env_prints_lines_for_a_shell() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.valetkey();
    let run = sandbox.run(command.arg("env").env("UV_KEYRING_PROVIDER", "disabled"));
    assert_eq!(run.stdout, "export PIP_KEYRING_PROVIDER='subprocess'\n", "{run:?}");
    assert!(run.stderr.contains("UV_KEYRING_PROVIDER is \"disabled\""), "{run:?}");
    assert!(run.stderr.contains("valetkey exec"), "{run:?}");
    let mut elsewhere = sandbox.valetkey();
    let run = sandbox.run(elsewhere.arg("env").env("PATH", "/usr/bin"));
    assert!(run.stderr.contains("make a link of that name"), "{run:?}");
}
