//! A service account's key: an assertion signed with it, and exchanged the way of all other grants.
//!
//! `gcp_auth` signs as well, but only behind a client of its own, for which it reads all of the machine's certificates
//! first: where there are none it calls a good key bad, and a file of certificates without an end never ends. So the two
//! lines that sign are here, on the same library that it uses.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs1KeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

use super::credential_file::ServiceAccountKey;
use super::oauth::Exchange;
use super::source::{Request, SourceFault, World};
use crate::clock::between;
use crate::secret::{AccessToken, Secret};

/// Makes a token with exactly the scope that the access needs.
///
/// # Errors
/// When the key cannot sign or Google refuses.
pub async fn mint(
    world: &World,
    key: &ServiceAccountKey,
    path: &Path,
    request: Request,
) -> Result<AccessToken, SourceFault> {
    let assertion = assertion(world, key, &request).map_err(|fault| fault.of(path))?;
    let form = [("grant_type", GRANT), ("assertion", assertion.expose())];
    let what = format!("the key of {}", crate::error::printable(&key.email));
    let remedy = format!(
        "check that the key in {} still exists in Google Cloud and that this machine's clock is right, or make a \
         new key",
        path.display()
    );
    let exchange = Exchange {
        url: &key.token_uri,
        form: &form,
        until: request.until,
        asked: Some(&request),
        what: &what,
        remedy: &remedy,
        repeats: true,
    };
    let token = exchange.send(world).await?.token;
    Ok(token.with_identity(Some(key.email.clone())).with_narrowed(true))
}

/// Why a key does not sign. Nothing of the key is told.
#[derive(Debug)]
enum KeyFault {
    /// What stands in `private_key` is no key of the only kind that Google makes.
    Kind(String),
    /// This machine gives no random numbers, which is not the key's fault.
    Machine,
}

impl KeyFault {
    fn of(self, path: &Path) -> SourceFault {
        match self {
            Self::Kind(problem) => SourceFault::Malformed { path: path.to_owned(), problem },
            Self::Machine => SourceFault::Failed {
                what: "signing with the key".to_owned(),
                problem: "this machine gives no random numbers".to_owned(),
                remedy: None,
            },
        }
    }
}

/// RFC 7523 section 3, in the form that Google documents.
fn assertion(world: &World, key: &ServiceAccountKey, request: &Request) -> Result<Secret, KeyFault> {
    let signer = signer(key.private_key.expose())?;
    let now = between(UNIX_EPOCH, world.clock.now());
    let issued = now.saturating_sub(SKEW);
    let claims = json!({
        "iss": key.email,
        "scope": request.access.scope(),
        "aud": key.token_uri,
        "iat": issued.as_secs(),
        "exp": (issued + LIFETIME).as_secs(),
    });
    let mut assertion = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","typ":"JWT"}"#);
    assertion.push('.');
    URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut assertion);
    let mut signature = vec![0; signer.public().modulus_len()];
    signer
        .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), assertion.as_bytes(), &mut signature)
        .map_err(|_| KeyFault::Machine)?;
    assertion.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut assertion);
    Ok(Secret::new(assertion))
}

fn signer(pem: &str) -> Result<RsaKeyPair, KeyFault> {
    let wrong = |problem: &str| KeyFault::Kind(format!("has a private_key that {problem}"));
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
        // Any other key is one that somebody converted, which openssl can undo.
        if PrivatePkcs1KeyDer::from_pem_slice(pem.as_bytes()).is_ok() {
            return wrong("is in PKCS #1 and not an RSA key in PKCS #8 PEM: convert it with `openssl pkcs8 -topk8 -nocrypt`");
        }
        wrong("is not an RSA key in PKCS #8 PEM")
    })?;
    // ring says in one word what it does not like: `InvalidEncoding`, `TooSmall`, …
    RsaKeyPair::from_pkcs8(key.secret_pkcs8_der())
        .map_err(|rejected| wrong(&format!("is not an RSA key in PKCS #8 PEM that can sign ({rejected})")))
}

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// A clock that is a little fast must not date an assertion into Google's future.
const SKEW: Duration = Duration::from_secs(10);
/// Google's longest is an hour, counted by its own clock.
const LIFETIME: Duration = Duration::from_secs(3300);
