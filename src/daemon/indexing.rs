//! The Python index at a listener: `/index/HOST/PROJECT/REPOSITORY/simple/…`, the merged `/simple/NAME/`, and `/merged/…`, which
//! merges the repositories in its path.
//!
//! Every page of a registry is fetched through the proxy and within the listener's grant, so nothing is asked for that
//! `/registry/` would not give, and each link is checked again when it is followed. Pages of the public index are
//! fetched without any token. A page passes as it comes; one that breaks breaks its connection off, because half a page
//! must never look like a whole one.

mod fetching;
mod rewritten;
mod unpacked;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use url::{Position, Url};

use super::Daemon;
use super::passing::{self, Record, still_granted};
use super::peer::Peer;
use super::post::Post;
use crate::ask::Access;
use crate::config::index::Index;
use crate::error::shown::shown;
use crate::error::{Failure, Kind};
use crate::grant::ProxyGrant;
use crate::http::body::{Body, End};
use crate::http::server::{Reply, problem, problem_with};
use crate::proxy::index::merge::{MergeFault, Merged, Place, Query};
use crate::proxy::index::negotiate::NegotiationFault;
use crate::proxy::index::{Accept, Admits, Links, Mount, ProjectName, Repository, Rewriter, Target};
use crate::proxy::target;
use crate::registry::Hosts;
use fetching::{Fetcher, address, question, text_of};
use rewritten::Rewritten;
use unpacked::unpacked;

/// Where the index of one repository is.
pub(super) const INDEX: &str = "/index/";
/// Where the index is that merges the repositories in its path.
pub(super) const MERGED: &str = "/merged/";
/// Where the merged index is.
pub(super) const SIMPLE: &str = "/simple/";

/// What the configuration says is merged.
///
/// # Errors
/// When a part of it is not what it should be.
pub(super) fn merged(written: &Index, hosts: &Hosts) -> Result<Merged, Failure> {
    let repository = |text: &String| {
        Repository::parse(text, hosts).ok_or_else(|| {
            let text = format!("[index] repositories: {:?} is no Python repository", shown(text));
            Failure::new(Kind::Configuration, text)
                .with_hint("write it as LOCATION/PROJECT/REPOSITORY or as its https URL")
        })
    };
    let root = |text: &String| {
        let slash = if text.ends_with('/') { "" } else { "/" };
        Url::parse(&format!("{text}{slash}")).map_err(|_| {
            let text = format!("[index] public: {:?} is not the URL of an index", shown(text));
            Failure::new(Kind::Configuration, text)
        })
    };
    Ok(Merged {
        repositories: written.repositories.iter().map(repository).collect::<Result<_, _>>()?,
        private: written.private.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
        public: written.public.as_ref().map(root).transpose()?,
    })
}

/// Repositories one behind the other, as they stand in a path.
fn several(places: &str) -> Option<Vec<Repository>> {
    let segments: Vec<&str> = places.split('/').collect();
    if !segments.len().is_multiple_of(3) || segments.len() > 3 * MOST_MERGED {
        return None;
    }
    let one = |place: &[&str]| match place {
        [host, project, name] => Repository::new(host, project, name),
        _ => None,
    };
    segments.chunks(3).map(one).collect()
}

/// Repositories in one path.
const MOST_MERGED: usize = 16;

/// One request, and who makes it.
pub(super) struct Visit<'a> {
    daemon: &'a Arc<Daemon>,
    post: &'a Arc<Post>,
    peer: &'a Peer,
    grant: &'a ProxyGrant,
}

impl<'a> Visit<'a> {
    pub(super) fn new(
        daemon: &'a Arc<Daemon>,
        post: &'a Arc<Post>,
        peer: &'a Peer,
        grant: &'a ProxyGrant,
    ) -> Self {
        Self { daemon, post, peer, grant }
    }

    /// Answers a request below `/index/`. What is no page, files and uploads, is the registry's.
    pub(super) async fn index(self, request: Request<Incoming>) -> Reply {
        let below = request.uri().path().strip_prefix(INDEX).unwrap_or_default();
        let wanted = match Target::parse(below) {
            Some(wanted) if is_plain(&request) => wanted,
            _ => return problem(&nowhere()),
        };
        let (repository, url) = match wanted {
            Target::Names(repository) if is_read(&request) => {
                let names = repository.simple().clone();
                (repository, names)
            }
            Target::Page(repository, name) if is_read(&request) => {
                let page = repository.page(&name);
                (repository, page)
            }
            _ => return self.registry(request).await,
        };
        let mut record = self.record();
        match self.page(&mut record, &repository, &url, &request).await {
            Ok(Ok((reply, rewriter))) => self.send(record, reply, Some(rewriter), is_head(&request)),
            Ok(Err(refusal)) => self.send(record, refusal, None, is_head(&request)),
            Err((failure, status)) => fail(record, &failure, status),
        }
    }

    /// As if it had been asked for below `/registry/`.
    async fn registry(self, request: Request<Incoming>) -> Reply {
        let (mut head, body) = request.into_parts();
        let target = head.uri.path_and_query().map_or("", |path| path.as_str());
        let target = format!("{}{}", target::PREFIX, target.strip_prefix(INDEX).unwrap_or_default());
        let Ok(uri) = target.parse() else { return problem(&nowhere()) };
        head.uri = uri;
        passing::pass(self.daemon, self.post, self.peer, self.grant, Request::from_parts(head, body)).await
    }

    /// A page of a repository, to be rewritten; or what the registry says in its place, which passes.
    async fn page(
        &self,
        record: &mut Record,
        repository: &Repository,
        url: &Url,
        request: &Request<Incoming>,
    ) -> Result<Result<(Reply, Rewriter), Reply>, (Failure, u16)> {
        let accept = accepted(request).map_err(negotiation)?;
        let passed =
            self.daemon.proxy().pass(self.grant, question(url, &accept.header()).map_err(own)?).await;
        let (answer, answered) = record.note(passed);
        let answer = answer.map_err(own)?;
        let status = answer.status();
        if status.is_client_error() || status.is_server_error() {
            return Ok(Err(answer));
        }
        if status != StatusCode::OK {
            let text = format!("{repository} answered with the status {} for a page", status.as_u16());
            return Err(own(Failure::new(Kind::Upstream, text)));
        }
        let (head, body) = answer.into_parts();
        let body = unpacked(&head.headers, body).await.map_err(own)?;
        let mut answer = Response::from_parts(head, body);
        let (format, content_type) =
            accept.admit(text_of(answer.headers(), &header::CONTENT_TYPE)).map_err(negotiation)?;
        let answered = address(answered.as_ref(), url).map_err(own)?;
        if answered.as_str().starts_with(repository.simple().as_str()) {
            self.daemon.known(&self.grant.whose).remember(repository);
        }
        let mount = Mount::relative(request.uri().path());
        let links = Links::of_registry(&answered, mount, self.admits());
        let headers = answer.headers_mut();
        for name in OF_OTHER_BYTES {
            headers.remove(name);
        }
        headers.insert(header::CONTENT_TYPE, value(&content_type));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        Ok(Ok((answer, Rewriter::new(format, links))))
    }

    /// Answers a request below `/simple/`.
    pub(super) async fn merged(self, request: &Request<Incoming>) -> Reply {
        let path = request.uri().path();
        let name = path.strip_prefix(SIMPLE).unwrap_or_default();
        // pipenv puts a slash behind the address of an index, which has one.
        let name = name.strip_prefix('/').unwrap_or(name);
        let name = name.strip_suffix('/').unwrap_or(name);
        let Some(merged) = self.daemon.merged() else {
            return problem(&nowhere().with_hint("the merged index is configured as [index] in config.toml"));
        };
        self.find(&merged, name, request).await
    }

    /// Answers a request below `/merged/`: `HOST/PROJECT/REPOSITORY/`, once or several times, `simple/NAME/`. The
    /// repositories are asked in that order, and no other place.
    pub(super) async fn several(self, request: &Request<Incoming>) -> Reply {
        let below = request.uri().path().strip_prefix(MERGED).unwrap_or_default();
        let below = below.strip_suffix('/').unwrap_or(below);
        let Some((repositories, name)) =
            below.rsplit_once("/simple/").and_then(|(places, name)| Some((several(places)?, name)))
        else {
            return problem(&nowhere());
        };
        self.find(&Merged { repositories, ..Merged::default() }, name, request).await
    }

    async fn find(self, merged: &Merged, name: &str, request: &Request<Incoming>) -> Reply {
        let path = request.uri().path();
        let Ok(name) = name.parse::<ProjectName>() else {
            let text = "the merged index has pages of projects only, and no list of them";
            return problem(&Failure::new(Kind::NotFound, text));
        };
        if !is_plain(request) {
            return problem(&nowhere());
        }
        let accept = match accepted(request) {
            Ok(accept) => accept,
            Err(fault) => {
                let (failure, status) = negotiation(fault);
                return fail(self.record(), &failure, status);
            }
        };
        let fetcher = Fetcher {
            proxy: self.daemon.proxy(),
            grant: self.grant,
            broker: self.daemon.broker(),
            record: Mutex::new(self.record()),
        };
        let query = Query { name: &name, accept: &accept, mount: Mount::relative(path) };
        let found = merged.find(&fetcher, &self.daemon.known(&self.grant.whose), &self.admits(), query).await;
        let record = fetcher.record.into_inner().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(found) => {
                let mut reply = Response::new(found.body);
                let headers = reply.headers_mut();
                headers.insert(header::CONTENT_TYPE, value(&found.content_type));
                headers.insert(header::VARY, HeaderValue::from_static("accept"));
                // The next time another place may have it.
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                let rewriter = Rewriter::new(found.format, found.links);
                match found.place {
                    Place::Repository(_) => self.send(record, reply, Some(rewriter), is_head(request)),
                    Place::Public(_) => self.send_public(record, reply, rewriter, is_head(request)),
                }
            }
            Err(fault) => {
                let status = match &fault {
                    MergeFault::Form { source: NegotiationFault::NotAcceptable, .. } => {
                        NegotiationFault::STATUS
                    }
                    _ => crate::error::Fault::kind(&fault).status(),
                };
                fail(record, &fault.into(), status)
            }
        }
    }

    /// Sends a registry's page, for as long as it is granted.
    fn send(&self, record: Record, reply: Reply, rewriter: Option<Rewriter>, is_head: bool) -> Reply {
        let still = still_granted(self.post, self.peer, &record);
        let rewritten = reply.map(|body| match rewriter {
            Some(rewriter) => Body::stream(Rewritten { body, rewriter: Some(rewriter) }),
            None => body,
        });
        self.close(record, rewritten.map(|body| body.guarded(still)), is_head)
    }

    fn send_public(&self, record: Record, reply: Reply, rewriter: Rewriter, is_head: bool) -> Reply {
        let rewritten = |body| Body::stream(Rewritten { body, rewriter: Some(rewriter) });
        self.close(record, reply.map(rewritten), is_head)
    }

    fn close(&self, record: Record, reply: Reply, is_head: bool) -> Reply {
        self.daemon.passed.fetch_add(1, Ordering::Relaxed);
        if is_head {
            record.close(End { moved: 0, whole: true });
            return reply.map(|_| Body::empty());
        }
        reply.map(|body| body.at_end(move |end| record.close(end)))
    }

    /// Links to other registries come back through us where they are granted.
    fn admits(&self) -> Admits {
        let (grant, hosts) = (self.grant.clone(), self.daemon.broker().hosts().clone());
        Arc::new(move |url| {
            let below = format!("{}{}", target::PREFIX, &url[Position::BeforeHost..Position::AfterQuery]);
            let target = target::Target::parse(&below, &hosts);
            target.is_ok_and(|target| grant.check(&target.registry, Access::Read).is_ok())
        })
    }

    fn record(&self) -> Record {
        Record::new(self.daemon, &self.post.name, self.peer)
    }
}

fn accepted(request: &Request<Incoming>) -> Result<Accept, NegotiationFault> {
    let values = request.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let accept = values.collect::<Vec<_>>().join(", ");
    Accept::parse(Some(&accept))
}

fn negotiation(fault: NegotiationFault) -> (Failure, u16) {
    let status = (fault == NegotiationFault::NotAcceptable).then_some(NegotiationFault::STATUS);
    let failure = Failure::from(fault);
    let status = status.unwrap_or(failure.kind.status());
    (failure, status)
}

fn own(failure: Failure) -> (Failure, u16) {
    let status = failure.kind.status();
    (failure, status)
}

fn fail(mut record: Record, failure: &Failure, status: u16) -> Reply {
    record.verdict = failure.one_line();
    problem_with(failure, status)
}

/// A page is asked for without a body, by its path alone.
fn is_plain(request: &Request<Incoming>) -> bool {
    request.uri().authority().is_none() && (request.body().is_end_stream() || !is_read(request))
}

fn is_read(request: &Request<Incoming>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

fn is_head(request: &Request<Incoming>) -> bool {
    request.method() == Method::HEAD
}

fn value(content_type: &str) -> HeaderValue {
    HeaderValue::from_str(content_type).unwrap_or(HeaderValue::from_static("text/html"))
}

fn nowhere() -> Failure {
    Failure::new(Kind::NotFound, "there is nothing at this path")
}

/// They speak of the bytes that the registry sent.
const OF_OTHER_BYTES: [&str; 10] = [
    "accept-ranges",
    "content-digest",
    "content-encoding",
    "content-length",
    "content-md5",
    "digest",
    "etag",
    "last-modified",
    "repr-digest",
    "x-goog-hash",
];
