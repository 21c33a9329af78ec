//! Where a request for `/registry/HOST/PATH` goes: the host and path as they came, once nothing in them can be read in
//! two ways.
//!
//! What is checked here is byte for byte what is sent. Nothing is decoded and nothing is put right: a path that a server
//! could read otherwise than the grant does, by decoding it, decoding it twice, or climbing up in it, is refused.

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use thiserror::Error;

use crate::error::{Fault, Kind};
use crate::registry::request::is_version_check;
use crate::registry::{Hosts, Registry, Rejection};

/// What a request is about, and where it goes.
#[derive(Debug, Clone)]
pub struct Target {
    pub registry: Registry,
    /// `https://HOST/PATH`, with the query.
    pub uri: Uri,
}

/// Why a request goes nowhere.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TargetFault {
    /// Not a path under `/registry/`, or one that can be read in two ways.
    #[error("the request's target {0}")]
    Malformed(&'static str),
    /// A host that may not see a token.
    #[error("{0:?} is not a registry that valetkey serves")]
    Foreign(String),
    /// One that may, asked for by another port.
    #[error("no request to {host}: {reason}")]
    Insecure { host: String, reason: &'static str },
    /// No format has such a path.
    #[error("this path names no repository of {0}")]
    Nameless(String),
}

impl Fault for TargetFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Malformed(_) => Kind::Usage,
            Self::Foreign(_) => Kind::NotOurs,
            Self::Insecure { .. } | Self::Nameless(_) => Kind::Refused,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Malformed(_) => Some("ask for /registry/HOST/PATH, with a plain path".to_owned()),
            Self::Foreign(_) => {
                Some("registries of your own are named as [[registry]] in config.toml".to_owned())
            }
            Self::Insecure { host, .. } => Some(format!("use https://{host}/")),
            Self::Nameless(_) => None,
        }
    }
}

impl Target {
    /// Reads the target of a request, from its first slash on.
    ///
    /// # Errors
    /// When it does not lead to a repository of a registry that may see a token, or not beyond doubt.
    pub fn parse(target: &str, hosts: &Hosts) -> Result<Self, TargetFault> {
        if target.len() > LONGEST {
            return Err(TargetFault::Malformed("is too long"));
        }
        let rest = target.strip_prefix(PREFIX).ok_or(TargetFault::Malformed("is not below /registry/"))?;
        let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        check_path(path).map_err(TargetFault::Malformed)?;
        if !query.unwrap_or_default().bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(TargetFault::Malformed("has a query that is not plain"));
        }
        let registry = hosts.locate(host, path).map_err(|rejection| match rejection {
            Rejection::NotOurs => TargetFault::Foreign(crate::error::printable(host)),
            Rejection::Insecure { host, reason } => TargetFault::Insecure { host, reason },
        })?;
        if registry.repository.is_none() && !is_version_check(registry.format, path) {
            return Err(TargetFault::Nameless(registry.host));
        }
        let uri = assemble(host, &rest[host.len()..]).ok_or(TargetFault::Malformed("is no URL"))?;
        Ok(Self { registry, uri })
    }
}

/// Refuses a path that could be another one to somebody else.
fn check_path(path: &str) -> Result<(), &'static str> {
    let Some(below) = path.strip_prefix('/') else { return Err("has no path behind the host") };
    if below.is_empty() {
        return Ok(());
    }
    let mut segments: Vec<&str> = below.split('/').collect();
    // One slash at the end is how an index is named.
    if segments.last().is_some_and(|last| last.is_empty()) {
        segments.pop();
    }
    segments.into_iter().try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), &'static str> {
    if segment.is_empty() {
        return Err("has an empty segment in its path");
    }
    // RFC 3986's characters of a segment, without the semicolon: some servers cut there.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,=:@".contains(&byte);
    if !segment.bytes().all(fits) {
        return Err("has a character in its path that is not plain");
    }
    let mut text = segment.as_bytes().to_vec();
    let mut first = true;
    loop {
        let harmless = |byte: &u8| !b"/\\;".contains(byte) && !byte.is_ascii_control();
        if !text.iter().all(harmless) {
            return Err("has an encoded separator in its path");
        }
        if text == b"." || text == b".." {
            return Err("climbs in its path");
        }
        let Some(decoded) = decode(&text) else {
            // What was encoded twice may hold a percent sign; what was not must be whole.
            return if first { Err("has a broken escape in its path") } else { Ok(()) };
        };
        if decoded == text {
            return Ok(());
        }
        if std::str::from_utf8(&decoded).is_err() {
            return Err("has an escape in its path that is not UTF-8");
        }
        (text, first) = (decoded, false);
    }
}

/// Decodes every escape once; nothing where one is broken.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        decoded.push(digit(digits[0])? << 4 | digit(digits[1])?);
        rest = behind;
    }
    Some(decoded)
}

fn assemble(host: &str, path: &str) -> Option<Uri> {
    let mut parts = hyper::http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(host.parse::<Authority>().ok()?);
    parts.path_and_query = Some(path.parse::<PathAndQuery>().ok()?);
    // No parser may have put anything right.
    Uri::from_parts(parts).ok().filter(|uri| uri.path_and_query().is_some_and(|it| it.as_str() == path))
}

/// Where the daemon serves registries.
pub const PREFIX: &str = "/registry/";
/// No client asks for more: an index page's longest links are a few hundred bytes.
const LONGEST: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ask::Access;
    use crate::config::{ExtraRegistry, Format};
    use crate::grant::{Origin, Pattern, ProxyGrant, Repositories};

    fn hosts() -> Hosts {
        Hosts::new(&[ExtraRegistry { host: "localhost:8443".to_owned(), format: Format::Python }])
    }

    fn parse(target: &str) -> Result<Target, TargetFault> {
        Target::parse(target, &hosts())
    }

    #[test]
    fn what_clients_ask_for_is_sent_as_it_came() {
        for (host, path) in [
            ("us-python.pkg.dev", "/acme/private/simple/hello/"),
            ("us-python.pkg.dev", "/acme/private/simple/hello/?format=json&x=%2e%2e/"),
            ("us-python.pkg.dev", "/acme/private/hello/hello-1.0%2Bcu118-py3-none-any.whl"),
            ("us-python.pkg.dev", "/acme/private/hello/caf%C3%A9-100%25.whl"),
            ("us-python.pkg.dev", "/acme/private/"),
            ("localhost:8443", "/acme/private/simple/hello/"),
            ("us-npm.pkg.dev", "/acme/private/@scope/name/-/@scope/name-1.0.0.tgz"),
            ("us-go.pkg.dev", "/acme/private/example.com/!mod/@v/v1.0.0.zip"),
            ("us-docker.pkg.dev", "/v2/acme/private/app/blobs/sha256:00"),
            ("us-docker.pkg.dev", "/v2/"),
        ] {
            let target = parse(&format!("/registry/{host}{path}")).unwrap();
            assert_eq!(target.uri.to_string(), format!("https://{host}{path}"));
        }
    }

    #[test]
    fn hostile_targets_go_nowhere() {
        let malformed = |target: &str| matches!(parse(target), Err(TargetFault::Malformed(_)));
        let base = "/registry/us-python.pkg.dev/acme/private";
        for path in [
            "/../other/simple/",
            "/..",
            "/.",
            "/./simple/",
            "/simple/..",
            "/%2e%2e/other/",
            "/%2E./other/",
            "/.%2e/other/",
            "/%252e%252e/other/",
            "/%25252e%25252e/other/",
            "/a%2fb",
            "/a%2Fb",
            "/..%2fother",
            "/a%5cb",
            "/a%5Cb",
            "/a%00b",
            "/a%0d%0ab",
            "/a%7fb",
            "/a%252fb",
            "/a%25%32%66b",
            "/a%255cb",
            "/a%2500b",
            "/a%25252fb",
            "/a\\b",
            "/a;b",
            "/..;/other",
            "/a%3bb",
            "/a%253bb",
            "//simple/",
            "/simple//",
            "/simple#x",
            "/simple?x#y",
            "/%",
            "/%2",
            "/%zz",
            "/a%c0%afb",
            "/a%ffb",
            "/a b",
            "/a\tb",
            "/a\"b",
            "/a<b",
            "/a{b}",
            "/a|b",
            "/a^b",
            "/a`b",
            "/a\u{2215}b",
            "/simple/?a b",
            "/simple/?a\u{e4}",
        ] {
            assert!(malformed(&format!("{base}{path}")), "{path:?}");
        }
        for target in [
            "",
            "/",
            "/registry",
            "/registry/",
            "registry/us-python.pkg.dev/acme/private/",
            "/Registry/us-python.pkg.dev/acme/private/",
            "https://us-python.pkg.dev/acme/private/",
            "http://x/registry/us-python.pkg.dev/acme/private/",
            "/registry/us-python.pkg.dev",
            "/registry/us-python.pkg.dev?x",
            "/registry/us-python.pkg.dev#/acme/private/",
        ] {
            assert!(malformed(target), "{target:?}");
        }
        assert!(malformed(&format!("{base}/{}", "a".repeat(LONGEST))));
        for host in [
            "",
            "evilpkg.dev",
            "us-python.pkg.dev.evil.test",
            "us-python.pkg.dev.",
            "US-python.pkg.dev",
            "us-python.pkg.dev:443",
            "u@us-python.pkg.dev",
            "u:p@us-python.pkg.dev",
            "us-python%2epkg.dev",
            "https:",
            "localhost",
            "127.0.0.1",
            "[::1]",
            "us-python.pkg.dev\\",
        ] {
            let fault = parse(&format!("/registry/{host}/acme/private/")).unwrap_err();
            assert_eq!(fault.kind(), Kind::NotOurs, "{host}");
        }
        for target in [
            "/registry/us-python.pkg.dev:8443/acme/private/",
            "/registry/us-python.pkg.dev/",
            "/registry/us-python.pkg.dev/acme",
            "/registry/us-python.pkg.dev/acm%65/private/",
            "/registry/us-docker.pkg.dev/v2/token?scope=x",
            "/registry/us-docker.pkg.dev/v2/_catalog",
        ] {
            assert_eq!(parse(target).unwrap_err().kind(), Kind::Refused, "{target}");
        }
    }

    fn piece() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![
            "/",
            "/",
            "/",
            "..",
            ".",
            "%2e",
            "%2f",
            "%5C",
            "%00",
            "%252f",
            "%25",
            "%",
            "\\",
            ";",
            "?",
            "#",
            "@",
            ":",
            "//",
            "acme",
            "private",
            "private-too",
            "other",
            "simple",
            "v2",
            "projects",
            "dists",
            "pool",
            "artifacts-downloads",
            "namespaces",
            "repositories",
            "downloads",
            "us-python.pkg.dev",
            "us-apt.pkg.dev",
            "us-docker.pkg.dev",
            "gcr.io",
            "localhost:8443",
            "evil.test",
            "token",
            "a",
            "\u{e4}",
        ])
    }

    /// How a server reads a path that decodes everything, as often as it can, and resolves what is left.
    fn eager(path: &str) -> Vec<String> {
        let mut text = path.as_bytes().to_vec();
        while let Some(decoded) = decode(&text).filter(|decoded| *decoded != text) {
            text = decoded;
        }
        let text = String::from_utf8_lossy(&text).replace('\\', "/");
        let mut segments: Vec<String> = Vec::new();
        for segment in text.split('/').skip(1) {
            match segment.split(';').next().unwrap_or_default() {
                "." => {}
                ".." => drop(segments.pop()),
                other => segments.push(other.to_owned()),
            }
        }
        segments
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn what_is_accepted_and_granted_goes_to_the_granted_repository(
            host in prop::sample::select(vec!["us-python.pkg.dev", "us-apt.pkg.dev", "us-docker.pkg.dev"]),
            start in prop::sample::select(vec!["/", "/acme/private/", "/projects/acme/dists/", "/v2/acme/"]),
            pieces in prop::collection::vec(piece(), 0..9),
        ) {
            let path = format!("{start}{}", pieces.concat());
            let patterns = vec![Pattern::parse("us/acme/private", &hosts()).unwrap()];
            let grant = ProxyGrant::new(Access::Read, Repositories::Listed(patterns), Origin::Build);
            if let Ok(target) = parse(&format!("/registry/{host}{path}")) {
                let sent = target.uri.path_and_query().unwrap().as_str();
                prop_assert_eq!(sent, &path);
                prop_assert_eq!(target.uri.authority().unwrap().as_str(), host);
                prop_assert_eq!(target.uri.scheme_str(), Some("https"));
                if grant.check(&target.registry, Access::Read).is_ok() {
                    let plain: Vec<&str> = target.uri.path().split('/').skip(1).collect();
                    let eager = eager(target.uri.path());
                    for segments in [plain, eager.iter().map(String::as_str).collect()] {
                        let right = match segments.as_slice() {
                            ["artifacts-downloads", "namespaces", "acme", "repositories", "private", ..] => true,
                            ["acme", "private", ..] => host == "us-python.pkg.dev",
                            ["projects", "acme", "dists" | "pool", "private", ..] => host == "us-apt.pkg.dev",
                            ["v2", "acme", "private", ..] => host == "us-docker.pkg.dev",
                            _ => false,
                        };
                        prop_assert!(right, "{path:?} → {segments:?}");
                    }
                }
            }
        }

        #[test]
        fn any_text_is_refused_or_sent_as_it_is(target in "/registry/(us-python.pkg.dev/|localhost:8443/)?\\PC{0,40}") {
            if let Ok(parsed) = parse(&target) {
                prop_assert_eq!(parsed.uri.to_string(), target.replacen("/registry/", "https://", 1));
            }
        }
    }
}
