//! One Python repository as a base of addresses, and what a path below `/index/` asks for.
//!
//! A path is taken apart once, by plain segments: nothing is decoded, and a segment that could be read in two ways
//! names nothing.

use std::fmt;

use url::Url;

use super::name::ProjectName;
use crate::registry::request::plain_host;
use crate::registry::{self, Format, Hosts, is_plain};

/// A repository that serves the Simple API at `https://HOST/PROJECT/REPOSITORY/simple/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repository {
    simple: Url,
}

/// What a path below `/index/` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `HOST/PROJECT/REPOSITORY/simple/`: the names of all projects. Artifact Registry answers 404.
    Names(Repository),
    /// `HOST/PROJECT/REPOSITORY/simple/NAME/`, with or without the last slash, or with one more before the name.
    Page(Repository, ProjectName),
    /// Anything else of a repository, as the path below `/registry/`: files beside the index, and the upload to
    /// `HOST/PROJECT/REPOSITORY/`. Passes as if it had been asked for there.
    Registry(String),
}

impl Repository {
    /// `host` has its port where it is not 443. None where a part is not plain.
    #[must_use]
    pub fn new(host: &str, project: &str, name: &str) -> Option<Self> {
        let project = registry::project(project)?;
        if host.is_empty() || host.contains('@') || !is_plain(name) {
            return None;
        }
        let text = format!("https://{host}/{project}/{name}/simple/");
        // A host that the parser writes in another way is not the host that was granted.
        let simple = Url::parse(&text).ok().filter(|url| url.as_str() == text)?;
        Some(Self { simple })
    }

    /// Reads a repository as people write it: `LOCATION/PROJECT/REPOSITORY`, its URL, or that of its index. None where
    /// it is no Python repository of a registry that may see a token.
    #[must_use]
    pub fn parse(text: &str, hosts: &Hosts) -> Option<Self> {
        let url = match (text.contains("://"), text.split_once('/')) {
            (true, _) => text.to_owned(),
            (false, Some((location, rest))) => format!("https://{location}-python.pkg.dev/{rest}"),
            (false, None) => return None,
        };
        let registry = hosts.resolve(&url).ok().filter(|registry| registry.format == Format::Python)?;
        let (project, name) = registry.repository?;
        let path = url.split_once("://")?.1.split_once('/')?.1;
        let rest = path.splitn(3, '/').nth(2).unwrap_or_default();
        // What people copy: the repository itself, or its index.
        matches!(rest.trim_matches('/'), "" | "simple")
            .then(|| Self::new(&registry.host, &project, &name))
            .flatten()
    }

    /// `HOST/PROJECT/REPOSITORY`
    #[must_use]
    pub fn place(&self) -> &str {
        self.simple.as_str().trim_start_matches("https://").trim_end_matches("/simple/")
    }

    /// Where the names of all projects are, and below which its pages are.
    #[must_use]
    pub fn simple(&self) -> &Url {
        &self.simple
    }

    #[must_use]
    pub fn page(&self, name: &ProjectName) -> Url {
        page_below(&self.simple, name)
    }
}

impl fmt::Display for Repository {
    /// `https://HOST/PROJECT/REPOSITORY`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.simple.as_str().trim_end_matches("/simple/"))
    }
}

impl Target {
    /// Takes a path apart that stands behind `/index/`. None where it names no repository.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let mut parts = path.splitn(4, '/');
        let (host, project, name, rest) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
        let repository = Repository::new(&plain_host(host), project, name)?;
        match rest.and_then(|rest| rest.strip_prefix("simple/")) {
            None => Some(Self::Registry(path.to_owned())),
            Some("") => Some(Self::Names(repository)),
            Some(page) => {
                // pipenv puts a slash behind the address of an index, which has one.
                let page = page.strip_prefix('/').unwrap_or(page);
                let page = page.strip_suffix('/').unwrap_or(page);
                match page.parse() {
                    Ok(name) => Some(Self::Page(repository, name)),
                    // A file below `simple/`, as some servers have them.
                    Err(_) => Some(Self::Registry(path.to_owned())),
                }
            }
        }
    }
}

/// The page of a project below the root of an index, which ends in a slash.
pub(super) fn page_below(root: &Url, name: &ProjectName) -> Url {
    let mut page = root.clone();
    let path = format!("{}{name}/", root.path());
    page.set_path(&path);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> Repository {
        Repository::new("europe-python.pkg.dev", "acme", "private").unwrap()
    }

    #[test]
    fn a_path_is_a_page_the_names_or_the_registry_s() {
        let page = || Some(Target::Page(repository(), "hello-lib".parse().unwrap()));
        let cases = [
            ("simple/hello-lib/", page()),
            ("simple/hello-lib", page()),
            ("simple/Hello_Lib/", page()),
            ("simple//hello-lib/", page()),
            ("simple/", Some(Target::Names(repository()))),
        ];
        for (path, expected) in cases {
            let path = format!("europe-python.pkg.dev/acme/private/{path}");
            assert_eq!(Target::parse(&path), expected, "{path}");
        }
        assert_eq!(
            Target::parse("localhost%3A8443/acme/private/simple/hello-lib/"),
            Target::parse("localhost:8443/acme/private/simple/hello-lib/")
        );
        assert_eq!(
            Target::parse("localhost:8443/acme.example%3Ap/private/simple/hello-lib/"),
            Target::parse("localhost:8443/acme.example:p/private/simple/hello-lib/")
        );
        for path in
            ["", "simple", "hello/hello-1.0.whl", "simple/hello/hello-1.0.whl", "simple//", "simple///hello/"]
        {
            let path = format!("europe-python.pkg.dev/acme/private/{path}");
            assert_eq!(Target::parse(&path), Some(Target::Registry(path.clone())), "{path}");
        }
    }

    #[test]
    fn a_path_that_could_be_read_in_two_ways_names_nothing() {
        for path in [
            "",
            "/",
            "host.test",
            "host.test/acme",
            "host.test/acme/",
            "host.test//private/simple/",
            "host.test/../private/simple/",
            "host.test/acme/%2e%2e/simple/",
            "host.test/acme/a%2fb/simple/",
            "HOST.test/acme/private/simple/",
            "user@host.test/acme/private/simple/",
            "host.test:443/acme/private/simple/",
            "host.test\\x/acme/private/simple/",
            "host.test?x/acme/private/simple/",
            "host.test#x/acme/private/simple/",
            "/acme/private/simple/",
        ] {
            assert_eq!(Target::parse(path), None, "{path}");
        }
    }

    #[test]
    fn addresses_are_those_of_the_repository() {
        let repository = Repository::new("localhost:8443", "acme", "private").unwrap();
        let name = "Hello.Lib".parse().unwrap();
        assert_eq!(repository.page(&name).as_str(), "https://localhost:8443/acme/private/simple/hello-lib/");
        assert_eq!(repository.to_string(), "https://localhost:8443/acme/private");
    }
}
