//! What can go wrong between a client and Google, on demand.
//!
//! A [`Fault`] is consumed by one request. Some replace the answer, some only bend it: [`Fault::HalfBody`] and
//! [`Fault::ExpiresIn`] let the request succeed on the server's side first, because that is what makes them nasty
//! (a token was issued and the client may or may not know it).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::Sleep;

use super::server::Closed;

#[derive(Clone, Debug)]
pub enum Fault {
    /// Any answer, for example 429 with `Retry-After` in seconds.
    Status { code: u16, retry_after: Option<u64>, body: String, content_type: String },
    /// An error in the form of RFC 6749 5.2, with Google's `error_subtype`.
    OAuthError { code: u16, error: String, subtype: Option<String>, description: String },
    /// A 200 of these bytes under these headers.
    Page { headers: Vec<(&'static str, String)>, body: Vec<u8> },
    /// Takes the request and never answers, until the stand-in is dropped.
    Hang,
    /// Takes the request and closes the connection without a byte.
    CloseAtOnce,
    /// The true answer with its true `Content-Length`, but only the first half of its body; then closes.
    HalfBody,
    /// The first half of the true answer's body, and then nothing more for as long as anybody waits.
    HalfThenSilence,
    /// The true answer, with so long a pause in the middle of its body.
    HalfThenRest(Duration),
    /// A 200 of this many bytes of white space, in chunks without a `Content-Length`.
    HugeBody(u64),
    /// Any text with the content type of JSON.
    Body { status: u16, text: String },
    /// The true answer, but with this in the place of `expires_in`, or without it.
    ExpiresIn(Option<Value>),
    /// Waits, then answers as usual.
    Delay(Duration),
    /// Sends the request elsewhere.
    Redirect { code: u16, location: String },
    /// The true answer with these headers beside its own.
    Headers(Vec<(&'static str, &'static str)>),
}

impl Fault {
    /// A plain-text answer with this status.
    pub fn status(code: u16) -> Self {
        Self::Status {
            code,
            retry_after: None,
            body: format!("the stand-in was told to answer {code}"),
            content_type: "text/plain".to_owned(),
        }
    }

    /// As [`Fault::status`], with `Retry-After`.
    pub fn retry_after(code: u16, seconds: u64) -> Self {
        Self::Status {
            code,
            retry_after: Some(seconds),
            body: format!("the stand-in was told to answer {code}"),
            content_type: "text/plain".to_owned(),
        }
    }

    /// 400 with an error of OAuth, for example `invalid_client`.
    pub fn oauth_error(error: &str, description: &str) -> Self {
        Self::OAuthError {
            code: 400,
            error: error.to_owned(),
            subtype: None,
            description: description.to_owned(),
        }
    }

    /// Google's demand for a fresh login when a session-length policy is in force.
    pub fn reauthentication_required() -> Self {
        Self::OAuthError {
            code: 400,
            error: "invalid_grant".to_owned(),
            subtype: Some("invalid_rapt".to_owned()),
            description: "reauth related error (invalid_rapt)".to_owned(),
        }
    }

    /// 200 with the page of a captive portal where JSON was asked for.
    pub fn not_json() -> Self {
        Self::Body { status: 200, text: "<html><body>Please sign in to the network</body></html>".to_owned() }
    }

    /// A real token whose `expires_in` is this: `"3599"`, `0`, `-5`, `3599.5`, `null`, …
    pub fn expires_in(value: impl Into<Value>) -> Self {
        Self::ExpiresIn(Some(value.into()))
    }

    /// A real token without `expires_in`.
    pub fn without_expires_in() -> Self {
        Self::ExpiresIn(None)
    }
}

/// What is left to do for a request after its fault, if any, has had its way.
pub(super) enum Verdict {
    Proceed(Tweak),
    Answer(Response<Body>),
    Close,
}

/// How a true answer is to be bent.
pub(super) enum Tweak {
    None,
    Half,
    Stall,
    Pause(Duration),
    ExpiresIn(Option<Value>),
    Headers(Vec<(&'static str, &'static str)>),
}

pub(super) async fn judge(fault: Option<Fault>) -> Verdict {
    let Some(fault) = fault else {
        return Verdict::Proceed(Tweak::None);
    };
    match fault {
        Fault::Status { code, retry_after, body, content_type } => {
            let mut response = Response::builder().status(code).header(CONTENT_TYPE, content_type);
            if let Some(seconds) = retry_after {
                response = response.header(RETRY_AFTER, seconds);
            }
            Verdict::Answer(response.body(Body::whole(body)).expect("a valid fault"))
        }
        Fault::OAuthError { code, error, subtype, description } => {
            let mut body = json!({"error": error, "error_description": description});
            if let Some(subtype) = subtype {
                body["error_subtype"] = subtype.into();
            }
            Verdict::Answer(json_text(code, body.to_string()))
        }
        Fault::Page { headers, body } => {
            let mut response = Response::builder().status(200);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Verdict::Answer(response.body(Body::whole(body)).expect("a valid fault"))
        }
        Fault::Hang => std::future::pending().await,
        Fault::CloseAtOnce => Verdict::Close,
        Fault::HalfBody => Verdict::Proceed(Tweak::Half),
        Fault::HalfThenSilence => Verdict::Proceed(Tweak::Stall),
        Fault::HalfThenRest(pause) => Verdict::Proceed(Tweak::Pause(pause)),
        Fault::HugeBody(bytes) => {
            let mut response = json_text(200, String::new());
            *response.body_mut() = Body::Huge { left: bytes };
            Verdict::Answer(response)
        }
        Fault::Body { status, text } => Verdict::Answer(json_text(status, text)),
        Fault::ExpiresIn(value) => Verdict::Proceed(Tweak::ExpiresIn(value)),
        Fault::Redirect { code, location } => {
            let response = Response::builder().status(code).header(LOCATION, location);
            Verdict::Answer(response.body(Body::whole("moved\n")).expect("a valid fault"))
        }
        Fault::Headers(list) => Verdict::Proceed(Tweak::Headers(list)),
        Fault::Delay(duration) => {
            tokio::time::sleep(duration).await;
            Verdict::Proceed(Tweak::None)
        }
    }
}

/// The answer to a request after its fault: what `answer` makes, unless the fault keeps it from being made.
pub(super) async fn judge_and_finish(
    fault: Option<Fault>,
    answer: impl FnOnce() -> Response<Bytes>,
) -> Result<Response<Body>, Closed> {
    match judge(fault).await {
        Verdict::Proceed(tweak) => Ok(tweak.finish(answer())),
        Verdict::Answer(response) => Ok(response),
        Verdict::Close => Err(Closed),
    }
}

impl Tweak {
    /// Puts the finishing, or unfinishing, touch to a true answer.
    pub(super) fn finish(self, response: Response<Bytes>) -> Response<Body> {
        let (mut parts, mut bytes) = response.into_parts();
        if let Self::ExpiresIn(expires_in) = &self
            && parts.status == StatusCode::OK
            && let Ok(Value::Object(mut object)) = serde_json::from_slice::<Value>(&bytes)
        {
            match expires_in {
                Some(value) => object.insert("expires_in".to_owned(), value.clone()),
                None => object.remove("expires_in"),
            };
            bytes = Value::Object(object).to_string().into();
        }
        if let Self::Headers(list) = &self {
            for (name, value) in list {
                let name = HeaderName::from_static(name);
                parts.headers.append(name, HeaderValue::from_static(value));
            }
        }
        if !matches!(self, Self::Half | Self::Stall | Self::Pause(_)) {
            return Response::from_parts(parts, Body::whole(bytes));
        }
        let promised = bytes.len().max(2);
        parts.headers.insert(CONTENT_LENGTH, promised.into());
        let body = Body::Cut {
            half: Some(bytes.slice(..bytes.len() / 2)),
            pause: Box::pin(tokio::time::sleep(match self {
                Self::Stall => Duration::from_secs(3600),
                Self::Pause(pause) => pause,
                _ => Duration::from_millis(50),
            })),
            rest: matches!(self, Self::Pause(_)).then(|| bytes.slice(bytes.len() / 2..)),
        };
        Response::from_parts(parts, body)
    }
}

fn json_text(status: u16, text: String) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json; charset=utf-8")
        .body(Body::whole(text))
        .expect("a valid fault")
}

/// A response's body, sound or not.
pub(super) enum Body {
    Whole(Full<Bytes>),
    Cut {
        half: Option<Bytes>,
        /// Lets the half reach the wire: hyper drops what it has buffered when a body fails.
        pause: Pin<Box<Sleep>>,
        /// What comes behind the pause, in the place of an error.
        rest: Option<Bytes>,
    },
    Huge {
        left: u64,
    },
}

impl Body {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(full) => Pin::new(full)
                .poll_frame(context)
                .map(|frame| frame.map(|result| result.map_err(|never| match never {}))),
            Self::Cut { half, pause, rest } => {
                if let Some(half) = half.take().filter(|half| !half.is_empty()) {
                    return Poll::Ready(Some(Ok(Frame::data(half))));
                }
                ready!(pause.as_mut().poll(context));
                if let Some(whole) = rest {
                    let rest = std::mem::take(whole);
                    return Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))));
                }
                Poll::Ready(Some(Err(io::Error::other("cut short by a fault"))))
            }
            Self::Huge { left: 0 } => Poll::Ready(None),
            Self::Huge { left } => {
                let size = (*left).min(CHUNK.len() as u64);
                *left -= size;
                let size = usize::try_from(size).expect("no more than a chunk");
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK[..size])))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(full) => full.is_end_stream(),
            Self::Cut { .. } | Self::Huge { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(full) => full.size_hint(),
            Self::Cut { .. } | Self::Huge { .. } => SizeHint::default(),
        }
    }
}

/// White space, which JSON allows anywhere: only a limit on size ends the reading.
static CHUNK: [u8; 64 * 1024] = [b' '; 64 * 1024];
