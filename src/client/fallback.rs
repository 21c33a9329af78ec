//! The same broker, in process: for machines without a daemon, and for the moment in which one is gone.

use super::Client;
use crate::ask::{Access, Ask, Credential, NamedSource};
use crate::broker::Broker;
use crate::broker::choice::{Candidate, Sources};
use crate::clock::Clock;
use crate::config::Config;
use crate::environment::Environment;
use crate::error::{Failure, Kind};
use crate::google::credential_file::{CredentialFile, Stamp};
use crate::google::endpoints::Endpoints;
use crate::google::source::World;
use crate::http::client::HttpClient;
use crate::paths::Paths;
use crate::registry::Hosts;

/// Makes the broker that configuration and environment describe.
#[must_use]
pub fn broker(
    config: &Config,
    environment: &Environment,
    paths: &Paths,
    default: Option<NamedSource>,
) -> Broker<Sources> {
    let clock = Clock::system();
    let world = World {
        http: HttpClient::new(environment, config.extra_ca.clone()),
        endpoints: Endpoints::new(config.token_endpoint.clone()),
        environment: environment.clone(),
        clock,
    };
    Broker::new(Hosts::new(&config.registries), Sources::new(world, paths, default), clock)
}

/// Answers one ask here and now.
///
/// # Errors
/// What the source says.
pub fn credential(client: &Client, ask: &Ask) -> Result<Credential, Failure> {
    let broker = broker(&client.config, &client.environment, &client.paths, None);
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
    let broker = broker(&client.config, &client.environment, &client.paths, None);
    let sources = broker.cache().upstream();
    match sources.candidates(source).first() {
        Some(Candidate::File(path) | Candidate::ApplicationDefault(path)) => {
            Stamp::of(path).is_some()
                && matches!(
                    CredentialFile::read(path, &sources.world.endpoints),
                    Ok(CredentialFile::AuthorizedUser(_))
                )
        }
        _ => false,
    }
}
