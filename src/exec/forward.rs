//! The forwarder: an HTTP proxy on a loopback port, for the processes of this run and no others.
//!
//! `CONNECT` to a granted host is answered by us (`intercept`); to any other host it is a tunnel,
//! and nothing in it is read. Beside that the port serves the daemon's index and registry paths. Anything else is
//! refused with a sentence, and so is whoever is not served at all (`caller`). No token is in this process, and no
//! request leaves it with one.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::authority::Authority;
use super::caller::{Caller, Stranger};
use super::intercept::{self, Asked, Courier, Reply, owing, sentence};
use super::reach::Reach;
use super::tunnel::{self, Destination};
use crate::client::granted::HostPattern;
use crate::client::stream::Stream;
use crate::error::{Failure, Fault};
use crate::http::headers::OWN;
use crate::http::proxy::ProxyConnector;
use crate::http::reached::Reached;
use crate::http::unfinished::{Breakable, Unfinished};
use crate::sys::loopback_peer::is_out_of_descriptors;

/// See the module.
pub struct Forwarder(Arc<Shared>);

struct Shared {
    port: u16,
    hosts: Vec<HostPattern>,
    authority: Arc<Authority>,
    courier: Arc<Courier>,
    beyond: ProxyConnector,
    reach: Reach,
    /// Who somebody is takes a thread's time, and anybody can have it asked.
    looks: Arc<Semaphore>,
    /// Whoever is not served waits for nobody, and nobody for him.
    strangers: Arc<Semaphore>,
}

/// What a connection becomes when its `CONNECT` has been answered.
enum Next {
    /// TLS of ours, for that host.
    Intercept(OnUpgrade, Destination),
    /// Somebody else's.
    Tunnel(OnUpgrade, Reached),
}

type Slot = Arc<Mutex<Option<Next>>>;

impl Forwarder {
    #[must_use]
    pub fn new(
        port: u16,
        hosts: Vec<HostPattern>,
        authority: Authority,
        courier: Courier,
        beyond: ProxyConnector,
    ) -> Self {
        Self(Arc::new(Shared {
            port,
            hosts,
            authority: Arc::new(authority),
            courier: Arc::new(courier),
            beyond,
            reach: Reach::default(),
            looks: Arc::new(Semaphore::new(MOST_LOOKS)),
            strangers: Arc::new(Semaphore::new(MOST_STRANGERS)),
        }))
    }

    /// The same on another port, with another way to the rest of the world.
    #[must_use]
    pub fn beside(&self, port: u16, beyond: ProxyConnector) -> Self {
        let own = &self.0;
        Self(Arc::new(Shared {
            port,
            hosts: own.hosts.clone(),
            authority: Arc::clone(&own.authority),
            courier: Arc::clone(&own.courier),
            beyond,
            reach: Reach::default(),
            looks: Arc::clone(&own.looks),
            strangers: Arc::clone(&own.strangers),
        }))
    }

    /// Serves what comes to this listener, on that port of 127.0.0.1, until it is dropped, which ends every connection.
    pub async fn run(self, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Descriptors come back when connections end.
                    if is_out_of_descriptors(&error) {
                        self.0.courier.tell_aside(NO_DESCRIPTOR);
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let shared = Arc::clone(&self.0);
            connections.spawn(async move {
                let Ok(look) = shared.looks.acquire().await else { return };
                let looked = Caller::of(stream).await;
                drop(look);
                match looked {
                    Some((stream, Ok(caller))) => {
                        shared.serve(stream, caller).await;
                        drop(permit);
                    }
                    Some((stream, Err(stranger))) => {
                        drop(permit);
                        shared.refuse(stream, stranger).await;
                    }
                    None => {}
                }
            });
        }
    }
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder").field("port", &self.0.port).finish_non_exhaustive()
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, stream: TcpStream, caller: Caller) {
        let _ = stream.set_nodelay(true);
        let unfinished = Unfinished::default();
        let stream = Breakable::new(stream, unfinished.clone());
        let (slot, caller) = (Slot::default(), Arc::new(caller));
        let answering = (Arc::clone(&self), Arc::clone(&slot), unfinished.clone(), Arc::clone(&caller));
        let handle = move |request| -> Answering {
            let (shared, plan, owing, by) = answering.clone();
            Box::pin(async move { shared.answer(request, &plan, &owing, &by).await })
        };
        serve_http(Box::new(stream), Box::new(handle)).await;
        let next = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        match next {
            Some(Next::Intercept(upgrade, to)) => {
                if let Some(stream) = upgraded(upgrade).await
                    && let Ok(config) = self.authority.server_config(&to.host)
                {
                    let courier = Arc::clone(&self.courier);
                    intercept::serve(Box::new(stream), config, to, courier, unfinished, caller).await;
                }
            }
            Some(Next::Tunnel(upgrade, beyond)) => {
                if let Some(mut stream) = upgraded(upgrade).await
                    && tunnel::pump(&mut stream, beyond).await.is_err()
                {
                    // What broke there breaks here, and does not end.
                    unfinished.begin();
                }
            }
            None => {}
        }
    }

    /// Tells somebody who is not served why, whatever he asks for: a connection that is only cut says nothing.
    async fn refuse(&self, stream: TcpStream, stranger: Stranger) {
        let is_told = stranger.is_told();
        let status = StatusCode::from_u16(stranger.kind().status()).unwrap_or(StatusCode::FORBIDDEN);
        let text = Failure::from(stranger).one_line();
        if is_told {
            self.courier.tell_aside(&text);
        }
        // A crowd of them gets no more of this process than the first few.
        let Ok(_seat) = self.strangers.try_acquire() else { return };
        let handle = move |_| -> Answering {
            let mut reply = sentence(status, &text);
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            Box::pin(async move { reply })
        };
        let _ = timeout(STRANGER_TIME, serve_http(Box::new(stream), Box::new(handle))).await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        slot: &Slot,
        unfinished: &Unfinished,
        by: &Caller,
    ) -> Reply {
        if request.method() == Method::CONNECT {
            return self.connect(request, slot).await;
        }
        let own = format!("127.0.0.1:{}", self.port);
        if let Some(authority) = request.uri().authority()
            && authority.as_str() != own
        {
            let text = "valetkey forwards https only: no http_proxy should name this port";
            return sentence(StatusCode::NOT_IMPLEMENTED, text);
        }
        if let Some(problem) = strange(request.headers(), &own) {
            return sentence(StatusCode::FORBIDDEN, problem);
        }
        let target = request.uri().path_and_query().map_or("", |target| target.as_str()).to_owned();
        if !PREFIXES.iter().any(|prefix| target.starts_with(prefix)) {
            return sentence(
                StatusCode::NOT_FOUND,
                "valetkey serves /simple/, /merged/, /index/ and /registry/ here",
            );
        }
        let shown = request.uri().path().to_owned();
        let asked = Asked { shown: &shown, by };
        let reply = Arc::clone(&self.courier).carry(plain_host(target), request, asked).await;
        owing(reply, unfinished)
    }

    async fn connect(&self, mut request: Request<Incoming>, slot: &Slot) -> Reply {
        let bad = |text: &str| sentence(StatusCode::BAD_REQUEST, text);
        let written = request.uri().authority().map_or("", |authority| authority.as_str());
        let Some(to) = Destination::parse(written) else {
            return bad("this is no HOST:PORT to connect to");
        };
        if !host_agrees(request.headers(), &to) {
            return bad("the Host header names another host than the request");
        }
        let covered = self.hosts.iter().any(|host| host.covers(&to.host, to.port));
        if covered && request.headers().contains_key(OWN) {
            let text =
                format!("valetkey's own request for {to} came to `valetkey exec`, which would hand it back");
            let hint = "run `valetkey stop`, and start the daemon where HTTPS_PROXY does not lead here";
            self.courier.tell_once(&format!("{text}; {hint}"));
            return sentence(StatusCode::LOOP_DETECTED, &format!("{text}: {hint}"));
        }
        let upgrade = hyper::upgrade::on(&mut request);
        let next = if covered {
            Next::Intercept(upgrade, to)
        } else {
            match self.reach.open(&self.beyond, &to).await {
                Ok(stream) => Next::Tunnel(upgrade, stream),
                Err(fault) => {
                    let failure = Failure::from(fault);
                    // Clients keep to themselves what a proxy says.
                    self.courier.tell_once(&failure.one_line());
                    return with_reason(
                        sentence(StatusCode::BAD_GATEWAY, &failure.one_line()),
                        &failure.message,
                    );
                }
            }
        };
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
        Reply::default()
    }
}

pub(super) type Answering = Pin<Box<dyn Future<Output = Reply> + Send>>;
type Handle = Box<dyn Fn(Request<Incoming>) -> Answering + Send + Sync>;

/// Serves one connection, with every limit set. Boxes, because each kind of connection would make another copy of the
/// server in the program.
pub(super) async fn serve_http(stream: Stream, handle: Handle) {
    let service = service_fn(|request| {
        let answer = handle(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // An error here is the peer's: it went away or did not speak HTTP. hyper has answered what can be answered.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

async fn upgraded(upgrade: OnUpgrade) -> Option<TokioIo<hyper::upgrade::Upgraded>> {
    timeout(UPGRADE_TIME, upgrade).await.ok()?.ok().map(TokioIo::new)
}

/// Why a request for the index is none that a package client makes: a browser may be led to this port by any page.
fn strange(headers: &HeaderMap, own: &str) -> Option<&'static str> {
    let local = own.replace("127.0.0.1", "localhost");
    let mut named = headers.get_all(HOST).iter();
    let host = named.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
    if named.next().is_some() || (host != own && host != local) {
        return Some("the Host header does not name this port");
    }
    let foreign = |name: &str| {
        name.starts_with("sec-fetch-") || matches!(name, "origin" | "x-forwarded-for" | "forwarded")
    };
    headers
        .keys()
        .any(|name| foreign(name.as_str()))
        .then_some("browsers and other proxies are not served here")
}

/// A path with the port of its host written plainly. pip escapes the colon in the links of an index.
pub(super) fn plain_host(target: String) -> String {
    if target.starts_with("/merged/")
        && let Some((hosts, name)) = target.rsplit_once("/simple/")
    {
        return format!("{}/simple/{name}", hosts.replace("%3A", ":").replace("%3a", ":"));
    }
    let mut parts = target.splitn(4, '/');
    let (Some(root), Some(place), Some(host), rest) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return target;
    };
    if place == "simple" || !host.contains('%') {
        return target;
    }
    let host = host.replacen("%3A", ":", 1).replacen("%3a", ":", 1);
    rest.map_or_else(|| format!("{root}/{place}/{host}"), |rest| format!("{root}/{place}/{host}/{rest}"))
}

/// The same with a reason beside the status, which clients show that show nothing else.
fn with_reason(mut reply: Reply, text: &str) -> Reply {
    let plain: String =
        text.chars().filter(|letter| letter.is_ascii() && !letter.is_ascii_control()).collect();
    if let Ok(reason) = ReasonPhrase::try_from(plain.into_bytes()) {
        reply.extensions_mut().insert(reason);
    }
    reply
}

/// Whether there is no `Host`, or one that names the same host, with or without the port.
fn host_agrees(headers: &HeaderMap, to: &Destination) -> bool {
    let mut named = headers.get_all(HOST).iter();
    let Some(host) = named.next() else { return true };
    let Ok(host) = host.to_str() else { return false };
    let same = Destination::parse(host).as_ref() == Some(to)
        || Destination::parse(&format!("{host}:{}", to.port)).as_ref() == Some(to);
    same && named.next().is_none()
}

/// What the daemon serves to a proxy grant.
pub(super) const PREFIXES: [&str; 4] = ["/simple/", "/merged/", "/index/", "/registry/"];
/// An installer that builds between two requests keeps its connection for that long.
const HEADER_TIME: Duration = Duration::from_secs(75);
const UPGRADE_TIME: Duration = Duration::from_secs(10);
const LARGEST_HEAD: usize = 64 << 10;
const MOST_HEADERS: usize = 100;
/// uv opens fifty at once, and several of it may run.
const MOST_CONNECTIONS: usize = 512;
const MOST_LOOKS: usize = 8;
const MOST_STRANGERS: usize = 16;
const NO_DESCRIPTOR: &str =
    "this run has no file descriptor left, so its command waits; raise the limit of open files (`ulimit -n`)";
const STRANGER_TIME: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_connect_and_its_host_name_the_same() {
        let to = Destination::parse("us-python.pkg.dev:443").unwrap();
        for good in [&[][..], &[("host", "us-python.pkg.dev:443")], &[("host", "US-Python.pkg.dev")]] {
            assert!(host_agrees(&headers(good), &to), "{good:?}");
        }
        for bad in [
            &[("host", "evil.test:443")][..],
            &[("host", "us-python.pkg.dev:8443")],
            &[("host", "u@us-python.pkg.dev")],
            &[("host", "")],
            &[("host", "us-python.pkg.dev"), ("host", "us-python.pkg.dev")],
        ] {
            assert!(!host_agrees(&headers(bad), &to), "{bad:?}");
        }
    }

    #[test]
    fn a_port_is_written_plainly_in_the_host_and_nowhere_else() {
        for (asked, made) in [
            ("/registry/localhost%3A8443/a%3Ab/x?y=%3A", "/registry/localhost:8443/a%3Ab/x?y=%3A"),
            ("/index/localhost%3a8443/a", "/index/localhost:8443/a"),
            ("/registry/us-python.pkg.dev/a%3Ab", "/registry/us-python.pkg.dev/a%3Ab"),
            ("/simple/a%3Ab/", "/simple/a%3Ab/"),
            (
                "/merged/a.test%3A1/p/r/b.test%3a2/p/r/simple/x%3A/",
                "/merged/a.test:1/p/r/b.test:2/p/r/simple/x%3A/",
            ),
            ("/registry/", "/registry/"),
        ] {
            assert_eq!(plain_host(asked.to_owned()), made);
        }
    }

    #[test]
    fn a_browser_is_not_served() {
        let own = "127.0.0.1:18417";
        assert_eq!(strange(&headers(&[("host", own), ("user-agent", "pip")]), own), None);
        assert_eq!(strange(&headers(&[("host", "localhost:18417")]), own), None);
        for bad in [
            &[("host", "rebound.test:18417")][..],
            &[("host", "127.0.0.1")],
            &[],
            &[("host", own), ("origin", "https://x.test")],
            &[("host", own), ("sec-fetch-mode", "cors")],
            &[("host", own), ("x-forwarded-for", "10.0.0.1")],
        ] {
            assert!(strange(&headers(bad), own).is_some(), "{bad:?}");
        }
    }
}
