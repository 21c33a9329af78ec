//! What a stand-in knows and remembers: clients, grants, tokens, faults to come, files, and the record of requests.
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
use super::client::Client;
use super::fault::Fault;
use super::grant::{Code, Grant, GrantId, RefreshToken};
use super::identity::IdentityLie;
use super::record::{
    AuthorizationRequest, MetadataRequest, RegistryRequest, RevocationRequest, TokenRequest,
};
use super::server::Pairs;

/// The identity behind the metadata server.
pub const VM: &str = "vm@stand-in.iam.gserviceaccount.com";

/// A random string in the alphabet of base64url, from this many random bytes.
pub(super) fn random_text(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    rand::thread_rng().fill_bytes(&mut random);
    URL_SAFE_NO_PAD.encode(random)
}

/// By name in its normal form: by file name.
pub(super) type Repository = BTreeMap<String, BTreeMap<String, Bytes>>;

#[derive(Clone)]
pub(super) struct AccessToken {
    pub(super) email: String,
    pub(super) scopes: Vec<String>,
    pub(super) expires: SystemTime,
    pub(super) grant: Option<GrantId>,
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
    pub(super) clients: HashMap<String, Client>,
    /// Those to choose from on the consent page; never empty.
    pub(super) accounts: Vec<String>,
    pub(super) accounts_are_default: bool,
    /// Accounts whose administrator lets no client in.
    pub(super) barred: HashSet<String>,
    /// Client and account of every consent so far.
    pub(super) consented: HashSet<(String, String)>,
    pub(super) codes: HashMap<String, Code>,
    pub(super) code_lifetime: Duration,
    pub(super) grants: Vec<Grant>,
    pub(super) refresh_tokens: HashMap<String, RefreshToken>,
    pub(super) rotating: bool,
    pub(super) revocation_spreads: bool,
    pub(super) lies: VecDeque<IdentityLie>,
    pub(super) access_tokens: HashMap<String, AccessToken>,
    pub(super) denied: HashSet<String>,
    pub(super) token_faults: Faults,
    pub(super) revocation_faults: Faults,
    pub(super) authorization_faults: Faults,
    pub(super) metadata_faults: Faults,
    pub(super) metadata_fickle: bool,
    /// The token that each set of scopes is answered with.
    pub(super) metadata_tokens: HashMap<Vec<String>, String>,
    pub(super) registry_faults: Vec<(String, Fault, bool)>,
    pub(super) repositories: HashMap<String, Repository>,
    /// Whether the registry wants to know who asks.
    pub(super) open_to_all: bool,
    /// Whether an answer stops in the middle of its head.
    pub(super) stops_in_heads: bool,
    /// Whether pages come as JSON to whoever accepts it.
    pub(super) serves_json: bool,
    /// Content type and bytes by path, of whatever is no Python package.
    pub(super) raw: HashMap<String, (String, Bytes)>,
    /// What the random addresses that files redirect to stand for.
    pub(super) downloads: HashMap<String, Bytes>,
    pub(super) token_requests: Vec<TokenRequest>,
    /// With the parameters as they came, by which a decision finds its request.
    pub(super) authorizations: Vec<(Pairs, AuthorizationRequest)>,
    pub(super) revocations: Vec<RevocationRequest>,
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
        grant: Option<GrantId>,
    ) -> (String, u64) {
        let token = format!("ya29.stand-in-{}", random_text(96));
        self.keep_secret(&token);
        let access_token = AccessToken {
            email: email.to_owned(),
            scopes,
            expires: SystemTime::now() + self.token_lifetime,
            grant,
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

    /// As [`State::keep_secret`], for a token with slashes. What is percent-encoded in an address would not be found
    /// as a whole, so the part behind the last slash is a secret of its own.
    pub(super) fn keep_token(&mut self, token: &str) {
        self.keep_secret(token);
        if let Some((_, tail)) = token.rsplit_once('/') {
            self.keep_secret(tail);
        }
    }

    pub(super) fn add_account(&mut self, email: &str) {
        if !self.accounts.iter().any(|known| known == email) {
            self.accounts.push(email.to_owned());
        }
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
            clients: HashMap::new(),
            accounts: vec!["developer@acme.example".to_owned()],
            accounts_are_default: true,
            barred: HashSet::new(),
            consented: HashSet::new(),
            codes: HashMap::new(),
            code_lifetime: Duration::from_secs(60),
            grants: Vec::new(),
            refresh_tokens: HashMap::new(),
            rotating: false,
            revocation_spreads: false,
            lies: VecDeque::new(),
            access_tokens: HashMap::new(),
            denied: HashSet::new(),
            token_faults: Faults::default(),
            revocation_faults: Faults::default(),
            authorization_faults: Faults::default(),
            metadata_faults: Faults::default(),
            metadata_fickle: false,
            metadata_tokens: HashMap::new(),
            registry_faults: Vec::new(),
            repositories: HashMap::new(),
            open_to_all: false,
            stops_in_heads: false,
            serves_json: false,
            raw: HashMap::new(),
            downloads: HashMap::new(),
            token_requests: Vec::new(),
            authorizations: Vec::new(),
            revocations: Vec::new(),
            metadata_requests: Vec::new(),
            registry_requests: Vec::new(),
            secrets: Vec::new(),
            secrets_file: None,
        }
    }
}
