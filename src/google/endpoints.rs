//! The only places that refresh tokens, assertions and client secrets are ever sent to: Google's own token
//! endpoints, and the ones that the configuration file names.

use crate::config::EndpointUrls;

/// Google's token endpoint.
const TOKEN: &str = "https://oauth2.googleapis.com/token";
/// Older names of the token endpoint that stand in key files.
const OLDER: [&str; 3] = [
    "https://accounts.google.com/o/oauth2/token",
    "https://www.googleapis.com/oauth2/v4/token",
    "https://www.googleapis.com/oauth2/v3/token",
];

/// Where a person signs in.
const AUTHORIZATION: &str = "https://accounts.google.com/o/oauth2/v2/auth";
/// Where a refresh token is ended.
const REVOCATION: &str = "https://oauth2.googleapis.com/revoke";
/// Where repositories are asked about.
const ARTIFACT_REGISTRY: &str = "https://artifactregistry.googleapis.com";
/// What Google calls itself in an ID token.
const ISSUERS: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];

/// Where secrets may go.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    configured: EndpointUrls,
}

impl Endpoints {
    /// `configured` comes from a configuration file, never from the environment or a flag.
    #[must_use]
    pub fn new(configured: EndpointUrls) -> Self {
        Self { configured }
    }

    /// Where a refresh token goes.
    #[must_use]
    pub fn token(&self) -> &str {
        self.configured.token.as_deref().unwrap_or(TOKEN)
    }

    /// Whether tokens come from Google itself.
    #[must_use]
    pub fn is_google(&self) -> bool {
        self.token() == TOKEN
    }

    /// Where a browser is sent to sign in.
    #[must_use]
    pub fn authorization(&self) -> &str {
        self.configured.authorization.as_deref().unwrap_or(AUTHORIZATION)
    }

    /// Where a refresh token goes to be revoked: nowhere, where another server gives tokens and none is named for
    /// this. That server's token is none of Google's business.
    #[must_use]
    pub fn revocation(&self) -> Option<&str> {
        match (&self.configured.revocation, &self.configured.token) {
            (Some(url), _) => Some(url),
            (None, None) => Some(REVOCATION),
            (None, Some(_)) => None,
        }
    }

    /// Where repositories are asked about: nowhere, where another server gives tokens and none is named for this.
    #[must_use]
    pub fn artifact_registry(&self) -> Option<&str> {
        match (&self.configured.artifact_registry, &self.configured.token) {
            (Some(url), _) => Some(url),
            (None, None) => Some(ARTIFACT_REGISTRY),
            (None, Some(_)) => None,
        }
    }

    /// Whether an ID token from the token endpoint may say that it comes from there.
    #[must_use]
    pub fn admits_issuer(&self, issuer: &str) -> bool {
        let configured = self.configured.authorization.as_deref().and_then(|url| url::Url::parse(url).ok());
        ISSUERS.contains(&issuer)
            || configured
                .is_some_and(|url| url.origin().ascii_serialization() == issuer.trim_end_matches('/'))
    }

    /// Whether a credential file may send its assertions there. Compared as a whole: anything else is somebody
    /// else's endpoint.
    #[must_use]
    pub fn admits(&self, url: &str) -> bool {
        url == TOKEN || OLDER.contains(&url) || self.configured.token.as_deref() == Some(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(token: Option<&str>, authorization: Option<&str>) -> Endpoints {
        let [token, authorization] = [token, authorization].map(|url| url.map(str::to_owned));
        Endpoints::new(EndpointUrls { token, authorization, ..EndpointUrls::default() })
    }

    #[test]
    fn only_exact_endpoints_are_admitted() {
        let endpoints = configured(Some("https://oauth.corp.test/token"), None);
        assert!(endpoints.admits("https://oauth2.googleapis.com/token"));
        assert!(endpoints.admits("https://oauth.corp.test/token"));
        for wrong in [
            "http://oauth2.googleapis.com/token",
            "https://oauth2.googleapis.com/token/",
            "https://oauth2.googleapis.com.evil.test/token",
            "https://oauth2.googleapis.com@evil.test/token",
            "https://oauth2.googleapis.com/token?x",
            "https://oauth.corp.test/",
            "",
        ] {
            assert!(!endpoints.admits(wrong), "{wrong}");
        }
    }

    #[test]
    fn another_server_s_token_is_never_shown_to_google() {
        assert_eq!(configured(None, None).artifact_registry(), Some(ARTIFACT_REGISTRY));
        let corporate = configured(Some("https://oauth.corp.test/token"), None);
        assert_eq!(corporate.artifact_registry(), None);
    }

    #[test]
    fn another_server_s_token_is_never_revoked_at_google() {
        assert_eq!(configured(None, None).revocation(), Some(REVOCATION));
        assert_eq!(configured(Some("https://oauth.corp.test/token"), None).revocation(), None);
    }

    #[test]
    fn an_issuer_is_google_or_the_origin_that_the_file_names() {
        let google = configured(None, None);
        assert!(google.admits_issuer("https://accounts.google.com"));
        let corporate = configured(None, Some("https://oauth.corp.test/auth"));
        assert!(corporate.admits_issuer("https://oauth.corp.test"));
        for wrong in ["https://oauth.corp.test.evil.test", "http://accounts.google.com", ""] {
            assert!(!google.admits_issuer(wrong) && !corporate.admits_issuer(wrong), "{wrong}");
        }
        assert!(!google.admits_issuer("https://oauth.corp.test"));
    }
}
