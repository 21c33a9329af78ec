//! The stored logins: each is refreshed for real, so that a dead one is found before pip finds it.

use tokio::time::Instant;

use super::Finding;
use crate::ask::{Access, Ask};
use crate::broker::choice::Candidate;
use crate::client::{Client, fallback};
use crate::clock::{Clock, between, in_words};
use crate::error::Failure;
use crate::error::shown::shown;
use crate::google::accounts::{Accounts, Login};
use crate::google::source::Request;

/// Tries every login of this home.
pub(super) async fn examine(client: &Client, tell: &mut dyn FnMut(Finding)) {
    let Some(state) = &client.paths.state else { return };
    let accounts = match Accounts::load(state) {
        Ok(accounts) => accounts,
        Err(fault) => return tell(Finding::wrong("login", &fault.into())),
    };
    let sources = fallback::sources(&client.config, &client.environment, &client.paths, None);
    for login in &accounts.logins {
        let candidate = Candidate::StoredLogin { state: state.clone(), account: Some(login.account.clone()) };
        let until = Instant::now() + Ask::LONGEST;
        let request = Request::new(login.access, until);
        tell(match sources.try_candidate(&candidate, request).await {
            Ok(_) => Finding::fine("login", format!("{}: works", describe(login))),
            Err(fault) => Finding::wrong("login", &Failure::from(fault)),
        });
    }
    for rule in &client.config.accounts {
        if !accounts.logins.iter().any(|login| login.is_of(&rule.account)) {
            tell(Finding::note(
                "login",
                format!(
                    "the configuration names {} for a registry, and nobody signed in as that",
                    rule.account
                ),
                format!("run `valetkey login --account {}`", shown(&rule.account)),
            ));
        }
    }
}

fn describe(login: &Login) -> String {
    let access = match login.access {
        Access::Read => "reads",
        Access::Write => "reads and publishes",
    };
    let age = in_words(between(login.created, Clock::system().now()));
    format!("{} {access}, rests in the {}, signed in {age} ago", login.account, login.vault.word())
}
