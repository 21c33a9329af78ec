//! Authenticated pass-through: a request for `/registry/HOST/PATH` is made at `https://HOST/PATH` with the token that
//! its sender never sees, and the answer comes back as it is.
//!
//! It guarantees that a token goes only to the registry that was checked, over TLS, and that a request stays within its
//! grant: repository and method are decided before anything is sent, and again wherever an answer sends it on, and what
//! is sent is what was checked. It never decodes, caches or rewrites a body, and never holds more of one than a buffer.
//! Of an answer's headers, `Location` alone is written anew, so that the next step of an upload comes back through us.
//!
//! Status codes pass, but for one: a 401 says that *our* token was refused, which nobody behind us can mend, and pip
//! would ask a person for a password. It renews the token once; if that is refused as well, the answer is a problem
//! document with status 502, as it is where we send none. A 403 is the registry's word on what the identity may do, and passes.

pub mod headers;
pub mod index;
pub mod redirect;
pub mod target;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use hyper::body::{Body as HttpBody, Bytes};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode, Uri};
use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;
use url::{Position, Url};

use self::redirect::{Hop, RedirectFault};
use self::target::Target;
use crate::ask::{Access, Whose};
use crate::error::{Failure, Fault, Kind};
use crate::grant::ProxyGrant;
use crate::http::body::{Body, BoxError, Progress};
use crate::http::client::HttpClient;
use crate::http::headers::MADE_BY;
use crate::http::stream::Download;
use crate::registry::request::{is_public_key, is_version_check};
use crate::registry::{Format, Hosts, Registry};
use crate::secret::{AccessToken, Fingerprint};

/// What a token is wanted for.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub whose: Whose,
    pub registry: Registry,
    pub access: Access,
    /// The registry has just refused this one.
    pub refused: Option<Fingerprint>,
}

/// Where tokens come from: the broker, by a closure. It has a deadline of its own.
pub type Tokens = Arc<dyn Fn(Wanted) -> TokenFuture + Send + Sync>;
pub type TokenFuture = Pin<Box<dyn Future<Output = Result<AccessToken, Failure>> + Send>>;

/// Makes requests in the place of others. Cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    http: HttpClient,
    hosts: Arc<Hosts>,
    tokens: Tokens,
    /// Where files may be sent on to, beside Cloud Storage.
    redirect_hosts: Arc<[String]>,
    /// By which a request is known that was made here before.
    mark: HeaderValue,
}

/// What became of a request, for its sender and for the audit line.
#[derive(Debug)]
pub struct Passed {
    /// Absent where the target leads to none.
    pub registry: Option<Registry>,
    pub access: Access,
    /// The token that was used last, without its secret.
    pub token: Option<Fingerprint>,
    pub identity: Option<String>,
    /// What is taken of an upload's body.
    pub uploaded: Option<Progress>,
    /// The address that answered, behind redirects.
    pub answered: Option<Uri>,
    pub answer: Result<Response<Body>, Failure>,
}

/// Why a request was not passed on, or its answer not back.
#[derive(Debug, Error)]
pub enum ProxyFault {
    /// One of the methods that no package client needs.
    #[error("{0} requests are not passed on")]
    Method(String),
    /// A download with a body, which servers read in two ways.
    #[error("a {0} request carries no body")]
    Body(String),
    /// The registry does not take the token, nor the next one.
    #[error("{host} refuses the token{}", identity.as_deref().map(|it| format!(" of {it}")).unwrap_or_default())]
    Unauthorized { host: String, identity: Option<String> },
    /// Where a download was sent on to, or a key that everybody may read.
    #[error("{host} asks for a credential where valetkey sends none")]
    Closed { host: String },
    /// The environment of the daemon names a proxy that leads to itself: it was started inside of `valetkey exec`.
    #[error("this daemon's own request came back to it by the proxy that its environment names")]
    Circle,
    /// The registry refused the token after the body of an upload had begun.
    #[error("{host} refused the token in the middle of an upload")]
    Interrupted { host: String },
}

impl Fault for ProxyFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Method(_) => Kind::Refused,
            Self::Circle => Kind::Configuration,
            Self::Body(_) => Kind::Usage,
            Self::Unauthorized { .. } | Self::Closed { .. } | Self::Interrupted { .. } => Kind::Upstream,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Unauthorized { .. } => Some("run `valetkey doctor` where the daemon runs".to_owned()),
            Self::Circle => Some(
                "run `valetkey stop`, and start the daemon where HTTPS_PROXY does not lead to `valetkey exec`"
                    .to_owned(),
            ),
            Self::Interrupted { .. } => Some("upload again: the token has been renewed".to_owned()),
            Self::Method(_) | Self::Body(_) | Self::Closed { .. } => None,
        }
    }
}

impl Proxy {
    #[must_use]
    pub fn new(http: HttpClient, hosts: Hosts, tokens: Tokens, redirect_hosts: Vec<String>) -> Self {
        Self { http, hosts: Arc::new(hosts), tokens, redirect_hosts: redirect_hosts.into(), mark: mark() }
    }

    /// Makes one request within a grant. Its target is the path and query from `/registry/` on.
    pub async fn pass<B>(&self, grant: &ProxyGrant, request: Request<B>) -> Passed
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let access = access_of(request.method());
        let mut passed = Passed {
            registry: None,
            access: access.unwrap_or(Access::Write),
            token: None,
            identity: None,
            uploaded: None,
            answered: None,
            answer: Ok(Response::new(Body::empty())),
        };
        passed.answer = self.answer(grant, access, request, &mut passed).await;
        passed
    }

    async fn answer<B>(
        &self,
        grant: &ProxyGrant,
        access: Option<Access>,
        request: Request<B>,
        passed: &mut Passed,
    ) -> Result<Response<Body>, Failure>
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let (head, body) = request.into_parts();
        if head.headers.get_all(MADE_BY).iter().any(|by| *by == self.mark) {
            return Err(ProxyFault::Circle.into());
        }
        // A target in absolute form has a host of its own, which nobody has checked.
        let path = head.uri.path_and_query().filter(|_| head.uri.authority().is_none());
        let target = Target::parse(path.map_or("", |path| path.as_str()), &self.hosts)?;
        let registry = passed.registry.insert(target.registry.clone());
        let access = access.ok_or_else(|| ProxyFault::Method(head.method.to_string()))?;
        if is_version_check(registry.format, target.uri.path()) {
            reach(grant, registry, access)?;
            return Ok(version());
        }
        let public = is_public_key(registry.format, target.uri.path());
        if public { reach(grant, registry, access) } else { grant.check(registry, access) }?;
        self.check_mount(grant, &target)?;

        let body = if body.is_end_stream() {
            None
        } else if access == Access::Read {
            return Err(ProxyFault::Body(head.method.to_string()).into());
        } else {
            Some(Body::stream(body))
        };
        passed.uploaded = body.as_ref().and_then(Body::progress);
        let headers = headers::of_request(&head.headers);
        let errand = Errand { method: head.method, headers, access, grant, with_token: !public };
        let (mut head, download) = self.run(&target, &errand, body, passed).await?.into_parts();
        head.headers = headers::of_answer(&head.headers);
        self.lead_back(&errand, &target, passed.answered.as_ref(), &mut head.headers);
        head.extensions.clear();
        Ok(Response::from_parts(head, Body::stream(download)))
    }

    /// Sends the request, and sends it on.
    async fn run(
        &self,
        target: &Target,
        errand: &Errand<'_>,
        mut body: Option<Body>,
        passed: &mut Passed,
    ) -> Result<Response<Download>, Failure> {
        let mut wanted = Wanted {
            whose: errand.grant.whose.clone(),
            registry: target.registry.clone(),
            access: errand.access,
            refused: None,
        };
        let mut token = None;
        if errand.with_token {
            token = Some(passed.note((self.tokens)(wanted.clone()).await?));
        }
        let mut hop = Hop { uri: target.uri.clone(), with_token: errand.with_token };
        let repeatable = body.is_none();
        let (mut renewed, mut hops) = (false, 0);
        loop {
            let sent = token.as_ref().filter(|_| hop.with_token);
            let mut request = errand.request(&hop, sent, body.take())?;
            if self.http.is_by_loopback(request.uri()) {
                request.headers_mut().insert(MADE_BY, self.mark.clone());
            }
            let answer = self.http.stream(request, sent.map(|token| token.fingerprint)).await?;
            if let Some(sent) = sent.filter(|_| answer.status() == StatusCode::UNAUTHORIZED) {
                let host = target.registry.host.clone();
                let refused =
                    ProxyFault::Unauthorized { host: host.clone(), identity: sent.identity.clone() };
                if renewed {
                    return Err(refused.into());
                }
                answer.into_body().drain().await;
                let again = Wanted { refused: Some(sent.fingerprint), ..wanted.clone() };
                let next = passed.note((self.tokens)(again).await?);
                if next.fingerprint == sent.fingerprint {
                    return Err(refused.into());
                }
                if !repeatable {
                    return Err(ProxyFault::Interrupted { host }.into());
                }
                (token, renewed) = (Some(next), true);
                continue;
            }
            if answer.status() == StatusCode::UNAUTHORIZED {
                let host = hop.uri.host().unwrap_or_default().to_owned();
                return Err(ProxyFault::Closed { host }.into());
            }
            let location = answer.headers().get(LOCATION);
            let Some(location) = location.filter(|_| is_redirect(answer.status()) && errand.is_followed())
            else {
                passed.answered = Some(hop.uri);
                return Ok(answer);
            };
            hops += 1;
            if hops > redirect::MOST {
                return Err(RedirectFault::Endless { from: target.registry.host.clone() }.into());
            }
            hop = redirect::follow(&hop, location, &self.redirect_hosts)?;
            answer.into_body().drain().await;
            if hop.with_token {
                let next = self
                    .granted(errand, &hop.uri)
                    .ok_or_else(|| RedirectFault::Beyond { from: target.registry.host.clone() })?;
                // Another project's repository may be another identity's.
                if next.repository != wanted.registry.repository {
                    wanted.registry = next;
                    token = Some(passed.note((self.tokens)(wanted.clone()).await?));
                }
            }
        }
    }

    /// The repository that a URL leads to, where the errand may go there.
    fn granted(&self, errand: &Errand<'_>, uri: &Uri) -> Option<Registry> {
        let below = format!("{}{}{}", target::PREFIX, uri.authority()?, uri.path_and_query()?);
        let registry = Target::parse(&below, &self.hosts).ok()?.registry;
        errand.grant.check(&registry, errand.access).is_ok().then_some(registry)
    }

    /// Makes of an answer's `Location` an address that means the same to whoever asked us: a place of the registry's
    /// that is granted comes back through us, any other is told in full, and leads there without us and without a token.
    fn lead_back(
        &self,
        errand: &Errand<'_>,
        target: &Target,
        answered: Option<&Uri>,
        headers: &mut HeaderMap,
    ) {
        let Some(location) = headers.remove(LOCATION) else { return };
        let base = Url::parse(&answered.unwrap_or(&target.uri).to_string()).ok();
        let Some(next) = base.and_then(|base| base.join(location.to_str().ok()?).ok()) else { return };
        let own = target.uri.authority().map(hyper::http::uri::Authority::as_str);
        let same =
            next.scheme() == "https" && Some(&next[Position::BeforeUsername..Position::AfterPort]) == own;
        let uri: Option<Uri> = next[..Position::AfterQuery].parse().ok().filter(|_| same);
        let text = match uri.filter(|uri| self.granted(errand, uri).is_some()) {
            Some(_) => format!("{}{}", target::PREFIX, &next[Position::BeforeHost..]),
            None => next.into(),
        };
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(LOCATION, value);
        }
    }

    /// A docker client may ask for a layer of another repository to be mounted in its own: that reads it.
    fn check_mount(&self, grant: &ProxyGrant, target: &Target) -> Result<(), Failure> {
        let query =
            target.uri.query().filter(|_| target.registry.format == Format::Docker).unwrap_or_default();
        for (_, from) in url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "from") {
            let path = format!("/v2/{from}/blobs/x");
            let other =
                Target::parse(&format!("{}{}{path}", target::PREFIX, target.registry.host), &self.hosts);
            let registry = other.ok().filter(|other| other.uri.path() == path).map(|other| other.registry);
            let registry = registry.ok_or_else(|| {
                Failure::new(Kind::Refused, "the repository to mount from is not one that can be granted")
            })?;
            grant.check(&registry, Access::Read)?;
        }
        Ok(())
    }
}

/// A word that no other daemon has.
fn mark() -> HeaderValue {
    static MARK: OnceLock<HeaderValue> = OnceLock::new();
    let new = || {
        let mut bytes = [0; 16];
        // Without random bytes the number of the process has to do.
        let random = SystemRandom::new().fill(&mut bytes).is_ok();
        let word = if random { u128::from_ne_bytes(bytes) } else { std::process::id().into() };
        HeaderValue::from_str(&format!("{word:032x}")).unwrap_or_else(|_| HeaderValue::from_static("?"))
    };
    MARK.get_or_init(new).clone()
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl Passed {
    fn note(&mut self, token: AccessToken) -> AccessToken {
        (self.token, self.identity) = (Some(token.fingerprint), token.identity.clone());
        token
    }
}

/// What stays the same from one hop to the next.
struct Errand<'a> {
    method: Method,
    headers: HeaderMap,
    access: Access,
    grant: &'a ProxyGrant,
    /// Not so for what everybody may read.
    with_token: bool,
}

impl Errand<'_> {
    fn request(
        &self,
        hop: &Hop,
        token: Option<&AccessToken>,
        body: Option<Body>,
    ) -> Result<Request<Body>, Failure> {
        let unsendable = || Failure::new(Kind::Local, "the request cannot be sent on");
        let mut request = Request::new(body.unwrap_or_else(Body::empty));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = hop.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(token) = token {
            let value = headers::bearer(&token.secret).ok_or_else(unsendable)?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// An upload that is sent elsewhere is none any more: its sender has to know.
    fn is_followed(&self) -> bool {
        self.access == Access::Read
    }
}

fn access_of(method: &Method) -> Option<Access> {
    match *method {
        Method::GET | Method::HEAD => Some(Access::Read),
        Method::POST | Method::PUT | Method::PATCH | Method::DELETE => Some(Access::Write),
        _ => None,
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether a host may be asked for what is of no repository, and needs no token.
fn reach(grant: &ProxyGrant, registry: &Registry, access: Access) -> Result<(), Failure> {
    if access == Access::Write || !grant.reaches(&registry.host) {
        let text = format!("no repository of {} is granted here", registry.host);
        return Err(Failure::new(Kind::Refused, text));
    }
    Ok(())
}

/// The answer to a docker client's first question, whether this is a registry and wants to know who asks: no. It is
/// about no repository, so no token has to go anywhere for it.
fn version() -> Response<Body> {
    let mut answer = Response::new(Body::full("{}"));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let version = HeaderName::from_static("docker-distribution-api-version");
    answer.headers_mut().insert(version, HeaderValue::from_static("registry/2.0"));
    answer
}
