//! The body of an answer, which goes on where it stopped when its stream breaks: a daemon that is restarted in the
//! middle of a large download costs its reader a moment.
//!
//! That is done only where nothing else can come of it. It has to be a plain GET that was answered with 200 and the
//! whole length, under a strong validator: the rest is asked for with `If-Range`, and taken only as 206 of that very
//! entity at that very place. Whatever else comes ends the body with the first error, so that a reader never gets
//! bytes of two files.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_RANGE,
    RANGE,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use tokio::time::Instant;

use super::stream::{Mover, RESTART, Way, WayFault};
use crate::http::patience::Patience;

/// See the module.
pub struct Answer {
    way: Way,
    state: State,
    /// Absent where a broken stream is the end.
    whole: Option<Whole>,
    /// How many bytes were given to the reader.
    position: u64,
    resumptions: u8,
    /// A daemon that has gone is waited for until then.
    give_up: Option<Instant>,
    /// While the daemon owes a piece.
    waiting: Patience,
}

enum State {
    Reading { body: Incoming, mover: Mover },
    Resuming { next: Next, why: WayFault },
    Ended,
}

type Next = Pin<Box<dyn Future<Output = Result<(Response<Incoming>, Mover), WayFault>> + Send>>;

/// An entity that can be asked for in parts.
struct Whole {
    /// The request as it was made first.
    head: Parts,
    validator: HeaderValue,
    length: u64,
    encoding: Option<HeaderValue>,
}

impl Answer {
    pub(super) fn plain(way: Way, body: Incoming, mover: Mover) -> Self {
        let state = State::Reading { body, mover };
        let waiting = Patience::default();
        Self { way, state, whole: None, position: 0, resumptions: 0, give_up: None, waiting }
    }

    pub(super) fn resumable(
        way: Way,
        head: Parts,
        response: Response<Incoming>,
        mover: Mover,
    ) -> Response<Self> {
        let whole = Whole::of(head, &response);
        response.map(|body| Self { whole, ..Self::plain(way, body, mover) })
    }

    /// The stream is broken: begins to ask for the rest, or gives the fault back where there is no way.
    fn resume(&mut self, why: WayFault) -> Result<(), WayFault> {
        let Some(whole) = self.whole.as_ref().filter(|_| self.resumptions < MOST) else { return Err(why) };
        let give_up = *self.give_up.get_or_insert_with(|| Instant::now() + RESTART);
        if self.position >= whole.length || Instant::now() >= give_up {
            return Err(why);
        }
        let Some(head) = whole.rest(self.position) else { return Err(why) };
        self.resumptions += 1;
        self.waiting.met();
        let way = self.way.clone();
        self.state = State::Resuming { next: Box::pin(async move { way.repeat(&head, give_up).await }), why };
        Ok(())
    }
}

impl Whole {
    fn of(head: Parts, response: &Response<Incoming>) -> Option<Self> {
        let headers = response.headers();
        let asked_for_part = head.headers.contains_key(RANGE);
        let validator = headers.get(ETAG).filter(|etag| is_strong(etag))?.clone();
        let length: u64 = headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
        let encoding = headers.get(CONTENT_ENCODING).cloned();
        let fits = head.method == Method::GET && response.status() == StatusCode::OK && !asked_for_part;
        fits.then_some(Self { head, validator, length, encoding })
    }

    /// The request for what is left.
    fn rest(&self, position: u64) -> Option<Parts> {
        let mut head = self.head.clone();
        // What was fresh then may not have become "not modified" now.
        for name in CONDITIONS {
            head.headers.remove(name);
        }
        head.headers.insert(RANGE, HeaderValue::from_str(&format!("bytes={position}-")).ok()?);
        head.headers.insert(IF_RANGE, self.validator.clone());
        Some(head)
    }

    /// Whether an answer is the rest from there on, and of the same entity.
    fn is_continued_by(&self, status: StatusCode, headers: &HeaderMap, position: u64) -> bool {
        let range = format!("bytes {position}-{}/{}", self.length - 1, self.length);
        status == StatusCode::PARTIAL_CONTENT
            && headers.get(CONTENT_RANGE).is_some_and(|given| given.as_bytes() == range.as_bytes())
            && headers.get(ETAG) == Some(&self.validator)
            && headers.get(CONTENT_ENCODING) == self.encoding.as_ref()
    }
}

/// The next piece, which is moved here if it has to be.
fn poll_body(
    body: &mut Incoming,
    mover: &mut Mover,
    context: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    let poll = Pin::new(&mut *body).poll_frame(context);
    if poll.is_pending() && mover.poll(context) {
        return Pin::new(body).poll_frame(context);
    }
    poll
}

/// RFC 9110 8.8.1: a weak one allows other bytes.
fn is_strong(etag: &HeaderValue) -> bool {
    let etag = etag.as_bytes();
    etag.len() > 2 && etag.starts_with(b"\"") && etag.ends_with(b"\"")
}

impl Body for Answer {
    type Data = Bytes;
    type Error = WayFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, WayFault>>> {
        let this = &mut *self;
        loop {
            let path = || this.way.path().to_owned();
            let fault = match &mut this.state {
                State::Reading { body, mover } => match poll_body(body, mover, context) {
                    Poll::Ready(Some(Ok(frame))) => {
                        this.waiting.met();
                        this.give_up = None;
                        this.position += frame.data_ref().map_or(0, Bytes::len) as u64;
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    Poll::Ready(None) => {
                        this.state = State::Ended;
                        return Poll::Ready(None);
                    }
                    Poll::Ready(Some(Err(source))) => WayFault::Broken { path: path(), source },
                    Poll::Pending => {
                        ready!(this.waiting.poll(IDLE, context));
                        WayFault::Deadline { path: path(), waited: IDLE }
                    }
                },
                State::Resuming { next, .. } => {
                    let outcome = ready!(next.as_mut().poll(context));
                    let State::Resuming { why, .. } = std::mem::replace(&mut this.state, State::Ended) else {
                        return Poll::Ready(None);
                    };
                    let position = this.position;
                    let fits = |response: &Response<Incoming>| {
                        let whole = this.whole.as_ref();
                        let (status, headers) = (response.status(), response.headers());
                        whole.is_some_and(|whole| whole.is_continued_by(status, headers, position))
                    };
                    match outcome {
                        Ok((response, mover)) if fits(&response) => {
                            this.state = State::Reading { body: response.into_body(), mover };
                            continue;
                        }
                        // The registry may be the one that is out of breath.
                        Ok((response, _)) if response.status().is_server_error() => why,
                        Ok(_) => return Poll::Ready(Some(Err(why))),
                        Err(fault) => fault,
                    }
                }
                State::Ended => return Poll::Ready(None),
            };
            if let Err(fault) = this.resume(fault) {
                this.state = State::Ended;
                return Poll::Ready(Some(Err(fault)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Reading { body, .. } => body.is_end_stream(),
            State::Resuming { .. } => false,
            State::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.whole, &self.state) {
            (Some(whole), _) => SizeHint::with_exact(whole.length.saturating_sub(self.position)),
            (None, State::Reading { body, .. }) => body.size_hint(),
            (None, _) => SizeHint::default(),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resumable = self.whole.is_some();
        f.debug_struct("Answer")
            .field("position", &self.position)
            .field("resumable", &resumable)
            .finish_non_exhaustive()
    }
}

/// The daemon gives a registry two minutes to send its next piece.
const IDLE: Duration = Duration::from_secs(150);
const MOST: u8 = 3;
const CONDITIONS: [HeaderName; 4] = [
    hyper::header::IF_NONE_MATCH,
    hyper::header::IF_MODIFIED_SINCE,
    hyper::header::IF_MATCH,
    hyper::header::IF_UNMODIFIED_SINCE,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_strong_validator_counts() {
        let strong = |text: &'static str| is_strong(&HeaderValue::from_static(text));
        assert!(strong("\"abc\""));
        assert!(!strong("W/\"abc\"") && !strong("abc") && !strong("\"\"") && !strong("\""));
    }

    #[test]
    fn only_the_rest_of_the_same_entity_is_taken() {
        let (head, ()) = hyper::Request::new(()).into_parts();
        let whole =
            Whole { head, validator: HeaderValue::from_static("\"one\""), length: 100, encoding: None };
        let continued = |status, range: &str, etag: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, range.parse().unwrap());
            headers.insert(ETAG, etag.parse().unwrap());
            whole.is_continued_by(StatusCode::from_u16(status).unwrap(), &headers, 40)
        };
        assert!(continued(206, "bytes 40-99/100", "\"one\""));
        assert!(!continued(200, "bytes 40-99/100", "\"one\""));
        assert!(!continued(206, "bytes 40-99/100", "\"two\""));
        assert!(!continued(206, "bytes 39-99/100", "\"one\""));
        assert!(!continued(206, "bytes 40-98/100", "\"one\""));
        assert!(!continued(206, "bytes 40-99/*", "\"one\""));
        assert_eq!(whole.rest(40).unwrap().headers[RANGE], "bytes=40-");
    }
}
