//! What the server and the streaming client send: a body that is there, or one that comes piece by piece.
//!
//! The first is the daemon's own word and costs no allocation. The second is pulled by whoever sends it, so that a
//! slow reader holds back its source and nobody keeps more than a few pieces. It may be watched to its end, and it
//! keeps its connection from being taken for an idle one.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};

use super::server::Owed;

/// An error of whatever feeds a body. A connection in the middle of one is broken off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// See the module.
pub enum Body {
    Full(Full<Bytes>),
    Stream(Box<Stream>),
}

/// A body that comes piece by piece.
pub struct Stream {
    body: UnsyncBoxBody<Bytes, BoxError>,
    moved: Progress,
    at_end: Option<AtEnd>,
    /// Asked before each piece whether there may be one.
    guard: Option<Guard>,
    /// Held until the last piece has been taken.
    owed: Option<Owed>,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// How many bytes were taken.
    pub moved: u64,
    /// Whether that was all. Not so where the source broke off, or whoever took them went away.
    pub whole: bool,
}

/// How much of a body has been taken by now, for whoever waits for what comes behind it.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Taken>);

#[derive(Debug, Default)]
struct Taken {
    bytes: AtomicU64,
    ended: AtomicBool,
}

impl Progress {
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// So many bytes more.
    pub fn add(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Nothing more comes of it.
    pub fn end(&self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }

    /// Whether nothing more comes of it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }
}

type AtEnd = Box<dyn FnOnce(End) + Send>;
type Guard = Box<dyn Fn() -> bool + Send>;

impl Body {
    #[must_use]
    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Full::new(bytes.into()))
    }

    #[must_use]
    pub fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let body = body.map_err(Into::into).boxed_unsync();
        Self::Stream(Box::new(Stream {
            body,
            moved: Progress::default(),
            at_end: None,
            guard: None,
            owed: None,
        }))
    }

    /// Calls `tell` once, when the body has ended one way or the other.
    #[must_use]
    pub fn at_end(self, tell: impl FnOnce(End) + Send + 'static) -> Self {
        match self {
            Self::Full(full) => {
                // It is handed over whole, and nobody learns what becomes of it.
                tell(End { moved: full.size_hint().lower(), whole: true });
                Self::Full(full)
            }
            Self::Stream(mut stream) => {
                stream.at_end = Some(Box::new(tell));
                Self::Stream(stream)
            }
        }
    }

    /// Breaks a stream off at the first piece before which `may_go_on` says no.
    #[must_use]
    pub fn guarded(self, may_go_on: impl Fn() -> bool + Send + 'static) -> Self {
        match self {
            Self::Full(full) => Self::Full(full),
            Self::Stream(mut stream) => {
                stream.guard = Some(Box::new(may_go_on));
                Self::Stream(stream)
            }
        }
    }

    /// What counts a stream as it is taken.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        match self {
            Self::Full(_) => None,
            Self::Stream(stream) => Some(stream.moved.clone()),
        }
    }

    /// Whether the last piece is yet to come after the head.
    pub(super) fn owe(&mut self, owed: impl FnOnce() -> Owed) -> bool {
        match self {
            Self::Stream(stream) if !stream.body.is_end_stream() => {
                stream.owed = Some(owed());
                true
            }
            _ => false,
        }
    }
}

impl Stream {
    fn end(&mut self, whole: bool) {
        self.moved.end();
        if let Some(owed) = self.owed.take()
            && whole
        {
            owed.settle();
        }
        if let Some(tell) = self.at_end.take() {
            tell(End { moved: self.moved.moved(), whole });
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Full(full) => Pin::new(full).poll_frame(context).map_err(|never| match never {}),
            Self::Stream(stream) => {
                if stream.guard.as_ref().is_some_and(|may_go_on| !may_go_on()) {
                    stream.end(false);
                    return Poll::Ready(Some(Err("it is not granted any more".into())));
                }
                let poll = Pin::new(&mut stream.body).poll_frame(context);
                match &poll {
                    Poll::Ready(Some(Ok(frame))) => {
                        let length = frame.data_ref().map_or(0, |piece| piece.len() as u64);
                        stream.moved.add(length);
                        if stream.body.is_end_stream() {
                            stream.end(true);
                        }
                    }
                    Poll::Ready(Some(Err(_))) => stream.end(false),
                    Poll::Ready(None) => stream.end(true),
                    Poll::Pending => {}
                }
                poll
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(full) => full.is_end_stream(),
            Self::Stream(stream) => stream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(full) => full.size_hint(),
            Self::Stream(stream) => stream.body.size_hint(),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let whole = self.body.is_end_stream();
        self.end(whole);
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Full(_)) { "Full(…)" } else { "Stream(…)" })
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("moved", &self.moved).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Pieces of which each is ready at once.
    struct Pieces(Vec<Result<&'static str, &'static str>>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            let frame = |piece: &'static str| Frame::data(Bytes::from_static(piece.as_bytes()));
            Poll::Ready(self.0.pop().map(|piece| piece.map(frame).map_err(BoxError::from)))
        }
    }

    /// Three pieces, the last of which may be an error.
    fn pieces(last: Result<&'static str, &'static str>) -> Body {
        Body::stream(Pieces(vec![last, Ok("two"), Ok("one")]))
    }

    fn watched(body: Body) -> (Body, Arc<Mutex<Vec<End>>>) {
        let ends = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&ends);
        (body.at_end(move |end| seen.lock().unwrap().push(end)), ends)
    }

    #[tokio::test]
    async fn the_end_of_a_stream_is_told_once_and_truly() {
        let (body, ends) = watched(pieces(Ok("three")));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "onetwothree");
        assert_eq!(*ends.lock().unwrap(), [End { moved: 11, whole: true }]);

        let (body, ends) = watched(pieces(Err("broken")));
        assert!(body.collect().await.is_err());
        assert_eq!(*ends.lock().unwrap(), [End { moved: 6, whole: false }]);

        let (mut body, ends) = watched(pieces(Ok("three")));
        assert!(body.frame().await.is_some());
        drop(body);
        assert_eq!(*ends.lock().unwrap(), [End { moved: 3, whole: false }]);
    }
}
