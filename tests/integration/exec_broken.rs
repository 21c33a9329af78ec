//! Answers that are broken off on their way through `valetkey exec`, and what its client and its person hear: never that
//! a half is a whole.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::exec::{exec, real_path};
use super::harness::{Run, Sandbox};
use super::registry_daemon::{LARGE, RegistryDaemon};
use super::stand_in::Fault;

/// A client that takes the end of a connection for the end of an answer, as Python's own does: it prints what it got, and
/// fails only where it is told of an error.
const TRUSTING: &str = r#"
import http.client, os, ssl, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
if url.scheme == "http":
    connection = http.client.HTTPConnection(url.netloc, timeout=60)
else:
    proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    connection = http.client.HTTPSConnection(proxy.hostname, proxy.port, timeout=60, context=context)
    connection.set_tunnel(url.hostname, url.port)
if "old" in sys.argv:
    connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"
got = 0
try:
    connection.request("GET", url.path, headers={"Host": url.netloc})
    answer = connection.getresponse()
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"broken: {type(error).__name__}")
while True:
    try:
        piece = answer.read(1 << 16)
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"broken: {type(error).__name__}")
    if not piece:
        break
    got += len(piece)
    if os.environ.get("MIDDLE"):
        open(os.environ["MIDDLE"], "a").close()
print(answer.status, got)
"#;

fn trusting(sandbox: &Sandbox) -> String {
    sandbox.write("home/trusting.py", TRUSTING).display().to_string()
}

/// The one sentence of what was lost.
#[track_caller]
fn assert_told(run: &Run, what: &str) {
    let told: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("valetkey: ")).collect();
    let lost: Vec<&&str> = told.iter().filter(|line| line.contains("broken off")).collect();
    assert!(lost.len() == 1 && lost[0].contains(what), "{run:?}");
    assert!(lost[0].contains("run it again") || lost[0].contains("before you try again"), "{run:?}");
}

/// A daemon that knows one answer to everything, byte for byte, and hangs up behind it.
fn scripted(sandbox: &Sandbox, answer: &'static [u8]) {
    let listener = UnixListener::bind(sandbox.path("d.sock")).unwrap();
    let host = format!("localhost:{}", sandbox.google.port());
    let grant = format!(
        r#"{{"proxy":{{"access":"read","hosts":["{host}"],"repositories":null}},"credential":null,"index":true}}"#
    );
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            if head.starts_with(b"GET /v1/grant ") {
                let length = grant.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
                );
                let _ = stream.write_all(format!("{head}{grant}").as_bytes());
            } else {
                let _ = stream.write_all(answer);
            }
        }
    });
}

#[test]
fn half_an_answer_never_looks_whole_whatever_says_its_length() {
    let answers: [(&str, &[u8]); 5] = [
        ("a length", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf"),
        ("a length and a strong validator", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\netag: \"x\"\r\n\r\nhalf"),
        ("chunks", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        ("half a chunk", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nhalf"),
        (
            "an encoding",
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1000\r\n\r\n\x1f\x8b\x08\0\0\0\0\0",
        ),
    ];
    for (name, answer) in answers {
        let sandbox = Sandbox::new();
        scripted(&sandbox, answer);
        let client = trusting(&sandbox);
        let host = format!("localhost:{}", sandbox.google.port());
        let page = format!("https://{host}/acme/private/simple/acme-hello/");
        let index = "http://127.0.0.1:$(echo $HTTPS_PROXY | cut -d: -f3)/simple/acme-hello/";
        for (url, version) in [(page.as_str(), "new"), (&page, "old"), (index, "new"), (index, "old")] {
            let script = format!("python3 {client} {url} {version}");
            let mut command = sandbox.valetkey();
            command.args(["exec", "--", "sh", "-c", &script]).env("PATH", real_path(&sandbox));
            command
                .env("VALETKEY_SOCKET", sandbox.path("d.sock"))
                .env("SSL_CERT_FILE", sandbox.path("ca.pem"));
            let run = sandbox.run(&mut command);
            assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{name} {url} {version}: {run:?}");
            assert!(run.stderr.contains("broken: "), "{name} {url} {version}: {run:?}");
            assert_told(&run, "/simple/acme-hello/ was broken off in the middle: ");
        }
    }
}

#[test]
fn an_answer_that_is_whole_ends_in_order() {
    let answers: [(&[u8], &str); 4] = [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole", "200 5\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n", "200 5\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "200 0\n"),
        (b"HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n", "304 0\n"),
    ];
    for (answer, wanted) in answers {
        let sandbox = Sandbox::new();
        scripted(&sandbox, answer);
        let client = trusting(&sandbox);
        let page = format!("https://localhost:{}/acme/private/simple/acme-hello/", sandbox.google.port());
        for version in ["new", "old"] {
            let script = format!("python3 {client} {page} {version}; curl -sSI -o /dev/null {page}");
            let mut command = sandbox.valetkey();
            command.args(["exec", "--", "sh", "-c", &script]).env("PATH", real_path(&sandbox));
            command
                .env("VALETKEY_SOCKET", sandbox.path("d.sock"))
                .env("SSL_CERT_FILE", sandbox.path("ca.pem"));
            let run = sandbox.run(&mut command);
            assert_eq!(run.stdout, wanted, "{version}: {run:?}");
            assert!(!run.stderr.contains("broken"), "{run:?}");
        }
    }
}

#[test]
fn a_download_whose_daemon_is_gone_for_good_is_broken_and_told() {
    let sandbox = Sandbox::new();
    let mut daemon = RegistryDaemon::start(&sandbox);
    daemon.serve_large(vec![7; 48 << 20], "\"one\"", &[40 << 20]);
    let client = trusting(&sandbox);
    let middle = sandbox.path("home/middle");
    let script = format!("python3 {client} https://{}{LARGE}", daemon.host());
    let mut command = exec(&sandbox, &daemon, ["--", "sh", "-c", &script]);
    command.env("MIDDLE", &middle);
    let run = std::thread::scope(|scope| {
        let running = scope.spawn(|| sandbox.run(&mut command));
        Sandbox::wait_until("the client is in the middle", || middle.exists());
        daemon.go_away();
        running.join().unwrap()
    });
    assert!(run.stderr.contains("broken: SSLError"), "{run:?}");
    assert_told(&run, &format!("{LARGE} was broken off in the middle: nobody answers at "));
}

#[test]
fn an_upload_whose_daemon_is_gone_is_told_and_may_have_arrived() {
    let sandbox = Sandbox::new();
    let mut daemon = RegistryDaemon::start(&sandbox);
    let big = sandbox.path("home/big");
    fs::write(&big, vec![b'x'; 64 << 20]).unwrap();
    let started = sandbox.path("home/started");
    let script = format!(
        "curl -sS -o /dev/null -w '%{{http_code}}' -H Expect: --limit-rate 4M --data-binary @{} https://{}/acme/private/ & \
         curl=$!; sleep 1; touch {}; wait $curl",
        big.display(),
        daemon.host(),
        started.display()
    );
    let mut command = exec(&sandbox, &daemon, ["--", "sh", "-c", &script]);
    let run = std::thread::scope(|scope| {
        let running = scope.spawn(|| sandbox.run(&mut command));
        Sandbox::wait_until("the upload is on its way", || started.exists() && !daemon.seen().is_empty());
        daemon.go_away();
        running.join().unwrap()
    });
    assert!(!run.stdout.starts_with('2'), "{run:?}");
    assert_told(&run, "the upload to https://");
}

/// A run in the middle of a download that stands still, from the owner's own daemon.
struct Still {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

fn still(sandbox: &Sandbox, script: &str) -> Still {
    sandbox.google.add_large_package("acme", "private", "acme-large", "1.0.0", 4 << 20);
    sandbox.sign_in();
    let mut command = sandbox.valetkey();
    command.args(["exec", "--", "sh", "-c", script]).env("PATH", real_path(sandbox));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    Still { child, stderr }
}

const WHEEL: &str = "acme-large/acme_large-1.0.0-py3-none-any.whl";

fn wheel(sandbox: &Sandbox) -> String {
    format!("https://localhost:{}/acme/private/{WHEEL}", sandbox.google.port())
}

#[test]
fn a_daemon_that_is_stopped_in_the_middle_is_told_and_goes_on_when_it_is_woken() {
    let sandbox = Sandbox::new();
    sandbox.google.registry_fault("/artifacts-downloads/", Fault::Delay(std::time::Duration::from_secs(1)));
    let daemon = sandbox.serve();
    let pid = Pid::from_child(&daemon.child);
    let mut still = still(&sandbox, &format!("python3 {} {}", trusting(&sandbox), wheel(&sandbox)));
    Sandbox::wait_until("the file is asked for", || {
        sandbox.google.registry_requests().iter().any(|it| it.path.contains(".whl"))
    });
    kill_process(pid, Signal::STOP).unwrap();
    let mut line = String::new();
    while !line.contains("does not answer") && still.stderr.read_line(&mut line).unwrap() > 0 {}
    kill_process(pid, Signal::CONT).unwrap();
    let number = pid.as_raw_nonzero();
    let sentence = format!(
        "the daemon (pid {number}) does not answer: it is stopped, and {} waits for it; let it go on with `kill -CONT {number}`",
        wheel(&sandbox)
    );
    let mut out = String::new();
    still.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    let mut rest = String::new();
    still.stderr.read_to_string(&mut rest).unwrap();
    assert!(line.contains(&sentence), "{line}{rest}");
    assert!(out.starts_with("200 ") && still.child.wait().unwrap().success(), "{out} {rest}");
    assert_eq!(rest, "", "once");
}

#[test]
fn a_registry_that_takes_its_time_is_no_daemon_that_does_not_answer() {
    let sandbox = Sandbox::new();
    sandbox.google.registry_fault("/artifacts-downloads/", Fault::Delay(std::time::Duration::from_secs(9)));
    let _daemon = sandbox.serve();
    let mut still = still(&sandbox, &format!("python3 {} {}", trusting(&sandbox), wheel(&sandbox)));
    let mut said = String::new();
    still.stderr.read_to_string(&mut said).unwrap();
    assert!(still.child.wait().unwrap().success(), "{said}");
    assert!(!said.contains("does not answer"), "{said}");
}

/// Beneath TLS nothing can be said any more, and a reset is all that a client hears.
#[test]
fn a_run_that_is_killed_leaves_no_half_that_looks_whole() {
    let sandbox = Sandbox::new();
    sandbox.google.registry_fault_always("/artifacts-downloads/", Fault::HalfThenSilence);
    let _daemon = sandbox.serve();
    let middle = sandbox.path("home/middle");
    let out = sandbox.path("home/out");
    let script = format!(
        "MIDDLE={} python3 {} http://127.0.0.1:${{HTTPS_PROXY##*:}}/registry/{} >{out} 2>&1; touch {out}.done",
        middle.display(),
        trusting(&sandbox),
        wheel(&sandbox).replace("https://", ""),
        out = out.display()
    );
    let mut still = still(&sandbox, &script);
    Sandbox::wait_until("the client is in the middle", || middle.exists());
    still.child.kill().unwrap();
    still.child.wait().unwrap();
    Sandbox::wait_until("the client has ended", || sandbox.path("home/out.done").exists());
    assert_eq!(fs::read_to_string(&out).unwrap().trim(), "broken: ConnectionResetError");
}

#[test]
fn a_listener_on_loopback_breaks_what_is_not_whole() {
    let sandbox = Sandbox::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let repository = sandbox.index().replace("/simple/", "");
    sandbox
        .configure(&format!("[[listener]]\ntcp = \"127.0.0.1:{port}\"\nrepositories = [\"{repository}\"]\n"));
    sandbox.google.add_large_package("acme", "private", "acme-large", "1.0.0", 4 << 20);
    sandbox.google.registry_fault_always("/artifacts-downloads/", Fault::HalfThenSilence);
    let key = sandbox.service_account();
    let mut serve = sandbox.valetkey();
    let mut daemon = sandbox.serve_with(serve.env("GOOGLE_APPLICATION_CREDENTIALS", key));
    let middle = sandbox.path("home/middle");
    let url =
        format!("http://127.0.0.1:{port}/registry/localhost:{}/acme/private/{WHEEL}", sandbox.google.port());
    let mut client = sandbox.command("/usr/bin/python3");
    client.args([trusting(&sandbox), url]).env("MIDDLE", &middle);
    let run = std::thread::scope(|scope| {
        let running = scope.spawn(|| sandbox.run(&mut client));
        Sandbox::wait_until("the client is in the middle", || middle.exists());
        daemon.kill();
        running.join().unwrap()
    });
    assert!(run.stderr.contains("broken: ConnectionResetError"), "{run:?}");
}

#[test]
fn what_breaks_behind_a_tunnel_breaks_in_front_of_it() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4]);
            stream.write_all(b"half").unwrap();
            // Closing it resets it.
            rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
        }
    });
    let client = format!(
        "import os, socket\n\
         to = os.environ['HTTPS_PROXY'].rsplit(':', 1)[1]\n\
         stream = socket.create_connection(('127.0.0.1', int(to)))\n\
         stream.sendall(b'CONNECT 127.0.0.1:{port} HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n')\n\
         head = b''\n\
         while not head.endswith(b'\\r\\n\\r\\n'): head += stream.recv(1)\n\
         stream.sendall(b'more')\n\
         try:\n    while stream.recv(100): pass\n    print('the end')\n\
         except ConnectionResetError: print('reset')\n"
    );
    let client = sandbox.write("home/client.py", &client);
    let client = client.display().to_string();
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "python3", &client]));
    assert_eq!(run.stdout, "reset\n", "{run:?}");
}
