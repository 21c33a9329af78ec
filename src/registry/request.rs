//! Which repository a request to a registry is about: the shapes of paths that Artifact Registry serves, a format at
//! a time.
//!
//! What a client names to a keyring ([`super::Hosts::resolve`]) is its index or its file; this is about the requests
//! themselves. A grant is checked against what is read here, so a path is read in one way or not at all: a shape that
//! is not known names no repository.

use std::borrow::Cow;

use super::{Format, Hosts, Registry, Rejection, google_format, is_plain, project};
use crate::ask::Access;

impl Hosts {
    /// Decides what a request to `https://HOST/PATH` is about. The host has to be written as the registry's name is:
    /// in lower case, with a port only where the configuration names one. The repository is absent where the path
    /// names none.
    ///
    /// # Errors
    /// When it is not a registry that may see a token.
    pub fn locate(&self, host: &str, path: &str) -> Result<Registry, Rejection> {
        let registry = self.resolve(host)?;
        if registry.host != host {
            return Err(Rejection::NotOurs);
        }
        let repository = repository(host, registry.format, path);
        Ok(Registry { repository, access: Access::Read, ..registry })
    }
}

/// Where a host of Google's is, as `LOCATION` in its name or by what stands behind `gcr.io`.
#[must_use]
pub fn location(host: &str) -> Option<&str> {
    google_format(host)?;
    match host.split('.').collect::<Vec<_>>().as_slice() {
        ["gcr", "io"] => Some("us"),
        ["eu", "gcr", "io"] => Some("europe"),
        [place, "gcr", "io"] | [_, place, "rep", "pkg", "dev"] => Some(place),
        [first, "pkg", "dev"] => Some(first.rsplit_once('-')?.0),
        _ => None,
    }
}

/// The name of the repository that Google keeps for a host of the older kind, which is the host itself.
#[must_use]
pub fn repository_of_host(host: &str) -> Option<&str> {
    (host == "gcr.io" || host.ends_with(".gcr.io")).then_some(host)
}

/// `/v2/`: what a docker client asks first, of no repository.
#[must_use]
pub fn is_version_check(format: Format, path: &str) -> bool {
    format == Format::Docker && (path == "/v2/" || path == "/v2")
}

/// The key that signs the lists of packages, which everybody may read: of no repository, and wanted before there is any
/// way to name a credential.
#[must_use]
pub fn is_public_key(format: Format, path: &str) -> bool {
    matches!(format, Format::Apt | Format::Yum) && path == "/doc/repo-signing-key.gpg"
}

/// A host as it stands in a path of ours. pip escapes whatever it can in a link, and so the colon before a port.
#[must_use]
pub fn plain_host(host: &str) -> Cow<'_, str> {
    match host.split_once("%3A").or_else(|| host.split_once("%3a")) {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Cow::Owned(format!("{name}:{port}"))
        }
        _ => Cow::Borrowed(host),
    }
}

/// The repository in a path of a format.
fn repository(host: &str, format: Format, path: &str) -> Option<(String, String)> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let (written, name) = match (format, segments.as_slice()) {
        // Where downloads and uploads of every format are sent on to, on the same host.
        (_, ["artifacts-downloads" | "artifacts-uploads", rest @ ..]) => match rest {
            ["namespaces", project, "repositories", name, _, ..] => ((*project).to_owned(), *name),
            _ => return None,
        },
        (Format::Docker, ["v2", rest @ ..]) => image(host, rest)?,
        (Format::Apt, ["projects", project, "dists" | "pool", name, _, ..])
        | (Format::Yum, ["projects", project, name, _, ..])
        | (Format::Googet, ["projects", project, "repos", name, _, ..])
        | (
            Format::Python | Format::Npm | Format::Maven | Format::Go | Format::Generic | Format::Kfp,
            [project, name, ..],
        ) => ((*project).to_owned(), *name),
        _ => return None,
    };
    is_plain(name).then(|| Some((project(&written)?.into_owned(), name.to_owned()))).flatten()
}

/// What stands behind `/v2/`. No project has a dot in its name but one of an organisation with a domain, which
/// docker's paths write in two segments; `token` and `_catalog` are no projects.
fn image<'a>(host: &'a str, segments: &[&'a str]) -> Option<(String, &'a str)> {
    let (project, rest) = match segments {
        [domain, project, rest @ ..] if domain.contains('.') => (format!("{domain}:{project}"), rest),
        [project, rest @ ..] if *project != "token" && !project.starts_with('_') => {
            ((*project).to_owned(), rest)
        }
        _ => return None,
    };
    match (repository_of_host(host), rest) {
        (Some(name), [_, _, ..]) => Some((project, name)),
        (None, [name, _, _, ..]) => Some((project, *name)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ExtraRegistry;

    fn located(url: &str) -> Option<String> {
        let extra = ExtraRegistry { host: "localhost:8443".to_owned(), format: Format::Python };
        let (host, path) = url.split_at(url.find('/').unwrap());
        Hosts::new(&[extra]).locate(host, path).ok()?.repository_name()
    }

    #[test]
    fn each_format_says_its_repository_in_its_own_way() {
        for (url, repository) in [
            ("us-python.pkg.dev/acme/private/simple/hello/", "acme/private"),
            ("us-python.pkg.dev/acme/private/", "acme/private"),
            ("us-python.pkg.dev/acme/private", "acme/private"),
            ("us-python.pkg.dev/acme.example%3Ap/private/hello/hello-1.0.whl", "acme.example:p/private"),
            (
                "us-python.pkg.dev/artifacts-downloads/namespaces/acme.example%3ap/repositories/private/downloads/x",
                "acme.example:p/private",
            ),
            ("localhost:8443/acme/private/simple/", "acme/private"),
            ("us-npm.pkg.dev/acme/private/@scope/name/-/@scope/name-1.0.0.tgz", "acme/private"),
            ("us-maven.pkg.dev/acme/private/com/example/a/maven-metadata.xml", "acme/private"),
            ("us-go.pkg.dev/acme/private/example.com/!mod/@v/list", "acme/private"),
            ("us-generic.pkg.dev/acme/private/a:1:b", "acme/private"),
            ("us-kfp.pkg.dev/acme/private/pipeline/v1", "acme/private"),
            ("us-apt.pkg.dev/projects/acme/dists/private/InRelease", "acme/private"),
            ("us-apt.pkg.dev/projects/acme/pool/private/a_1_amd64_0.deb", "acme/private"),
            ("us-yum.pkg.dev/projects/acme/private/repodata/repomd.xml", "acme/private"),
            ("us-googet.pkg.dev/projects/acme/repos/private/index", "acme/private"),
            ("us-docker.pkg.dev/v2/acme/private/app/manifests/latest", "acme/private"),
            ("docker.us-east1.rep.pkg.dev/v2/acme/private/app/blobs/uploads/", "acme/private"),
            ("us-docker.pkg.dev/v2/example.com/acme/private/app/tags/list", "example.com:acme/private"),
            ("us-python.pkg.dev/example.com:acme/private/simple/", "example.com:acme/private"),
            ("gcr.io/v2/acme/app/manifests/1", "acme/gcr.io"),
            ("eu.gcr.io/v2/example.com/acme/app/manifests/1", "example.com:acme/eu.gcr.io"),
            (
                "us-python.pkg.dev/artifacts-downloads/namespaces/acme/repositories/private/downloads/x",
                "acme/private",
            ),
            (
                "us-docker.pkg.dev/artifacts-uploads/namespaces/acme/repositories/private/uploads/x",
                "acme/private",
            ),
        ] {
            assert_eq!(located(url).as_deref(), Some(repository), "{url}");
        }
    }

    #[test]
    fn what_names_no_repository_has_none() {
        for url in [
            "us-python.pkg.dev/",
            "us-python.pkg.dev/acme",
            "us-python.pkg.dev/acme/",
            "us-python.pkg.dev//private/simple/",
            "us-python.pkg.dev/../private/simple/",
            "us-python.pkg.dev/acme/%70rivate/simple/",
            "us-python.pkg.dev/artifacts-downloads/namespaces/acme",
            "us-python.pkg.dev/artifacts-downloads/x/acme/repositories/private/downloads/y",
            "us-docker.pkg.dev/acme/private/app",
            "us-docker.pkg.dev/v2/",
            "us-docker.pkg.dev/v2/token",
            "us-docker.pkg.dev/v2/token/a/b/c",
            "us-docker.pkg.dev/v2/_catalog",
            "us-docker.pkg.dev/v2/acme/private",
            "us-docker.pkg.dev/v2/acme/private/app",
            "us-docker.pkg.dev/v2/example.com/acme/private/app",
            "gcr.io/v2/acme/app",
            "us-apt.pkg.dev/projects/acme/private/InRelease",
            "us-apt.pkg.dev/acme/private/dists/x",
            "us-yum.pkg.dev/acme/private/repodata/repomd.xml",
            "us-googet.pkg.dev/projects/acme/private/index",
            // Not as the registry's name is written.
            "US-python.pkg.dev/acme/private/simple/",
            "us-python.pkg.dev:443/acme/private/simple/",
            "u@us-python.pkg.dev/acme/private/simple/",
            "localhost/acme/private/simple/",
            "evilpkg.dev/acme/private/simple/",
        ] {
            assert_eq!(located(url), None, "{url}");
        }
    }

    #[test]
    fn places_are_read_from_googles_hosts_only() {
        for (host, place) in [
            ("europe-west1-python.pkg.dev", Some("europe-west1")),
            ("us-docker.pkg.dev", Some("us")),
            ("docker.europe-west1.rep.pkg.dev", Some("europe-west1")),
            ("gcr.io", Some("us")),
            ("eu.gcr.io", Some("europe")),
            ("asia.gcr.io", Some("asia")),
            ("localhost:8443", None),
            ("us-python.evilpkg.dev", None),
        ] {
            assert_eq!(location(host), place, "{host}");
        }
    }
}
