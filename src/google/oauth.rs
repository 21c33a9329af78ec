//! OAuth's token endpoint: post a form, read a token or a refusal, and try again where that can help.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::source::{SourceFault, World};
use crate::error::{Fault, printable};
use crate::http::client::Answer;
use crate::secret::{AccessToken, Secret};

/// Posts a grant and reads the token, with at most three retries of what may pass by itself.
///
/// `what` names the credential in messages; `remedy` is the command that mends a dead one.
///
/// # Errors
/// When there is no token before `until`.
pub async fn exchange(
    world: &World,
    url: &str,
    pairs: &[(&str, &str)],
    until: Instant,
    what: &str,
    remedy: &str,
) -> Result<AccessToken, SourceFault> {
    let mut pause = FIRST_PAUSE;
    for attempt in 0.. {
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let answer = world.http.post_form(url, form, until).await;
        let answer = answer.map_err(SourceFault::from);
        let fault = match answer.and_then(|answer| read(world, &answer, what, remedy)) {
            Ok(token) => return Ok(token),
            Err(fault) => without_echo(fault, pairs),
        };
        let wait = fault.retry_after().unwrap_or(pause);
        if attempt == RETRIES || !fault.is_transient() || Instant::now() + wait >= until {
            return Err(fault);
        }
        tracing::debug!(attempt, fault = %fault, "asking again");
        sleep(wait).await;
        pause *= 2;
    }
    unreachable!("the loop ends with its last attempt")
}

/// Takes an endpoint's words out of a refusal that repeats any part of a secret that was sent to it.
fn without_echo(fault: SourceFault, form: &[(&str, &str)]) -> SourceFault {
    let SourceFault::OAuth { what, error, description, remedy } = fault else { return fault };
    let secrets =
        || form.iter().filter(|(name, _)| SECRETS.contains(name)).map(|(_, value)| value.as_bytes());
    let echoes = |text: &str| {
        let mut pieces = text.as_bytes().windows(ECHO);
        pieces.any(|piece| secrets().any(|secret| secret.windows(ECHO).any(|window| window == piece)))
    };
    let error = if echoes(&error) { "an error that repeats what was sent".to_owned() } else { error };
    SourceFault::OAuth { what, error, description: description.filter(|text| !echoes(text)), remedy }
}

/// The successful answer, RFC 6749 section 5.1. `expires_in` is a number or, from some servers, a string.
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: Option<serde_json::Value>,
    id_token: Option<String>,
}

/// The refusal, RFC 6749 section 5.2, with Google's `error_subtype`.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    error_description: Option<String>,
    error_subtype: Option<String>,
}

fn read(world: &World, answer: &Answer, what: &str, remedy: &str) -> Result<AccessToken, SourceFault> {
    let endpoint = || "the token endpoint".to_owned();
    if answer.status == StatusCode::OK {
        let parsed: TokenAnswer = serde_json::from_slice(&answer.body).map_err(|_| {
            SourceFault::Nonsense { what: endpoint(), problem: "something that is not a token".to_owned() }
        })?;
        let secret = Secret::new(parsed.access_token);
        let nonsense =
            |problem: &str| SourceFault::Nonsense { what: endpoint(), problem: problem.to_owned() };
        let lifetime = lifetime(parsed.expires_in.as_ref())
            .ok_or_else(|| nonsense("a token whose lifetime is missing, zero or unreadable"))?;
        let now = world.clock.now();
        let token = AccessToken::new(secret, now, now + lifetime)
            .ok_or_else(|| nonsense("a token that cannot be sent in a header"))?;
        return Ok(token.with_identity(parsed.id_token.as_deref().and_then(email)));
    }
    match serde_json::from_slice::<Refusal>(&answer.body) {
        Ok(refusal) if answer.status.is_client_error() && answer.status != StatusCode::TOO_MANY_REQUESTS => {
            Err(refusal.into_fault(what, remedy))
        }
        _ => Err(SourceFault::Status {
            what: endpoint(),
            status: answer.status.as_u16(),
            retry_after: answer.retry_after(),
        }),
    }
}

impl Refusal {
    /// Only a dead credential has a remedy in signing in again; the rest is for an administrator.
    fn into_fault(self, what: &str, remedy: &str) -> SourceFault {
        let reauthentication =
            matches!(self.error_subtype.as_deref(), Some("invalid_rapt" | "rapt_required"));
        let description = match self.error_subtype.as_deref() {
            Some(_) if reauthentication => Some("the organisation wants a fresh sign-in".to_owned()),
            _ => self.error_description.map(|text| printable(&text).chars().take(200).collect()),
        };
        let dead = matches!(self.error.as_str(), "invalid_grant" | "deleted_client" | "invalid_client");
        let error = printable(&self.error).chars().take(60).collect();
        let remedy = dead.then(|| remedy.to_owned());
        SourceFault::OAuth { what: what.to_owned(), error, description, remedy }
    }
}

/// The e-mail address in an ID token that came straight from the token endpoint over TLS, for display only
/// (`OpenID` Connect Core 3.1.3.7 lets TLS stand for the signature there). Nothing is decided by it.
fn email(id_token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        email: String,
        email_verified: bool,
    }
    let payload = URL_SAFE_NO_PAD.decode(id_token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    claims.email_verified.then_some(claims.email)
}

fn lifetime(value: Option<&serde_json::Value>) -> Option<Duration> {
    let value = value?;
    let seconds = match value.as_str() {
        Some(text) => text.parse().ok()?,
        None => value.as_u64()?,
    };
    (seconds >= 1).then(|| Duration::from_secs(seconds.min(86_400)))
}

/// The members of a form that nobody may see.
const SECRETS: [&str; 3] = ["client_secret", "refresh_token", "assertion"];
/// So many bytes of a secret in a row are no accident.
const ECHO: usize = 8;
const RETRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lifetime_is_a_number_or_a_string_above_zero() {
        assert_eq!(lifetime(Some(&json!(3599))), Some(Duration::from_secs(3599)));
        assert_eq!(lifetime(Some(&json!("3599"))), Some(Duration::from_secs(3599)));
        for wrong in [
            json!(0),
            json!(-5),
            json!("-5"),
            json!("soon"),
            json!(null),
            json!(0.5),
            json!(-1e30),
            json!([]),
        ] {
            assert_eq!(lifetime(Some(&wrong)), None, "{wrong}");
        }
        assert_eq!(lifetime(None), None);
    }
}
