//! Turns an [`Ask`] into a credential: decides whether the host may see a token, picks the source, and makes one
//! upstream call for any number of askers.
//!
//! The broker knows nothing of sockets or peers. A helper without a daemon runs the same broker in process.

pub mod cache;
pub mod choice;
pub mod freshness;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use crate::ask::{Access, Ask, Credential};
use crate::broker::cache::{Cache, Key, Upstream};
use crate::clock::Clock;
use crate::error::{Failure, Kind};
use crate::google::source::Minted;
use crate::registry::{Hosts, Registry, Rejection};

/// What the broker gives, and what is logged about it.
#[derive(Debug, Clone)]
pub struct Given {
    pub credential: Credential,
    pub registry: Registry,
    pub access: Access,
    pub minted: Arc<Minted>,
}

/// Answers asks.
#[derive(Debug)]
pub struct Broker<U> {
    hosts: Hosts,
    cache: Cache<U>,
    counters: Counters,
}

/// What has happened so far, for the metrics.
#[derive(Debug, Default)]
pub struct Counters {
    pub given: AtomicU64,
    pub failed: AtomicU64,
}

impl<U: Upstream> Broker<U> {
    #[must_use]
    pub fn new(hosts: Hosts, upstream: U, clock: Clock) -> Self {
        Self { hosts, cache: Cache::new(upstream, clock), counters: Counters::default() }
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

    async fn answer(&self, ask: &Ask, ceiling: Access, until: Instant) -> Result<Given, Failure> {
        let registry = resolve(&self.hosts, &ask.url)?;
        if let Some(name) = ask.username.as_deref().filter(|name| *name != Credential::USERNAME) {
            return Err(other_username(&registry.host, name));
        }
        let access = ask.access.unwrap_or(registry.access);
        if access > ceiling {
            let text = format!("this socket gives tokens that read, and {} asks to write", ask.url);
            return Err(Failure::new(Kind::Refused, text));
        }
        let key = Key { named: ask.source.clone(), access };
        let asker = ask.asker.as_deref().map(|asker| (asker, ask.url.as_str()));
        let minted = self.cache.token(key, asker, until).await?;
        let credential = Credential {
            username: Credential::USERNAME.to_owned(),
            password: minted.token.secret.clone(),
            expires: minted.token.expires,
        };
        Ok(Given { credential, registry, access, minted })
    }

    /// A token for no registry in particular, for `valetkey token`.
    ///
    /// # Errors
    /// When there is no token before the deadline.
    pub async fn token(&self, key: Key, until: Instant) -> Result<Arc<Minted>, Failure> {
        self.cache.token(key, None, until).await
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
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// Decides what a service points at, with a rejection in words.
///
/// # Errors
/// When it may not see a token.
pub fn resolve(hosts: &Hosts, service: &str) -> Result<Registry, Failure> {
    hosts.resolve(service).map_err(|rejection| match rejection {
        Rejection::NotOurs => Failure::new(Kind::NotOurs, "this is not a registry that valetkey serves")
            .with_hint("registries of your own are named as [[registry]] in config.toml"),
        Rejection::Insecure { host, reason } => {
            Failure::new(Kind::Refused, format!("no token for {host} this way: {reason}"))
                .with_hint(format!("use https://{host}/"))
        }
    })
}

/// Registries take access tokens under one name only; a token under another would be refused there.
#[must_use]
pub fn other_username(host: &str, username: &str) -> Failure {
    let name: String = crate::error::printable(username).chars().take(100).collect();
    Failure::new(Kind::NotFound, format!("valetkey has no password for user {name:?} at {host}"))
        .with_hint(format!("use the username {}, or none", Credential::USERNAME))
}
