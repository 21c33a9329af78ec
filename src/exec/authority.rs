//! The certificate authority of one run: made when it begins, gone when it ends, and good for the granted hosts only.
//!
//! Its key never leaves this process's memory. Its certificate says, in a critical extension (RFC 5280 4.2.1.10), for
//! which names it may speak, so that not even its key could be used for another host by a client that checks. Hosts get
//! certificates when they are asked for.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig};
use thiserror::Error;

use crate::client::granted::HostPattern;
use crate::clock::Clock;
use crate::error::{Fault, Kind};
use crate::secret::Fingerprint;

/// See the module.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    clock: Clock,
    /// One TLS configuration for each host that was asked for, and when it was made.
    hosts: Mutex<HashMap<String, (Arc<ServerConfig>, SystemTime)>>,
}

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum AuthorityFault {
    /// The system gives no random bytes, or a host's name does not fit into a certificate.
    #[error("cannot make a certificate for {name}")]
    Certificate { name: String, source: rcgen::Error },
    /// The TLS library refuses what was made.
    #[error("cannot use the certificate for {name}")]
    Unusable { name: String, source: rustls::Error },
    /// The system gives no random bytes.
    #[error("this system gives no random bytes for a certificate")]
    Random,
}

impl Fault for AuthorityFault {
    fn kind(&self) -> Kind {
        Kind::Local
    }
}

impl Authority {
    /// Makes a key and a certificate that is good for these hosts.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(hosts: &[HostPattern], clock: Clock) -> Result<Self, AuthorityFault> {
        let wrong = |source| AuthorityFault::Certificate { name: "this run's authority".to_owned(), source };
        let key = KeyPair::generate().map_err(wrong)?;
        let mut parameters = short_lived(clock.now(), AUTHORITY_LIFE)?;
        // Two runs, one inside the other, are told apart by name too.
        let name = format!("valetkey exec {}", Fingerprint::of(key.public_key_raw()));
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.name_constraints = Some(constraints(hosts));
        let pem = parameters.self_signed(&key).map_err(wrong)?.pem();
        Ok(Self { issuer: Issuer::new(parameters, key), pem, clock, hosts: Mutex::default() })
    }

    /// The certificate, for the bundles of clients.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// What a TLS server needs that speaks for a host, in lower case. The caller has seen that the host is granted.
    ///
    /// # Errors
    /// When a certificate cannot be made.
    pub fn server_config(&self, host: &str) -> Result<Arc<ServerConfig>, AuthorityFault> {
        let now = self.clock.now();
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((config, made)) = hosts.get(host)
            && now.duration_since(*made).is_ok_and(|age| age < LEAF_LIFE / 2)
        {
            return Ok(Arc::clone(config));
        }
        if hosts.len() >= MOST_HOSTS {
            hosts.clear();
        }
        let config = Arc::new(self.make(host, now)?);
        hosts.insert(host.to_owned(), (Arc::clone(&config), now));
        Ok(config)
    }

    fn make(&self, host: &str, now: SystemTime) -> Result<ServerConfig, AuthorityFault> {
        let unusable = |source| AuthorityFault::Unusable { name: host.to_owned(), source };
        let (certificate, key) = self.leaf(host, now)?;
        let provider = Arc::new(provider());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = provider.key_provider.load_private_key(key).map_err(unusable)?;
        let certified = Arc::new(CertifiedKey::new(vec![certificate], key));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(OneHost { host: host.to_owned(), certified }));
        config.ignore_client_order = has_aes();
        // Some offer the older one alone, as `curl -0` does.
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
        Ok(config)
    }

    fn leaf(
        &self,
        host: &str,
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, KeyPair), AuthorityFault> {
        let wrong = |source| AuthorityFault::Certificate { name: host.to_owned(), source };
        let key = KeyPair::generate().map_err(wrong)?;
        let mut parameters = short_lived(now, LEAF_LIFE)?;
        parameters.subject_alt_names = vec![match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into().map_err(wrong)?),
        }];
        // A host's name may be longer than the 64 characters of a common name, and nobody reads one there.
        parameters.distinguished_name.push(DnType::CommonName, "valetkey exec");
        // Strict verifiers (Python from 3.13 on) want it.
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(wrong)?;
        Ok((certificate.der().clone(), key))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Speaks for the host that the connection was opened to, and for no other that a client may name in its greeting.
#[derive(Debug)]
struct OneHost {
    host: String,
    certified: Arc<CertifiedKey>,
}

impl ResolvesServerCert for OneHost {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let same = hello.server_name().is_none_or(|name| name.eq_ignore_ascii_case(&self.host));
        same.then(|| Arc::clone(&self.certified))
    }
}

/// Both ends are on this machine: where it has AES in hardware, the shortest key is as good as the longest, and cheaper.
fn provider() -> CryptoProvider {
    let mut provider = default_provider();
    provider.cipher_suites.sort_by_key(|suite| !SHORT.contains(&suite.suite()));
    provider
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// For which names the authority may speak. A kind of name that is not mentioned would be unlimited.
fn constraints(hosts: &[HostPattern]) -> NameConstraints {
    let mut permitted: Vec<GeneralSubtree> = Vec::new();
    for host in hosts {
        permitted.push(match host.address() {
            Some(address) => GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix(address.octets(), 32)),
            None => GeneralSubtree::DnsName(host.name().to_owned()),
        });
    }
    let mut excluded = Vec::new();
    if hosts.iter().all(|host| host.address().is_none()) {
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([0; 4], 0)));
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix([0; 16], 0)));
    }
    if hosts.iter().all(|host| host.address().is_some()) {
        // The empty name stands above all names.
        excluded.push(GeneralSubtree::DnsName(String::new()));
    }
    NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded }
}

fn short_lived(now: SystemTime, life: Duration) -> Result<CertificateParams, AuthorityFault> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    // Clocks are set back, and a machine that slept may begin with an old one.
    parameters.not_before = (now - EARLIER).into();
    parameters.not_after = (now + life).into();
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| AuthorityFault::Random)?;
    // Positive, and of the same length each time.
    serial[0] = serial[0] & 0x3f | 0x40;
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(parameters)
}

const EARLIER: Duration = Duration::from_secs(3600);
/// A shell may be open for weeks. The certificates that matter live for a day.
const AUTHORITY_LIFE: Duration = Duration::from_secs(90 * 86_400);
const LEAF_LIFE: Duration = Duration::from_secs(86_400);
const MOST_HOSTS: usize = 256;
/// The keys of these have 128 bits.
const SHORT: [CipherSuite; 2] =
    [CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];

#[cfg(test)]
mod tests {
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{CertificateError, Error, RootCertStore};

    use super::*;

    fn authority(hosts: &[&str]) -> Authority {
        let hosts: Vec<_> =
            hosts.iter().map(|text| HostPattern::try_from((*text).to_owned()).unwrap()).collect();
        Authority::new(&hosts, Clock::system()).unwrap()
    }

    /// What a client of webpki's says of a certificate that the authority makes for a host.
    fn verified(authority: &Authority, host: &str) -> Result<(), Error> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let now =
            UnixTime::since_unix_epoch(Clock::system().now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let (leaf, _) = authority.leaf(host, Clock::system().now()).unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        verifier.verify_server_cert(&leaf, &[], &name, &[], now).map(drop)
    }

    #[test]
    fn the_authority_is_good_for_its_hosts_only() {
        let ours = authority(&["*.pkg.dev", "localhost:8443"]);
        for host in ["us-python.pkg.dev", "python.us.rep.pkg.dev", "localhost"] {
            assert_eq!(verified(&ours, host), Ok(()), "{host}");
        }
        for host in ["evilpkg.dev", "pypi.test", "pkg.dev.evil.test", "127.0.0.1", "::1"] {
            let refused = verified(&ours, host).unwrap_err();
            let Error::InvalidCertificate(CertificateError::Other(reason)) = &refused else {
                panic!("{host}: {refused:?}")
            };
            assert!(format!("{reason:?}").contains("NameConstraintViolation"), "{host}: {reason:?}");
        }
        let addresses = authority(&["127.0.0.1:8443"]);
        assert_eq!(verified(&addresses, "127.0.0.1"), Ok(()));
        assert!(verified(&addresses, "127.0.0.2").is_err() && verified(&addresses, "localhost").is_err());
    }

    /// The library under most clients, by its own program.
    #[test]
    fn openssl_holds_the_authority_to_its_hosts() {
        let openssl = std::path::Path::new("/usr/bin/openssl");
        if !openssl.exists() {
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let ours = authority(&["*.pkg.dev", "localhost:8443"]);
        let (bundle, leaf) = (top.path().join("ca.pem"), top.path().join("leaf.der"));
        std::fs::write(&bundle, ours.pem()).unwrap();
        let verifies = |host: &str| {
            std::fs::write(&leaf, ours.leaf(host, Clock::system().now()).unwrap().0).unwrap();
            let mut command = std::process::Command::new(openssl);
            command.args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"]).arg(&bundle);
            let output = command.arg(&leaf).output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        for host in ["us-python.pkg.dev", "localhost"] {
            assert_eq!(verifies(host), (true, String::new()), "{host}");
        }
        for host in ["evilpkg.dev", "127.0.0.1", "::1"] {
            let (good, said) = verifies(host);
            assert!(!good && said.contains("subtree violation"), "{host}: {said}");
        }
    }

    #[test]
    fn a_host_keeps_its_certificate_for_a_while() {
        let ours = authority(&["*.pkg.dev"]);
        let first = ours.server_config("us-python.pkg.dev").unwrap();
        assert!(Arc::ptr_eq(&first, &ours.server_config("us-python.pkg.dev").unwrap()));
        assert!(!Arc::ptr_eq(&first, &ours.server_config("us-npm.pkg.dev").unwrap()));
        assert!(!format!("{ours:?}").contains("KeyPair"));
    }
}
