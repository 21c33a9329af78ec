//! The one HTTP client: https with the system's roots (and `SSL_CERT_FILE`, and the configuration's extra CA),
//! proxies from the environment, a deadline on everything, a cap on every body, and no redirects, so that nothing
//! that is sent can end up elsewhere.
//!
//! Roots are read when the first https request is made ([`trust`](super::trust)): neither a helper that asks the daemon
//! nor an idle daemon pays for them.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use tower_service::Service;

use super::body::Body;
use super::pool::{Connection, Pool};
use super::proxy::ProxyConnector;
use super::reached::Reached;
use super::resolve::{Connector, Resolver};
use super::trust::{Trust, TrustFault};
use super::wide::{Ahead, Crowd, Filled, WideConnector};
use crate::environment::Environment;
use crate::error::shown::shown;
use crate::error::{Fault, Kind};

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum HttpFault {
    /// The roots or the extra CA cannot be read.
    #[error("cannot set up TLS: {0}")]
    Setup(TrustFault),
    /// No name, no route, nobody listening, or a proxy that refuses.
    #[error("cannot reach {}", shown(host))]
    Connect {
        host: String,
        /// The proxy on the way, where it is one on this machine.
        proxy: Option<String>,
        source: Opaque,
    },
    /// The certificate is not one that this machine trusts.
    #[error("{} shows a certificate that this machine does not trust", shown(host))]
    Certificate { host: String, source: Opaque, remedy: String },
    /// It was reached, and speaks TLS in no way that we do, or not at all.
    #[error("{} answers, but not with TLS as it should", shown(host))]
    Tls { host: String, source: Opaque },
    /// The connection broke in the middle of the answer.
    #[error("{} broke off in the middle of its answer", shown(host))]
    Broken { host: String, source: Opaque },
    /// The answer is larger than any honest one.
    #[error("{} answered with more than {limit} bytes", shown(host))]
    TooLarge { host: String, limit: usize },
    /// Nothing came in time.
    #[error("{} did not answer within {} s", shown(host), waited.as_secs_f32().ceil())]
    Deadline { host: String, waited: Duration },
    /// A proxy that would have to be spoken to in another way than plain HTTP.
    #[error("the proxy for {} is named with a scheme that is not http", shown(host))]
    Proxy { host: String },
    /// A URL that cannot be asked, from a file of the user's.
    #[error("{:?} is not a URL that can be asked", shown(.0))]
    Url(String),
}

/// An error of a library, as text: its types are no part of our interface.
#[derive(Debug)]
pub struct Opaque(String);

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Opaque {}

impl Opaque {
    /// The innermost causes say what happened; the outer ones only repeat that something did.
    pub(super) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut last = error;
        while let Some(cause) = last.source() {
            last = cause;
        }
        Self(last.to_string())
    }
}

impl Fault for HttpFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Setup(fault) => fault.kind(),
            Self::Url(_) | Self::Proxy { .. } => Kind::Configuration,
            Self::Connect { .. } | Self::Certificate { .. } | Self::Tls { .. } => Kind::Unreachable,
            Self::Broken { .. } | Self::TooLarge { .. } => Kind::Upstream,
            Self::Deadline { .. } => Kind::Deadline,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Setup(fault) => return fault.hint(),
            Self::Certificate { remedy, .. } => remedy.clone(),
            Self::Connect { proxy: Some(proxy), .. } => format!(
                "the way there is the proxy {proxy} of HTTPS_PROXY: where a run of `valetkey exec` that is over has left \
                 that, unset it and run `valetkey stop`, since a daemon keeps what it was started with"
            ),
            Self::Connect { .. } | Self::Deadline { .. } => {
                "check the network, and HTTPS_PROXY where a proxy is needed".to_owned()
            }
            Self::Broken { .. } | Self::TooLarge { .. } | Self::Tls { .. } => {
                "something between this machine and Google answers in its place; run `valetkey doctor`"
                    .to_owned()
            }
            Self::Proxy { .. } => {
                "write HTTPS_PROXY (or ALL_PROXY) as http://HOST:PORT; what is sent to Google is encrypted all the same"
                    .to_owned()
            }
            Self::Url(_) => return None,
        })
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Broken { .. })
    }
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// `Retry-After` in its form of seconds, at most an hour.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds: u64 = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds.min(3600)))
    }
}

/// Asks Google's endpoints. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HttpClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connector: ProxyConnector,
    trust: Arc<Trust>,
    pool: Arc<Pool>,
    crowd: Crowd,
}

/// Opens connections with TLS, on which HTTP/1.1 is spoken: where one HTTP/2 connection carries many files, two
/// readers that stop reading hold up all the others.
type SecureConnector = HttpsConnector<WideConnector>;
/// A connection of it. The one in clear is for a metadata server.
pub(super) type Wire = <SecureConnector as Service<Uri>>::Response;

impl HttpClient {
    #[must_use]
    pub fn new(environment: &Environment, extra_ca: Option<PathBuf>) -> Self {
        let connector = ProxyConnector::for_own(environment);
        let (trust, pool, crowd) = (Trust::new(environment, extra_ca), Arc::default(), Crowd::default());
        let shared = Shared { connector, trust: Arc::new(trust), pool, crowd };
        Self { shared: Arc::new(shared) }
    }

    /// Posts an OAuth form over https.
    ///
    /// # Errors
    /// When no complete answer arrives in time. An answer with a refusal is an answer.
    pub async fn post_form(&self, url: &str, form: String, until: Instant) -> Result<Answer, HttpFault> {
        let uri = https_uri(url)?;
        let request = Request::post(uri)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::full(form))
            .map_err(|_| HttpFault::Url(url.to_owned()))?;
        self.send_secure(request, until).await
    }

    /// Sends a request without a body over https.
    ///
    /// # Errors
    /// As [`Self::post_form`].
    pub async fn request(
        &self,
        method: Method,
        url: &str,
        headers: &[(&'static str, &str)],
        until: Instant,
    ) -> Result<Answer, HttpFault> {
        let mut request = Request::builder().method(method).uri(https_uri(url)?);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).map_err(|_| HttpFault::Url(url.to_owned()))?;
        self.send_secure(request, until).await
    }

    /// Asks a metadata server: plain http, never through a proxy, nothing secret in the question.
    ///
    /// # Errors
    /// As [`Self::post_form`].
    pub async fn get_metadata(&self, url: &str, until: Instant) -> Result<Answer, HttpFault> {
        let request = Request::get(url)
            .header("metadata-flavor", "Google")
            .body(Body::empty())
            .map_err(|_| HttpFault::Url(url.to_owned()))?;
        let mut connector = Connector::new_with_resolver(Resolver);
        connector.set_connect_timeout(Some(Duration::from_secs(3)));
        let (opening, crowd) = (connector.call(request.uri().clone()), self.shared.crowd.clone());
        let host = host_of(request.uri());
        let opening = async move {
            let stream = opening.await.map_err(|error| HttpFault::Connect {
                host: host.clone(),
                proxy: None,
                source: Opaque::of(&error),
            })?;
            let stream = TokioIo::new(Reached::Plain(stream.into_inner()));
            Ok(Wire::Http(Ahead::new(stream, &crowd)))
        };
        self.send(opening, request, until).await
    }

    /// The proxy on the way to a URL, for `doctor`.
    #[must_use]
    pub fn proxy_for(&self, url: &str) -> Option<String> {
        self.shared.connector.proxy_for(&url.parse().ok()?)
    }

    /// Whether requests to an origin go by a proxy on this machine.
    #[must_use]
    pub fn is_by_loopback(&self, uri: &Uri) -> bool {
        self.shared.connector.is_by_loopback(uri)
    }

    async fn send_secure(&self, request: Request<Body>, until: Instant) -> Result<Answer, HttpFault> {
        let uri = request.uri().clone();
        self.send(self.open(&uri), request, until).await
    }

    /// Connects, asks and waits for the whole answer, all before the deadline. The connection is not kept: asks are
    /// minutes apart.
    async fn send(
        &self,
        opening: impl Future<Output = Result<Wire, HttpFault>>,
        request: Request<Body>,
        until: Instant,
    ) -> Result<Answer, HttpFault> {
        let start = Instant::now();
        let (mut head, body) = request.into_parts();
        let host = host_of(&to_origin_form(&mut head)?);
        let whole = async {
            let mut connection = begin(opening.await?, &host, self.piece()).await?;
            let response = connection.sender.send_request(Request::from_parts(head, body)).await;
            let (head, body) = response.map_err(|error| broken(&host, &error))?.into_parts();
            let body = Limited::new(body, LARGEST_BODY).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    HttpFault::TooLarge { host: host.clone(), limit: LARGEST_BODY }
                } else {
                    broken(&host, error.as_ref())
                }
            })?;
            Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
        };
        match timeout_at(until, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpFault::Deadline { host: host.clone(), waited: start.elapsed() }),
        }
    }

    /// Opens a connection to an origin, if the way there is one that can be gone.
    pub(super) async fn open(&self, uri: &Uri) -> Result<Wire, HttpFault> {
        let shared = &self.shared;
        let trusted = shared.trust.get().await.map_err(HttpFault::Setup)?;
        if !shared.connector.can_reach(uri) {
            return Err(HttpFault::Proxy { host: host_of(uri) });
        }
        let mut connector = HttpsConnectorBuilder::new()
            .with_tls_config(ClientConfig::clone(&trusted.config))
            .https_only()
            .enable_http1()
            .wrap_connector(WideConnector {
                connector: shared.connector.clone(),
                crowd: shared.crowd.clone(),
            });
        connector.call(uri.clone()).await.map_err(|error| {
            let host = host_of(uri);
            match of_tls(error.as_ref()) {
                Some(why @ rustls::Error::InvalidCertificate(_)) => {
                    shared.trust.doubt();
                    let (source, remedy) = (Opaque(why.to_string()), trusted.remedy(why));
                    HttpFault::Certificate { host, source, remedy }
                }
                Some(why) => HttpFault::Tls { host, source: Opaque(why.to_string()) },
                None => {
                    let by = Some(&shared.connector).filter(|connector| connector.is_by_loopback(uri));
                    let proxy = by.and_then(|connector| connector.proxy_for(uri));
                    HttpFault::Connect { host, proxy, source: Opaque::of(error.as_ref()) }
                }
            }
        })
    }

    /// The size of the pieces in which a new connection is read.
    pub(super) fn piece(&self) -> usize {
        self.shared.crowd.piece()
    }

    /// The connections that are kept for a while.
    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.shared.pool
    }
}

/// Begins to speak HTTP/1.1 on a connection.
pub(super) async fn begin(wire: Wire, host: &str, piece: usize) -> Result<Connection, HttpFault> {
    let (sender, moving) = http1::Builder::new()
        .read_buf_exact_size(Some(piece))
        .max_headers(MOST_HEADERS)
        .handshake(TokioIo::new(Filled::new(TokioIo::new(wire))))
        .await
        .map_err(|error| broken(host, &error))?;
    // Whoever reads the answer hears of an error.
    let task = tokio::spawn(moving).abort_handle();
    Ok(Connection { sender, task })
}

/// Gives a request the form that servers are used to: a path, and the host beside it. Says where it goes.
pub(super) fn to_origin_form(head: &mut Parts) -> Result<Uri, HttpFault> {
    let uri = std::mem::take(&mut head.uri);
    // Without a user name, which is no part of it.
    let authority = uri.authority().and_then(|authority| authority.as_str().rsplit('@').next());
    let Some(Ok(authority)) = authority.map(HeaderValue::from_str) else {
        return Err(HttpFault::Url(host_of(&uri)));
    };
    head.headers.insert(HOST, authority);
    head.uri = uri.path_and_query().cloned().map(Uri::from).unwrap_or_default();
    Ok(uri)
}

pub(super) fn broken(host: &str, error: &(dyn std::error::Error + 'static)) -> HttpFault {
    HttpFault::Broken { host: host.to_owned(), source: Opaque::of(error) }
}

/// What TLS says of it, if that is where it ended. An `io::Error` hides what it wraps from `source()`, and one may wrap
/// another.
fn of_tls<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let wrapped = || error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let own = error.downcast_ref();
    own.or_else(|| wrapped().and_then(|inner| of_tls(inner))).or_else(|| error.source().and_then(of_tls))
}

fn https_uri(url: &str) -> Result<Uri, HttpFault> {
    let uri: Uri = url.parse().map_err(|_| HttpFault::Url(url.to_owned()))?;
    if uri.scheme_str() == Some("https") && uri.host().is_some() {
        Ok(uri)
    } else {
        Err(HttpFault::Url(url.to_owned()))
    }
}

pub(super) fn host_of(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

const MOST_HEADERS: usize = 128;
/// Tokens and error documents are a few kilobytes.
const LARGEST_BODY: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_request_is_told_and_no_user_name() {
        for (url, path, host) in [
            ("https://u:p@a.example:8443/x?y", "/x?y", "a.example:8443"),
            ("https://a.example", "/", "a.example"),
            ("http://[::1]:80/x", "/x", "[::1]:80"),
        ] {
            let mut head = Request::get(url).body(()).unwrap().into_parts().0;
            assert_eq!(to_origin_form(&mut head).unwrap(), url.parse::<Uri>().unwrap());
            assert_eq!((head.uri.to_string().as_str(), &head.headers[HOST]), (path, &host.parse().unwrap()));
        }
    }
}
