//! The revocation endpoint (RFC 7009, with Google's answers: 400 for a token that is gone already).

use hyper::body::Bytes;
use hyper::{Method, Response};
use serde_json::json;

use super::control::Control;
use super::fault::{Body, judge_and_finish};
use super::oauth::error;
use super::record::{RevocationRequest, RevokedToken};
use super::server::{Call, Closed, json, text};
use super::state::State;

pub(super) async fn answer(control: &Control, call: &Call) -> Result<Response<Body>, Closed> {
    if call.method != Method::POST {
        return Ok(text(405, "method not allowed\n").map(Body::whole));
    }
    let form = call.form();
    let in_url = form.first("token").is_none() && call.query.first("token").is_some();
    let token = form.first("token").or_else(|| call.query.first("token")).unwrap_or_default();
    let (index, fault) = {
        let mut state = control.state();
        let request = describe(&state, token, in_url);
        state.revocations.push(request);
        (state.revocations.len() - 1, state.revocation_faults.take())
    };
    let response = judge_and_finish(fault, || revoke(control, token)).await?;
    control.state().revocations[index].status = response.status().as_u16();
    Ok(response)
}

fn describe(state: &State, token: &str, in_url: bool) -> RevocationRequest {
    let (kind, identity) = if let Some(refresh_token) = state.refresh_tokens.get(token) {
        (RevokedToken::Refresh, Some(state.grants[refresh_token.grant].email.clone()))
    } else if let Some(access_token) = state.access_tokens.get(token) {
        (RevokedToken::Access, Some(access_token.email.clone()))
    } else {
        (RevokedToken::Unknown, None)
    };
    RevocationRequest { token: kind, in_url, identity, status: 0 }
}

/// Revoking an access token revokes the grant it came from, and with a grant go all of its access tokens.
fn revoke(control: &Control, token: &str) -> Response<Bytes> {
    let mut state = control.state();
    let mut found = false;
    let mut grant = state.refresh_tokens.get(token).map(|refresh_token| refresh_token.grant);
    if let Some(access_token) = state.access_tokens.get_mut(token) {
        found = !access_token.revoked && !access_token.remaining().is_zero();
        access_token.revoked = true;
        grant = access_token.grant.filter(|_| found);
    }
    if let Some(id) = grant {
        let mut ended = vec![id];
        if state.revocation_spreads {
            let like = |other: &usize| {
                let [one, other] = [&state.grants[id], &state.grants[*other]];
                one.email == other.email && one.client_id == other.client_id && other.death.is_none()
            };
            ended.extend((0..state.grants.len()).filter(like).filter(|other| *other != id));
        }
        for (number, id) in ended.into_iter().enumerate() {
            let alive = state.revoke_grant(id);
            found |= alive && number == 0;
        }
    }
    drop(state);
    if found { json(200, &json!({})) } else { error(400, "invalid_token", "Token expired or revoked") }
}
