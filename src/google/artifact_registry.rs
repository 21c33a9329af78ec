//! Artifact Registry's API: whether a repository exists.
//!
//! A package host answers 404 for a package that is not there, and may answer the same for a repository that is gone.
//! Only the API tells the two apart. It is asked at Google's own address, or at the one that the configuration file
//! names, with a token that reads; it is believed only where it speaks of that very repository.

use std::fmt;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use thiserror::Error;
use tokio::time::Instant;

use super::source::World;
use crate::error::{Fault, Kind, printable};
use crate::http::client::{Answer, HttpFault};
use crate::secret::AccessToken;

/// A repository as the API names it: `projects/PROJECT/locations/LOCATION/repositories/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryName(String);

impl RepositoryName {
    /// None where a part could be read in two ways: a slash, or a colon, behind which the API takes a verb. A project of
    /// an organisation has one, behind its domain.
    #[must_use]
    pub fn new(project: &str, location: &str, name: &str) -> Option<Self> {
        let plain = |text: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            !text.is_empty() && text != "." && text != ".." && text.bytes().all(good)
        };
        let (domain, own) = project.split_once(':').unwrap_or(("none", project));
        (plain(domain) && plain(own) && plain(location) && plain(name))
            .then(|| Self(format!("projects/{project}/locations/{location}/repositories/{name}")))
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why nobody knows.
#[derive(Debug, Error)]
pub enum ApiFault {
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpFault),
    /// Neither yes nor no. 403 is told for a repository that one may not see, be it there or not.
    #[error(
        "Google's API answers with the status {status}{} for {name}",
        reason.as_deref().map(|it| format!(" ({it})")).unwrap_or_default()
    )]
    Status { name: RepositoryName, status: u16, reason: Option<String> },
    /// Something between us and the API, or an API that speaks of something else.
    #[error("Google's API answers for {name} with {problem}")]
    Nonsense { name: RepositoryName, problem: &'static str },
}

impl Fault for ApiFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Http(fault) => fault.kind(),
            Self::Status { .. } | Self::Nonsense { .. } => Kind::Upstream,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Http(fault) => return fault.hint(),
            Self::Status { reason: Some(reason), .. } if reason == "SERVICE_DISABLED" => {
                "enable the Artifact Registry API in that project: `gcloud services enable \
                 artifactregistry.googleapis.com`"
                    .to_owned()
            }
            Self::Status { status: 401 | 403, .. } => {
                "the identity needs `artifactregistry.repositories.get`, which the role Artifact Registry Reader has"
                    .to_owned()
            }
            Self::Status { .. } => "try again later".to_owned(),
            Self::Nonsense { .. } => "run `valetkey doctor` where the daemon runs".to_owned(),
        })
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Http(fault) => fault.is_transient(),
            Self::Status { status, .. } => matches!(status, 429 | 500..=599),
            Self::Nonsense { .. } => false,
        }
    }
}

/// Asks whether a Python repository exists. None where there is nobody to ask: tokens come from another server than
/// Google's, and the configuration names no API that takes them.
///
/// # Errors
/// When the answer is neither yes nor no, or does not come in time.
pub async fn has_python_repository(
    world: &World,
    token: &AccessToken,
    name: &RepositoryName,
    until: Instant,
) -> Result<Option<bool>, ApiFault> {
    let Some(origin) = world.endpoints.artifact_registry() else { return Ok(None) };
    let url = format!("{}/v1/{name}?fields=name,format", origin.trim_end_matches('/'));
    let bearer = zeroize::Zeroizing::new(format!("Bearer {}", token.secret.expose()));
    let headers = [("authorization", bearer.as_str()), ("accept", "application/json")];
    let answer = world.http.request(Method::GET, &url, &headers, until).await?;
    read(name, &answer).map(Some)
}

#[derive(Deserialize)]
struct Repository {
    name: String,
    format: String,
}

/// Google's form of an error, as far as it concerns us.
#[derive(Deserialize)]
struct Refusal {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: u16,
    status: Option<String>,
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    reason: Option<String>,
}

fn read(name: &RepositoryName, answer: &Answer) -> Result<bool, ApiFault> {
    let nonsense = |problem| ApiFault::Nonsense { name: name.clone(), problem };
    let refusal = || serde_json::from_slice::<Refusal>(&answer.body).ok().map(|refusal| refusal.error);
    match answer.status {
        StatusCode::OK => {
            let repository: Repository = serde_json::from_slice(&answer.body)
                .map_err(|_| nonsense("something that is no repository"))?;
            if repository.name != name.0 {
                return Err(nonsense("another repository"));
            }
            // A repository of another format has no Python package, and never had.
            Ok(repository.format == "PYTHON")
        }
        // Only in the API's own words: whatever else answers 404 knows nothing of repositories.
        StatusCode::NOT_FOUND => match refusal() {
            Some(error) if error.code == 404 && error.status.as_deref() == Some("NOT_FOUND") => Ok(false),
            _ => Err(nonsense("a 404 that is not its own")),
        },
        status => {
            let reason = refusal().and_then(|error| {
                error.details.into_iter().find_map(|detail| detail.reason).or(error.status)
            });
            let reason = reason.map(|text| printable(&text).chars().take(60).collect());
            Err(ApiFault::Status { name: name.clone(), status: status.as_u16(), reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;

    fn name() -> RepositoryName {
        RepositoryName::new("acme", "us", "private").unwrap()
    }

    fn outcome(status: u16, body: &str) -> Result<bool, ApiFault> {
        let status = StatusCode::from_u16(status).unwrap();
        read(&name(), &Answer { status, headers: HeaderMap::new(), body: body.to_owned().into() })
    }

    #[test]
    fn only_the_api_s_own_yes_and_no_count() {
        let own = "projects/acme/locations/us/repositories/private";
        let page = |name: &str, format: &str| format!(r#"{{"name":"{name}","format":"{format}","x":1}}"#);
        let refusal =
            |code: u16, status: &str| format!(r#"{{"error":{{"code":{code},"status":"{status}"}}}}"#);
        assert!(matches!(outcome(200, &page(own, "PYTHON")), Ok(true)));
        assert!(matches!(outcome(200, &page(own, "DOCKER")), Ok(false)));
        assert!(matches!(outcome(404, &refusal(404, "NOT_FOUND")), Ok(false)));
        for (status, body) in [
            (200, page("projects/acme/locations/us/repositories/other", "PYTHON")),
            (200, "{}".to_owned()),
            (200, "<html>".to_owned()),
            (200, String::new()),
            (204, String::new()),
            (302, String::new()),
            (401, refusal(401, "UNAUTHENTICATED")),
            (403, refusal(403, "PERMISSION_DENIED")),
            (404, String::new()),
            (404, "<html>".to_owned()),
            (404, refusal(403, "PERMISSION_DENIED")),
            (404, r#"{"error":"x"}"#.to_owned()),
            (429, refusal(429, "RESOURCE_EXHAUSTED")),
            (500, refusal(404, "NOT_FOUND")),
        ] {
            assert!(outcome(status, &body).is_err(), "{status} {body}");
        }
    }

    #[test]
    fn an_api_that_is_not_enabled_is_told_with_what_to_do() {
        let body = r#"{"error":{"code":403,"message":"no","status":"PERMISSION_DENIED","details":[
            {"@type":"type.googleapis.com/google.rpc.Help","links":[]},{"reason":"SERVICE_DISABLED"}]}}"#;
        let fault = outcome(403, body).unwrap_err();
        assert!(fault.to_string().contains("403 (SERVICE_DISABLED)"), "{fault}");
        assert!(fault.hint().unwrap().contains("services enable"));
        assert!(outcome(403, "").unwrap_err().hint().unwrap().contains("repositories.get"));
    }

    #[test]
    fn a_name_is_read_in_one_way() {
        for (project, location, repository) in [
            ("acme", "us", "private:getIamPolicy"),
            ("acme", "us", "a/b"),
            ("acme", "us", ".."),
            ("acme", "us", ""),
            ("acme", "us?x", "private"),
            ("a:b:c", "us", "private"),
            ("a%2fb", "us", "private"),
        ] {
            assert_eq!(RepositoryName::new(project, location, repository), None);
        }
        assert!(RepositoryName::new("example.com:acme", "europe-west1", "private").is_some());
    }
}
