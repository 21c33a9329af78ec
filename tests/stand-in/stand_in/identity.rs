//! Identity tokens (section 2 of OIDC Core), and the lies that a test may want them to tell.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde_json::json;

use super::state::random_text;

/// What is wrong with the identity token of one exchange.
#[derive(Clone, Debug)]
pub enum IdentityLie {
    /// Made for another client.
    Audience(String),
    /// Made by somebody else.
    Issuer(String),
    /// `email_verified` is false.
    Unverified,
    /// Another address, or none at all: with control characters, for example.
    Email(String),
    /// Good an hour ago.
    Expired,
    /// No `id_token` in the answer.
    Absent,
    /// Not a token of three parts.
    Garbage,
    /// Three parts, of which none is what it should be.
    Undecodable,
}

/// A token of three parts that says `email` and `audience`; its signature is noise.
pub(super) fn token(email: &str, audience: &str) -> String {
    signed(email, audience, None)
}

/// As [`token`], bent by a lie. None where the answer is to have none.
pub(super) fn bent(email: &str, audience: &str, lie: Option<&IdentityLie>) -> Option<String> {
    match lie {
        Some(IdentityLie::Absent) => None,
        Some(IdentityLie::Garbage) => Some("garbage".to_owned()),
        Some(IdentityLie::Undecodable) => Some("*.{}.?".to_owned()),
        lie => Some(signed(email, audience, lie)),
    }
}

/// What Google calls an account for good: digits that do not change.
pub(super) fn subject(email: &str) -> String {
    let hash = digest(&SHA256, email.as_bytes());
    let (eight, _) = hash.as_ref().split_first_chunk().expect("a hash has 32 bytes");
    format!("1{:020}", u64::from_be_bytes(*eight))
}

fn signed(email: &str, audience: &str, lie: Option<&IdentityLie>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let header = json!({"alg": "RS256", "kid": "stand-in", "typ": "JWT"});
    let mut claims = json!({
        "iss": "https://accounts.google.com", "sub": subject(email), "aud": audience, "azp": audience,
        "email": email, "email_verified": true, "iat": now, "exp": now + 3600,
    });
    match lie {
        Some(IdentityLie::Audience(other)) => claims["aud"] = other.clone().into(),
        Some(IdentityLie::Issuer(other)) => claims["iss"] = other.clone().into(),
        Some(IdentityLie::Email(other)) => claims["email"] = other.clone().into(),
        Some(IdentityLie::Unverified) => claims["email_verified"] = false.into(),
        Some(IdentityLie::Expired) => {
            claims["iat"] = (now - 7200).into();
            claims["exp"] = (now - 3600).into();
        }
        _ => (),
    }
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    format!("{header}.{claims}.{}", random_text(256))
}
