//! OAuth's token endpoint: post a form, read a token or a refusal, and try again where that can help.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::source::{Request, SourceFault, World};
use crate::error::{Fault, printable};
use crate::http::client::{Answer, HttpFault};
use crate::secret::{AccessToken, Secret};

/// A grant that is to be exchanged for a token.
#[derive(Debug)]
pub struct Exchange<'a> {
    pub url: &'a str,
    pub form: &'a [(&'a str, &'a str)],
    pub until: Instant,
    /// The ask that it is for. Where others will ask for the same, an answer that is under way is waited for longer.
    pub asked: Option<&'a Request>,
    /// Names the credential in messages.
    pub what: &'a str,
    /// The command that mends a dead one.
    pub remedy: &'a str,
    /// Whether the same grant may be posted again: a code is good for one time only.
    pub repeats: bool,
}

/// What the token endpoint gives.
#[derive(Debug)]
pub struct Granted {
    pub token: AccessToken,
    /// Where the server gives one: after a sign-in, or because it changes them with each refresh.
    pub refresh_token: Option<Secret>,
    /// When that one ends by itself, where the server says so.
    pub refresh_ends: Option<SystemTime>,
    /// The scopes, if they are told: RFC 6749 section 5.1 lets a server leave out what is as asked for.
    pub scopes: Option<Vec<String>>,
    pub id_token: Option<Secret>,
}

impl Exchange<'_> {
    /// Posts the grant and reads the token, with at most three retries of what may pass by itself.
    ///
    /// # Errors
    /// When there is no token before `until`.
    pub async fn send(self, world: &World) -> Result<Granted, SourceFault> {
        let mut pause = FIRST_PAUSE;
        for attempt in 0.. {
            let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(self.form).finish();
            let answer = world.http.post_form(self.url, form, self.at_most()).await;
            let answer = answer.map_err(SourceFault::from);
            let fault = match answer.and_then(|answer| read(world, &answer, self.what, self.remedy)) {
                Ok(granted) => return Ok(granted),
                Err(fault) => without_echo(fault, self.form),
            };
            let wait = fault.retry_after().unwrap_or(pause);
            let last = attempt == RETRIES || !self.repeats;
            if last || !fault.is_transient() || Instant::now() + wait >= self.until {
                return Err(fault);
            }
            tracing::debug!(attempt, fault = %fault, "asking again");
            sleep(wait).await;
            pause *= 2;
        }
        unreachable!("the loop ends with its last attempt")
    }

    /// Until when an answer is waited for. What hangs is not waited for as long as what runs on this machine: the network
    /// may be another one by now.
    fn at_most(&self) -> Instant {
        let Some(asked) = self.asked.filter(|asked| asked.goes_on()) else { return self.until };
        let host = url::Url::parse(self.url).ok().and_then(|url| url.host_str().map(str::to_owned));
        let waited = self.until.saturating_duration_since(Instant::now());
        asked.meanwhile.say(HttpFault::Deadline { host: host.unwrap_or_default(), waited });
        asked.at_most.min(self.until + BEYOND)
    }
}

/// Ends a refresh token, and all that came of it (RFC 7009). That it was dead already is as good.
///
/// # Errors
/// When the server cannot be reached or does not do it.
pub async fn revoke(world: &World, url: &str, token: &Secret, until: Instant) -> Result<(), SourceFault> {
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("token", token.expose()), ("token_type_hint", "refresh_token")])
        .finish();
    let answer = world.http.post_form(url, form, until).await?;
    let refusal = || serde_json::from_slice::<Refusal>(&answer.body).ok().map(|refusal| refusal.error);
    match answer.status {
        StatusCode::OK => Ok(()),
        StatusCode::BAD_REQUEST if refusal().as_deref() == Some("invalid_token") => Ok(()),
        status => Err(SourceFault::Status {
            what: "the revocation endpoint".to_owned(),
            status: status.as_u16(),
            retry_after: answer.retry_after(),
        }),
    }
}

/// Takes an endpoint's words out of a refusal that repeats any part of a secret that was sent to it.
fn without_echo(fault: SourceFault, form: &[(&str, &str)]) -> SourceFault {
    let SourceFault::OAuth { what, error, description, subtype, remedy } = fault else { return fault };
    let secrets =
        || form.iter().filter(|(name, _)| SECRETS.contains(name)).map(|(_, value)| value.as_bytes());
    let echoes = |text: &str| {
        let mut pieces = text.as_bytes().windows(ECHO);
        pieces.any(|piece| secrets().any(|secret| secret.windows(ECHO).any(|window| window == piece)))
    };
    let error = if echoes(&error) { "an error that repeats what was sent".to_owned() } else { error };
    let description = description.filter(|text| !echoes(text));
    let subtype = subtype.filter(|text| !echoes(text));
    SourceFault::OAuth { what, error, description, subtype, remedy }
}

/// The successful answer, RFC 6749 section 5.1. `expires_in` is a number or, from some servers, a string.
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: Option<serde_json::Value>,
    refresh_token: Option<Secret>,
    refresh_token_expires_in: Option<serde_json::Value>,
    scope: Option<String>,
    id_token: Option<Secret>,
}

/// The refusal, RFC 6749 section 5.2, with Google's `error_subtype`.
#[derive(Deserialize)]
struct Refusal {
    error: String,
    error_description: Option<String>,
    error_subtype: Option<String>,
}

fn read(world: &World, answer: &Answer, what: &str, remedy: &str) -> Result<Granted, SourceFault> {
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
        let identity = parsed.id_token.as_ref().and_then(email);
        let split = |scope: String| scope.split_ascii_whitespace().map(str::to_owned).collect();
        return Ok(Granted {
            token: token.with_identity(identity),
            refresh_token: parsed.refresh_token.filter(|token| !token.expose().is_empty()),
            refresh_ends: seconds(parsed.refresh_token_expires_in.as_ref()).map(|life| now + life),
            scopes: parsed.scope.map(split),
            id_token: parsed.id_token,
        });
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
        let short = |text: &str| printable(text).chars().take(60).collect();
        SourceFault::OAuth {
            what: what.to_owned(),
            error: short(&self.error),
            description,
            subtype: self.error_subtype.as_deref().map(short),
            remedy: dead.then(|| remedy.to_owned()),
        }
    }
}

/// The e-mail address in an ID token that came straight from the token endpoint over TLS, for display only
/// (`OpenID` Connect Core 3.1.3.7 lets TLS stand for the signature there). Nothing is decided by it.
fn email(id_token: &Secret) -> Option<String> {
    let claims = Claims::of(id_token)?;
    claims.email.filter(|_| claims.email_verified)
}

/// What an ID token says.
#[derive(Debug, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub aud: String,
    pub email: Option<String>,
    #[serde(default)]
    pub email_verified: bool,
}

impl Claims {
    /// Reads the middle part. The signature is not looked at: it came straight from the token endpoint, and TLS stands
    /// for it there.
    #[must_use]
    pub fn of(id_token: &Secret) -> Option<Self> {
        let payload = URL_SAFE_NO_PAD.decode(id_token.expose().split('.').nth(1)?).ok()?;
        serde_json::from_slice(&payload).ok()
    }
}

fn lifetime(value: Option<&serde_json::Value>) -> Option<Duration> {
    seconds(value).map(|life| life.min(Duration::from_secs(86_400)))
}

/// A number of seconds above zero, or the same in quotes, as some servers write it.
fn seconds(value: Option<&serde_json::Value>) -> Option<Duration> {
    let value = value?;
    let seconds = match value.as_str() {
        Some(text) => text.parse().ok()?,
        None => value.as_u64()?,
    };
    (1..=MOST_SECONDS).contains(&seconds).then(|| Duration::from_secs(seconds))
}

/// The members of a form that nobody may see.
const SECRETS: [&str; 5] = ["client_secret", "refresh_token", "assertion", "code", "code_verifier"];
/// A thousand years: what is more is no time that a clock could reach.
const MOST_SECONDS: u64 = 1000 * 365 * 86_400;
/// So many bytes of a secret in a row are no accident.
const ECHO: usize = 8;
/// With what an asker waits it is twenty seconds.
const BEYOND: Duration = Duration::from_secs(11);
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
