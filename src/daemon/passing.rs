//! A request that is passed on to a registry, and its one line in the audit log: written when the answer has ended,
//! because only then is it known how much of it went to the peer, or when the peer has gone away.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::Incoming;
use hyper::{Request, Response, Uri};

use super::Daemon;
use super::audit::Line;
use super::peer::Peer;
use super::post::Post;
use crate::ask::Access;
use crate::clock::rfc3339;
use crate::error::Failure;
use crate::grant::ProxyGrant;
use crate::http::body::{Body, End, Progress};
use crate::http::server::{Reply, problem};
use crate::proxy::Passed;
use crate::registry::Registry;
use crate::secret::Fingerprint;

/// Passes a request on and its answer back.
pub(super) async fn pass(
    daemon: &Arc<Daemon>,
    post: &Arc<Post>,
    peer: &Peer,
    grant: &ProxyGrant,
    request: Request<Incoming>,
) -> Reply {
    let mut record = Record::new(daemon, &post.name, peer);
    let passed = daemon.proxy().pass(grant, request).await;
    match record.note(passed).0 {
        Ok(answer) => {
            daemon.passed.fetch_add(1, Ordering::Relaxed);
            let still = still_granted(post, peer, &record);
            answer.map(|body| body.guarded(still).at_end(move |end| record.close(end)))
        }
        Err(failure) => {
            record.verdict = failure.one_line();
            problem(&failure)
        }
    }
}

/// Whether an answer that is under way is granted even now: a reload may have withdrawn it.
pub(super) fn still_granted(
    post: &Arc<Post>,
    peer: &Peer,
    record: &Record,
) -> impl Fn() -> bool + Send + use<> {
    let (post, uid) = (Arc::clone(post), peer.uid);
    let asked = record.registry.clone().zip(record.access);
    let first = post.terms();
    move || {
        let terms = post.terms();
        let granted = || {
            let (grant, (registry, access)) = (terms.grant.proxy.as_ref()?, asked.as_ref()?);
            grant.check(registry, *access).ok()
        };
        Arc::ptr_eq(&terms, &first) || terms.admitted.admits(uid) && granted().is_some()
    }
}

/// What the line will say. Dropping it writes it.
pub(super) struct Record {
    daemon: Arc<Daemon>,
    listener: String,
    peer: Peer,
    registry: Option<Registry>,
    access: Option<Access>,
    token: Option<Fingerprint>,
    identity: Option<String>,
    uploaded: Option<Progress>,
    pub(super) status: Option<u16>,
    bytes: Option<u64>,
    pub(super) verdict: String,
}

impl Record {
    pub(super) fn new(daemon: &Arc<Daemon>, listener: &str, peer: &Peer) -> Self {
        Self {
            daemon: Arc::clone(daemon),
            listener: listener.to_owned(),
            peer: peer.clone(),
            registry: None,
            access: None,
            token: None,
            identity: None,
            uploaded: None,
            status: None,
            bytes: None,
            verdict: "the peer went away before there was an answer".to_owned(),
        }
    }

    /// Keeps what is to be told of it, and gives the answer and the address that it came from.
    pub(super) fn note(&mut self, passed: Passed) -> (Result<Response<Body>, Failure>, Option<Uri>) {
        (self.registry, self.access) = (passed.registry, Some(passed.access));
        (self.token, self.identity, self.uploaded) = (passed.token, passed.identity, passed.uploaded);
        self.status = passed.answer.as_ref().ok().map(|answer| answer.status().as_u16());
        (passed.answer, passed.answered)
    }

    /// Another place is asked, with no token.
    pub(super) fn note_public(&mut self, status: u16) {
        (self.registry, self.token, self.identity) = (None, None, None);
        self.status = Some(status);
    }

    pub(super) fn close(mut self, end: End) {
        self.bytes = Some(end.moved);
        self.verdict = (if end.whole { "passed" } else { "broken off" }).into();
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.daemon.passed_bytes.fetch_add(self.bytes.unwrap_or(0), Ordering::Relaxed);
        // An idle time begins with the end of a download.
        self.daemon.note_request();
        self.daemon.log.audit(&Line {
            time: rfc3339(self.daemon.clock.now()),
            registry: self.registry.as_ref().map(|registry| registry.host.as_str()),
            repository: self.registry.as_ref().and_then(Registry::repository_name),
            form: "proxy",
            access: self.access.map(Access::word),
            verdict: &self.verdict,
            status: self.status,
            bytes: self.bytes,
            uploaded: self.uploaded.as_ref().map(Progress::moved),
            identity: self.identity.as_deref(),
            token: self.token.map(|token| token.to_string()),
            ..Line::of(&self.listener, Some(&self.peer))
        });
    }
}
