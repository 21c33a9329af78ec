//! The streaming half of the client: the head of an answer as soon as it is there, its body as it comes.
//!
//! Whoever reads the body sets the pace, and holds no more than a buffer of it. A body that is dropped before its end
//! cuts its connection at once; one that is read to its end leaves it for the next request of the same token. Nothing
//! is followed, decoded or repeated here, but for one case: a kept connection that turned out to be dead, and a request
//! that may be made twice.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::{Method, Request, Response, Uri};
use tokio::time::{Instant, timeout, timeout_at};

use super::body::{Body, Progress};
use super::client::{HttpClient, HttpFault, begin, broken, host_of, to_origin_form};
use super::patience::Patience;
use super::pool::{Connection, Key, Pool};
use super::waiting::Waiting;
use crate::secret::Fingerprint;

impl HttpClient {
    /// Sends a request to an https URL and waits for the head of its answer. `token` is the fingerprint of what its
    /// headers identify it with: connections are shared by it.
    ///
    /// # Errors
    /// When there is no connection within ten seconds, no piece of the request's body within a minute, or no head within
    /// another one; or within ten, where the request changes something: a registry looks at the whole of a large file
    /// before it answers, and what it says then is worth more than what we could.
    pub async fn stream(
        &self,
        request: Request<Body>,
        token: Option<Fingerprint>,
    ) -> Result<Response<Download>, HttpFault> {
        let (mut head, body) = request.into_parts();
        let uri = to_origin_form(&mut head)?;
        let host = host_of(&uri);
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https"));
        let authority = authority.ok_or_else(|| HttpFault::Url(host.clone()))?.to_string();
        let key = Key { authority, token };
        let repeatable = matches!(head.method, Method::GET | Method::HEAD) && body.is_end_stream();
        let progress = body.progress();
        if repeatable && let Some(connection) = self.pool().take(&key) {
            let line = Line { connection, key: key.clone(), pool: Arc::clone(self.pool()) };
            match line.send(Request::from_parts(head.clone(), Body::empty()), &host, None).await {
                // The server has closed it while nobody looked.
                Err(HttpFault::Broken { .. }) => {}
                outcome => return outcome,
            }
        }
        let line = self.connect(&uri, &host, key).await?;
        line.send(Request::from_parts(head, body), &host, progress).await
    }

    async fn connect(&self, uri: &Uri, host: &str, key: Key) -> Result<Line, HttpFault> {
        let late = |_| HttpFault::Deadline { host: host.to_owned(), waited: CONNECT };
        let stream = timeout(CONNECT, self.open(uri)).await.map_err(late)??;
        let connection = begin(stream, host, self.piece()).await?;
        Ok(Line { connection, key, pool: Arc::clone(self.pool()) })
    }
}

/// A connection with a request on it. Goes back to the pool when its answer has ended, and is cut otherwise.
struct Line {
    connection: Connection,
    key: Key,
    pool: Arc<Pool>,
}

impl Line {
    async fn send(
        mut self,
        request: Request<Body>,
        host: &str,
        upload: Option<Progress>,
    ) -> Result<Response<Download>, HttpFault> {
        let start = Instant::now();
        let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
        // A connection from the pool may still be at the end of its last answer.
        let ready = timeout(LAST_PIECE, self.connection.sender.ready()).await;
        let late = || HttpFault::Deadline { host: host.to_owned(), waited: start.elapsed() };
        ready.map_err(|_| late())?.map_err(|error| broken(host, &error))?;
        let answer = self.connection.sender.send_request(request);
        tokio::pin!(answer);
        let keep = upload.is_none();
        let mut waiting = Waiting::new(is_reading, upload, Duration::ZERO);
        let response = loop {
            match timeout_at(waiting.due(), answer.as_mut()).await {
                Ok(response) => break response.map_err(|error| broken(host, &error))?,
                Err(_) if waiting.is_over() => return Err(late()),
                Err(_) => {}
            }
        };
        let (head, body) = response.into_parts();
        let mut download =
            Download { body, line: Some(self), keep, waiting: Patience::default(), host: host.to_owned() };
        if download.body.is_end_stream() {
            download.keep();
        }
        Ok(Response::from_parts(head, download))
    }
}

/// The body of an answer.
pub struct Download {
    body: Incoming,
    /// Until the end.
    line: Option<Line>,
    /// An upload may end after its answer: then the connection is of no further use.
    keep: bool,
    /// While the server owes a piece.
    waiting: Patience,
    host: String,
}

impl Download {
    /// Reads and forgets what is left, if that is little and comes soon, so that the connection can be kept.
    pub async fn drain(mut self) {
        let rest = async {
            let mut left = LITTLE;
            while let Some(Ok(frame)) = std::future::poll_fn(|it| Pin::new(&mut self).poll_frame(it)).await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        };
        let _ = timeout(SOON, rest).await;
    }

    fn keep(&mut self) {
        if let Some(Line { connection, key, pool }) = self.line.take()
            && self.keep
            && !connection.sender.is_closed()
        {
            pool.put(key, connection);
        }
    }
}

impl HttpBody for Download {
    type Data = Bytes;
    type Error = HttpFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpFault>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            let late = || HttpFault::Deadline { host: this.host.clone(), waited: IDLE };
            return this.waiting.poll(IDLE, context).map(|()| Some(Err(late())));
        };
        this.waiting.met();
        match &frame {
            None => this.keep(),
            Some(Ok(_)) if this.body.is_end_stream() => this.keep(),
            Some(_) => {}
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| broken(&this.host, &error))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl std::fmt::Debug for Download {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Download").field("host", &self.host).finish_non_exhaustive()
    }
}

const CONNECT: Duration = Duration::from_secs(10);
/// The end of an answer that nobody waited for.
const LAST_PIECE: Duration = Duration::from_secs(30);
/// A server that pauses in the middle of a file is as often busy as gone, and the client has a patience of its own.
const IDLE: Duration = Duration::from_secs(120);
const LITTLE: usize = 64 << 10;
const SOON: Duration = Duration::from_millis(500);
