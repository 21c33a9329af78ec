//! A configuration file as text: whole or not at all, and only where nobody else could have written it.
//!
//! Whoever writes such a file decides which hosts get a token, and what the ceiling is. So a file that is there and cannot
//! be read to its end is an error, and so is a link that leads nowhere: neither counts as none.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::{ConfigFault, private_group};
use crate::error::shown::quoting;
use crate::paths::{open_regular, without_absent};
use crate::sys::users::{is_anybody, is_own_file};

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeper {
    /// Below `/etc`: it speaks for everybody on this machine.
    Machine,
    User,
}

/// The text of a file, or nothing where there is none. It has to belong to root or to us, and nobody else may
/// write it.
pub(super) fn read(path: &Path, keeper: Keeper) -> Result<Option<String>, ConfigFault> {
    let wrong = |source| ConfigFault::Read { path: path.to_owned(), source };
    let Some(file) = without_absent(path, open_regular(path, false)).map_err(wrong)? else {
        return Ok(None);
    };
    check_writers(path, keeper, &file)?;
    let mut text = String::with_capacity(4096);
    // One byte more than allowed tells a file that is too large from one that just fits.
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(wrong)?;
    if text.len() as u64 > LARGEST { Err(ConfigFault::TooLarge(path.to_owned())) } else { Ok(Some(text)) }
}

fn check_writers(path: &Path, keeper: Keeper, file: &File) -> Result<(), ConfigFault> {
    let data = file.metadata().map_err(|source| ConfigFault::Read { path: path.to_owned(), source })?;
    let is_own = is_own_file(file, data.uid());
    if !is_own && (data.uid() != 0 || is_anybody(0)) {
        return Err(ConfigFault::Foreign { path: path.to_owned(), owner: data.uid() });
    }
    let writable = |by| Err(ConfigFault::Writable { path: path.to_owned(), by });
    if data.mode() & 0o002 != 0 {
        return writable("other users");
    }
    if data.mode() & 0o020 == 0 {
        return Ok(());
    }
    // With an access list the mode of the group is the widest of all who are on the list.
    if has_access_list(file) {
        return writable("those on its access list");
    }
    if keeper == Keeper::User && is_own && private_group::is_private(data.uid(), data.gid()) {
        return Ok(());
    }
    writable("its group")
}

/// Whether a file has a POSIX access list beside its mode. One that cannot be looked for might be there.
fn has_access_list(file: &File) -> bool {
    use rustix::io::Errno;
    let found = rustix::fs::fgetxattr(file, ACCESS_LIST, &mut [0_u8; 0][..]);
    !matches!(found, Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS))
}

pub(super) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigFault> {
    toml::from_str(text).map_err(|error| {
        let line = line_of(text, &error);
        ConfigFault::Content { path: path.to_owned(), line, message: quoting(error.message()) }
    })
}

/// The line of a TOML text that an error is about, counted from 1.
#[must_use]
pub fn line_of(text: &str, error: &toml::de::Error) -> usize {
    line_at(text, error.span().map_or(0, |span| span.start))
}

/// The line of a place in a text, counted from 1.
pub(super) fn line_at(text: &str, place: usize) -> usize {
    text.get(..place.min(text.len())).unwrap_or_default().matches('\n').count() + 1
}

/// No configuration is larger than this.
pub(super) const LARGEST: u64 = 1 << 20;
const ACCESS_LIST: &CStr = c"system.posix_acl_access";
