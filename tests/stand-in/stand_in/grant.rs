//! What users granted: codes, the refresh tokens they turn into, and how a grant ends.
//!
//! A grant outlives its refresh tokens where these rotate, and goes down with all of its access tokens when it is
//! revoked.

use std::time::{Duration, SystemTime};

use hyper::Response;
use hyper::body::Bytes;
use serde_json::json;

use super::oauth::error;
use super::server;
use super::state::{State, random_text};

/// Why Google refuses to refresh a login that once was good.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Death {
    /// By the user, on the page of their account.
    Revoked,
    PasswordChanged,
    /// For six months.
    Unused,
    /// The client's consent screen is in testing, and seven days are over.
    TestingEnded,
    /// The organisation wants a fresh login every few hours, and they are over.
    InvalidRapt,
    /// As [`Death::InvalidRapt`], for an account that never proved itself so.
    RaptRequired,
    /// The organisation's administrator does not let this client in.
    AdminPolicy,
}

impl Death {
    /// The refusal, which is the same for most: Google does not say which it was.
    pub(super) fn answer(self) -> Response<Bytes> {
        match self {
            Self::Revoked | Self::PasswordChanged | Self::Unused | Self::TestingEnded => revoked(),
            Self::InvalidRapt => reauthentication("invalid_rapt"),
            Self::RaptRequired => reauthentication("rapt_required"),
            Self::AdminPolicy => error(400, "admin_policy_enforced", POLICY),
        }
    }
}

/// The answer to a refresh token that is good no more.
pub(super) fn revoked() -> Response<Bytes> {
    error(400, "invalid_grant", "Token has been expired or revoked.")
}

pub(super) type GrantId = usize;

/// What a user allowed a client to do.
#[derive(Clone)]
pub(super) struct Grant {
    pub(super) email: String,
    pub(super) client_id: String,
    pub(super) scopes: Vec<String>,
    pub(super) made: SystemTime,
    pub(super) death: Option<Death>,
}

#[derive(Clone, Copy)]
pub(super) struct RefreshToken {
    pub(super) grant: GrantId,
    /// Another has taken its place.
    pub(super) replaced: bool,
}

/// What the browser brings back to the client.
#[derive(Clone)]
pub(super) struct Code {
    pub(super) grant: Grant,
    pub(super) redirect_uri: String,
    pub(super) challenge: String,
    /// Whether a refresh token comes of it.
    pub(super) lasting: bool,
    pub(super) spent: bool,
    /// What came of it.
    pub(super) became: Option<GrantId>,
}

impl State {
    pub(super) fn add_grant(&mut self, grant: Grant) -> GrantId {
        self.grants.push(grant);
        self.grants.len() - 1
    }

    pub(super) fn add_refresh_token(&mut self, grant: GrantId) -> String {
        let token = format!("1//stand-in-{}", random_text(48));
        self.keep_token(&token);
        self.refresh_tokens.insert(token.clone(), RefreshToken { grant, replaced: false });
        token
    }

    pub(super) fn add_code(&mut self, code: Code) -> String {
        let text = format!("4/0Astand-in-{}", random_text(48));
        self.keep_token(&text);
        self.codes.insert(text.clone(), code);
        text
    }

    /// Ends a grant with all of its access tokens. Returns whether it was alive.
    pub(super) fn revoke_grant(&mut self, id: GrantId) -> bool {
        let alive = self.grants[id].death.replace(Death::Revoked).is_none();
        for access_token in self.access_tokens.values_mut() {
            access_token.revoked |= access_token.grant == Some(id);
        }
        alive
    }

    /// The seconds that a grant has left, where it ends by itself.
    pub(super) fn remaining_life(&self, id: GrantId) -> Option<u64> {
        let grant = &self.grants[id];
        let testing = self.clients.get(&grant.client_id).is_some_and(|client| client.testing);
        let age = grant.made.elapsed().unwrap_or_default();
        testing.then(|| SEVEN_DAYS.saturating_sub(age).as_secs())
    }
}

fn reauthentication(subtype: &str) -> Response<Bytes> {
    server::json(
        400,
        &json!({
            "error": "invalid_grant",
            "error_description": format!("reauth related error ({subtype})"),
            "error_subtype": subtype,
            "error_uri": "https://support.google.com/a/answer/9368756",
        }),
    )
}

pub(super) const POLICY: &str = "Access to your account data is restricted by policies within your organization. \
     Please contact the administrator of your organization for more information.";
const SEVEN_DAYS: Duration = Duration::from_secs(7 * 86_400);
