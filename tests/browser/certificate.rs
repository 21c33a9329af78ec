//! A certificate authority and a server's certificate for `localhost`, made for one test and never written down as
//! fixtures. The stand-in keeps the key of its own authority to itself, so this server brings another.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

pub(crate) struct Authority {
    /// The authority's certificate, for trust stores.
    pub(crate) pem: String,
    pub(crate) server_pem: String,
    pub(crate) server_key_pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let authority_key = KeyPair::generate().expect("a key");
        let mut parameters = short_lived(&[]);
        parameters.distinguished_name.push(DnType::CommonName, "browser tests certificate authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = parameters.self_signed(&authority_key).expect("a certificate").pem();
        let issuer = Issuer::new(parameters, authority_key);

        let server_key = KeyPair::generate().expect("a key");
        let mut parameters = short_lived(&["localhost", "127.0.0.1"]);
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server_pem = parameters.signed_by(&server_key, &issuer).expect("a certificate").pem();
        Self { pem, server_pem, server_key_pem: server_key.serialize_pem() }
    }
}

fn short_lived(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).expect("sound names");
    let now = SystemTime::now();
    parameters.not_before = (now - DAY).into();
    parameters.not_after = (now + 30 * DAY).into();
    parameters
}

const DAY: Duration = Duration::from_secs(86_400);
