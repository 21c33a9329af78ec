//! The token endpoint and its neighbours: revocation, token information, user information.
//!
//! Two grants are known, those that unattended programs use: `refresh_token` (RFC 6749 6) and `jwt-bearer` (RFC 7523).
//! Shapes and messages are Google's as observed. Like Google, a refresh that names a scope which was not literally
//! granted fails with `invalid_scope`, even if a granted scope includes it.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::body::Bytes;
use hyper::{Method, Response};
use serde_json::{Value, json};

use super::assertion;
use super::control::Control;
use super::fault::{Body, Verdict, judge};
use super::server::{Call, Closed, Pairs, json as json_response, text};
use super::state::{TokenRequest, random_text};

pub(super) async fn token(control: &Control, call: &Call) -> Result<Response<Body>, Closed> {
    if call.method != Method::POST {
        return Ok(text(405, "method not allowed\n").map(Body::whole));
    }
    let form = call.form();
    record(control, &form);
    let fault = control.state().token_faults.take();
    match judge(fault).await {
        Verdict::Proceed(tweak) => Ok(tweak.finish(grant(control, &form))),
        Verdict::Answer(response) => Ok(response),
        Verdict::Close => Err(Closed),
    }
}

pub(super) fn revoke(control: &Control, call: &Call) -> Response<Bytes> {
    if call.method != Method::POST {
        return text(405, "method not allowed\n");
    }
    let form = call.form();
    let token = form.first("token").or_else(|| call.query.first("token")).unwrap_or_default();
    let mut state = control.state();
    // Revoking an access token revokes the grant it came from, and with a grant go all of its access tokens.
    let refresh_token = match state.valid(token) {
        Some(access_token) => access_token.refresh_token.clone(),
        None => Some(token.to_owned()),
    };
    let mut found = false;
    if let Some(access_token) = state.access_tokens.get_mut(token) {
        found = !access_token.revoked;
        access_token.revoked = true;
    }
    if let Some(refresh_token) = refresh_token
        && let Some(grant) = state.refresh_grants.get_mut(&refresh_token)
    {
        found |= !grant.revoked;
        grant.revoked = true;
        for access_token in state.access_tokens.values_mut() {
            access_token.revoked |= access_token.refresh_token.as_ref() == Some(&refresh_token);
        }
    }
    drop(state);
    if found {
        json_response(200, &json!({}))
    } else {
        error(400, "invalid_token", "Token expired or revoked")
    }
}

/// Numbers are strings here, as in Google's third version.
pub(super) fn tokeninfo(control: &Control, call: &Call) -> Response<Bytes> {
    let form = call.form();
    let token = call.query.first("access_token").or_else(|| form.first("access_token")).unwrap_or_default();
    let state = control.state();
    let Some(access_token) = state.valid(token) else {
        return error(400, "invalid_token", "Invalid Value");
    };
    let body = json!({
        "email": access_token.email,
        "email_verified": "true",
        "scope": access_token.scopes.join(" "),
        "exp": seconds(access_token.expires).to_string(),
        "expires_in": access_token.remaining().as_secs().to_string(),
        "access_type": if access_token.refresh_token.is_some() { "offline" } else { "online" },
    });
    json_response(200, &body)
}

pub(super) fn userinfo(control: &Control, call: &Call) -> Response<Bytes> {
    let token =
        call.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    match control.state().valid(token) {
        Some(access_token) => {
            json_response(200, &json!({"sub": SUBJECT, "email": access_token.email, "email_verified": true}))
        }
        None => error(401, "invalid_request", "Invalid Credentials"),
    }
}

/// A token of three parts that says `email` and `audience`; its signature is noise.
pub(super) fn identity_token(email: &str, audience: &str) -> String {
    let now = seconds(SystemTime::now());
    let header = json!({"alg": "RS256", "kid": "stand-in", "typ": "JWT"});
    let claims = json!({
        "iss": "https://accounts.google.com", "sub": SUBJECT, "aud": audience, "azp": audience,
        "email": email, "email_verified": true, "iat": now, "exp": now + 3600,
    });
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    format!("{header}.{claims}.{}", random_text(256))
}

fn record(control: &Control, form: &Pairs) {
    let mut state = control.state();
    let mut scope = form.first("scope").map(str::to_owned);
    let identity = if let Some(text) = form.first("assertion") {
        state.keep_secret(text);
        scope = scope.or_else(|| assertion::claimed(text, "scope"));
        assertion::claimed(text, "iss")
    } else {
        form.first("refresh_token")
            .and_then(|token| state.refresh_grants.get(token))
            .map(|grant| grant.email.clone())
    };
    state.token_requests.push(TokenRequest {
        grant_type: form.first("grant_type").unwrap_or_default().to_owned(),
        identity,
        scope,
        at: SystemTime::now(),
    });
}

fn grant(control: &Control, form: &Pairs) -> Response<Bytes> {
    match form.first("grant_type") {
        Some("refresh_token") => refresh(control, form),
        Some("urn:ietf:params:oauth:grant-type:jwt-bearer") => exchange_assertion(control, form),
        Some(other) => error(400, "unsupported_grant_type", &format!("Invalid grant_type: {other}")),
        None => error(400, "invalid_request", "Required parameter is missing: grant_type"),
    }
}

fn refresh(control: &Control, form: &Pairs) -> Response<Bytes> {
    if !control.is_client(form.first("client_id"), form.first("client_secret")) {
        return error(401, "invalid_client", "The OAuth client was not found.");
    }
    let Some(refresh_token) = form.first("refresh_token") else {
        return error(400, "invalid_request", "Missing required parameter: refresh_token");
    };
    let mut state = control.state();
    let Some(grant) = state.refresh_grants.get(refresh_token).filter(|grant| !grant.revoked) else {
        return error(400, "invalid_grant", "Token has been expired or revoked.");
    };
    let scopes: Vec<String> = match form.first("scope") {
        Some(scope) if !scope.trim().is_empty() => {
            scope.split_ascii_whitespace().map(str::to_owned).collect()
        }
        _ => grant.scopes.clone(),
    };
    if let Some(invalid) = scopes.iter().find(|scope| !grant.scopes.contains(scope)) {
        let description = format!("Some requested scopes were invalid. {{invalid=[{invalid}]}}");
        return error(400, "invalid_scope", &description);
    }
    let email = grant.email.clone();
    let scope = scopes.join(" ");
    let identity = scopes
        .iter()
        .any(|scope| scope == "openid")
        .then(|| identity_token(&email, form.first("client_id").unwrap_or_default()));
    let (token, expires_in) = state.issue(&email, scopes, Some(refresh_token.to_owned()));
    let mut body = json!({
        "access_token": token, "expires_in": expires_in, "scope": scope, "token_type": "Bearer",
    });
    if let Some(identity) = identity {
        state.keep_secret(&identity);
        body["id_token"] = identity.into();
    }
    success(&body)
}

/// Unlike a refresh, the answer does not repeat the scope.
fn exchange_assertion(control: &Control, form: &Pairs) -> Response<Bytes> {
    let text = form.first("assertion").unwrap_or_default();
    let audience = control.token_uri();
    let mut state = control.state();
    let verified = assertion::verify(text, &audience, |email| state.service_accounts.contains(email));
    match verified {
        Ok(assertion) => {
            let (token, expires_in) = state.issue(&assertion.issuer, assertion.scopes, None);
            success(&json!({
                "access_token": token, "expires_in": expires_in, "token_type": "Bearer",
            }))
        }
        Err((name, description)) => error(400, name, description),
    }
}

fn success(body: &Value) -> Response<Bytes> {
    let mut response = json_response(200, body);
    let no_store = hyper::header::HeaderValue::from_static("no-cache, no-store, max-age=0");
    response.headers_mut().insert(hyper::header::CACHE_CONTROL, no_store);
    response
}

fn error(status: u16, name: &str, description: &str) -> Response<Bytes> {
    json_response(status, &json!({"error": name, "error_description": description}))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

const SUBJECT: &str = "100000000000000000001";
