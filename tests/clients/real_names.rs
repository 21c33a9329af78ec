//! One run as on a user's machine: Google's real names, the system's own trust, no setting anywhere. The names lead to
//! the stand-in inside namespaces that nothing leaves.

use std::fs;
use std::process::Command;

use super::client::{Client, assert_success, path, run, site, skip};
use super::harness::Sandbox;

#[test]
fn pip_newest_installs_from_googles_own_names_without_any_setting() {
    let Some(client) = Client::find("pip-newest") else { return };
    if let Err(reason) = namespaces() {
        return skip(&reason);
    }
    // Its own stand-in is not met: there is no network between them.
    let sandbox = Sandbox::new();
    fs::remove_dir_all(sandbox.path("home/.config")).expect("the configuration is gone");

    let mut machine = in_namespaces();
    machine
        .args(["sh", "-c", include_str!("real_names.sh"), "sh", env!("CARGO_BIN_EXE_stand-in")])
        .arg(sandbox.path(""))
        .arg(client.program("python"))
        .args(["-m", "pip", "install", "--no-cache-dir", "--keyring-provider", "subprocess"])
        .args(["--index-url", "https://europe-west1-python.pkg.dev/acme/private/simple/", "--target"])
        .arg(site(&sandbox))
        .arg("acme-hello");
    let run = run(&sandbox, &mut machine);
    assert_success(&run);
    client.assert_installed(&sandbox);

    // A daemon was started, and gave the one token that there is to whoever asked: pip's look for a newer pip asks for
    // itself.
    let log = sandbox.log();
    let given = log.lines().filter(|line| line.contains("\"verdict\":\"given\"")).collect::<Vec<_>>();
    assert!(!given.is_empty(), "{log}");
    assert!(given.iter().all(|line| line.contains("\"registry\":\"europe-west1-python.pkg.dev\"")), "{log}");
    let secrets = fs::read_to_string(sandbox.path("google/secrets.txt")).expect("the stand-in's secrets");
    assert_eq!(secrets.lines().filter(|secret| secret.starts_with("ya29.")).count(), 1);
    for secret in secrets.lines() {
        let said = [&run.stdout, &run.stderr, &log];
        assert!(!said.iter().any(|text| text.contains(secret)), "a secret is in the output or the log");
    }
}

/// What it takes to make namespaces, which needs root: tried, not guessed.
fn namespaces() -> Result<(), String> {
    let reason =
        "namespaces need root, and the programs unshare, mount and ip: apt-get install util-linux iproute2";
    let output = in_namespaces()
        .args(["sh", "-c", "ip link set lo up && mount -t tmpfs tmpfs /etc/ssl/certs"])
        .output()
        .map_err(|error| format!("{reason} ({error})"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{reason} ({})", String::from_utf8_lossy(&output.stderr).trim()))
}

/// With the machine's programs, which are for making the namespaces only, and all that runs in them ending with them.
fn in_namespaces() -> Command {
    let mut command = Command::new("unshare");
    let programs = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    command
        .args(["--net", "--mount", "--propagation", "private"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .env_clear()
        .env("PATH", path(programs))
        .current_dir("/");
    command
}
