//! A service account's key: an assertion signed by `gcp_auth`'s signer, exchanged by our own client.
//!
//! `gcp_auth` can exchange it as well, but then knows neither a deadline, nor a proxy, nor an extra CA, reads a
//! body of any size, repeats what can never succeed, and keeps Google's reason to itself. So it signs, which it
//! does well, and the exchange goes the way of all others.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gcp_auth::CustomServiceAccount;
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
    path: &std::path::Path,
    request: Request,
) -> Result<AccessToken, SourceFault> {
    let assertion = assertion(world, key, request)
        .map_err(|problem| SourceFault::Malformed { path: path.to_owned(), problem: problem.to_owned() })?;
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
        what: &what,
        remedy: &remedy,
        repeats: true,
    };
    let token = exchange.send(world).await?.token;
    Ok(token.with_identity(Some(key.email.clone())).with_narrowed(true))
}

/// RFC 7523 section 3, in the form that Google documents.
fn assertion(world: &World, key: &ServiceAccountKey, request: Request) -> Result<Secret, &'static str> {
    let account = CustomServiceAccount::from_json(key.json.expose())
        .map_err(|_| "has a private_key that is not an RSA key in PKCS #8 PEM")?;
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
    let signature =
        account.signer().sign(assertion.as_bytes()).map_err(|_| "has a private_key that cannot sign")?;
    assertion.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut assertion);
    Ok(Secret::new(assertion))
}

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// A clock that is a little fast must not date an assertion into Google's future.
const SKEW: Duration = Duration::from_secs(10);
/// Google's longest is an hour, counted by its own clock.
const LIFETIME: Duration = Duration::from_secs(3300);
