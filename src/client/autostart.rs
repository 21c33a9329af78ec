//! Starts the daemon: one winner, quickly, with nothing of ours held open.
//!
//! The daemon gets a session of its own, `/` as its directory, no descriptor of ours and a cleaned environment:
//! what this process was told about credentials travels in the ask, not in the daemon.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::request::call_own;
use crate::carrier::unix::connect;
use crate::durable::open_lock;
use crate::environment::Environment;
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::http::headers::SUCCESSOR;
use crate::paths::{Paths, ensure_private};
use crate::sys::users::check_distinct;

/// Starts the daemon, or waits for the one that another helper is starting.
///
/// # Errors
/// When it does not come up in time: the caller answers by itself then.
pub fn start(paths: &Paths, environment: &Environment, until: Instant) -> Result<(), Failure> {
    check_distinct()?;
    ensure_private(&paths.runtime)?;
    let starting = paths.runtime.join("start.lock");
    let lock = open_lock(&starting)
        .map_err(|error| failed(&format!("cannot write {}: {error}", shown_path(&starting))))?;
    // Whoever holds it starts the daemon; the others wait for the socket all the same.
    let mut child = if lock.try_lock().is_ok() && !answers(paths) {
        Some(command(environment)?.spawn().map_err(|error| failed(&error.to_string()))?)
    } else {
        None
    };
    let give_up = until.min(Instant::now() + PATIENCE);
    while Instant::now() < give_up {
        if answers(paths) {
            return Ok(());
        }
        if let Some(child) = &mut child
            && let Ok(Some(status)) = child.try_wait()
            && !status.success()
        {
            return Err(failed("it ended at once; `valetkey serve` shows why"));
        }
        std::thread::sleep(STEP);
    }
    Err(failed("it did not come up in time; `valetkey serve` shows why"))
}

/// Asks an older daemon to end and starts a new one, which waits for the old one's lock. Nothing depends on it:
/// the answer has been given.
pub fn replace(paths: &Paths, environment: &Environment) {
    let soon = Instant::now() + Duration::from_millis(500);
    let stop = format!("/v1/stop?{SUCCESSOR}");
    if call_own(&paths.socket(), "POST", &stop, soon).is_ok()
        && let Ok(mut command) = command(environment)
    {
        let _ = command.spawn();
    }
}

fn answers(paths: &Paths) -> bool {
    connect(&paths.socket(), Duration::from_millis(200)).is_ok()
}

fn command(environment: &Environment) -> Result<Command, Failure> {
    let program = std::env::current_exe().map_err(|error| failed(&error.to_string()))?;
    let mut command = Command::new(program);
    command
        // The file may be named `keyring`, and then its name would choose the face.
        .arg0("valetkey")
        .args(["serve", "--started-by-helper"])
        .current_dir("/")
        .env_clear()
        .envs(environment.iter().filter(|(name, _)| is_passed_on(name)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(command)
}

/// What a daemon for the whole session may know of the environment of the one program that happened to ask first.
fn is_passed_on(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    PASSED_ON.contains(&name) || name.starts_with("LC_") || name.starts_with("XDG_")
}

fn failed(reason: &str) -> Failure {
    Failure::new(Kind::Local, format!("cannot start the daemon: {reason}"))
        .with_hint("set VALETKEY_AUTO_START=false to do without it")
}

const PASSED_ON: [&str; 25] = [
    "HOME",
    "PATH",
    "USER",
    "LOGNAME",
    "LANG",
    "TMPDIR",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "PIP_CONFIG_FILE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "DBUS_SESSION_BUS_ADDRESS",
    "VALETKEY_IDLE",
    "VALETKEY_LOG",
    "HTTP_PROXY",
    "http_proxy",
];
/// It is ready in a fraction of this.
const PATIENCE: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(2);
