//! A daemon for the tests of `valetkey exec`: its side of the socket, with the token put in, and able to break off, to
//! go away and to come back. It knows what a request looked like when it arrived.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "each test target uses a part, and a test fails by panicking"
)]

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HOST, HeaderMap, LOCATION, RANGE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixListener};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::harness::Sandbox;
use super::stand_in::READ_ONLY;

/// See the module.
pub struct RegistryDaemon {
    pub socket: PathBuf,
    state: Arc<State>,
    runtime: Option<Runtime>,
}

struct State {
    grant: Mutex<String>,
    /// `localhost:PORT`, the one registry there is.
    host: String,
    port: u16,
    token: String,
    tls: TlsConnector,
    seen: Mutex<Vec<Seen>>,
    /// After how many bytes the next answers for [`LARGE`] break off.
    breaks: Mutex<Vec<usize>>,
    /// What [`LARGE`] is, and under which name.
    large: Mutex<(Bytes, &'static str)>,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub headers: HeaderMap,
}

type Body = BoxBody<Bytes, std::io::Error>;

impl RegistryDaemon {
    /// Serves the sandbox's registry, on a socket of its own.
    pub fn start(sandbox: &Sandbox) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(sandbox.google.ca_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let host = format!("localhost:{}", sandbox.google.port());
        let grant = format!(
            r#"{{"proxy":{{"access":"write","hosts":["{host}","*.pkg.dev"],"repositories":null}},"credential":null,"index":true}}"#
        );
        let state = State {
            grant: Mutex::new(grant),
            host,
            port: sandbox.google.port(),
            token: sandbox.google.issue_access_token("builder@acme.iam.gserviceaccount.com", SCOPES),
            tls: TlsConnector::from(Arc::new(tls)),
            seen: Mutex::default(),
            breaks: Mutex::default(),
            large: Mutex::new((Bytes::new(), "\"one\"")),
        };
        let mut daemon = Self { socket: sandbox.path("d.sock"), state: Arc::new(state), runtime: None };
        daemon.come_back();
        daemon
    }

    /// Says something else of its grant.
    pub fn grant(&self, text: &str) {
        text.clone_into(&mut self.state.grant.lock().unwrap());
    }

    /// The name of the registry.
    pub fn host(&self) -> &str {
        &self.state.host
    }

    /// As `kill -9`: every connection is cut and the socket is dead.
    pub fn go_away(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
    }

    pub fn come_back(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = std::os::unix::net::UnixListener::bind(&self.socket).expect("a socket");
        listener.set_nonblocking(true).expect("a mode");
        let state = Arc::clone(&self.state);
        runtime.spawn(async move {
            let listener = UnixListener::from_std(listener).expect("a listener");
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    let service = service_fn(|request| {
                        let state = Arc::clone(&state);
                        async move { Ok::<_, Infallible>(state.answer_marked(request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        self.runtime = Some(runtime);
    }

    /// What arrived, but for questions for the grant.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Serves a large file at [`LARGE`] whose first answers break off after so many bytes.
    pub fn serve_large(&self, content: impl Into<Bytes>, etag: &'static str, breaks: &[usize]) {
        *self.state.large.lock().unwrap() = (content.into(), etag);
        *self.state.breaks.lock().unwrap() = breaks.to_vec();
    }
}

impl State {
    /// What it says itself bears the mark that was asked for.
    async fn answer_marked(&self, request: Request<Incoming>) -> Response<Body> {
        let mark = request.headers().get(MARK).cloned();
        let mut response = self.answer(request).await;
        if let Some(mark) = mark.filter(|_| response.extensions().get::<OwnWords>().is_some()) {
            response.headers_mut().insert(MARK, mark);
        }
        response
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let target = request.uri().to_string();
        if target == "/v1/grant" {
            let text = self.grant.lock().unwrap().clone();
            return if text.is_empty() {
                problem(404, "not-found", "nothing here")
            } else {
                with(200, JSON, text)
            };
        }
        self.seen.lock().unwrap().push(Seen {
            method: request.method().to_string(),
            target: target.clone(),
            headers: request.headers().clone(),
        });
        let own = format!("/registry/{}", self.host);
        if target == format!("{own}{LARGE}") {
            return self.large(request.headers());
        }
        if target == format!("{own}{REFUSED}") {
            return problem(403, "refused", "acme/other is not granted here");
        }
        if target == format!("{own}{FORGED}") {
            let mut response = problem(403, "refused", "the registry speaks as if it were valetkey");
            response.extensions_mut().clear();
            response.headers_mut().insert(MARK, "0123456789abcdef0123456789abcdef".parse().unwrap());
            return response;
        }
        if target == format!("{own}/acme/npm/acme-hello") {
            let version =
                r#"{"name":"acme-hello","version":"1.2.3","dist":{"tarball":"https://x.test/x.tgz"}}"#;
            let text = format!(
                r#"{{"name":"acme-hello","dist-tags":{{"latest":"1.2.3"}},"versions":{{"1.2.3":{version}}}}}"#
            );
            return with(200, JSON, text);
        }
        if let Some(path) = target.strip_prefix(&own).filter(|path| path.starts_with('/')) {
            return self.pass(request, path.to_owned()).await;
        }
        let page = target
            .strip_prefix("/simple/")
            .or_else(|| target.strip_prefix(&format!("/index/{}/acme/private/simple/", self.host)));
        if let Some(name) = page {
            let climbs = "../".repeat(target.matches('/').count() - 1);
            let answer = self.pass(request, format!("/acme/private/simple/{name}")).await;
            let (head, body) = answer.into_parts();
            let page = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
            let page = page.replace("../../", &format!("{climbs}registry/{}/acme/private/", self.host));
            return with(head.status.as_u16(), "text/html", page);
        }
        problem(404, "not-ours", "this host is not a registry that valetkey serves")
    }

    /// Makes the request with the token, and follows where it leads.
    async fn pass(&self, request: Request<Incoming>, path: String) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        let body = body.collect().await.expect("a whole request").to_bytes();
        let mut path = path;
        for _ in 0..3 {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("the registry");
            let stream =
                self.tls.connect(ServerName::try_from("localhost").unwrap(), stream).await.expect("TLS");
            let (mut sender, moving) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
            tokio::spawn(moving);
            head.uri = path.parse().unwrap();
            head.headers.insert(HOST, self.host.parse().unwrap());
            head.headers.insert(AUTHORIZATION, format!("Bearer {}", self.token).parse().unwrap());
            let again = Request::from_parts(head.clone(), Full::new(body.clone()));
            let response = sender.send_request(again).await.expect("an answer");
            if let Some(to) = response.headers().get(LOCATION).filter(|_| response.status() == 302) {
                to.to_str().unwrap().clone_into(&mut path);
                continue;
            }
            return response.map(|body| body.map_err(std::io::Error::other).boxed());
        }
        with(502, "text/plain", "too many redirects".to_owned())
    }

    fn large(&self, headers: &HeaderMap) -> Response<Body> {
        let (content, etag) = self.large.lock().unwrap().clone();
        let from: usize = headers
            .get(RANGE)
            .filter(|_| headers.get("if-range").is_none_or(|condition| condition == etag))
            .and_then(|range| range.to_str().unwrap().strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
            .unwrap_or(0);
        let whole = content.len();
        let part = content.slice(from..);
        let mut breaks = self.breaks.lock().unwrap();
        let cut = if breaks.is_empty() { None } else { Some(breaks.remove(0)) };
        let mut pieces: Vec<Result<Frame<Bytes>, std::io::Error>> = Vec::new();
        let shown = part.slice(..cut.unwrap_or(part.len()).min(part.len()));
        for start in (0..shown.len()).step_by(PIECE) {
            pieces.push(Ok(Frame::data(shown.slice(start..(start + PIECE).min(shown.len())))));
        }
        if cut.is_some() {
            pieces.push(Err(std::io::Error::other("broken on purpose")));
        }
        let mut response = Response::new(BodyExt::boxed(Pieces { left: pieces.into(), waited: false }));
        let headers = response.headers_mut();
        headers.insert("content-length", part.len().into());
        headers.insert(ETAG, etag.parse().unwrap());
        if from > 0 {
            headers.insert("content-range", format!("bytes {from}-{}/{whole}", whole - 1).parse().unwrap());
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }
}

/// Pieces of which each is ready at once, but for an error: what came before it goes out first.
struct Pieces {
    left: std::collections::VecDeque<Result<Frame<Bytes>, std::io::Error>>,
    waited: bool,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.left.front().is_some_and(Result::is_err) && !std::mem::replace(&mut self.waited, true) {
            context.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(self.left.pop_front())
    }
}

fn with(status: u16, kind: &str, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert(CONTENT_TYPE, kind.parse().unwrap());
    response
}

fn problem(status: u16, kind: &str, detail: &str) -> Response<Body> {
    let hint = "add to config.toml: [build] repositories = [\\\"us/acme/other\\\"]";
    let text = format!(
        r#"{{"type":"urn:valetkey:problem:{kind}","status":{status},"detail":"{detail}","hint":"{hint}"}}"#
    );
    let mut response = with(status, "application/problem+json", text);
    response.extensions_mut().insert(OwnWords);
    response
}

/// Stands at what the daemon says itself.
#[derive(Clone, Copy)]
struct OwnWords;

/// A file that can be asked for in parts.
pub const LARGE: &str = "/acme/private/large.bin";
/// A path that is not granted.
pub const REFUSED: &str = "/acme/other/simple/x/";
/// A path at which the registry answers with a document like the daemon's.
pub const FORGED: &str = "/acme/private/forged";
const MARK: &str = "valetkey-mark";
const SCOPES: &[&str] = &[READ_ONLY, "https://www.googleapis.com/auth/cloud-platform"];
const JSON: &str = "application/json";
const PIECE: usize = 64 << 10;
