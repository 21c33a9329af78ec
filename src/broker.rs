//! Turns an [`Ask`] into a credential: decides whether the host may see a token, picks the source, and makes one
//! upstream call for any number of askers.
//!
//! The broker knows nothing of sockets or peers. A helper without a daemon runs the same broker in process.

pub mod cache;
pub mod choice;
pub mod freshness;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::ask::{Access, Ask, Credential, Whose};
use crate::broker::cache::{Cache, Digest, Key, Upstream, digest};
use crate::clock::Clock;
use crate::error::{Failure, Kind};
use crate::google::source::Minted;
use crate::registry::{Hosts, Registry, Rejection};
use crate::secret::{AccessToken, Fingerprint};

/// What the broker gives, and what is logged about it.
#[derive(Debug, Clone)]
pub struct Given {
    pub credential: Credential,
    /// Absent where the token is meant for no registry in particular.
    pub registry: Option<Registry>,
    pub access: Access,
    pub minted: Arc<Minted>,
}

/// Answers asks.
#[derive(Debug)]
pub struct Broker<U> {
    hosts: Hosts,
    cache: Cache<U>,
    counters: Arc<Counters>,
    refused: Mutex<HashMap<Digest, Instant>>,
}

/// What has happened so far, for the metrics.
#[derive(Debug, Default)]
pub struct Counters {
    pub given: AtomicU64,
    pub failed: AtomicU64,
    /// How often a source was asked.
    pub flights: AtomicU64,
}

impl<U: Upstream> Broker<U> {
    /// A broker that goes on counting where the counters stand: one takes the place of another at a reload.
    #[must_use]
    pub fn new(hosts: Hosts, upstream: U, clock: Clock, counters: Arc<Counters>) -> Self {
        let cache = Cache::new(upstream, clock, Arc::clone(&counters));
        Self { hosts, cache, counters, refused: Mutex::default() }
    }

    /// Answers an ask with a token of at most the access `ceiling`.
    ///
    /// # Errors
    /// When the service is not ours, or there is no token before the ask's deadline.
    pub async fn credential(&self, ask: &Ask, ceiling: Access) -> Result<Given, Failure> {
        let until = Instant::now() + ask.deadline;
        let result = self.answer(ask, ceiling, until).await;
        let counter = if result.is_ok() { &self.counters.given } else { &self.counters.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }

    /// A token for a request that is made in the place of somebody else, with the identity that this decides for that
    /// registry. `refused` is the one that the registry has just refused.
    ///
    /// # Errors
    /// When there is no token within the time of an ask.
    pub async fn token(
        &self,
        whose: &Whose,
        registry: &Registry,
        access: Access,
        refused: Option<Fingerprint>,
    ) -> Result<AccessToken, Failure> {
        let until = Instant::now() + Ask::LONGEST;
        let named = self.cache.upstream().deciding(whose, Some(registry));
        let key = Key { named, access };
        let minted = match refused {
            None => self.cache.token(key, None, until).await,
            Some(refused) => self.cache.token_in_place_of(key, refused, until).await,
        }?;
        Ok(minted.token.clone())
    }

    async fn answer(&self, ask: &Ask, ceiling: Access, until: Instant) -> Result<Given, Failure> {
        let registry = if ask.url.is_empty() { None } else { Some(self.admit(ask)?) };
        let implied = registry.as_ref().map_or(Access::Read, |registry| registry.access);
        let access = ask.access.unwrap_or(implied);
        // Nobody said that this is an upload but the URL.
        let told = |failure| match &registry {
            Some(registry) if ask.access.is_none() && implied == Access::Write => no_index(registry, failure),
            _ => failure,
        };
        if access > ceiling {
            let text = "this socket gives tokens that read, and this asks to write";
            return Err(told(Failure::new(Kind::Refused, text)));
        }
        let named = self.cache.upstream().deciding(&ask.whose, registry.as_ref());
        let asker = ask.asker.as_deref().map(|asker| digest(asker, &ask.url));
        let minted = self.cache.token(Key { named, access }, asker, until).await.map_err(told)?;
        let credential = Credential {
            username: Credential::USERNAME.to_owned(),
            password: minted.token.secret.clone(),
            expires: minted.token.expires,
        };
        Ok(Given { credential, registry, access, minted })
    }

    /// Decides whether an asker may have a token for what it names. Whoever was refused a URL is refused its bare
    /// host for a while: pip asks for the one and then the other, and would use the answer for the URL.
    fn admit(&self, ask: &Ask) -> Result<Registry, Failure> {
        let resolved = self.hosts.resolve(&ask.url);
        match (&resolved, &ask.asker) {
            (Err(Rejection::Insecure { host, .. }), Some(asker)) => {
                self.remember_refusal(digest(asker, without_port(host)));
            }
            (Ok(registry), Some(asker))
                if !ask.url.contains("://")
                    && self.was_refused(&digest(asker, without_port(&registry.host))) =>
            {
                return Err(just_refused(&registry.host));
            }
            _ => {}
        }
        let registry = resolved.map_err(rejected)?;
        match ask.username.as_deref() {
            Some(name) if name != Credential::USERNAME => Err(other_username(&registry.host, name)),
            _ => Ok(registry),
        }
    }

    fn remember_refusal(&self, who: Digest) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() >= MOST_REFUSALS {
            // Only somebody who makes askers up comes here, and forgets his own.
            refused.clear();
        }
        refused.insert(who, Instant::now());
    }

    fn was_refused(&self, who: &Digest) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(who).is_some_and(|since| Instant::now() < *since + REFUSAL)
    }

    #[must_use]
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    #[must_use]
    pub fn cache(&self) -> &Cache<U> {
        &self.cache
    }

    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

/// A rejection in words.
#[must_use]
pub fn rejected(rejection: Rejection) -> Failure {
    match rejection {
        Rejection::NotOurs => Failure::new(Kind::NotOurs, "this is not a registry that valetkey serves")
            .with_hint("registries of your own are named as [[registry]] in config.toml"),
        Rejection::Insecure { host, reason } => {
            Failure::new(Kind::Refused, format!("no token for {host} this way: {reason}"))
                .with_hint(format!("use https://{host}/"))
        }
    }
}

/// The end of an ask for where packages are uploaded to. It may be that of an index whose last part is missing, which looks
/// the same: so it says which is which.
fn no_index(registry: &Registry, failure: Failure) -> Failure {
    let (Some(name), Kind::NeedsLogin | Kind::Refused) = (registry.repository_name(), failure.kind) else {
        return failure;
    };
    let url = format!("https://{}/{name}/", registry.host);
    let index = format!("to install from it, write {url}simple/");
    let hint = failure.hint.map_or_else(|| index.clone(), |hint| format!("{index}; to upload: {hint}"));
    let message = format!("{url} is where packages are uploaded, and {}", failure.message);
    Failure { message, hint: Some(hint), ..failure }
}

/// The end of an ask for a bare host whose URL was refused.
#[must_use]
pub fn just_refused(host: &str) -> Failure {
    let text = format!("no token for {host}: a URL with this host was refused to this program just now");
    Failure::new(Kind::Refused, text).with_hint(format!("use https://{host}/"))
}

/// Registries take access tokens under one name only; a token under another would be refused there. Only names
/// that are no secret are repeated: what stands in the place of a name may be a password.
#[must_use]
pub fn other_username(host: &str, username: &str) -> Failure {
    let name = KNOWN_NAMES.iter().find(|name| **name == username).unwrap_or(&"of that name");
    Failure::new(Kind::NotFound, format!("valetkey has no password for user {name} at {host}"))
        .with_hint(format!("use the username {}, or none", Credential::USERNAME))
}

/// The host in a rejection or a registry, as a bare host would name it.
#[must_use]
pub fn without_port(host: &str) -> &str {
    host.split(':').next().unwrap_or_default()
}

/// For how long a refused URL's host stays refused to its asker.
pub const REFUSAL: Duration = Duration::from_secs(60);
const MOST_REFUSALS: usize = 1024;
/// What other tools use as a name in front of a token.
const KNOWN_NAMES: [&str; 4] = ["__token__", "_json_key", "_json_key_base64", "_dcgcloud_token"];
