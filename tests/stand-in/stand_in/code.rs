//! The exchange of a code for a login (RFC 6749 4.1.3, RFC 7636 4.5).
//!
//! A code is good for one minute, one try and one client. Whoever brings it a second time gets nothing and takes down
//! what came of it: one of the two has stolen it (RFC 6749 4.1.2).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Response;
use hyper::body::Bytes;
use ring::digest::{SHA256, digest};
use serde_json::json;

use super::client::authenticate;
use super::control::Control;
use super::grant::{Code, GrantId};
use super::identity;
use super::oauth::{error, success};
use super::server::Pairs;
use super::state::State;

/// Both arms are answers.
pub(super) fn exchange(control: &Control, form: &Pairs) -> Result<Response<Bytes>, Response<Bytes>> {
    let mut state = control.state();
    let client_id = authenticate(&state, form)?;
    let text = required(form, "code")?;
    let redirect_uri = required(form, "redirect_uri")?;
    let code =
        state.codes.get(text).cloned().ok_or_else(|| error(400, "invalid_grant", "Malformed auth code."))?;
    if code.spent {
        if let Some(grant) = code.became {
            state.revoke_grant(grant);
        }
        return Err(error(400, "invalid_grant", "Bad Request"));
    }
    // Before the rest is looked at: a failed try is a try.
    if let Some(kept) = state.codes.get_mut(text) {
        kept.spent = true;
    }
    let age = code.grant.made.elapsed().unwrap_or_default();
    if age >= state.code_lifetime || code.grant.client_id != client_id {
        return Err(error(400, "invalid_grant", "Bad Request"));
    }
    if code.redirect_uri != redirect_uri {
        return Err(error(400, "redirect_uri_mismatch", "Bad Request"));
    }
    verify(&code, form)?;

    let grant = state.add_grant(code.grant.clone());
    if let Some(kept) = state.codes.get_mut(text) {
        kept.became = Some(grant);
    }
    Ok(login(&mut state, grant, code.lasting))
}

fn required<'a>(form: &'a Pairs, name: &str) -> Result<&'a str, Response<Bytes>> {
    let missing = || error(400, "invalid_request", &format!("Missing required parameter: {name}"));
    form.first(name).filter(|value| !value.is_empty()).ok_or_else(missing)
}

fn verify(code: &Code, form: &Pairs) -> Result<(), Response<Bytes>> {
    let Some(verifier) = form.first("code_verifier") else {
        return Err(error(400, "invalid_grant", "Missing code verifier."));
    };
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let well_formed = (43..=128).contains(&verifier.len()) && verifier.bytes().all(unreserved);
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
    if !well_formed || challenge != code.challenge {
        return Err(error(400, "invalid_grant", "Invalid code verifier."));
    }
    Ok(())
}

fn login(state: &mut State, id: GrantId, lasting: bool) -> Response<Bytes> {
    let grant = state.grants[id].clone();
    let (token, expires_in) = state.issue(&grant.email, grant.scopes.clone(), Some(id));
    let mut body = json!({
        "access_token": token, "expires_in": expires_in, "scope": grant.scopes.join(" "), "token_type": "Bearer",
    });
    if lasting {
        body["refresh_token"] = state.add_refresh_token(id).into();
        if let Some(seconds) = state.remaining_life(id) {
            body["refresh_token_expires_in"] = seconds.into();
        }
    }
    if grant.scopes.iter().any(|scope| scope == "openid") {
        let lie = state.lies.pop_front();
        if let Some(token) = identity::bent(&grant.email, &grant.client_id, lie.as_ref()) {
            state.keep_secret(&token);
            body["id_token"] = token.into();
        }
    }
    success(&body)
}
