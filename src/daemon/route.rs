//! From a request to an answer. Each listener compiles its routes from its grant: a path that is not granted has
//! no route, and answers like one that does not exist.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode};
use serde_json::json;

use super::audit::Line;
use super::peer::Peer;
use super::{Daemon, metrics, passing};
use crate::ask::{Access, Ask};
use crate::broker::Given;
use crate::broker::choice::Candidate;
use crate::clock::rfc3339;
use crate::error::{Failure, Kind};
use crate::grant::Grant;
use crate::http::headers::{METRICS, PROTOCOL, STARTED_BY, VERSION};
use crate::http::server::{Reply, json_reply, problem, read_body, reply};
use crate::proxy::target::PREFIX;
use crate::registry::Registry;

/// What one listener answers.
#[derive(Debug, Clone)]
pub struct Routes {
    grant: Grant,
    /// The listener's name in the audit line.
    name: String,
}

/// The requests there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Credential(Access),
    Status,
    Stop,
    Reload,
    Metrics,
    Live,
    Ready,
    Registry,
}

impl Routes {
    #[must_use]
    pub fn compile(name: String, grant: Grant) -> Self {
        Self { grant, name }
    }

    fn find(&self, method: &Method, path: &str) -> Option<Route> {
        if path.starts_with(PREFIX) {
            return self.grant.proxy.is_some().then_some(Route::Registry);
        }
        let route = match (method.as_str(), path) {
            ("POST", "/v1/credential") => Route::Credential(self.grant.credential?),
            _ if !self.grant.control => return None,
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

    /// Answers one request.
    pub async fn answer(
        &self,
        daemon: &Arc<Daemon>,
        peer: Option<&Peer>,
        request: Request<Incoming>,
    ) -> Reply {
        let mut reply = match peer {
            Some(peer) if peer.is_owner() => {
                daemon.note_request();
                self.dispatch(daemon, peer, request).await
            }
            _ => self.refuse(daemon, peer),
        };
        let headers = reply.headers_mut();
        headers.insert(VERSION, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
        headers.insert(PROTOCOL, HeaderValue::from_static("1"));
        headers.insert(STARTED_BY, HeaderValue::from_static(daemon.started_by.word()));
        reply
    }

    async fn dispatch(&self, daemon: &Arc<Daemon>, peer: &Peer, request: Request<Incoming>) -> Reply {
        match self.find(request.method(), request.uri().path()) {
            Some(Route::Credential(ceiling)) => self.credential(daemon, peer, ceiling, request).await,
            Some(Route::Status) => json_reply(status(daemon).to_string()),
            Some(Route::Stop) => {
                self.audit(daemon, Some(peer), "control", "stop");
                daemon.stop();
                json_reply(json!({"stopping": true}).to_string())
            }
            Some(Route::Reload) => {
                let again = Arc::clone(daemon);
                let outcome = tokio::task::spawn_blocking(move || again.reload()).await;
                let verdict = if matches!(outcome, Ok(Ok(()))) { "reload" } else { "reload failed" };
                self.audit(daemon, Some(peer), "control", verdict);
                match outcome {
                    Ok(Ok(())) => json_reply(json!({"reloaded": true}).to_string()),
                    Ok(Err(failure)) => problem(&failure),
                    Err(_) => problem(&Failure::new(Kind::Local, "the configuration could not be read")),
                }
            }
            Some(Route::Metrics) => reply(StatusCode::OK, METRICS, metrics::render(daemon)),
            Some(Route::Live) => json_reply(json!({"live": true}).to_string()),
            Some(Route::Ready) if daemon.is_ready() => json_reply(json!({"ready": true}).to_string()),
            Some(Route::Ready) => {
                reply(StatusCode::SERVICE_UNAVAILABLE, "application/json", r#"{"ready":false}"#)
            }
            Some(Route::Registry) if let Some(grant) = &self.grant.proxy => {
                passing::pass(daemon, &self.name, peer, grant, request).await
            }
            Some(Route::Registry) | None => {
                problem(&Failure::new(Kind::NotFound, "there is nothing at this path"))
            }
        }
    }

    async fn credential(
        &self,
        daemon: &Daemon,
        peer: &Peer,
        ceiling: Access,
        request: Request<Incoming>,
    ) -> Reply {
        let ask = match self.read_ask(request).await {
            Ok(ask) => ask,
            Err(failure) => {
                self.audit(daemon, Some(peer), "credential", &failure.one_line());
                return problem(&failure);
            }
        };
        let broker = daemon.broker();
        let outcome = broker.credential(&ask, ceiling).await;
        // Resolved once: the audit line of a failure is the only one that has to look again.
        let of_failure = outcome.is_err().then(|| broker.hosts().resolve(&ask.url).ok()).flatten();
        let registry = outcome.as_ref().map_or(of_failure.as_ref(), |given| given.registry.as_ref());
        self.audit_ask(daemon, peer, registry, &outcome);
        match outcome {
            Ok(given) => json_reply(given.credential.to_json()),
            Err(failure) => problem(&failure),
        }
    }

    async fn read_ask(&self, request: Request<Incoming>) -> Result<Ask, Failure> {
        let body = read_body(request.into_body()).await?;
        let ask = Ask::from_json(&body).map_err(|error| {
            Failure::new(Kind::Usage, format!("the body is not a question for a credential: {error}"))
        })?;
        if self.grant.named_sources {
            Ok(ask)
        } else if ask.source.is_some() {
            Err(Failure::new(Kind::Refused, "a source can be named on the owner's socket only"))
        } else {
            Ok(Ask { directory: None, ..ask })
        }
    }

    fn refuse(&self, daemon: &Daemon, peer: Option<&Peer>) -> Reply {
        daemon.refused.fetch_add(1, Ordering::Relaxed);
        self.audit(daemon, peer, "any", "refused: not the owner");
        problem(&Failure::new(Kind::Refused, "this socket serves its owner only"))
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
        Line { time: rfc3339(daemon.clock.now()), ..Line::of(&self.name, peer) }
    }
}

/// The body of `GET /v1/status`. Its shape is documented in README.md and stable; it never holds a secret.
fn status(daemon: &Daemon) -> serde_json::Value {
    let broker = daemon.broker();
    let world = &broker.cache().upstream().world;
    let sources: Vec<_> =
        broker.cache().upstream().candidates(None).iter().map(Candidate::describe).collect();
    let tokens: Vec<_> = broker
        .cache()
        .held()
        .iter()
        .map(|(access, minted)| {
            json!({
                "identity": minted.token.identity,
                "source": minted.source,
                "passed_over": minted.passed_over,
                "access": access.word(),
                "expires": rfc3339(minted.token.expires),
                "fingerprint": minted.token.fingerprint.to_string(),
            })
        })
        .collect();
    let listeners: Vec<_> = daemon
        .listeners
        .iter()
        .map(|(path, grant)| {
            json!({"address": path, "carrier": "unix", "grants": grant.forms(), "peers": "owner"})
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": 1,
        "daemon": {
            "pid": std::process::id(),
            "started": rfc3339(daemon.started),
            "started_by": daemon.started_by.word(),
            "idle_end_seconds": daemon.idle.map(|idle| idle.as_secs()),
            "gcloud_directory": broker.cache().upstream().gcloud,
            "proxy": world.http.proxy_for(world.endpoints.token()),
            "certificates": world.environment.text("SSL_CERT_FILE"),
        },
        "sources": sources,
        "tokens": tokens,
        "listeners": listeners,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_granted_has_no_route() {
        let reader =
            Grant { credential: Some(Access::Read), proxy: None, named_sources: false, control: false };
        let routes = Routes::compile("test".into(), reader);
        assert_eq!(routes.find(&Method::POST, "/v1/credential"), Some(Route::Credential(Access::Read)));
        for (method, path) in [
            (Method::GET, "/v1/status"),
            (Method::POST, "/v1/stop"),
            (Method::POST, "/v1/reload"),
            (Method::GET, "/metrics"),
            (Method::GET, "/v1/credential"),
            (Method::POST, "/v1/credential/"),
            (Method::POST, "//v1/credential"),
            (Method::GET, "/registry/us-python.pkg.dev/acme/private/"),
        ] {
            assert_eq!(routes.find(&method, path), None, "{method} {path}");
        }
        let owner = Routes::compile("test".into(), Grant::owner());
        assert_eq!(owner.find(&Method::POST, "/v1/stop"), Some(Route::Stop));
        assert_eq!(owner.find(&Method::GET, "/v1/stop"), None);
        assert_eq!(owner.find(&Method::GET, "/registry/x"), Some(Route::Registry));
        assert_eq!(owner.find(&Method::GET, "/registryx"), None);
    }
}
