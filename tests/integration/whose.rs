//! Whose token a request is made with that a daemon makes in the place of a process: what that process says, as it does
//! where the process gets the token itself.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::exec::real_path;
use super::harness::{Run, Sandbox};
use super::listeners::{
    agent, build, container, message, on_stream, opened, page, repository, unix, with_package,
};

const DEVELOPER: &str = "developer@acme.example";

/// A home whose own identity is refused by the registry, and the key of one that is not.
fn with_key() -> (Sandbox, PathBuf) {
    let sandbox = with_package();
    sandbox.sign_in();
    sandbox.google.deny(DEVELOPER);
    let key = sandbox.service_account();
    (sandbox, key)
}

fn args(sandbox: &Sandbox, key: Option<&Path>, more: &[&str]) -> Run {
    let mut command = sandbox.valetkey();
    command.args(["docker", "args", &repository(sandbox, "acme/private")]).args(more);
    sandbox.run(command.envs(key.map(|key| ("GOOGLE_APPLICATION_CREDENTIALS", key))))
}

/// What names this key to the daemon.
pub(super) fn whose(key: &Path) -> String {
    format!(r#"{{"source": {{"kind": "file", "path": "{}"}}}}"#, key.display())
}

fn fetch(sandbox: &Sandbox, socket: &Path) -> u16 {
    agent(socket, "GET", &page(sandbox, "acme/private"), "").0
}

#[test]
fn a_build_reads_as_the_one_who_opened_its_socket() {
    let (sandbox, key) = with_key();
    // The daemon starts here, and its own identity is the home's all the same.
    let named = opened(&args(&sandbox, Some(&key), &[]));
    let plain = opened(&args(&sandbox, None, &[]));
    assert_eq!((fetch(&sandbox, &named), fetch(&sandbox, &plain)), (200, 403));
    let listed = |socket: &Path| -> Value {
        let status = sandbox.run(sandbox.valetkey().args(["status", "--json"]));
        let status: Value = serde_json::from_str(&status.stdout).unwrap();
        let all = status["listeners"].as_array().unwrap();
        let own = all.iter().find(|listener| listener["address"] == socket.to_str().unwrap());
        own.unwrap()["source"].clone()
    };
    assert_eq!(listed(&named), format!("credential file {}", key.display()));
    assert_eq!(listed(&plain), Value::Null);
    let status = sandbox.run(sandbox.valetkey().arg("status")).stdout;
    let said = format!("source: credential file {}", key.display());
    assert_eq!(status.matches(&said).count(), 1, "{status}");
    // And goes on so, whoever starts the next daemon.
    sandbox.make_room();
    let daemon = sandbox.serve();
    assert_eq!((fetch(&sandbox, &named), fetch(&sandbox, &plain)), (200, 403));
    Sandbox::wait_until("the line", || daemon.log().contains("builder@acme.iam.gserviceaccount.com"));
    assert!(
        sandbox
            .google
            .registry_requests()
            .iter()
            .all(|it| !it.headers.iter().any(|(name, _)| name.starts_with("valetkey")))
    );
}

#[test]
fn a_build_keeps_the_identity_of_a_daemon_that_was_killed() {
    let (sandbox, key) = with_key();
    let mut daemon = sandbox.serve_with(sandbox.valetkey().env("GOOGLE_APPLICATION_CREDENTIALS", &key));
    let before = opened(&args(&sandbox, None, &[]));
    daemon.kill();
    let after = opened(&args(&sandbox, None, &[]));
    assert_eq!((fetch(&sandbox, &before), fetch(&sandbox, &after)), (200, 200));
}

#[test]
fn a_token_for_a_build_is_that_of_the_one_who_opened_its_socket() {
    let (sandbox, key) = with_key();
    let socket = opened(&args(&sandbox, Some(&key), &["--tokens"]));
    let body = format!(r#"{{"url": "{}"}}"#, sandbox.index());
    let (status, _) = agent(&socket, "POST", "/v1/credential", &body);
    assert_eq!(status, 200);
    let identities: Vec<_> = sandbox.google.token_requests().into_iter().map(|it| it.identity).collect();
    assert_eq!(identities, [Some("builder@acme.iam.gserviceaccount.com".to_owned())]);
}

#[test]
fn a_credential_that_is_not_there_fails_the_build_and_no_other_takes_its_place() {
    let (sandbox, _) = with_key();
    let socket = opened(&args(&sandbox, Some(Path::new("/nowhere/key.json")), &[]));
    let (status, body) = agent(&socket, "GET", &page(&sandbox, "acme/private"), "");
    assert_eq!(status, 500, "{body}");
    assert!(body.contains("/nowhere/key.json"), "{body}");
    assert!(sandbox.google.registry_requests().is_empty());
}

/// `valetkey exec` where no socket is named.
fn exec(sandbox: &Sandbox, key: Option<&Path>, words: &[&str]) -> Run {
    let mut command = sandbox.valetkey();
    command.env("PATH", real_path(sandbox)).arg("exec").args(words);
    sandbox.run(command.envs(key.map(|key| ("GOOGLE_APPLICATION_CREDENTIALS", key))))
}

#[test]
fn a_command_reads_as_the_one_who_runs_it() {
    let (sandbox, key) = with_key();
    let url = format!("{}hello/", sandbox.index());
    let curl = ["--", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", &url];
    let status = |key: Option<&Path>| exec(&sandbox, key, &curl).stdout;
    assert_eq!((status(Some(&key)), status(None)), ("200".to_owned(), "403".to_owned()));
    // A client's own word on it does not count.
    let header = format!("valetkey-whose: {}", whose(&key));
    let words = ["--", "curl", "-sS", "-H", &header, "-o", "/dev/null", "-w", "%{http_code}", &url];
    assert_eq!(exec(&sandbox, None, &words).stdout, "403");
    // The index has the same one.
    let repository = repository(&sandbox, "acme/private");
    let words = ["--index", &repository, "--", "sh", "-c", "curl -sS $PIP_INDEX_URL/hello/"];
    let run = exec(&sandbox, Some(&key), &words);
    assert!(run.stdout.contains("hello-1.0"), "{run:?}");
}

/// A key is none that a helper starts a daemon for; a command that needs one starts it.
#[test]
fn a_command_starts_the_daemon_for_a_credential_that_is_named() {
    let sandbox = with_package();
    let key = sandbox.service_account();
    let url = format!("{}hello/", sandbox.index());
    let run = exec(&sandbox, Some(&key), &["--", "curl", "-sS", &url]);
    assert!(run.stdout.contains("hello-1.0"), "{run:?}");
    // With nothing that names an identity the sentence says so.
    let run = exec(&sandbox, None, &["--", "curl", "-sS", &url]);
    assert!(run.stderr.contains("valetkey login"), "{run:?}");
}

#[test]
fn a_path_that_is_no_text_is_refused_where_it_decides_and_passed_over_where_it_does_not() {
    let (sandbox, key) = with_key();
    let odd = |below: &str| {
        let path = sandbox.path(below).into_os_string().into_encoded_bytes();
        std::ffi::OsString::from_vec([path, b"\xff".to_vec()].concat())
    };
    let url = format!("{}hello/", sandbox.index());
    let granted = repository(&sandbox, "acme/private");
    let run = |key: &std::ffi::OsStr, home: &std::ffi::OsStr, words: &[&str]| {
        let mut command = sandbox.valetkey();
        command.env("PATH", real_path(&sandbox)).env("HOME", home);
        command.env("XDG_CONFIG_HOME", sandbox.path("home/.config"));
        sandbox.run(command.env("GOOGLE_APPLICATION_CREDENTIALS", key).args(words))
    };
    let home = sandbox.path("home").into_os_string();
    for words in [&["docker", "args", &granted][..], &["exec", "--", "curl", "-sS", &url]] {
        let refused = run(&odd("key"), &home, words);
        let flag = "--valetkey-docker-args-failed--the-path-of-the-credential-is-not-text\n";
        let printed = if words[0] == "docker" { flag } else { "" };
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), printed), "{refused:?}");
        assert!(refused.stderr.contains("the path of the credential is not text"), "{refused:?}");
        let done = run(key.as_os_str(), &odd("elsewhere"), words);
        assert!(done.code == Some(0) && !done.stdout.is_empty(), "{done:?}");
    }
}

#[test]
fn only_the_owner_says_whose_token() {
    let (sandbox, key) = with_key();
    sandbox.configure(&format!("[build]\nrepositories = [\"{}\"]\n", repository(&sandbox, "acme/private")));
    let _daemon = sandbox.serve();
    let whose = whose(&key);
    let ask = |socket: &Path, whose: &str| {
        let headers = format!("host: x\r\nvaletkey-whose: {whose}\r\n");
        let message = message("GET", &page(&sandbox, "acme/private"), &headers, "");
        on_stream(std::os::unix::net::UnixStream::connect(socket).unwrap(), &message)
    };
    assert_eq!(ask(&sandbox.socket(), &whose).0, 200);
    assert_eq!(ask(&sandbox.socket(), "{}").0, 403);
    for odd in ["mine", "{\"source\": \"mine\"}", &whose.replace("source", "sources"), "{\"a\":\u{ff}"] {
        let (status, body) = ask(&sandbox.socket(), odd);
        assert_eq!(status, 400, "{odd}: {body}");
    }
    let (status, body) = ask(&container(&sandbox), &whose);
    assert!(status == 403 && body.contains("on the owner's socket only"), "{body}");
    let named = format!(
        r#"{{"repositories": ["{}"], "seconds": 60, "whose": {whose}}}"#,
        repository(&sandbox, "acme/private")
    );
    assert_eq!(unix(&container(&sandbox), "POST", "/v1/listeners", &named).0, 404);
    assert_eq!(agent(&build(&sandbox), "POST", "/v1/listeners", &named).0, 404);
    assert_eq!(unix(&sandbox.socket(), "POST", "/v1/listeners", &named).0, 200);
}
