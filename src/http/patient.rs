//! A stream whose writes have a bound: a peer that does not read its answers is a peer that is gone.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::patience::Patience;

/// Passes everything on, and fails a write that has made no progress for ten seconds, or for a minute in the middle
/// of a long body: whoever unpacks while he reads may be held up by his disk.
#[derive(Debug)]
pub struct Patient<'a, S> {
    stream: S,
    bulk: &'a AtomicBool,
    /// While a write waits.
    waiting: Option<Patience>,
}

impl<'a, S> Patient<'a, S> {
    /// `bulk` says whether a long body is being written.
    pub fn new(stream: S, bulk: &'a AtomicBool) -> Self {
        Self { stream, bulk, waiting: None }
    }

    fn bound<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let in_bulk = self.bulk.load(Ordering::Relaxed);
        if poll.is_ready() {
            match &mut self.waiting {
                // There are thousands of writes in one.
                Some(waiting) if in_bulk => waiting.met(),
                waiting => *waiting = None,
            }
            return poll;
        }
        let patience = if in_bulk { PATIENCE_IN_BULK } else { PATIENCE };
        let waiting = self.waiting.get_or_insert_default();
        waiting.poll(patience, context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bound(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        self.bound(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.bound(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_IN_BULK: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_is_given_up() {
        for (bulk, patience) in [(false, PATIENCE), (true, PATIENCE_IN_BULK)] {
            let (ours, _theirs) = tokio::io::duplex(16);
            let (bulk, start) = (AtomicBool::new(bulk), tokio::time::Instant::now());
            let mut stream = Patient::new(ours, &bulk);
            let error = stream.write_all(&[0; 64]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(start.elapsed().as_secs(), patience.as_secs());
        }
    }
}
