//! What the daemon says of itself: its state to whoever controls it, and to every peer what it may do here.

use std::sync::Arc;

use serde_json::json;

use crate::ask::Access;
use crate::broker::choice::Candidate;
use crate::clock::rfc3339;
use crate::daemon::post::Post;
use crate::daemon::{Daemon, Reloaded};
use crate::error::Failure;
use crate::error::shown::shown;
use crate::grant::Grant;

/// The body of `GET /v1/grant`: what a peer may do here, for the one who wires a command.
pub(in crate::daemon) fn describe(daemon: &Daemon, grant: &Grant) -> serde_json::Value {
    let hosts = daemon.broker().hosts().clone();
    let proxy = grant.proxy.as_ref().map(|proxy| {
        let listed =
            proxy.repositories.listed().map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
        json!({"access": proxy.access.word(), "hosts": proxy.hosts(&hosts), "repositories": listed})
    });
    // For whoever is granted nothing, and can ask for nothing that would be refused with a reason.
    let remedy = grant.proxy.as_ref().and_then(|proxy| proxy.origin.list("LOCATION/PROJECT/REPOSITORY", &[]));
    json!({"version": env!("CARGO_PKG_VERSION"), "proxy": proxy, "remedy": remedy, "credential": grant.credential.map(Access::word), "index": daemon.merged().is_some() && grant.proxy.is_some()})
}

/// The body of `GET /v1/status`. Its shape is documented in README.md and stable; it never holds a secret.
pub(in crate::daemon) fn status(daemon: &Daemon) -> serde_json::Value {
    let broker = daemon.broker();
    let upstream = broker.cache().upstream();
    let world = &upstream.world;
    let sources: Vec<_> = upstream.candidates(None).iter().map(Candidate::describe).collect();
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
    let listener = |post: &Arc<Post>| {
        let terms = post.terms();
        let proxy = terms.grant.proxy.as_ref();
        let listed = proxy.and_then(|proxy| proxy.repositories.listed());
        let named = proxy.and_then(|proxy| proxy.whose.source.as_ref());
        let source =
            named.and_then(|named| upstream.candidates(Some(named)).first().map(Candidate::describe));
        json!({
            "address": post.name,
            "carrier": post.carrier.word(),
            "grants": terms.grant.forms(),
            "repositories": listed.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>()),
            "peers": terms.admitted.to_string(),
            "source": source,
            "until": post.until().map(rfc3339),
        })
    };
    let listeners: Vec<_> = daemon.posts().iter().map(listener).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": 1,
        "daemon": {
            "pid": std::process::id(),
            "started": rfc3339(daemon.started),
            "started_by": daemon.started_by.word(),
            "idle_end_seconds": daemon.idle.map(|idle| idle.as_secs()),
            "gcloud_directory": upstream.gcloud,
            "state_directory": upstream.state,
            "proxy": world.http.proxy_for(world.endpoints.token()),
            "certificates": world.environment.text("SSL_CERT_FILE").map(shown),
        },
        "sources": sources,
        "tokens": tokens,
        "listeners": listeners,
    })
}

/// The body of the answer to `POST /v1/reload`.
pub(in crate::daemon) fn reloaded(reloaded: &Reloaded) -> serde_json::Value {
    let closed = |failure: &Failure| json!({"detail": failure.message, "causes": failure.causes, "hint": failure.hint});
    json!({
        "reloaded": true,
        "not_opened": reloaded.closed.iter().map(closed).collect::<Vec<_>>(),
        "next_start": reloaded.next_start,
    })
}
