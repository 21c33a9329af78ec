//! How the index asks: pages of registries through the proxy, pages of the public index without any token, and
//! Google's API about repositories that a page does not tell of.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, Uri};
use tokio::time::Instant;
use url::{Position, Url};

use super::super::passing::Record;
use super::unpacked::unpacked;
use crate::ask::Access;
use crate::broker::Broker;
use crate::broker::choice::Sources;
use crate::error::{Failure, Kind};
use crate::google::artifact_registry::{RepositoryName, has_python_repository};
use crate::grant::ProxyGrant;
use crate::http::body::Body;
use crate::proxy::index::Repository;
use crate::proxy::index::merge::{Answer, Fetch};
use crate::proxy::{Proxy, redirect, target};
use crate::registry::request::location;

/// Fetches what the merged index asks for.
pub(super) struct Fetcher<'a> {
    pub(super) proxy: Proxy,
    pub(super) grant: &'a ProxyGrant,
    pub(super) broker: Arc<Broker<Sources>>,
    pub(super) record: Mutex<Record>,
}

impl Fetch for Fetcher<'_> {
    type Body = Body;

    async fn page(&self, _: &Repository, page: &Url, accept: &str) -> Result<Answer<Body>, Failure> {
        let passed = self.proxy.pass(self.grant, question(page, accept)?).await;
        let (answer, answered) = self.record().note(passed);
        answered_by(answer?, address(answered.as_ref(), page)?).await
    }

    async fn public_page(&self, page: &Url, accept: &str) -> Result<Answer<Body>, Failure> {
        let http = &self.broker.cache().upstream().world.http;
        let mut url = page.clone();
        for _ in 0..=redirect::MOST {
            let uri = url.as_str().parse().map_err(|_| unsendable())?;
            let answer = http.stream(get(uri, accept)?, None).await?;
            self.record().note_public(answer.status().as_u16());
            let location =
                answer.headers().get(header::LOCATION).filter(|_| answer.status().is_redirection());
            let next = location.and_then(|location| url.join(location.to_str().ok()?).ok());
            match next.filter(|next| next.origin() == url.origin() && next.username().is_empty()) {
                Some(next) => url = next,
                None => return answered_by(answer.map(Body::stream), url).await,
            }
            url.set_fragment(None);
            answer.into_body().drain().await;
        }
        let host = url.host_str().unwrap_or_default();
        Err(Failure::new(Kind::Upstream, format!("{host} redirects without an end")))
    }

    /// The API knows repositories by their place, which only the names of Google's own hosts tell.
    async fn confirms(&self, repository: &Repository) -> Result<Option<bool>, Failure> {
        let (host, path) = repository.place().split_once('/').unwrap_or_default();
        let registry = self.broker.hosts().locate(host, &format!("/{path}")).ok();
        let name = location(host).and_then(|place| {
            let (project, name) = registry.as_ref()?.repository.as_ref()?;
            RepositoryName::new(project, place, name)
        });
        let Some((registry, name)) = registry.zip(name) else { return Ok(None) };
        self.grant.check(&registry, Access::Read)?;
        let until = Instant::now() + API_TIME;
        let token = self.broker.token(&self.grant.whose, &registry, Access::Read, None).await?;
        let exists =
            has_python_repository(&self.broker.cache().upstream().world, &token, &name, until).await?;
        tracing::debug!(%name, ?exists, "asked Google's API");
        Ok(exists)
    }
}

impl Fetcher<'_> {
    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The question for a page, as the proxy takes it.
pub(super) fn question(page: &Url, accept: &str) -> Result<Request<Body>, Failure> {
    let path = format!("{}{}", target::PREFIX, &page[Position::BeforeHost..Position::AfterPath]);
    get(path.parse().map_err(|_| unsendable())?, accept)
}

/// Without conditions: what is unchanged there is not what we gave. Without compression: a page is read as it passes. Who
/// compresses it all the same is put up with.
fn get(uri: Uri, accept: &str) -> Result<Request<Body>, Failure> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_str(accept).map_err(|_| unsendable())?);
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("valetkey/", env!("CARGO_PKG_VERSION"))),
    );
    Ok(request)
}

async fn answered_by(answer: Response<Body>, url: Url) -> Result<Answer<Body>, Failure> {
    let status = answer.status().as_u16();
    let content_type = text_of(answer.headers(), &header::CONTENT_TYPE).map(str::to_owned);
    let (head, body) = answer.into_parts();
    let body = if status == 200 { unpacked(&head.headers, body).await? } else { body };
    Ok(Answer { status, url, content_type, body })
}

/// The address that answered. One that was not even asked cannot have.
pub(super) fn address(answered: Option<&Uri>, page: &Url) -> Result<Url, Failure> {
    let address = answered.map_or(Ok(page.clone()), |uri| Url::parse(&uri.to_string()));
    address.map_err(|_| Failure::new(Kind::Upstream, "the page has an address that is no URL"))
}

pub(super) fn text_of<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn unsendable() -> Failure {
    Failure::new(Kind::Local, "the request cannot be sent on")
}

/// For an answer of Google's API: a little less than the merged index waits for it.
const API_TIME: Duration = Duration::from_secs(4);
