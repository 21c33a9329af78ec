//! Listeners and dispatch: one loop for TLS, one for plain HTTP (the metadata server, the authorization endpoint).
//!
//! Every request body is read to its end before anything is decided, so that a connection closed by a fault ends
//! with an orderly close and not with a reset that depends on timing.

use std::fmt;
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::control::Control;
use super::fault::Body;
use super::{authorization, metadata, oauth, registry, revocation};

pub(super) async fn serve_tls(listener: TcpListener, config: Arc<ServerConfig>, control: Control) {
    let acceptor = TlsAcceptor::from(config);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (acceptor, control) = (acceptor.clone(), control.clone());
        tokio::spawn(async move {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                if control.state().stops_in_heads {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: te").await;
                    let _ = stream.flush().await;
                    std::future::pending::<()>().await;
                }
                serve_connection(stream, control, Front::Tls).await;
            }
        });
    }
}

pub(super) async fn serve_metadata(listener: TcpListener, control: Control) {
    serve_plain(listener, control, Front::Metadata).await;
}

pub(super) async fn serve_authorization(listener: TcpListener, control: Control) {
    serve_plain(listener, control, Front::Authorization).await;
}

/// A request with its body, and the few readings of it that all parts need.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    /// Path and query as they came.
    pub(super) target: String,
    pub(super) query: Pairs,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as `application/x-www-form-urlencoded`.
    pub(super) fn form(&self) -> Pairs {
        Pairs::parse(&self.body)
    }
}

/// Parameters of a query or a form.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Pairs(Vec<(String, String)>);

impl Pairs {
    pub(super) fn parse(text: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(text).into_owned().collect())
    }

    pub(super) fn first(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        Some(value)
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A name that stands there more than once.
    pub(super) fn repeated(&self) -> Option<&str> {
        let (name, _) = self.0.iter().find(|(name, _)| self.all(name).nth(1).is_some())?;
        Some(name)
    }
}

/// The error that makes hyper drop a connection.
#[derive(Debug)]
pub(super) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("closed by a fault")
    }
}

impl std::error::Error for Closed {}

pub(super) fn json(status: u16, value: &serde_json::Value) -> Response<Bytes> {
    let text = format!("{value:#}\n");
    with_type(status, "application/json; charset=utf-8", text)
}

pub(super) fn text(status: u16, text: impl Into<Bytes>) -> Response<Bytes> {
    with_type(status, "text/plain; charset=utf-8", text)
}

pub(super) fn with_type(status: u16, kind: &str, body: impl Into<Bytes>) -> Response<Bytes> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, kind)
        .body(body.into())
        .expect("constant parts make a valid response")
}

#[derive(Clone, Copy)]
enum Front {
    Tls,
    Metadata,
    Authorization,
}

async fn serve_plain(listener: TcpListener, control: Control, front: Front) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_connection(stream, control.clone(), front));
        }
    }
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin, control: Control, front: Front) {
    let service = service_fn(move |request| {
        let control = control.clone();
        async move { answer(&control, front, request).await }
    });
    // Clients hang up as they please: an error here is theirs to notice.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    control: &Control,
    front: Front,
    request: Request<Incoming>,
) -> Result<Response<Body>, Closed> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
    let call = Call {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        target: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        query: Pairs::parse(parts.uri.query().unwrap_or_default().as_bytes()),
        headers: parts.headers,
        body,
    };
    match front {
        Front::Metadata => return metadata::answer(control, &call).await,
        Front::Authorization => return authorization::answer(control, &call).await,
        Front::Tls => (),
    }
    // Whatever the Host header says: clients reach this server under the names of several of Google's.
    match call.path.as_str() {
        "/token" => oauth::token(control, &call).await,
        "/revoke" => revocation::answer(control, &call).await,
        "/tokeninfo" => Ok(oauth::tokeninfo(control, &call).map(Body::whole)),
        "/v1/userinfo" => Ok(oauth::userinfo(control, &call).map(Body::whole)),
        _ => registry::answer(control, &call).await,
    }
}
