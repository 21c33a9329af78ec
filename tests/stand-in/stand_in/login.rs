//! The part of the handle that is about logins: clients, accounts, consent, and how logins die.

use std::time::Duration;

use url::Url;

use super::authorization::{self, Consent};
use super::client::{Client, Kind, OAuthClient};
use super::control::Control;
use super::fault::Fault;
use super::grant::Death;
use super::identity::IdentityLie;
use super::record::{AuthorizationRequest, RevocationRequest};
use super::server::Pairs;
use super::state::random_text;

impl Control {
    /// A new client for programs on a user's own machine.
    pub fn desktop_client(&self) -> OAuthClient {
        self.add_client(Client::new("Acme tools", Kind::Desktop))
    }

    /// A new client for a site, which is sent back to these addresses only.
    pub fn web_client(&self, redirect_uris: &[&str]) -> OAuthClient {
        let addresses = redirect_uris.iter().map(|address| (*address).to_owned()).collect();
        self.add_client(Client::new("Acme site", Kind::Web(addresses)))
    }

    /// From now on Google answers `deleted_client` wherever it is named.
    pub fn delete_client(&self, id: &str) {
        self.change_client(id, |client| client.deleted = true);
    }

    /// From now on it is open to members of an organisation only; no account here is one. Google's word is
    /// `org_internal`.
    pub fn restrict_to_organisation(&self, id: &str) {
        self.change_client(id, |client| client.internal = true);
    }

    /// From now on its logins come with `refresh_token_expires_in`. That the seven days are over is
    /// [`Death::TestingEnded`].
    pub fn put_in_testing(&self, id: &str) {
        self.change_client(id, |client| client.testing = true);
    }

    /// One more account to choose from. The first one added takes the place of the one that is there at the start.
    pub fn add_account(&self, email: &str) {
        let mut state = self.state();
        if std::mem::take(&mut state.accounts_are_default) {
            state.accounts.clear();
        }
        state.add_account(email);
    }

    /// Plays a user who allows everything: see [`Control::consent_as`].
    ///
    /// # Errors
    /// The word on the error page.
    pub fn consent(&self, url: &str) -> Result<String, String> {
        self.consent_as(url, &Consent::given())
    }

    /// Plays a user whose browser opens `url`. Returns the address that the browser is then sent to.
    ///
    /// # Errors
    /// The word on the error page.
    pub fn consent_as(&self, url: &str, consent: &Consent) -> Result<String, String> {
        let endpoint = self.authorization_endpoint();
        assert!(url.starts_with(&format!("{endpoint}?")), "a login goes to {endpoint}, not to {url}");
        let url = Url::parse(url).expect("an address");
        let query = Pairs::parse(url.query().unwrap_or_default().as_bytes());
        let decided =
            authorization::arrive(self, &query).and_then(|_| authorization::decide(self, &query, consent));
        decided.map_err(|refusal| refusal.word.to_owned())
    }

    /// Ends the logins that `email` has so far, for this reason; a new one is good. Access tokens stay good until
    /// they expire. With [`Death::AdminPolicy`] new ones are refused as well.
    pub fn end_logins(&self, email: &str, death: Death) {
        let mut state = self.state();
        if death == Death::AdminPolicy {
            state.barred.insert(email.to_owned());
        }
        for grant in state.grants.iter_mut().filter(|grant| grant.email == email) {
            grant.death = Some(death);
        }
    }

    /// Takes back what [`Control::end_logins`] did.
    pub fn restore_logins(&self, email: &str) {
        let mut state = self.state();
        state.barred.remove(email);
        for grant in state.grants.iter_mut().filter(|grant| grant.email == email) {
            grant.death = None;
        }
    }

    /// How long a code is good; 60 s at the start.
    pub fn set_code_lifetime(&self, lifetime: Duration) {
        self.state().code_lifetime = lifetime;
    }

    /// Whether each refresh brings a new refresh token and ends the one it came with, whose second use ends the
    /// grant (RFC 9700 4.14.2). Google's do not rotate.
    pub fn rotate_refresh_tokens(&self, rotate: bool) {
        self.state().rotating = rotate;
    }

    /// Whether a revocation ends every login of the same account with the same client, and not just the one. Google
    /// is said to do so; it is off at the start.
    pub fn spread_revocations(&self, spread: bool) {
        self.state().revocation_spreads = spread;
    }

    /// What is to be wrong with the identity token of the next exchange of a code.
    pub fn lie_about_identity(&self, lie: IdentityLie) {
        self.state().lies.push_back(lie);
    }

    /// As [`Control::token_faults`], for the revocation endpoint.
    pub fn revocation_faults(&self, faults: Vec<Fault>) {
        self.state().revocation_faults.next.extend(faults);
    }

    pub fn revocation_fault_always(&self, fault: Option<Fault>) {
        self.state().revocation_faults.always = fault;
    }

    /// As [`Control::token_faults`], for the pages of the authorization endpoint.
    pub fn authorization_faults(&self, faults: Vec<Fault>) {
        self.state().authorization_faults.next.extend(faults);
    }

    /// Every address that a browser was sent to, with what became of it.
    pub fn authorizations(&self) -> Vec<AuthorizationRequest> {
        self.state().authorizations.iter().map(|(_, request)| request.clone()).collect()
    }

    pub fn revocations(&self) -> Vec<RevocationRequest> {
        self.state().revocations.clone()
    }

    /// Whether a refresh with this token would be answered with a token: for tests of what a logout left alive.
    pub fn is_alive(&self, refresh_token: &str) -> bool {
        let state = self.state();
        let known = state.refresh_tokens.get(refresh_token).filter(|known| !known.replaced);
        known.is_some_and(|known| state.grants[known.grant].death.is_none())
    }

    /// The secrets of the clients that developers hold. They are apart from [`Control::secrets`] because Google
    /// calls a desktop client's no secret, and a configuration or client file holds it on purpose; a program still
    /// has no business to show it anywhere else.
    pub fn client_secrets(&self) -> Vec<String> {
        self.state().clients.values().map(|client| client.secret.clone()).collect()
    }

    fn add_client(&self, client: Client) -> OAuthClient {
        let id = format!("{}-stand-in.apps.googleusercontent.com", random_text(9).to_lowercase());
        let secret = client.secret.clone();
        let file = client.file(&id, &self.authorization_endpoint(), &self.token_uri());
        self.state().clients.insert(id.clone(), client);
        OAuthClient { id, secret, file }
    }

    fn change_client(&self, id: &str, change: impl FnOnce(&mut Client)) {
        change(self.state().clients.get_mut(id).expect("a client that was made here"));
    }
}
