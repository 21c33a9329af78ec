//! What may be wrong with the settings.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::read::LARGEST;
use crate::error::shown::shown_path;
use crate::error::{Fault, Kind};
use crate::grant::PatternFault;
use crate::sys::users::shown;

/// What is wrong with a configuration file, or with a variable in its place.
#[derive(Debug, Error)]
pub enum ConfigFault {
    /// It is there and cannot be read, or it is a link to nothing.
    #[error("cannot read the configuration file {}", shown_path(path))]
    Read { path: PathBuf, source: io::Error },
    /// What stands behind the end that is read would not count.
    #[error("the configuration file {} is larger than {} MiB", shown_path(.0), LARGEST >> 20)]
    TooLarge(PathBuf),
    /// Whoever writes it decides which hosts get a token.
    #[error("the configuration file {} can be written by {by}", shown_path(path))]
    Writable { path: PathBuf, by: &'static str },
    /// Another user's word about which hosts get a token.
    #[error("the configuration file {} belongs to {}, and not to root", shown_path(path), shown(*owner))]
    Foreign { path: PathBuf, owner: u32 },
    /// Unknown key, wrong type, or no TOML at all.
    #[error("{}:{line}: {message}", shown_path(path))]
    Content { path: PathBuf, line: usize, message: String },
    /// A repository that is none.
    #[error("{}:{line}: {key}: {fault}", shown_path(path))]
    Repository { path: PathBuf, line: usize, key: &'static str, fault: PatternFault },
    /// A `VALETKEY_*` variable with a value that means nothing.
    #[error("{name} is {value:?}, which is not {expected}")]
    Variable { name: &'static str, value: String, expected: &'static str },
}

impl Fault for ConfigFault {
    fn kind(&self) -> Kind {
        Kind::Configuration
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Read { path, .. } => Some(format!("make {} readable or remove it", shown_path(path))),
            Self::TooLarge(path) => Some(format!("shorten {}: nothing of it counts so", shown_path(path))),
            Self::Writable { path, .. } => Some(format!("run `chmod go-w {}`", shown_path(path))),
            Self::Foreign { path, .. } => {
                Some(format!("make {} your own, or set HOME to your own", shown_path(path)))
            }
            Self::Content { .. } => Some("correct that line; README.md lists the keys".to_owned()),
            Self::Repository { fault, .. } => fault.hint(),
            Self::Variable { name, .. } => Some(format!("correct or unset {name}")),
        }
    }
}
