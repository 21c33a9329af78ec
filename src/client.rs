//! The asking side: find the daemon, ask it, start it where that is wanted, or answer in process with the same
//! identity.
//!
//! The fast path of a helper is one blocking request on a socket: no runtime, no TLS, no keychain.

pub mod autostart;
pub mod delegate;
pub mod fallback;
pub mod granted;
pub mod locate;
pub mod refusals;
pub mod request;
pub mod resume;
pub mod stream;
pub mod token_file;

use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ask::{Ask, Credential, NamedSource, Whose};
use crate::client::locate::Carrier;
use crate::client::request::{Reply, Silence};
use crate::config::Config;
use crate::daemon::instance::read_note;
use crate::environment::Environment;
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::http::server::failure_from_problem;
use crate::paths::{Paths, check_private};
use crate::registry::Registry;
use crate::sys::users::shown;

/// Asks on behalf of one process.
#[derive(Debug)]
pub struct Client {
    pub environment: Environment,
    pub paths: Paths,
    pub config: Config,
    /// The flag that names a source.
    pub flag: Option<PathBuf>,
    /// A daemon answered that is older than we are, and that a helper started.
    outdated: Cell<bool>,
    located: OnceCell<Result<(Carrier, Option<NamedSource>), Failure>>,
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
        let (outdated, located) = (Cell::new(false), OnceCell::new());
        Ok(Self { environment, paths, config, flag, outdated, located })
    }

    /// Who answers, and what this process names as its source.
    ///
    /// # Errors
    /// When a socket is named that cannot be one, or a variable that decides cannot be read.
    pub fn locate(&self) -> Result<(Carrier, Option<NamedSource>), Failure> {
        self.locate_by(Instant::now() + UNHURRIED)
    }

    /// The same for somebody who has until then. Looked for once: each mounted agent is asked.
    fn locate_by(&self, until: Instant) -> Result<(Carrier, Option<NamedSource>), Failure> {
        let locate = || locate::locate(&self.environment, &self.paths, self.flag.as_deref(), until);
        self.located.get_or_init(locate).clone()
    }

    /// What the owner's daemon is told of this process, so that it decides for it as this process would.
    #[must_use]
    pub fn whose(&self, source: Option<NamedSource>) -> Whose {
        // A path that is no text cannot be said. The daemon's own home decides then, which is this one in practice.
        let is_text = |path: &PathBuf| path.to_str().is_some_and(|text| !text.contains(char::is_control));
        let text = |path: &Option<PathBuf>| path.clone().filter(is_text);
        Whose { source, directory: text(&self.paths.gcloud), state: text(&self.paths.state) }
    }

    /// Whether somebody else answers, by a configuration that is not ours.
    #[must_use]
    pub fn is_elsewhere(&self, until: Instant) -> bool {
        matches!(self.locate_by(until), Ok((Carrier::Found { .. } | Carrier::Agent(_), _)))
    }

    /// Whether the configuration says which account this registry is for.
    #[must_use]
    pub fn has_rule_for(&self, registry: &Registry) -> bool {
        let project = registry.repository.as_ref().map(|(project, _)| project.as_str());
        self.config.accounts.iter().any(|rule| rule.matches(&registry.host, project))
    }

    /// Gets a credential before the ask's deadline, whatever the network does.
    ///
    /// # Errors
    /// What the daemon, or the source in process, says.
    pub fn credential(&self, mut ask: Ask) -> Result<Got, Failure> {
        let until = Instant::now() + ask.deadline;
        let (carrier, named) = self.locate_by(until)?;
        match carrier {
            Carrier::Found { path, by } => {
                let reply = request::ask(&path, &ask, until).map_err(|silence| silence.at(&path, by))?;
                Ok(Got { credential: read(&reply)?, warning: None })
            }
            Carrier::Agent(path) => {
                let reply = request::ask_agent(&path, &ask, until)?;
                Ok(Got { credential: read(&reply)?, warning: None })
            }
            Carrier::Owner(path) => {
                ask.whose = self.whose(named);
                self.ask_owner(&path, ask, until)
            }
        }
    }

    /// Sees to it that the owner's daemon runs, where a source was named or the identity is one that a daemon is worth
    /// starting for. Where neither is so, this may be a container that a socket should have been mounted into.
    ///
    /// # Errors
    /// When nobody may be trusted to answer there, or it does not come up.
    pub fn start_daemon(&self, named: Option<&NamedSource>, until: Instant) -> Result<(), Failure> {
        let path = self.paths.socket();
        check_private(&self.paths.runtime)?;
        match request::call_own(&path, "GET", "/health/live", until.min(Instant::now() + PULSE)) {
            Ok(_) => Ok(()),
            Err(Silence::Unreachable(_))
                if self.config.auto_start
                    && self.left_behind().is_none()
                    && (named.is_some() || fallback::lives_long(self, None)) =>
            {
                autostart::start(&self.paths, &self.environment, until)
            }
            Err(silence @ Silence::Unreachable(_)) => {
                if let Some(closed) = locate::closed(&self.environment) {
                    return Err(closed);
                }
                let hint = "run `valetkey serve`; in a build or a container, mount a socket";
                Err(silence.at(&path, "your own daemon").with_hint(hint))
            }
            Err(silence) => Err(silence.at(&path, "your own daemon")),
        }
    }

    /// The source that a killed daemon had been given for asks that name none.
    #[must_use]
    pub fn left_behind(&self) -> Option<NamedSource> {
        // Whoever can write the note chooses an identity.
        let private = matches!(check_private(&self.paths.runtime), Ok(true));
        private.then(|| read_note(&self.paths.lock())).flatten()?.source
    }

    /// What may wait until the answer has been given: an older daemon makes room for one of this version.
    pub fn tidy(&self) {
        if self.outdated.take() {
            autostart::replace(&self.paths, &self.environment);
        }
    }

    /// Asks the owner's daemon. Only where it cannot be reached, stays silent, or is not ours, is the answer made
    /// here.
    fn ask_owner(&self, path: &Path, ask: Ask, until: Instant) -> Result<Got, Failure> {
        let mut warning = match check_private(&self.paths.runtime) {
            // Whoever can reach into that directory could answer in the daemon's place.
            Err(fault) => Some(fault.into()),
            Ok(false) => None,
            Ok(true) => match request::ask_own(path, &ask, until) {
                Ok(reply) => return self.read_owned(&reply),
                Err(Silence::Unreachable(_)) => None,
                Err(Silence::Silent(_) | Silence::Stuck { .. }) => return self.answer_here(ask, None, until),
                Err(Silence::Foreign(uid)) => Some(
                    Failure::new(Kind::Local, format!("{} is served by {}", shown_path(path), shown(uid)))
                        .with_hint("end that process, or remove the socket"),
                ),
            },
        };
        let left_behind = self.left_behind().is_some();
        if ask.whose.source.is_none()
            && !left_behind
            && let Some(credential) = self.read_token_file(&ask)?
        {
            return Ok(Got { credential, warning });
        }
        // A daemon that was killed leaves its identity to its helpers, and nobody starts one without it.
        let starts = warning.is_none() && !left_behind && self.config.auto_start;
        if starts && fallback::lives_long(self, ask.whose.source.as_ref()) {
            match autostart::start(&self.paths, &self.environment, until) {
                Ok(()) => {
                    if let Ok(reply) = request::ask_own(path, &ask, until) {
                        return self.read_owned(&reply);
                    }
                }
                Err(failure) => warning = Some(failure),
            }
        }
        self.answer_here(ask, warning, until)
    }

    fn read_token_file(&self, ask: &Ask) -> Result<Option<Credential>, Failure> {
        let world = fallback::sources(&self.config, &self.environment, &self.paths, None).world;
        token_file::credential(&self.config, &world, ask)
    }

    /// Answers in process, with the identity that the daemon would have used.
    fn answer_here(&self, mut ask: Ask, warning: Option<Failure>, until: Instant) -> Result<Got, Failure> {
        let left = until.saturating_duration_since(Instant::now());
        if left < Ask::SHORTEST {
            return Err(Failure::new(Kind::Deadline, "the daemon did not answer in time")
                .with_hint("run `valetkey status`, or `valetkey stop` to start afresh"));
        }
        ask.deadline = left;
        if ask.whose.source.is_none() {
            ask.whose.source = self.left_behind();
        }
        let answer = fallback::credential(self, &ask);
        match answer {
            Ok(credential) => Ok(Got { credential, warning }),
            Err(mut failure) => {
                // Why the daemon was not asked matters only where nothing else worked either.
                failure.causes.extend(warning.as_ref().map(Failure::one_line));
                Err(failure)
            }
        }
    }

    fn read_owned(&self, reply: &Reply) -> Result<Got, Failure> {
        self.outdated.set(reply.is_replaceable());
        Ok(Got { credential: read(reply)?, warning: None })
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

/// Longer than all agents of a build together are given.
const UNHURRIED: Duration = Duration::from_secs(60);
/// A daemon that lives answers this at once; a machine may be busy.
const PULSE: Duration = Duration::from_secs(10);
