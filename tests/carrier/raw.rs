//! A client that can do what ours never does: single exchanges, made by hand.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use valetkey::carrier::agent::wire;
use valetkey::carrier::frame::{Reply, Request, StreamId};

pub(crate) struct Raw(UnixStream);

impl Raw {
    pub(crate) async fn connect(path: &Path) -> Self {
        Self(UnixStream::connect(path).await.unwrap())
    }

    /// Sends anything.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// One message: its type and the rest. `None` at the end of the connection.
    pub(crate) async fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.0.read_exact(&mut head).await.ok()?;
        let (length, kind) = wire::message_head(head).unwrap();
        let mut message = vec![0; length];
        self.0.read_exact(&mut message).await.ok()?;
        Some((kind, message))
    }

    pub(crate) async fn ask(&mut self, message: &[u8]) -> Option<(u8, Vec<u8>)> {
        self.send(message).await;
        self.receive().await
    }

    pub(crate) async fn exchange(&mut self, request: Request, bytes: &[u8]) -> (Reply, Vec<u8>) {
        let (kind, answer) = self.ask(&wire::sign_request(&request, bytes)).await.unwrap();
        assert_eq!(kind, wire::SIGN_ANSWER);
        let (reply, place) = wire::parse_answer(&answer, usize::MAX).unwrap();
        (reply, answer[place].to_vec())
    }
}

/// A request that opens a stream and waits for its answer.
pub(crate) fn request(stream: u8) -> Request {
    named(StreamId::new([stream; 16]))
}

pub(crate) fn named(stream: StreamId) -> Request {
    Request {
        stream,
        open: true,
        finish: false,
        close: false,
        fresh: false,
        wait: Duration::from_secs(1),
        want: 64 << 10,
        offset: 0,
        acknowledged: 0,
    }
}
