//! The connection to a granted host: TLS by the run's own authority, and each request inside carried to the daemon as
//! `/registry/HOST/PATH`, where the token is put in.
//!
//! Requests and answers stream both ways, at the pace of the slower side. What is about one connection (RFC 9110 7.6.1)
//! stays on it. A refusal of the daemon's is passed on, and its sentence shown to the person who runs the command too,
//! because clients tend to keep it to themselves. Only what bears the mark of this run is the daemon's: no registry sees
//! that mark, so none can have its words shown as ours. And a refusal is shown with the process that asked, because it may
//! be one that a stranger's package has started, and the remedy would widen a grant for it.

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
use ring::rand::{SecureRandom, SystemRandom};
use rustls::ServerConfig;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::alert::Alerting;
use super::caller::Caller;
use super::forward::{Answering, PREFIXES, plain_host, serve_http};
use super::tunnel::Destination;
use super::watch::{Watch, Watched};
use crate::client::stream::{Stream, Way};
use crate::error::{Failure, Kind, printable};
use crate::http::headers::{MARK, PROBLEM, WHOSE};
use crate::http::server::failure_from_problem;
use crate::http::unfinished::{Owing, Unfinished};
use crate::wiring::index;

pub(super) type Reply = Response<UnsyncBoxBody<Bytes, BoxError>>;
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Carries requests to the daemon.
pub struct Courier {
    way: Way,
    /// For the daemon of this user: whose token to use.
    whose: Option<HeaderValue>,
    /// What the daemon marks its own words with. Made for this run, and seen by nobody else. Where the system gives no
    /// random bytes nothing is believed.
    mark: Option<HeaderValue>,
    /// Hears what a person should know, each sentence once.
    tell: Box<dyn Fn(&str) + Send + Sync>,
    told: Mutex<BTreeSet<String>>,
    told_aside: Mutex<BTreeSet<String>>,
}

impl Courier {
    #[must_use]
    pub fn new(way: Way, whose: Option<HeaderValue>, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let (told, told_aside) = <(Mutex<_>, Mutex<_>)>::default();
        Self { way, whose, mark: mark(), tell: Box::new(tell), told, told_aside }
    }

    /// Makes a request at the daemon: `target` is a path of the daemon's, with the query.
    pub(super) async fn carry(
        self: Arc<Self>,
        target: String,
        request: Request<Incoming>,
        asked: Asked<'_>,
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
        head.headers.remove(MARK);
        if let Some(mark) = &self.mark {
            head.headers.insert(MARK, mark.clone());
        }
        if let Some(whose) = &self.whose {
            head.headers.insert(WHOSE, whose.clone());
        }
        let uploads = !body.is_end_stream();
        let watch = Watch::new(&self, asked.shown);
        let sending = self.way.send(Request::from_parts(head, Upload(Some(body)).boxed_unsync()));
        match watch.over(sending).await {
            Ok(answer) => {
                let answer = answer.map(|body| Watched::new(body, watch).boxed_unsync());
                let mut answer = self.note_refusal(answer, asked).await;
                drop_connection_headers(answer.headers_mut());
                answer
            }
            Err(fault) => {
                let failure = Failure::from(fault);
                if uploads {
                    watch.lost_upload(&failure);
                } else {
                    self.tell_once(&failure.one_line());
                }
                sentence(StatusCode::BAD_GATEWAY, &failure.one_line())
            }
        }
    }

    /// Shows the sentence of a problem document of the daemon's, which is small, and passes it on whole.
    async fn note_refusal(&self, mut answer: Reply, asked: Asked<'_>) -> Reply {
        let mark = answer.headers_mut().remove(MARK);
        let is_own = mark.is_some() && mark == self.mark;
        let is_problem =
            answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == PROBLEM.as_bytes());
        let (status, refused) =
            (answer.status(), answer.status().is_client_error() || answer.status().is_server_error());
        let length =
            answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let is_small = length.is_some_and(|length: usize| length <= LARGEST_PROBLEM);
        if !is_own || !is_problem || !refused || !is_small {
            return answer;
        }
        let (head, body) = answer.into_parts();
        let whole = timeout(PROBLEM_TIME, body.collect()).await;
        let Ok(Ok(whole)) = whole else {
            return sentence(StatusCode::BAD_GATEWAY, "the daemon broke off in the middle of a refusal");
        };
        let whole = whole.to_bytes();
        if let Some(failure) = failure_from_problem(&whole).filter(|_| self.has_more_to_tell()) {
            self.tell_once(&told(&failure, status, asked.shown, asked.by.name().await));
        }
        Response::from_parts(head, full(whole))
    }

    fn has_more_to_tell(&self) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).len() < MOST_TOLD
    }

    /// What is not about a request of the command. Strangers may not use up what there is to be told of those.
    pub(super) fn tell_aside(&self, text: &str) {
        let mut told = self.told_aside.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MOST_TOLD_ASIDE && told.insert(text.to_owned()) {
            (self.tell)(text);
        }
    }

    pub(super) fn tell_once(&self, text: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody who asks for a thousand things that are not there learns it from the first ones.
        if told.len() < MOST_TOLD && told.insert(text.to_owned()) {
            (self.tell)(text);
        }
    }

    pub(super) fn way(&self) -> &Way {
        &self.way
    }
}

/// A refusal as a person sees it. What is asked for, and by what, may be a stranger's doing: so that is said first, and the
/// remedy is for somebody who wants it.
fn told(failure: &Failure, status: StatusCode, asked: &str, by: &str) -> String {
    let asked = brief(asked, LONGEST_ASKED);
    let text = brief(&failure.one_line(), LONGEST_TOLD);
    let wary = match (failure.kind, &failure.hint) {
        (Kind::Refused | Kind::NotOurs, Some(_)) => " (only if you know why that process asks for it)",
        _ => "",
    };
    printable(&format!("{by} asked for {asked}: {status}: {text}{wary}"))
}

/// A word that nobody else knows.
fn mark() -> Option<HeaderValue> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).ok()?;
    HeaderValue::from_str(&format!("{:032x}", u128::from_ne_bytes(bytes))).ok()
}

fn brief(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Courier").field("way", &self.way).finish_non_exhaustive()
    }
}

/// What a client thinks that it asks for, and who it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) shown: &'a str,
    pub(super) by: &'a Caller,
}

/// An answer that breaks its connection where it is not whole.
pub(super) fn owing(reply: Reply, unfinished: &Unfinished) -> Reply {
    reply.map(|body| Owing::new(body, unfinished).boxed_unsync())
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
pub(super) async fn serve(
    stream: Stream,
    config: Arc<ServerConfig>,
    to: Destination,
    courier: Arc<Courier>,
    unfinished: Unfinished,
    caller: Arc<Caller>,
) {
    let Ok(Ok(stream)) = timeout(HANDSHAKE_TIME, TlsAcceptor::from(config).accept(stream)).await else {
        return;
    };
    let whole = unfinished.clone();
    let handle = move |request: Request<Incoming>| -> Answering {
        let (to, courier) = (to.clone(), Arc::clone(&courier));
        let (unfinished, caller) = (unfinished.clone(), Arc::clone(&caller));
        Box::pin(async move {
            match target(&request, &to) {
                Ok(target) => {
                    let shown = format!("https://{}{}", shown(&to), request.uri().path());
                    let asked = Asked { shown: &shown, by: &caller };
                    let mut reply = courier.carry(target, request, asked).await;
                    as_at_host(reply.headers_mut(), &to);
                    owing(reply, &unfinished)
                }
                Err((status, text)) => sentence(status, text),
            }
        })
    };
    serve_http(Box::new(Alerting::new(stream, whole)), Box::new(handle)).await;
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
const MOST_TOLD_ASIDE: usize = 5;
const LONGEST_ASKED: usize = 120;
const LONGEST_TOLD: usize = 1000;

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
    fn a_remedy_is_for_somebody_who_wants_what_was_asked_for() {
        let refused = Failure::new(Kind::Refused, "us/a/b is not granted here")
            .with_hint("run `valetkey docker args us/a/b`");
        let line =
            |failure: &Failure, asked: &str| told(failure, StatusCode::FORBIDDEN, asked, "python3 setup.py");
        assert_eq!(
            line(&refused, "https://us-python.pkg.dev/a/b/"),
            "python3 setup.py asked for https://us-python.pkg.dev/a/b/: 403 Forbidden: us/a/b is not granted here; run \
             `valetkey docker args us/a/b` (only if you know why that process asks for it)"
        );
        let plain = Failure::new(Kind::Upstream, "it refuses the token").with_hint("run `valetkey doctor`");
        assert!(line(&plain, "x").ends_with("; run `valetkey doctor`"));
        let long = line(&Failure::new(Kind::Refused, "b\u{1b}".repeat(5000)), &"a\n".repeat(5000));
        assert!(long.chars().count() < 1300 && !long.contains(char::is_control), "{long}");
        assert!(mark().is_some() && mark() != mark());
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
