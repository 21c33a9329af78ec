//! The daemon's life: control, concurrency, crashes, floods, versions, init systems.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::harness::{Run, Sandbox, VALETKEY, finish};
use super::stand_in::Fault;
use super::{assert_given, assert_refused};

/// One raw exchange.
fn exchange(sandbox: &Sandbox, request: &str) -> String {
    let mut stream = UnixStream::connect(sandbox.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(request.as_bytes());
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    String::from_utf8_lossy(&reply).into_owned()
}

fn call(sandbox: &Sandbox, method: &str, path: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let reply = exchange(sandbox, &request);
    let status =
        reply.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{reply}"));
    (status, reply.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// Lets this process open as many files as it may, and tells how many that are.
fn open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    most
}

/// What the daemon says of its own connections, if it has a place for the question.
fn open_connections(sandbox: &Sandbox) -> Option<u32> {
    let metrics = exchange(sandbox, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    metrics.lines().find_map(|line| line.strip_prefix("valetkey_connections "))?.parse().ok()
}

/// Starts many helpers at once.
fn crowd(sandbox: &Sandbox, size: usize) -> Vec<std::process::Child> {
    (0..size).map(|_| sandbox.get().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).collect()
}

fn ends(sandbox: &Sandbox, crowd: Vec<std::process::Child>) -> Vec<Run> {
    let start = Instant::now();
    let runs = crowd.into_iter().map(|child| finish(child, start, Duration::from_secs(30)));
    runs.inspect(|run| sandbox.hear(run.stderr.as_bytes())).collect()
}

fn identities(sandbox: &Sandbox) -> Vec<String> {
    let mut names: Vec<_> =
        sandbox.google.token_requests().into_iter().filter_map(|request| request.identity).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn the_api_answers_as_it_is_written_down() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let url = sandbox.index();
    let (status, body) = call(&sandbox, "POST", "/v1/credential", &format!(r#"{{"url":"{url}"}}"#));
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, answer["username"].as_str()), (200, Some("oauth2accesstoken")));
    assert!(answer["password"].as_str().unwrap().starts_with("ya29."));
    assert!(answer["expires"].as_str().unwrap().ends_with('Z'));
    for (body, expected) in [
        (r#"{"url":"https://example.test/"}"#.to_owned(), 404),
        (format!(r#"{{"url":"{}"}}"#, url.replace("https", "http")), 403),
        (format!(r#"{{"url":"{url}","username":"__token__"}}"#), 404),
        (format!(r#"{{"url":"{url}","source":{{"kind":"file","path":"/missing"}}}}"#), 500),
        (format!(r#"{{"url":"{url}","source":{{"kind":"shell","path":"/x"}}}}"#), 400),
        ("{".to_owned(), 400),
        ("[]".to_owned(), 400),
        (format!(r#"{{"url":"{}"}}"#, "x".repeat(100_000)), 400),
    ] {
        let (status, reply) = call(&sandbox, "POST", "/v1/credential", &body);
        assert_eq!(status, expected, "{reply}");
        let problem: Value = serde_json::from_str(&reply).unwrap();
        assert_eq!(problem["status"], expected, "RFC 9457: {reply}");
        assert!(problem["type"].as_str().unwrap().starts_with("urn:valetkey:problem:"), "{reply}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{reply}");
    }
    for (method, path) in [("GET", "/v1/credential"), ("GET", "/v1/stop"), ("GET", "/"), ("POST", "/metrics")]
    {
        assert_eq!(call(&sandbox, method, path, "").0, 404, "{method} {path}");
    }
    assert_eq!(call(&sandbox, "GET", "/health/live", ""), (200, r#"{"live":true}"#.to_owned()));
    assert_eq!(call(&sandbox, "GET", "/health/ready", ""), (200, r#"{"ready":true}"#.to_owned()));
    let (_, metrics) = call(&sandbox, "GET", "/metrics", "");
    assert!(metrics.contains("\nvaletkey_credentials_given_total 1\n"), "{metrics}");
    assert!(metrics.contains("\nvaletkey_upstream_calls_total 1\n") || metrics.contains("calls_total 2\n"));
    assert!(metrics.lines().all(|line| line.starts_with("# ") || line.starts_with("valetkey_")), "{metrics}");
}

#[test]
fn status_has_its_documented_shape() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let daemon = sandbox.serve();
    assert_given(&sandbox.run(&mut sandbox.get()));
    let run = sandbox.run(sandbox.valetkey().args(["status", "--json"]));
    let status: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&status["protocol"], status["daemon"]["pid"].as_u64()),
        (&1.into(), Some(daemon.pid().into()))
    );
    assert_eq!(status["daemon"]["started_by"], "operator");
    assert_eq!(status["listeners"][0]["peers"], "owner");
    let token = &status["tokens"][0];
    assert_eq!(token["access"], "read");
    assert_eq!(token["fingerprint"].as_str().map(str::len), Some(8));
    assert_eq!(status["sources"][0], "stored login");
    assert!(status["sources"][1].as_str().unwrap().starts_with("application default credentials"));
    assert_eq!(status["logins"], serde_json::json!([]));
    sandbox.hear(run.stdout.as_bytes());
    let people = sandbox.run(sandbox.valetkey().arg("status"));
    sandbox.hear(people.stdout.as_bytes());
    assert!(people.stdout.contains("daemon ") && people.stdout.contains("token "), "{people:?}");
}

#[test]
fn each_credential_and_each_refusal_is_one_line_of_json() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let mut daemon = sandbox.serve();
    assert_given(&sandbox.run(&mut sandbox.get()));
    call(&sandbox, "POST", "/v1/credential", r#"{"url":"https://example.test/"}"#);
    assert!(daemon.terminate().success());
    let log = daemon.log();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(lines.len(), 2, "{log}");
    let given = &lines[0];
    assert_eq!(
        (&given["verdict"], &given["form"], &given["access"]),
        (&"given".into(), &"credential".into(), &"read".into())
    );
    assert_eq!(given["repository"], "acme/private");
    assert!(given["program"].as_str().unwrap().ends_with("valetkey"), "{given}");
    assert!(
        given["time"].is_string()
            && given["uid"].is_u64()
            && given["pid"].is_u64()
            && given["listener"].is_string()
    );
    assert!(lines[1]["verdict"].as_str().unwrap().contains("not a registry"), "{log}");
}

#[test]
fn killed_amid_a_hundred_asks_every_helper_still_answers_with_the_same_identity() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let mut daemon = sandbox.serve();
    sandbox.google.token_fault_always(Some(Fault::Delay(Duration::from_secs(1))));
    let crowd = crowd(&sandbox, 100);
    Sandbox::wait_until("the daemon asks", || !sandbox.google.token_requests().is_empty());
    daemon.kill();
    for run in ends(&sandbox, crowd) {
        assert_given(&run);
    }
    assert_eq!(identities(&sandbox), ["developer@acme.example"]);
}

#[test]
fn a_killed_daemon_that_had_been_given_an_identity_leaves_it_to_its_helpers() {
    let sandbox = Sandbox::new();
    let key = sandbox.service_account();
    // A sign-in that nobody may fall back to.
    sandbox.sign_in();
    let mut daemon = sandbox.serve_with(sandbox.valetkey().env("GOOGLE_APPLICATION_CREDENTIALS", key));
    sandbox.google.token_fault_always(Some(Fault::Delay(Duration::from_millis(500))));
    let crowd = crowd(&sandbox, 20);
    Sandbox::wait_until("the daemon asks", || !sandbox.google.token_requests().is_empty());
    daemon.kill();
    for run in ends(&sandbox, crowd) {
        assert_given(&run);
    }
    assert_given(&sandbox.run(&mut sandbox.get()));
    assert_eq!(identities(&sandbox), ["builder@acme.iam.gserviceaccount.com"]);
    // A daemon that ends in order leaves nothing behind.
    let mut daemon = sandbox.serve();
    assert!(daemon.terminate().success());
    assert_given(&sandbox.run(&mut sandbox.get()));
    assert!(identities(&sandbox).contains(&"developer@acme.example".to_owned()));
}

#[test]
fn fifty_helpers_at_once_start_one_daemon_and_make_one_call() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    for run in ends(&sandbox, crowd(&sandbox, 50)) {
        assert_given(&run);
        assert_eq!(run.stderr, "");
    }
    sandbox.stop();
    Sandbox::wait_until("it has said everything", || sandbox.log().contains("ended"));
    assert_eq!(sandbox.log().matches("serving").count(), 1, "{}", sandbox.log());
    assert_eq!(sandbox.google.token_requests().len(), 1);
}

#[test]
fn of_two_daemons_one_stays_and_the_other_says_why() {
    let sandbox = Sandbox::new();
    let daemon = sandbox.serve();
    let second = sandbox.run(sandbox.valetkey().arg("serve"));
    assert_eq!((second.code, second.stdout.as_str()), (Some(1), ""));
    let expected = format!("error: a daemon is already running (pid {})\n", daemon.pid());
    assert!(second.stderr.starts_with(&expected), "{second:?}");
    assert_eq!(call(&sandbox, "GET", "/health/live", "").0, 200);
}

#[test]
fn a_dead_socket_does_not_block_the_next_start() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    sandbox.serve().kill();
    assert!(sandbox.socket().exists());
    assert_given(&sandbox.run(&mut sandbox.get()));
    Sandbox::wait_until("a daemon serves", || sandbox.log().contains("serving"));
}

#[test]
fn a_daemon_that_hangs_is_passed_by() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let daemon = sandbox.serve();
    let pid = rustix::process::Pid::from_child(&daemon.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let run = sandbox.run(&mut sandbox.get());
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_given(&run);
    assert!(run.took < Duration::from_secs(10), "{run:?}");
}

#[test]
fn a_failure_of_the_daemon_is_final() {
    let sandbox = Sandbox::new();
    let key = sandbox.service_account();
    let _daemon = sandbox.serve_with(sandbox.valetkey().env("GOOGLE_APPLICATION_CREDENTIALS", key));
    sandbox.sign_in();
    sandbox.google.token_fault_always(Some(Fault::oauth_error("invalid_grant", "gone")));
    assert_refused(&sandbox.run(&mut sandbox.get()), "gone");
    assert_eq!(identities(&sandbox), ["builder@acme.iam.gserviceaccount.com"]);
}

#[test]
fn a_named_socket_that_nobody_serves_is_final() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let mut command = sandbox.get();
    assert_refused(
        &sandbox.run(command.env("VALETKEY_SOCKET", sandbox.path("run/none.sock"))),
        "nobody answers at",
    );
    assert_refused(&sandbox.run(command.env("VALETKEY_SOCKET", "x".repeat(200))), "longer than 107 bytes");
    assert_refused(&sandbox.run(command.env("VALETKEY_SOCKET", sandbox.path("run"))), "is a directory");
    assert!(sandbox.google.token_requests().is_empty());
}

#[test]
fn stop_gives_what_is_owed_and_then_the_socket_is_gone() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let mut daemon = sandbox.serve();
    sandbox.google.token_fault_always(Some(Fault::Delay(Duration::from_secs(3))));
    let waiting = crowd(&sandbox, 3);
    // The three, and the one that asks.
    Sandbox::wait_until("all wait", || open_connections(&sandbox) == Some(4));
    assert_eq!(sandbox.run(sandbox.valetkey().arg("stop")).code, Some(0));
    assert!(!sandbox.socket().exists());
    assert!(daemon.child.wait().unwrap().success());
    for run in ends(&sandbox, waiting) {
        assert_given(&run);
    }
    assert_eq!(sandbox.google.token_requests().len(), 1);
}

#[test]
fn reload_takes_a_new_configuration_and_keeps_the_old_one_where_it_is_wrong() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let daemon = sandbox.serve();
    let ask = || call(&sandbox, "POST", "/v1/credential", r#"{"url":"https://extra.test/p/r/simple/"}"#).0;
    assert_eq!(ask(), 404);
    sandbox.configure("[[registry]]\nhost = \"extra.test\"\n");
    assert_eq!(sandbox.run(sandbox.valetkey().arg("reload")).code, Some(0));
    assert_eq!(ask(), 200);
    sandbox.configure("colour = \"red\"\n");
    let (status, body) = call(&sandbox, "POST", "/v1/reload", "");
    assert!(status == 500 && body.contains("unknown field `colour`"), "{body}");
    assert_eq!(ask(), 200);
    // By signal as well.
    sandbox.configure("");
    let pid = rustix::process::Pid::from_child(&daemon.child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    Sandbox::wait_until("the host is gone", || ask() == 404);
}

#[test]
fn an_idle_daemon_that_a_helper_started_ends_by_itself() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    assert_given(&sandbox.run(sandbox.get().env("VALETKEY_IDLE", "1s")));
    Sandbox::wait_until("it ends", || !sandbox.socket().exists());
    Sandbox::wait_until("it says why", || sandbox.log().contains("nothing asked for 1 s"));
}

#[test]
fn a_daemon_whose_socket_is_removed_ends_and_the_next_one_starts() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let mut daemon = sandbox.serve();
    fs::remove_dir_all(sandbox.runtime()).unwrap();
    Sandbox::wait_until("the daemon ends", || {
        daemon.child.try_wait().unwrap().is_some_and(|end| end.success())
    });
    assert_given(&sandbox.run(&mut sandbox.get()));
    assert!(sandbox.socket().exists());
}

#[test]
fn a_megabyte_of_headers_is_refused_and_costs_nobody_else() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let huge = format!("GET /health/live HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let reply = exchange(&sandbox, &huge);
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 431 "), "{reply}");
    let many = "x: y\r\n".repeat(1000);
    let reply = exchange(&sandbox, &format!("GET /health/live HTTP/1.1\r\nhost: x\r\n{many}\r\n"));
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 431 "), "{reply}");
    assert_given(&sandbox.run(&mut sandbox.get()));
}

#[test]
fn what_is_no_http_is_refused() {
    let sandbox = Sandbox::new();
    let _daemon = sandbox.serve();
    for request in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "\r\n\r\n\r\n\r\nGARBAGE\r\n\r\n",
        "POST /v1/credential HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        "POST /v1/credential HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        "POST /v1/stop HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n",
    ] {
        let reply = exchange(&sandbox, request);
        assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 4"), "{request:?} → {reply}");
    }
    assert_eq!(call(&sandbox, "GET", "/health/live", "").0, 200);
}

#[test]
fn a_slow_loris_is_cut_off_and_keeps_nobody_out() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let mut slow: Vec<_> = (0..200).map(|_| UnixStream::connect(sandbox.socket()).unwrap()).collect();
    for stream in &mut slow {
        stream.write_all(b"POST /v1/credential HTTP/1.1\r\nhos").unwrap();
    }
    assert_given(&sandbox.run(&mut sandbox.get()));
    // Each is told or cut: either way its end comes.
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
}

#[test]
fn ten_thousand_idle_connections_keep_no_helper_out() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let room = open_files().unwrap_or(20_000).saturating_sub(200).min(10_000);
    if super::harness::is_ci() {
        assert_eq!(room, 10_000, "raise the hard limit of open files");
    }
    let idle: Vec<_> = (0..room).map(|_| UnixStream::connect(sandbox.socket()).unwrap()).collect();
    let first = assert_given(&sandbox.run(&mut sandbox.get()));
    assert_eq!(assert_given(&sandbox.run(&mut sandbox.get())), first);
    assert_eq!(sandbox.google.token_requests().len(), 1, "the daemon answered, nobody had to in its place");
    assert!(open_connections(&sandbox).unwrap() <= 1100, "the number of connections is bounded");
    drop(idle);
}

/// A daemon of another version: answers one question, then tells what else it was asked.
pub(super) fn other_version(sandbox: &Sandbox, version: &str, started_by: &str) -> std::thread::JoinHandle<Vec<String>> {
    sandbox_runtime(sandbox);
    let listener = UnixListener::bind(sandbox.socket()).unwrap();
    let (version, started_by) = (version.to_owned(), started_by.to_owned());
    let socket = sandbox.socket();
    std::thread::spawn(move || {
        let mut heard = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                let read = stream.read(&mut buffer).unwrap();
                if read == 0 {
                    break;
                }
                request.extend_from_slice(&buffer[..read]);
            }
            if request.is_empty() {
                continue;
            }
            let line = String::from_utf8_lossy(&request).lines().next().unwrap().to_owned();
            let body = r#"{"username":"oauth2accesstoken","password":"ya29.other","expires":"2100-01-01T00:00:00Z"}"#;
            let length = body.len();
            let reply = format!(
                "HTTP/1.1 200 OK\r\nvaletkey-version: {version}\r\nvaletkey-started-by: {started_by}\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            stream.write_all(reply.as_bytes()).unwrap();
            heard.push(line.clone());
            if line.contains("/v1/stop") || line.contains("/done") {
                fs::remove_file(&socket).unwrap();
                return heard;
            }
        }
    })
}

fn sandbox_runtime(sandbox: &Sandbox) {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().mode(0o700).create(sandbox.runtime()).unwrap();
}

#[test]
fn an_older_daemon_that_a_helper_started_answers_and_is_replaced() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let older = other_version(&sandbox, "0.0.1", "helper");
    assert_eq!(sandbox.run(&mut sandbox.get()).stdout, "ya29.other\n");
    let heard = older.join().unwrap();
    assert!(heard.last().unwrap().contains("/v1/stop"), "{heard:?}");
    Sandbox::wait_until("the new one serves", || UnixStream::connect(sandbox.socket()).is_ok());
    assert_ne!(assert_given(&sandbox.run(&mut sandbox.get())), "ya29.other");
}

#[test]
fn a_newer_daemon_and_one_that_somebody_else_started_are_left_alone() {
    for (version, started_by) in [("99.0.0", "helper"), ("0.0.1", "operator"), ("0.0.1", "systemd")] {
        let sandbox = Sandbox::new();
        sandbox.sign_in();
        let other = other_version(&sandbox, version, started_by);
        assert_eq!(sandbox.run(&mut sandbox.get()).stdout, "ya29.other\n");
        call(&sandbox, "GET", "/done", "");
        let heard = other.join().unwrap();
        assert!(!heard.iter().any(|line| line.contains("/v1/stop")), "{heard:?}");
    }
}

#[test]
fn an_answer_that_is_no_answer_is_told() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    sandbox_runtime(&sandbox);
    let listener = UnixListener::bind(sandbox.socket()).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    });
    assert_refused(&sandbox.run(&mut sandbox.get()), "not one that valetkey understands");
    server.join().unwrap();
}

#[test]
fn an_init_system_hands_over_the_socket_and_hears_when_it_is_served() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    sandbox_runtime(&sandbox);
    let listener = UnixListener::bind(sandbox.socket()).unwrap();
    let notices = UnixDatagram::bind(sandbox.path("run/notify")).unwrap();
    notices.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let key = sandbox.service_account();
    let mut command: Command = sandbox.command("/bin/sh");
    command
        .env("GOOGLE_APPLICATION_CREDENTIALS", key)
        .args(["-c", &format!("exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec {VALETKEY} serve")])
        .env("NOTIFY_SOCKET", sandbox.path("run/notify"))
        .env("VALETKEY_IDLE", "1s")
        .stdin(std::os::fd::OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    drop(command);
    let hear = || {
        let mut buffer = [0; 512];
        let read = notices.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..read]).trim().to_owned()
    };
    assert_eq!(hear(), "READY=1");
    assert_given(&sandbox.run(&mut sandbox.get()));
    // Silent, it is answered for with its own identity.
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    assert_given(&sandbox.run(&mut sandbox.get()));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_eq!(identities(&sandbox), ["builder@acme.iam.gserviceaccount.com"]);
    let status = sandbox.run(sandbox.valetkey().args(["status", "--json"])).stdout;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        (status["daemon"]["started_by"].as_str(), status["daemon"]["idle_end_seconds"].as_u64()),
        (Some("systemd"), None)
    );
    assert_eq!(sandbox.run(sandbox.valetkey().arg("stop")).code, Some(0));
    assert_eq!(hear(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
    assert!(sandbox.socket().exists(), "the socket is the init system's");
}

#[test]
fn no_secret_is_in_an_argument_or_a_variable_of_any_process() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let token = sandbox.google.issue_access_token("dev@acme.example", &[]);
    let answer =
        format!(r#"{{"credential": {{"access_token": "{token}", "token_expiry": "2100-01-01T00:00:00Z"}}}}"#);
    sandbox.script("gcloud", &format!("#!/bin/sh\nread line < \"$HOME/gate\"\necho '{answer}'\n"));
    let gate = sandbox.path("home/gate");
    rustix::fs::mknodat(rustix::fs::CWD, &gate, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let daemon = sandbox.serve();
    sandbox.google.token_fault_always(Some(Fault::Delay(Duration::from_secs(1))));
    let mut waiting = crowd(&sandbox, 2);
    let by_gcloud = sandbox
        .get()
        .env("VALETKEY_CREDENTIAL", "gcloud")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    waiting.push(by_gcloud.unwrap());
    // Opens once gcloud waits at its gate: then everybody is alive.
    let mut gate = fs::OpenOptions::new().write(true).open(gate).unwrap();
    let mut seen = 0;
    for pid in waiting.iter().map(std::process::Child::id).chain([daemon.pid()]) {
        for view in ["cmdline", "environ", "status", "comm", "maps", "mountinfo"] {
            let bytes = fs::read(format!("/proc/{pid}/{view}")).unwrap_or_default();
            seen += bytes.len();
            sandbox.hear(&bytes);
        }
    }
    assert!(seen > 1000, "the views are readable");
    gate.write_all(b"go\n").unwrap();
    drop(gate);
    for run in ends(&sandbox, waiting) {
        assert_given(&run);
    }
    sandbox.hunt();
}

#[test]
fn an_asker_without_time_spoils_nothing_for_the_others() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    sandbox.google.token_fault_always(Some(Fault::Delay(Duration::from_millis(600))));
    let url = sandbox.index();
    let (status, _) =
        call(&sandbox, "POST", "/v1/credential", &format!(r#"{{"url":"{url}","deadline_ms":0}}"#));
    assert_eq!(status, 504);
    assert_given(&sandbox.run(&mut sandbox.get()));
}

#[test]
fn the_api_remembers_for_an_asker_that_its_url_was_refused() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let (insecure, bare) =
        (sandbox.index().replace("https", "http"), format!("localhost:{}", sandbox.google.port()));
    let ask = |url: &str, asker: &str| {
        call(&sandbox, "POST", "/v1/credential", &format!(r#"{{"url":"{url}","asker":"{asker}"}}"#)).0
    };
    assert_eq!((ask(&bare, "1:1"), ask(&insecure, "1:1"), ask(&bare, "1:1")), (200, 403, 403));
    assert_eq!((ask(&bare, "2:2"), ask(&sandbox.index(), "1:1")), (200, 200));
}

#[test]
fn busy_connections_are_bounded_too() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    open_files();
    let bodyless = b"POST /v1/credential HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..1500 {
        let mut stream = UnixStream::connect(sandbox.socket()).unwrap();
        let _ = stream.write_all(bodyless);
        held.push(stream);
    }
    // All places are taken by requests whose bodies do not come: a helper answers by itself.
    assert_given(&sandbox.run(&mut sandbox.get()));
    drop(held);
    Sandbox::wait_until("the places are free again", || {
        open_connections(&sandbox).is_some_and(|open| open < 10)
    });
}

#[test]
fn settings_without_meaning_are_refused() {
    let sandbox = Sandbox::new();
    for idle in ["0s", "soon", "18446744073709551615s", "99999d"] {
        let run = sandbox.run(sandbox.valetkey().arg("serve").env("VALETKEY_IDLE", idle));
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{run:?}");
        assert!(run.stderr.starts_with("error: VALETKEY_IDLE is "), "{run:?}");
    }
}

#[test]
fn stop_speaks_of_the_daemon_that_was_named() {
    let sandbox = Sandbox::new();
    let _own = sandbox.serve();
    fs::create_dir(sandbox.path("other")).unwrap();
    fs::set_permissions(sandbox.path("other"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut other =
        sandbox.valetkey().arg("serve").env("XDG_RUNTIME_DIR", sandbox.path("other")).spawn().unwrap();
    let socket = sandbox.path("other/valetkey/valetkey.sock");
    Sandbox::wait_until("the other serves", || UnixStream::connect(&socket).is_ok());
    let run = sandbox.run(sandbox.valetkey().arg("stop").env("VALETKEY_SOCKET", &socket));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.took < Duration::from_secs(8), "{run:?}");
    assert!(other.wait().unwrap().success());
    assert_eq!(call(&sandbox, "GET", "/health/live", "").0, 200);
}

#[test]
fn what_is_malformed_is_in_the_audit_log_too() {
    let sandbox = Sandbox::new();
    let mut daemon = sandbox.serve();
    call(&sandbox, "POST", "/v1/credential", r#"{"url":5}"#);
    let other = format!(r#"{{"url":"{}","username":"__token__"}}"#, sandbox.index());
    call(&sandbox, "POST", "/v1/credential", &other);
    daemon.terminate();
    let log = daemon.log();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert_eq!(lines[1]["repository"], "acme/private", "{log}");
}

#[test]
fn a_start_that_fails_changes_no_identity() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    sandbox_runtime(&sandbox);
    // Somebody listens there without the lock, as an init system does.
    let _listener = UnixListener::bind(sandbox.socket()).unwrap();
    let mut serve = sandbox.valetkey();
    let run = sandbox.run(serve.arg("serve").env("GOOGLE_APPLICATION_CREDENTIALS", "/x.json"));
    assert_eq!(run.code, Some(1), "{run:?}");
    fs::remove_file(sandbox.socket()).unwrap();
    let status = sandbox.run(sandbox.valetkey().arg("status")).stdout;
    assert!(!status.contains("x.json"), "{status}");
}

#[test]
fn an_identity_that_was_left_behind_is_not_lost_to_a_helper_that_names_its_own() {
    let sandbox = Sandbox::new();
    let key = sandbox.service_account();
    let own = sandbox.sign_in();
    let mut daemon = sandbox.serve_with(sandbox.valetkey().env("GOOGLE_APPLICATION_CREDENTIALS", key));
    daemon.kill();
    assert_given(&sandbox.run(sandbox.get().env("GOOGLE_APPLICATION_CREDENTIALS", own)));
    assert_given(&sandbox.run(&mut sandbox.get()));
    let last = sandbox.google.token_requests().pop().unwrap();
    assert_eq!(last.identity.as_deref(), Some("builder@acme.iam.gserviceaccount.com"));
}

#[test]
fn doctor_tells_a_daemon_that_runs_from_one_that_was_killed() {
    let sandbox = Sandbox::new();
    let key = sandbox.service_account();
    let mut daemon = sandbox.serve_with(sandbox.valetkey().env("GOOGLE_APPLICATION_CREDENTIALS", key));
    let doctor = || sandbox.run(sandbox.valetkey().arg("doctor")).stdout;
    let running = doctor();
    assert!(
        running.contains("the daemon has been given the identity") && running.contains("key.json"),
        "{running}"
    );
    daemon.kill();
    assert!(doctor().contains("a daemon that was killed had been given"));
}
