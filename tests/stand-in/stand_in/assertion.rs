//! Judges the signed assertions of service accounts (RFC 7523), with the messages that Google gives.
//!
//! Nothing is taken on trust: the signature, the issuer, the audience and the times are all checked, so that a client
//! which signs the wrong bytes or copies a stale claim fails here as it would there.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::Value;

use super::rsa_key;

/// What an assertion that holds asks for.
pub(super) struct Assertion {
    pub(super) issuer: String,
    pub(super) scopes: Vec<String>,
}

/// `error` and `error_description` of a refusal.
pub(super) type Refusal = (&'static str, &'static str);

/// A claim of an assertion before anything is verified; for the record.
pub(super) fn claimed(text: &str, claim: &str) -> Option<String> {
    let claims = decode_json(text.split('.').nth(1)?)?;
    claims[claim].as_str().map(str::to_owned)
}

pub(super) fn verify(
    text: &str,
    audience: &str,
    is_account: impl FnOnce(&str) -> bool,
) -> Result<Assertion, Refusal> {
    const MALFORMED: Refusal = ("invalid_grant", "Invalid JWT: Failed to parse the assertion.");
    let (signed, signature) = text.rsplit_once('.').ok_or(MALFORMED)?;
    let (header, claims) = signed.split_once('.').ok_or(MALFORMED)?;
    let header = decode_json(header).ok_or(MALFORMED)?;
    let claims = decode_json(claims).ok_or(MALFORMED)?;
    let signature = decode(signature).ok_or(MALFORMED)?;

    let issuer = claims["iss"].as_str().unwrap_or_default();
    if !is_account(issuer) {
        return Err(("invalid_grant", "Invalid grant: account not found"));
    }
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &rsa_key::shared().public);
    if header["alg"] != "RS256" || key.verify(signed.as_bytes(), &signature).is_err() {
        return Err(("invalid_grant", "Invalid JWT Signature."));
    }
    // Google's own libraries sign for this one whatever the key file says.
    if claims["aud"] != audience && claims["aud"] != "https://oauth2.googleapis.com/token" {
        return Err(("invalid_grant", "Invalid JWT: Failed audience check."));
    }
    if !is_timely(&claims) {
        return Err((
            "invalid_grant",
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. \
             Check your iat and exp values in the JWT claim.",
        ));
    }
    let scopes: Vec<String> =
        claims["scope"].as_str().unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    if scopes.is_empty() {
        return Err(("invalid_scope", "Invalid OAuth scope or ID token audience provided."));
    }
    Ok(Assertion { issuer: issuer.to_owned(), scopes })
}

fn is_timely(claims: &Value) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let (Some(issued), Some(expires)) = (claims["iat"].as_u64(), claims["exp"].as_u64()) else {
        return false;
    };
    issued <= now + LEEWAY && expires > now && expires > issued && expires - issued <= 3600
}

/// Base64url with or without padding: RFC 7515 has none, and some clients write it.
fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

fn decode_json(text: &str) -> Option<Value> {
    serde_json::from_slice(&decode(text)?).ok()
}

/// Seconds by which a client's clock may be ahead.
const LEEWAY: u64 = 60;
