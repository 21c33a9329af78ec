//! The handle by which tests look at a stand-in and meddle with it.
//!
//! The state is behind one lock that is never held across an await or while a test's hook runs, so a hook may call
//! any method of [`Control`] but those that set or clear the hook itself.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use serde_json::json;

use super::client::{Client, GCLOUD, Kind};
use super::fault::Fault;
use super::grant::{Death, Grant};
use super::record::{MetadataRequest, RegistryRequest, TokenRequest};
use super::scope::{CLOUD_PLATFORM, USERINFO_EMAIL};
use super::state::State;
use super::{authorization, package, rsa_key};

/// The handle on a stand-in: cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Control(Arc<Shared>);

impl Control {
    pub(super) fn new(origin: String, public_origin: String, authorization_origin: String) -> Self {
        let gcloud = Client::new("Google Cloud SDK", Kind::Desktop);
        let mut state = State::default();
        state.keep_secret(&gcloud.secret);
        state.clients.insert(GCLOUD.to_owned(), gcloud);
        Self(Arc::new(Shared {
            origin,
            public_origin,
            authorization_origin,
            state: Mutex::new(state),
            hook: Mutex::new(None),
        }))
    }

    /// `https://localhost:PORT`, where this machine reaches the TLS listener.
    pub fn origin(&self) -> String {
        self.0.origin.clone()
    }

    /// The index address of a repository, without a user name: `ORIGIN/PROJECT/REPO/simple/`.
    pub fn index_url(&self, project: &str, repo: &str) -> String {
        format!("{}/{project}/{repo}/simple/", self.0.origin)
    }

    /// What key files name as their token endpoint, and what assertions must name as their audience.
    pub fn token_uri(&self) -> String {
        format!("{}/token", self.0.public_origin)
    }

    /// Where a login sends the browser.
    pub fn authorization_endpoint(&self) -> String {
        format!("{}{}", self.0.authorization_origin, authorization::PATH)
    }

    /// Where a logout ends a login at Google's.
    pub fn revocation_endpoint(&self) -> String {
        format!("{}/revoke", self.0.public_origin)
    }

    /// A service-account key file for `email`, which exists from now on. The first call in a process makes the RSA
    /// key that all accounts share.
    pub fn service_account_key(&self, email: &str) -> String {
        let key = rsa_key::shared();
        let mut state = self.state();
        state.service_accounts.insert(email.to_owned());
        for line in key.pem.lines().filter(|line| !line.starts_with('-')) {
            state.keep_secret(line);
        }
        drop(state);
        let json = json!({
            "type": "service_account",
            "project_id": "acme",
            "private_key_id": "0123456789abcdef0123456789abcdef01234567",
            "private_key": key.pem,
            "client_email": email,
            "client_id": "100000000000000000001",
            "auth_uri": format!("{}/o/oauth2/auth", self.0.public_origin),
            "token_uri": self.token_uri(),
            "auth_provider_x509_cert_url": format!("{}/oauth2/v1/certs", self.0.public_origin),
            "client_x509_cert_url": format!("{}/robot/v1/metadata/x509/{email}", self.0.public_origin),
            "universe_domain": "googleapis.com",
        });
        format!("{json:#}\n")
    }

    /// An Application Default Credentials file for `email` with a refresh token of its own, granted
    /// `cloud-platform`, `userinfo.email` and `openid`. Like gcloud's, it names no token endpoint.
    pub fn authorized_user(&self, email: &str) -> String {
        let mut state = self.state();
        let grant = state.add_grant(Grant {
            email: email.to_owned(),
            client_id: GCLOUD.to_owned(),
            scopes: [CLOUD_PLATFORM, USERINFO_EMAIL, "openid"].map(str::to_owned).to_vec(),
            made: SystemTime::now(),
            death: None,
        });
        let refresh_token = state.add_refresh_token(grant);
        let client_secret = state.clients[GCLOUD].secret.clone();
        drop(state);
        let json = json!({
            "account": "",
            "client_id": GCLOUD,
            "client_secret": client_secret,
            "quota_project_id": "acme",
            "refresh_token": refresh_token,
            "type": "authorized_user",
            "universe_domain": "googleapis.com",
        });
        format!("{json:#}\n")
    }

    /// A token out of thin air, for a test that needs one without a flow.
    pub fn issue_access_token(&self, email: &str, scopes: &[&str]) -> String {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.state().issue(email, scopes, None).0
    }

    /// The lifetime of the tokens issued from now on; 3599 s at the start.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.state().token_lifetime = lifetime;
    }

    /// Revokes every access token issued so far.
    pub fn revoke_access_tokens(&self) {
        for token in self.state().access_tokens.values_mut() {
            token.revoked = true;
        }
    }

    /// Revokes every refresh token made so far; their access tokens stay good until they expire.
    pub fn revoke_refresh_tokens(&self) {
        for grant in &mut self.state().grants {
            grant.death = Some(Death::Revoked);
        }
    }

    /// The repository answers 403 to `email` from now on.
    pub fn deny(&self, email: &str) {
        self.state().denied.insert(email.to_owned());
    }

    /// Appends to the faults that requests to the token endpoint consume, one each, before all is well again.
    pub fn token_faults(&self, faults: Vec<Fault>) {
        self.state().token_faults.next.extend(faults);
    }

    /// The fault of every request to the token endpoint once the queue is empty.
    pub fn token_fault_always(&self, fault: Option<Fault>) {
        self.state().token_faults.always = fault;
    }

    /// As [`Control::token_faults`], for the metadata server; only requests for `…/token` consume them.
    pub fn metadata_faults(&self, faults: Vec<Fault>) {
        self.state().metadata_faults.next.extend(faults);
    }

    /// The fault of every request to the metadata server, whatever its path.
    pub fn metadata_fault_always(&self, fault: Option<Fault>) {
        self.state().metadata_faults.always = fault;
    }

    /// Whether the metadata server repeats a token until less than five minutes of it are left, as the real one
    /// does, even if it was revoked. On at the start.
    pub fn metadata_sticky(&self, sticky: bool) {
        self.state().metadata_fickle = !sticky;
    }

    /// Spoils the next request to the repository whose path starts with `prefix`.
    pub fn registry_fault(&self, prefix: &str, fault: Fault) {
        let faults = &mut self.state().registry_faults;
        faults.push((prefix.to_owned(), fault, true));
    }

    /// Spoils every request to the repository whose path starts with `prefix`.
    pub fn registry_fault_always(&self, prefix: &str, fault: Fault) {
        let faults = &mut self.state().registry_faults;
        faults.push((prefix.to_owned(), fault, false));
    }

    pub fn clear_registry_faults(&self) {
        self.state().registry_faults.clear();
    }

    /// Calls `hook` at the start of every request to the repository, before its credentials are judged: what the
    /// hook revokes is revoked for that very request. The request is in [`Control::registry_requests`] already.
    pub fn on_registry_request(&self, hook: RegistryHook) {
        *lock(&self.0.hook) = Some(hook);
    }

    pub fn clear_registry_hook(&self) {
        *lock(&self.0.hook) = None;
    }

    /// Publishes a wheel of one module that defines `MESSAGE`; `requires` are requirements as in `Requires-Dist`.
    /// The repository exists from then on.
    pub fn add_package(&self, project: &str, repo: &str, name: &str, version: &str, requires: &[&str]) {
        let message = format!("MESSAGE = \"{name} {version}\"\n");
        let wheel = package::wheel(name, version, requires, message.as_bytes());
        self.add_file(project, repo, name, &wheel.filename, wheel.content);
    }

    /// As [`Control::add_package`], but the wheel carries `bytes` more bytes, uncompressed.
    pub fn add_large_package(&self, project: &str, repo: &str, name: &str, version: &str, bytes: usize) {
        let wheel = package::large_wheel(name, version, bytes);
        self.add_file(project, repo, name, &wheel.filename, wheel.content);
    }

    /// From now on the repositories are there for everybody, as in a public index.
    pub fn open_to_all(&self) {
        self.state().open_to_all = true;
    }

    /// From now on pages come as JSON to whoever accepts it.
    pub fn serve_json(&self) {
        self.state().serves_json = true;
    }

    /// Whether whoever connects from now on is given half a head for an answer, and then nothing.
    pub fn stop_in_heads(&self, stops: bool) {
        self.state().stops_in_heads = stops;
    }

    /// Takes a whole repository away.
    pub fn remove_repository(&self, project: &str, repo: &str) {
        self.state().repositories.remove(&format!("{project}/{repo}"));
    }

    /// Publishes any file, sound or not. Returns whether it is new.
    pub fn add_file(
        &self,
        project: &str,
        repo: &str,
        name: &str,
        filename: &str,
        content: impl Into<Bytes>,
    ) -> bool {
        let mut state = self.state();
        let files = state
            .repositories
            .entry(format!("{project}/{repo}"))
            .or_default()
            .entry(package::normalize(name))
            .or_default();
        if files.contains_key(filename) {
            return false;
        }
        files.insert(filename.to_owned(), content.into());
        true
    }

    /// Serves these bytes at this path, to whoever may read: packages of another format, or a file of any server.
    pub fn add_raw(&self, path: &str, content_type: &str, content: impl Into<Bytes>) {
        self.state().raw.insert(path.to_owned(), (content_type.to_owned(), content.into()));
    }

    /// The content of a published or uploaded file.
    pub fn file(&self, project: &str, repo: &str, name: &str, filename: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let files = state.repositories.get(&format!("{project}/{repo}"))?.get(&package::normalize(name))?;
        files.get(filename).map(|content| content.to_vec())
    }

    pub fn token_requests(&self) -> Vec<TokenRequest> {
        self.state().token_requests.clone()
    }

    pub fn metadata_requests(&self) -> Vec<MetadataRequest> {
        self.state().metadata_requests.clone()
    }

    pub fn registry_requests(&self) -> Vec<RegistryRequest> {
        self.state().registry_requests.clone()
    }

    /// Everything that must not be found where it does not belong: codes and their verifiers, access, refresh and
    /// identity tokens, the secret of gcloud's client, the lines of the private key, and every assertion received.
    /// Other clients' secrets are in [`Control::client_secrets`].
    pub fn secrets(&self) -> Vec<String> {
        self.state().secrets.clone()
    }

    /// Writes the secrets known so far to `path`, one a line, and appends each new one as it comes to be.
    pub fn write_secrets_to(&self, path: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        let mut state = self.state();
        for secret in &state.secrets {
            writeln!(file, "{secret}")?;
        }
        state.secrets_file = Some(file);
        Ok(())
    }

    /// The fault that a test's hook wants for this request. Call without holding the state.
    pub(super) fn ask_hook(&self, request: &RegistryRequest) -> Option<Fault> {
        lock(&self.0.hook).as_ref().and_then(|hook| hook(request))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

pub type RegistryHook = Box<dyn Fn(&RegistryRequest) -> Option<Fault> + Send>;

struct Shared {
    origin: String,
    public_origin: String,
    authorization_origin: String,
    state: Mutex<State>,
    hook: Mutex<Option<RegistryHook>>,
}

/// A test that panicked while holding a lock has failed already; the others need not.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
