//! `valetkey vault`: where sign-ins are kept, and moving them.

use std::process::ExitCode;

use clap::ValueEnum;

use super::login::Place;
use super::{print, terminal};
use crate::client::fallback;
use crate::environment::Environment;
use crate::error::Failure;
use crate::google::accounts::Accounts;
use crate::login::keep::move_all;
use crate::sys;
use crate::vault::Vault;

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum To {
    /// The operating system's keychain
    Keychain,
    /// A file that only this user can read
    File,
}

pub(super) fn run(environment: Environment, to: Option<To>) -> Result<ExitCode, Failure> {
    sys::harden();
    let place = Place::new(environment)?;
    let Some(to) = to else {
        let logins = Accounts::load(&place.state)?.logins;
        for login in &logins {
            print(&format!("{} ({}): {}\n", login.account, login.access.word(), login.vault.word()))?;
        }
        if logins.is_empty() {
            terminal::whisper("no login is stored");
        }
        return Ok(ExitCode::SUCCESS);
    };
    let to = match to {
        To::Keychain => Vault::Keychain,
        To::File => Vault::File,
    };
    let runtime = fallback::runtime()?;
    let spinner = terminal::Spinner::start("asking the vaults");
    let moved = runtime.block_on(move_all(&place.vaults, &place.state, to));
    drop(spinner);
    place.refresh_daemon();
    let moved = moved?;
    if moved.is_empty() {
        terminal::whisper(&format!("nothing to move: no login is kept anywhere but in the {}", to.word()));
    }
    for login in moved {
        print(&format!("{} ({}): moved to the {}\n", login.account, login.access.word(), to.word()))?;
    }
    Ok(ExitCode::SUCCESS)
}
