//! `[endpoints]`: what takes the place of Google's own. Only a configuration file can name it.

use serde::{Deserialize, Deserializer};

use crate::error::shown::shown;

/// Endpoints that take the place of Google's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointUrls {
    /// Where refresh tokens, codes and assertions go.
    #[serde(deserialize_with = "https_url")]
    pub token: Option<String>,
    /// Where a refresh token goes to be revoked.
    #[serde(deserialize_with = "https_url")]
    pub revocation: Option<String>,
    /// Where repositories are asked about, without the `/v1/` behind it.
    #[serde(deserialize_with = "https_url")]
    pub artifact_registry: Option<String>,
    /// Where a browser is sent to sign in. No secret goes there, so plain http may be named on this machine.
    #[serde(deserialize_with = "browser_url")]
    pub authorization: Option<String>,
}

impl EndpointUrls {
    pub(super) fn overlay(&mut self, above: Self) {
        self.token = above.token.or(self.token.take());
        self.revocation = above.revocation.or(self.revocation.take());
        self.artifact_registry = above.artifact_registry.or(self.artifact_registry.take());
        self.authorization = above.authorization.or(self.authorization.take());
    }
}

fn https_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let fine = url::Url::parse(&text)
        .is_ok_and(|url| url.scheme() == "https" && url.username().is_empty() && url.password().is_none());
    let wrong = || serde::de::Error::custom(format!("{:?} is not an https URL", shown(&text)));
    if fine { Ok(Some(text)) } else { Err(wrong()) }
}

/// https, or http to this very machine.
fn browser_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let own = |url: &url::Url| matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    let fine = url::Url::parse(&text)
        .is_ok_and(|url| url.scheme() == "https" || (url.scheme() == "http" && own(&url)));
    let wrong =
        || serde::de::Error::custom(format!("{:?} is neither https nor http on this machine", shown(&text)));
    if fine { Ok(Some(text)) } else { Err(wrong()) }
}
