//! From a request to an answer. Each listener compiles its routes from its grant: a path that is not granted has
//! no route, and answers like one that does not exist.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::Incoming;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, StatusCode};
use serde_json::json;

use super::audit::Line;
use super::form::control;
use super::peer::{Peer, UNKNOWN};
use super::post::Post;
use super::terms::Terms;
use super::{Daemon, indexing, metrics, passing};
use crate::ask::{Access, Ask, Whose};
use crate::blocking;
use crate::broker::Given;
use crate::carrier::tcp;
use crate::clock::rfc3339;
use crate::config::listeners::Address;
use crate::error::shown::quoting;
use crate::error::{Failure, Kind};
use crate::grant::{Grant, Origin, ProxyGrant};
use crate::http::headers::{METRICS, PROTOCOL, STARTED_BY, SUCCESSOR, VERSION, WHOSE};
use crate::http::server::{Reply, json_reply, problem, read_body, reply};
use crate::proxy::target::PREFIX;
use crate::registry::Registry;

/// What one listener answers.
#[derive(Debug, Clone)]
pub struct Routes {
    post: Arc<Post>,
}

/// The requests there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Credential(Access),
    /// The same question where no token is given.
    Tokenless,
    Status,
    Stop,
    Reload,
    Metrics,
    Live,
    Ready,
    Proxied(Proxied),
    Grant,
    Open,
}

/// What is made in the place of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proxied {
    Registry,
    Index,
    Merged,
    Several,
}

impl Routes {
    #[must_use]
    pub fn compile(post: Arc<Post>) -> Self {
        Self { post }
    }

    #[must_use]
    pub fn post(&self) -> &Post {
        &self.post
    }

    /// Answers one request.
    pub async fn answer(
        &self,
        daemon: &Arc<Daemon>,
        peer: Option<&Peer>,
        request: Request<Incoming>,
    ) -> Reply {
        let terms = self.post.terms();
        let mut reply = match peer {
            Some(peer) if terms.admitted.admits(peer.uid) => {
                daemon.note_request();
                self.post.note_use(peer.pid);
                match self.check(&request) {
                    Ok(()) => self.dispatch(daemon, &terms.grant, peer, request).await,
                    Err(failure) => {
                        self.audit(daemon, Some(peer), "any", &failure.one_line());
                        problem(&failure)
                    }
                }
            }
            _ => self.refuse(daemon, &terms, peer),
        };
        let headers = reply.headers_mut();
        headers.insert(VERSION, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
        headers.insert(PROTOCOL, HeaderValue::from_static("1"));
        headers.insert(STARTED_BY, HeaderValue::from_static(daemon.started_by.word()));
        if let Some(Address::Tcp(_)) = self.post.address() {
            for (name, value) in NOT_FOR_PAGES {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        reply
    }

    /// What came by TCP may come from a web page.
    fn check(&self, request: &Request<Incoming>) -> Result<(), Failure> {
        let Some(Address::Tcp(address)) = self.post.address() else { return Ok(()) };
        if request.uri().authority().is_some() {
            return Err(Failure::new(Kind::Refused, "a request names a path here, and no host"));
        }
        tcp::check(request.headers(), *address).map_err(Failure::from)
    }

    async fn dispatch(
        &self,
        daemon: &Arc<Daemon>,
        grant: &Grant,
        peer: &Peer,
        request: Request<Incoming>,
    ) -> Reply {
        match find(grant, request.method(), request.uri().path()) {
            Some(Route::Credential(ceiling)) => self.credential(daemon, grant, peer, ceiling, request).await,
            Some(Route::Tokenless) => {
                let failure = tokenless(grant);
                self.audit(daemon, Some(peer), "credential", &failure.one_line());
                problem(&failure)
            }
            Some(Route::Status) => json_reply(control::status(daemon).to_string()),
            Some(Route::Stop) => {
                self.audit(daemon, Some(peer), "control", "stop");
                // Whoever puts a newer daemon in this one's place wants the builds to go on.
                if request.uri().query() == Some(SUCCESSOR) {
                    daemon.stop();
                } else {
                    daemon.stop_for_good();
                }
                json_reply(json!({"stopping": true}).to_string())
            }
            Some(Route::Reload) => {
                let again = Arc::clone(daemon);
                let outcome = blocking::run(move || again.reload()).await;
                let verdict = if matches!(outcome, Ok(Ok(_))) { "reload" } else { "reload failed" };
                self.audit(daemon, Some(peer), "control", verdict);
                match outcome {
                    Ok(Ok(reloaded)) => json_reply(control::reloaded(&reloaded).to_string()),
                    Ok(Err(failure)) => problem(&failure),
                    Err(fault) => problem(&fault.into()),
                }
            }
            Some(Route::Metrics) => reply(StatusCode::OK, METRICS, metrics::render(daemon)),
            Some(Route::Live) => json_reply(json!({"live": true}).to_string()),
            Some(Route::Ready) if daemon.is_ready() => json_reply(json!({"ready": true}).to_string()),
            Some(Route::Ready) => {
                reply(StatusCode::SERVICE_UNAVAILABLE, "application/json", r#"{"ready":false}"#)
            }
            // The largest of all, by far.
            Some(Route::Proxied(way)) => Box::pin(self.make(daemon, grant, peer, way, request)).await,
            Some(Route::Grant) => json_reply(control::describe(daemon, grant).to_string()),
            Some(Route::Open) => self.open(daemon, peer, request).await,
            None => problem(&nothing_here()),
        }
    }

    /// Makes a request in the place of a peer.
    async fn make(
        &self,
        daemon: &Arc<Daemon>,
        grant: &Grant,
        peer: &Peer,
        way: Proxied,
        request: Request<Incoming>,
    ) -> Reply {
        let grant = match proxied(grant, request.headers()) {
            Ok(grant) => grant,
            Err(failure) => {
                self.audit(daemon, Some(peer), "proxy", &failure.one_line());
                return problem(&failure);
            }
        };
        let visit = || indexing::Visit::new(daemon, &self.post, peer, &grant);
        match way {
            Proxied::Registry => passing::pass(daemon, &self.post, peer, &grant, request).await,
            Proxied::Index => visit().index(request).await,
            Proxied::Merged => visit().merged(&request).await,
            Proxied::Several => visit().several(&request).await,
        }
    }

    /// Opens a socket for a build.
    async fn open(&self, daemon: &Arc<Daemon>, peer: &Peer, request: Request<Incoming>) -> Reply {
        let wanted = read_body(request.into_body()).await.and_then(|body| {
            serde_json::from_slice(&body).map_err(|error| {
                Failure::new(
                    Kind::Usage,
                    format!("the body is not a wish for a socket: {}", quoting(&error.to_string())),
                )
            })
        });
        let outcome = match wanted {
            Ok(wanted) => {
                // It writes a file, and waits for whoever else opens listeners.
                let shared = Arc::clone(daemon);
                blocking::run(move || shared.open(wanted)).await.unwrap_or_else(|fault| Err(fault.into()))
            }
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(opening) => {
                self.audit(daemon, Some(peer), "control", &format!("opened {}", opening.path.display()));
                json_reply(json!({"address": opening.path, "until": rfc3339(opening.until)}).to_string())
            }
            Err(failure) => {
                self.audit(daemon, Some(peer), "control", &failure.one_line());
                problem(&failure)
            }
        }
    }

    async fn credential(
        &self,
        daemon: &Daemon,
        grant: &Grant,
        peer: &Peer,
        ceiling: Access,
        request: Request<Incoming>,
    ) -> Reply {
        let ask = match read_ask(grant, request).await {
            Ok(ask) => ask,
            Err(failure) => {
                self.audit(daemon, Some(peer), "credential", &failure.one_line());
                return problem(&failure);
            }
        };
        let broker = daemon.broker();
        let outcome = broker.credential(&ask, ceiling).await;
        let outcome = outcome.and_then(|given| narrowed(grant, given));
        // Resolved once: the audit line of a failure is the only one that has to look again.
        let of_failure = outcome.is_err().then(|| broker.hosts().resolve(&ask.url).ok()).flatten();
        let registry = outcome.as_ref().map_or(of_failure.as_ref(), |given| given.registry.as_ref());
        self.audit_ask(daemon, peer, registry, &outcome);
        match outcome {
            Ok(given) => json_reply(given.credential.to_json()),
            Err(failure) => problem(&failure),
        }
    }

    fn refuse(&self, daemon: &Daemon, terms: &Terms, peer: Option<&Peer>) -> Reply {
        daemon.refused.fetch_add(1, Ordering::Relaxed);
        let refused = |text: String| Failure::new(Kind::Refused, text);
        let origin = terms.grant.proxy.as_ref().map(|proxy| &proxy.origin);
        let failure = match (terms.admitted.is_private(), peer.map(|peer| peer.uid), origin) {
            (true, _, _) | (_, None, _) | (_, _, None) => {
                refused("this socket serves its owner only".to_owned())
            }
            (_, Some(UNKNOWN), Some(origin)) => {
                let hint = terms.admitted.how_to_admit(origin, "\"anyone\"");
                Failure { hint, ..refused("this kernel does not know who asks".to_owned()) }
            }
            (_, Some(uid), Some(origin)) => {
                let root = "run the step as root, or name a [[listener]] with its peers in config.toml";
                let hint = terms.admitted.how_to_admit(origin, &uid.to_string());
                let hint = hint.unwrap_or_else(|| root.to_owned());
                refused(format!("uid {uid} may not use this socket")).with_hint(hint)
            }
        };
        self.audit(daemon, peer, "any", "refused: not admitted");
        problem(&failure)
    }

    fn audit(&self, daemon: &Daemon, peer: Option<&Peer>, form: &'static str, verdict: &str) {
        daemon.log.audit(&Line { form, verdict, ..self.line(daemon, peer) });
    }

    fn audit_ask(
        &self,
        daemon: &Daemon,
        peer: &Peer,
        registry: Option<&Registry>,
        outcome: &Result<Given, Failure>,
    ) {
        let line = Line {
            registry: registry.map(|registry| registry.host.as_str()),
            repository: registry.and_then(Registry::repository_name),
            access: registry.map(|registry| registry.access.word()),
            ..self.line(daemon, Some(peer))
        };
        match outcome {
            Ok(given) => daemon.log.audit(&Line {
                access: Some(given.access.word()),
                verdict: "given",
                identity: given.minted.token.identity.as_deref(),
                token: Some(given.minted.token.fingerprint.to_string()),
                ..line
            }),
            Err(failure) => daemon.log.audit(&Line { verdict: &failure.one_line(), ..line }),
        }
    }

    fn line<'a>(&'a self, daemon: &Daemon, peer: Option<&'a Peer>) -> Line<'a> {
        Line { time: rfc3339(daemon.clock.now()), ..Line::of(&self.post.name, peer) }
    }
}

/// Holds a token back that is wider than the grant.
fn narrowed(grant: &Grant, given: Given) -> Result<Given, Failure> {
    if grant.unnarrowed || given.minted.token.narrowed {
        return Ok(given);
    }
    let text = format!(
        "no token leaves this socket: {} gives only tokens that can do all that its account can",
        given.minted.source
    );
    let written = grant.proxy.as_ref().and_then(|proxy| match &proxy.origin {
        Origin::Command => Some("open it with `valetkey docker args --tokens --unnarrowed`".to_owned()),
        origin => origin.set("unnarrowed = true"),
    });
    let written = written.map(|written| format!(", or {written}")).unwrap_or_default();
    let hint = format!("sign in with `valetkey login`, use a service account{written}");
    Err(Failure::new(Kind::Refused, text).with_hint(hint))
}

/// What is said where requests are made for a peer and no token is given: not that nothing is there, as a helper would
/// be at a loss, but what to do.
fn tokenless(grant: &Grant) -> Failure {
    let more = grant.proxy.as_ref().and_then(|proxy| match &proxy.origin {
        Origin::Command => Some("on the host, open it with `valetkey docker args --tokens`".to_owned()),
        origin => origin.set("tokens = true"),
    });
    let more = more.map(|more| format!(", or {more}")).unwrap_or_default();
    let hint = format!("run the command here as `valetkey exec -- CMD`, which needs none{more}");
    Failure::new(Kind::NotFound, "this socket gives no tokens").with_hint(hint)
}

/// The route of a request under a grant.
fn find(grant: &Grant, method: &Method, path: &str) -> Option<Route> {
    if let Some(way) = find_proxied(method, path) {
        return grant.proxy.is_some().then_some(Route::Proxied(way));
    }
    let route = match (method.as_str(), path) {
        ("POST", "/v1/credential") if let Some(ceiling) = grant.credential => Route::Credential(ceiling),
        ("POST", "/v1/credential") if grant.proxy.is_some() => Route::Tokenless,
        ("GET", "/v1/grant") if grant.proxy.is_some() => Route::Grant,
        _ if !grant.control => return None,
        ("POST", "/v1/listeners") => Route::Open,
        ("GET", "/v1/status") => Route::Status,
        ("POST", "/v1/stop") => Route::Stop,
        ("POST", "/v1/reload") => Route::Reload,
        ("GET", "/metrics") => Route::Metrics,
        ("GET", "/health/live") => Route::Live,
        ("GET", "/health/ready") => Route::Ready,
        _ => return None,
    };
    Some(route)
}

fn find_proxied(method: &Method, path: &str) -> Option<Proxied> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if path.starts_with(PREFIX) {
        Some(Proxied::Registry)
    } else if path.starts_with(indexing::INDEX) {
        Some(Proxied::Index)
    } else if reads && path.starts_with(indexing::SIMPLE) {
        Some(Proxied::Merged)
    } else if reads && path.starts_with(indexing::MERGED) {
        Some(Proxied::Several)
    } else {
        None
    }
}

/// Beyond loopback a browser does not say that it is one. So no page may use what comes from here as a script of its
/// own, and what comes from here is itself a page that may do nothing.
const NOT_FOR_PAGES: [(HeaderName, &str); 3] = [
    (CONTENT_SECURITY_POLICY, "default-src 'none'; form-action 'none'; frame-ancestors 'none'"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

async fn read_ask(grant: &Grant, request: Request<Incoming>) -> Result<Ask, Failure> {
    let body = read_body(request.into_body()).await?;
    let ask = Ask::from_json(&body).map_err(|error| {
        Failure::new(
            Kind::Usage,
            format!("the body is not a question for a credential: {}", quoting(&error.to_string())),
        )
    })?;
    if grant.named_sources {
        Ok(ask)
    } else if ask.whose.source.is_some() {
        Err(for_the_owner())
    } else {
        let whose = grant.proxy.as_ref().map(|proxy| proxy.whose.clone());
        Ok(Ask { whose: whose.unwrap_or_default(), ..ask })
    }
}

/// The grant under which a request is made. Its owner may say with whose token.
fn proxied<'a>(grant: &'a Grant, headers: &HeaderMap) -> Result<Cow<'a, ProxyGrant>, Failure> {
    let proxy = grant.proxy.as_ref().ok_or_else(nothing_here)?;
    let Some(whose) = headers.get(WHOSE) else { return Ok(Cow::Borrowed(proxy)) };
    if !grant.named_sources {
        return Err(for_the_owner());
    }
    let whose: Whose = serde_json::from_slice(whose.as_bytes()).map_err(|error| {
        Failure::new(
            Kind::Usage,
            format!("{WHOSE} does not say whose token: {}", quoting(&error.to_string())),
        )
    })?;
    Ok(Cow::Owned(ProxyGrant { whose: whose.absolute(), ..proxy.clone() }))
}

fn nothing_here() -> Failure {
    Failure::new(Kind::NotFound, "there is nothing at this path")
}

fn for_the_owner() -> Failure {
    Failure::new(Kind::Refused, "a source can be named on the owner's socket only")
}

#[cfg(test)]
mod tests;
