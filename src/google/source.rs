//! What all sources share: the request, the outcome, and why there is none.
//!
//! The difference that matters most is between [`SourceFault::Absent`] and everything else: an absent source lets
//! the next one be asked, while one that is there and fails ends the ask, so that nobody is silently given
//! another identity.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use crate::ask::Access;
use crate::blocking::BlockingFault;
use crate::clock::Clock;
use crate::config::policy::{POLICY, Policy};
use crate::environment::Environment;
use crate::error::shown::{shown, shown_path};
use crate::error::{Failure, Fault, Kind, printable};
use crate::google::endpoints::Endpoints;
use crate::google::gcloud::Turn;
use crate::google::stored_login::LoginFault;
use crate::http::client::{HttpClient, HttpFault};
use crate::secret::AccessToken;

/// What a source needs to know of the world.
#[derive(Debug, Clone)]
pub struct World {
    pub http: HttpClient,
    pub endpoints: Endpoints,
    pub environment: Environment,
    pub clock: Clock,
    /// Whose tokens this machine allows, and from where.
    pub policy: Policy,
    /// One gcloud at a time.
    pub gcloud: Turn,
    /// How long a source may go on when its asker has left, where there is a next one.
    pub lingers: Duration,
}

impl World {
    /// Whether tokens of this account may be given. An identity that nobody tells may be anybody's.
    ///
    /// # Errors
    /// When the policy says no.
    pub fn allow_account(&self, identity: Option<&str>) -> Result<(), SourceFault> {
        if self.policy.allows_account(identity) {
            return Ok(());
        }
        let what = match identity {
            Some(identity) => format!("tokens of {}", printable(identity)),
            None => "tokens of an account that nobody tells".to_owned(),
        };
        let domains = self.policy.account_domains.as_deref().unwrap_or_default().join(", ");
        let remedy =
            format!("use an account of a domain that `account_domains` in {POLICY} allows: {domains}");
        Err(SourceFault::Forbidden { what, remedy })
    }

    /// Whether sign-ins may be made with this OAuth client, and used.
    ///
    /// # Errors
    /// When the policy names another.
    pub fn allow_client(&self, client_id: &str) -> Result<(), SourceFault> {
        if self.policy.allows_client(client_id) {
            return Ok(());
        }
        let allowed = self.policy.oauth_client.as_deref().unwrap_or_default();
        Err(SourceFault::Forbidden {
            what: format!("the OAuth client {}", printable(client_id)),
            remedy: format!("sign in with the client that `oauth_client` in {POLICY} names: {allowed}"),
        })
    }
}

/// What is wanted from a source.
#[derive(Debug, Clone)]
pub struct Request {
    pub access: Access,
    /// Whoever asks waits no longer than this, and nothing is begun behind it.
    pub until: Instant,
    /// What has been begun may go on until then, for whoever asks next. The same as `until` where nobody will.
    pub at_most: Instant,
    /// The token that the source would give from a cache of its own was refused: make a new one.
    pub force: bool,
    pub meanwhile: Meanwhile,
}

impl Request {
    /// For one asker, whose end is the end of it.
    #[must_use]
    pub fn new(access: Access, until: Instant) -> Self {
        Self { access, until, at_most: until, force: false, meanwhile: Meanwhile::default() }
    }

    /// Whether what takes longer than the asker waits is kept for the next one.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.at_most > self.until
    }
}

/// What is said to an asker who cannot wait any longer for what is under way.
#[derive(Debug, Clone, Default)]
pub struct Meanwhile(Arc<Mutex<Option<Failure>>>);

impl Meanwhile {
    pub fn say(&self, failure: impl Into<Failure>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.into());
    }

    #[must_use]
    pub fn said(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A token and where it came from.
#[derive(Debug, Clone)]
pub struct Minted {
    pub token: AccessToken,
    /// In words, for `status` and `doctor`: `service account key /k.json`.
    pub source: String,
    /// Why each source that comes before it was not taken.
    pub passed_over: Vec<String>,
}

/// Why a source gives no token.
#[derive(Debug, Error)]
pub enum SourceFault {
    /// Not set up on this machine. The next source may be asked.
    #[error("{0}")]
    Absent(String),
    /// A credential file that cannot be read.
    #[error("cannot read the credential file {}", shown_path(path))]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// A credential file with wrong content.
    #[error("the credential file {} {problem}", shown_path(path))]
    Malformed { path: PathBuf, problem: String },
    /// A credential file that would send its secret elsewhere.
    #[error(
        "the credential file {} sends its secret to {:?}, which is not Google's",
        shown_path(path),
        shown(url)
    )]
    ForeignEndpoint { path: PathBuf, url: String },
    /// A kind of credential that comes later.
    #[error(
        "the credential file {} is of type {:?}, which is not supported yet",
        shown_path(path),
        shown(kind)
    )]
    Unsupported { path: PathBuf, kind: String },
    /// Google refused, in OAuth's words.
    #[error("Google refused {what}: {error}{}", description.as_deref().map(|it| format!(" ({it})")).unwrap_or_default())]
    OAuth {
        what: String,
        error: String,
        description: Option<String>,
        /// Google's own, such as `invalid_rapt`.
        subtype: Option<String>,
        remedy: Option<String>,
    },
    /// A stored login that gives nothing.
    #[error(transparent)]
    Login(#[from] LoginFault),
    /// An answer that is no answer.
    #[error("{what} answered with {problem}")]
    Nonsense { what: String, problem: String },
    /// A status that asks for patience.
    #[error("{what} answered with status {status}")]
    Status { what: String, status: u16, retry_after: Option<Duration> },
    /// gcloud or the metadata server is there and says no.
    #[error("{what} failed: {problem}")]
    Failed { what: String, problem: String, remedy: Option<String> },
    /// gcloud did not end in time, or a file system did not answer.
    #[error("{what} did not answer within {} s", waited.as_secs_f32().ceil())]
    Deadline { what: String, waited: Duration, remedy: String },
    /// It goes on without the asker.
    #[error("{what} is still running")]
    Running { what: String },
    /// The policy of this machine says no.
    #[error("the policy of this machine does not allow {what}")]
    Forbidden { what: String, remedy: String },
    /// A file system that does not answer, or no thread to ask it.
    #[error(transparent)]
    Blocking(#[from] BlockingFault),
    /// The network.
    #[error(transparent)]
    Http(#[from] HttpFault),
}

impl Fault for SourceFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Absent(_) => Kind::NeedsLogin,
            Self::OAuth { remedy, .. } => {
                if remedy.is_some() {
                    Kind::NeedsLogin
                } else {
                    Kind::Upstream
                }
            }
            Self::Unreadable { .. } | Self::Malformed { .. } | Self::Unsupported { .. } => Kind::Local,
            Self::ForeignEndpoint { .. } | Self::Forbidden { .. } => Kind::Refused,
            Self::Nonsense { .. } | Self::Status { .. } | Self::Failed { .. } => Kind::Upstream,
            Self::Deadline { .. } | Self::Running { .. } => Kind::Deadline,
            Self::Login(fault) => fault.kind(),
            Self::Blocking(fault) => fault.kind(),
            Self::Http(fault) => fault.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Absent(_) => None,
            Self::Unreadable { .. } => Some("check that the file is there and yours to read".to_owned()),
            Self::Malformed { .. } => Some("fetch the file again from where it was made".to_owned()),
            Self::ForeignEndpoint { url, .. } => Some(format!(
                "if {:?} is right, name it as `endpoints.token` in config.toml; else throw the file away",
                shown(url)
            )),
            Self::Unsupported { .. } => Some(
                "use a service account key, `gcloud auth application-default login`, or gcloud".to_owned(),
            ),
            Self::OAuth { remedy, .. } | Self::Failed { remedy, .. } => remedy.clone(),
            Self::Nonsense { .. } => Some(
                "something between this machine and Google answers in its place; run `valetkey doctor`"
                    .to_owned(),
            ),
            Self::Status { retry_after: Some(wait), .. } => {
                Some(format!("try again in {} s", wait.as_secs()))
            }
            Self::Status { .. } => Some("try again in a moment".to_owned()),
            Self::Deadline { remedy, .. } | Self::Forbidden { remedy, .. } => Some(remedy.clone()),
            Self::Running { .. } => {
                Some("ask again in a moment: it may finish, and what it brings is kept".to_owned())
            }
            Self::Login(fault) => fault.hint(),
            Self::Blocking(fault) => fault.hint(),
            Self::Http(fault) => fault.hint(),
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Status { .. } => true,
            Self::Login(fault) => fault.is_transient(),
            Self::Blocking(fault) => fault.is_transient(),
            Self::Http(fault) => fault.is_transient(),
            _ => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
