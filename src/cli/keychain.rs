//! `valetkey __vault`: the child that asks the keychain in the place of another valetkey. Not for people.

use std::io::IsTerminal;
use std::process::ExitCode;

use crate::error::{Failure, Kind};
use crate::sys;
use crate::vault;

pub(super) fn run() -> Result<ExitCode, Failure> {
    // Its answer is a secret.
    sys::harden();
    if std::io::stdout().is_terminal() {
        return Err(Failure::new(Kind::Usage, "`__vault` is for valetkey itself")
            .with_hint("`valetkey status` shows which logins there are"));
    }
    vault::serve_child()?;
    Ok(ExitCode::SUCCESS)
}
