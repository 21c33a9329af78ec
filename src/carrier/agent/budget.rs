//! What the streams of all listeners may hold in memory together, and how many there may be.
//!
//! The daemon keeps what a stream has to say until the client has acknowledged it, so that an exchange can be
//! repeated. Each direction of each stream is assured a little, so that all go on whatever the others do; what
//! exceeds it comes out of one pool, of which a peer gets no more than its part. A chunk counts from the moment
//! its memory is allocated until the last holder lets go of it, which may be a slow connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// The bounds of one [`Budget`]. The defaults are those of the design.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Streams of all listeners together.
    pub streams: usize,
    /// Streams of one process, which is one build, on one listener.
    pub streams_of_peer: usize,
    /// Streams of one uid on one listener, in however many processes.
    pub streams_of_uid: usize,
    /// Bytes beyond what each stream is assured of.
    pub pool: usize,
    /// The part of the pool that one process on one listener may have.
    pub pool_of_peer: usize,
    /// A stream without an exchange for so long is dropped.
    pub idle: Duration,
    /// A reply is held for so long at most.
    pub hold: Duration,
    /// A reply is held for so long at most on a connection that has carried more than one stream: those behind it
    /// wait as well.
    pub shared_hold: Duration,
}

impl Default for Limits {
    /// With what is assured to 512 streams, eight mebibytes. One build has room for forty steps with ten streams each,
    /// and leaves as many for two others as a client of today opens.
    fn default() -> Self {
        Self {
            streams: 512,
            streams_of_peer: 412,
            streams_of_uid: 480,
            pool: 6 << 20,
            pool_of_peer: 5 << 20,
            idle: Duration::from_secs(60),
            hold: Duration::from_millis(1200),
            shared_hold: Duration::from_millis(20),
        }
    }
}

/// One for the whole daemon: what all its agent listeners share.
#[derive(Debug)]
pub struct Budget {
    pub(super) limits: Limits,
    totals: Mutex<Totals>,
}

#[derive(Debug, Default)]
struct Totals {
    streams: usize,
    pool: usize,
    /// Directions of streams that hold something of the pool.
    crowd: usize,
}

impl Budget {
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, totals: Mutex::default() })
    }

    /// Bytes that are held now beyond what is assured.
    #[must_use]
    pub fn pooled(&self) -> usize {
        self.lock().pool
    }

    /// Streams that are open now, on all listeners.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.lock().streams
    }

    /// The most bytes that a reply carries at present: large ones are worth their memory where few ask for much.
    pub(super) fn largest_reply(&self) -> usize {
        frame(self.lock().crowd)
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one process on one listener has. Changes while the budget's lock is held.
#[derive(Debug, Default)]
pub(super) struct Share {
    streams: AtomicUsize,
    pool: AtomicUsize,
}

impl Share {
    pub(super) fn is_unused(&self) -> bool {
        self.streams.load(Ordering::Relaxed) == 0
    }
}

/// The right of one stream to be there.
#[derive(Debug)]
pub(super) struct Admission {
    budget: Arc<Budget>,
    share: Arc<Share>,
}

impl Admission {
    pub(super) fn new(budget: &Arc<Budget>, share: &Arc<Share>) -> Option<Self> {
        let mut totals = budget.lock();
        let own = share.streams.load(Ordering::Relaxed);
        // The last places are for builds that have few.
        let kept = if own < MODEST { 0 } else { RESERVED };
        if totals.streams + kept >= budget.limits.streams || own >= budget.limits.streams_of_peer {
            return None;
        }
        totals.streams += 1;
        share.streams.store(own + 1, Ordering::Relaxed);
        drop(totals);
        Some(Self { budget: Arc::clone(budget), share: Arc::clone(share) })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut totals = self.budget.lock();
        totals.streams -= 1;
        self.share.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one direction of one stream holds.
#[derive(Debug)]
pub(super) struct Gauge {
    budget: Arc<Budget>,
    share: Arc<Share>,
    /// Changes while the budget's lock is held.
    held: AtomicUsize,
    waiting: Mutex<Option<Waker>>,
}

impl Gauge {
    pub(super) fn new(budget: &Arc<Budget>, share: &Arc<Share>) -> Arc<Self> {
        Arc::new(Self {
            budget: Arc::clone(budget),
            share: Arc::clone(share),
            held: AtomicUsize::new(0),
            waiting: Mutex::default(),
        })
    }

    /// Room for some of `wanted` bytes, or a promise to wake when this stream has let go of some. One task waits
    /// at a time.
    pub(super) fn poll_reserve(self: &Arc<Self>, context: &Context<'_>, wanted: usize) -> Poll<Chunk> {
        if let Some(chunk) = self.reserve(wanted) {
            return Poll::Ready(chunk);
        }
        *self.waiting() = Some(context.waker().clone());
        // Some may have been let go of in between, when nobody was waiting yet.
        let Some(chunk) = self.reserve(wanted) else { return Poll::Pending };
        *self.waiting() = None;
        Poll::Ready(chunk)
    }

    /// Whether somebody waits for room.
    pub(super) fn is_short(&self) -> bool {
        self.waiting().is_some()
    }

    /// Wakes who waits for room, because there is another reason to look.
    pub(super) fn wake(&self) {
        let waker = self.waiting().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Room for some of `wanted` bytes at once. Never refused to a stream that holds nothing.
    pub(super) fn reserve(self: &Arc<Self>, wanted: usize) -> Option<Chunk> {
        let limits = &self.budget.limits;
        let mut totals = self.budget.lock();
        let held = self.held.load(Ordering::Relaxed);
        let of_peer = self.share.pool.load(Ordering::Relaxed);
        let crowd = totals.crowd + usize::from(held <= ASSURED);
        // Many do with a third of it: each of them is slow enough by itself.
        let part = if totals.streams > MANY { 3 } else { 1 };
        let (pool, pool_of_peer) = (limits.pool / part, limits.pool_of_peer / part);
        let most = window(crowd, pool).saturating_sub(held.max(ASSURED));
        let pooled = most.min(pool.saturating_sub(totals.pool)).min(pool_of_peer.saturating_sub(of_peer));
        let room = ASSURED.saturating_sub(held) + pooled;
        let wanted = wanted.min(LARGEST_CHUNK);
        let size = wanted.min(room.checked_sub(OVERHEAD)?);
        if size < wanted.min(SMALLEST_CHUNK) {
            return None;
        }
        let charge = size + OVERHEAD;
        self.change(&mut totals, held, held + charge);
        drop(totals);
        Some(Chunk { bytes: Vec::with_capacity(size), charge, gauge: Arc::clone(self) })
    }

    fn change(&self, totals: &mut Totals, from: usize, to: usize) {
        let (was, is) = (from.saturating_sub(ASSURED), to.saturating_sub(ASSURED));
        totals.pool = totals.pool + is - was;
        totals.crowd = totals.crowd + usize::from(is > 0) - usize::from(was > 0);
        let of_peer = self.share.pool.load(Ordering::Relaxed);
        self.share.pool.store(of_peer + is - was, Ordering::Relaxed);
        self.held.store(to, Ordering::Relaxed);
    }

    fn release(&self, charge: usize) {
        let mut totals = self.budget.lock();
        let held = self.held.load(Ordering::Relaxed);
        self.change(&mut totals, held, held - charge);
        drop(totals);
        self.wake();
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that count.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    charge: usize,
    gauge: Arc<Gauge>,
}

impl Chunk {
    /// How many more bytes fit.
    pub(super) fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    /// Takes what fits, and says how much that was.
    pub(super) fn fill(&mut self, bytes: &[u8]) -> usize {
        let some = &bytes[..bytes.len().min(self.room())];
        self.bytes.extend_from_slice(some);
        some.len()
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // The memory goes first: what the budget says is free, is.
        drop(std::mem::take(&mut self.bytes));
        self.gauge.release(self.charge);
    }
}

/// The most bytes in a reply where so many hold something of the pool.
fn frame(crowd: usize) -> usize {
    if crowd <= FEW { 1 << 20 } else { 128 << 10 }
}

/// What one of so many may hold: two frames on their way, one in the making, and two that have arrived before one
/// that is late.
fn window(crowd: usize, pool: usize) -> usize {
    (5 * frame(crowd)).min(pool / crowd.max(1)).max(ASSURED)
}

/// Places that only builds get which have fewer streams than [`MODEST`].
const RESERVED: usize = 64;
const MODEST: usize = 8;
/// So many streams are few.
const FEW: usize = 2;
/// So many streams are many.
const MANY: usize = 16;
/// What each direction of each stream may hold whatever the others do.
const ASSURED: usize = 2 << 10;
/// What a chunk costs besides its bytes.
const OVERHEAD: usize = 128;
/// Below the size at which the C library asks the system for each block.
pub(super) const LARGEST_CHUNK: usize = 64 << 10;
/// A chunk is not made smaller than this because room is short: it waits.
const SMALLEST_CHUNK: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn gauges(budget: &Arc<Budget>, share: &Arc<Share>, count: usize) -> Vec<Arc<Gauge>> {
        (0..count).map(|_| Gauge::new(budget, share)).collect()
    }

    /// All that a stream gets without letting go of anything.
    fn greed(gauge: &Arc<Gauge>) -> Vec<Chunk> {
        std::iter::from_fn(|| gauge.reserve(16 << 10)).collect()
    }

    fn held(chunks: &[Chunk]) -> usize {
        chunks.iter().map(Chunk::room).sum()
    }

    #[test]
    fn one_peer_leaves_a_part_and_everyone_is_assured() {
        let budget = Budget::new(Limits::default());
        let greedy = Arc::new(Share::default());
        let holding: Vec<_> = gauges(&budget, &greedy, 150).iter().map(greed).collect();
        let all: usize = holding.iter().map(|chunks| held(chunks)).sum();
        assert!(all <= (5 << 20) + 150 * ASSURED, "{all}");
        assert!(budget.pooled() <= 5 << 20);
        assert!(holding.iter().all(|chunks| held(chunks) >= SMALLEST_CHUNK));
        let modest = Arc::new(Share::default());
        let chunks = greed(&gauges(&budget, &modest, 1)[0]);
        assert!(held(&chunks) > 16 << 10, "{}", held(&chunks));
        drop((holding, chunks));
        assert_eq!((budget.pooled(), budget.lock().crowd), (0, 0));
        assert_eq!(greedy.pool.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn few_get_large_frames_and_many_small_ones() {
        let budget = Budget::new(Limits::default());
        let share = Arc::new(Share::default());
        let [one, two, three] = &gauges(&budget, &share, 3)[..] else { unreachable!() };
        let mut holding = vec![one.reserve(60_000), two.reserve(60_000)];
        assert_eq!(budget.largest_reply(), 1 << 20);
        holding.push(three.reserve(60_000));
        assert_eq!(budget.largest_reply(), 128 << 10);
        drop(holding);
        assert_eq!(budget.largest_reply(), 1 << 20);
    }

    #[test]
    fn streams_are_counted_for_the_peer_and_for_all() {
        let limits = Limits { streams: 5, streams_of_peer: 3, ..Limits::default() };
        let budget = Budget::new(limits);
        let (one, two) = (Arc::new(Share::default()), Arc::new(Share::default()));
        let admit = |share| Admission::new(&budget, share);
        let of_one: Vec<_> = (0..4).filter_map(|_| admit(&one)).collect();
        let of_two: Vec<_> = (0..4).filter_map(|_| admit(&two)).collect();
        assert_eq!((of_one.len(), of_two.len(), budget.streams()), (3, 2, 5));
        drop(of_one);
        assert!(admit(&one).is_some() && one.is_unused());
    }

    #[test]
    fn several_greedy_builds_leave_some_streams_to_a_modest_one() {
        let budget = Budget::new(Limits::default());
        let greedy: Vec<_> = (0..4).map(|_| Arc::new(Share::default())).collect();
        let holding: Vec<_> = greedy
            .iter()
            .flat_map(|share| std::iter::from_fn(|| Admission::new(&budget, share)).collect::<Vec<_>>())
            .collect();
        assert!(holding.len() < budget.limits.streams);
        let modest = Arc::new(Share::default());
        let own: Vec<_> = std::iter::from_fn(|| Admission::new(&budget, &modest)).collect();
        assert_eq!(own.len(), MODEST);
    }
}
