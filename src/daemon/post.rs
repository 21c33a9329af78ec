//! One listener as the daemon knows it: where it is, in which way it speaks, what it is for, and the terms in force,
//! which a reload may change under the feet of whoever uses it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use super::opening::Opening;
use super::terms::{Admitted, Terms};
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
    terms: RwLock<Arc<Terms>>,
    used: AtomicBool,
}

impl Post {
    #[must_use]
    pub fn new(name: String, carrier: Carrier, purpose: Purpose, terms: Terms) -> Arc<Self> {
        let terms = RwLock::new(Arc::new(terms));
        Arc::new(Self { name, carrier, purpose, terms, used: AtomicBool::new(false) })
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

    pub fn note_use(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// Whether a build or a container has used it: a step in the middle may ask for the next file an hour later.
    #[must_use]
    pub fn holds_daemon(&self) -> bool {
        self.purpose != Purpose::Owner && self.used.load(Ordering::Relaxed)
    }
}
