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
    for written in
        ["acme.example%253Ap", "acme%2Eexample:p", "a%3Ab%3Ac", "a:b%3Ac", "%3", "a%3", "a%2Fb", "..%3A%2e"]
    {
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
            let plain = rest.and_then(|rest| rest.strip_suffix(format)).and_then(|it| it.strip_suffix('-'));
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
