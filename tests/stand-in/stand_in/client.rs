//! OAuth clients: programs that Google knows by an id, and the files in which it hands them to developers.

use hyper::Response;
use hyper::body::Bytes;
use serde_json::{Value, json};
use url::{Host, Url};

use super::oauth::error;
use super::server::Pairs;
use super::state::{State, random_text};

/// A client as its developer gets it.
#[derive(Clone, Debug)]
pub struct OAuthClient {
    pub id: String,
    pub secret: String,
    /// The file that Google's console offers for download: `{"installed": …}` or `{"web": …}`.
    pub file: String,
}

/// A client as Google knows it.
pub(super) struct Client {
    /// What the consent page calls it.
    pub(super) name: &'static str,
    pub(super) secret: String,
    pub(super) kind: Kind,
    pub(super) deleted: bool,
    /// Open to the members of an organisation only, of which nobody here is one.
    pub(super) internal: bool,
    /// "Testing" on Google's consent screen: its logins end after seven days.
    pub(super) testing: bool,
}

pub(super) enum Kind {
    /// May be sent back to any port and path on this machine.
    Desktop,
    /// May be sent back to exactly these addresses.
    Web(Vec<String>),
}

impl Client {
    pub(super) fn new(name: &'static str, kind: Kind) -> Self {
        let secret = format!("GOCSPX-stand-in-{}", random_text(18));
        Self { name, secret, kind, deleted: false, internal: false, testing: false }
    }

    pub(super) fn may_return_to(&self, redirect_uri: &str) -> bool {
        match &self.kind {
            Kind::Desktop => is_loopback(redirect_uri),
            Kind::Web(addresses) => addresses.iter().any(|known| known == redirect_uri),
        }
    }

    /// The console's file for this client.
    pub(super) fn file(&self, id: &str, authorization: &str, token: &str) -> String {
        let mut body = json!({
            "client_id": id,
            "project_id": "acme",
            "auth_uri": authorization,
            "token_uri": token,
            "auth_provider_x509_cert_url": token.replace("/token", "/oauth2/v1/certs"),
            "client_secret": self.secret,
        });
        let (kind, addresses) = match &self.kind {
            Kind::Desktop => ("installed", json!(["http://localhost"])),
            Kind::Web(addresses) => ("web", json!(addresses)),
        };
        body["redirect_uris"] = addresses;
        format!("{}\n", Value::Object([(kind.to_owned(), body)].into_iter().collect()))
    }
}

/// The id of the client that a form names, if its secret is right and it may still be used.
pub(super) fn authenticate(state: &State, form: &Pairs) -> Result<String, Response<Bytes>> {
    let Some(id) = form.first("client_id") else {
        return Err(error(400, "invalid_request", "Could not determine client ID from request."));
    };
    let Some(client) = state.clients.get(id) else {
        return Err(error(401, "invalid_client", "The OAuth client was not found."));
    };
    if client.deleted {
        return Err(error(401, "deleted_client", "The OAuth client was deleted."));
    }
    match form.first("client_secret") {
        None => return Err(error(400, "invalid_request", "client_secret is missing.")),
        Some(secret) if secret != client.secret => {
            return Err(error(401, "invalid_client", "The provided client secret is invalid."));
        }
        Some(_) => (),
    }
    if client.internal {
        return Err(error(403, "org_internal", ORGANISATION_ONLY));
    }
    Ok(id.to_owned())
}

/// RFC 8252 7.3, with `localhost` as Google allows it.
fn is_loopback(redirect_uri: &str) -> bool {
    let Ok(url) = Url::parse(redirect_uri) else { return false };
    let on_this_machine = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.octets() == [127, 0, 0, 1],
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    on_this_machine
        && url.scheme() == "http"
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
}

pub(super) const ORGANISATION_ONLY: &str = "This client is restricted to users within its organization.";
/// The client that gcloud's files name.
pub(super) const GCLOUD: &str = "000000000000-stand-in.apps.googleusercontent.com";
