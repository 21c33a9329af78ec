//! What each tool needs to be wired, as data: variables and their values, by pure functions of the environment.
//!
//! What a user has set for another purpose stays. What is replaced is replaced because it would lead a tool past us:
//! then what it named is kept as the base (a bundle of certificates), or goes on to be used behind us (a proxy).
//! No value in here is or holds a secret.

pub mod command;
pub mod files;
pub mod index;
pub mod keyring;
pub mod pip;
pub mod proxies;
pub mod rc;
pub mod requirements;
pub mod sources;
pub mod trust;
pub mod uv;
pub mod warnings;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::environment::Environment;
use crate::environment::before::RECORD;
use crate::error::shown::shown;

/// Changes to the environment of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wiring {
    pub set: Vec<(&'static str, OsString)>,
    pub unset: Vec<&'static str>,
    /// What a person should know, one sentence each.
    pub notes: Vec<String>,
    /// What is passed on as it was given: the wiring of a run around this one.
    pub given: Vec<(OsString, Option<OsString>)>,
}

impl Wiring {
    pub fn set(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.set.push((name, value.into()));
    }

    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.set.extend(other.set);
        self.unset.extend(other.unset);
        self.notes.extend(other.notes);
        self.given.extend(other.given);
        self
    }

    /// The same with the record of all of it, so that valetkey itself is not led by it.
    #[must_use]
    pub fn recorded(mut self, environment: &Environment) -> Self {
        let given = environment.given().map(|(name, value)| (name.to_owned(), value.map(OsStr::to_owned)));
        self.given.extend(given);
        let unset = self.unset.iter().map(|name| (OsStr::new(name), None));
        let set = self.set.iter().map(|(name, value)| (OsStr::new(*name), Some(value.as_os_str())));
        let record = environment.record(unset.chain(set));
        self.set(RECORD, record);
        self
    }

    /// Takes out what is set, if it is.
    pub fn take(&mut self, name: &str) -> Option<OsString> {
        let at = self.set.iter().rposition(|(own, _)| *own == name)?;
        Some(self.set.remove(at).1)
    }

    /// The value that a variable is set to, if it is.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        self.set.iter().rev().find(|(own, _)| *own == name).map(|(_, value)| value.as_os_str())
    }
}

/// The variables by which clients are told to call the program `keyring`. A choice that was made stays.
#[must_use]
pub fn keyring_providers(environment: &Environment) -> Wiring {
    let mut wiring = Wiring::default();
    for name in PROVIDERS {
        match environment.text(name) {
            None => wiring.set(name, "subprocess"),
            Some("subprocess") => {}
            Some(other) => {
                wiring
                    .notes
                    .push(format!("{name} is {:?}, so that client will not ask valetkey", shown(other)));
            }
        }
    }
    wiring
}

/// `PATH` with a directory in front.
#[must_use]
pub fn path_with(environment: &Environment, directory: &Path) -> OsString {
    let mut path = directory.as_os_str().to_owned();
    if let Some(old) = environment.get("PATH") {
        path.push(":");
        path.push(old);
    }
    path
}

/// pip (and pipenv, pip-tools, tox and nox through it) and uv. pdm needs none.
const PROVIDERS: [&str; 2] = ["PIP_KEYRING_PROVIDER", "UV_KEYRING_PROVIDER"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_was_chosen_stays() {
        let environment: Environment = [("PIP_KEYRING_PROVIDER", "disabled")].into_iter().collect();
        let wiring = keyring_providers(&environment);
        assert_eq!(wiring.set, [("UV_KEYRING_PROVIDER", "subprocess".into())]);
        assert_eq!(wiring.notes.len(), 1);
        let environment: Environment = [("PIP_KEYRING_PROVIDER", "subprocess")].into_iter().collect();
        assert!(keyring_providers(&environment).notes.is_empty());
    }

    #[test]
    fn a_directory_comes_first_on_path() {
        let environment: Environment = [("PATH", "/usr/bin:/bin")].into_iter().collect();
        assert_eq!(path_with(&environment, Path::new("/shm/x")), "/shm/x:/usr/bin:/bin");
        assert_eq!(path_with(&Environment::default(), Path::new("/shm/x")), "/shm/x");
    }
}
