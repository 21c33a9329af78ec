//! Whether a user that the kernel shows is one user.
//!
//! In a user namespace the kernel shows everybody who has no number there as one and the same uid, the overflow uid
//! (65534, `nobody`): for the owner of a file, for the other end of a socket, and for ourselves. Where some users have no
//! number, that uid may be anybody, so it proves nothing, whoever has it. A file can still be known as ours by an act
//! that the kernel allows to its owner alone. Without namespaces every user has a number, and nobody is mistaken.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use thiserror::Error;

use super::own_uid;
use crate::error::{Fault, Kind};

/// Whether this uid, as the kernel shows it, may stand for more than one user.
#[must_use]
pub fn is_anybody(uid: u32) -> bool {
    static ANYBODY: OnceLock<Option<u32>> = OnceLock::new();
    let anybody = ANYBODY.get_or_init(|| {
        let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
        anybody(&overflow, &fs::read_to_string("/proc/self/uid_map"))
    });
    *anybody == Some(uid)
}

/// Whether a uid that the kernel shows is this user's, beyond doubt.
#[must_use]
pub fn is_own(uid: u32) -> bool {
    uid == own_uid() && !is_anybody(uid)
}

/// Whether an open file, which is shown as this owner's, belongs to this user.
pub fn is_own_file(file: impl AsFd, owner: u32) -> bool {
    owner == own_uid() && (!is_anybody(owner) || lets_us_own(file))
}

/// Whose something is that is not ours, as a sentence says it: "belongs to …", "is served by …".
#[must_use]
pub fn shown(uid: u32) -> String {
    if is_anybody(uid) {
        format!("uid {uid}, which may be anybody who has no number in this user namespace")
    } else if uid == own_uid() {
        format!("uid {uid}")
    } else {
        format!("uid {uid}, not uid {}", own_uid())
    }
}

/// A daemon here could not tell its owner from others.
#[derive(Debug, Error)]
#[error("a daemon here could not tell who asks: this user is {}", shown(own_uid()))]
pub struct Indistinct;

impl Fault for Indistinct {
    fn kind(&self) -> Kind {
        Kind::Local
    }

    fn hint(&self) -> Option<String> {
        Some(
            "give this user a number in the namespace: `unshare --user --map-current-user`, for one"
                .to_owned(),
        )
    }
}

/// Whether this user can be told from others.
///
/// # Errors
/// When not: then nobody may be served by his uid.
pub fn check_distinct() -> Result<(), Indistinct> {
    if is_anybody(own_uid()) { Err(Indistinct) } else { Ok(()) }
}

/// The uid that stands for whoever has no number, if there is anybody without one.
fn anybody(overflow: &str, map: &io::Result<String>) -> Option<u32> {
    let numbered = match map {
        Ok(map) => map.lines().filter_map(count).sum::<u64>(),
        // A kernel without user namespaces. One without /proc does not say, and then nothing is certain.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && fs::exists("/proc/self").unwrap_or(false) =>
        {
            EVERYBODY
        }
        Err(_) => 0,
    };
    (numbered < EVERYBODY).then(|| overflow.trim().parse().unwrap_or(OVERFLOW))
}

/// How many users a line of `uid_map` gives numbers to.
fn count(line: &str) -> Option<u64> {
    line.split_ascii_whitespace().nth(2)?.parse().ok()
}

/// Only a file's owner may have the time of its last reading left alone (`may_open` and `setfl` in the kernel).
#[cfg(target_os = "linux")]
fn lets_us_own(file: impl AsFd) -> bool {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let flags = fcntl_getfl(&file);
    flags.is_ok_and(|flags| fcntl_setfl(&file, flags | OFlags::NOATIME).is_ok())
}

/// Other systems have no user namespaces.
#[cfg(not(target_os = "linux"))]
fn lets_us_own(_: impl AsFd) -> bool {
    true
}

/// Every uid but the one that means none.
const EVERYBODY: u64 = u32::MAX as u64;
/// What the kernel takes where nobody says otherwise.
const OVERFLOW: u32 = 65_534;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overflow_uid_is_anybody_only_where_somebody_has_no_number() {
        let of = |map: &str| anybody("65534\n", &Ok(map.to_owned()));
        assert_eq!(of("         0          0 4294967295\n"), None);
        // As two lines, which a namespace within the first may have.
        assert_eq!(of("0 0 65536\n65536 65536 4294901759\n"), None);
        for partial in ["", "0 1000 1\n", "0 1000 1\n1 100000 65536\n", "65534 65534 1\n", "0 0 4294967294\n"]
        {
            assert_eq!(of(partial), Some(65_534), "{partial:?}");
        }
        assert_eq!(anybody("1234\n", &Ok(String::new())), Some(1234));
        assert_eq!(anybody("", &Ok(String::new())), Some(65_534));
        assert_eq!(anybody("65534", &Err(io::ErrorKind::PermissionDenied.into())), Some(65_534));
        assert_eq!(anybody("65534", &Err(io::ErrorKind::NotFound.into())), None, "no namespaces at all");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_lets_its_owner_own_it() {
        let top = tempfile::tempdir().unwrap();
        let file = fs::File::create(top.path().join("own")).unwrap();
        assert!(lets_us_own(&file) && is_own_file(&file, own_uid()));
        assert!(!is_own_file(&file, own_uid() + 1));
    }
}
