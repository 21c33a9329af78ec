//! What a stand-in knows and remembers: grants, tokens, faults to come, files, and the record of requests.
//!
//! Whatever must not leak from the program under test is appended to the secrets the moment it exists, so that a hunt
//! for leaks cannot miss a token that was issued and never used.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::Write;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::body::Bytes;
use rand::RngCore;

use super::TOKEN_LIFETIME;
use super::fault::Fault;

/// The scope that a full grant carries.
pub const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Enough to pull, not to upload.
pub const READ_ONLY: &str = "https://www.googleapis.com/auth/cloud-platform.read-only";
pub const USERINFO_EMAIL: &str = "https://www.googleapis.com/auth/userinfo.email";
/// The identity behind the metadata server.
pub const VM: &str = "vm@stand-in.iam.gserviceaccount.com";

/// One request to the token endpoint, recorded even if a fault then spoils the answer.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    pub grant_type: String,
    /// The owner of a known refresh token, or the issuer that an assertion claims.
    pub identity: Option<String>,
    pub scope: Option<String>,
    pub at: SystemTime,
}

/// One request to the metadata server; `path` includes the query.
#[derive(Clone, Debug)]
pub struct MetadataRequest {
    pub path: String,
    /// 0 while unanswered, for ever after [`Fault::Hang`] and [`Fault::CloseAtOnce`].
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
    /// 0 while unanswered, for ever after [`Fault::Hang`] and [`Fault::CloseAtOnce`].
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

/// A random string in the alphabet of base64url, from this many random bytes.
pub(super) fn random_text(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    rand::thread_rng().fill_bytes(&mut random);
    URL_SAFE_NO_PAD.encode(random)
}

/// By name in its normal form: by file name.
pub(super) type Repository = BTreeMap<String, BTreeMap<String, Bytes>>;

pub(super) struct RefreshGrant {
    pub(super) email: String,
    pub(super) scopes: Vec<String>,
    pub(super) revoked: bool,
}

#[derive(Clone)]
pub(super) struct AccessToken {
    pub(super) email: String,
    pub(super) scopes: Vec<String>,
    pub(super) expires: SystemTime,
    pub(super) refresh_token: Option<String>,
    pub(super) revoked: bool,
}

impl AccessToken {
    pub(super) fn remaining(&self) -> Duration {
        self.expires.duration_since(SystemTime::now()).unwrap_or_default()
    }
}

#[derive(Default)]
pub(super) struct Faults {
    pub(super) next: VecDeque<Fault>,
    pub(super) always: Option<Fault>,
}

impl Faults {
    pub(super) fn take(&mut self) -> Option<Fault> {
        self.next.pop_front().or_else(|| self.always.clone())
    }
}

pub(super) struct State {
    pub(super) token_lifetime: Duration,
    pub(super) service_accounts: HashSet<String>,
    pub(super) refresh_grants: HashMap<String, RefreshGrant>,
    pub(super) access_tokens: HashMap<String, AccessToken>,
    pub(super) denied: HashSet<String>,
    pub(super) token_faults: Faults,
    pub(super) metadata_faults: Faults,
    pub(super) metadata_fickle: bool,
    /// The token that each set of scopes is answered with.
    pub(super) metadata_tokens: HashMap<Vec<String>, String>,
    pub(super) registry_faults: Vec<(String, Fault, bool)>,
    pub(super) repositories: HashMap<String, Repository>,
    /// What the random addresses that files redirect to stand for.
    pub(super) downloads: HashMap<String, Bytes>,
    pub(super) token_requests: Vec<TokenRequest>,
    pub(super) metadata_requests: Vec<MetadataRequest>,
    pub(super) registry_requests: Vec<RegistryRequest>,
    pub(super) secrets: Vec<String>,
    pub(super) secrets_file: Option<File>,
}

impl State {
    /// Issues a token; its remaining whole seconds are the `expires_in` of the answer.
    pub(super) fn issue(
        &mut self,
        email: &str,
        scopes: Vec<String>,
        refresh_token: Option<String>,
    ) -> (String, u64) {
        let token = format!("ya29.stand-in-{}", random_text(96));
        self.keep_secret(&token);
        let access_token = AccessToken {
            email: email.to_owned(),
            scopes,
            expires: SystemTime::now() + self.token_lifetime,
            refresh_token,
            revoked: false,
        };
        self.access_tokens.insert(token.clone(), access_token);
        (token, self.token_lifetime.as_secs())
    }

    /// The access token, unless unknown, expired or revoked.
    pub(super) fn valid(&self, token: &str) -> Option<&AccessToken> {
        let access_token = self.access_tokens.get(token)?;
        (!access_token.revoked && !access_token.remaining().is_zero()).then_some(access_token)
    }

    pub(super) fn keep_secret(&mut self, secret: &str) {
        if self.secrets.iter().any(|known| known == secret) {
            return;
        }
        if let Some(file) = &mut self.secrets_file {
            writeln!(file, "{secret}").expect("the list of secrets can be written");
        }
        self.secrets.push(secret.to_owned());
    }

    pub(super) fn take_registry_fault(&mut self, path: &str) -> Option<Fault> {
        let found = self.registry_faults.iter().position(|(prefix, ..)| path.starts_with(prefix))?;
        let (_, fault, once) = &self.registry_faults[found];
        let (fault, once) = (fault.clone(), *once);
        if once {
            self.registry_faults.remove(found);
        }
        Some(fault)
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            token_lifetime: TOKEN_LIFETIME,
            service_accounts: HashSet::new(),
            refresh_grants: HashMap::new(),
            access_tokens: HashMap::new(),
            denied: HashSet::new(),
            token_faults: Faults::default(),
            metadata_faults: Faults::default(),
            metadata_fickle: false,
            metadata_tokens: HashMap::new(),
            registry_faults: Vec::new(),
            repositories: HashMap::new(),
            downloads: HashMap::new(),
            token_requests: Vec::new(),
            metadata_requests: Vec::new(),
            registry_requests: Vec::new(),
            secrets: Vec::new(),
            secrets_file: None,
        }
    }
}
