//! The daemon's end of the carrier: an agent with one key that signs nothing, and behind it the streams.
//!
//! Streams belong to one listener and one uid: a name that another one uses is unknown here, like one that nobody
//! uses. An exchange goes on over any connection of the same uid. Connections are never closed for being idle,
//! since buildah dials once for a whole step; a message that has begun has to end soon.
//!
//! Nothing is read into memory that has no room there: the bytes of a request go into their stream as they come.

mod table;

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until, timeout};

use super::budget::Budget;
use super::stream::{CarriedStream, Shared, Taken};
use super::wire::{self, Sign};
use crate::carrier::frame::{FrameFault, Reply, Request, Status, StreamId};

use table::Table;

/// Serves the agent protocol on the connections of one listener. `P` is what the daemon knows about a peer; each
/// stream comes with that of the connection which opened it.
#[derive(Debug)]
pub struct AgentServer<P> {
    table: Arc<Table>,
    new: mpsc::UnboundedSender<(CarriedStream, P)>,
}

/// The new streams of one listener. Somebody has to wait on it all the time: it drops idle streams as well.
#[derive(Debug)]
pub struct Incoming<P> {
    table: Arc<Table>,
    new: mpsc::UnboundedReceiver<(CarriedStream, P)>,
    /// When idle streams are looked for next.
    sweep: Option<Instant>,
}

/// Who is on the other end of a connection. Streams are found by the uid alone, over any connection; they are counted
/// for the process, too: what carries the socket into a build is a process of that build's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller {
    pub uid: u32,
    pub process: i32,
}

impl From<u32> for Caller {
    fn from(uid: u32) -> Self {
        Self { uid, process: 0 }
    }
}

impl<P> AgentServer<P> {
    /// An agent for one listener, within a budget that all listeners share.
    #[must_use]
    pub fn new(budget: &Arc<Budget>) -> (Self, Incoming<P>) {
        // As many streams may wait as there may be: the budget bounds it.
        let (sender, receiver) = mpsc::unbounded_channel();
        let table = Table::new(budget);
        let incoming = Incoming { table: Arc::clone(&table), new: receiver, sweep: None };
        (Self { table, new: sender }, incoming)
    }

    /// Opens no more streams. The ones that are there go on.
    pub fn refuse_new(&self) {
        self.table.refuse_new();
    }

    /// How many streams are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.table.open_streams()
    }

    /// Whether a build has an open stream, on whichever connection.
    #[must_use]
    pub fn has_streams(&self, caller: Caller) -> bool {
        self.table.has_open(caller)
    }

    /// Serves one connection until the peer closes it or breaks the protocol. It may be dropped at any time; the
    /// streams stay. [`widen`](crate::carrier::unix::widen) the connection first: it is a sixth faster in bulk.
    pub async fn serve_connection<S>(&self, connection: S, caller: impl Into<Caller>, peer: P)
    where
        S: AsyncRead + AsyncWrite + Unpin,
        P: Clone,
    {
        let connection = BufReader::with_capacity(READ_BUFFER, connection);
        let caller = caller.into();
        let mut line = Line { server: self, connection, caller, peer, carried: None, is_shared: false };
        // Every error here is the peer's, or the end of the connection.
        while line.message().await.is_ok() {}
    }
}

impl<P> Clone for AgentServer<P> {
    fn clone(&self) -> Self {
        Self { table: Arc::clone(&self.table), new: self.new.clone() }
    }
}

impl<P> Incoming<P> {
    /// The next stream; `None` when the server and all its connections are gone.
    pub async fn accept(&mut self) -> Option<(CarriedStream, P)> {
        loop {
            // At rest there are no streams, and nothing wakes up. A crowd of new ones does not put it off.
            let interval = self.table.sweep_interval();
            self.sweep =
                if self.table.is_empty() { None } else { self.sweep.or(Some(Instant::now() + interval)) };
            let sweep = self.sweep.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = sleep_until(sweep), if self.sweep.is_some() => {
                    self.table.sweep();
                    self.sweep = None;
                }
                new = self.new.recv() => return new,
            }
        }
    }
}

/// One connection.
struct Line<'a, S, P> {
    server: &'a AgentServer<P>,
    connection: BufReader<S>,
    caller: Caller,
    peer: P,
    /// The stream that it carries, until a reply has told its end.
    carried: Option<StreamId>,
    /// It has carried a stream before another one was over: that may be waiting behind a reply.
    is_shared: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin, P: Clone> Line<'_, S, P> {
    /// Answers one message.
    async fn message(&mut self) -> io::Result<()> {
        if self.connection.fill_buf().await?.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (length, kind) = soon(self.head()).await?;
        match kind {
            wire::SIGN_REQUEST if (wire::SIGN_HEAD..=wire::LARGEST_MESSAGE).contains(&length) => {
                let mut head = [0; wire::SIGN_HEAD];
                soon(self.connection.read_exact(&mut head)).await?;
                match Sign::parse(&head, length) {
                    Some(sign) => self.exchange(sign).await,
                    None => self.answer(length - head.len(), &wire::failure()).await,
                }
            }
            wire::REQUEST_IDENTITIES if length == 0 => self.answer(0, &wire::identities_answer()).await,
            _ => self.answer(length, &wire::failure()).await,
        }
    }

    async fn head(&mut self) -> io::Result<(usize, u8)> {
        let mut head = [0; wire::MESSAGE_HEAD];
        self.connection.read_exact(&mut head).await?;
        wire::message_head(head)
            .filter(|(length, _)| *length <= wire::LONGEST_MESSAGE)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Skips the rest of a message and answers it.
    async fn answer(&mut self, rest: usize, answer: &[u8]) -> io::Result<()> {
        self.skip(rest).await?;
        soon(self.connection.write_all(answer)).await
    }

    async fn skip(&mut self, mut rest: usize) -> io::Result<()> {
        while rest > 0 {
            let some = soon(self.some()).await?.len().min(rest);
            self.connection.consume(some);
            rest -= some;
        }
        Ok(())
    }

    /// What has arrived, at least a byte.
    async fn some(&mut self) -> io::Result<&[u8]> {
        let some = self.connection.fill_buf().await?;
        if some.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(some) }
    }

    async fn exchange(&mut self, sign: Sign) -> io::Result<()> {
        let found = sign.frame.map_err(|fault| match fault {
            FrameFault::Version(_) => Status::Version,
            FrameFault::Foreign | FrameFault::Malformed(_) => Status::Malformed,
        });
        let found = found.and_then(|request| Ok((request, self.stream(&request)?)));
        let (request, stream) = match found {
            Ok(found) => found,
            Err(status) => {
                let refusal = wire::sign_answer(&Reply::refusal(status), 0);
                return self.answer(sign.carried + sign.trailing, &refusal).await;
            }
        };
        let until = Instant::now() + self.hold(&request);
        self.receive(&stream, &request, sign.carried, until).await?;
        self.skip(sign.trailing).await?;
        match self.attend(&stream, &request, sign.carried, until).await {
            Ok(taken) => {
                if taken.end {
                    self.carried = None;
                }
                self.send(taken).await
            }
            Err(status) => {
                let refusal = wire::sign_answer(&Reply::refusal(status), 0);
                soon(self.connection.write_all(&refusal)).await
            }
        }
    }

    fn stream(&mut self, request: &Request) -> Result<Arc<Shared>, Status> {
        self.is_shared |= self.carried.replace(request.stream).is_some_and(|other| other != request.stream);
        if let Some(stream) = self.server.table.find(self.caller.uid, request.stream) {
            return Ok(stream);
        }
        // A stream that begins in the middle was ours once, or a daemon's before us.
        if !request.open || request.close || request.offset > 0 || request.acknowledged > 0 {
            return Err(Status::Unknown);
        }
        let (stream, is_new) = self.server.table.open(self.caller, request.stream)?;
        if is_new {
            let new = (CarriedStream::new(Arc::clone(&stream)), self.peer.clone());
            self.server.new.send(new).map_err(|_| Status::Ending)?;
        }
        Ok(stream)
    }

    fn hold(&self, request: &Request) -> Duration {
        let limits = self.server.table.limits();
        request.wait.min(if self.is_shared { limits.shared_hold } else { limits.hold })
    }

    /// Hands the bytes of a request to its stream as they come. What finds no room in time is skipped: the reply
    /// says how much was taken.
    async fn receive(
        &mut self,
        stream: &Shared,
        request: &Request,
        carried: usize,
        until: Instant,
    ) -> io::Result<()> {
        let until = until.max(Instant::now() + self.server.table.limits().shared_hold);
        let (mut offset, mut rest) = (request.offset, carried);
        while rest > 0 {
            let arrived = soon(self.some()).await?;
            let some = arrived.len().min(rest);
            let is_taken = stream.push(offset, &arrived[..some], until).await;
            self.connection.consume(some);
            offset += some as u64;
            rest -= some;
            if !is_taken {
                return self.skip(rest).await;
            }
        }
        Ok(())
    }

    /// Does what a request asks of its stream, and waits for what it has to say.
    async fn attend(
        &self,
        stream: &Shared,
        request: &Request,
        carried: usize,
        until: Instant,
    ) -> Result<Taken, Status> {
        let streams = &self.server.table;
        if request.finish {
            stream.finish(request.offset + carried as u64);
        }
        if !stream.acknowledge(request.acknowledged) {
            return Err(Status::Malformed);
        }
        if request.close {
            let last = stream.take(true, 0);
            streams.close(self.caller.uid, request.stream);
            return Ok(last);
        }
        let want = usize::try_from(request.want).unwrap_or(usize::MAX).min(streams.largest_reply());
        if want > 0 {
            stream.wait(request.fresh, 1, until).await;
            if want > FIRST_FRAME {
                // In bulk a frame is worth a moment: what it costs on its way does not depend on what is in it.
                stream.wait(request.fresh, want / 2, until.min(Instant::now() + GATHER)).await;
            } else {
                // The application may be about to say more, or that this was all.
                yield_now().await;
            }
        }
        let taken = stream.take(request.fresh, want);
        stream.touch();
        if stream.is_reset() {
            return Err(Status::Unknown);
        }
        if stream.is_over(table::LINGERING_BYTES) {
            streams.linger(self.caller.uid, request.stream);
        }
        Ok(taken)
    }

    async fn send(&mut self, taken: Taken) -> io::Result<()> {
        let Taken { offset, pieces, length, end, more, accepted } = taken;
        let reply = Reply { status: Status::Ok, end, more, offset, accepted };
        let head = wire::sign_answer(&reply, length);
        timeout(SEND_TIME, self.write_all(&head, &pieces)).await?
    }

    async fn write_all(&mut self, head: &[u8], pieces: &[impl AsRef<[u8]>]) -> io::Result<()> {
        let all: Vec<&[u8]> = std::iter::once(head).chain(pieces.iter().map(AsRef::as_ref)).collect();
        let mut rest = all.as_slice();
        let mut past = 0;
        while let [first, behind @ ..] = rest {
            if past == first.len() {
                (rest, past) = (behind, 0);
                continue;
            }
            let slices: Vec<IoSlice<'_>> = std::iter::once(&first[past..])
                .chain(behind.iter().copied())
                .take(MOST_SLICES)
                .map(IoSlice::new)
                .collect();
            let mut written = self.connection.write_vectored(&slices).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            while let [first, behind @ ..] = rest
                && written >= first.len() - past
            {
                written -= first.len() - past;
                (rest, past) = (behind, 0);
            }
            past += written;
        }
        Ok(())
    }
}

/// What a peer has begun it has to go on with.
async fn soon<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(MESSAGE_TIME, step).await?
}

const MESSAGE_TIME: Duration = Duration::from_secs(10);
/// A peer that takes none of a reply for so long is gone, and the reply's memory with it.
const SEND_TIME: Duration = Duration::from_secs(30);
const READ_BUFFER: usize = 8 << 10;
/// The kernel takes 1,024.
const MOST_SLICES: usize = 256;
/// What a client asks for before it knows that there is much.
const FIRST_FRAME: usize = 64 << 10;
/// So long a frame waits to be half full.
const GATHER: Duration = Duration::from_millis(2);
