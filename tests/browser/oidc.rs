//! A certified OAuth server in Google's place.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::certificate::Authority;
use super::harness::Sandbox;
use super::node::{Machine, Node};
use super::stand_in::{CLOUD_PLATFORM, READ_ONLY};

/// The server. Ends with the value.
pub(crate) struct Oidc {
    node: Node,
    pub(crate) authority: Authority,
    client_secret: String,
}

/// What may be wanted of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Each refresh brings a new refresh token, and the old one used again revokes all.
    pub(crate) rotate: bool,
    pub(crate) access_token_seconds: u32,
}

impl Default for Terms {
    fn default() -> Self {
        Self { rotate: false, access_token_seconds: 3599 }
    }
}

impl Oidc {
    pub(crate) fn start(machine: &Machine, sandbox: &Sandbox, terms: Terms) -> Self {
        let authority = Authority::new();
        // As fresh as the certificate: a fixture would be a secret in a file.
        let client_secret = format!("GOCSPX-{}", random());
        let first = json!({
            "key": authority.server_key_pem,
            "cert": authority.server_pem,
            "client_id": CLIENT_ID,
            "client_secret": client_secret,
            "scopes": ["email", READ_ONLY, CLOUD_PLATFORM],
            "rotate": terms.rotate,
            "access_token_seconds": terms.access_token_seconds,
        });
        let node = Node::start(machine, "oidc.mjs", &sandbox.path("oidc"), &first);
        Self { node, authority, client_secret }
    }

    pub(crate) fn client_secret(&self) -> &str {
        &self.client_secret
    }

    /// `https://localhost:PORT/auth` and its neighbours: `authorization`, `token`, `revocation`.
    pub(crate) fn endpoint(&self, name: &str) -> &str {
        self.node.ready[name].as_str().expect("an endpoint of that name")
    }

    /// The configuration of valetkey that makes this server Google.
    pub(crate) fn configure(&self, sandbox: &Sandbox) {
        let (google, port) = (sandbox.google.ca_pem(), sandbox.google.port());
        let authorities = sandbox.write("ca.pem", &format!("{google}{}", self.authority.pem));
        let text = format!(
            "extra_ca = {:?}\nvault = \"file\"\n\n[endpoints]\ntoken = {:?}\nauthorization = {:?}\n\
             revocation = {:?}\n\n[oauth]\nclient_id = {CLIENT_ID:?}\nclient_secret = {:?}\n\n\
             [[registry]]\nhost = \"localhost:{port}\"\n",
            authorities.display().to_string(),
            self.endpoint("token"),
            self.endpoint("authorization"),
            self.endpoint("revocation"),
            self.client_secret,
        );
        sandbox.write("home/.config/valetkey/config.toml", &text);
    }

    /// The token requests so far: `path`, `grant_type`, `scope`, `granted`, `error`.
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.log()["requests"].as_array().cloned().unwrap_or_default()
    }

    /// How many codes were exchanged, or tried to be.
    pub(crate) fn exchanges(&self) -> usize {
        self.requests().iter().filter(|request| request["grant_type"] == "authorization_code").count()
    }

    /// Every code, verifier and token so far.
    pub(crate) fn secrets(&self) -> BTreeSet<String> {
        let log = self.log();
        let secrets = log["secrets"].as_array().into_iter().flatten();
        secrets.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Changes claims of the identity tokens to come.
    pub(crate) fn forge(&self, claims: &Value) {
        self.node.ask("forge", json!({"claims": claims}));
    }

    fn log(&self) -> Value {
        self.node.ask("log", json!({}))
    }
}

/// Text that cannot be guessed.
pub(crate) fn random() -> String {
    use base64::Engine;
    let bytes: [u8; 24] = rand::random();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) const CLIENT_ID: &str = "000000000000-browser.apps.googleusercontent.com";
