//! Passes a call to the next `keyring` on PATH: same arguments, same standard input, by `exec`, and once.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::environment::{Environment, is_executable};
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::paths::open_regular;
use crate::sys;

/// The keyring that a call is to be passed to, unless it was passed to us.
#[must_use]
pub fn next(environment: &Environment) -> Option<PathBuf> {
    if environment.get(ONCE).is_some() { None } else { next_keyring(environment) }
}

/// Becomes that keyring. Comes back only where it cannot be run.
#[must_use]
pub fn become_keyring(next: &Path, arguments: &[OsString]) -> Failure {
    let error = Command::new(next).arg0("keyring").args(arguments).env(ONCE, "1").exec();
    Failure::new(Kind::Local, format!("cannot run {}", shown_path(next))).with_cause(error)
}

/// The first `keyring` on PATH that is not this program under any path.
#[must_use]
pub fn next_keyring(environment: &Environment) -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    environment
        .search_path()
        .map(|directory| directory.join("keyring"))
        .filter(|file| is_executable(file))
        .find(|file| !own.as_ref().is_some_and(|own| is_same_program(own, file)))
}

/// The same file, a link to it, or a copy of it.
#[must_use]
pub fn is_same_program(own: &Path, other: &Path) -> bool {
    sys::same_file(own, other) || is_copy(own, other).unwrap_or(false)
}

fn is_copy(own: &Path, other: &Path) -> std::io::Result<bool> {
    if own.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut own, mut other) = (open_regular(own, false)?, open_regular(other, false)?);
    let (mut one, mut two) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let read = own.read(&mut one)?;
        if read == 0 {
            return Ok(true);
        }
        other.read_exact(&mut two[..read])?;
        if one[..read] != two[..read] {
            return Ok(false);
        }
    }
}

/// Set for the keyring that we pass a call to, so that two of us never pass it back and forth.
const ONCE: &str = "VALETKEY_DELEGATED";
