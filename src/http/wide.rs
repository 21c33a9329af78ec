//! Downloads in large pieces. rustls asks the kernel for four kilobytes at a time and gives away one record at a time;
//! every one of these costs a turn through everything that stands behind it. So below TLS more is read than was
//! asked for, and above it as many records are put together as are there. Nothing waits for more to come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use hyper::Uri;
use hyper::rt::{self, ReadBufCursor};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

use super::proxy::ProxyConnector;

/// How many connections there are: a few are read in large pieces, and many in small ones, which cost less memory.
#[derive(Debug, Clone, Default)]
pub struct Crowd(Arc<AtomicUsize>);

impl Crowd {
    /// The size of a piece for one more.
    #[must_use]
    pub fn piece(&self) -> usize {
        if self.0.load(Ordering::Relaxed) <= FEW { LARGE } else { SMALL }
    }

    fn join(&self) -> Member {
        self.0.fetch_add(1, Ordering::Relaxed);
        Member(self.clone())
    }
}

#[derive(Debug)]
struct Member(Crowd);

impl Drop for Member {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens connections that are read ahead.
#[derive(Debug, Clone)]
pub struct WideConnector {
    pub connector: ProxyConnector,
    pub crowd: Crowd,
}

impl Service<Uri> for WideConnector {
    type Response = Ahead<<ProxyConnector as Service<Uri>>::Response>;
    type Error = <ProxyConnector as Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let (opened, crowd) = (self.connector.call(destination), self.crowd.clone());
        Box::pin(async move { opened.await.map(|stream| Ahead::new(stream, &crowd)) })
    }
}

/// A stream that is read ahead, below TLS.
#[derive(Debug)]
pub struct Ahead<S> {
    stream: S,
    /// Empty until the first byte is read.
    buffer: Vec<u8>,
    given: usize,
    filled: usize,
    piece: usize,
    _member: Member,
}

impl<S> Ahead<S> {
    #[must_use]
    pub fn new(stream: S, crowd: &Crowd) -> Self {
        let member = crowd.join();
        Self { stream, buffer: Vec::new(), given: 0, filled: 0, piece: crowd.piece(), _member: member }
    }
}

impl<S: rt::Read + Unpin> rt::Read for Ahead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.given == this.filled {
            this.buffer.resize(this.piece, 0);
            let mut buffer = rt::ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer.unfilled()))?;
            (this.given, this.filled) = (0, buffer.filled().len());
        }
        let length = into.remaining().min(this.filled - this.given);
        into.put_slice(&this.buffer[this.given..][..length]);
        this.given += length;
        Poll::Ready(Ok(()))
    }
}

impl<S: rt::Write + Unpin> rt::Write for Ahead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }
}

impl<S: Connection> Connection for Ahead<S> {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

/// A stream that gives as much at a time as there is and fits, above TLS.
#[derive(Debug)]
pub struct Filled<S> {
    stream: S,
    /// What came behind bytes that had to be given first.
    fault: Option<io::Error>,
}

impl<S> Filled<S> {
    #[must_use]
    pub fn new(stream: S) -> Self {
        Self { stream, fault: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Filled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(fault) = self.fault.take() {
            return Poll::Ready(Err(fault));
        }
        let begin = into.filled().len();
        loop {
            let before = into.filled().len();
            let poll = Pin::new(&mut self.stream).poll_read(context, into);
            let is_owing = before > begin;
            match poll {
                Poll::Ready(Ok(())) if into.filled().len() > before && into.remaining() > 0 => {}
                Poll::Ready(Err(fault)) if is_owing => {
                    self.fault = Some(fault);
                    return Poll::Ready(Ok(()));
                }
                // It is called again when there is more.
                Poll::Pending if is_owing => return Poll::Ready(Ok(())),
                poll => return poll,
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Filled<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }
}

const FEW: usize = 4;
/// Four TLS records.
const LARGE: usize = 64 << 10;
/// One of them. Sixty-four downloads hold some of these each.
const SMALL: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Gives what it is told to, piece by piece.
    struct Pieces(Vec<Poll<io::Result<&'static [u8]>>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            context.waker().wake_by_ref();
            if self.0.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.0.remove(0).map(|piece| piece.map(|piece| into.put_slice(piece)))
        }
    }

    #[tokio::test]
    async fn what_is_there_is_given_together_and_nothing_is_waited_for() {
        let piece = |text: &'static str| Poll::Ready(Ok(text.as_bytes()));
        let pieces = vec![piece("one"), piece("two"), Poll::Pending, piece("three")];
        let mut filled = Filled::new(Pieces(pieces));
        let mut buffer = [0; 64];
        assert_eq!(filled.read(&mut buffer).await.unwrap(), 6);
        assert_eq!(&buffer[..6], b"onetwo");
        assert_eq!(filled.read(&mut buffer).await.unwrap(), 5);
        assert_eq!(filled.read(&mut buffer).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_fault_comes_behind_what_was_before_it_and_is_not_lost() {
        let fault = Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        let mut filled = Filled::new(Pieces(vec![Poll::Ready(Ok(b"one")), fault]));
        let mut buffer = [0; 64];
        assert_eq!(filled.read(&mut buffer).await.unwrap(), 3);
        assert_eq!(filled.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn many_are_read_in_small_pieces_until_they_are_few_again() {
        let crowd = Crowd::default();
        let members: Vec<_> = (0..FEW).map(|_| crowd.join()).collect();
        assert_eq!(crowd.piece(), LARGE);
        let one_more = crowd.join();
        assert_eq!(crowd.piece(), SMALL);
        drop((members, one_more));
        assert_eq!((crowd.piece(), crowd.0.load(Ordering::Relaxed)), (LARGE, 0));
    }

    #[tokio::test]
    async fn reading_ahead_loses_and_adds_nothing() {
        let (mut theirs, ours) = duplex(100 << 10);
        let sent: Vec<u8> = (0..80_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        theirs.write_all(&sent).await.unwrap();
        drop(theirs);
        let mut ahead = TokioIo::new(Ahead::new(TokioIo::new(ours), &Crowd::default()));
        let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match ahead.read(&mut buffer).await.unwrap() {
                0 => break,
                read => received.extend_from_slice(&buffer[..read]),
            }
        }
        assert_eq!(received, sent);
    }
}
