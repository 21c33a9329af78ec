//! A service account's key: an assertion signed by `gcp_auth`'s signer, exchanged by our own client.
//!
//! `gcp_auth` can exchange it as well, but then knows neither a deadline, nor a proxy, nor an extra CA, reads a
//! body of any size, repeats what can never succeed, and keeps Google's reason to itself. So it signs, which it
//! does well, and the exchange goes the way of all others. Its signer comes with a client; that this one reads none of
//! the machine's certificates, which may be missing or without an end, is a feature in Cargo.toml.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gcp_auth::CustomServiceAccount;
use ring::signature::RsaKeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs1KeyDer, PrivatePkcs8KeyDer};
use serde_json::json;

use super::credential_file::ServiceAccountKey;
use super::oauth::Exchange;
use super::source::{Request, SourceFault, World};
use crate::clock::between;
use crate::error::shown::shown_path;
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
        shown_path(path)
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
    /// It is a good key, and something else is wrong.
    Machine(String),
}

impl KeyFault {
    fn of(self, path: &Path) -> SourceFault {
        match self {
            Self::Kind(problem) => SourceFault::Malformed { path: path.to_owned(), problem },
            Self::Machine(problem) => {
                SourceFault::Failed { what: "signing with the key".to_owned(), problem, remedy: None }
            }
        }
    }
}

/// RFC 7523 section 3, in the form that Google documents.
fn assertion(world: &World, key: &ServiceAccountKey, request: &Request) -> Result<Secret, KeyFault> {
    let account = CustomServiceAccount::from_json(key.json.expose())
        .map_err(|fault| what_is_wrong(key.private_key.expose(), &fault))?;
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
    let signature = account.signer().sign(assertion.as_bytes());
    let signature = signature.map_err(|fault| KeyFault::Machine(fault.to_string()))?;
    assertion.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut assertion);
    Ok(Secret::new(assertion))
}

/// Why a key that was refused is none.
fn what_is_wrong(pem: &str, fault: &gcp_auth::Error) -> KeyFault {
    let wrong = |problem: &str| KeyFault::Kind(format!("has a private_key that {problem}"));
    let Ok(key) = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()) else {
        // Any other key is one that somebody converted, which openssl can undo.
        return wrong(match PrivatePkcs1KeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(_) => {
                "is in PKCS #1 and not an RSA key in PKCS #8 PEM: convert it with `openssl pkcs8 -topk8 -nocrypt`"
            }
            Err(_) => "is not an RSA key in PKCS #8 PEM",
        });
    };
    match RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()) {
        // ring says in one word what it does not like: `InvalidEncoding`, `TooSmall`, …
        Err(rejected) => wrong(&format!("is not an RSA key in PKCS #8 PEM that can sign ({rejected})")),
        Ok(_) => KeyFault::Machine(fault.to_string()),
    }
}

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// A clock that is a little fast must not date an assertion into Google's future.
const SKEW: Duration = Duration::from_secs(10);
/// Google's longest is an hour, counted by its own clock.
const LIFETIME: Duration = Duration::from_secs(3300);
