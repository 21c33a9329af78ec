//! The host's side: `GET /N` answers with N bytes.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use valetkey::carrier::agent::{AgentServer, Budget, CarriedStream, Limits};
use valetkey::carrier::unix;

use super::bare;

pub(crate) async fn both(carried: &Path, bare: &Path) {
    tokio::spawn(bare_channel(listen(bare)));
    let listener = listen(carried);
    let (server, mut incoming) = AgentServer::new(&Budget::new(Limits::default()));
    tokio::spawn(async move {
        loop {
            let (line, _) = listener.accept().await.expect("a connection");
            let server = server.clone();
            unix::widen(&line);
            tokio::spawn(async move { server.serve_connection(line, 0, ()).await });
        }
    });
    while let Some((stream, ())) = incoming.accept().await {
        tokio::spawn(answer(stream));
    }
}

async fn bare_channel(listener: UnixListener) {
    loop {
        let (line, _) = listener.accept().await.expect("a connection");
        tokio::spawn(bare::serve(line));
    }
}

fn listen(path: &Path) -> UnixListener {
    let listener = unix::bind(path).expect("a socket");
    UnixListener::from_std(listener).expect("a listener")
}

async fn answer(stream: CarriedStream) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let length = request.uri().path().trim_start_matches('/').parse().unwrap_or_default();
        Ok::<_, Infallible>(Response::new(Bulk(length)))
    });
    let mut server = http1::Builder::new();
    let _ = server.max_buf_size(16 << 10).serve_connection(TokioIo::new(stream), service).await;
}

/// So many bytes, in pieces as TLS brings them.
struct Bulk(u64);

impl Body for Bulk {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        let some = self.0.min(PIECE.len() as u64);
        self.0 -= some;
        let piece = Bytes::from_static(&PIECE[..usize::try_from(some).unwrap_or_default()]);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

static PIECE: [u8; 16 << 10] = [7; 16 << 10];
