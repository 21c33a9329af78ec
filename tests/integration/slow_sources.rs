//! Sources that need longer than their asker waits: what they bring is there for the next one.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use super::harness::{Daemon, Sandbox};
use super::passing::{Answer, exchange};
use super::patience::hurry;
use super::stand_in::Fault;
use super::{assert_given, assert_refused};

/// A gcloud that notes its process, and gives a token when somebody opens its gate.
fn with_gate(sandbox: &Sandbox) -> (PathBuf, String) {
    let token = sandbox.google.issue_access_token("dev@acme.example", &[]);
    let answer =
        format!(r#"{{"credential": {{"access_token": "{token}", "token_expiry": "2100-01-01T00:00:00Z"}}}}"#);
    let script =
        format!("#!/bin/sh\necho $$ >> \"$HOME/calls\"\nread line < \"$HOME/gate\"\necho '{answer}'\n");
    sandbox.script("gcloud", &script);
    let gate = sandbox.path("home/gate");
    rustix::fs::mknodat(rustix::fs::CWD, &gate, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    (gate, token)
}

fn open(gate: &PathBuf) {
    fs::OpenOptions::new().write(true).open(gate).unwrap().write_all(b"go\n").unwrap();
}

/// The processes that gcloud has been.
fn calls(sandbox: &Sandbox) -> Vec<i32> {
    let calls = fs::read_to_string(sandbox.path("home/calls")).unwrap_or_default();
    calls.lines().map(|line| line.parse().unwrap()).collect()
}

fn is_alive(process: i32) -> bool {
    rustix::process::test_kill_process(rustix::process::Pid::from_raw(process).unwrap()).is_ok()
}

/// One ask that waits for a second.
fn ask(sandbox: &Sandbox, access: &str) -> Answer {
    let body = format!(r#"{{"url":"{}","access":"{access}","deadline_ms":1000}}"#, sandbox.index());
    let length = body.len();
    let head = format!(
        "POST /v1/credential HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    // The answer may hold a token, which is for nobody's eyes but the test's.
    Answer::read(&exchange(sandbox, format!("{head}{body}").as_bytes()), false)
}

#[track_caller]
fn assert_running(answer: &Answer) {
    let problem = answer.problem();
    assert_eq!((answer.status, &problem["detail"]), (504, &"gcloud is still running".into()), "{problem}");
    assert!(problem["hint"].as_str().unwrap().starts_with("ask again in a moment"), "{problem}");
}

#[test]
fn a_slow_gcloud_is_left_running_and_the_next_ask_finds_its_token() {
    let mut sandbox = Sandbox::new();
    sandbox.hunts_leaks = false;
    let (gate, token) = with_gate(&sandbox);
    let _daemon = sandbox.serve();
    for _ in 0..3 {
        assert_running(&ask(&sandbox, "read"));
    }
    assert_eq!(calls(&sandbox).len(), 1, "one for all of them");
    // What is asked of it for another purpose waits for its turn.
    assert_running(&ask(&sandbox, "write"));
    assert_eq!(calls(&sandbox).len(), 1, "one at a time");
    open(&gate);
    Sandbox::wait_until("the token is there", || {
        let answer = ask(&sandbox, "read");
        answer.status == 200 && answer.text().contains(&token)
    });
    Sandbox::wait_until("the other one has its turn", || calls(&sandbox).len() == 2);
    open(&gate);
    Sandbox::wait_until("its token is there", || ask(&sandbox, "write").status == 200);
    assert_eq!(assert_given(&sandbox.run(&mut sandbox.get())), token);
    assert_eq!(calls(&sandbox).len(), 2);
}

#[test]
fn a_gcloud_that_runs_ends_with_its_daemon() {
    let sandbox = Sandbox::new();
    with_gate(&sandbox);
    let mut daemon = sandbox.serve();
    assert_running(&ask(&sandbox, "read"));
    let process = calls(&sandbox)[0];
    assert!(is_alive(process));
    daemon.terminate();
    Sandbox::wait_until("it is gone", || !is_alive(process));
}

fn serve_hurried<'a>(sandbox: &'a Sandbox, library: &PathBuf) -> Daemon<'a> {
    sandbox.serve_with(sandbox.valetkey().env("LD_PRELOAD", library).env("FAKETIME", "+0 x20"))
}

#[test]
fn a_gcloud_that_never_ends_is_ended_after_two_minutes() {
    let Some(library) = hurry() else { return };
    let sandbox = Sandbox::new();
    with_gate(&sandbox);
    let _daemon = serve_hurried(&sandbox, &library);
    assert_running(&ask(&sandbox, "read"));
    let process = calls(&sandbox)[0];
    Sandbox::wait_until("it is ended", || !is_alive(process));
    let answer = ask(&sandbox, "read");
    // Either what is remembered of it, or the next one runs.
    let detail = answer.problem()["detail"].as_str().unwrap().to_owned();
    let is_late = detail.starts_with("gcloud did not answer within 12");
    assert!(is_late || detail == "gcloud is still running", "{detail}");
}

#[test]
fn without_a_daemon_the_sentence_says_that_one_would_let_it_finish() {
    let sandbox = Sandbox::new();
    with_gate(&sandbox);
    let run = sandbox.run(&mut sandbox.get());
    assert_refused(&run, "gcloud did not answer within");
    assert_refused(&run, "start a daemon with `valetkey serve`, which lets it finish");
    let process = calls(&sandbox)[0];
    Sandbox::wait_until("it is ended", || !is_alive(process));
}

#[test]
fn a_gcloud_that_ends_and_leaves_a_child_with_its_output_is_over() {
    let sandbox = Sandbox::new();
    symlink("/bin/sleep", sandbox.path("bin/sleep")).unwrap();
    let token = sandbox.google.issue_access_token("dev@acme.example", &[]);
    let answer =
        format!(r#"{{"credential": {{"access_token": "{token}", "token_expiry": "2100-01-01T00:00:00Z"}}}}"#);
    sandbox
        .script("gcloud", &format!("#!/bin/sh\nsleep 300 &\necho $! > \"$HOME/calls\"\necho '{answer}'\n"));
    assert_eq!(assert_given(&sandbox.run(&mut sandbox.get())), token);
    let left = calls(&sandbox)[0];
    Sandbox::wait_until("what it left behind is ended", || !is_alive(left));
}

#[test]
fn a_gcloud_that_asks_a_question_gets_no_answer_and_is_told() {
    let sandbox = Sandbox::new();
    let script =
        "#!/bin/sh\necho 'Do you want to continue (Y/n)?' >&2\nread line || { echo none >&2; exit 1; }\n";
    sandbox.script("gcloud", script);
    assert_refused(&sandbox.run(&mut sandbox.get()), "gcloud failed: Do you want to continue (Y/n)?");
}

#[test]
fn a_slow_token_endpoint_is_waited_for_and_the_next_ask_finds_the_token() {
    let mut sandbox = Sandbox::new();
    sandbox.hunts_leaks = false;
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    sandbox.google.token_faults(vec![Fault::Delay(Duration::from_secs(4))]);
    let answer = ask(&sandbox, "read");
    assert_eq!(answer.status, 504, "{answer:?}");
    let detail = answer.problem()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("localhost did not answer within 1 s"), "{detail}");
    Sandbox::wait_until("the token is there", || ask(&sandbox, "read").status == 200);
    assert_eq!(sandbox.google.token_requests().len(), 1);
}
