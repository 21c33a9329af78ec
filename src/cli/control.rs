//! `valetkey stop` and `valetkey reload`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::terminal;
use crate::carrier::unix::connect;
use crate::client::Client;
use crate::client::locate::Carrier;
use crate::client::request::{Reply, Silence, call, call_own};
use crate::daemon::instance::{Instance, read_note};
use crate::daemon::opening;
use crate::environment::Environment;
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind, printable};
use crate::http::server::failure_from_problem;
use crate::paths::check_private;

pub(super) fn stop(environment: Environment) -> Result<ExitCode, Failure> {
    let client = Client::new(environment, None)?;
    let (carrier, _) = client.locate()?;
    let note = || read_note(&client.paths.lock()).map(|note| note.pid);
    let before = note();
    if let Err(failure) = control(&client, "POST", "/v1/stop") {
        if failure.kind == Kind::NotFound {
            forget_openings(&client);
        }
        return Err(failure);
    }
    // It gives what it owes first. The note goes with the lock, at the very end; of a daemon elsewhere only the
    // socket can be seen.
    let is_gone = || match &carrier {
        Carrier::Owner(_) | Carrier::Agent(_) => before.is_none() || note() != before,
        Carrier::Found { path, .. } => connect(path, STEP).is_err(),
    };
    let give_up = Instant::now() + DRAIN;
    while !is_gone() {
        if Instant::now() > give_up {
            let (which, end) = match note() {
                Some(pid) => (format!(" (pid {pid})"), format!("; `kill -9 {pid}` ends it at once")),
                None => Default::default(),
            };
            let text = format!("the daemon{which} was asked to end and is still there");
            let hint = format!("look at its log, or whether an init system starts it again{end}");
            return Err(Failure::new(Kind::Local, text).with_hint(hint));
        }
        std::thread::sleep(STEP);
    }
    Ok(ExitCode::SUCCESS)
}

/// A daemon that was killed has left its list of sockets for builds: whoever says `stop` wants them closed.
fn forget_openings(client: &Client) {
    let runtime = &client.paths.runtime;
    let private = matches!(check_private(runtime), Ok(true));
    if private && Instance::acquire(&client.paths.lock(), Duration::ZERO).is_ok() {
        opening::forget(runtime);
    }
}

/// Says what could not be opened, and what has to wait: all else counts.
pub(super) fn reload(environment: Environment) -> Result<ExitCode, Failure> {
    let client = Client::new(environment, None)?;
    let reply = control(&client, "POST", "/v1/reload")?;
    // An older daemon says less.
    let reloaded: Reloaded = serde_json::from_slice(&reply.body).unwrap_or_default();
    for key in &reloaded.next_start {
        terminal::say(&format!("`{}` counts from the daemon's next start on\n", printable(key)));
    }
    for closed in &reloaded.not_opened {
        let mut failure = Failure::new(Kind::Local, printable(&closed.detail));
        failure.causes = closed.causes.iter().map(|cause| printable(cause)).collect();
        failure.hint = closed.hint.as_deref().map(printable);
        terminal::report(&failure);
    }
    if reloaded.not_opened.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    terminal::say("the rest of the configuration counts\n");
    Ok(ExitCode::from(Kind::Local.exit_code()))
}

#[derive(Default, Deserialize)]
struct Reloaded {
    #[serde(default)]
    not_opened: Vec<Closed>,
    #[serde(default)]
    next_start: Vec<String>,
}

/// A listener that could not be opened.
#[derive(Deserialize)]
struct Closed {
    detail: String,
    #[serde(default)]
    causes: Vec<String>,
    hint: Option<String>,
}

/// A control request to the daemon that decides for this process.
pub(super) fn control(client: &Client, method: &str, target: &str) -> Result<Reply, Failure> {
    let until = Instant::now() + Duration::from_secs(5);
    let reply = match client.locate()?.0 {
        Carrier::Found { path, by } => {
            call(&path, method, target, until).map_err(|silence| silence.at(&path, by))
        }
        Carrier::Agent(path) => {
            let text = format!("the daemon behind {} gives no control from here", shown_path(&path));
            return Err(Failure::new(Kind::Refused, text).with_hint("ask where the daemon runs"));
        }
        Carrier::Owner(path) => call_own(&path, method, target, until).map_err(|silence| match silence {
            Silence::Unreachable(_) => Failure::new(Kind::NotFound, "no daemon is running"),
            silence => silence.at(&path, "the socket of this user"),
        }),
    }?;
    if reply.status == 200 {
        return Ok(reply);
    }
    let strange = || Failure::new(Kind::Local, format!("the daemon answered with status {}", reply.status));
    Err(failure_from_problem(&reply.body).unwrap_or_else(strange))
}

const DRAIN: Duration = Duration::from_secs(12);
const STEP: Duration = Duration::from_millis(10);
