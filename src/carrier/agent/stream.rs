//! The daemon's end of one stream: what it has to say, kept until it is acknowledged, and what has arrived.
//!
//! On one side is the application, which reads and writes [`CarriedStream`] like any connection. On the other side
//! are exchanges, one or two at a time and now and then the same one again. What the application writes stays in
//! the memory that it was copied into until nobody needs it; a reply only points at it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::body::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::budget::{Chunk, Gauge, LARGEST_CHUNK};

/// One stream as the daemon's application sees it. Dropping it ends it behind what was written.
#[derive(Debug)]
pub struct CarriedStream(Arc<Shared>);

impl CarriedStream {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl AsyncRead for CarriedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        let Some(front) = state.arrived.front_mut() else {
            if state.reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if state.heard_all {
                return Poll::Ready(Ok(()));
            }
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        let some = front.len().min(buffer.remaining());
        buffer.put_slice(&front[..some]);
        front.advance(some);
        // Whoever waits for its room is woken by its end, which needs other locks than ours.
        let read = if front.is_empty() { state.arrived.pop_front() } else { None };
        drop(state);
        drop(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CarriedStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut state = self.0.lock();
        state.writable()?;
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        if state.filling.as_ref().is_none_or(|chunk| chunk.room() == 0) {
            state.seal();
            // In bulk what comes next fits into the same chunk.
            let is_bulk = state.end - state.acknowledged >= BULK;
            drop(state);
            let size = if is_bulk { wanted.max(LARGEST_CHUNK) } else { wanted };
            let Poll::Ready(chunk) = self.0.down.poll_reserve(context, size) else {
                // An exchange that waits for more would wait in vain.
                self.0.changed.notify_waiters();
                return Poll::Pending;
            };
            state = self.0.lock();
            state.writable()?;
            state.filling = Some(chunk);
        }
        let filled = match state.filling.as_mut() {
            Some(chunk) => slices.iter().map(|slice| chunk.fill(slice)).sum(),
            None => 0,
        };
        state.end += filled as u64;
        if state.end >= state.wake_at {
            state.wake_at = u64::MAX;
            self.0.changed.notify_waiters();
        }
        Poll::Ready(Ok(filled))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().said_all = true;
        self.0.changed.notify_waiters();
        Poll::Ready(Ok(()))
    }
}

impl Drop for CarriedStream {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.said_all = true;
        state.abandoned = true;
        let unread = std::mem::take(&mut state.arrived);
        drop(state);
        drop(unread);
        self.0.changed.notify_waiters();
    }
}

/// What the application and the exchanges share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Notify,
    down: Arc<Gauge>,
    up: Arc<Gauge>,
}

#[derive(Debug)]
struct State {
    /// What has not been acknowledged: from `acknowledged` to `end`, with `filling` behind it.
    kept: VecDeque<Bytes>,
    filling: Option<Chunk>,
    acknowledged: u64,
    /// Everything before has been in some reply.
    sent: u64,
    end: u64,
    /// The application writes no more.
    said_all: bool,
    /// The application has dropped its end.
    abandoned: bool,
    arrived: VecDeque<Bytes>,
    received: u64,
    /// The client sends no more.
    heard_all: bool,
    /// Dropped from the daemon's side.
    reset: bool,
    reader: Option<Waker>,
    /// An exchange wants to know when `end` gets there.
    wake_at: u64,
    last_exchange: Instant,
}

/// What an exchange takes with it.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) offset: u64,
    pub(super) pieces: Vec<Bytes>,
    pub(super) length: usize,
    pub(super) end: bool,
    pub(super) more: bool,
    pub(super) accepted: u64,
}

impl Shared {
    pub(super) fn new(down: Arc<Gauge>, up: Arc<Gauge>) -> Arc<Self> {
        let state = State {
            kept: VecDeque::new(),
            filling: None,
            acknowledged: 0,
            sent: 0,
            end: 0,
            said_all: false,
            abandoned: false,
            arrived: VecDeque::new(),
            received: 0,
            heard_all: false,
            reset: false,
            reader: None,
            wake_at: u64::MAX,
            last_exchange: Instant::now(),
        };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new(), down, up })
    }

    pub(super) fn touch(&self) {
        self.lock().last_exchange = Instant::now();
    }

    pub(super) fn last_exchange(&self) -> Instant {
        self.lock().last_exchange
    }

    /// Takes the part of `bytes` that is new and fits, and waits for room until `until`. Says whether all of it has
    /// been taken, now or earlier.
    pub(super) async fn push(&self, mut offset: u64, mut bytes: &[u8], until: Instant) -> bool {
        loop {
            let end = offset + bytes.len() as u64;
            {
                let mut state = self.lock();
                if state.abandoned || state.reset {
                    // Nobody reads it. Refused, it would come again.
                    state.received = state.received.max(end);
                    return true;
                }
                if state.received >= end {
                    return true;
                }
                if state.received < offset || state.heard_all {
                    return false;
                }
                let known = usize::try_from(state.received - offset).unwrap_or(usize::MAX);
                bytes = bytes.get(known..).unwrap_or_default();
                offset = state.received;
            }
            let room = std::future::poll_fn(|context| self.up.poll_reserve(context, bytes.len()));
            let Ok(mut chunk) = tokio::time::timeout_at(until, room).await else { return false };
            let filled = chunk.fill(bytes);
            let mut state = self.lock();
            // The same bytes may have come by another exchange meanwhile.
            if state.received == offset && !state.abandoned {
                state.arrived.push_back(Bytes::from_owner(chunk));
                state.received += filled as u64;
                state.wake_reader();
            }
        }
    }

    /// The client sends no more behind `end`.
    pub(super) fn finish(&self, end: u64) {
        let mut state = self.lock();
        if state.received == end {
            state.heard_all = true;
            state.wake_reader();
        }
    }

    /// The client has everything before `offset`. False where it never was given that.
    pub(super) fn acknowledge(&self, offset: u64) -> bool {
        let mut state = self.lock();
        if offset > state.sent {
            return false;
        }
        let mut done = Vec::new();
        while state.acknowledged < offset
            && let Some(mut front) = state.kept.pop_front()
        {
            let length = front.len() as u64;
            let past = (offset - state.acknowledged).min(length);
            state.acknowledged += past;
            if past == length {
                done.push(front);
            } else {
                front.advance(usize::try_from(past).unwrap_or_default());
                state.kept.push_front(front);
            }
        }
        // Their end wakes the application.
        drop(state);
        drop(done);
        true
    }

    /// Waits until there are `enough` bytes, or as many as there will be, or the time is over.
    pub(super) async fn wait(&self, fresh: bool, enough: usize, until: Instant) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                let available = state.end - state.position(fresh);
                let is_stuck = available > 0 && self.down.is_short();
                if available >= enough as u64 || state.said_all || state.reset || is_stuck {
                    return;
                }
                state.wake_at = state.wake_at.min(state.position(fresh) + enough as u64);
            }
            tokio::select! {
                () = changed => {}
                () = sleep_until(until) => return,
            }
        }
    }

    /// Takes what is there, at most `most` bytes: what no reply has carried yet, or what is not acknowledged.
    pub(super) fn take(&self, fresh: bool, most: usize) -> Taken {
        let mut state = self.lock();
        state.seal();
        let offset = state.position(fresh);
        let mut skip = usize::try_from(offset - state.acknowledged).unwrap_or(usize::MAX);
        let (mut pieces, mut length) = (Vec::new(), 0);
        for kept in &state.kept {
            if length == most {
                break;
            }
            let passed = skip.min(kept.len());
            skip -= passed;
            let piece = passed..kept.len().min(passed + most - length);
            if !piece.is_empty() {
                length += piece.len();
                pieces.push(kept.slice(piece));
            }
        }
        let behind = offset + length as u64;
        state.sent = state.sent.max(behind);
        let more = behind < state.end;
        Taken { offset, pieces, length, end: state.said_all && !more, more, accepted: state.received }
    }

    /// Both sides are done, up to a few bytes that the client may have to be told again.
    pub(super) fn is_over(&self, few: u64) -> bool {
        let state = self.lock();
        state.abandoned && state.sent == state.end && state.end - state.acknowledged <= few
    }

    /// Whether the daemon has dropped this stream.
    pub(super) fn is_reset(&self) -> bool {
        self.lock().reset
    }

    /// Drops the stream: the application's next read or write fails.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        state.reset = true;
        let kept = (std::mem::take(&mut state.kept), state.filling.take());
        let arrived = std::mem::take(&mut state.arrived);
        state.wake_reader();
        drop(state);
        drop((kept, arrived));
        self.down.wake();
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn writable(&self) -> io::Result<()> {
        if self.reset || self.said_all { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    /// Nothing more goes into the last chunk.
    fn seal(&mut self) {
        let chunk = self.filling.take();
        self.kept.extend(chunk.filter(|chunk| !chunk.as_ref().is_empty()).map(Bytes::from_owner));
    }

    fn position(&self, fresh: bool) -> u64 {
        if fresh { self.sent } else { self.acknowledged }
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

/// A stream that has so much to say will have more.
const BULK: u64 = 64 << 10;
