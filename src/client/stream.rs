//! Requests to the daemon by a program that has a runtime: one stream for each, whatever carries it.
//!
//! A [`Way`] is where the daemon is; [`Way::open`] is the one place that knows how bytes get there. A request goes out
//! on a stream of its own, and the answer's body is read as its reader reads. While the daemon is being restarted a
//! request waits for it a little; a download that breaks in the middle goes on where it stopped
//! ([`resume`](super::resume)). Nothing in here knows a token.

use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::Builder;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::locate::Carrier;
use super::request::{not_answering, stopped_server};
use super::resume::Answer;
use crate::carrier::agent::AgentChannel;
use crate::error::shown::shown_path;
use crate::error::{Fault, Kind};
use crate::http::body::Progress;
use crate::http::waiting::Waiting;
use crate::sys;
use crate::sys::loopback_peer::is_out_of_descriptors;
use crate::sys::users::{is_own, shown};

/// A way to the daemon.
#[derive(Debug, Clone)]
pub enum Way {
    Unix {
        path: PathBuf,
        /// The owner's socket: whoever serves it has to be this user.
        own: bool,
    },
    /// Through an SSH agent that was carried into a container.
    Agent(AgentChannel),
}

/// The bytes of one request and its answer, whatever carries them.
pub type Stream = Box<dyn Duplex>;

/// Both directions of a stream.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// The body of a request. One type for all, because each one makes a copy of the client in the program.
pub type Sent = UnsyncBoxBody<Bytes, hyper::Error>;

/// Why there is no answer, or no more of it.
#[derive(Debug, Error)]
pub enum WayFault {
    /// The daemon does not run, or not where it is looked for.
    #[error("nobody answers at {}", shown_path(path))]
    Unreachable { path: PathBuf, source: io::Error },
    /// Somebody else serves the owner's socket.
    #[error("{} is served by {}", shown_path(path), shown(*uid))]
    Foreign { path: PathBuf, uid: u32 },
    /// It is there and stopped, as by a shell's ctrl-Z.
    #[error("{}", not_answering(*.0, true).0)]
    Stopped(u32),
    /// The connection broke.
    #[error("the daemon at {} broke off", shown_path(path))]
    Broken { path: PathBuf, source: hyper::Error },
    /// Nothing came in time.
    #[error("the daemon at {} did not answer within {} s", shown_path(path), waited.as_secs())]
    Deadline { path: PathBuf, waited: Duration },
    /// The rest of an answer does not come.
    #[error("the daemon at {} broke off in the middle of its answer: {problem}", shown_path(path))]
    Half { path: PathBuf, problem: String },
    /// An answer longer than the asker takes.
    #[error("the answer of the daemon at {} is too long", shown_path(.0))]
    TooLong(PathBuf),
}

impl Fault for WayFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Deadline { .. } => Kind::Deadline,
            Self::TooLong(_) => Kind::Local,
            _ => Kind::Unreachable,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { source, .. } if is_out_of_descriptors(source) => {
                Some("raise the limit of open files (`ulimit -n`)".to_owned())
            }
            Self::Unreachable { .. } => Some("start the daemon that serves it".to_owned()),
            Self::Foreign { .. } => Some("end that process, or remove the socket".to_owned()),
            Self::Stopped(pid) => Some(not_answering(*pid, true).1),
            Self::Broken { .. } | Self::Half { .. } => Some("look at that daemon's log".to_owned()),
            Self::Deadline { .. } => {
                Some("run `valetkey status` where that daemon runs: it may be stopped".to_owned())
            }
            Self::TooLong(_) => None,
        }
    }
}

impl Way {
    /// The way that a carrier stands for.
    #[must_use]
    pub fn of(carrier: &Carrier) -> Self {
        match carrier {
            Carrier::Found { path, .. } => Self::Unix { path: path.clone(), own: false },
            Carrier::Owner(path) => Self::Unix { path: path.clone(), own: true },
            Carrier::Agent(path) => Self::Agent(AgentChannel::at(path.clone())),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Unix { path, .. } => path,
            Self::Agent(channel) => channel.path(),
        }
    }

    /// Opens one stream.
    ///
    /// # Errors
    /// When nobody listens there, or somebody who should not.
    pub async fn open(&self) -> Result<Stream, WayFault> {
        let path = self.path();
        let unreachable = |source| WayFault::Unreachable { path: path.to_owned(), source };
        match self {
            Self::Unix { path, own } => {
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                if *own {
                    let server = sys::peer_of(&stream).map_err(unreachable)?;
                    if !is_own(server.uid) {
                        return Err(WayFault::Foreign { path: path.clone(), uid: server.uid });
                    }
                }
                Ok(Box::new(stream))
            }
            Self::Agent(channel) => match channel.open() {
                Ok(stream) => Ok(Box::new(stream)),
                Err(fault) => Err(unreachable(io::Error::other(fault))),
            },
        }
    }

    /// Asks for something small, once, and gets it whole.
    ///
    /// # Errors
    /// When there is no complete answer in time.
    pub async fn ask(
        &self,
        target: &'static str,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), WayFault> {
        let whole = async {
            self.refuse_stopped().await?;
            let mut request = Request::new(nothing());
            *request.uri_mut() = hyper::Uri::from_static(target);
            let (response, mover) = self.exchange(request, BUSY).await?;
            let _task = mover.spawn();
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST).collect().await.map_err(|error| {
                let path = self.path().to_owned();
                if error.is::<LengthLimitError>() {
                    WayFault::TooLong(path)
                } else {
                    WayFault::Half { path, problem: error.to_string() }
                }
            });
            Ok((status, body?.to_bytes()))
        };
        timeout(patience, whole).await.unwrap_or_else(|_| Err(self.late(patience)))
    }

    async fn refuse_stopped(&self) -> Result<(), WayFault> {
        let Self::Unix { path, .. } = self else { return Ok(()) };
        // Where nobody is there, the question itself says so.
        let Ok(stream) = UnixStream::connect(path).await else { return Ok(()) };
        stopped_server(&stream).map_or(Ok(()), |pid| Err(WayFault::Stopped(pid)))
    }

    /// Sends a request, and waits for the head of its answer. A request that can be made twice waits for a daemon that
    /// is being restarted, and is made again if its stream breaks before an answer.
    ///
    /// # Errors
    /// When there is no daemon, or no head within its time: longer than the daemon waits for the registry.
    pub async fn send(&self, request: Request<Sent>) -> Result<Response<Answer>, WayFault> {
        let repeatable =
            matches!(*request.method(), Method::GET | Method::HEAD) && request.body().is_end_stream();
        if !repeatable {
            let (response, mover) = self.exchange(request, RESTART).await?;
            // The rest of the upload moves, whether somebody reads the answer or not.
            let mover = mover.spawn();
            return Ok(response.map(|body| Answer::plain(self.clone(), body, mover)));
        }
        let head = request.into_parts().0;
        let (response, mover) = self.repeat(&head, Instant::now() + RESTART).await?;
        Ok(Answer::resumable(self.clone(), head, response, mover))
    }

    /// A request without a body, until it is answered. A daemon that is not there is waited for until `give_up`.
    pub(super) async fn repeat(
        &self,
        head: &hyper::http::request::Parts,
        give_up: Instant,
    ) -> Result<(Response<Incoming>, Mover), WayFault> {
        let mut left = MOST_REPEATS;
        loop {
            let again = Request::from_parts(head.clone(), nothing());
            match self.exchange(again, give_up.saturating_duration_since(Instant::now())).await {
                Err(WayFault::Broken { .. }) if left > 0 && Instant::now() < give_up => left -= 1,
                outcome => return outcome,
            }
        }
    }

    async fn exchange(
        &self,
        mut request: Request<Sent>,
        patience: Duration,
    ) -> Result<(Response<Incoming>, Mover), WayFault> {
        request.headers_mut().insert(HOST, HeaderValue::from_static("valetkey"));
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let broken = |source| WayFault::Broken { path: self.path().to_owned(), source };
        let stream = Deaf { stream: self.connect(patience).await?, deaf: false };
        let (mut sender, moving) = Builder::new()
            .max_headers(MOST_HEADERS)
            .read_buf_exact_size(Some(BUFFER))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        // Whoever reads the answer hears of an error.
        let mut mover = Mover::Here(Box::pin(async move { drop(moving.await) }));
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let taken = Progress::default();
        if request.body().is_end_stream() {
            taken.end();
        }
        let mut waiting = Waiting::new(reads, Some(taken.clone()), ON_TOP);
        let request = request.map(|body| Counted { body, taken });
        let answer = sender.send_request(request);
        tokio::pin!(answer);
        let start = Instant::now();
        loop {
            let head = poll_fn(|context| {
                mover.poll(context);
                answer.as_mut().poll(context)
            });
            match timeout_at(waiting.due(), head).await {
                Ok(response) => return Ok((response.map_err(broken)?, mover)),
                Err(_) if waiting.is_over() => return Err(self.late(start.elapsed())),
                Err(_) => {}
            }
        }
    }

    /// Opens a stream, and waits a while for a daemon that is being restarted or has no room in its backlog.
    async fn connect(&self, patience: Duration) -> Result<Stream, WayFault> {
        let give_up = Instant::now() + patience;
        let mut pause = SHORTEST_PAUSE;
        loop {
            match self.open().await {
                Err(WayFault::Unreachable { source, .. })
                    if is_passing(&source) && Instant::now() < give_up =>
                {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                outcome => return outcome,
            }
        }
    }

    fn late(&self, waited: Duration) -> WayFault {
        WayFault::Deadline { path: self.path().to_owned(), waited }
    }
}

fn nothing() -> Sent {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// What a socket says whose daemon may be back in a moment.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound, WouldBlock};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | WouldBlock)
}

/// What moves the bytes of a stream. Dropping it cuts the stream.
///
/// For a download that is whoever reads the answer: a task of its own would be woken for every piece, mostly on
/// another core, and that costs more than the piece.
pub(super) enum Mover {
    Here(Pin<Box<dyn Future<Output = ()> + Send>>),
    There { _task: Task },
    Done,
}

impl Mover {
    /// Moves what can be moved now. `true` while there is something to move here.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> bool {
        let Self::Here(moving) = self else { return false };
        if moving.as_mut().poll(context).is_ready() {
            *self = Self::Done;
        }
        true
    }

    fn spawn(self) -> Self {
        match self {
            Self::Here(moving) => Self::There { _task: Task(tokio::spawn(moving).abort_handle()) },
            other => other,
        }
    }
}

/// A task that ends with the value.
pub(super) struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A stream on which writing never fails, because the other side may have refused an upload, said why, and stopped
/// listening. What counts is what there is to read.
struct Deaf {
    stream: Stream,
    deaf: bool,
}

impl Deaf {
    fn heed<T>(&mut self, poll: Poll<io::Result<T>>, instead: T) -> Poll<io::Result<T>> {
        match poll {
            Poll::Ready(Err(_)) => {
                self.deaf = true;
                Poll::Ready(Ok(instead))
            }
            poll => poll,
        }
    }
}

impl AsyncRead for Deaf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.heed(poll, bytes.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deaf {
            return Poll::Ready(Ok(()));
        }
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        self.heed(poll, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(context);
        self.heed(poll, ())
    }
}

/// A body that counts what is taken of it.
struct Counted {
    body: Sent,
    taken: Progress,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let poll = Pin::new(&mut self.body).poll_frame(context);
        match &poll {
            Poll::Ready(Some(Ok(frame))) => {
                self.taken.add(frame.data_ref().map_or(0, Bytes::len) as u64);
                if self.body.is_end_stream() {
                    self.taken.end();
                }
            }
            Poll::Ready(_) => self.taken.end(),
            Poll::Pending => {}
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

impl Drop for Counted {
    fn drop(&mut self) {
        self.taken.end();
    }
}

/// The daemon waits for a token and a connection, and once more where the first token is refused.
const ON_TOP: Duration = Duration::from_secs(60);
/// A daemon that is restarted is back within this.
pub(super) const RESTART: Duration = Duration::from_secs(5);
/// One with many askers accepts within this.
const BUSY: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
const MOST_REPEATS: u8 = 2;
const BUFFER: usize = 64 << 10;
const MOST_HEADERS: usize = 128;
/// Of an answer that is kept whole.
const LARGEST: usize = 1 << 20;
