//! The merged index, without dependency confusion.
//!
//! The repositories are asked in their configured order, one after the other, and the first that has a project serves it
//! alone: files of two places never meet on one page. A name goes on to the next place only over a plain 404 of the page
//! itself, and only if the repository is known to exist: the registry's own API confirms it, or, where there is no
//! such API, it has answered with a page in the life of this process. Either is believed for a minute, and then asked
//! for again. What the API has once confirmed, it alone can confirm. The public index comes last, if the configuration names one, and never
//! for a name that `private` covers.
//!
//! Everything else ends the search with a fault: no permission, a rate limit, a broken registry, silence, a redirect to
//! another place, something that is no page. A wrong "not found" here would install a stranger's code.
//!
//! There is no list of all names: no client needs one, and Artifact Registry has none.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, timeout};
use url::Url;

use super::links::{Admits, Links, Mount};
use super::name::{Pattern, ProjectName};
use super::negotiate::{Accept, Format, NegotiationFault};
use super::repository::{Repository, page_below};
use crate::error::shown::shown;
use crate::error::{Failure, Fault, Kind};

/// Where pages come from. Redirects within the origin are followed, others are answered as they are.
pub trait Fetch {
    /// What is left of a page behind its head.
    type Body: Send;

    /// Asks for a page of a repository, with the token of its registry.
    fn page(
        &self,
        repository: &Repository,
        page: &Url,
        accept: &str,
    ) -> impl Future<Output = Result<Answer<Self::Body>, Failure>> + Send;

    /// Asks for a page of the public index, with no token.
    fn public_page(
        &self,
        page: &Url,
        accept: &str,
    ) -> impl Future<Output = Result<Answer<Self::Body>, Failure>> + Send;

    /// Asks the registry's own API whether the repository exists. None where there is no such API.
    fn confirms(&self, repository: &Repository)
    -> impl Future<Output = Result<Option<bool>, Failure>> + Send;
}

/// What a server answered, its body unread.
#[derive(Debug)]
pub struct Answer<B> {
    pub status: u16,
    /// The address that answered, behind redirects.
    pub url: Url,
    pub content_type: Option<String>,
    pub body: B,
}

/// A page to be passed on through a [`Rewriter`](super::Rewriter).
#[derive(Debug)]
pub struct Found<B> {
    pub place: Place,
    pub format: Format,
    /// To be passed on.
    pub content_type: String,
    pub links: Links,
    pub body: B,
}

/// Where an answer came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Repository(Repository),
    /// The public index, by its root.
    Public(Url),
}

/// What one client asks.
#[derive(Debug)]
pub struct Query<'a> {
    pub name: &'a ProjectName,
    pub accept: &'a Accept,
    pub mount: Mount,
}

/// What is known of repositories, for the life of the process.
#[derive(Debug, Default)]
pub struct Known(Mutex<HashMap<Repository, Evidence>>);

#[derive(Debug, Clone, Copy)]
struct Evidence {
    word: Word,
    /// So long it is believed, and then asked for again.
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// It has answered with a page.
    Seen,
    /// The API has confirmed it.
    Confirmed,
    /// The API has said that there is no such repository.
    Gone,
}

/// What is merged, as the configuration says it.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    /// In the order in which they are asked.
    pub repositories: Vec<Repository>,
    /// Names that the public index is never asked for.
    pub private: Vec<Pattern>,
    /// The root of the public index: https, with a slash at its end.
    pub public: Option<Url>,
}

/// Why there is no page to give.
#[derive(Debug, Error)]
pub enum MergeFault {
    /// Every place that may be asked has answered that it does not have the project.
    #[error("no repository of the merged index has the project `{name}`")]
    NotFound { name: ProjectName, covered: bool },
    /// It said neither "here it is" nor "I do not have it".
    #[error(
        "{place} answered with the status {status} for the project `{name}`, so nobody else is asked for it"
    )]
    Refused { place: Box<Place>, name: ProjectName, status: u16 },
    /// A 404 that may mean that the repository is gone, or was never there.
    #[error(
        "{repository} answered that it does not have the project `{name}`, but has not been seen to exist, so nobody \
         else is asked for it"
    )]
    Unproven { repository: Box<Repository>, name: ProjectName },
    /// The API says that it does not exist.
    #[error(
        "{repository} is no Python repository, says Google's API, so nobody else is asked for the project `{name}`"
    )]
    Gone { repository: Box<Repository>, name: ProjectName },
    /// A 404 that may mean that the repository is gone, and an API that does not tell.
    #[error(
        "{repository} answered that it does not have the project `{name}`, and whether it exists at all cannot be told: \
         {}; so nobody else is asked for it",
        failure.sentence()
    )]
    Unconfirmed { repository: Box<Repository>, name: ProjectName, failure: Box<Failure> },
    /// Another place answered in its name.
    #[error("{place} sent us to {} for the project `{name}`", shown(host))]
    Elsewhere { place: Box<Place>, name: ProjectName, host: String },
    /// No answer, and why.
    #[error("cannot ask {place} for the project `{name}`: {}", failure.sentence())]
    Silent { place: Box<Place>, name: ProjectName, failure: Box<Failure> },
    /// It did not answer in time.
    #[error("{place} did not answer within {} seconds for the project `{name}`", PATIENCE.as_secs())]
    Late { place: Box<Place>, name: ProjectName },
    /// It answered with something that is no page, or no page for this client.
    #[error("{place} has no usable page of the project `{name}`")]
    Form { place: Box<Place>, name: ProjectName, source: NegotiationFault },
}

impl Fault for MergeFault {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::Refused { .. } | Self::Unproven { .. } | Self::Gone { .. } | Self::Elsewhere { .. } => {
                Kind::Upstream
            }
            // "Not found" is what this module alone may say, and only at the end of its search.
            Self::Silent { failure, .. } | Self::Unconfirmed { failure, .. }
                if failure.kind.status() == 404 =>
            {
                Kind::Upstream
            }
            Self::Silent { failure, .. } | Self::Unconfirmed { failure, .. } => failure.kind,
            Self::Late { .. } => Kind::Deadline,
            Self::Form { source, .. } => source.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { covered: true, .. } => {
                Some("the configuration's `private` keeps this name from the public index".to_owned())
            }
            Self::NotFound { .. } | Self::Elsewhere { .. } | Self::Late { .. } => None,
            Self::Refused { status: 401 | 403, .. } => {
                Some("check that the repository's name is right and that you may read it".to_owned())
            }
            Self::Refused { .. } => Some("try again later".to_owned()),
            Self::Unproven { repository, .. } | Self::Gone { repository, .. } => {
                Some(format!("check that {repository} exists, or take it out of the merged index"))
            }
            Self::Silent { failure, .. } | Self::Unconfirmed { failure, .. } => failure.hint.clone(),
            Self::Form { source, .. } => source.hint(),
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status, 429 | 500..=599),
            Self::Silent { failure, .. } | Self::Unconfirmed { failure, .. } => failure.transient,
            Self::Late { .. } => true,
            _ => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Silent { failure, .. } | Self::Unconfirmed { failure, .. } => failure.retry_after,
            _ => None,
        }
    }
}

impl Known {
    /// To be told of every page that a repository answers with.
    pub fn remember(&self, repository: &Repository) {
        let before = self.evidence(repository).map(|evidence| evidence.word);
        let word = if before == Some(Word::Confirmed) { Word::Confirmed } else { Word::Seen };
        self.note(repository, word, BELIEVED);
    }

    fn note(&self, repository: &Repository, word: Word, lasting: Duration) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut until = Instant::now() + lasting;
        // A page says no less than was known before.
        if let Some(before) = known.get(repository).filter(|before| before.word == word) {
            until = until.max(before.until);
        }
        known.insert(repository.clone(), Evidence { word, until });
    }

    fn evidence(&self, repository: &Repository) -> Option<Evidence> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(repository).copied()
    }

    /// Makes sure that a repository exists which has just said that it does not have a project.
    async fn prove<F: Fetch>(
        &self,
        fetch: &F,
        repository: &Repository,
        name: &ProjectName,
    ) -> Result<(), MergeFault> {
        let (boxed, name) = (Box::new(repository.clone()), name.clone());
        let before = self.evidence(repository);
        match before.filter(|evidence| Instant::now() < evidence.until) {
            Some(Evidence { word: Word::Gone, .. }) => {
                return Err(MergeFault::Gone { repository: boxed, name });
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let late = |_| {
            let text = format!("Google's API did not answer within {} seconds", API_PATIENCE.as_secs());
            Err(Failure::new(Kind::Deadline, text))
        };
        let answer = timeout(API_PATIENCE, fetch.confirms(repository)).await.unwrap_or_else(late);
        let seen = before.is_some_and(|evidence| evidence.word == Word::Seen);
        match answer {
            Ok(Some(true)) => self.note(repository, Word::Confirmed, BELIEVED),
            Ok(Some(false)) => {
                self.note(repository, Word::Gone, BELIEVED);
                return Err(MergeFault::Gone { repository: boxed, name });
            }
            // An API that is of no use to this identity is left alone for a while.
            Ok(None) | Err(_) if seen => self.note(repository, Word::Seen, LEFT_ALONE),
            Ok(None) => return Err(MergeFault::Unproven { repository: boxed, name }),
            Err(failure) => {
                return Err(MergeFault::Unconfirmed { repository: boxed, name, failure: Box::new(failure) });
            }
        }
        Ok(())
    }
}

impl Merged {
    /// Finds the one page that serves a project. `admits` says which links to other origins come back through us.
    ///
    /// # Errors
    /// When no place has it, or one of them left it open whether it does.
    pub async fn find<F: Fetch>(
        &self,
        fetch: &F,
        known: &Known,
        admits: &Admits,
        query: Query<'_>,
    ) -> Result<Found<F::Body>, MergeFault> {
        let accept = query.accept.header();
        for repository in &self.repositories {
            let asked = Asked { place: Place::Repository(repository.clone()), name: query.name };
            let page = repository.page(query.name);
            let answer = asked.wait(fetch.page(repository, &page, &accept)).await?;
            if let Some(answer) = asked.judge(answer)? {
                let (format, content_type) = asked.admit(query.accept, &answer)?;
                known.remember(repository);
                let links = Links::of_registry(&answer.url, query.mount, admits.clone());
                return Ok(Found { place: asked.place, format, content_type, links, body: answer.body });
            }
            known.prove(fetch, repository, query.name).await?;
        }
        self.find_in_public(fetch, &accept, query).await
    }

    async fn find_in_public<F: Fetch>(
        &self,
        fetch: &F,
        accept: &str,
        query: Query<'_>,
    ) -> Result<Found<F::Body>, MergeFault> {
        let covered = self.private.iter().any(|pattern| pattern.covers(query.name));
        let not_found = || MergeFault::NotFound { name: query.name.clone(), covered };
        let root = self.public.as_ref().filter(|_| !covered).ok_or_else(not_found)?;
        let asked = Asked { place: Place::Public(root.clone()), name: query.name };
        let page = page_below(root, query.name);
        let answer = asked.wait(fetch.public_page(&page, accept)).await?;
        let answer = asked.judge(answer)?.ok_or_else(not_found)?;
        let (format, content_type) = asked.admit(query.accept, &answer)?;
        let links = Links::of_public(&answer.url);
        Ok(Found { place: asked.place, format, content_type, links, body: answer.body })
    }
}

impl Place {
    /// Whether an answer from this address is this place's own.
    fn owns(&self, url: &Url) -> bool {
        match self {
            Self::Repository(repository) => {
                url.origin() == repository.simple().origin()
                    && url.path().starts_with(repository.simple().path())
            }
            // Mirrors redirect to wherever they keep their pages.
            Self::Public(root) => url.origin() == root.origin(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository(repository) => repository.fmt(f),
            Self::Public(root) => write!(f, "the public index at {}", root.host_str().unwrap_or_default()),
        }
    }
}

/// One question to one place.
struct Asked<'a> {
    place: Place,
    name: &'a ProjectName,
}

impl Asked<'_> {
    async fn wait<T>(&self, answer: impl Future<Output = Result<T, Failure>>) -> Result<T, MergeFault> {
        let (place, name) = (Box::new(self.place.clone()), self.name.clone());
        match timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(failure)) => Err(MergeFault::Silent { place, name, failure: Box::new(failure) }),
            Err(_) => Err(MergeFault::Late { place, name }),
        }
    }

    /// The page, or None where the place says that it has none. The only two answers that count: 200 and 404.
    fn judge<B>(&self, answer: Answer<B>) -> Result<Option<Answer<B>>, MergeFault> {
        let (place, name) = (Box::new(self.place.clone()), self.name.clone());
        if !self.place.owns(&answer.url) {
            let host = answer.url.host_str().unwrap_or_default().to_owned();
            return Err(MergeFault::Elsewhere { place, name, host });
        }
        match answer.status {
            200 => Ok(Some(answer)),
            404 => Ok(None),
            status => Err(MergeFault::Refused { place, name, status }),
        }
    }

    fn admit<B>(&self, accept: &Accept, answer: &Answer<B>) -> Result<(Format, String), MergeFault> {
        accept.admit(answer.content_type.as_deref()).map_err(|source| MergeFault::Form {
            place: Box::new(self.place.clone()),
            name: self.name.clone(),
            source,
        })
    }
}

/// How long a place may take to begin its answer. pip gives up after 15 seconds of silence.
const PATIENCE: Duration = Duration::from_secs(12);
const API_PATIENCE: Duration = Duration::from_secs(5);
/// How long it is believed that a repository exists, or that it does not. An installer asks for its names within that.
const BELIEVED: Duration = Duration::from_secs(60);
const LEFT_ALONE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests;
