//! Tokens that are in use, and the one flight that brings the next one for everybody who waits.
//!
//! The lock is held for a look and never across an await. A flight is a task of its own: an asker who gives up
//! does not end it for the others. Failures are remembered for seconds, so that a crowd does not become a storm,
//! and never for good.

mod state;

use std::fmt::Debug;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::state::{Flight, Outcome, Remembered, State};
use super::Counters;
use super::freshness::{Age, LEAVE_ALONE, PATIENCE, REFUSED_AFTER};
use crate::ask::{Access, NamedSource, Whose};
use crate::blocking;
use crate::clock::{Clock, between};
use crate::error::{Failure, Kind};
use crate::google::credential_file::Stamp;
use crate::google::source::{Minted, Request};
use crate::registry::Registry;
use crate::secret::Fingerprint;

/// Where tokens come from. The program has one, the tests have another.
pub trait Upstream: Debug + Send + Sync + 'static {
    /// Makes a token.
    fn mint(
        &self,
        named: Option<&NamedSource>,
        request: Request,
    ) -> impl Future<Output = Result<Minted, Failure>> + Send;

    /// How long it may go on when its asker has left.
    fn lingers(&self) -> Duration {
        Duration::ZERO
    }

    /// What changes when the identity behind a source may have changed. May wait for a file system.
    fn stamps(&self, named: Option<&NamedSource>) -> Vec<Option<Stamp>>;

    /// What decides for an ask that is meant for this registry.
    fn deciding(&self, whose: &Whose, registry: Option<&Registry>) -> Option<NamedSource>;
}

/// Who asked for what, in a form whose size nobody but us decides.
pub type Digest = [u8; 16];

/// Digests an asker and what it asks for.
#[must_use]
pub fn digest(asker: &str, what: &str) -> Digest {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(asker.as_bytes());
    context.update(&[0]);
    context.update(what.as_bytes());
    let mut digest = Digest::default();
    digest.copy_from_slice(&context.finish().as_ref()[..16]);
    digest
}

/// What one token is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub named: Option<NamedSource>,
    pub access: Access,
}

/// The tokens.
#[derive(Debug)]
pub struct Cache<U>(Arc<Inner<U>>);

#[derive(Debug)]
struct Inner<U> {
    upstream: U,
    clock: Clock,
    state: Mutex<State>,
    counters: Arc<Counters>,
}

/// What is known of the token that an asker holds already.
#[derive(Debug, Clone, Copy)]
enum Again {
    Never,
    /// Whoever asks twice for the same thing may have been refused with the first one.
    Asker(Digest),
    /// It was refused: the registry has said so.
    Refused(Fingerprint),
}

/// What an asker has to do.
enum Step {
    /// Look whether the files behind the source are still the same, and decide again.
    Look,
    Give(Arc<Minted>),
    Fail(Failure),
    /// Wait for the flight, until the moment given, and take the old token where it brings nothing.
    Wait {
        flight: Flight,
        until: Instant,
        old: Option<Arc<Minted>>,
    },
}

impl<U: Upstream> Cache<U> {
    #[must_use]
    pub fn new(upstream: U, clock: Clock, counters: Arc<Counters>) -> Self {
        Self(Arc::new(Inner { upstream, clock, state: Mutex::default(), counters }))
    }

    /// A valid token before `until`. `asker` is whoever may be asking again, and for what.
    ///
    /// # Errors
    /// When no source gives one in time.
    pub async fn token(&self, key: Key, asker: Option<Digest>, until: Instant) -> Outcome {
        let outcome = self.token_again(&key, asker.map_or(Again::Never, Again::Asker), until).await;
        if let (Ok(minted), Some(asker)) = (&outcome, asker) {
            self.0.remember(asker, minted.token.fingerprint);
        }
        outcome
    }

    /// A token in the place of one that was refused where it went, made anew if that is the one that is held and none
    /// was made by force a moment ago. Then it is the same again.
    ///
    /// # Errors
    /// As [`Self::token`], and when the source has no other: a refused token is not given as one that is still valid.
    pub async fn token_in_place_of(&self, key: Key, refused: Fingerprint, until: Instant) -> Outcome {
        self.token_again(&key, Again::Refused(refused), until).await
    }

    async fn token_again(&self, key: &Key, again: Again, until: Instant) -> Outcome {
        let lingers = !self.0.upstream.lingers().is_zero();
        // Then nothing lands in time to say what is wrong, and the answer has a way to go.
        let until = if lingers { until.checked_sub(LANDING).unwrap_or(until) } else { until };
        loop {
            let (flight, wait, old) = match self.decide(key, again, until) {
                Step::Look => {
                    self.look(key, until).await;
                    continue;
                }
                Step::Give(token) => break Ok(token),
                Step::Fail(failure) => break Err(failure),
                Step::Wait { flight, until, old } => (flight, until, old),
            };
            match (landed(flight.clone(), wait).await, old) {
                (Some(Ok(token)), _) => break Ok(token),
                // A valid token is given when the refresh fails or is slow.
                (_, Some(old)) if self.is_valid(&old) => break Ok(old),
                // The flight had less time than we have: it was somebody else's.
                (Some(Err(failure)), _) if failure.kind == Kind::Deadline && flight.until < until => {}
                (Some(Err(failure)), _) => break Err(failure),
                (None, _) if Instant::now() >= until => {
                    break Err(flight.meanwhile.said().unwrap_or_else(late));
                }
                (None, _) => {}
            }
        }
    }

    /// What is held now, for `status`.
    #[must_use]
    pub fn held(&self) -> Vec<(Access, Arc<Minted>)> {
        let state = self.0.state();
        let valid = state.entries.iter().filter_map(|(key, entry)| Some((key.access, entry.token.clone()?)));
        valid.filter(|(_, minted)| self.is_valid(minted)).collect()
    }

    #[must_use]
    pub fn upstream(&self) -> &U {
        &self.0.upstream
    }

    fn is_valid(&self, minted: &Minted) -> bool {
        Age::of(&minted.token, self.0.clock.now()) < Age::Dead
    }

    /// Looks at the files behind a source, away from the runtime and not for long: they may lie on a network.
    async fn look(&self, key: &Key, until: Instant) {
        let (inner, asked, key) = (Arc::clone(&self.0), key.clone(), key.clone());
        let look = blocking::run(move || {
            let stamps = inner.upstream.stamps(key.named.as_ref());
            if let Some(entry) = inner.state().entries.get_mut(&key) {
                entry.compare(stamps);
            }
        });
        let looked = timeout_at(until.min(Instant::now() + LOOK_PATIENCE), look).await;
        if let Some(entry) = self.0.state().entries.get_mut(&asked) {
            match looked {
                Ok(Ok(())) => {}
                // Nobody looked: the next one does.
                Ok(Err(_)) => entry.looking = false,
                // One that takes longer goes on by itself; until it is back there is no other.
                Err(_) => entry.late = entry.looking,
            }
        }
    }

    fn decide(&self, key: &Key, again: Again, until: Instant) -> Step {
        let inner = &self.0;
        let (now, time) = (Instant::now(), inner.clock.now());
        let mut state = inner.state();
        state.make_room();
        // For how long a token has to be in use before asking again says that it was refused.
        let (refused, since) = match again {
            Again::Never => (None, None),
            Again::Asker(asker) => (state.given.get(&asker).copied(), Some(REFUSED_AFTER)),
            Again::Refused(fingerprint) => (Some(fingerprint), None),
        };
        let State { entries, tasks, .. } = &mut *state;
        let entry = entries.entry(key.clone()).or_default();
        entry.used = Some(now);
        if !entry.looking && entry.looked.is_none_or(|looked| now >= looked + LOOK_AGAIN) {
            entry.looked = Some(now);
            entry.looking = true;
            return Step::Look;
        }
        let token = entry.token.clone().filter(|minted| Age::of(&minted.token, time) < Age::Dead);
        let age = token.as_ref().map_or(Age::Dead, |minted| Age::of(&minted.token, time));
        // Asked again: the token that this asker holds was refused where it went.
        let held_is_refused = token.as_ref().is_some_and(|minted| {
            refused == Some(minted.token.fingerprint)
                && since.is_none_or(|since| between(minted.token.obtained, time) > since)
        });
        let running = entry.flight.clone().filter(|flight| flight.landing.has_changed().is_ok());
        let refused = held_is_refused && entry.forced.is_none_or(|forced| now > forced + LEAVE_ALONE);
        // Of a crowd that was refused the same token, one asks for the next one and all wait for it.
        let awaited = held_is_refused && matches!(again, Again::Refused(_)) && running.is_some();
        if age == Age::Fresh
            && !(refused || awaited)
            && let Some(token) = token
        {
            return Step::Give(token);
        }
        let resting = entry.rest_until.is_some_and(|rest| now < rest) && !(refused || awaited);
        match (&token, &entry.failure) {
            (Some(token), _) if resting => return Step::Give(token.clone()),
            (None, Some(past)) if past.counts(now, until) => return Step::Fail(past.failure.clone()),
            _ => {}
        }
        if running.is_none() && tasks.len() >= MOST_FLIGHTS {
            let busy = Failure::new(Kind::Local, "too many sources are being asked at once")
                .with_hint("try again in a moment");
            return token.map_or_else(|| Step::Fail(busy), Step::Give);
        }
        let flight = running.unwrap_or_else(|| {
            if refused {
                entry.forced = Some(now);
            }
            let (sender, landing) = watch::channel(None);
            // The source ends first, so that the asker hears what it says; or it goes on for the next one.
            let landing_by = until.checked_sub(LANDING).unwrap_or(until);
            let lingers = inner.upstream.lingers();
            let at_most = if lingers.is_zero() { landing_by } else { until.max(now + lingers) };
            let mut request = Request { at_most, ..Request::new(key.access, landing_by) };
            request.force = refused;
            let flight = Flight { landing, until, meanwhile: request.meanwhile.clone() };
            entry.flight = Some(flight.clone());
            inner.counters.flights.fetch_add(1, Ordering::Relaxed);
            tasks.spawn(fly(Arc::clone(inner), key.clone(), request, sender));
            flight
        });
        let wait = if age == Age::Aging && !(refused || awaited) { until.min(now + PATIENCE) } else { until };
        let useless = held_is_refused && matches!(again, Again::Refused(_));
        Step::Wait { flight, until: wait, old: token.filter(|_| !useless) }
    }
}

impl<U> Inner<U> {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked with the lock held left whole entries behind: every change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, asker: Digest, fingerprint: Fingerprint) {
        let mut state = self.state();
        if state.given.len() >= MOST_ASKERS {
            state.given.clear();
        }
        state.given.insert(asker, fingerprint);
    }
}

/// Makes one upstream call and tells everybody who waits.
async fn fly<U: Upstream>(
    inner: Arc<Inner<U>>,
    key: Key,
    request: Request,
    landing: watch::Sender<Option<Outcome>>,
) {
    let (start, patience) = (Instant::now(), request.until.saturating_duration_since(Instant::now()));
    // In a task of its own: a source that panics is a failure like any other.
    let minting = {
        let (inner, named) = (Arc::clone(&inner), key.named.clone());
        tokio::spawn(async move { inner.upstream.mint(named.as_ref(), request).await })
    };
    let outcome = minting.await.unwrap_or_else(|_| Err(grief())).map(Arc::new);
    let now = Instant::now();
    {
        let mut state = inner.state();
        let entry = state.entries.entry(key).or_default();
        if !entry.flight.as_ref().is_some_and(|flight| flight.landing.same_channel(&landing.subscribe())) {
            // The credential was replaced meanwhile: this token belongs to another identity.
            drop(state);
            landing.send_replace(Some(outcome));
            return;
        }
        entry.flight = None;
        match &outcome {
            Ok(minted) => {
                let same = entry.token.as_ref().is_some_and(|old| {
                    minted.token.fingerprint == old.token.fingerprint
                        || minted.token.expires <= old.token.expires
                });
                entry.rest_until = same.then_some(now + LEAVE_ALONE);
                entry.failure = None;
                entry.token = Some(Arc::clone(minted));
            }
            Err(failure) => {
                tracing::warn!(failure = %failure.one_line(), "no token");
                let rest = failure.retry_after.unwrap_or(if failure.transient { BRIEFLY } else { A_WHILE });
                let over = now + rest.min(LEAVE_ALONE);
                entry.rest_until = Some(over);
                // That a source does not answer in no time says nothing about it; some go on for longer than one asker.
                let patience = if failure.kind == Kind::Deadline { now - start } else { patience };
                entry.failure =
                    (patience >= SHORTEST).then(|| Remembered { failure: failure.clone(), over, patience });
            }
        }
    }
    landing.send_replace(Some(outcome));
}

/// The outcome of a flight, or nothing where it did not land in time or came to grief.
async fn landed(mut flight: Flight, until: Instant) -> Option<Outcome> {
    let landing = timeout_at(until, flight.landing.wait_for(Option::is_some)).await;
    match landing {
        Ok(Ok(outcome)) => outcome.clone(),
        Ok(Err(_)) => Some(Err(grief())),
        Err(_) => None,
    }
}

fn late() -> Failure {
    Failure::new(Kind::Deadline, "no token came in time")
        .with_hint("run `valetkey doctor` to see what is slow")
}

fn grief() -> Failure {
    Failure::new(Kind::Local, "the source came to grief; this is a defect of valetkey")
        .with_hint("report it, with the daemon's log")
}

/// How long a failure is remembered that may pass by itself.
const BRIEFLY: Duration = Duration::from_secs(2);
/// How long one that will not is.
const A_WHILE: Duration = Duration::from_secs(10);
/// What the way from a source to its asker may take.
const LANDING: Duration = Duration::from_millis(150);
/// How often the files behind a source are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A file system that has not answered by then is left to the source itself.
const LOOK_PATIENCE: Duration = Duration::from_millis(500);
/// What a flight needs at least to say something about its source.
const SHORTEST: Duration = Duration::from_millis(900);
const MOST_FLIGHTS: usize = 64;
const MOST_ASKERS: usize = 4096;

#[cfg(test)]
mod tests;
