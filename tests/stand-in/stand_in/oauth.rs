//! The token endpoint and its neighbours: token information, user information.
//!
//! Three grants are known: `authorization_code`, which is in `code.rs`, `refresh_token` (RFC 6749 6) and `jwt-bearer`
//! (RFC 7523). Shapes and messages are Google's as observed. Like Google, a refresh that names a scope which was not literally
//! granted fails with `invalid_scope`, even if a granted scope includes it.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use hyper::{Method, Response};
use serde_json::{Value, json};

use super::client::authenticate;
use super::control::Control;
use super::fault::{Body, judge_and_finish};
use super::grant::revoked;
use super::record::TokenRequest;
use super::server::{Call, Closed, Pairs, json as json_response, text};
use super::{assertion, code, identity};

pub(super) async fn token(control: &Control, call: &Call) -> Result<Response<Body>, Closed> {
    if call.method != Method::POST {
        return Ok(text(405, "method not allowed\n").map(Body::whole));
    }
    let form = call.form();
    let index = record(control, &form);
    let fault = control.state().token_faults.take();
    let response = judge_and_finish(fault, || grant(control, &form)).await?;
    control.state().token_requests[index].status = response.status().as_u16();
    Ok(response)
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
        "access_type": if access_token.grant.is_some() { "offline" } else { "online" },
    });
    json_response(200, &body)
}

pub(super) fn userinfo(control: &Control, call: &Call) -> Response<Bytes> {
    let token =
        call.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    match control.state().valid(token) {
        Some(access_token) => {
            let (subject, email) = (identity::subject(&access_token.email), &access_token.email);
            json_response(200, &json!({"sub": subject, "email": email, "email_verified": true}))
        }
        None => error(401, "invalid_request", "Invalid Credentials"),
    }
}

fn record(control: &Control, form: &Pairs) -> usize {
    let mut state = control.state();
    let text = |name: &str| form.first(name).map(str::to_owned);
    let mut scope = text("scope");
    if let Some(verifier) = form.first("code_verifier") {
        state.keep_secret(verifier);
    }
    let identity = if let Some(text) = form.first("assertion") {
        state.keep_secret(text);
        scope = scope.or_else(|| assertion::claimed(text, "scope"));
        assertion::claimed(text, "iss")
    } else if let Some(code) = form.first("code") {
        state.codes.get(code).map(|code| code.grant.email.clone())
    } else {
        let known = form.first("refresh_token").and_then(|token| state.refresh_tokens.get(token));
        known.map(|token| state.grants[token.grant].email.clone())
    };
    state.token_requests.push(TokenRequest {
        grant_type: text("grant_type").unwrap_or_default(),
        identity,
        scope,
        client_id: text("client_id"),
        redirect_uri: text("redirect_uri"),
        with_verifier: form.first("code_verifier").is_some(),
        status: 0,
        at: SystemTime::now(),
    });
    state.token_requests.len() - 1
}

fn grant(control: &Control, form: &Pairs) -> Response<Bytes> {
    match form.first("grant_type") {
        Some("authorization_code") => code::exchange(control, form).unwrap_or_else(|refusal| refusal),
        Some("refresh_token") => refresh(control, form).unwrap_or_else(|refusal| refusal),
        Some("urn:ietf:params:oauth:grant-type:jwt-bearer") => exchange_assertion(control, form),
        Some(other) => error(400, "unsupported_grant_type", &format!("Invalid grant_type: {other}")),
        None => error(400, "invalid_request", "Required parameter is missing: grant_type"),
    }
}

/// Both arms are answers.
fn refresh(control: &Control, form: &Pairs) -> Result<Response<Bytes>, Response<Bytes>> {
    let mut state = control.state();
    let client_id = authenticate(&state, form)?;
    let Some(refresh_token) = form.first("refresh_token") else {
        return Err(error(400, "invalid_request", "Missing required parameter: refresh_token"));
    };
    let known = *state.refresh_tokens.get(refresh_token).ok_or_else(revoked)?;
    let grant = state.grants[known.grant].clone();
    if grant.client_id != client_id {
        return Err(error(401, "unauthorized_client", "Unauthorized"));
    }
    if known.replaced {
        // Somebody uses a copy: nobody can tell who is who, so it ends for both.
        state.revoke_grant(known.grant);
        return Err(revoked());
    }
    if let Some(death) = grant.death {
        return Err(death.answer());
    }
    let scopes: Vec<String> = match form.first("scope") {
        Some(scope) if !scope.trim().is_empty() => {
            scope.split_ascii_whitespace().map(str::to_owned).collect()
        }
        _ => grant.scopes.clone(),
    };
    if let Some(invalid) = scopes.iter().find(|scope| !grant.scopes.contains(scope)) {
        let description = format!("Some requested scopes were invalid. {{invalid=[{invalid}]}}");
        return Err(error(400, "invalid_scope", &description));
    }

    let scope = scopes.join(" ");
    let with_identity = scopes.iter().any(|scope| scope == "openid");
    let (token, expires_in) = state.issue(&grant.email, scopes, Some(known.grant));
    let mut body = json!({
        "access_token": token, "expires_in": expires_in, "scope": scope, "token_type": "Bearer",
    });
    if with_identity {
        let token = identity::token(&grant.email, &client_id);
        state.keep_secret(&token);
        body["id_token"] = token.into();
    }
    if let Some(seconds) = state.remaining_life(known.grant) {
        body["refresh_token_expires_in"] = seconds.into();
    }
    if state.rotating {
        body["refresh_token"] = state.add_refresh_token(known.grant).into();
        if let Some(old) = state.refresh_tokens.get_mut(refresh_token) {
            old.replaced = true;
        }
    }
    Ok(success(&body))
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

pub(super) fn success(body: &Value) -> Response<Bytes> {
    let mut response = json_response(200, body);
    let no_store = hyper::header::HeaderValue::from_static("no-cache, no-store, max-age=0");
    response.headers_mut().insert(hyper::header::CACHE_CONTROL, no_store);
    response
}

pub(super) fn error(status: u16, name: &str, description: &str) -> Response<Bytes> {
    json_response(status, &json!({"error": name, "error_description": description}))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
