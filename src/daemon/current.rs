//! What requests are answered with, from one reading of the configuration to the next.

use std::sync::Arc;
use std::time::Duration;

use super::indexing;
use super::post::Purpose;
use super::terms::Terms;
use crate::broker::Broker;
use crate::broker::choice::Sources;
use crate::config::LogLevel;
use crate::config::index::Index;
use crate::config::listeners::{ExtraListener, Terms as Written};
use crate::config::policy::Policy;
use crate::error::Failure;
use crate::grant::Origin;
use crate::proxy::index::merge::Merged;
use crate::proxy::{Proxy, TokenFuture, Wanted};

/// What the configuration makes, and makes anew when it is read again.
#[derive(Debug)]
pub struct Loaded {
    pub broker: Broker<Sources>,
    /// Where files may be sent on to, beside Cloud Storage.
    pub redirect_hosts: Vec<String>,
    /// On which terms builds and containers are served.
    pub build: Written,
    pub extra: Vec<ExtraListener>,
    /// The merged Python index.
    pub index: Option<Index>,
    pub policy: Policy,
    pub lasting: Lasting,
}

/// What counts from one start of the daemon to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lasting {
    pub idle: Duration,
    pub log: Option<LogLevel>,
}

impl Lasting {
    /// The keys whose new values have to wait for the next start.
    #[must_use]
    pub fn changed(&self, other: &Self) -> Vec<&'static str> {
        let idle = (self.idle != other.idle).then_some("idle");
        idle.into_iter().chain((self.log != other.log).then_some("log")).collect()
    }
}

/// See the module.
pub(super) struct Current {
    pub(super) broker: Arc<Broker<Sources>>,
    pub(super) proxy: Proxy,
    pub(super) merged: Option<Arc<Merged>>,
    build: Written,
    pub(super) extra: Vec<ExtraListener>,
    policy: Policy,
    pub(super) lasting: Lasting,
}

impl TryFrom<Loaded> for Current {
    type Error = Failure;

    fn try_from(loaded: Loaded) -> Result<Self, Failure> {
        let broker = Arc::new(loaded.broker);
        let (http, hosts) = (broker.cache().upstream().world.http.clone(), broker.hosts().clone());
        let asked = Arc::clone(&broker);
        let tokens = Arc::new(move |wanted: Wanted| -> TokenFuture {
            let broker = Arc::clone(&asked);
            Box::pin(async move {
                broker.token(&wanted.whose, &wanted.registry, wanted.access, wanted.refused).await
            })
        });
        let merged = loaded.index.map(|index| indexing::merged(&index, &hosts)).transpose()?.map(Arc::new);
        Ok(Self {
            broker,
            proxy: Proxy::new(http, hosts, tokens, loaded.redirect_hosts),
            merged,
            build: loaded.build,
            extra: loaded.extra,
            policy: loaded.policy,
            lasting: loaded.lasting,
        })
    }
}

impl Current {
    /// The terms of a listener, as the configuration has them now.
    ///
    /// # Errors
    /// When a repository is none.
    pub(super) fn terms(&self, purpose: &Purpose) -> Result<Terms, Failure> {
        let (written, origin) = match purpose {
            Purpose::Owner => return Ok(Terms::owner()),
            Purpose::Build => (self.build.clone(), Origin::Build(self.build.place.clone())),
            Purpose::Extra(address) => {
                let listed = self.extra.iter().find(|extra| extra.address == *address).cloned();
                let (terms, place) = listed.map(|extra| (extra.terms, extra.place)).unwrap_or_default();
                (terms, Origin::Listener(place))
            }
            Purpose::Opened(opening) => (opening.wanted.written(), Origin::Command),
        };
        let mut terms = Terms::new(&written, &self.policy, self.broker.hosts(), origin)?;
        if let (Purpose::Opened(opening), Some(proxy)) = (purpose, &mut terms.grant.proxy) {
            proxy.whose = opening.wanted.whose.clone();
        }
        Ok(terms)
    }
}
