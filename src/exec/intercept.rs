//! The connection to a granted host: TLS by the run's own authority, and each request inside carried to the daemon as
//! `/registry/HOST/PATH`, where the token is put in.
//!
//! Requests and answers stream both ways, at the pace of the slower side. What is about one connection (RFC 9110 7.6.1)
//! stays on it. A refusal of the daemon's is passed on, and its sentence shown to the person who runs the command too,
//! because clients tend to keep it to themselves.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Request, Response, StatusCode, Uri};
use rustls::ServerConfig;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::forward::{Answering, PREFIXES, plain_host, serve_http};
use super::tunnel::Destination;
use crate::client::stream::{Stream, Way};
use crate::error::Failure;
use crate::http::headers::{PROBLEM, WHOSE};
use crate::http::server::failure_from_problem;
use crate::wiring::index;

pub(super) type Reply = Response<UnsyncBoxBody<Bytes, BoxError>>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Carries requests to the daemon.
pub struct Courier {
    way: Way,
    /// For the daemon of this user: whose token to use.
    whose: Option<HeaderValue>,
    /// Hears what a person should know, each sentence once.
    tell: Box<dyn Fn(&str) + Send + Sync>,
    told: Mutex<BTreeSet<String>>,
}

impl Courier {
    #[must_use]
    pub fn new(way: Way, whose: Option<HeaderValue>, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { way, whose, tell: Box::new(tell), told: Mutex::default() }
    }

    /// Makes a request at the daemon: `target` is a path of the daemon's, with the query. `asked` is what the client
    /// thinks that it asks for.
    pub(super) async fn carry(
        &self,
        target: String,
        request: Request<Incoming>,
        asked: Option<&str>,
    ) -> Reply {
        let Ok(uri) = target.parse::<Uri>() else {
            return sentence(StatusCode::BAD_REQUEST, "this path cannot be asked for");
        };
        let (mut head, body) = request.into_parts();
        head.uri = uri;
        head.version = hyper::Version::HTTP_11;
        head.extensions.clear();
        drop_connection_headers(&mut head.headers);
        head.headers.remove(HOST);
        // Whoever waits for "100 Continue" gets it from us, when the body is wanted.
        head.headers.remove(EXPECT);
        head.headers.remove(WHOSE);
        if let Some(whose) = &self.whose {
            head.headers.insert(WHOSE, whose.clone());
        }
        match self.way.send(Request::from_parts(head, Upload(Some(body)).boxed_unsync())).await {
            Ok(answer) => {
                let mut answer = self
                    .note_refusal(answer.map(|body| body.map_err(BoxError::from).boxed_unsync()), asked)
                    .await;
                drop_connection_headers(answer.headers_mut());
                answer
            }
            Err(fault) => {
                let failure = Failure::from(fault);
                self.tell_once(&failure.one_line());
                sentence(StatusCode::BAD_GATEWAY, &failure.one_line())
            }
        }
    }

    /// Shows the sentence of a problem document, which is small, and passes it on whole.
    async fn note_refusal(&self, answer: Reply, asked: Option<&str>) -> Reply {
        let is_problem =
            answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == PROBLEM.as_bytes());
        let (status, refused) =
            (answer.status(), answer.status().is_client_error() || answer.status().is_server_error());
        let length =
            answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if !is_problem || !refused || length.is_none_or(|length: usize| length > LARGEST_PROBLEM) {
            return answer;
        }
        let (head, body) = answer.into_parts();
        let whole = timeout(PROBLEM_TIME, body.collect()).await;
        let Ok(Ok(whole)) = whole else {
            return sentence(StatusCode::BAD_GATEWAY, "the daemon broke off in the middle of a refusal");
        };
        let whole = whole.to_bytes();
        if let Some(failure) = failure_from_problem(&whole) {
            let what = asked.map_or(String::new(), |asked| format!("{asked}: "));
            self.tell_once(&format!("{what}{status}: {}", failure.one_line()));
        }
        Response::from_parts(head, full(whole))
    }

    fn tell_once(&self, text: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody who asks for a thousand things that are not there learns it from the first ones.
        if told.len() < MOST_TOLD && told.insert(text.to_owned()) {
            (self.tell)(text);
        }
    }
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Courier").field("way", &self.way).finish_non_exhaustive()
    }
}

/// The body of a client's request. What an answer came before is read and forgotten, up to a point: a connection that
/// is closed with unread bytes in it takes the answer along.
struct Upload(Option<Incoming>);

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let rest = async move {
            let mut left = MOST_FORGOTTEN;
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        };
        // Bounded, and its connection's: it ends with that.
        runtime.spawn(timeout(FORGET_TIME, rest));
    }
}

/// Serves the connection of a client to a granted host.
pub(super) async fn serve(stream: Stream, config: Arc<ServerConfig>, to: Destination, courier: Arc<Courier>) {
    let Ok(Ok(stream)) = timeout(HANDSHAKE_TIME, TlsAcceptor::from(config).accept(stream)).await else {
        return;
    };
    let handle = move |request: Request<Incoming>| -> Answering {
        let (to, courier) = (to.clone(), Arc::clone(&courier));
        Box::pin(async move {
            match target(&request, &to) {
                Ok(target) => {
                    let asked = format!("https://{}{}", shown(&to), request.uri().path());
                    let mut reply = courier.carry(target, request, Some(&asked)).await;
                    as_at_host(reply.headers_mut(), &to);
                    reply
                }
                Err((status, text)) => sentence(status, text),
            }
        })
    };
    serve_http(Box::new(stream), Box::new(handle)).await;
}

/// Where a request goes at the daemon. It has to be for the host that the connection was opened to.
fn target(request: &Request<Incoming>, to: &Destination) -> Result<String, (StatusCode, &'static str)> {
    let path = request.uri().path_and_query().map_or("", |path| path.as_str());
    if request.uri().authority().is_some() || !path.starts_with('/') {
        return Err((StatusCode::BAD_REQUEST, "this is no path to ask for"));
    }
    let mut named = request.headers().get_all(HOST).iter();
    let host = named.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let with_port =
        if to.port == 443 && !host.contains(':') { format!("{host}:443") } else { host.to_owned() };
    if named.next().is_some() || Destination::parse(&with_port).as_ref() != Some(to) {
        return Err((
            StatusCode::MISDIRECTED_REQUEST,
            "the Host header names another host than the connection",
        ));
    }
    if to.host == index::HOST {
        let is_served = PREFIXES.iter().any(|prefix| path.starts_with(prefix));
        let refusal =
            (StatusCode::NOT_FOUND, "valetkey serves /simple/, /merged/, /index/ and /registry/ here");
        return is_served.then(|| plain_host(path.to_owned())).ok_or(refusal);
    }
    Ok(format!("/registry/{}{path}", shown(to)))
}

/// The daemon leads its own clients on to `/registry/HOST/PATH`. Who is on a connection to that host knows it as `/PATH`.
fn as_at_host(headers: &mut HeaderMap, to: &Destination) {
    let prefix = format!("/registry/{}", shown(to));
    let path = headers
        .get(LOCATION)
        .and_then(|location| location.to_str().ok()?.strip_prefix(&prefix))
        .filter(|path| path.starts_with('/'))
        .and_then(|path| HeaderValue::from_str(path).ok());
    if let Some(path) = path {
        headers.insert(LOCATION, path);
    }
}

/// A granted host as the daemon names it.
fn shown(to: &Destination) -> String {
    if to.port == 443 { to.host.clone() } else { to.to_string() }
}

/// An answer of our own: one sentence.
pub(super) fn sentence(status: StatusCode, text: &str) -> Reply {
    let mut reply = Response::new(full(Bytes::from(format!("{text}\n"))));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

fn full(bytes: Bytes) -> UnsyncBoxBody<Bytes, BoxError> {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn drop_connection_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.into_iter().filter(|name| *name != CONTENT_LENGTH).chain(OF_CONNECTION) {
        headers.remove(name);
    }
}

const OF_CONNECTION: [HeaderName; 8] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authorization"),
];
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
const PROBLEM_TIME: Duration = Duration::from_secs(5);
const FORGET_TIME: Duration = Duration::from_secs(10);
const MOST_FORGOTTEN: usize = 64 << 20;
const LARGEST_PROBLEM: usize = 64 << 10;
const MOST_TOLD: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_told_as_the_host_would() {
        let to = Destination::parse("us-docker.pkg.dev:443").unwrap();
        for (given, told) in [
            ("/registry/us-docker.pkg.dev/artifacts-uploads/x?y=%2f#z", "/artifacts-uploads/x?y=%2f#z"),
            ("/registry/us-docker.pkg.dev.evil.test/x", "/registry/us-docker.pkg.dev.evil.test/x"),
            ("/registry/us-docker.pkg.dev", "/registry/us-docker.pkg.dev"),
            ("https://storage.googleapis.com/x", "https://storage.googleapis.com/x"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, given.parse().unwrap());
            as_at_host(&mut headers, &to);
            assert_eq!(headers[LOCATION], told);
        }
    }

    #[test]
    fn what_is_about_one_connection_stays_on_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Hop, content-length"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "Basic eA=="),
            ("content-length", "3"),
            ("if-none-match", "\"x\""),
        ] {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        drop_connection_headers(&mut headers);
        let left: BTreeSet<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, BTreeSet::from(["content-length", "if-none-match"]));
    }
}
