//! The only places that refresh tokens, assertions and client secrets are ever sent to: Google's own token
//! endpoints, and the one that the configuration file names.

/// Google's token endpoint.
const TOKEN: &str = "https://oauth2.googleapis.com/token";
/// Older names of the token endpoint that stand in key files.
const OLDER: [&str; 3] = [
    "https://accounts.google.com/o/oauth2/token",
    "https://www.googleapis.com/oauth2/v4/token",
    "https://www.googleapis.com/oauth2/v3/token",
];

/// Where secrets may go.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    configured: Option<String>,
}

impl Endpoints {
    /// `configured` comes from a configuration file, never from the environment or a flag.
    #[must_use]
    pub fn new(configured: Option<String>) -> Self {
        Self { configured }
    }

    /// Where a refresh token goes.
    #[must_use]
    pub fn token(&self) -> &str {
        self.configured.as_deref().unwrap_or(TOKEN)
    }

    /// Whether a credential file may send its assertions there. Compared as a whole: anything else is somebody
    /// else's endpoint.
    #[must_use]
    pub fn admits(&self, url: &str) -> bool {
        url == TOKEN || OLDER.contains(&url) || self.configured.as_deref() == Some(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_endpoints_are_admitted() {
        let endpoints = Endpoints::new(Some("https://oauth.corp.test/token".to_owned()));
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
}
