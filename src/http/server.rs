//! The server half: one HTTP/1.1 connection with every limit set, and the forms of answer.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::body::Body;
use super::headers::{JSON, MARK, PROBLEM};
use super::patient::Patient;
use super::unfinished::Unfinished;
use crate::error::{Failure, Kind, told};

/// What the daemon says itself is complete before its head goes out; what it passes on comes piece by piece.
pub type Reply = Response<Body>;

/// Stands at an answer that is made here, and not passed on from elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct OwnWords;

/// One connection as others see it: whether a request is being answered on it, and a way to end it.
#[derive(Debug, Default)]
pub struct Line {
    busy: AtomicBool,
    /// A long body is on its way to the peer.
    bulk: AtomicBool,
    ending: Notify,
    unfinished: Unfinished,
}

/// The rest of an answer that is owed on a connection. Dropped with the answer's last piece.
#[derive(Debug)]
pub struct Owed(Arc<Line>);

impl Owed {
    fn on(line: &Arc<Line>) -> Self {
        line.bulk.store(true, Ordering::Relaxed);
        line.unfinished.begin();
        Self(Arc::clone(line))
    }

    /// It has been given.
    pub(super) fn settle(self) {
        self.0.unfinished.finish();
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.bulk.store(false, Ordering::Relaxed);
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

impl Line {
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Ends the connection: at once where nothing is owed on it, else behind the answer that is.
    pub fn hang_up(&self) {
        self.ending.notify_one();
    }

    /// Whether an answer on it is not whole, for a connection whose end would say that it is.
    #[must_use]
    pub fn unfinished(&self) -> Unfinished {
        self.unfinished.clone()
    }

    /// Resolves when somebody hangs up, for a connection that is not HTTP.
    pub async fn hung_up(&self) {
        self.ending.notified().await;
    }
}

/// Serves one connection until the peer closes it, stays silent too long, or somebody hangs up. An answer that is made
/// here bears the mark that the request asked for.
pub async fn serve_connection<S, H, F>(stream: S, line: &Arc<Line>, handle: H)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Reply>,
{
    let service = service_fn(|request| {
        line.busy.store(true, Ordering::Relaxed);
        let mark = request.headers().get(MARK).cloned();
        let reply = handle(request);
        async move {
            let mut reply = reply.await;
            if let Some(mark) = mark.filter(|_| reply.extensions().get::<OwnWords>().is_some()) {
                reply.headers_mut().insert(MARK, mark);
            }
            if !reply.body_mut().owe(|| Owed::on(line)) {
                line.busy.store(false, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(reply)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(Patient::new(stream, &line.bulk)), service);
    let mut connection = pin!(connection);
    // An error here is the peer's: it went away or did not speak HTTP. hyper has answered what can be answered.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = line.ending.notified() => {
            if line.is_busy() {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
    }
}

/// Reads a request's body, whole, small and soon.
///
/// # Errors
/// When it is too large, too slow, or broken off.
pub async fn read_body(body: Incoming) -> Result<Bytes, Failure> {
    let collect = Limited::new(body, LARGEST_REQUEST).collect();
    match tokio::time::timeout(BODY_TIME, collect).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => {
            let text = format!("the request's body is broken or larger than {LARGEST_REQUEST} bytes");
            Err(Failure::new(Kind::Usage, text))
        }
        Err(_) => Err(Failure::new(Kind::Usage, "the request's body did not arrive in time")),
    }
}

/// A reply with a body of the given type. Nothing that the daemon says may be cached.
#[must_use]
pub fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Body::full(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply.extensions_mut().insert(OwnWords);
    reply
}

#[must_use]
pub fn json_reply(body: impl Into<Bytes>) -> Reply {
    reply(StatusCode::OK, JSON, body)
}

/// A failure as an RFC 9457 problem document.
#[must_use]
pub fn problem(failure: &Failure) -> Reply {
    problem_with(failure, failure.kind.status())
}

/// The same with another status than that of its kind.
#[must_use]
pub fn problem_with(failure: &Failure, status: u16) -> Reply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let document = json!({
        "type": format!("{PROBLEM_TYPE}{}", kind_word(failure.kind)),
        "title": failure.kind.title(),
        "status": status.as_u16(),
        "detail": failure.message,
        "causes": failure.causes,
        "hint": failure.hint,
    });
    reply(status, PROBLEM, document.to_string())
}

/// Reads a problem document back into the failure that it was made of.
#[must_use]
pub fn failure_from_problem(body: &[u8]) -> Option<Failure> {
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    let word = document.get("type")?.as_str()?.strip_prefix(PROBLEM_TYPE)?;
    let kind = serde_json::from_value(serde_json::Value::from(word)).ok()?;
    let text = |name: &str| document.get(name).and_then(|value| value.as_str()).map(told);
    let mut failure = Failure::new(kind, text("detail")?);
    failure.hint = text("hint");
    let causes = document.get("causes").and_then(|causes| causes.as_array()).cloned().unwrap_or_default();
    failure.causes = causes.iter().filter_map(|cause| cause.as_str()).map(told).collect();
    Some(failure)
}

fn kind_word(kind: Kind) -> String {
    serde_json::to_value(kind).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// What stands before the kind in the type of a problem document of ours.
const PROBLEM_TYPE: &str = "urn:valetkey:problem:";
/// A peer that has not sent a whole request head by then is closed; so is one that stays idle between requests.
const HEADER_TIME: Duration = Duration::from_secs(10);
const BODY_TIME: Duration = Duration::from_secs(5);
const LARGEST_HEAD: usize = 16 << 10;
const MOST_HEADERS: usize = 64;
const LARGEST_REQUEST: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn problem_document_survives_the_wire() {
        let mut failure = Failure::new(Kind::NeedsLogin, "no credential").with_cause("none here");
        failure.hint = Some("sign in".to_owned());
        let reply = problem(&failure);
        assert_eq!(reply.status(), 409);
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(failure_from_problem(&body), Some(failure));
        assert_eq!(failure_from_problem(b"<html>"), None);
        let other = String::from_utf8(body.to_vec()).unwrap().replace("urn:valetkey:", "urn:other:");
        assert_eq!(failure_from_problem(other.as_bytes()), None);
    }
}
