//! What the cache holds: for each key a token, the flight that brings the next one, and a failure for seconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{BRIEFLY, Digest, Key};
use crate::error::{Failure, Kind};
use crate::google::credential_file::Stamp;
use crate::google::source::{Meanwhile, Minted};
use crate::secret::Fingerprint;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) entries: HashMap<Key, Entry>,
    /// Which token was last given to which asker for which service.
    pub(super) given: HashMap<Digest, Fingerprint>,
    pub(super) tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) token: Option<Arc<Minted>>,
    pub(super) flight: Option<Flight>,
    pub(super) failure: Option<Remembered>,
    /// No refresh before this moment: the last one brought the same expiry, or failed.
    pub(super) rest_until: Option<Instant>,
    pub(super) forced: Option<Instant>,
    pub(super) stamps: Option<Vec<Option<Stamp>>>,
    pub(super) looked: Option<Instant>,
    pub(super) looking: bool,
    /// The look takes so long that nobody waits for it any more.
    pub(super) late: bool,
    pub(super) used: Option<Instant>,
}

/// A failure that is given to further askers for a while.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) failure: Failure,
    pub(super) over: Instant,
    /// How long the source had been given.
    pub(super) patience: Duration,
}

impl Remembered {
    /// Whether it speaks for an ask that has until then. That one asker's time was over says nothing to another
    /// who has more.
    pub(super) fn counts(&self, now: Instant, until: Instant) -> bool {
        let more_time = until.saturating_duration_since(now) > self.patience + BRIEFLY / 4;
        now < self.over && !(self.failure.kind == Kind::Deadline && more_time)
    }
}

pub(super) type Outcome = Result<Arc<Minted>, Failure>;

/// A flight that may be joined.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) landing: watch::Receiver<Option<Outcome>>,
    pub(super) until: Instant,
    /// What is said to an asker who cannot wait for it.
    pub(super) meanwhile: Meanwhile,
}

impl State {
    /// Keeps the maps small: finished tasks and entries without use go.
    pub(super) fn make_room(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        if self.entries.len() >= MOST_ENTRIES {
            // The one that nobody has used for longest.
            let resting = self.entries.iter().filter(|(_, entry)| entry.flight.is_none());
            let oldest = resting.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.entries.remove(&key));
        }
    }
}

impl Entry {
    /// Forgets what came from a credential that has been replaced. Whatever is in flight then lands in an entry
    /// that does not know it.
    pub(super) fn compare(&mut self, stamps: Vec<Option<Stamp>>) {
        // A token that came while nobody waited for the first look may be of either identity.
        let unknown = self.late && self.stamps.is_none() && self.token.is_some();
        if unknown || self.stamps.as_ref().is_some_and(|old| *old != stamps) {
            *self = Self { looked: self.looked, used: self.used, ..Self::default() };
        }
        (self.looking, self.late) = (false, false);
        self.stamps = Some(stamps);
    }
}

const MOST_ENTRIES: usize = 256;
