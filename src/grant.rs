//! What one listener may do for its peers. A listener compiles its routes from its grant: what is not granted has
//! no route and answers like any other unknown path.
//!
//! A proxy grant is confined to repositories. It is compared with what was read from the path of a request, name by
//! name, so that `acme/private` says nothing about `acme/private-too`.

mod origin;
mod pattern;

pub use self::origin::Origin;

use self::pattern::written;
pub use self::pattern::{Pattern, PatternFault};
use crate::ask::{Access, Whose};
use crate::error::{Failure, Kind};
use crate::registry::google::every_host;
use crate::registry::{Hosts, Registry};

/// What one listener gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whether tokens are handed out, and the widest access of one. A token is as wide as its identity and scope;
    /// it cannot be confined to a repository.
    pub credential: Option<Access>,
    /// Whether a token is handed out even where its source cannot narrow it to that access.
    pub unnarrowed: bool,
    /// Whether requests are made in the place of a peer, and for which repositories.
    pub proxy: Option<ProxyGrant>,
    /// Whether an ask may name its source. True only where every peer could read the file itself.
    pub named_sources: bool,
    /// Status, stop, reload and metrics.
    pub control: bool,
}

/// Requests that valetkey makes itself, with the token that the peer never sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyGrant {
    /// The widest access of a request.
    pub access: Access,
    pub repositories: Repositories,
    /// What was wished for and is beyond the policy of this machine.
    pub withheld: Vec<Pattern>,
    /// Where it was written, and more could be.
    pub origin: Origin,
    /// Whose token is used.
    pub whose: Whose,
}

/// Which repositories a grant is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repositories {
    /// Whatever the identity behind the token may reach.
    Every,
    /// These and no other. None listed: none.
    Listed(Vec<Pattern>),
}

impl Grant {
    /// What the owner of the daemon gets on the owner's socket.
    #[must_use]
    pub fn owner() -> Self {
        let proxy = ProxyGrant::new(Access::Write, Repositories::Every, Origin::Owner);
        Self {
            credential: Some(Access::Write),
            unnarrowed: true,
            proxy: Some(proxy),
            named_sources: true,
            control: true,
        }
    }

    /// Nothing at all.
    #[must_use]
    pub fn nothing() -> Self {
        Self { credential: None, unnarrowed: false, proxy: None, named_sources: false, control: false }
    }

    /// The forms in words, for `status` and the audit log.
    #[must_use]
    pub fn forms(&self) -> Vec<&'static str> {
        let credential = self.credential.map(|access| match access {
            Access::Read => "credential, read",
            Access::Write => "credential, read-write",
        });
        let proxy = self.proxy.as_ref().map(|proxy| match proxy.access {
            Access::Read => "proxy, read",
            Access::Write => "proxy, read-write",
        });
        credential.into_iter().chain(proxy).chain(self.control.then_some("control")).collect()
    }
}

impl ProxyGrant {
    #[must_use]
    pub fn new(access: Access, repositories: Repositories, origin: Origin) -> Self {
        Self { access, repositories, withheld: Vec::new(), origin, whose: Whose::default() }
    }

    /// Whether a request may be made.
    ///
    /// # Errors
    /// When the repository is not listed or only reading is granted. Both say what would grant it.
    pub fn check(&self, registry: &Registry, access: Access) -> Result<(), Failure> {
        let Some((project, name)) = &registry.repository else {
            let text = format!("this path names no repository of {}", registry.host);
            return Err(Failure::new(Kind::Refused, text));
        };
        if let Repositories::Listed(patterns) = &self.repositories
            && !patterns.iter().any(|pattern| pattern.covers(registry))
        {
            let place = format!("{project}/{name} at {}", registry.host);
            if self.withheld.iter().any(|pattern| pattern.covers(registry)) {
                let text = format!("the policy of this machine does not allow {place} here");
                return Err(Failure::new(Kind::Refused, text));
            }
            let failure = Failure::new(Kind::Refused, format!("{place} is not granted here"));
            let listed: Vec<_> = patterns.iter().chain(&self.withheld).map(ToString::to_string).collect();
            let hint = self.origin.list(&written(&registry.host, project, name), &listed);
            return Err(Failure { hint, ..failure });
        }
        if access > self.access {
            let text =
                format!("reading {project}/{name} at {} is granted here, writing is not", registry.host);
            return Err(Failure { hint: self.origin.widen(), ..Failure::new(Kind::Refused, text) });
        }
        Ok(())
    }

    /// Whether any repository of a host is granted.
    #[must_use]
    pub fn reaches(&self, host: &str) -> bool {
        match &self.repositories {
            Repositories::Every => true,
            Repositories::Listed(patterns) => patterns.iter().any(|pattern| pattern.reaches(host)),
        }
    }
}

impl ProxyGrant {
    /// The hosts that it is about, exact or as `*.SUFFIX`, for whoever has to know them beforehand.
    #[must_use]
    pub fn hosts(&self, known: &Hosts) -> Vec<String> {
        let mut hosts: Vec<String> = match &self.repositories {
            Repositories::Every => {
                every_host().map(str::to_owned).chain(known.extra().map(str::to_owned)).collect()
            }
            Repositories::Listed(patterns) => patterns.iter().flat_map(Pattern::hosts).collect(),
        };
        hosts.sort();
        hosts.dedup();
        hosts
    }
}

impl Repositories {
    /// The list, where there is one.
    #[must_use]
    pub fn listed(&self) -> Option<&[Pattern]> {
        match self {
            Self::Every => None,
            Self::Listed(patterns) => Some(patterns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{ExtraRegistry, Format};

    fn hosts() -> Hosts {
        Hosts::new(&[ExtraRegistry { host: "localhost:8443".to_owned(), format: Format::Python }])
    }

    fn check(patterns: &[&str], access: Access, url: &str) -> Result<(), Failure> {
        let patterns = patterns.iter().map(|text| Pattern::parse(text, &hosts()).unwrap()).collect();
        let grant = ProxyGrant::new(Access::Read, Repositories::Listed(patterns), Origin::Build(None));
        let (host, path) = url.split_at(url.find('/').unwrap());
        grant.check(&hosts().locate(host, path).unwrap(), access)
    }

    #[test]
    fn listed_repositories_are_granted_and_their_neighbours_are_not() {
        let read = |patterns: &[&str], url: &str| check(patterns, Access::Read, url).is_ok();
        let one = ["us/acme/private"];
        for url in [
            "us-python.pkg.dev/acme/private/simple/hello/",
            "us-docker.pkg.dev/v2/acme/private/app/manifests/1",
            "us-apt.pkg.dev/projects/acme/pool/private/a.deb",
            "python.us.rep.pkg.dev/acme/private/simple/",
        ] {
            assert!(read(&one, url), "{url}");
        }
        for url in [
            "us-python.pkg.dev/acme/private-too/simple/",
            "us-python.pkg.dev/acme/privat/simple/",
            "us-python.pkg.dev/acme/Private/simple/",
            "us-python.pkg.dev/acme-too/private/simple/",
            "us-python.pkg.dev/private/acme/simple/",
            "us-east1-python.pkg.dev/acme/private/simple/",
            "us-apt.pkg.dev/projects/acme/pool/other/private/a.deb",
            "us-docker.pkg.dev/v2/example.com/acme/private/app/manifests/1",
            "localhost:8443/acme/private/simple/",
            "us-python.pkg.dev/acme",
        ] {
            assert!(!read(&one, url), "{url}");
            assert!(!read(&[], url), "{url}");
        }
        let host = ["https://us-python.pkg.dev/acme/private/simple/", "https://localhost:8443/acme/private"];
        assert!(read(&host, "us-python.pkg.dev/acme/private/simple/"));
        assert!(read(&host, "localhost:8443/acme/private/simple/"));
        assert!(!read(&host, "us-npm.pkg.dev/acme/private/x"));
        assert!(read(&["https://gcr.io/acme"], "gcr.io/v2/acme/app/manifests/1"));
        for written in
            ["us/acme.example:p/private", "https://us-python.pkg.dev/acme.example%3Ap/private/simple/"]
        {
            assert!(read(&[written], "us-python.pkg.dev/acme.example%3Ap/private/simple/"), "{written}");
            assert!(read(&[written], "us-python.pkg.dev/acme.example:p/private/simple/"), "{written}");
            assert!(!read(&[written], "us-python.pkg.dev/p/private/simple/"), "{written}");
        }
        assert!(read(&["us/acme/gcr.io"], "gcr.io/v2/acme/app/manifests/1"));
        assert!(!read(&["us/acme/gcr.io"], "gcr.io/v2/acme-too/app/manifests/1"));
    }

    #[test]
    fn a_refusal_names_the_line_that_would_grant_it() {
        let refused =
            check(&[], Access::Read, "europe-west1-python.pkg.dev/acme/private/simple/").unwrap_err();
        let hint = "add to config.toml where the daemon runs: [build] repositories = [\"europe-west1/acme/private\"]";
        assert_eq!((refused.kind, refused.hint.as_deref()), (Kind::Refused, Some(hint)));
        let refused = check(&[], Access::Read, "localhost:8443/acme/private/simple/").unwrap_err();
        assert!(refused.hint.unwrap().ends_with("[\"https://localhost:8443/acme/private\"]"));
        let refused = check(&["us/a/b"], Access::Write, "us-python.pkg.dev/a/b/").unwrap_err();
        assert!(refused.message.contains("writing is not"), "{refused}");
        let line =
            "upload from outside, or set in config.toml where the daemon runs: [build] access = \"write\"";
        assert_eq!(refused.hint.as_deref(), Some(line));
    }
}
