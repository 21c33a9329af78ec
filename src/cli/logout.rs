//! `valetkey logout`: revokes at Google, then forgets.

use std::collections::BTreeSet;
use std::process::ExitCode;

use super::login::Place;
use super::{print, terminal};
use crate::client::fallback;
use crate::environment::Environment;
use crate::error::Failure;
use crate::google::accounts::Accounts;
use crate::login::SignInFault;
use crate::login::keep::sign_out;
use crate::sys;

pub(super) fn run(environment: Environment, account: Option<String>, all: bool) -> Result<ExitCode, Failure> {
    sys::harden();
    let place = Place::new(environment)?;
    let runtime = fallback::runtime()?;
    let mut failed: Option<Failure> = None;
    for account in accounts(&place, account, all)? {
        let spinner = terminal::Spinner::start("telling Google");
        let gcloud = place.client.paths.gcloud.as_deref();
        let ended = runtime.block_on(sign_out(&place.world, &place.vaults, &place.state, gcloud, &account));
        drop(spinner);
        // Some of it may be done although it failed in the middle.
        place.refresh_daemon();
        let ended = match ended {
            Ok(ended) => ended,
            // One that does not go keeps none of the others.
            Err(fault) => {
                failed.replace(fault.into()).iter().for_each(terminal::report);
                continue;
            }
        };
        match ended.into_iter().find_map(|ended| ended.not_revoked) {
            None => print(&format!("signed out {account}; the sign-in is revoked and forgotten\n"))?,
            Some(failure) => {
                print(&format!("signed out {account}; the sign-in is forgotten\n"))?;
                terminal::whisper(&format!("warning: not revoked: {}", failure.one_line()));
            }
        }
    }
    runtime.shutdown_background();
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Whose: the one that is named, or the only one there is.
fn accounts(place: &Place, named: Option<String>, all: bool) -> Result<Vec<String>, SignInFault> {
    let known = Accounts::load(&place.state)?.logins.into_iter().map(|login| login.account);
    let known: Vec<String> = known.collect::<BTreeSet<_>>().into_iter().collect();
    match (named, known.len()) {
        (Some(account), _) => Ok(vec![account]),
        (None, 0) => Err(SignInFault::NobodyIsSignedIn),
        (None, many) if many > 1 && !all => Err(SignInFault::Several(known)),
        (None, _) => Ok(known),
    }
}
