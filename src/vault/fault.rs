//! Why a vault does not do what it is asked for, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::{Entry, Vault};
use crate::ask::Access;
use crate::blocking::BlockingFault;
use crate::error::shown::shown_path;
use crate::error::{Fault, Kind};

/// See the module.
#[derive(Debug, Error)]
pub enum VaultFault {
    /// The vault has no such entry: it was removed behind our back, or the vault is another one than it was.
    #[error("the {} holds no {} login of {}", vault.word(), entry.access.word(), entry.account)]
    Missing { vault: Vault, entry: Entry },
    /// No session bus, nothing that serves it, or a keychain that was never set up: nothing is there that could be
    /// locked.
    #[error("there is no keychain here: {problem}")]
    NoKeychain { problem: String },
    /// It is there, and nobody unlocked it: no desktop is there to ask for the password, or the question was
    /// answered with no.
    #[error("the keychain is locked")]
    Locked { problem: String },
    /// The deadline passed: a window asks somebody for a password, or something hangs.
    #[error("the {} did not answer within {} s", vault.word(), waited.as_secs_f32().ceil())]
    Unanswered { vault: Vault, waited: Duration },
    /// The keychain ended in the middle of an act, or answers nonsense.
    #[error("the keychain failed: {problem}")]
    Broken { problem: String },
    /// What is in the place of a file or directory of ours could be read or written by others.
    #[error("{} {problem}, so what is in it is not taken", shown_path(path))]
    Unsafe { path: PathBuf, problem: String },
    /// A file or directory of ours that cannot be read.
    #[error("cannot read {}", shown_path(path))]
    Unreadable { path: PathBuf, source: io::Error },
    /// A full or read-only file system.
    #[error("cannot write {}", shown_path(path))]
    Io { path: PathBuf, source: io::Error },
    /// No thread is left to ask a file system.
    #[error(transparent)]
    Blocking(#[from] BlockingFault),
    /// What the vault holds under the name of a login is none.
    #[error("what the {} holds as the {} login of {} {problem}", vault.word(), entry.access.word(), entry.account)]
    Malformed { vault: Vault, entry: Entry, problem: &'static str },
}

impl VaultFault {
    /// Whether there is no keychain at all, so that a file may be the vault.
    #[must_use]
    pub fn is_absent_keychain(&self) -> bool {
        matches!(self, Self::NoKeychain { .. })
    }

    /// Whether the vault was asked and has no such entry.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

impl Fault for VaultFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } | Self::Malformed { .. } => Kind::NeedsLogin,
            Self::Unanswered { .. } => Kind::Deadline,
            Self::Blocking(fault) => fault.kind(),
            _ => Kind::Local,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Missing { entry, .. } | Self::Malformed { entry, .. } => {
                let write = if entry.access == Access::Write { " --write" } else { "" };
                format!("run `valetkey login{write} --account {}`", entry.account)
            }
            Self::Blocking(fault) => return fault.hint(),
            Self::NoKeychain { .. } => {
                "start the desktop's keychain, or set `vault = \"file\"` in config.toml and sign in again"
                    .to_owned()
            }
            Self::Locked { .. } => "unlock the keychain (a desktop does when you sign in to it); on a machine \
                                    without a desktop set `vault = \"file\"` in config.toml and sign in again"
                .to_owned(),
            Self::Unanswered { vault: Vault::Keychain, .. } => {
                "answer the window that asks for the keychain's password, and try again; on a machine without a \
                 desktop set `vault = \"file\"` in config.toml and sign in again"
                    .to_owned()
            }
            Self::Unanswered { vault: Vault::File, .. } => {
                "find out why the file system of the state directory hangs, and try again".to_owned()
            }
            Self::Broken { .. } => {
                "try again; if that does not help, sign out of the desktop and in again".to_owned()
            }
            Self::Unsafe { path, .. } => {
                let path = shown_path(path);
                format!("if {path} is yours, run `chmod go= {path}`; else remove it and sign in again")
            }
            Self::Unreadable { path, .. } => format!("look at what is at {}", shown_path(path)),
            Self::Io { path, .. } => {
                let directory = path.parent().unwrap_or(path);
                format!("make room in {}, or make it writable, and try again", shown_path(directory))
            }
        })
    }
}
