//! pip in the middle of a download when the daemon goes for good: it hears of a broken connection, whatever its patience,
//! and never takes the half for the whole.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::client::{Client, site};
use super::harness::{Run, Sandbox, finish};
use super::stand_in::Fault;

const PATIENCE: Duration = Duration::from_secs(100);

/// `pip install` under `exec`, with the daemon killed when the file is half there.
fn lost(client: &str, flags: &[&str]) -> Option<Run> {
    let client = Client::find(client)?;
    let sandbox = Sandbox::new();
    sandbox.google.add_large_package("acme", "private", "acme-hello", "1.0.0", 4 << 20);
    sandbox.google.registry_fault_always("/artifacts-downloads/", Fault::HalfThenSilence);
    sandbox.sign_in();
    let mut daemon = sandbox.serve();
    let mut pip: Command = sandbox.valetkey();
    pip.args(["exec", "--"])
        .arg(client.program("python"))
        .args(["-m", "pip", "install", "--no-input", "--no-cache-dir", "--no-deps", "--target"])
        .arg(site(&sandbox))
        .args(["--index-url", &sandbox.index()])
        .args(flags)
        .arg("acme-hello")
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("SSL_CERT_FILE", sandbox.path("ca.pem"))
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    let start = Instant::now();
    let mut child = pip.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // pip says so when the head of the answer is there.
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("Downloading") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "{:?}", finish(child, start, PATIENCE));
    }
    daemon.kill();
    child.stdout = Some(said.into_inner());
    Some(finish(child, start, PATIENCE))
}

/// What pip says of the end of one connection is pip's; that it is one, and whose, is seen here.
#[track_caller]
fn assert_told(run: &Run) {
    assert_ne!(run.code, Some(0), "{run:?}");
    let all = format!("{}{}", run.stdout, run.stderr);
    for false_alarm in ["DO NOT MATCH", "tampered", "Read timed out", "BadZipFile", "is invalid"] {
        assert!(!all.contains(false_alarm), "{false_alarm}: {all}");
    }
    let lines: Vec<&str> = run
        .stderr
        .lines()
        .filter(|line| line.starts_with("valetkey: ") && line.contains("broken off"))
        .collect();
    let [line] = lines.as_slice() else { panic!("{all}") };
    assert!(line.contains(".whl was broken off in the middle: the daemon at "), "{line}");
    assert!(line.ends_with("see that the daemon runs where this was started, and run it again"), "{line}");
}

macro_rules! a_lost_daemon_is_told {
    ($($name:ident: $client:literal, $flags:expr;)*) => {
        $(#[test]
        fn $name() {
            if let Some(run) = lost($client, $flags) {
                assert_told(&run);
            }
        })*
    };
}

a_lost_daemon_is_told! {
    pip_20_3_4_hears_of_a_daemon_that_is_gone: "pip-20.3.4", &["--retries", "0"];
    pip_20_3_4_with_a_long_time_out_hears_of_a_daemon_that_is_gone: "pip-20.3.4", &["--timeout", "120"];
    pip_23_0_1_with_a_long_time_out_hears_of_a_daemon_that_is_gone: "pip-23.0.1", &["--timeout", "120"];
    pip_25_3_with_a_long_time_out_hears_of_a_daemon_that_is_gone: "pip-25.3", &["--timeout", "120"];
    pip_newest_hears_of_a_daemon_that_is_gone: "pip-newest", &[];
    pip_newest_with_a_long_time_out_hears_of_a_daemon_that_is_gone: "pip-newest", &["--timeout", "120"];
}
