//! The asking side: find the daemon, ask it, start it where that is wanted, or answer in process with the same
//! identity.
//!
//! The fast path of a helper is one blocking request on a socket: no runtime, no TLS, no keychain.

pub mod autostart;
pub mod delegate;
pub mod fallback;
pub mod locate;
pub mod refusals;
pub mod request;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ask::{Ask, Credential, NamedSource};
use crate::client::locate::Carrier;
use crate::client::request::{Reply, Silence};
use crate::config::Config;
use crate::environment::Environment;
use crate::error::{Failure, Kind};
use crate::http::server::failure_from_problem;
use crate::paths::{Paths, check_private};

/// Asks on behalf of one process.
#[derive(Debug)]
pub struct Client {
    pub environment: Environment,
    pub paths: Paths,
    pub config: Config,
    /// The flag that names a source.
    pub flag: Option<PathBuf>,
}

/// A credential, and what a person should hear beside it.
#[derive(Debug)]
pub struct Got {
    pub credential: Credential,
    pub warning: Option<Failure>,
}

impl Client {
    /// Looks at the environment and reads the configuration. `flag` is what `--credential` says.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn new(environment: Environment, flag: Option<PathBuf>) -> Result<Self, Failure> {
        let paths = Paths::new(&environment);
        let config = Config::load(&environment, &paths)?;
        Ok(Self { environment, paths, config, flag })
    }

    /// Who answers, and what this process names as its source.
    ///
    /// # Errors
    /// When a socket is named that cannot be one.
    pub fn locate(&self) -> Result<(Carrier, Option<NamedSource>), Failure> {
        locate::locate(&self.environment, &self.paths, self.flag.as_deref())
    }

    /// Gets a credential before the ask's deadline, whatever the network does.
    ///
    /// # Errors
    /// What the daemon, or the source in process, says.
    pub fn credential(&self, mut ask: Ask) -> Result<Got, Failure> {
        let until = Instant::now() + ask.deadline;
        let (carrier, named) = self.locate()?;
        ask.source = named;
        match carrier {
            Carrier::Found { path, by } => {
                let reply = request::ask(&path, &ask, until).map_err(|silence| silence.at(&path, by))?;
                Ok(Got { credential: read(&reply)?, warning: None })
            }
            Carrier::Owner(path) => self.ask_owner(&path, ask, until),
        }
    }

    /// Asks the owner's daemon. Only where it cannot be reached or stays silent is the answer made here.
    fn ask_owner(&self, path: &Path, ask: Ask, until: Instant) -> Result<Got, Failure> {
        let warning = match check_private(&self.paths.runtime) {
            Ok(true) => match request::ask_own(path, &ask, until) {
                Ok(reply) => return self.read_owned(&reply),
                Err(Silence::Foreign(uid)) => Some(
                    Failure::new(Kind::Local, format!("{} is served by uid {uid}", path.display()))
                        .with_hint("end that process, or remove the socket"),
                ),
                Err(_) => None,
            },
            Ok(false) => None,
            // Whoever can reach into that directory could answer in the daemon's place.
            Err(fault) => Some(fault.into()),
        };
        let note = self.left_behind(&ask);
        if warning.is_none() && self.config.auto_start && fallback::lives_long(self, note.as_ref()) {
            match autostart::start(&self.paths, &self.environment, until) {
                Ok(()) => {
                    if let Ok(reply) = request::ask_own(path, &ask, until) {
                        return self.read_owned(&reply);
                    }
                }
                Err(failure) => {
                    let credential = self.answer_here(ask, note, until)?;
                    return Ok(Got { credential, warning: Some(failure) });
                }
            }
        }
        let credential = self.answer_here(ask, note, until).map_err(|mut failure| {
            // The reason for not asking the daemon matters only where nothing else worked.
            failure.causes.extend(warning.as_ref().map(Failure::one_line));
            failure
        })?;
        Ok(Got { credential, warning })
    }

    /// The source that a killed daemon had been given for asks that name none.
    fn left_behind(&self, ask: &Ask) -> Option<NamedSource> {
        let note = || crate::daemon::instance::read_note(&self.paths.lock())?.source;
        ask.source.clone().or_else(note)
    }

    fn answer_here(
        &self,
        ask: Ask,
        source: Option<NamedSource>,
        until: Instant,
    ) -> Result<Credential, Failure> {
        let left = until.saturating_duration_since(Instant::now());
        if left < SHORTEST {
            return Err(Failure::new(Kind::Deadline, "the daemon did not answer in time")
                .with_hint("run `valetkey status`, or `valetkey stop` to start afresh"));
        }
        fallback::credential(self, &Ask { source, deadline: left, ..ask })
    }

    fn read_owned(&self, reply: &Reply) -> Result<Got, Failure> {
        let got = read(reply)?;
        if reply.is_replaceable() {
            autostart::replace(&self.paths, &self.environment);
        }
        Ok(Got { credential: got, warning: None })
    }
}

/// The credential in a reply, or the failure.
fn read(reply: &Reply) -> Result<Credential, Failure> {
    let strange = || {
        Failure::new(Kind::Local, "the daemon's answer is not one that valetkey understands")
            .with_hint("run `valetkey stop` and try again")
    };
    if reply.status == 200 {
        Credential::from_json(&reply.body).ok_or_else(strange)
    } else {
        Err(failure_from_problem(&reply.body).unwrap_or_else(strange))
    }
}

/// Less time than this is not worth a try.
const SHORTEST: Duration = Duration::from_millis(100);
