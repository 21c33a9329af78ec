//! One listener as the daemon knows it: where it is, in which way it speaks, what it is for, and the terms in force,
//! which a reload may change under the feet of whoever uses it.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::opening::Opening;
use super::terms::{Admitted, Terms};
use super::usage::{Standing, Usage};
use crate::config::listeners::Address;
use crate::grant::Grant;

/// What a listener is for: decides where its terms come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// The owner's own socket.
    Owner,
    /// Builds and containers, on the terms of `[build]`.
    Build,
    /// One of `[[listener]]`.
    Extra(Address),
    /// What `valetkey docker args` asked for.
    Opened(Opening),
}

/// In which way it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    Unix,
    Agent,
    Tcp,
}

impl Carrier {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Agent => "ssh-agent",
            Self::Tcp => "tcp",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Post {
    /// A path or an address, for `status` and the audit line.
    pub name: String,
    pub carrier: Carrier,
    pub purpose: Purpose,
    /// Who has used it.
    pub usage: Usage,
    terms: RwLock<Arc<Terms>>,
    closed: watch::Sender<bool>,
}

impl Post {
    #[must_use]
    pub fn new(name: String, carrier: Carrier, purpose: Purpose, terms: Terms) -> Arc<Self> {
        let terms = RwLock::new(Arc::new(terms));
        let closed = watch::Sender::new(false);
        Arc::new(Self { name, carrier, purpose, usage: Usage::default(), terms, closed })
    }

    /// A socket that speaks HTTP to its owner.
    #[must_use]
    pub fn of_owner(path: &Path) -> Arc<Self> {
        Self::new(path.display().to_string(), Carrier::Unix, Purpose::Owner, Terms::owner())
    }

    #[must_use]
    pub fn terms(&self) -> Arc<Terms> {
        Arc::clone(&self.terms.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// New terms, which count for whatever is under way as well.
    pub fn set_terms(&self, terms: Terms) {
        *self.terms.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(terms);
    }

    /// Nothing any more, for nobody.
    pub fn withdraw(&self) {
        self.set_terms(Terms { grant: Grant::nothing(), admitted: Admitted::owner() });
    }

    /// Until when it is there, where it ends by itself.
    #[must_use]
    pub fn until(&self) -> Option<SystemTime> {
        match &self.purpose {
            Purpose::Opened(opening) => Some(opening.until),
            _ => None,
        }
    }

    /// Where it listens, if the configuration says so.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        match &self.purpose {
            Purpose::Extra(address) => Some(address),
            _ => None,
        }
    }

    /// Ends it, though the daemon goes on: nothing more is granted, and nobody is let in.
    pub fn close(&self) {
        self.withdraw();
        self.closed.send_replace(true);
    }

    /// Resolves when it is to end.
    pub async fn closed(&self) {
        // The sender lives as long as we do, so the wait cannot fail.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Somebody asked something. Who that was matters where a build is to end it.
    pub fn note_use(&self, pid: i32) {
        match self.purpose {
            Purpose::Opened(_) => self.usage.note(pid),
            _ => self.usage.note_somebody(),
        }
    }

    /// Whether it was opened for one build, and that is over for a while.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let Purpose::Opened(opening) = &self.purpose else { return false };
        let over = || matches!(self.usage.standing(), Standing::Over(since) if since.elapsed() >= GRACE);
        opening.wanted.one_build && over()
    }

    /// Whether a build or a container has used it: a step in the middle may ask for the next file an hour later. A
    /// socket that was opened for a build is waited for, too: it was promised until its time.
    #[must_use]
    pub fn holds_daemon(&self) -> bool {
        match self.purpose {
            Purpose::Owner => false,
            Purpose::Opened(_) => true,
            Purpose::Build | Purpose::Extra(_) => self.usage.is_used(),
        }
    }
}

/// A build that failed is often started again at once, by the same line of a script.
const GRACE: Duration = Duration::from_secs(60);
