//! Remembers, for a minute, that a client's URL was refused.
//!
//! pip asks about the URL first and about the bare host next. For `http://HOST/…` the first is refused, and the
//! second would bring a token that pip then sends in clear. So the refusal is left as an empty file in the private
//! directory, named by a hash of client and host, where the next helper of the same client finds it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::broker::{REFUSAL, just_refused, without_port};
use crate::clock::{Clock, between};
use crate::error::{Failure, Kind};
use crate::paths::{Paths, ensure_private};
use crate::secret::Fingerprint;

/// Remembers a refusal, if the private directory can be had.
pub fn remember(paths: &Paths, asker: &str, host: &str) {
    if ensure_private(&paths.runtime).is_err() {
        return;
    }
    if let Ok(entries) = fs::read_dir(&paths.runtime) {
        let marks =
            entries.flatten().filter(|entry| entry.file_name().as_encoded_bytes().starts_with(PREFIX));
        for mark in marks.filter(|mark| !is_young(&mark.path())) {
            let _ = fs::remove_file(mark.path());
        }
    }
    let _ = File::create(mark(paths, asker, without_port(host)));
}

/// Refuses a bare host whose URL was refused to this client within the last minute. Where that cannot be known,
/// because another user prepared the directory or none can be made, it has to be assumed.
///
/// # Errors
/// Why the bare host gets nothing.
pub fn check(paths: &Paths, asker: Option<&str>, host: &str) -> Result<(), Failure> {
    let unknown = |reason: String| {
        let text = format!("no token for the bare host {host}, since refusals cannot be remembered here");
        Err(Failure::new(Kind::Refused, text)
            .with_cause(reason)
            .with_hint(format!("ask for https://{host}/…")))
    };
    let Some(asker) = asker else {
        return unknown("the calling program cannot be told from others".to_owned());
    };
    match ensure_private(&paths.runtime) {
        Err(fault) => unknown(fault.to_string()),
        Ok(()) if is_young(&mark(paths, asker, without_port(host))) => Err(just_refused(host)),
        Ok(()) => can_remember(paths).or_else(|error| unknown(error.to_string())),
    }
}

/// Whether a mark could have been made: on a full disk there would be none to find.
fn can_remember(paths: &Paths) -> io::Result<()> {
    let probe = paths.runtime.join("refused-probe");
    match File::create_new(&probe) {
        // Another helper is at it, this moment.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(_) => fs::remove_file(&probe),
    }
}

fn mark(paths: &Paths, asker: &str, host: &str) -> PathBuf {
    let who = Fingerprint::of(format!("{asker} {host}").as_bytes());
    paths.runtime.join(format!("refused-{who}"))
}

fn is_young(mark: &Path) -> bool {
    let written = mark.symlink_metadata().and_then(|data| data.modified());
    written.is_ok_and(|written| between(written, Clock::system().now()) < REFUSAL)
}

const PREFIX: &[u8] = b"refused-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_for_its_client_and_host_only() {
        let top = tempfile::tempdir().unwrap();
        let runtime = top.path().join("valetkey");
        let paths = Paths { configuration: None, state: None, runtime, gcloud: None };
        let is_refused = |paths: &Paths, asker: Option<&str>, host: &str| check(paths, asker, host).is_err();
        assert!(!is_refused(&paths, Some("1:2"), "us-python.pkg.dev"));
        remember(&paths, "1:2", "us-python.pkg.dev");
        assert!(is_refused(&paths, Some("1:2"), "us-python.pkg.dev"));
        assert!(!is_refused(&paths, Some("1:3"), "us-python.pkg.dev"));
        assert!(!is_refused(&paths, Some("1:2"), "europe-python.pkg.dev"));
        assert!(is_refused(&paths, None, "us-python.pkg.dev"), "an asker without a name is not trusted");
        let runtime = top.path().join("missing/valetkey");
        let nowhere = Paths { runtime, ..paths };
        assert!(is_refused(&nowhere, Some("1:2"), "us-python.pkg.dev"), "nor is a memory that cannot be had");
    }
}
