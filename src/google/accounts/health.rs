//! How a stored login fares: when it was last refreshed, and why it could not be.
//!
//! Kept beside the list of logins and not in it, since it changes with every refresh. It is what `status` shows
//! without asking anybody, and what tells a login that nobody used for half a year from one that was revoked.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::AccountsFault;
use crate::durable;
use crate::paths::read_regular;
use crate::vault::Entry;

/// What is known of one login. Times are RFC 3339.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// The last refresh that brought a token.
    pub refreshed: Option<String>,
    /// Why the last one did not, and what mends it.
    pub problem: Option<Problem>,
    /// The server gives a new refresh token with each refresh, and ends the old one.
    pub rotates: bool,
}

/// A login that is dead until a person acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub text: String,
    pub remedy: String,
    pub since: String,
}

impl Health {
    /// What is known; nothing where there is nothing to read.
    #[must_use]
    pub fn load(state: &Path, entry: &Entry) -> Self {
        let text = read_regular(&file(state, entry), LARGEST).ok();
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Writes it down. Nothing depends on it, so a full disk is no failure.
    pub fn store(&self, state: &Path, entry: &Entry) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let stored = directory(state).and_then(|_| durable::replace(&file(state, entry), &text));
        if let Err(error) = stored {
            tracing::debug!(%error, "how the login fares could not be written down");
        }
    }

    /// Forgets a login that is gone.
    pub fn forget(state: &Path, entry: &Entry) {
        let _ = durable::remove(&file(state, entry));
    }
}

/// One refresh of a login at a time, in whatever process: a server that rotates takes the second use of a token
/// for a theft. Waits for the other, up to `patience`.
///
/// # Errors
/// When the lock cannot be had in this directory, or in that time.
pub fn lock(state: &Path, entry: &Entry, patience: Duration) -> Result<File, AccountsFault> {
    let path = state.join("health").join(format!("{}.lock", entry.digest()));
    let lock = directory(state).and_then(|_| super::lock(&path, patience));
    match lock {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(AccountsFault::Busy(path)),
        Err(source) => Err(AccountsFault::Write { path, source }),
    }
}

fn directory(state: &Path) -> io::Result<PathBuf> {
    let directory = state.join("health");
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    Ok(directory)
}

fn file(state: &Path, entry: &Entry) -> PathBuf {
    state.join("health").join(format!("{}.json", entry.digest()))
}

const LARGEST: u64 = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Access;

    #[test]
    fn health_survives_the_file_and_goes_with_the_login() {
        let top = tempfile::tempdir().unwrap();
        let entry = Entry { account: "a@example.test".to_owned(), access: Access::Read };
        assert_eq!(Health::load(top.path(), &entry), Health::default());
        let problem = Problem { text: "dead".into(), remedy: "sign in".into(), since: "now".into() };
        let health = Health { refreshed: Some("then".into()), problem: Some(problem), rotates: true };
        health.store(top.path(), &entry);
        assert_eq!(Health::load(top.path(), &entry), health);
        assert_eq!(
            Health::load(top.path(), &Entry { access: Access::Write, ..entry.clone() }),
            Health::default()
        );
        Health::forget(top.path(), &entry);
        assert_eq!(Health::load(top.path(), &entry), Health::default());
    }

    #[test]
    fn one_refresh_at_a_time() {
        let top = tempfile::tempdir().unwrap();
        let entry = Entry { account: "a@example.test".to_owned(), access: Access::Read };
        let held = lock(top.path(), &entry, Duration::ZERO).unwrap();
        assert!(lock(top.path(), &entry, Duration::ZERO).is_err());
        lock(top.path(), &Entry { access: Access::Write, ..entry.clone() }, Duration::ZERO).unwrap();
        drop(held);
        lock(top.path(), &entry, Duration::ZERO).unwrap();
    }
}
