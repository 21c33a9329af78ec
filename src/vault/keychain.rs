//! The keychain of the desktop, behind a deadline.
//!
//! A locked keychain can block for ever, a library that failed at its first look never looks again, and its
//! threads and buffers have no place in a daemon. So none of it runs in this process: a child of our own program
//! asks (see `child`), one at a time, and is ended when the time is over. macOS ties an entry to the program that
//! made it and has no bus that could hang: there a thread asks.

mod act;
#[cfg(not(target_os = "macos"))]
mod child;
#[cfg(target_os = "macos")]
mod thread;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use tokio::time::Instant;

use self::act::{Act, PROBE, Trouble};
#[cfg(not(target_os = "macos"))]
use self::child::ask;
#[cfg(not(target_os = "macos"))]
pub use self::child::serve_child;
#[cfg(target_os = "macos")]
use self::thread::ask;
use super::{Entry, StoredSecret, Vault, VaultFault};
use crate::ask::Access;
use crate::environment::Environment;

/// How the keychain of this user is reached.
#[derive(Debug, Clone)]
#[cfg_attr(target_os = "macos", expect(dead_code, reason = "macOS does without the child"))]
pub(super) struct Keychain {
    program: PathBuf,
    /// What the child may know of our environment.
    environment: Vec<(OsString, OsString)>,
    state: PathBuf,
}

/// What the keychain says: a secret where one was asked for.
type Answer = Result<Option<StoredSecret>, Trouble>;

impl Keychain {
    pub(super) fn new(environment: &Environment, state: &Path, program: PathBuf) -> Self {
        let environment = environment
            .iter()
            .filter(|(name, _)| PASSED_ON.iter().any(|known| *name == OsStr::new(known)))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self { program, environment, state: state.to_owned() }
    }

    pub(super) async fn read(&self, entry: &Entry, until: Instant) -> Result<StoredSecret, VaultFault> {
        let answer = ask(self, Act::Read, &entry.user(), None, until).await?;
        answer
            .map_err(|trouble| trouble.into_fault(entry))?
            .ok_or_else(|| VaultFault::Broken { problem: "it gave no secret and no reason".to_owned() })
    }

    pub(super) async fn write(
        &self,
        entry: &Entry,
        secret: &StoredSecret,
        until: Instant,
    ) -> Result<(), VaultFault> {
        let answer = ask(self, Act::Write, &entry.user(), Some(secret), until).await?;
        answer.map(drop).map_err(|trouble| trouble.into_fault(entry))
    }

    pub(super) async fn delete(&self, entry: &Entry, until: Instant) -> Result<(), VaultFault> {
        let answer = ask(self, Act::Delete, &entry.user(), None, until).await?;
        answer.map(drop).map_err(|trouble| trouble.into_fault(entry))
    }

    pub(super) async fn probe(&self, until: Instant) -> Result<(), VaultFault> {
        let entry = Entry { account: PROBE.to_owned(), access: Access::Read };
        let answer = ask(self, Act::Probe, PROBE, None, until).await?;
        answer.map(drop).map_err(|trouble| trouble.into_fault(&entry))
    }
}

impl Trouble {
    fn into_fault(self, entry: &Entry) -> VaultFault {
        match self {
            Self::Missing => VaultFault::Missing { vault: Vault::Keychain, entry: entry.clone() },
            Self::NoKeychain(problem) => VaultFault::NoKeychain { problem },
            Self::Locked(problem) => VaultFault::Locked { problem },
            Self::Broken(problem) => VaultFault::Broken { problem },
            Self::Malformed => {
                let problem = "is not one";
                VaultFault::Malformed { vault: Vault::Keychain, entry: entry.clone(), problem }
            }
        }
    }
}

/// The program that asks in our place: this one, and also when a newer one has taken the place of its file.
pub(super) fn own_program() -> PathBuf {
    if cfg!(target_os = "linux") {
        return "/proc/self/exe".into();
    }
    std::env::current_exe().unwrap_or_else(|_| "valetkey".into())
}

/// What leads to the session bus, and to the screen on which a keychain asks for its password.
const PASSED_ON: [&str; 12] = [
    "HOME",
    "PATH",
    "LANG",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_CURRENT_DESKTOP",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "TMPDIR",
];
