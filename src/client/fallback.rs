//! The same broker, in process: for machines without a daemon, and for the moment in which one is gone.

use std::sync::Arc;
use std::time::Duration;

use super::Client;
use crate::ask::{Access, Ask, Credential, NamedSource};
use crate::broker::Broker;
use crate::broker::choice::{Candidate, Sources};
use crate::clock::Clock;
use crate::config::Config;
use crate::environment::Environment;
use crate::error::{Failure, Kind};
use crate::google::accounts::Accounts;
use crate::google::credential_file::CredentialFile;
use crate::google::endpoints::Endpoints;
use crate::google::gcloud::Turn;
use crate::google::source::World;
use crate::http::client::HttpClient;
use crate::paths::Paths;
use crate::registry::Hosts;

/// The sources that configuration and environment describe.
#[must_use]
pub fn sources(
    config: &Config,
    environment: &Environment,
    paths: &Paths,
    default: Option<NamedSource>,
) -> Sources {
    let world = World {
        http: HttpClient::new(environment, config.extra_ca.clone()),
        endpoints: Endpoints::new(config.endpoints.clone()),
        environment: environment.clone(),
        clock: Clock::system(),
        policy: config.policy.clone(),
        gcloud: Turn::default(),
        lingers: Duration::ZERO,
    };
    Sources::new(world, paths, config.accounts.clone(), default)
}

/// Answers one ask here and now.
///
/// # Errors
/// What the source says.
pub fn credential(client: &Client, ask: &Ask) -> Result<Credential, Failure> {
    let sources = sources(&client.config, &client.environment, &client.paths, None);
    let clock = sources.world.clock;
    let broker = Broker::new(Hosts::new(&client.config.registries), sources, clock, Arc::default());
    let runtime = runtime()?;
    let outcome = runtime.block_on(broker.credential(ask, Access::Write));
    // A look-up of a name cannot be cancelled; it must not hold the helper.
    runtime.shutdown_background();
    outcome.map(|given| given.credential)
}

/// A runtime for one question.
///
/// # Errors
/// When the system has no resources left.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Local, "cannot start").with_cause(error))
}

/// Whether the identity that decides is one that a daemon is worth starting for: a user's sign-in.
#[must_use]
pub fn lives_long(client: &Client, source: Option<&NamedSource>) -> bool {
    let sources = sources(&client.config, &client.environment, &client.paths, None);
    let mut candidates = sources.candidates(source);
    candidates.truncate(FIRST);
    // A file system that does not answer must not hold the helper: then there is nothing to start a daemon for.
    let (tell, told) = std::sync::mpsc::channel();
    let look = move || {
        let lives = candidates.iter().find_map(|candidate| match candidate {
            Candidate::StoredLogin { state, .. } => {
                let accounts = Accounts::load(state).ok()?;
                (!accounts.logins.is_empty()).then_some(true)
            }
            Candidate::File(path) | Candidate::ApplicationDefault(path) => {
                let file = CredentialFile::read(path, &sources.world.endpoints);
                Some(matches!(file, Ok(CredentialFile::AuthorizedUser(_))))
            }
            // What systemd hands to this very service is nothing that a daemon outside of it would have.
            Candidate::Systemd(path) => path.exists().then_some(false),
            _ => None,
        });
        let _ = tell.send(lives.unwrap_or(false));
    };
    std::thread::Builder::new().spawn(look).is_ok()
        && told.recv_timeout(Duration::from_secs(1)).unwrap_or(false)
}

/// A stored login, and the file that gcloud wrote.
const FIRST: usize = 3;
