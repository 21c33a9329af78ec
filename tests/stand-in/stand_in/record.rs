//! The record of requests that tests look at. No entry holds a secret.

use std::time::SystemTime;

/// One request to the token endpoint, recorded even if a fault then spoils the answer.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    pub grant_type: String,
    /// The owner of a known refresh token or code, or the issuer that an assertion claims.
    pub identity: Option<String>,
    pub scope: Option<String>,
    pub client_id: Option<String>,
    /// Of an exchange of a code.
    pub redirect_uri: Option<String>,
    /// Whether it came with a `code_verifier` (RFC 7636).
    pub with_verifier: bool,
    /// 0 while unanswered, for ever after [`Fault::Hang`](super::Fault::Hang) and
    /// [`Fault::CloseAtOnce`](super::Fault::CloseAtOnce).
    pub status: u16,
    pub at: SystemTime,
}

/// One address that a browser was sent to, and what became of it.
#[derive(Clone, Debug)]
pub struct AuthorizationRequest {
    pub client_id: Option<String>,
    pub redirect_uri: Option<String>,
    pub scope: Option<String>,
    pub access_type: Option<String>,
    pub prompt: Option<String>,
    pub login_hint: Option<String>,
    pub with_state: bool,
    /// Whether it came with a `code_challenge` (RFC 7636).
    pub with_challenge: bool,
    pub outcome: Outcome,
}

/// What became of an authorization request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The page was shown, or a fault was, and nobody has answered.
    Undecided,
    /// A page with this error word was shown, and nobody was sent back.
    Refused(String),
    Denied,
    Allowed {
        email: String,
        scopes: Vec<String>,
    },
}

/// One request to the revocation endpoint.
#[derive(Clone, Debug)]
pub struct RevocationRequest {
    pub token: RevokedToken,
    /// Whether the token stood in the address, where logs see it, and not in the body.
    pub in_url: bool,
    /// The owner of a known token, dead or alive.
    pub identity: Option<String>,
    /// As that of [`TokenRequest`].
    pub status: u16,
}

/// What a client wanted to be revoked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RevokedToken {
    Refresh,
    Access,
    Unknown,
}

/// One request to the metadata server; `path` includes the query.
#[derive(Clone, Debug)]
pub struct MetadataRequest {
    pub path: String,
    /// As that of [`TokenRequest`].
    pub status: u16,
}

/// One request to the Python repository.
#[derive(Clone, Debug)]
pub struct RegistryRequest {
    pub method: String,
    pub path: String,
    /// Path and query as they came.
    pub target: String,
    /// Names in lower case; the values of those that hold a secret are left out.
    pub headers: Vec<(String, String)>,
    /// How long the body was.
    pub body: usize,
    pub authorization: Authorization,
    /// As that of [`TokenRequest`].
    pub status: u16,
}

impl RegistryRequest {
    /// The value of a header, empty where it holds a secret.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// How a request identified itself, without the secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Authorization {
    None,
    /// With this user name.
    Basic(String),
    Bearer,
}
