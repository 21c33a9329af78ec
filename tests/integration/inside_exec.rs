//! valetkey itself inside of `valetkey exec`: what is started or asked in there is as it would be outside, and goes on
//! when the run is over.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::assert_given;
use super::daemon::other_version;
use super::exec::{exec, real_path};
use super::harness::{ADC, CONFIGURATION, Daemon, Run, Sandbox};
use super::registry_daemon::RegistryDaemon;

/// A shell in a run of the owner's own daemon.
fn shell_in_exec(sandbox: &Sandbox, script: &str) -> Command {
    let mut command = sandbox.valetkey();
    command.args(["exec", "--", "sh", "-c", script]).env("PATH", real_path(sandbox));
    command
}

fn with_package() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.google.add_package("acme", "private", "acme-hello", "1.0.0", &[]);
    sandbox.sign_in();
    sandbox
}

fn status(sandbox: &Sandbox) -> Value {
    let run = sandbox.run(sandbox.valetkey().args(["status", "--json"]));
    serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"))
}

/// What a process was started with.
fn environment_of(pid: u64) -> String {
    fs::read_to_string(format!("/proc/{pid}/environ")).unwrap().replace('\0', "\n")
}

/// The daemon there is now knows nothing of a run, and mints a token that it does not have yet.
#[track_caller]
fn assert_free(sandbox: &Sandbox) {
    let status = status(sandbox);
    assert_eq!(status["daemon"]["proxy"], Value::Null, "{status}");
    assert_eq!(status["daemon"]["certificates"], Value::Null, "{status}");
    let run = sandbox.run(sandbox.valetkey().arg("reload"));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_given(&sandbox.run(&mut sandbox.get()));
    if rustix::process::geteuid().is_root() {
        let environment = environment_of(status["daemon"]["pid"].as_u64().unwrap());
        let traces = ["127.0.0.1", "/valetkey-", "BEFORE_EXEC"];
        assert!(!traces.iter().any(|trace| environment.contains(trace)), "{environment}");
    }
}

#[test]
fn a_daemon_that_a_helper_starts_inside_of_exec_outlives_the_run() {
    let sandbox = with_package();
    let get = format!("keyring get {} oauth2accesstoken", sandbox.index());
    let page = format!("curl -sS -o /dev/null -w '%{{http_code}}' {}acme-hello/", sandbox.index());
    let script = format!("valetkey stop >/dev/null; {get} >/dev/null; env | grep -c BEFORE_EXEC; {page}");
    let run = sandbox.run(&mut shell_in_exec(&sandbox, &script));
    assert_eq!(run.stdout, "1\n200", "{run:?}");
    let pages = sandbox.google.registry_requests().len();
    assert_eq!(pages, 1, "one request, and no circle");
    assert_free(&sandbox);
}

#[test]
fn a_daemon_that_is_replaced_inside_of_exec_outlives_the_run() {
    let sandbox = with_package();
    let daemon = RegistryDaemon::start(&sandbox);
    let older = other_version(&sandbox, "0.0.1", "helper");
    let get = format!("env -u VALETKEY_SOCKET keyring get {} oauth2accesstoken", sandbox.index());
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "sh", "-c", &get]));
    assert_eq!(run.stdout, "ya29.other\n", "{run:?}");
    older.join().unwrap();
    let socket = sandbox.socket();
    Sandbox::wait_until("the new one serves", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    let status = status(&sandbox);
    assert_eq!(status["daemon"]["proxy"], Value::Null, "{status}");
    // What was named before the run is named as ever.
    assert_eq!(status["daemon"]["certificates"], sandbox.path("ca.pem").to_str().unwrap(), "{status}");
    assert_given(&sandbox.run(&mut sandbox.get()));
}

#[test]
fn a_daemon_that_a_person_starts_inside_of_exec_outlives_the_run() {
    let sandbox = with_package();
    let serve = "valetkey stop >/dev/null; valetkey serve >/dev/null 2>&1 & \
                 for i in $(seq 500); do valetkey status >/dev/null 2>&1 && break; sleep 0.02; done";
    let run = sandbox.run(&mut shell_in_exec(&sandbox, serve));
    assert_eq!(run.code, Some(0), "{run:?}");
    let status = status(&sandbox);
    assert_eq!(status["daemon"]["started_by"], "operator", "{status}");
    assert_eq!(status["daemon"]["proxy"], Value::Null, "{status}");
    assert_eq!(status["daemon"]["certificates"], Value::Null, "{status}");
    assert_given(&sandbox.run(&mut sandbox.get()));
}

/// What asks Google by itself inside of a run, with no daemon that would do it.
fn in_process(sandbox: &Sandbox, daemon: &RegistryDaemon, words: &str) -> Run {
    let alone = "env -u VALETKEY_SOCKET VALETKEY_AUTO_START=false";
    let mut command = exec(sandbox, daemon, ["--", "sh", "-c", &format!("{alone} {words}")]);
    sandbox.run(command.env_remove("SSL_CERT_FILE"))
}

#[test]
fn what_asks_google_in_process_inside_of_exec_goes_past_the_run() {
    let sandbox = with_package();
    let daemon = RegistryDaemon::start(&sandbox);
    let run = in_process(&sandbox, &daemon, "valetkey token");
    assert_given(&run);
    let run = in_process(&sandbox, &daemon, &format!("keyring get {} oauth2accesstoken", sandbox.index()));
    assert_given(&run);
    let run = in_process(&sandbox, &daemon, &format!("valetkey doctor {}acme-hello/", sandbox.index()));
    assert!(run.stdout.contains("200"), "{run:?}");
    assert!(daemon.seen().is_empty(), "{:?}", daemon.seen());
}

#[test]
fn a_program_that_passes_variables_on_by_a_list_does_not_lose_the_record() {
    let sandbox = with_package();
    let daemon = RegistryDaemon::start(&sandbox);
    for lost in ["-u VALETKEY_BEFORE_EXEC", "-u VALETKEY_BEFORE_EXEC -u SSL_CERT_FILE"] {
        assert_given(&in_process(&sandbox, &daemon, &format!("env {lost} valetkey token")));
    }
    assert!(daemon.seen().is_empty(), "{:?}", daemon.seen());
}

#[test]
fn a_shell_that_outlives_its_run_is_as_one_outside() {
    let sandbox = with_package();
    let daemon = RegistryDaemon::start(&sandbox);
    let out = sandbox.path("home/out");
    for (name, lost) in [("kept", "VALETKEY_SOCKET"), ("lost", "VALETKEY_BEFORE_EXEC")] {
        // It waits until its parent, the run's command, is gone, and then for the run.
        let late = format!(
            "(run=$PPID; while kill -0 $run 2>/dev/null; do sleep 0.02; done; \
             env -u {lost} -u VALETKEY_SOCKET VALETKEY_AUTO_START=false valetkey token >{out}.{name} 2>&1; \
             echo >>{out}.{name}.done) >/dev/null 2>&1 &",
            out = out.display()
        );
        let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "sh", "-c", &late]));
        assert_eq!(run.code, Some(0), "{run:?}");
        let done = PathBuf::from(format!("{}.{name}.done", out.display()));
        Sandbox::wait_until("the shell has asked", || done.exists());
        let said = fs::read_to_string(format!("{}.{name}", out.display())).unwrap();
        assert!(said.starts_with("ya29.") && said.lines().count() == 1, "{name}: {said}");
        fs::remove_file(format!("{}.{name}", out.display())).unwrap();
    }
}

#[test]
fn gcloud_is_a_child_of_ours_and_not_of_the_run() {
    let sandbox = with_package();
    let daemon = RegistryDaemon::start(&sandbox);
    let seen = sandbox.path("home/seen");
    sandbox.script("gcloud", &format!("#!/bin/sh\nenv >{}\nexit 1\n", seen.display()));
    let run = in_process(&sandbox, &daemon, "valetkey token --credential gcloud");
    assert_eq!(run.code, Some(3), "{run:?}");
    let seen = fs::read_to_string(seen).unwrap();
    let traces = ["HTTPS_PROXY", "SSL_CERT_FILE", "BEFORE_EXEC", "127.0.0.1"];
    assert!(!traces.iter().any(|trace| seen.contains(trace)), "{seen}");
}

#[test]
fn a_run_inside_of_a_run_wires_its_command_and_undoes_both() {
    let sandbox = with_package();
    let daemon = RegistryDaemon::start(&sandbox);
    let page = format!("https://{}/acme/private/simple/acme-hello/", daemon.host());
    let inner = format!(
        "curl -sS -o /dev/null -w '%{{http_code}} ' {page}; echo $PIP_INDEX_URL; \
         env -u VALETKEY_SOCKET VALETKEY_AUTO_START=false valetkey token"
    );
    sandbox.script("inner", &format!("#!/bin/sh\n{inner}; echo $HTTPS_PROXY\n"));
    let script = "echo $HTTPS_PROXY $PIP_INDEX_URL; valetkey exec -- inner";
    let mut command = exec(&sandbox, &daemon, ["--index", "--", "sh", "-c", script]);
    let run = sandbox.run(command.env("https_proxy", "http://127.0.0.1:9").env("NO_PROXY", "localhost"));
    let lines: Vec<&str> = run.stdout.lines().collect();
    let [outer, asked, token, proxy] = lines.as_slice() else { panic!("{run:?}") };
    let (outer_proxy, index) = outer.split_once(' ').unwrap();
    // The index of the run around stays, as every variable does that a command inherits.
    assert_eq!(*asked, format!("200 {index}"), "{run:?}");
    assert!(token.starts_with("ya29."), "{run:?}");
    assert_ne!(*proxy, outer_proxy);
    assert_eq!(daemon.seen().len(), 1, "{:?}", daemon.seen());
}

#[test]
fn no_record_makes_more_of_the_environment_than_it_is() {
    let sandbox = with_package();
    let evil = sandbox.write("home/evil.json", &sandbox.google.authorized_user("evil@evil.test"));
    let record = format!(
        "1;GOOGLE_APPLICATION_CREDENTIALS=-:{0};VALETKEY_CREDENTIAL=-:{0};HOME=-:/evil",
        evil.display()
    );
    for record in [record.as_str(), "1;HTTPS_PROXY=-:http://127.0.0.1:1", "", "%", ";;;=:=", "1;PATH=+"] {
        let mut token = sandbox.valetkey();
        token.args(["token", "--format", "json"]).env("VALETKEY_AUTO_START", "false");
        let run = sandbox.run(token.env("VALETKEY_BEFORE_EXEC", record));
        if record.contains("HTTPS_PROXY") {
            // As the variable itself would.
            assert_eq!(run.code, Some(3), "{run:?}");
        } else {
            assert!(run.code == Some(0) && !run.stdout.contains("evil"), "{run:?}");
        }
    }
}

/// A run whose forwarder a daemon is led to by hand, without what would undo it.
struct Circle<'a> {
    run: Child,
    daemon: Daemon<'a>,
}

impl Drop for Circle<'_> {
    fn drop(&mut self) {
        drop(self.run.stdin.take());
        let _ = self.run.wait();
    }
}

fn circle(sandbox: &Sandbox, between: impl FnOnce(u16) -> u16) -> Circle<'_> {
    // Google's endpoint for tokens has another name than the registry, and is gone to without a proxy.
    for file in [CONFIGURATION, ADC] {
        let text = fs::read_to_string(sandbox.path(file)).unwrap();
        let token = |host: &str| format!("https://{host}:{}/token", sandbox.google.port());
        sandbox.write(file, &text.replace(&token("localhost"), &token("127.0.0.1")));
    }
    // The port of the run is not known before its daemon runs, so a first one gives the way to the second.
    let mut first = sandbox.serve();
    let script = "echo $HTTPS_PROXY; echo $SSL_CERT_FILE; read line; \
                  curl -sS -o /dev/null -w '%{http_code}\\n' \"$line\"; read line";
    let mut command = shell_in_exec(sandbox, script);
    let mut run =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(run.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let port: u16 = line.trim().rsplit_once(':').unwrap().1.parse().unwrap();
    line.clear();
    out.read_line(&mut line).unwrap();
    let trusted = sandbox.path("home/copy.pem");
    fs::copy(line.trim(), &trusted).unwrap();
    run.stdout = Some(out.into_inner());
    first.terminate();
    let mut serve = sandbox.valetkey();
    serve.env("HTTPS_PROXY", format!("http://127.0.0.1:{}", between(port))).env("SSL_CERT_FILE", &trusted);
    serve.env("NO_PROXY", "127.0.0.1");
    let daemon = sandbox.serve_with(&mut serve);
    Circle { run, daemon }
}

/// What the command of the run and its person hear when it asks for a page.
fn ask(circle: &mut Circle<'_>, page: &str) -> (String, String) {
    writeln!(circle.run.stdin.as_mut().unwrap(), "{page}").unwrap();
    let (mut code, mut said) = (String::new(), String::new());
    BufReader::new(circle.run.stdout.as_mut().unwrap()).read_line(&mut code).unwrap();
    drop(circle.run.stdin.take());
    circle.run.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
    (code.trim().to_owned(), said)
}

#[test]
fn the_forwarder_does_not_hand_a_daemons_request_back_to_it() {
    let sandbox = with_package();
    let mut circle = circle(&sandbox, |port| port);
    let (code, said) = ask(&mut circle, &format!("{}acme-hello/", sandbox.index()));
    assert!(code.starts_with('5'), "{code} {said}");
    assert!(said.contains("run `valetkey stop`"), "{said}");
    let rounds = circle.daemon.log().matches("/registry/").count();
    assert!(rounds < 5, "{rounds}");
}

/// A proxy that passes on where to and nothing else, as a forwarder that knows nothing of circles would hear it.
fn forgetful(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let line = String::from_utf8(head).unwrap().lines().next().unwrap_or_default().to_owned();
            let mut beyond = TcpStream::connect(("127.0.0.1", port)).unwrap();
            beyond.write_all(format!("{line}\r\n\r\n").as_bytes()).unwrap();
            let (mut back, mut forth) = (beyond.try_clone().unwrap(), stream.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut forth));
            std::thread::spawn(move || std::io::copy(&mut stream, &mut beyond));
        }
    });
    own
}

#[test]
fn a_daemon_refuses_its_own_request_when_it_comes_back() {
    let sandbox = with_package();
    let mut circle = circle(&sandbox, forgetful);
    let (code, said) = ask(&mut circle, &format!("{}acme-hello/", sandbox.index()));
    assert!(code.starts_with('5'), "{code} {said}");
    assert!(said.contains("came back to it") && said.contains("run `valetkey stop`"), "{said}");
    assert!(sandbox.google.registry_requests().is_empty());
    let log = circle.daemon.log();
    assert!(log.matches("proxy").count() < 10, "{log}");
}

#[test]
fn a_local_proxy_that_is_another_program_is_none_of_our_business() {
    let sandbox = with_package();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = format!("127.0.0.1:{}", sandbox.google.port());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let mut beyond = TcpStream::connect(&to).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut back, mut forth) = (beyond.try_clone().unwrap(), stream.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut forth));
            std::thread::spawn(move || std::io::copy(&mut stream, &mut beyond));
        }
    });
    let mut serve = sandbox.valetkey();
    let _daemon = sandbox.serve_with(serve.env("HTTPS_PROXY", format!("http://127.0.0.1:{port}")));
    let page = format!("curl -sS -o /dev/null -w '%{{http_code}}' {}acme-hello/", sandbox.index());
    let run = sandbox.run(&mut shell_in_exec(&sandbox, &page));
    assert_eq!(run.stdout, "200", "{run:?}");
}

/// The name of the index leads nowhere but through a run, so that the inner one serves it as well.
#[test]
fn a_run_inside_of_a_run_with_an_index_serves_that_index() {
    let sandbox = with_package();
    let daemon = RegistryDaemon::start(&sandbox);
    let page = "curl -sS -o /dev/null -w '%{http_code}' ${PIP_INDEX_URL}acme-hello/";
    let script = format!("valetkey exec -- sh -c \"{}\"", page.replace('$', "\\$"));
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--index", "--", "sh", "-c", &script]));
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "200"), "{run:?}");
    assert!(
        daemon.seen().iter().any(|request| request.target == "/simple/acme-hello/"),
        "{:?}",
        daemon.seen()
    );
}

/// Nothing but the proxy came through: what the run has changed cannot be known.
#[test]
fn a_daemon_that_has_kept_the_proxy_of_a_run_says_how_to_be_rid_of_it() {
    let sandbox = with_package();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", taken.local_addr().unwrap());
    drop(taken);
    sandbox.run(sandbox.get().env("HTTPS_PROXY", &proxy));
    let script = format!("curl -sS -o /dev/null {}acme-hello/", sandbox.index());
    let run = sandbox.run(&mut shell_in_exec(&sandbox, &script));
    assert!(run.stderr.contains("run `valetkey stop`"), "{run:?}");
    assert!(run.stderr.contains(proxy.trim_start_matches("http://")), "{run:?}");
}
