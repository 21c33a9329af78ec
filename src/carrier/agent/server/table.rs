//! The streams of one listener, found by the uid that they belong to and counted for the build that opened them: the
//! open ones, which count, and the ones that are over, whose last reply may have to be repeated.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Caller;
use crate::carrier::agent::budget::{Admission, Budget, Gauge, Limits, Share};
use crate::carrier::agent::stream::Shared;
use crate::carrier::frame::{Status, StreamId};

/// The streams of one listener.
#[derive(Debug)]
pub(super) struct Table {
    budget: Arc<Budget>,
    streams: Mutex<Streams>,
    is_ending: AtomicBool,
}

/// A stream belongs to a uid: another one's has another name.
type Name = (u32, StreamId);

#[derive(Debug, Default)]
struct Streams {
    known: HashMap<Name, Entry>,
    /// The ones that are over, oldest first: their last reply may have to be repeated.
    lingering: VecDeque<Name>,
    peers: HashMap<Caller, Arc<Share>>,
}

#[derive(Debug)]
struct Entry {
    stream: Arc<Shared>,
    caller: Caller,
    /// Gone when the stream lingers: then it counts no more.
    admission: Option<Admission>,
}

impl Table {
    pub(super) fn new(budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            budget: Arc::clone(budget),
            streams: Mutex::default(),
            is_ending: AtomicBool::new(false),
        })
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.budget.limits
    }

    pub(super) fn largest_reply(&self) -> usize {
        self.budget.largest_reply()
    }

    /// How many streams are open.
    pub(super) fn open_streams(&self) -> usize {
        self.lock().open()
    }

    /// Whether a build has an open stream.
    pub(super) fn has_open(&self, caller: Caller) -> bool {
        self.lock().peers.contains_key(&caller)
    }

    /// Whether there is nothing that could be idle.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().known.is_empty()
    }

    pub(super) fn refuse_new(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn find(&self, uid: u32, id: StreamId) -> Option<Arc<Shared>> {
        let streams = self.lock();
        let stream = &streams.known.get(&(uid, id))?.stream;
        stream.touch();
        Some(Arc::clone(stream))
    }

    pub(super) fn open(&self, caller: Caller, id: StreamId) -> Result<(Arc<Shared>, bool), Status> {
        let uid = caller.uid;
        if self.is_ending.load(Ordering::Relaxed) {
            return Err(Status::Ending);
        }
        let mut streams = self.lock();
        // Two connections may open the same stream at once.
        if let Some(entry) = streams.known.get(&(uid, id)) {
            return Ok((Arc::clone(&entry.stream), false));
        }
        // One uid may have any number of processes.
        if streams.open_of(uid) >= self.budget.limits.streams_of_uid {
            return Err(Status::Full);
        }
        let share = streams.peers.get(&caller).cloned().unwrap_or_default();
        let admission = Admission::new(&self.budget, &share).ok_or(Status::Full)?;
        // Only whoever has a stream is known.
        streams.peers.insert(caller, Arc::clone(&share));
        let (down, up) = (Gauge::new(&self.budget, &share), Gauge::new(&self.budget, &share));
        let stream = Shared::new(down, up);
        let entry = Entry { stream: Arc::clone(&stream), caller, admission: Some(admission) };
        streams.known.insert((uid, id), entry);
        Ok((stream, true))
    }

    pub(super) fn close(&self, uid: u32, id: StreamId) {
        let closed = self.lock().remove(&(uid, id));
        if let Some(entry) = closed {
            entry.stream.reset();
        }
    }

    /// Stops counting a stream that is over.
    pub(super) fn linger(&self, uid: u32, id: StreamId) {
        let mut streams = self.lock();
        let Some(entry) = streams.known.get_mut(&(uid, id)) else { return };
        let (caller, counted) = (entry.caller, entry.admission.take());
        if counted.is_none() {
            return;
        }
        streams.lingering.push_back((uid, id));
        let oldest =
            if streams.lingering.len() > MOST_LINGERING { streams.lingering.pop_front() } else { None };
        let forgotten = oldest.and_then(|name| streams.known.remove(&name));
        drop(counted);
        streams.forget_peer(caller);
        drop(streams);
        drop(forgotten);
    }

    /// Drops what has been idle for too long.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        let mut streams = self.lock();
        let idle: Vec<Name> = streams
            .known
            .iter()
            .filter(|(_, entry)| {
                let patience = if entry.admission.is_some() { self.budget.limits.idle } else { LINGER };
                now.duration_since(entry.stream.last_exchange()) >= patience
            })
            .map(|(name, _)| *name)
            .collect();
        let gone: Vec<Entry> = idle.iter().filter_map(|name| streams.remove(name)).collect();
        drop(streams);
        for entry in gone {
            entry.stream.reset();
        }
    }

    pub(super) fn sweep_interval(&self) -> Duration {
        (self.budget.limits.idle / 12).max(Duration::from_millis(10))
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams {
    fn open(&self) -> usize {
        self.known.len() - self.lingering.len()
    }

    fn open_of(&self, uid: u32) -> usize {
        let counted = |(name, entry): &(&Name, &Entry)| name.0 == uid && entry.admission.is_some();
        self.known.iter().filter(counted).count()
    }

    /// Takes a stream out. The rest of its end needs other locks than ours.
    fn remove(&mut self, name: &Name) -> Option<Entry> {
        let mut entry = self.known.remove(name)?;
        if entry.admission.take().is_none() {
            self.lingering.retain(|lingering| lingering != name);
        }
        self.forget_peer(entry.caller);
        Some(entry)
    }

    fn forget_peer(&mut self, caller: Caller) {
        if self.peers.get(&caller).is_some_and(|share| share.is_unused()) {
            self.peers.remove(&caller);
        }
    }
}

/// How long, how many and how large streams are remembered that are over.
const LINGER: Duration = Duration::from_secs(10);
const MOST_LINGERING: usize = 64;
pub(super) const LINGERING_BYTES: u64 = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn open(table: &Table, caller: Caller, count: u32) -> usize {
        let name = |number: u32| {
            let (process, number) = (caller.process.to_be_bytes(), number.to_be_bytes());
            StreamId::new([process, number, process, number].concat().try_into().unwrap())
        };
        (0..count).filter(|number| table.open(caller, name(*number)).is_ok()).count()
    }

    #[test]
    fn who_was_refused_has_no_open_stream() {
        let table = Table::new(&Budget::new(Limits { streams: 1, ..Limits::default() }));
        let [one, other] = [1, 2].map(|process| Caller { uid: 1000, process });
        assert_eq!((open(&table, one, 1), open(&table, other, 1)), (1, 0));
        assert!(table.has_open(one) && !table.has_open(other));
    }

    #[test]
    fn a_thousand_processes_of_one_user_leave_streams_to_others() {
        let table = Table::new(&Budget::new(Limits::default()));
        let hostile: usize =
            (1..=1000).map(|process| open(&table, Caller { uid: 100_000, process }, 1)).sum();
        assert_eq!(hostile, Limits::default().streams_of_uid);
        assert_eq!(open(&table, Caller { uid: 1000, process: 1 }, 8), 8);
    }

    #[test]
    fn greedy_builds_leave_streams_to_a_modest_one_of_the_same_user() {
        let table = Table::new(&Budget::new(Limits::default()));
        let [_, _, modest] = [(1, 500), (2, 500), (3, 8)]
            .map(|(process, count)| open(&table, Caller { uid: 1000, process }, count));
        assert_eq!(modest, 8);
    }
}
