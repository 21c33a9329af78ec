//! A TCP connection on which an answer that was not finished cannot be taken for one that was.
//!
//! Many clients take the end of a connection for the end of the answer, whatever length was promised: Python hides an
//! end that TLS did not announce, and an old pip then speaks of a file that somebody has tampered with. So a connection
//! that goes in the middle of an answer is reset, which no client overlooks, also where this process is killed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Whether an answer on a connection was begun and not finished.
#[derive(Debug, Default, Clone)]
pub struct Unfinished(Arc<AtomicUsize>);

impl Unfinished {
    /// An answer begins, or one is known to be broken.
    pub fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// It has been given whole.
    pub fn finish(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// See the module.
#[derive(Debug)]
pub struct Breakable {
    stream: TcpStream,
    unfinished: Unfinished,
    /// Closing it resets it.
    is_set: bool,
}

impl Breakable {
    #[must_use]
    pub fn new(stream: TcpStream, unfinished: Unfinished) -> Self {
        Self { stream, unfinished, is_set: false }
    }

    /// Has the kernel do at the end what is right at this moment.
    fn settle(&mut self) {
        let wanted = self.unfinished.is_any();
        if wanted != self.is_set {
            let at_once = wanted.then_some(Duration::ZERO);
            self.is_set = set_socket_linger(&self.stream, at_once).is_ok() && wanted;
        }
    }
}

impl Drop for Breakable {
    fn drop(&mut self) {
        self.settle();
    }
}

impl AsyncRead for Breakable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.settle();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// An end in order is an end that was reached.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.settle();
        if self.is_set { Poll::Ready(Ok(())) } else { Pin::new(&mut self.stream).poll_shutdown(context) }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.settle();
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A body during which its connection is unfinished. Begins with its first piece: what answers a HEAD is never asked for
/// one.
#[derive(Debug)]
pub struct Owing<B> {
    body: B,
    unfinished: Unfinished,
    begun: bool,
}

impl<B> Owing<B> {
    pub fn new(body: B, unfinished: &Unfinished) -> Self {
        Self { body, unfinished: unfinished.clone(), begun: false }
    }

    pub fn body(&mut self) -> &mut B {
        &mut self.body
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Owing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if !this.begun {
            this.begun = true;
            this.unfinished.begin();
        }
        let poll = Pin::new(&mut this.body).poll_frame(context);
        let is_whole = match &poll {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => this.body.is_end_stream() || this.body.size_hint().exact() == Some(0),
            _ => false,
        };
        if is_whole && this.begun {
            this.begun = false;
            this.unfinished.finish();
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Breakable, Unfinished, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let unfinished = Unfinished::default();
        let near = Breakable::new(listener.accept().await.unwrap().0, unfinished.clone());
        (near, unfinished, far)
    }

    #[tokio::test]
    async fn what_is_unfinished_ends_in_a_reset_and_what_is_whole_in_order() {
        for (begun, finished, shut) in
            [(0, 0, false), (1, 0, false), (1, 0, true), (1, 1, false), (1, 1, true), (2, 1, true)]
        {
            let (mut near, unfinished, mut far) = pair().await;
            (0..begun).for_each(|_| unfinished.begin());
            near.write_all(b"half").await.unwrap();
            (0..finished).for_each(|_| unfinished.finish());
            if shut {
                near.shutdown().await.unwrap();
            }
            drop(near);
            let mut read = Vec::new();
            let outcome = far.read_to_end(&mut read).await;
            let reset = outcome.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
            assert_eq!(reset, begun > finished, "{begun} {finished} {shut}");
            assert!(reset || read == b"half");
        }
    }

    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"more")))))
        }
    }

    #[tokio::test]
    async fn a_body_is_owed_from_its_first_piece_to_its_last() {
        let unfinished = Unfinished::default();
        let whole = || Owing::new(Full::new(Bytes::from_static(b"x")), &unfinished);
        assert_eq!(whole().collect().await.unwrap().to_bytes(), "x");
        drop(whole());
        assert!(!unfinished.is_any());
        let mut broken = Owing::new(Endless, &unfinished);
        assert!(broken.frame().await.is_some());
        assert!(unfinished.is_any());
        drop(broken);
        assert!(unfinished.is_any());
    }
}
