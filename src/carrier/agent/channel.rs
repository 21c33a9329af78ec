//! The client's end for a program with a runtime: opens streams on a socket that was found.
//!
//! Each stream has connections to itself, at most two, and a task that makes its exchanges. The next stream takes over
//! those of one that is over. A connection is replaced before buildah would cut it; one that is cut all the same is
//! replaced too, and the exchange repeated. Nothing is asked while nobody waits for an answer.

mod line;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::AgentFault;
use super::conversation::{Conversation, Exchange};
use super::once::{Trouble, random_name};
use crate::carrier::frame::{Reply, Status};

use line::{Line, Parked, Spare};

/// A way to the daemon: the path of an agent's socket, and connections to it that nobody uses at the moment.
#[derive(Debug, Clone)]
pub struct AgentChannel {
    path: PathBuf,
    parked: Parked,
}

impl AgentChannel {
    /// A channel whose path is known.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path, parked: Parked::default() }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a stream. The daemon hears of it with the first bytes that are written. Needs a runtime around it.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn open(&self) -> Result<AgentStream, AgentFault> {
        let state = State {
            conversation: Conversation::new(random_name()?),
            is_reading: false,
            is_dropped: false,
            hush: None,
            pause: SHORTEST_PAUSE,
            fault: None,
            reader: None,
            writer: None,
        };
        let shared = Arc::new(Shared {
            path: self.path.clone(),
            parked: self.parked.clone(),
            state: Mutex::new(state),
            work: Notify::new(),
            dropped: Notify::new(),
        });
        // Ends by itself soon after the stream is dropped.
        tokio::spawn(Arc::clone(&shared).drive());
        Ok(AgentStream(shared))
    }
}

/// One stream to the daemon. Its errors carry an [`AgentFault`].
#[derive(Debug)]
pub struct AgentStream(Arc<Shared>);

impl AsyncRead for AgentStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if let Some(bytes) = state.conversation.read(buffer.remaining()) {
            buffer.put_slice(&bytes);
            state.is_reading = false;
            if state.conversation.reads_ahead() {
                self.0.work.notify_waiters();
            }
            return Poll::Ready(Ok(()));
        }
        if state.conversation.is_at_end() {
            return Poll::Ready(Ok(()));
        }
        if let Some(fault) = &state.fault {
            return Poll::Ready(Err(fault.clone().into()));
        }
        state.reader = Some(context.waker().clone());
        if !state.is_reading {
            state.is_reading = true;
            self.0.work.notify_waiters();
        }
        Poll::Pending
    }
}

impl AsyncWrite for AgentStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if let Some(fault) = &state.fault {
            return Poll::Ready(Err(fault.clone().into()));
        }
        if state.conversation.is_finishing() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = state.conversation.write(bytes);
        if written == 0 && !bytes.is_empty() {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        self.0.work.notify_waiters();
        Poll::Ready(Ok(written))
    }

    /// Written bytes are on their way by themselves.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().conversation.finish();
        self.0.work.notify_waiters();
        Poll::Ready(Ok(()))
    }
}

impl Drop for AgentStream {
    fn drop(&mut self) {
        self.0.lock().is_dropped = true;
        self.0.dropped.notify_waiters();
        self.0.work.notify_waiters();
    }
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    parked: Parked,
    state: Mutex<State>,
    /// There may be something to do.
    work: Notify,
    dropped: Notify,
}

#[derive(Debug)]
struct State {
    conversation: Conversation,
    is_reading: bool,
    is_dropped: bool,
    /// Nothing is asked before then: others wait on the same connection.
    hush: Option<Instant>,
    pause: Duration,
    fault: Option<AgentFault>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Shared {
    /// Makes exchanges until the stream is dropped, and then the one that says so.
    async fn drive(self: Arc<Self>) {
        let spare = Spare::default();
        let (second, more) = (Arc::clone(&self), spare.clone());
        let second = tokio::spawn(async move { second.work(false, &more).await });
        self.work(true, &spare).await;
        let _ = second.await;
        let closing = {
            let mut state = self.lock();
            let is_due = state.fault.is_none() && state.conversation.wants_closing();
            is_due.then(|| state.conversation.closing())
        };
        if let Some(closing) = closing {
            // One try: what is not closed is dropped when it has been idle.
            let _ = timeout(CLOSING, Line::new(&self.path, &spare).exchange(&closing)).await;
        }
    }

    /// One of the two that make exchanges, each on its own connection. The first one also acknowledges what was
    /// read where nothing else says so.
    async fn work(&self, is_first: bool, spare: &Spare) {
        let mut line = Line::new(&self.path, spare);
        if is_first {
            line.take_over(&self.parked);
        }
        self.exchanges(&mut line, is_first).await;
        if self.lock().conversation.has_all() {
            line.leave(&self.parked);
        }
    }

    async fn exchanges(&self, line: &mut Line<'_>, is_first: bool) {
        let mut trouble = Trouble::default();
        loop {
            let mut work = pin!(self.work.notified());
            work.as_mut().enable();
            let (exchange, hush, quiet) = {
                let mut state = self.lock();
                if state.is_dropped || state.fault.is_some() {
                    return;
                }
                state.hush = state.hush.filter(|hush| Instant::now() < *hush);
                let is_reading = state.is_reading && state.hush.is_none();
                let exchange = state.conversation.next(is_reading, line.patience());
                (exchange, state.hush, state.conversation.acknowledges_after())
            };
            let exchange = if let Some(exchange) = exchange {
                exchange
            } else {
                let is_due = tokio::select! {
                    () = work => false,
                    () = sleep(quiet.unwrap_or_default()), if is_first && quiet.is_some() => true,
                    () = sleep_until(hush.unwrap_or_else(Instant::now)), if is_first && hush.is_some() => false,
                    () = line.grow_old() => { line.close(); false }
                };
                let mut state = self.lock();
                if !is_due || state.conversation.acknowledges_after().is_none() {
                    continue;
                }
                state.conversation.acknowledgement()
            };
            let start = Instant::now();
            let Some(outcome) = self.unless_over(line.exchange(&exchange)).await else { return };
            let took = start.elapsed();
            match self.settle(&exchange, outcome, took, &mut trouble) {
                Ok(None) => trouble = Trouble::default(),
                Ok(Some(again)) => {
                    if self.unless_dropped(sleep(again)).await.is_none() {
                        return;
                    }
                }
                Err(fault) => return self.fail(fault),
            }
        }
    }

    /// Takes in what an exchange brought. A duration is how long to wait before it is tried again.
    fn settle(
        &self,
        exchange: &Exchange,
        outcome: Result<(Reply, Bytes), AgentFault>,
        took: Duration,
        trouble: &mut Trouble,
    ) -> Result<Option<Duration>, AgentFault> {
        let mut state = self.lock();
        match &outcome {
            Ok((_, bytes)) if !bytes.is_empty() => state.pause = SHORTEST_PAUSE,
            // Held shorter than it might have been.
            Ok(_) if exchange.hold > HURRIED && took < exchange.hold / 2 => {
                state.hush = Some(Instant::now() + state.pause);
                state.pause = (state.pause * 2).min(LONGEST_PAUSE);
            }
            _ => {}
        }
        let (fault, is_worth_it) = match outcome {
            Ok((reply, bytes)) => match state.conversation.absorb(exchange.number, &reply, bytes) {
                Ok(()) => {
                    let wakers = [state.reader.take(), state.writer.take()];
                    drop(state);
                    wakers.into_iter().flatten().for_each(Waker::wake);
                    self.work.notify_waiters();
                    return Ok(None);
                }
                Err(status) => (AgentFault::of_status(status, self.path.clone()), status == Status::Full),
            },
            Err(fault) => {
                state.conversation.lose(exchange.number);
                let is_worth_it = !matches!(fault, AgentFault::Nonsense { .. });
                (fault, is_worth_it)
            }
        };
        drop(state);
        trouble.next(fault, is_worth_it).map(Some)
    }

    fn fail(&self, fault: AgentFault) {
        let mut state = self.lock();
        state.fault.get_or_insert(fault);
        let wakers = [state.reader.take(), state.writer.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
        self.work.notify_waiters();
    }

    /// `None` when the stream has been dropped meanwhile.
    async fn unless_dropped<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        let mut dropped = pin!(self.dropped.notified());
        dropped.as_mut().enable();
        if self.lock().is_dropped {
            return None;
        }
        tokio::select! {
            done = step => Some(done),
            () = dropped => None,
        }
    }

    /// The same, but an exchange whose answer is due at once may end by itself: who is in between would report it.
    async fn unless_over<T>(&self, exchange: impl Future<Output = T>) -> Option<T> {
        let mut exchange = pin!(exchange);
        let done = self.unless_dropped(exchange.as_mut()).await;
        if done.is_none() && self.lock().conversation.has_all() {
            let _ = timeout(LAST_ONE, exchange).await;
        }
        done
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const LAST_ONE: Duration = Duration::from_millis(100);
const CLOSING: Duration = Duration::from_secs(2);
/// An empty answer to what might have been held this long, and was not.
const HURRIED: Duration = Duration::from_millis(40);
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(40);
