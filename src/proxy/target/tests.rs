//! Hostile paths and hosts, by hand and by the thousand.

use proptest::prelude::*;

use super::*;
use crate::ask::Access;
use crate::grant::{Origin, Pattern, ProxyGrant, Repositories};
use crate::registry::{ExtraRegistry, Format};

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
        // Parameters of a path, as they stand on a page and as pip asks for them; and what pip makes of brackets.
        ("us-python.pkg.dev", "/acme/private/hello;x=1/hello-1.0.whl"),
        ("us-python.pkg.dev", "/acme/private/hello%3Bx%3D1/hello-1.0.whl;y=2;z=a.b"),
        ("us-python.pkg.dev", "/acme/private/hello%5B1%5D.whl"),
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
        // Where a percent sign that stands for itself is no reason to stop reading.
        "/a%252fb%25",
        "/%252e%252e%252fother%25x",
        "/a\\b",
        "/a;b",
        "/a%3bb",
        "/a%253bb",
        "/a;=1",
        "/a;x=1;..",
        "/a;x=1;",
        "/a;x=%31",
        "/..;/other",
        "/..;x=1/other",
        "/.;/other",
        "/;/other",
        "/;x=1",
        "/%2e%2e;x/other",
        "/%2e%2e;x=1/other",
        "/%2e%2e%3bx%3d1/other",
        "/..%3bx/other",
        "/%3bx/other",
        "/%252e%252e%253bx/other",
        "/a;%2f",
        "/a;%5c",
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
    for path in ["//simple/", "/simple//", "/simple//hello/", "//"] {
        assert_eq!(parse(&format!("{base}{path}")).unwrap_err(), TargetFault::Empty, "{path:?}");
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
}

#[test]
fn other_hosts_are_not_ours_however_they_are_written() {
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

#[test]
fn a_scope_of_npm_may_be_followed_by_one_encoded_slash_and_nothing_else_may() {
    let npm = |path: &str| parse(&format!("/registry/us-npm.pkg.dev{path}"));
    for path in [
        "/acme/private/@scope%2fname",
        "/acme/private/@scope%2Fname",
        "/acme/private/@scope%2fname/-/name-1.0.0.tgz",
        "/acme/private/-/package/@scope%2fna.me_x~y/dist-tags",
    ] {
        let target = npm(path).unwrap();
        assert_eq!(target.uri.to_string(), format!("https://us-npm.pkg.dev{path}"));
        assert_eq!(target.registry.repository_name().as_deref(), Some("acme/private"), "{path}");
    }
    for path in [
        "/acme/private/scope%2fname",
        "/acme/private/@%2fname",
        "/acme/private/@scope%2f",
        "/acme/private/@scope%2f.",
        "/acme/private/@scope%2f..",
        "/acme/private/@..%2fname",
        "/acme/private/@scope%2fname%2fmore",
        "/acme/private/@scope%2f%2e%2e",
        "/acme/private/@scope%2f%2fname",
        "/acme/private/@sc%2fope%2fname",
        "/acme/private/@scope%252fname",
        "/acme/private/@scope%5cname",
        "/acme/private/@scope%2f@name",
        "/acme/private/x@scope%2fname",
        "/acme/@scope%2fprivate/x",
        "/@scope%2facme/private/x",
    ] {
        assert!(npm(path).is_err(), "{path}");
    }
    for host in ["us-python.pkg.dev", "us-generic.pkg.dev", "us-maven.pkg.dev", "localhost:8443"] {
        let fault = parse(&format!("/registry/{host}/acme/private/@scope%2fname")).unwrap_err();
        assert_eq!(fault.kind(), Kind::Usage, "{host}");
    }
}

#[test]
fn the_colon_of_a_port_may_be_escaped_and_no_other() {
    for colon in ["%3A", "%3a", ":"] {
        let target = parse(&format!("/registry/localhost{colon}8443/acme/private/")).unwrap();
        assert_eq!(target.uri.to_string(), "https://localhost:8443/acme/private/");
        assert_eq!(target.registry.host, "localhost:8443");
    }
    for host in [
        "localhost%3A8443%3A8443",
        "localhost%253A8443",
        "localhost%3A",
        "localhost%3Aa",
        "localhost%3A8443%2f",
        "%3A8443",
        "u%3Ap@us-python.pkg.dev",
        "us-python.pkg.dev%3A443",
        "https%3A",
    ] {
        let fault = parse(&format!("/registry/{host}/acme/private/")).unwrap_err();
        assert_eq!(fault.kind(), Kind::NotOurs, "{host}: {fault}");
    }
}

#[test]
fn public_keys_are_of_no_repository() {
    for host in ["us-apt.pkg.dev", "us-yum.pkg.dev", "apt.us-east1.rep.pkg.dev"] {
        let target = parse(&format!("/registry/{host}/doc/repo-signing-key.gpg")).unwrap();
        assert_eq!((target.registry.repository, target.uri.host()), (None, Some(host)));
    }
    for (host, path) in [
        ("us-python.pkg.dev", "/doc/repo-signing-key.gpg/"),
        ("us-apt.pkg.dev", "/doc/repo-signing-key.gpg/"),
        ("us-apt.pkg.dev", "/doc/repo-signing-key.gpg/x"),
        ("us-apt.pkg.dev", "/doc/other.gpg"),
        ("us-apt.pkg.dev", "/doc/%72epo-signing-key.gpg"),
    ] {
        let target = parse(&format!("/registry/{host}{path}"));
        let read = target.map(|target| target.registry.repository);
        assert!(!matches!(read, Ok(None)), "{host}{path}: {read:?}");
    }
}

fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "/",
        "/",
        "/",
        "@scope%2fname",
        "@scope",
        "%2Fname",
        "us-npm.pkg.dev",
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
    loop {
        let (decoded, _) = decode(&text);
        if decoded == text {
            break;
        }
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
        host in prop::sample::select(vec!["us-python.pkg.dev", "us-apt.pkg.dev", "us-docker.pkg.dev", "us-npm.pkg.dev"]),
        start in prop::sample::select(vec!["/", "/acme/private/", "/projects/acme/dists/", "/v2/acme/"]),
        pieces in prop::collection::vec(piece(), 0..9),
    ) {
        let path = format!("{start}{}", pieces.concat());
        let patterns = vec![Pattern::parse("us/acme/private", &hosts()).unwrap()];
        let grant = ProxyGrant::new(Access::Read, Repositories::Listed(patterns), Origin::Build(None));
        if let Ok(target) = parse(&format!("/registry/{host}{path}")) {
            let sent = target.uri.path_and_query().unwrap().as_str();
            prop_assert_eq!(sent, &path);
            prop_assert_eq!(target.uri.authority().unwrap().as_str(), host);
            prop_assert_eq!(target.uri.scheme_str(), Some("https"));
            let encoded = target.uri.path().split('/').enumerate().filter(|(_, segment)| {
                let text = segment.to_ascii_lowercase();
                text.contains("%2f") || text.contains("%5c") || text.contains("%252f")
            });
            for (place, segment) in encoded {
                prop_assert!(host == "us-npm.pkg.dev" && place > 2 && segment.starts_with('@'), "{path:?}");
                prop_assert_eq!(segment.matches('%').count(), 1, "{:?}", &path);
                prop_assert!(!segment.split('%').any(|part| part.trim_start_matches("2f").is_empty()), "{path:?}");
            }
            if grant.check(&target.registry, Access::Read).is_ok() {
                let plain: Vec<&str> = target.uri.path().split('/').skip(1).collect();
                let eager = eager(target.uri.path());
                for segments in [plain, eager.iter().map(String::as_str).collect()] {
                    let right = match segments.as_slice() {
                        ["artifacts-downloads", "namespaces", "acme", "repositories", "private", ..] => true,
                        ["acme", "private", ..] => ["us-python.pkg.dev", "us-npm.pkg.dev"].contains(&host),
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
