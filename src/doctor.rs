//! Tries every step for real and names the one that fails: configuration, socket, daemon, sources, network, clock,
//! the `keyring` on PATH, every client that is there, and, where a URL is given, a request with the credential.
//!
//! Each finding says what was seen and, where something is wrong, the one thing to do. No finding holds any part
//! of a secret.

mod clients;
mod logins;

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use hyper::header::DATE;

use crate::ask::{Access, Ask, Credential};
use crate::broker::choice::nothing_found;
use crate::broker::rejected;
use crate::client::locate::Carrier;
use crate::client::request::{Silence, call, call_own};
use crate::client::{Client, fallback};
use crate::clock::{Clock, between};
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::google::source::{Request, SourceFault};
use crate::paths::check_private;
use crate::registry::Hosts;

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Fine,
    /// Works, and may surprise.
    Note,
    Wrong,
}

/// One step.
#[derive(Debug, Clone)]
pub struct Finding {
    pub level: Level,
    /// One word: `daemon`, `source`, …
    pub step: &'static str,
    pub text: String,
    pub hint: Option<String>,
}

impl Finding {
    fn fine(step: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Fine, step, text: text.into(), hint: None }
    }

    fn note(step: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { level: Level::Note, step, text: text.into(), hint: Some(hint.into()) }
    }

    fn wrong(step: &'static str, failure: &Failure) -> Self {
        Self { level: Level::Wrong, step, text: failure.sentence(), hint: failure.hint.clone() }
    }
}

/// Tries everything, and tells each finding as soon as it is made.
///
/// # Errors
/// When not even a runtime can be had.
pub fn examine(client: &Client, url: Option<&str>, tell: &mut dyn FnMut(Finding)) -> Result<(), Failure> {
    tell(configuration(client));
    for finding in socket_and_daemon(client) {
        tell(finding);
    }
    let runtime = fallback::runtime()?;
    runtime.block_on(logins::examine(client, tell));
    runtime.block_on(sources(client, tell));
    runtime.block_on(network(client, tell));
    runtime.block_on(clients::examine(client, tell));
    if let Some(url) = url {
        // Asked for outside of the runtime: it may need one of its own.
        let hosts = Hosts::new(&client.config.registries);
        let outcome = hosts.resolve(url).map_err(rejected).and_then(|registry| {
            if registry.access == Access::Write {
                // The same to a registry, and the usual slip of whoever installs.
                let text = "this is the URL that packages are uploaded to, and no index";
                tell(Finding::note("request", text, "to install from it, put simple/ behind it"));
            }
            let credential = client.credential(Ask::new(url))?.credential;
            runtime.block_on(request(client, url, &registry.host, &credential))
        });
        tell(outcome.unwrap_or_else(|failure| Finding::wrong("request", &failure)));
    }
    runtime.shutdown_background();
    Ok(())
}

fn configuration(client: &Client) -> Finding {
    let files: Vec<_> = client.config.files.iter().map(|file| shown_path(file)).collect();
    let files =
        if files.is_empty() { "no configuration file, defaults".to_owned() } else { files.join(", ") };
    let hosts: Vec<_> = client.config.registries.iter().map(|registry| registry.host.as_str()).collect();
    let hosts =
        if hosts.is_empty() { String::new() } else { format!("; further registries: {}", hosts.join(", ")) };
    Finding::fine("config", format!("valetkey {}, {files}{hosts}", env!("CARGO_PKG_VERSION")))
}

fn socket_and_daemon(client: &Client) -> Vec<Finding> {
    let soon = Instant::now() + Duration::from_secs(2);
    let (path, reply) = match client.locate() {
        Err(failure) => return vec![Finding::wrong("socket", &failure)],
        Ok((Carrier::Found { path, by }, _)) => {
            let reply = call(&path, "GET", "/health/live", soon);
            return vec![match reply {
                // A listener without control answers 404 there, and lives.
                Ok(_) => Finding::fine("daemon", format!("answers at {} ({by})", shown_path(&path))),
                Err(silence) => Finding::wrong("daemon", &silence.at(&path, by)),
            }];
        }
        Ok((Carrier::Agent(path), _)) => {
            let text = format!("answers through the SSH agent at {}", shown_path(&path));
            return vec![Finding::fine("daemon", text)];
        }
        Ok((Carrier::Owner(path), _)) => {
            let reply = call_own(&path, "GET", "/health/live", soon);
            (path, reply)
        }
    };
    let directory = match check_private(&client.paths.runtime) {
        Ok(_) => Finding::fine("socket", shown_path(&path)),
        Err(fault) => Finding::wrong("socket", &fault.into()),
    };
    let daemon = match reply {
        Ok(reply) => {
            let version = reply.version.unwrap_or_default();
            Finding::fine("daemon", format!("version {version} answers"))
        }
        Err(Silence::Unreachable(_)) => Finding::fine(
            "daemon",
            "not running; it starts when a helper needs it and the identity is a sign-in",
        ),
        Err(silence) => Finding::wrong("daemon", &silence.at(&path, "the socket of this user")),
    };
    vec![directory, daemon]
}

/// Asks each source in turn, as the broker would, and says why each earlier one was not taken.
async fn sources(client: &Client, tell: &mut dyn FnMut(Finding)) {
    let named = match client.locate() {
        Ok((Carrier::Found { .. } | Carrier::Agent(_), _)) => {
            return tell(Finding::fine(
                "source",
                "decided by that daemon; the request below shows whether it works",
            ));
        }
        Ok((Carrier::Owner(path), named)) => named.or_else(|| {
            let left = client.left_behind()?;
            let soon = Instant::now() + Duration::from_secs(2);
            tell(if call_own(&path, "GET", "/health/live", soon).is_ok() {
                Finding::fine("source", "the daemon has been given the identity that follows")
            } else {
                let text = "a daemon that was killed had been given the identity that follows";
                Finding::note(
                    "source",
                    text,
                    "start one again with its identity, or start and stop one to forget it",
                )
            });
            Some(left)
        }),
        Err(_) => return,
    };
    let sources = fallback::sources(&client.config, &client.environment, &client.paths, named);
    for candidate in sources.candidates(None) {
        let until = tokio::time::Instant::now() + Ask::LONGEST;
        let request = Request::new(Access::Read, until);
        match sources.try_candidate(&candidate, request).await {
            Ok(minted) => {
                let identity =
                    minted.token.identity.as_deref().unwrap_or("an identity that it does not tell");
                let left = between(Clock::system().now(), minted.token.expires).as_secs() / 60;
                let text = format!("{} gives a token for {identity}, good for {left} min", minted.source);
                return tell(Finding::fine("source", text));
            }
            Err(SourceFault::Absent(reason)) => tell(Finding::fine("source", format!("not taken: {reason}"))),
            Err(fault) if sources.passes_over(&candidate, None) => {
                tell(Finding::fine("source", format!("not taken: {fault}")));
            }
            Err(fault) => return tell(Finding::wrong("source", &fault.into())),
        }
    }
    let failure = nothing_found(sources.default.as_ref(), Vec::new());
    tell(Finding::wrong("source", &failure));
}

/// Reaches Google's token endpoint without saying anything, and compares clocks.
async fn network(client: &Client, tell: &mut dyn FnMut(Finding)) {
    let world = fallback::sources(&client.config, &client.environment, &client.paths, None).world;
    let url = world.endpoints.token();
    let until = tokio::time::Instant::now() + Duration::from_secs(6);
    let way =
        world.http.proxy_for(url).map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
    let answer = match world.http.request(Method::GET, url, &[], until).await {
        Ok(answer) => answer,
        Err(fault) => return tell(Finding::wrong("network", &fault.into())),
    };
    tell(Finding::fine("network", format!("{url} answers over TLS{way}")));
    let theirs = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
    let Some(theirs) = theirs.and_then(|date| chrono::DateTime::parse_from_rfc2822(date).ok()) else {
        return;
    };
    let (theirs, ours) = (theirs.into(), Clock::system().now());
    let apart = between(theirs, ours).max(between(ours, theirs));
    tell(if apart > Duration::from_secs(60) {
        let text = format!("this machine's clock is {} s away from Google's", apart.as_secs());
        let failure = Failure::new(Kind::Local, text);
        Finding::wrong(
            "clock",
            &failure.with_hint("set the clock: Google refuses signatures from another time"),
        )
    } else {
        Finding::fine("clock", "agrees with Google's")
    });
}

/// Asks the registry as pip would.
async fn request(
    client: &Client,
    url: &str,
    host: &str,
    credential: &Credential,
) -> Result<Finding, Failure> {
    let full = if url.contains("://") { url.to_owned() } else { format!("https://{url}/") };
    let mut parsed = url::Url::parse(&full)
        .map_err(|error| Failure::new(Kind::Usage, "this URL cannot be asked").with_cause(error))?;
    // The user name of the URL is for pip; the request carries its own.
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    let pair = format!("{}:{}", credential.username, credential.password.expose());
    let basic = zeroize::Zeroizing::new(format!("Basic {}", STANDARD.encode(zeroize::Zeroizing::new(pair))));
    let http = fallback::sources(&client.config, &client.environment, &client.paths, None).world.http;
    let until = tokio::time::Instant::now() + Ask::LONGEST;
    let answer = http.request(Method::GET, parsed.as_str(), &[("authorization", &basic)], until).await?;
    let status = answer.status.as_u16();
    let seen = format!("{host} answers {status}");
    Ok(match status {
        200..=399 => Finding::fine("request", format!("{seen}: the credential is accepted")),
        404 => Finding::note(
            "request",
            format!("{seen}: the credential is accepted, and there is nothing at this path"),
            "an index has no page of its own; name a package behind it to see one",
        ),
        401 => Finding::wrong(
            "request",
            &Failure::new(Kind::Upstream, format!("{seen}: the token is not accepted"))
                .with_hint("the identity above may be of another organisation, or its token was revoked"),
        ),
        403 => Finding::wrong(
            "request",
            &Failure::new(
                Kind::Upstream,
                format!("{seen}: the identity above may not read there, or there is no such repository"),
            )
            .with_hint("ask for the role roles/artifactregistry.reader on the repository"),
        ),
        _ => {
            Finding::wrong("request", &Failure::new(Kind::Upstream, seen).with_hint("try again in a moment"))
        }
    })
}
