//! What a service name points at, and the one decision whether a host may ever see a Google token.
//!
//! Clients name a service in many shapes: an index URL, a file URL, a URL with `user@`, a bare `host` or
//! `host:port`, or a name that is no URL at all. [`Hosts::resolve`] accepts exactly Google's registry hosts and
//! the hosts that the configuration file names, over https, on their own port. Everything else is refused before
//! any parser could be tricked: one pass over plain ASCII, no normalisation, no decoding, no guessing.

pub mod request;

use std::borrow::Cow;

use crate::ask::Access;
pub use crate::config::{ExtraRegistry, Format};

/// A registry that may see a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Lower case, with the port where it is not 443.
    pub host: String,
    pub format: Format,
    /// `PROJECT` and `REPOSITORY`, where the path says them.
    pub repository: Option<(String, String)>,
    /// What the URL implies: exactly `/PROJECT/REPOSITORY` on a Python host is where uploads go; all else reads.
    pub access: Access,
}

/// Why a service gets nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// Not a registry of ours. Clients ask every keyring about every service, so this is the normal case.
    NotOurs,
    /// A registry of ours, asked for in a way that would send the token in clear or to another server. `host` is
    /// what the right URL would name.
    Insecure { host: String, reason: &'static str },
}

/// The hosts that may see a token.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    extra: Vec<ExtraRegistry>,
}

impl Hosts {
    /// Google's hosts and those that the configuration file names.
    #[must_use]
    pub fn new(extra: &[ExtraRegistry]) -> Self {
        Self { extra: extra.to_vec() }
    }

    /// The hosts that the configuration file names.
    pub fn extra(&self) -> impl Iterator<Item = &str> {
        self.extra.iter().map(|extra| extra.host.as_str())
    }

    /// Decides what a service name points at.
    ///
    /// # Errors
    /// When it is not a registry that may see a token.
    pub fn resolve(&self, service: &str) -> Result<Registry, Rejection> {
        let plain = |byte: u8| (0x21..=0x7e).contains(&byte) && byte != b'\\';
        if service.len() > LONGEST || !service.bytes().all(plain) {
            return Err(Rejection::NotOurs);
        }
        let (scheme, rest) = match service.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, service),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        // A user name may stand in a URL; in a bare host it has no meaning. Two of them are a trick.
        let address = match (scheme, authority.split_once('@')) {
            (_, None) => authority,
            (Some(_), Some((_, address))) if !address.contains('@') => address,
            _ => return Err(Rejection::NotOurs),
        };
        let address = address.to_ascii_lowercase();
        let (host, port) = match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address.as_str(), None),
        };
        if !host.split('.').all(is_label) {
            return Err(Rejection::NotOurs);
        }
        let (name, format) = self.admit(host, port)?;
        if !scheme.is_none_or(|scheme| scheme.eq_ignore_ascii_case("https")) {
            let reason = "it is not https, so the token would travel in clear";
            return Err(Rejection::Insecure { host: name, reason });
        }
        let repository = repository(path);
        let upload =
            scheme.is_some() && format == Format::Python && repository.as_ref().is_some_and(|it| it.exact);
        Ok(Registry {
            host: name,
            format,
            repository: repository.map(|it| (it.project, it.name)),
            access: if upload { Access::Write } else { Access::Read },
        })
    }

    /// Whether host and port are exactly one that may see a token.
    fn admit(&self, host: &str, port: Option<&str>) -> Result<(String, Format), Rejection> {
        let secure = matches!(port, None | Some("443"));
        let elsewhere = |right: &str| {
            let reason = "it is not the registry's own port";
            Err(Rejection::Insecure { host: right.to_owned(), reason })
        };
        if let Some(format) = google_format(host) {
            return if secure { Ok((host.to_owned(), format)) } else { elsewhere(host) };
        }
        let address = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let named = self.extra.iter().find(|extra| {
            let (extra_host, extra_port) = extra.host.split_once(':').unwrap_or((&extra.host, "443"));
            extra_host == host && extra_port == port.unwrap_or("443")
        });
        match named {
            Some(extra) if secure => Ok((host.to_owned(), extra.format)),
            Some(extra) => Ok((address, extra.format)),
            None if port.is_some() && self.extra.iter().any(|extra| extra.host == host) => elsewhere(host),
            None => Err(Rejection::NotOurs),
        }
    }
}

impl Registry {
    /// `PROJECT/REPOSITORY`, for logs.
    #[must_use]
    pub fn repository_name(&self) -> Option<String> {
        self.repository.as_ref().map(|(project, name)| format!("{project}/{name}"))
    }
}

/// What Google serves on a host, if it is one of Google's registry hosts. Labels are compared whole.
fn google_format(host: &str) -> Option<Format> {
    let labels: Vec<&str> = host.split('.').collect();
    match labels.as_slice() {
        ["gcr", "io"] | ["us" | "eu" | "asia", "gcr", "io"] => Some(Format::Docker),
        [first, "pkg", "dev"] => {
            let (location, format) = first.rsplit_once('-')?;
            is_label(location).then(|| Format::from_word(format)).flatten()
        }
        // Regional endpoints.
        [format, _location, "rep", "pkg", "dev"] => Format::from_word(format),
        _ => None,
    }
}

/// A DNS label in lower case. Labels that carry punycode are refused: no registry has one.
fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
        && !label.starts_with("xn--")
}

struct Repository {
    project: String,
    name: String,
    /// The path is `/PROJECT/REPOSITORY` or the same with one slash behind it, and nothing else.
    exact: bool,
}

/// Reads `/PROJECT/REPOSITORY/…`. Segments that could be read in two ways name no repository.
fn repository(path: &str) -> Option<Repository> {
    let mut segments = path.strip_prefix('/')?.splitn(3, '/');
    let (project, name, rest) = (project(segments.next()?)?, segments.next()?, segments.next());
    let exact = rest.is_none_or(str::is_empty);
    is_plain(name).then(|| Repository { project: project.into_owned(), name: name.into(), exact })
}

/// The name of a project as a segment of a path writes it. That of an organisation with a domain has a colon
/// (`example.com:project`), which pip and twine escape. None where it can be read in more than one way.
#[must_use]
pub fn project(segment: &str) -> Option<Cow<'_, str>> {
    let project = match segment.split_once("%3A").or_else(|| segment.split_once("%3a")) {
        Some((domain, name)) if !domain.contains(':') => Cow::Owned(format!("{domain}:{name}")),
        _ => Cow::Borrowed(segment),
    };
    is_plain(&project).then_some(project)
}

/// Whether a segment can be the name of a project or a repository, and can be read in one way only.
#[must_use]
pub fn is_plain(segment: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(good)
}

/// No client sends a longer service name.
const LONGEST: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hosts() -> Hosts {
        let extra = |host: &str| ExtraRegistry { host: host.to_owned(), format: Format::Python };
        Hosts::new(&[extra("packages.corp.test"), extra("localhost:8443")])
    }

    fn accepted(service: &str) -> Option<Registry> {
        hosts().resolve(service).ok()
    }

    #[test]
    fn every_shape_that_clients_send_is_understood() {
        let host = "europe-west1-python.pkg.dev";
        for service in [
            "https://europe-west1-python.pkg.dev/acme/private/simple/",
            "https://europe-west1-python.pkg.dev/acme/private/simple",
            "https://oauth2accesstoken@europe-west1-python.pkg.dev/acme/private/simple/",
            "https://oauth2accesstoken:@europe-west1-python.pkg.dev/acme/private/simple/",
            "https://europe-west1-python.pkg.dev/acme/private/hello/hello-1.0-py3-none-any.whl#sha256=00",
            "HTTPS://Europe-West1-Python.PKG.dev:443/acme/private/simple/",
            "europe-west1-python.pkg.dev/acme/private/",
        ] {
            let registry = accepted(service).unwrap_or_else(|| panic!("{service}"));
            assert_eq!(registry.host, host, "{service}");
            assert_eq!(registry.repository_name().as_deref(), Some("acme/private"), "{service}");
            assert_eq!(registry.access, Access::Read, "{service}");
        }
        for service in ["europe-west1-python.pkg.dev", "europe-west1-python.pkg.dev:443", "us.gcr.io"] {
            assert_eq!(accepted(service).unwrap().repository, None, "{service}");
        }
        for (service, format) in [
            ("https://us-docker.pkg.dev/p/r", Format::Docker),
            ("https://gcr.io/p", Format::Docker),
            ("docker.europe-west1.rep.pkg.dev", Format::Docker),
            ("https://us-npm.pkg.dev/p/r/", Format::Npm),
        ] {
            assert_eq!(accepted(service).unwrap().format, format, "{service}");
        }
    }

    #[test]
    fn only_the_upload_url_of_a_python_repository_asks_for_write() {
        for (service, access) in [
            ("https://us-python.pkg.dev/p/r", Access::Write),
            ("https://us-python.pkg.dev/p/r/", Access::Write),
            ("https://us-python.pkg.dev/p/r//", Access::Read),
            ("https://us-python.pkg.dev/p/r/?x", Access::Read),
            ("https://us-python.pkg.dev/p/r?x", Access::Read),
            ("https://us-python.pkg.dev/p", Access::Read),
            ("https://us-python.pkg.dev/p/..", Access::Read),
            ("https://us-python.pkg.dev/p/%2e", Access::Read),
            ("https://us-npm.pkg.dev/p/r/", Access::Read),
            ("us-python.pkg.dev/p/r/", Access::Read),
        ] {
            assert_eq!(accepted(service).unwrap().access, access, "{service}");
        }
    }

    #[test]
    fn the_colon_in_a_project_of_a_domain_may_be_escaped_and_nothing_else() {
        for written in ["acme.example:p", "acme.example%3Ap", "acme.example%3ap"] {
            let read = accepted(&format!("https://us-python.pkg.dev/{written}/r/simple/")).unwrap();
            assert_eq!(read.repository_name().as_deref(), Some("acme.example:p/r"), "{written}");
            assert_eq!(read.access, Access::Read);
            let upload = accepted(&format!("https://us-python.pkg.dev/{written}/r/")).unwrap();
            assert_eq!(upload.repository_name(), read.repository_name(), "{written}");
            assert_eq!(upload.access, Access::Write, "{written}");
        }
        for written in [
            "acme.example%253Ap",
            "acme%2Eexample:p",
            "a%3Ab%3Ac",
            "a:b%3Ac",
            "%3",
            "a%3",
            "a%2Fb",
            "..%3A%2e",
        ] {
            assert_eq!(project(written), None, "{written}");
            let registry = accepted(&format!("https://us-python.pkg.dev/{written}/r/")).unwrap();
            assert_eq!((registry.repository, registry.access), (None, Access::Read), "{written}");
        }
    }

    #[test]
    fn configured_hosts_are_exact_with_their_port() {
        assert!(accepted("https://packages.corp.test/p/r/simple/").is_some());
        assert!(accepted("packages.corp.test:443").is_some());
        assert!(accepted("https://localhost:8443/p/r/simple/").is_some());
        assert!(accepted("localhost:8443").is_some());
        for service in ["localhost", "https://localhost/", "localhost:443", "localhost:08443"] {
            assert_eq!(hosts().resolve(service), Err(Rejection::NotOurs), "{service}");
        }
        for service in ["http://localhost:8443/", "packages.corp.test:8443", "http://packages.corp.test/"] {
            assert!(matches!(hosts().resolve(service), Err(Rejection::Insecure { .. })), "{service}");
        }
    }

    #[test]
    fn insecure_ways_to_a_registry_are_told_apart_from_foreign_services() {
        for service in [
            "http://us-python.pkg.dev/p/r/simple/",
            "ftp://us-python.pkg.dev/",
            "https://us-python.pkg.dev:8443/p/r/simple/",
            "us-python.pkg.dev:80",
            "https://us-python.pkg.dev:0443/",
            "https://us-python.pkg.dev:/",
        ] {
            assert!(matches!(hosts().resolve(service), Err(Rejection::Insecure { .. })), "{service}");
        }
    }

    #[test]
    fn tricks_are_not_ours() {
        for service in [
            "",
            "pkg.dev",
            "python.pkg.dev",
            "-python.pkg.dev",
            "us-pythonpkg.dev",
            "us-python.pkg.dev.",
            "us-python.pkg.dev..",
            ".us-python.pkg.dev",
            "us-python..pkg.dev",
            "us-python.pkg.dev.evil.test",
            "evilpkg.dev",
            "us-python.evilpkg.dev",
            "us-evil.pkg.dev",
            "a.us-python.pkg.dev",
            "mirror.gcr.io.evil.test",
            "evil-gcr.io",
            "evil.gcr.io",
            "https://us-python.pkg.dev@evil.test/",
            "https://us-python.pkg.dev:443@evil.test/",
            "https://evil.test/@us-python.pkg.dev/",
            "https://evil.test?@us-python.pkg.dev/",
            "https://evil.test#@us-python.pkg.dev/",
            "https://a@b@us-python.pkg.dev/",
            "https://evil.test\\@us-python.pkg.dev/",
            "https://us-python.pkg.dev\\.evil.test/",
            "https://us-python%2epkg.dev/",
            "https://us-python.pkg.dev%00.evil.test/",
            "https://us-python.pkg.dev%2f.evil.test/",
            "https://us-pyth\u{3bf}n.pkg.dev/",
            "https://xn--us-pythn-9cf.pkg.dev/",
            "https://xn--a-python.pkg.dev/",
            "https://us-python.pkg\u{3002}dev/",
            "https://us-python.pkg.dev\n.evil.test/",
            "https://us-python.pkg.dev\t/",
            " https://us-python.pkg.dev/",
            "https:us-python.pkg.dev",
            "https:/us-python.pkg.dev/",
            "https:///us-python.pkg.dev/",
            "//us-python.pkg.dev/",
            "[us-python.pkg.dev]",
            "user@us-python.pkg.dev",
            "poetry-repository-acme",
            "python-poetry-check",
            "pdm-pypi-private",
        ] {
            assert_eq!(hosts().resolve(service), Err(Rejection::NotOurs), "{service:?}");
        }
        let long = format!("https://us-python.pkg.dev/{}", "a".repeat(LONGEST));
        assert_eq!(hosts().resolve(&long), Err(Rejection::NotOurs));
    }

    /// What a browser-grade parser makes of an accepted service: the second opinion.
    fn second_opinion(service: &str) -> Option<(String, u16)> {
        let url = if service.contains("://") { service.to_owned() } else { format!("https://{service}") };
        let url = url::Url::parse(&url).ok()?;
        (url.scheme() == "https").then_some(())?;
        Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
    }

    fn is_exactly_allowed(host: &str, port: u16) -> bool {
        let google = ["python", "docker", "npm", "maven", "go", "apt", "yum", "generic", "googet", "kfp"]
            .iter()
            .any(|format| {
                let rest = host.strip_suffix(".pkg.dev");
                let plain =
                    rest.and_then(|rest| rest.strip_suffix(format)).and_then(|it| it.strip_suffix('-'));
                let regional = rest
                    .and_then(|rest| rest.strip_suffix(".rep"))
                    .and_then(|rest| rest.strip_prefix(format))
                    .and_then(|rest| rest.strip_prefix('.'));
                plain.or(regional).is_some_and(|location| !location.is_empty() && !location.contains('.'))
            });
        let gcr = ["gcr.io", "us.gcr.io", "eu.gcr.io", "asia.gcr.io"].contains(&host);
        (google || gcr || host == "packages.corp.test") && port == 443 || host == "localhost" && port == 8443
    }

    fn hostile() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("https://"),
            Just("http://"),
            Just("HTTPS://"),
            Just("//"),
            Just(":"),
            Just("/"),
            Just("@"),
            Just("\\"),
            Just("?"),
            Just("#"),
            Just("."),
            Just("%2e"),
            Just("%40"),
            Just("%00"),
            Just("\u{0}"),
            Just("\t"),
            Just("\n"),
            Just(" "),
            Just("us-python"),
            Just("pkg.dev"),
            Just("us-python.pkg.dev"),
            Just("gcr.io"),
            Just("evil.test"),
            Just("evil"),
            Just("rep"),
            Just("docker"),
            Just("443"),
            Just("8443"),
            Just("localhost"),
            Just("packages.corp.test"),
            Just("xn--"),
            Just("\u{3002}"),
            Just("\u{ff0e}"),
            Just("\u{ad}"),
            Just("\u{212a}"),
            Just("["),
            Just("]"),
            Just("-"),
            Just("user"),
        ];
        proptest::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn whatever_is_accepted_is_exactly_an_allowed_host(service in hostile()) {
            if let Ok(registry) = hosts().resolve(&service) {
                let (host, port) = second_opinion(&service).expect("a second parser understands it");
                prop_assert!(is_exactly_allowed(&host, port), "{service:?} → {host}:{port}");
                prop_assert_eq!(registry.host.split(':').next(), Some(host.as_str()));
            }
        }

        #[test]
        fn any_text_is_refused_or_exact(service in "\\PC{0,60}") {
            if hosts().resolve(&service).is_ok() {
                let (host, port) = second_opinion(&service).expect("a second parser understands it");
                prop_assert!(is_exactly_allowed(&host, port), "{service:?} → {host}:{port}");
            }
        }

        #[test]
        fn one_changed_byte_of_the_host_is_never_another_host(at in 0_usize..27, byte in 0_u8..=255) {
            let mut service = b"https://europe-west1-python.pkg.dev/p/r/simple/".to_vec();
            service[8 + at] = byte;
            if let Ok(service) = String::from_utf8(service)
                && let Ok(registry) = hosts().resolve(&service)
            {
                let (host, port) = second_opinion(&service).expect("a second parser understands it");
                prop_assert!(is_exactly_allowed(&host, port), "{service:?} → {host}:{port}");
                prop_assert_eq!(registry.host, host);
            }
        }
    }
}
