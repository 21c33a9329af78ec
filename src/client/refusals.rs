//! Remembers, for a minute, that a client's URL was refused.
//!
//! pip asks about the URL first and about the bare host next. For `http://HOST/…` the first is refused, and the
//! second would bring a token that pip then sends in clear. So the refusal is left as an empty file in the private
//! directory, named by a hash of client and host, where the next helper of the same client finds it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::{Clock, between};
use crate::paths::{Paths, check_private, ensure_private};
use crate::secret::Fingerprint;

/// Remembers a refusal. Where the directory cannot be had there is no memory; the refusal itself stands.
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
    let _ = File::create(mark(paths, asker, host));
}

/// Whether this client was refused this host within the last minute.
#[must_use]
pub fn is_remembered(paths: &Paths, asker: &str, host: &str) -> bool {
    matches!(check_private(&paths.runtime), Ok(true)) && is_young(&mark(paths, asker, host))
}

fn mark(paths: &Paths, asker: &str, host: &str) -> PathBuf {
    let who = Fingerprint::of(format!("{asker} {host}").as_bytes());
    paths.runtime.join(format!("refused-{who}"))
}

fn is_young(mark: &Path) -> bool {
    let written = mark.symlink_metadata().and_then(|data| data.modified());
    written.is_ok_and(|written| between(written, Clock::system().now()) < MEMORY)
}

const PREFIX: &[u8] = b"refused-";
const MEMORY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_for_its_client_and_host_only() {
        let top = tempfile::tempdir().unwrap();
        let runtime = top.path().join("valetkey");
        let paths = Paths { configuration: None, state: None, runtime, gcloud: None };
        assert!(!is_remembered(&paths, "1:2", "us-python.pkg.dev"));
        remember(&paths, "1:2", "us-python.pkg.dev");
        assert!(is_remembered(&paths, "1:2", "us-python.pkg.dev"));
        assert!(!is_remembered(&paths, "1:3", "us-python.pkg.dev"));
        assert!(!is_remembered(&paths, "1:2", "eu-python.pkg.dev"));
    }
}
