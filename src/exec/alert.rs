//! TLS of ours to a client, which ends in an alert where an answer on it is not whole.
//!
//! Beneath TLS a reset is not enough: Python takes it for the end of the connection, and that for the end of the answer.
//! An alert is an error to every client.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use crate::client::stream::Stream;
use crate::http::unfinished::Unfinished;

/// See the module.
pub(super) struct Alerting {
    /// Present as long as the value is in use.
    stream: Option<Box<TlsStream<Stream>>>,
    unfinished: Unfinished,
}

impl Alerting {
    pub(super) fn new(stream: TlsStream<Stream>, unfinished: Unfinished) -> Self {
        Self { stream: Some(Box::new(stream)), unfinished }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TlsStream<Stream>>> {
        self.stream.as_deref_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Alerting {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take().filter(|_| self.unfinished.is_any()) else { return };
        // Without time for an alert the connection is reset, as any other is.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let unfinished = self.unfinished.clone();
        runtime.spawn(async move {
            let (below, connection) = stream.get_mut();
            // Whoever sends what is no TLS gets an alert: there is no other way to ask the library for one.
            let _ = connection.read_tls(&mut &NO_TLS[..]);
            let _ = connection.process_new_packets();
            let mut rest = Vec::new();
            while connection.wants_write() && connection.write_tls(&mut rest).is_ok() {}
            let told = async { below.write_all(&rest).await.and(below.flush().await) };
            if matches!(timeout(PATIENCE, told).await, Ok(Ok(()))) {
                unfinished.forgive();
            }
        });
    }
}

impl AsyncRead for Alerting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Alerting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(context)
    }

    /// An end that TLS announces is one that was reached.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unfinished.is_any() { Poll::Ready(Ok(())) } else { self.stream()?.poll_shutdown(context) }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

/// A record of a kind that there is not.
const NO_TLS: [u8; 6] = [0xff, 3, 3, 0, 1, 0];
/// A client that reads gets it at once.
const PATIENCE: Duration = Duration::from_secs(10);
