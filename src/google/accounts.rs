//! Which logins there are: `accounts.toml` in the state directory.
//!
//! No secret is in it. It says whose login it is, what was granted, and in which vault the secret rests, so that
//! nothing has to wake a keychain to learn that there is none. It changes when a person signs in or out, and only
//! then: its time stamp tells a running daemon that an identity may have changed. What happens to a login between
//! sign-in and sign-out stands in [`health`].

pub mod health;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::ask::Access;
use crate::clock::{parse_rfc3339, rfc3339};
use crate::config::line_of;
use crate::durable;
use crate::error::shown::quoting;
use crate::error::shown::shown_path;
use crate::error::{Fault, Kind};
use crate::paths::{read_regular, without_absent};
use crate::vault::{Entry, Vault};

/// Why the list of logins cannot be used.
#[derive(Debug, Error)]
pub enum AccountsFault {
    /// It is there and cannot be read.
    #[error("cannot read {}", shown_path(path))]
    Read { path: PathBuf, source: io::Error },
    /// It is there and says nothing that makes sense.
    #[error("{}:{line}: {message}", shown_path(path))]
    Content { path: PathBuf, line: usize, message: String },
    /// A full or read-only file system.
    #[error("cannot write {}", shown_path(path))]
    Write { path: PathBuf, source: io::Error },
    /// Another `valetkey login` or `logout` has it.
    #[error("{} is in use by another valetkey", shown_path(.0))]
    Busy(PathBuf),
}

impl Fault for AccountsFault {
    fn kind(&self) -> Kind {
        Kind::Local
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { .. } => "make it readable, or remove it and sign in again".to_owned(),
            Self::Content { .. } => "correct that line, or remove the file and sign in again".to_owned(),
            Self::Write { .. } => "make room on that file system and try again".to_owned(),
            Self::Busy(_) => "wait for that one to end and try again".to_owned(),
        })
    }
}

/// One refresh token, and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The e-mail address, or another name where the server does not vouch for one.
    pub account: String,
    /// `write` where it may publish.
    pub access: Access,
    /// What was granted, word for word.
    pub scopes: Vec<String>,
    pub vault: Vault,
    /// The OAuth client that it was given to.
    pub client_id: String,
    #[serde(serialize_with = "write_time", deserialize_with = "read_time")]
    pub created: SystemTime,
    /// When it ends by itself, where the server says so: a client in testing mode gives seven days.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_some_time",
        deserialize_with = "read_some_time"
    )]
    pub ends: Option<SystemTime>,
    /// Taken over from gcloud, whose file may still hold it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
}

impl Login {
    /// What its secret is called in a vault.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry { account: self.account.clone(), access: self.access }
    }

    /// Whether it is of this account. Whoever writes an address by hand may write it in capitals.
    #[must_use]
    pub fn is_of(&self, account: &str) -> bool {
        self.account.eq_ignore_ascii_case(account)
    }

    /// The scope to ask for at a refresh: only one that was granted word for word may be named, and never with
    /// gcloud's client. Without one the token is as wide as the login.
    #[must_use]
    pub fn scope_for(&self, access: Access) -> Option<&'static str> {
        let scope = access.scope();
        let granted = self.scopes.iter().any(|granted| granted == scope);
        (granted && !self.adopted).then_some(scope)
    }
}

/// All logins of this user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Accounts {
    /// The account that is taken where no rule names another.
    #[serde(rename = "default", skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    #[serde(rename = "login")]
    pub logins: Vec<Login>,
}

impl Accounts {
    /// Reads the list; that there is none is an empty one.
    ///
    /// # Errors
    /// When it is there and wrong.
    pub fn load(state: &Path) -> Result<Self, AccountsFault> {
        let path = file(state);
        match without_absent(&path, read_regular(&path, LARGEST)) {
            Ok(Some(text)) => toml::from_str(&text).map_err(|error| {
                let line = line_of(&text, &error);
                AccountsFault::Content { path, line, message: quoting(error.message()) }
            }),
            Ok(None) => Ok(Self::default()),
            Err(source) => Err(AccountsFault::Read { path, source }),
        }
    }

    /// Changes the list, alone: two sign-ins at once lose nothing.
    ///
    /// # Errors
    /// When it cannot be read or written; then nothing has changed.
    pub fn change<T>(state: &Path, change: impl FnOnce(&mut Self) -> T) -> Result<T, AccountsFault> {
        let path = file(state);
        let write = |source| AccountsFault::Write { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(write)?;
        let lock = lock(&state.join("accounts.lock"), PATIENCE).map_err(write)?;
        let Some(_lock) = lock else { return Err(AccountsFault::Busy(path)) };
        let mut accounts = Self::load(state)?;
        let before = accounts.clone();
        let outcome = change(&mut accounts);
        if accounts != before {
            let text = toml::to_string(&accounts).map_err(|error| AccountsFault::Write {
                path: path.clone(),
                source: io::Error::other(error),
            })?;
            durable::replace(&path, format!("{HEAD}{text}").as_bytes()).map_err(write)?;
        }
        Ok(outcome)
    }

    /// The account that is taken where nothing names another.
    #[must_use]
    pub fn default_account(&self) -> Option<&str> {
        let is_there = |account: &&String| self.logins.iter().any(|login| login.is_of(account));
        let first = || self.logins.first().map(|login| &login.account);
        self.chosen.as_ref().filter(is_there).or_else(first).map(String::as_str)
    }

    /// The login of an account that gives this access: to read, the one that can do no more, if there is one.
    #[must_use]
    pub fn login(&self, account: &str, access: Access) -> Option<&Login> {
        let find = |access| self.logins.iter().find(|login| login.is_of(account) && login.access == access);
        find(access).or_else(|| find(Access::Write).filter(|_| access == Access::Read))
    }

    /// Puts a login in the place of the one with the same account and access, and makes the first the default.
    /// Gives back the one that was there.
    pub fn put(&mut self, login: Login) -> Option<Login> {
        let same =
            self.logins.iter().position(|old| old.account == login.account && old.access == login.access);
        if self.default_account().is_none() {
            self.chosen = Some(login.account.clone());
        }
        if let Some(at) = same {
            return Some(std::mem::replace(&mut self.logins[at], login));
        }
        self.logins.push(login);
        None
    }

    /// Forgets one login.
    pub fn forget(&mut self, gone: &Entry) {
        self.logins.retain(|login| login.entry() != *gone);
        self.chosen = self.default_account().map(str::to_owned);
    }
}

/// Where the list is.
#[must_use]
pub fn file(state: &Path) -> PathBuf {
    state.join("accounts.toml")
}

/// A lock that ends with the value, or with the process; nothing where another holds it all that time.
fn lock(path: &Path, patience: Duration) -> io::Result<Option<File>> {
    let file = durable::open_lock(path)?;
    Ok(durable::lock_within(&file, patience)?.then_some(file))
}

fn write_time<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

#[expect(clippy::ref_option, reason = "serde decides the signature")]
fn write_some_time<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(rfc3339).serialize(serializer)
}

fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_rfc3339(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not an RFC 3339 time")))
}

fn read_some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    read_time(deserializer).map(Some)
}

const HEAD: &str = "# Written by `valetkey login` and `valetkey logout`. No secret is in here.\n\n";
const LARGEST: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn login(account: &str, access: Access) -> Login {
        Login {
            account: account.to_owned(),
            access,
            scopes: vec![access.scope().to_owned()],
            vault: Vault::File,
            client_id: "client".to_owned(),
            created: parse_rfc3339("2026-01-02T03:04:05Z").unwrap(),
            ends: None,
            adopted: false,
        }
    }

    #[test]
    fn the_list_survives_the_file() {
        let top = tempfile::tempdir().unwrap();
        let state = top.path().join("a/b");
        assert_eq!(Accounts::load(&state).unwrap(), Accounts::default());
        let mut other = login("b@example.test", Access::Write);
        (other.ends, other.adopted) = (parse_rfc3339("2026-01-09T03:04:05Z"), true);
        Accounts::change(&state, |accounts| {
            accounts.put(login("a@example.test", Access::Read));
            accounts.put(other.clone());
        })
        .unwrap();
        let accounts = Accounts::load(&state).unwrap();
        assert_eq!(accounts.logins, [login("a@example.test", Access::Read), other]);
        assert_eq!(accounts.default_account(), Some("a@example.test"));
    }

    #[test]
    fn a_list_that_makes_no_sense_is_named_with_its_line() {
        let top = tempfile::tempdir().unwrap();
        std::fs::write(file(top.path()), "default = \"a\"\ncolour = \"red\"\n").unwrap();
        let fault = Accounts::load(top.path()).unwrap_err();
        assert!(fault.to_string().contains("accounts.toml:2: unknown field"), "{fault}");
    }

    #[test]
    fn to_read_the_narrow_login_is_taken() {
        let mut accounts = Accounts::default();
        accounts.put(login("a@example.test", Access::Write));
        assert_eq!(accounts.login("a@example.test", Access::Read).unwrap().access, Access::Write);
        accounts.put(login("a@example.test", Access::Read));
        assert_eq!(accounts.login("A@Example.test", Access::Read).unwrap().access, Access::Read);
        accounts.forget(&login("a@example.test", Access::Write).entry());
        assert_eq!(accounts.login("a@example.test", Access::Write), None, "reading does not publish");
        assert_eq!(accounts.login("b@example.test", Access::Read), None);
    }

    #[test]
    fn the_default_moves_on_when_its_account_goes() {
        let mut accounts = Accounts::default();
        accounts.put(login("a@example.test", Access::Read));
        accounts.put(login("b@example.test", Access::Read));
        accounts.forget(&login("a@example.test", Access::Read).entry());
        assert_eq!(accounts.default_account(), Some("b@example.test"));
        accounts.forget(&login("b@example.test", Access::Read).entry());
        assert_eq!(accounts.default_account(), None);
        assert_eq!(accounts.chosen, None);
    }
}
