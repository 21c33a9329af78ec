//! The private certificate authority of one stand-in and the server certificate it signs.
//!
//! Both live as long as the stand-in and no longer: nothing is read from or written to disk. The extensions are
//! those that strict verifiers ask for (key usage, authority key identifier), and the lifetime is short enough for
//! the platforms that refuse certificates of many years.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

pub(super) struct Authority {
    /// The authority's own certificate, for the clients' trust stores.
    pub(super) pem: String,
    pub(super) server_config: Arc<ServerConfig>,
}

impl Authority {
    pub(super) fn new(names: Vec<String>) -> io::Result<Self> {
        let authority_key = KeyPair::generate().map_err(io::Error::other)?;
        let mut parameters = short_lived(Vec::new())?;
        parameters.distinguished_name.push(DnType::CommonName, "stand-in certificate authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = parameters.self_signed(&authority_key).map_err(io::Error::other)?.pem();
        let issuer = Issuer::new(parameters, authority_key);

        let server_key = KeyPair::generate().map_err(io::Error::other)?;
        let mut parameters = short_lived(names)?;
        parameters.distinguished_name.push(DnType::CommonName, "stand-in");
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = parameters.signed_by(&server_key, &issuer).map_err(io::Error::other)?;

        let key = PrivateKeyDer::try_from(server_key.serialize_der()).map_err(io::Error::other)?;
        let mut server_config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .map_err(io::Error::other)?;
        server_config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { pem, server_config: Arc::new(server_config) })
    }
}

fn short_lived(names: Vec<String>) -> io::Result<CertificateParams> {
    let mut parameters = CertificateParams::new(names).map_err(io::Error::other)?;
    let now = SystemTime::now();
    parameters.not_before = (now - DAY).into();
    parameters.not_after = (now + 90 * DAY).into();
    Ok(parameters)
}

const DAY: Duration = Duration::from_secs(86_400);
