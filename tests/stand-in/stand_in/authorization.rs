//! The authorization endpoint: where a browser is sent, and what it brings back (RFC 6749 4.1.1, RFC 8252).
//!
//! It is plain HTTP, unlike Google's, so that a real browser opens it without a warning. What is wrong with a request
//! is shown on a page and never sent back to a client that may not have asked; only the user's own "no" is. One rule
//! is stricter than Google's: a challenge of the method S256 is required (RFC 7636).

use std::time::SystemTime;

use hyper::header::{HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Response, body::Bytes};
use url::Url;

use super::client::{Client, ORGANISATION_ONLY};
use super::control::Control;
use super::fault::{Body, judge_and_finish};
use super::grant::{Code, Grant, POLICY};
use super::record::{AuthorizationRequest, Outcome};
use super::server::{Call, Closed, Pairs, text};
use super::state::State;
use super::{page, scope};

/// What a user does on the page.
#[derive(Clone, Debug)]
pub struct Consent {
    account: Option<String>,
    allowed: bool,
    unticked: Vec<String>,
}

impl Consent {
    /// Everything that is asked for, by the account that the request hints at, else by the first there is.
    pub fn given() -> Self {
        Self { account: None, allowed: true, unticked: Vec::new() }
    }

    /// "Cancel".
    pub fn denied() -> Self {
        Self { allowed: false, ..Self::given() }
    }

    /// By this account, which exists from then on.
    #[must_use]
    pub fn by(mut self, email: &str) -> Self {
        self.account = Some(email.to_owned());
        self
    }

    /// But for this scope.
    #[must_use]
    pub fn without(mut self, scope: &str) -> Self {
        self.unticked.push(scope.to_owned());
        self
    }

    fn of(form: &Pairs, asked: &[String]) -> Self {
        let ticked: Vec<&str> = form.all("scope").collect();
        let unticked = asked.iter().filter(|scope| !ticked.contains(&scope.as_str())).cloned().collect();
        Self {
            account: form.first("account").map(str::to_owned),
            allowed: form.first("decision") == Some("allow"),
            unticked,
        }
    }
}

/// A request with nothing wrong.
pub(super) struct Request {
    pub(super) client_id: String,
    pub(super) client_name: &'static str,
    pub(super) redirect_uri: String,
    pub(super) scopes: Vec<String>,
    /// The accounts there are, and which of them is meant.
    pub(super) accounts: Vec<String>,
    pub(super) account: String,
    state: Option<String>,
    challenge: String,
    prompt: String,
    offline: bool,
}

/// A page of Google's that leads nowhere.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) word: &'static str,
    pub(super) description: String,
}

pub(super) async fn answer(control: &Control, call: &Call) -> Result<Response<Body>, Closed> {
    if ![PATH, "/o/oauth2/auth"].contains(&call.path.as_str()) {
        return Ok(text(404, "not found\n").map(Body::whole));
    }
    let fault = control.state().authorization_faults.take();
    let mut response = judge_and_finish(fault, || visit(control, call)).await?;
    for (name, value) in HEADERS {
        let (name, value) = (HeaderName::from_static(name), HeaderValue::from_static(value));
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// The page opens. Every request goes through here before anything is decided.
pub(super) fn arrive(control: &Control, query: &Pairs) -> Result<Request, Refusal> {
    let mut state = control.state();
    let request = parse(&state, query);
    let outcome = match &request {
        Ok(_) => Outcome::Undecided,
        Err(refusal) => Outcome::Refused(refusal.word.to_owned()),
    };
    state.authorizations.push((query.clone(), describe(query, outcome)));
    request
}

/// The user presses a button. The address to go back to, or a refusal after all.
pub(super) fn decide(control: &Control, query: &Pairs, consent: &Consent) -> Result<String, Refusal> {
    let mut state = control.state();
    let decided = parse(&state, query).and_then(|request| settle(&mut state, &request, consent));
    let (outcome, result) = match decided {
        Ok((outcome, address)) => (outcome, Ok(address)),
        Err(refusal) => (Outcome::Refused(refusal.word.to_owned()), Err(refusal)),
    };
    // A page may be answered more than once, by the browser's way back: the last answer counts.
    if let Some((_, request)) = state.authorizations.iter_mut().rfind(|(known, _)| known == query) {
        request.outcome = outcome;
    } else {
        state.authorizations.push((query.clone(), describe(query, outcome)));
    }
    result
}

fn visit(control: &Control, call: &Call) -> Response<Bytes> {
    let query = &call.query;
    if call.method == Method::GET {
        return match arrive(control, query) {
            Ok(request) => page::consent(&request),
            Err(refusal) => page::refusal(&refusal),
        };
    }
    if call.method != Method::POST {
        return text(405, "method not allowed\n");
    }
    let asked = query.first("scope").and_then(|text| scope::parse(text).ok()).unwrap_or_default();
    match decide(control, query, &Consent::of(&call.form(), &asked)) {
        Ok(address) => {
            let mut response = text(303, "");
            if let Ok(address) = HeaderValue::from_str(&address) {
                response.headers_mut().insert(LOCATION, address);
            }
            response
        }
        Err(refusal) => page::refusal(&refusal),
    }
}

fn parse(state: &State, query: &Pairs) -> Result<Request, Refusal> {
    if let Some(name) = query.repeated() {
        let description = format!("OAuth 2 parameters can only have a single value: {name}");
        return Err(refuse(400, "invalid_request", description));
    }
    let (client_id, client) = known_client(state, query)?;
    let redirect_uri = required(query, "redirect_uri")?;
    if !client.may_return_to(redirect_uri) {
        let description = format!("The client may not be sent back to this address: {redirect_uri}");
        return Err(refuse(400, "redirect_uri_mismatch", description));
    }
    match required(query, "response_type")? {
        "code" => (),
        other => {
            let description = format!("Invalid response_type: {other}");
            return Err(refuse(400, "unsupported_response_type", description));
        }
    }
    let scopes = scope::parse(required(query, "scope")?)
        .map_err(|description| refuse(400, "invalid_scope", description))?;
    let challenge = challenge(query)?;
    if client.internal {
        return Err(refuse(403, "org_internal", ORGANISATION_ONLY));
    }
    let hint = query.first("login_hint").filter(|hint| state.accounts.iter().any(|known| known == hint));
    // Nobody but this account can be meant: Google says so at once.
    let only =
        hint.or_else(|| state.accounts.first().filter(|_| state.accounts.len() == 1).map(String::as_str));
    if only.is_some_and(|email| state.barred.contains(email)) {
        return Err(refuse(400, "admin_policy_enforced", POLICY));
    }
    Ok(Request {
        client_id: client_id.to_owned(),
        client_name: client.name,
        redirect_uri: redirect_uri.to_owned(),
        scopes,
        account: hint.map_or_else(|| state.accounts[0].clone(), str::to_owned),
        accounts: state.accounts.clone(),
        state: query.first("state").map(str::to_owned),
        challenge: challenge.to_owned(),
        prompt: query.first("prompt").unwrap_or_default().to_owned(),
        offline: query.first("access_type") == Some("offline"),
    })
}

fn known_client<'a>(state: &'a State, query: &'a Pairs) -> Result<(&'a str, &'a Client), Refusal> {
    let id = required(query, "client_id")?;
    let Some(client) = state.clients.get(id) else {
        return Err(refuse(401, "invalid_client", "The OAuth client was not found."));
    };
    if client.deleted {
        return Err(refuse(401, "deleted_client", "The OAuth client was deleted."));
    }
    Ok((id, client))
}

fn challenge(query: &Pairs) -> Result<&str, Refusal> {
    let challenge = required(query, "code_challenge")?;
    match query.first("code_challenge_method") {
        Some("S256") => (),
        _ => return Err(refuse(400, "invalid_request", "The code_challenge_method must be S256.")),
    }
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    // 43 characters are 32 bytes, the length of a SHA-256.
    if challenge.len() != 43 || !challenge.bytes().all(in_alphabet) {
        return Err(refuse(400, "invalid_request", "The code_challenge is not a SHA-256 in base64url."));
    }
    Ok(challenge)
}

fn required<'a>(query: &'a Pairs, name: &str) -> Result<&'a str, Refusal> {
    let missing = || refuse(400, "invalid_request", format!("Missing required parameter: {name}"));
    query.first(name).filter(|value| !value.is_empty()).ok_or_else(missing)
}

fn settle(state: &mut State, request: &Request, consent: &Consent) -> Result<(Outcome, String), Refusal> {
    if !consent.allowed {
        return Ok((Outcome::Denied, back(request, &[("error", "access_denied")])));
    }
    let email = consent.account.clone().unwrap_or_else(|| request.account.clone());
    if state.barred.contains(&email) {
        return Err(refuse(400, "admin_policy_enforced", POLICY));
    }
    state.add_account(&email);
    let ticked = |scope: &&String| !scope::is_optional(scope) || !consent.unticked.contains(*scope);
    let scopes: Vec<String> = request.scopes.iter().filter(ticked).cloned().collect();
    let first_time = state.consented.insert((request.client_id.clone(), email.clone()));
    let asked_again = request.prompt.split_ascii_whitespace().any(|word| word == "consent");
    let code = state.add_code(Code {
        grant: Grant {
            email: email.clone(),
            client_id: request.client_id.clone(),
            scopes: scopes.clone(),
            made: SystemTime::now(),
            death: None,
        },
        redirect_uri: request.redirect_uri.clone(),
        challenge: request.challenge.clone(),
        lasting: request.offline && (first_time || asked_again),
        spent: false,
        became: None,
    });
    let number = state.accounts.iter().position(|known| *known == email).unwrap_or_default().to_string();
    let address = back(
        request,
        &[("code", &code), ("scope", &scopes.join(" ")), ("authuser", &number), ("prompt", "consent")],
    );
    Ok((Outcome::Allowed { email, scopes }, address))
}

/// The client's address with these parameters and its own state.
fn back(request: &Request, parameters: &[(&str, &str)]) -> String {
    let mut url = Url::parse(&request.redirect_uri).expect("an address that was checked");
    {
        let mut pairs = url.query_pairs_mut();
        if let Some(state) = &request.state {
            pairs.append_pair("state", state);
        }
        pairs.extend_pairs(parameters);
    }
    url.into()
}

fn describe(query: &Pairs, outcome: Outcome) -> AuthorizationRequest {
    let text = |name: &str| query.first(name).map(str::to_owned);
    AuthorizationRequest {
        client_id: text("client_id"),
        redirect_uri: text("redirect_uri"),
        scope: text("scope"),
        access_type: text("access_type"),
        prompt: text("prompt"),
        login_hint: text("login_hint"),
        with_state: query.first("state").is_some(),
        with_challenge: query.first("code_challenge").is_some(),
        outcome,
    }
}

fn refuse(status: u16, word: &'static str, description: impl Into<String>) -> Refusal {
    Refusal { status, word, description: description.into() }
}

pub(super) const PATH: &str = "/o/oauth2/v2/auth";
const HEADERS: [(&str, &str); 4] = [
    ("cache-control", "no-store"),
    (
        "content-security-policy",
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
];
