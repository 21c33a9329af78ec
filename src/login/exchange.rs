//! One attempt to sign in: what the browser is sent away with, and what its answer is exchanged for.
//!
//! The state and the verifier are made here and die with the attempt. A code that somebody else got, or that was
//! asked for with another challenge, is worth nothing without them.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::SignInFault;
use crate::ask::Access;
use crate::config::OauthClient;
use crate::error::printable;
use crate::google::accounts::Login;
use crate::google::endpoints::Endpoints;
use crate::google::oauth::{Claims, Exchange, Granted};
use crate::google::source::World;
use crate::secret::Secret;
use crate::vault::{StoredSecret, Vault};

/// See the module.
#[derive(Debug)]
pub struct Attempt {
    client: OauthClient,
    access: Access,
    /// Who is expected to sign in.
    account: Option<String>,
    pub redirect: String,
    pub state: Secret,
    verifier: Secret,
}

impl Attempt {
    /// An attempt whose answer comes to this port.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn new(
        client: OauthClient,
        port: u16,
        access: Access,
        account: Option<String>,
    ) -> Result<Self, SignInFault> {
        let redirect = format!("http://127.0.0.1:{port}{CALLBACK}");
        Ok(Self { client, access, account, redirect, state: random()?, verifier: random()? })
    }

    /// The address that a browser opens.
    #[must_use]
    pub fn url(&self, authorization: &str) -> String {
        let hash = digest::digest(&digest::SHA256, self.verifier.expose().as_bytes());
        let mut pairs = url::form_urlencoded::Serializer::new(String::new());
        pairs.extend_pairs([
            ("client_id", self.client.client_id.as_str()),
            ("redirect_uri", &self.redirect),
            ("response_type", "code"),
            ("scope", &self.scopes().join(" ")),
            ("code_challenge", &URL_SAFE_NO_PAD.encode(hash)),
            ("code_challenge_method", "S256"),
            ("state", self.state.expose()),
            // A refresh token comes with `offline` only, and for sure only where consent is given anew.
            ("access_type", "offline"),
        ]);
        match &self.account {
            Some(account) => pairs.append_pair("prompt", "consent").append_pair("login_hint", account),
            None => pairs.append_pair("prompt", "consent select_account"),
        };
        let separator = if authorization.contains('?') { '&' } else { '?' };
        format!("{authorization}{separator}{}", pairs.finish())
    }

    /// The scopes to ask for. Whoever may publish also asks for the narrow scope, so that a token for reading can
    /// be narrowed to it.
    fn scopes(&self) -> Vec<&'static str> {
        let mut scopes = vec!["openid", "email", Access::Read.scope()];
        scopes.extend((self.access == Access::Write).then(|| Access::Write.scope()));
        scopes
    }

    /// Exchanges the code, and checks what was granted and to whom.
    ///
    /// # Errors
    /// When the server refuses, or what it gives is not what was asked for.
    pub async fn exchange(
        &self,
        world: &World,
        code: &Secret,
        vault: Vault,
    ) -> Result<(Login, StoredSecret), SignInFault> {
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("client_id", self.client.client_id.as_str()),
            ("code", code.expose()),
            ("code_verifier", self.verifier.expose()),
            ("redirect_uri", &self.redirect),
        ];
        let secret = self.client.client_secret.expose();
        form.extend((!secret.is_empty()).then_some(("client_secret", secret)));
        let exchange = Exchange {
            url: world.endpoints.token(),
            form: &form,
            until: Instant::now() + PATIENCE,
            asked: None,
            what: "the sign-in",
            remedy: "run `valetkey login` again; if it stays, check the OAuth client",
            repeats: false,
        };
        let granted = exchange.send(world).await?;
        let needed = Access::scope(self.access);
        let scopes =
            granted.scopes.clone().unwrap_or_else(|| self.scopes().into_iter().map(str::to_owned).collect());
        if !scopes.iter().any(|scope| scope == needed) {
            return Err(SignInFault::Unticked(needed.to_owned()));
        }
        let refresh_token = granted.refresh_token.clone().ok_or(SignInFault::NoRefreshToken)?;
        let login = Login {
            account: self.who(&world.endpoints, &granted, &refresh_token)?,
            access: self.access,
            scopes: scopes.iter().map(|scope| printable(scope)).collect(),
            vault,
            client_id: self.client.client_id.clone(),
            created: world.clock.now(),
            ends: granted.refresh_ends,
            adopted: false,
        };
        let secret = StoredSecret {
            refresh_token,
            client_id: self.client.client_id.clone(),
            client_secret: self.client.client_secret.clone(),
        };
        Ok((login, secret))
    }

    /// Whose login it is. An e-mail address that the server does not vouch for, or that is in a token meant for
    /// somebody else, is not shown at all. When the token ends is not looked at: it came this very moment, and the
    /// clock of a laptop may be hours off.
    fn who(
        &self,
        endpoints: &Endpoints,
        granted: &Granted,
        refresh_token: &Secret,
    ) -> Result<String, SignInFault> {
        let unknown = || format!("unknown-{}", refresh_token.fingerprint());
        let account = granted
            .id_token
            .as_ref()
            .and_then(Claims::of)
            .filter(|claims| endpoints.admits_issuer(&claims.iss) && claims.aud == self.client.client_id)
            .filter(|claims| claims.email_verified)
            .and_then(|claims| claims.email)
            .filter(|email| is_plain(email));
        match (&self.account, account) {
            (None, account) => Ok(account.unwrap_or_else(unknown)),
            (Some(wanted), None) => Err(SignInFault::Unnamed(wanted.clone())),
            (Some(wanted), Some(got)) if !wanted.eq_ignore_ascii_case(&got) => {
                Err(SignInFault::OtherAccount { wanted: wanted.clone(), got })
            }
            (Some(_), Some(got)) => Ok(got),
        }
    }
}

/// An address that fits into a line, a file and a command.
#[must_use]
pub fn is_plain(email: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || "@.-_+'".contains(c);
    email.len() < 255
        && email.split('@').filter(|part| !part.is_empty()).count() == 2
        && email.chars().all(plain)
}

/// 256 random bits in 43 characters, as RFC 7636 recommends for a verifier.
fn random() -> Result<Secret, SignInFault> {
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(bytes.as_mut()).map_err(|_| SignInFault::Random)?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes.as_ref())))
}

/// The one path that an answer may come to.
pub const CALLBACK: &str = "/callback";
/// An exchange takes one round trip; a proxy may take its time.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(access: Access, account: Option<&str>) -> Attempt {
        let client = OauthClient { client_id: "id".into(), client_secret: Secret::new("no secret".into()) };
        Attempt::new(client, 1234, access, account.map(str::to_owned)).unwrap()
    }

    #[test]
    fn the_address_carries_a_challenge_and_never_the_verifier() {
        let attempt = attempt(Access::Read, Some("a@example.test"));
        let url = attempt.url("https://oauth.test/auth?x=1");
        let parsed = url::Url::parse(&url).unwrap();
        let pairs: std::collections::HashMap<_, _> = parsed.query_pairs().into_owned().collect();
        let hash = digest::digest(&digest::SHA256, attempt.verifier.expose().as_bytes());
        assert_eq!(pairs["code_challenge"], URL_SAFE_NO_PAD.encode(hash));
        assert_eq!(pairs["code_challenge_method"], "S256");
        assert_eq!(pairs["redirect_uri"], "http://127.0.0.1:1234/callback");
        assert_eq!(pairs["login_hint"], "a@example.test");
        assert!(!pairs["scope"].contains("cloud-platform "), "{}", pairs["scope"]);
        assert!(!url.contains(attempt.verifier.expose()) && !url.contains("no+secret"));
        assert_eq!(attempt.verifier.expose().len(), 43);
        assert_ne!(attempt.verifier, attempt.state);
    }

    #[test]
    fn to_publish_both_scopes_are_asked_for() {
        assert_eq!(attempt(Access::Read, None).scopes().len(), 3);
        assert!(
            attempt(Access::Write, None).scopes().ends_with(&[Access::Read.scope(), Access::Write.scope()])
        );
    }

    fn id_token(claims: &serde_json::Value) -> Secret {
        Secret::new(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string())))
    }

    #[test]
    fn an_address_is_believed_only_from_its_issuer_for_this_client_and_verified() {
        let now = std::time::SystemTime::UNIX_EPOCH;
        let who = |claims: serde_json::Value| {
            let token =
                crate::secret::AccessToken::new(Secret::new("t".into()), now, now + Duration::from_secs(9));
            let granted = Granted {
                token: token.unwrap(),
                refresh_token: None,
                refresh_ends: None,
                scopes: None,
                id_token: Some(id_token(&claims)),
            };
            let refresh_token = Secret::new("refresh".to_owned());
            attempt(Access::Read, None).who(&Endpoints::default(), &granted, &refresh_token).unwrap()
        };
        let good = serde_json::json!({
            "iss": "https://accounts.google.com", "aud": "id", "email": "a@example.test", "email_verified": true,
        });
        assert_eq!(who(good.clone()), "a@example.test");
        for (member, value) in [
            ("iss", "https://evil.test".into()),
            ("aud", "another".into()),
            ("email_verified", false.into()),
            ("email", "a@example.test\u{1b}[2J".into()),
            ("email", "a@b`id`".into()),
            ("email", "nobody".into()),
        ] {
            let mut forged = good.clone();
            forged[member] = value;
            assert!(who(forged).starts_with("unknown-"), "{member}");
        }
    }

    #[test]
    fn nobody_is_not_the_named_account() {
        let now = std::time::SystemTime::UNIX_EPOCH;
        let token =
            crate::secret::AccessToken::new(Secret::new("t".into()), now, now + Duration::from_secs(9));
        let granted = Granted {
            token: token.unwrap(),
            refresh_token: None,
            refresh_ends: None,
            scopes: None,
            id_token: None,
        };
        let outcome = attempt(Access::Read, Some("a@example.test")).who(
            &Endpoints::default(),
            &granted,
            &Secret::new("r".into()),
        );
        assert!(matches!(outcome, Err(SignInFault::Unnamed(_))));
    }
}
