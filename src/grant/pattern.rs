//! A repository as a person writes it, in a configuration or on a command line.

use std::borrow::Cow;
use std::fmt;

use thiserror::Error;

use crate::error::shown::shown;
use crate::error::{Fault, Kind};
use crate::registry::google::{hosts_at, is_location, location, repository_of_host};
use crate::registry::{self, Hosts, Registry};

/// A repository as a person writes it: `LOCATION/PROJECT/REPOSITORY`, which stands for every host of that location,
/// or its URL, which stands for that host alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    place: Place,
    project: String,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Location(String),
    Host(String),
}

/// Why a text is no repository.
#[derive(Debug, Error)]
pub enum PatternFault {
    /// Neither of the two forms.
    #[error("{0:?} is not a repository")]
    Shape(String),
    /// The first word is none of Google's locations.
    #[error("{text:?} is not a repository: {place:?} is not a location of Google's")]
    Location { text: String, place: String },
    /// The URL of a host that may not see a token.
    #[error("{0:?} is not a repository of a registry that valetkey serves")]
    Foreign(String),
    /// A host that may not see a token, where a registry is wanted.
    #[error("{0:?} is not a registry that valetkey serves")]
    Registry(String),
    /// A repository of another format than the index is made of.
    #[error("{0:?} is not a Python repository")]
    NotPython(String),
}

impl PatternFault {
    /// A text that is no registry.
    #[must_use]
    pub fn registry(text: &str) -> Self {
        Self::Registry(shown(text))
    }

    /// A text that is a repository of another format than Python's.
    #[must_use]
    pub fn python(text: &str) -> Self {
        Self::NotPython(shown(text))
    }
}

impl Fault for PatternFault {
    fn kind(&self) -> Kind {
        Kind::Configuration
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Shape(_) => "write it as LOCATION/PROJECT/REPOSITORY or as its https URL".to_owned(),
            Self::Location { .. } => {
                "write us, europe, asia, or a region such as europe-west1; or the repository's https URL".to_owned()
            }
            Self::NotPython(_) => {
                "an index is made of repositories of the format python: https://LOCATION-python.pkg.dev/PROJECT/REPOSITORY"
                    .to_owned()
            }
            Self::Foreign(_) | Self::Registry(_) => "registries of your own are named as [[registry]] in config.toml".to_owned(),
        })
    }
}

impl Pattern {
    pub(super) fn hosts(&self) -> Vec<String> {
        let place = match &self.place {
            Place::Host(host) => return vec![host.clone()],
            Place::Location(place) => place,
        };
        if repository_of_host(&self.name).is_some() {
            return vec![self.name.clone()];
        }
        hosts_at(place).collect()
    }

    /// Reads either form.
    ///
    /// # Errors
    /// When it is neither, or the URL of a host that may not see a token.
    pub fn parse(text: &str, hosts: &Hosts) -> Result<Self, PatternFault> {
        let shape = || PatternFault::Shape(shown(text));
        let Some((scheme, address)) = text.split_once("://") else {
            let segments: Vec<&str> = text.strip_suffix('/').unwrap_or(text).split('/').collect();
            let [place, project, name] = segments.as_slice() else { return Err(shape()) };
            let project = project_name(project).ok_or_else(shape)?;
            if !is_name(name) {
                return Err(shape());
            }
            if !is_location(place) {
                return Err(PatternFault::Location { text: shown(text), place: shown(place) });
            }
            let place = Place::Location((*place).to_owned());
            return Ok(Self { place, project, name: (*name).to_owned() });
        };
        if scheme != "https" || address.contains(['?', '#', '@']) {
            return Err(shape());
        }
        let (host, path) = address.split_once('/').ok_or_else(shape)?;
        let registry = hosts.resolve(host).map_err(|_| PatternFault::Foreign(shown(text)))?;
        let mut segments = path.split('/');
        let project = segments.next().and_then(project_name).ok_or_else(shape)?;
        let name = repository_of_host(&registry.host).or_else(|| segments.next());
        let name = name.filter(|name| is_name(name)).ok_or_else(shape)?.to_owned();
        // What people copy: the repository itself, or its index.
        if !matches!(segments.collect::<Vec<_>>().as_slice(), [] | ["" | "simple"] | ["simple", ""]) {
            return Err(shape());
        }
        Ok(Self { place: Place::Host(registry.host), project, name })
    }

    /// Whether it is of that host.
    pub(super) fn reaches(&self, host: &str) -> bool {
        self.place.covers(host)
    }

    pub(super) fn covers(&self, registry: &Registry) -> bool {
        let same = |(project, name): &(String, String)| *project == self.project && *name == self.name;
        registry.repository.as_ref().is_some_and(same) && self.place.covers(&registry.host)
    }
}

impl Place {
    fn covers(&self, host: &str) -> bool {
        match self {
            Self::Location(place) => location(host) == Some(place),
            Self::Host(own) => own == host,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Location(place) => write!(f, "{place}/{}/{}", self.project, self.name),
            Place::Host(host) => f.write_str(&address(host, &self.project, &self.name)),
        }
    }
}

/// The pattern that a person would write for a repository.
pub(super) fn written(host: &str, project: &str, name: &str) -> String {
    location(host).map_or_else(|| address(host, project, name), |place| format!("{place}/{project}/{name}"))
}

fn address(host: &str, project: &str, name: &str) -> String {
    match repository_of_host(host) {
        Some(_) => format!("https://{host}/{project}"),
        None => format!("https://{host}/{project}/{name}"),
    }
}

/// A project, with its colon written plainly.
fn project_name(segment: &str) -> Option<String> {
    registry::project(segment).filter(|project| is_name(project)).map(Cow::into_owned)
}

/// A project or a repository, which begins with a letter or digit.
fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric()) && text.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{ExtraRegistry, Format};

    fn hosts() -> Hosts {
        Hosts::new(&[ExtraRegistry { host: "localhost:8443".to_owned(), format: Format::Python }])
    }

    #[test]
    fn what_is_no_repository_is_told() {
        for text in [
            "",
            "us",
            "us/acme",
            "us/acme/",
            "us/acme/private/simple",
            "us//private",
            "us/../private",
            "us/acme/*",
            "/us/acme/private",
            "US/acme/private",
            "eu/acme/private",
            "xus/acme/private",
            "pdm-pypi-us/acme/private",
            "https://eu-python.pkg.dev/acme/private",
            "https://pdm-pypi-us-python.pkg.dev/acme/private",
            "http://us-python.pkg.dev/acme/private/",
            "https://us-python.pkg.dev/acme",
            "https://us-python.pkg.dev/acme/private/hello/",
            "https://us-python.pkg.dev/acme/private/?x",
            "https://u@us-python.pkg.dev/acme/private/",
            "https://us-python.pkg.dev:8443/acme/private/",
            "https://evilpkg.dev/acme/private/",
        ] {
            assert!(Pattern::parse(text, &hosts()).is_err(), "{text:?}");
        }
        for text in ["us/acme/private", "https://localhost:8443/acme/private", "https://eu.gcr.io/acme"] {
            assert_eq!(Pattern::parse(text, &hosts()).unwrap().to_string(), text);
        }
    }
}
