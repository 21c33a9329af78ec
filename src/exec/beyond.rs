//! The ways to hosts that are not granted: the one that the environment names, and those that single tools were told of.
//! What cannot be gone is refused before the command runs: what worked for it without us must not end in silence behind us.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::environment::Environment;
use crate::error::{Failure, Kind};
use crate::http::proxy::{ALL, HTTPS, ProxyConnector, address_of, in_force};

/// The environment without what an ended run has left in it: a proxy that is this very run. And what a person should know.
///
/// # Errors
/// When a proxy is named that cannot be spoken to.
pub(super) fn checked(environment: &Environment, port: u16) -> Result<(Environment, Vec<String>), Failure> {
    let mut notes = Vec::new();
    let mut environment = environment.clone();
    for pair in [HTTPS, ALL] {
        let differ = |pair: [&str; 2]| {
            environment.text(pair[0]).zip(environment.text(pair[1])).is_some_and(|(a, b)| a != b)
        };
        if differ(pair) {
            notes.push(format!("{} and {} name different proxies: the first is used", pair[0], pair[1]));
        }
    }
    loop {
        let Some((name, value)) = in_force(&environment, HTTPS).or_else(|| in_force(&environment, ALL))
        else {
            return Ok((environment, notes));
        };
        let (host, at) = address(name, value)?;
        let is_loopback = LOOPBACK.contains(&host.as_str());
        if is_loopback && at == port {
            notes.push(format!(
                "{name} names 127.0.0.1:{port}, which is where this run listens itself: it is passed over"
            ));
            environment = without(&environment, name);
            continue;
        }
        if host == "127.0.0.1" && is_free(at) {
            notes.push(format!(
                "nobody listens at {host}:{at}, which {name} names: hosts that are not granted will not be reached; unset \
                 it if an ended run has left it"
            ));
        }
        return Ok((environment, notes));
    }
}

/// Where a proxy leads that this variable or file names.
///
/// # Errors
/// When it is none that can be spoken to. The value is not shown: there may be a password in it.
pub(super) fn address(named: &str, value: &str) -> Result<(String, u16), Failure> {
    address_of(value).map_err(|problem| {
        Failure::new(Kind::Usage, format!("{named} {problem}")).with_hint(
            "write it as http://HOST:PORT, https://HOST:PORT or socks5h://HOST:PORT, with USER:PASSWORD and @ before HOST where \
             that is needed and what is special in them as %XX; or unset it",
        )
    })
}

/// What opens connections for an environment. A proxy that is reached by TLS has to show a certificate of this bundle.
///
/// # Errors
/// When there is such a proxy and no bundle.
pub(super) fn connector(
    environment: &Environment,
    port: u16,
    bundle: Option<&Path>,
) -> Result<ProxyConnector, Failure> {
    let connector = ProxyConnector::new(environment).with_socks().without_port(port);
    let proxy = in_force(environment, HTTPS).or_else(|| in_force(environment, ALL));
    match proxy.filter(|(_, value)| value.to_ascii_lowercase().starts_with("https:")) {
        None => Ok(connector),
        Some((name, _)) => Ok(connector.with_trust(Arc::new(trusting(name, bundle)?))),
    }
}

fn trusting(name: &str, bundle: Option<&Path>) -> Result<ClientConfig, Failure> {
    let failure = |cause: String| {
        Failure::new(
            Kind::Configuration,
            format!("the proxy that {name} names shows a certificate, and none can be trusted"),
        )
        .with_hint(format!("{cause}; name a bundle in SSL_CERT_FILE or CURL_CA_BUNDLE"))
    };
    let path = bundle.ok_or_else(|| failure("there is no bundle of certificates".to_owned()))?;
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(path).map_err(|error| failure(error.to_string()))?;
    roots.add_parsable_certificates(found.flatten());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failure(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn without(environment: &Environment, name: &str) -> Environment {
    environment
        .iter()
        .filter(|(own, _)| own.to_str() != Some(name))
        .map(|(own, value)| (own.to_owned(), value.to_owned()))
        .collect()
}

/// Whether nobody listens at a port. Nobody is disturbed by the question.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The names under which a process finds a port of 127.0.0.1.
const LOOPBACK: [&str; 4] = ["127.0.0.1", "localhost", "0.0.0.0", "::ffff:127.0.0.1"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_is_this_run_is_passed_over() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let live = format!("socks5h://localhost:{}", taken.local_addr().unwrap().port());
        for own in [
            "http://127.0.0.1:7",
            "localhost:7",
            "https://LOCALHOST:7",
            "http://0.0.0.0:7",
            "socks5://[::ffff:127.0.0.1]:7",
        ] {
            let environment: Environment =
                [("https_proxy", own), ("HTTPS_PROXY", own), ("ALL_PROXY", live.as_str())]
                    .into_iter()
                    .collect();
            let (left, notes) = checked(&environment, 7).unwrap();
            assert_eq!((left.text("https_proxy"), left.text("HTTPS_PROXY")), (None, None), "{own}");
            assert_eq!(left.text("ALL_PROXY"), Some(live.as_str()));
            assert_eq!(notes.len(), 2, "{notes:?}");
        }
        let environment: Environment = [("https_proxy", live.as_str())].into_iter().collect();
        assert_eq!(checked(&environment, 7).unwrap().1, [""; 0]);
    }

    #[test]
    fn a_pair_that_disagrees_and_a_port_without_anybody_are_told() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let lower = format!("http://127.0.0.1:{port}");
        let environment: Environment =
            [("https_proxy", lower.as_str()), ("HTTPS_PROXY", "http://x.test")].into_iter().collect();
        let notes = checked(&environment, 7).unwrap().1;
        assert!(notes[0].contains("different proxies") && notes[1].contains("nobody listens"), "{notes:?}");
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_its_password() {
        let environment: Environment = [("ALL_PROXY", "quic://u:hunter2@x.test")].into_iter().collect();
        let failure = checked(&environment, 7).unwrap_err();
        assert_eq!(failure.kind, Kind::Usage);
        assert!(failure.message.contains("ALL_PROXY names a proxy by quic:"), "{failure:?}");
        assert!(!format!("{failure:?}").contains("hunter2"));
    }

    #[test]
    fn a_proxy_behind_tls_needs_a_bundle() {
        let environment: Environment = [("HTTPS_PROXY", "HTTPS://p.test")].into_iter().collect();
        assert_eq!(connector(&environment, 7, None).unwrap_err().kind, Kind::Configuration);
    }
}
