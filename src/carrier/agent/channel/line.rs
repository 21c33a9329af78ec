//! One connection of a stream's, which is replaced before it is cut, and the memory for what it brings.

use std::io;
use std::os::unix::net;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::carrier::agent::AgentFault;
use crate::carrier::agent::conversation::Exchange;
use crate::carrier::agent::once::{ANSWER_SLACK, LAST_ANSWER, MOST_AGE, TRANSIT, read_answer};
use crate::carrier::agent::wire;
use crate::carrier::frame::Reply;

/// A connection that is replaced before it is cut.
pub(super) struct Line<'a> {
    path: &'a Path,
    spare: &'a Spare,
    connection: Option<(UnixStream, Instant)>,
}

impl<'a> Line<'a> {
    pub(super) fn new(path: &'a Path, spare: &'a Spare) -> Self {
        Self { path, spare, connection: None }
    }

    /// Takes over a connection that an earlier stream has left, if there is one.
    pub(super) fn take_over(&mut self, parked: &Parked) {
        self.connection = parked.take();
    }

    /// How long an answer may be held on this connection.
    pub(super) fn patience(&mut self) -> Duration {
        let age = self.connection.as_ref().map_or(Duration::ZERO, |(_, born)| born.elapsed());
        if age > MOST_AGE {
            self.connection = None;
            return LAST_ANSWER;
        }
        LAST_ANSWER.saturating_sub(age)
    }

    /// Until the connection is too old to be used again; for ever where there is none.
    pub(super) async fn grow_old(&self) {
        match &self.connection {
            Some((_, born)) => sleep_until(*born + MOST_AGE).await,
            None => std::future::pending().await,
        }
    }

    /// Leaves the connection to the next stream: this one is over.
    pub(super) fn leave(self, parked: &Parked) {
        if let Some(connection) = self.connection {
            parked.put(connection);
        }
    }

    /// Closes the connection, which is too old.
    pub(super) fn close(&mut self) {
        self.connection = None;
    }

    /// Makes an exchange, on the connection that is there or a new one.
    pub(super) async fn exchange(&mut self, exchange: &Exchange) -> Result<(Reply, Bytes), AgentFault> {
        // Taken out: a connection on which an exchange was given up is out of step.
        let kept = self.connection.take();
        let whole = async {
            let (mut socket, born) = match kept {
                Some(kept) => kept,
                None => (UnixStream::connect(self.path).await?, Instant::now()),
            };
            socket.write_all(&exchange.message).await?;
            let mut answer = Answer { bytes: self.spare.take(), spare: self.spare.clone() };
            let kind = read_message(&mut socket, &mut answer.bytes, exchange.want + ANSWER_SLACK).await?;
            io::Result::Ok((socket, born, kind, Bytes::from_owner(answer)))
        };
        let outcome = timeout(exchange.hold + TRANSIT, whole).await.map_err(io::Error::from);
        let broken =
            |error: io::Error| AgentFault::Broken { path: self.path.to_owned(), problem: error.to_string() };
        let (socket, born, kind, answer) = outcome.and_then(|outcome| outcome).map_err(broken)?;
        let answer = read_answer(self.path, kind, &answer.slice(wire::MESSAGE_HEAD..), exchange.want)?;
        self.connection = Some((socket, born));
        Ok(answer)
    }
}

/// Connections that streams have left in order, for the next ones: BuildKit takes longer to open one than to carry an
/// answer. They belong to no runtime meanwhile, since the next stream may have another.
#[derive(Debug, Default, Clone)]
pub(super) struct Parked(Arc<Mutex<Vec<(net::UnixStream, Instant)>>>);

impl Parked {
    fn take(&self) -> Option<(UnixStream, Instant)> {
        let (socket, born) = self.young().pop()?;
        Some((UnixStream::from_std(socket).ok()?, born))
    }

    fn put(&self, (socket, born): (UnixStream, Instant)) {
        let Ok(socket) = socket.into_std() else { return };
        let mut parked = self.young();
        if parked.len() < MOST_PARKED && born.elapsed() <= MOST_AGE {
            parked.push((socket, born));
            // They are closed with the channel and its streams, whatever the clock says.
            let parked = Arc::downgrade(&self.0);
            tokio::spawn(async move {
                sleep_until(born + MOST_AGE + Duration::from_millis(1)).await;
                if let Some(parked) = parked.upgrade() {
                    drop(Self(parked).young());
                }
            });
        }
    }

    /// Without those that are too old by now.
    fn young(&self) -> MutexGuard<'_, Vec<(net::UnixStream, Instant)>> {
        let mut parked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parked.retain(|(_, born)| born.elapsed() <= MOST_AGE);
        parked
    }
}

/// Reads one message: says its type, and fills `message` with the rest.
async fn read_message(socket: &mut UnixStream, message: &mut Vec<u8>, longest: usize) -> io::Result<u8> {
    // A short answer is there in one piece.
    while message.len() < wire::MESSAGE_HEAD {
        more(socket, message).await?;
    }
    let head = *message.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
    let (length, kind) = wire::message_head(head)
        .filter(|(length, _)| *length <= longest)
        .ok_or_else(|| io::Error::other("its answer is too long"))?;
    let whole = wire::MESSAGE_HEAD + length;
    message.reserve_exact(whole.saturating_sub(message.len()));
    while message.len() < whole {
        more(socket, message).await?;
    }
    if message.len() > whole {
        return Err(io::Error::other("it says more than it was asked"));
    }
    Ok(kind)
}

async fn more(socket: &mut UnixStream, message: &mut Vec<u8>) -> io::Result<()> {
    match socket.read_buf(message).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Memory for large answers, which is used again: new memory costs about as much as what is copied into it.
#[derive(Debug, Default, Clone)]
pub(super) struct Spare(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spare {
    fn take(&self) -> Vec<u8> {
        self.lock().pop().unwrap_or_else(|| Vec::with_capacity(FIRST_READ))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that gives its memory back.
struct Answer {
    bytes: Vec<u8>,
    spare: Spare,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut spare = self.spare.lock();
        if spare.len() < MOST_SPARE && bytes.capacity() > FIRST_READ {
            bytes.clear();
            spare.push(bytes);
        }
    }
}

/// Only a crowd leaves more.
const MOST_PARKED: usize = 4;
const FIRST_READ: usize = 4 << 10;
/// Two answers on their way, and some that wait for their turn or to be read.
const MOST_SPARE: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection's other end sees.
    fn reads(mut far: &net::UnixStream) -> io::Result<usize> {
        io::Read::read(&mut far, &mut [0; 8])
    }

    #[tokio::test]
    async fn what_is_parked_is_closed_with_the_channel() {
        let parked = Parked::default();
        let (near, far) = UnixStream::pair().unwrap();
        let far = far.into_std().unwrap();
        parked.put((near, Instant::now()));
        let stream = parked.clone();
        drop(parked);
        assert_eq!(reads(&far).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(stream);
        assert_eq!(reads(&far).unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_parked_is_closed_when_it_is_old() {
        let parked = Parked::default();
        let (near, mut far) = UnixStream::pair().unwrap();
        parked.put((near, Instant::now()));
        assert_eq!(timeout(MOST_AGE * 2, far.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
        assert!(parked.take().is_none());
    }
}
