//! `valetkey stop` and `valetkey reload`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::carrier::unix::connect;
use crate::client::Client;
use crate::client::locate::Carrier;
use crate::client::request::{Reply, Silence, call, call_own};
use crate::daemon::instance::read_note;
use crate::environment::Environment;
use crate::error::{Failure, Kind};
use crate::http::server::failure_from_problem;

pub(super) fn stop(environment: Environment) -> Result<ExitCode, Failure> {
    let client = Client::new(environment, None)?;
    let (carrier, _) = client.locate()?;
    let note = || read_note(&client.paths.lock()).map(|note| note.pid);
    let before = note();
    control(&client, "POST", "/v1/stop")?;
    // It gives what it owes first. The note goes with the lock, at the very end; of a daemon elsewhere only the
    // socket can be seen.
    let is_gone = || match &carrier {
        Carrier::Owner(_) | Carrier::Agent(_) => before.is_none() || note() != before,
        Carrier::Found { path, .. } => connect(path, STEP).is_err(),
    };
    let give_up = Instant::now() + DRAIN;
    while !is_gone() {
        if Instant::now() > give_up {
            return Err(Failure::new(Kind::Local, "the daemon was asked to end and is still there")
                .with_hint("look at its log, or whether an init system starts it again"));
        }
        std::thread::sleep(STEP);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn reload(environment: Environment) -> Result<ExitCode, Failure> {
    let client = Client::new(environment, None)?;
    control(&client, "POST", "/v1/reload")?;
    Ok(ExitCode::SUCCESS)
}

/// A control request to the daemon that decides for this process.
pub(super) fn control(client: &Client, method: &str, target: &str) -> Result<Reply, Failure> {
    let until = Instant::now() + Duration::from_secs(5);
    let reply = match client.locate()?.0 {
        Carrier::Found { path, by } => {
            call(&path, method, target, until).map_err(|silence| silence.at(&path, by))
        }
        Carrier::Agent(path) => {
            let text = format!("the daemon behind {} gives no control from here", path.display());
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
