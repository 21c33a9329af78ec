//! One daemon a user: the lock, and the note that it leaves for helpers.
//!
//! The lock is a `flock`, which dies with its holder, so no crash can block the next start. The file holds a note
//! that outlives a crash: which source decided where an ask named none. A helper that has to answer in process
//! after the daemon was killed reads it and stays with the same identity.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ask::NamedSource;
use crate::durable;
use crate::error::shown::shown_path;
use crate::error::{Fault, Kind};
use crate::paths::open_regular;
use crate::sys;
use crate::sys::users::is_own_file;

/// Why this daemon may not be the one.
#[derive(Debug, Error)]
pub enum InstanceFault {
    /// Another one serves this user.
    #[error("a daemon is already running{}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Running { pid: Option<u32> },
    /// The directory does not take the file.
    #[error("cannot write {}", shown_path(path))]
    Write { path: PathBuf, source: io::Error },
}

impl Fault for InstanceFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Running { .. } => Kind::Refused,
            Self::Write { .. } => Kind::Local,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Running { pid: Some(pid) } if i32::try_from(*pid).is_ok_and(sys::is_stopped) => {
                format!("it is stopped: end it with `kill -9 {pid}`")
            }
            Self::Running { .. } => "run `valetkey status`, or `valetkey stop` first".to_owned(),
            Self::Write { .. } => {
                "make room on that file system, or point XDG_RUNTIME_DIR elsewhere".to_owned()
            }
        })
    }
}

/// What a daemon leaves for helpers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub pid: u32,
    pub version: String,
    /// Which start of the machine it belongs to.
    #[serde(default)]
    pub boot: Option<String>,
    /// What decided where an ask named nothing.
    #[serde(default)]
    pub source: Option<NamedSource>,
}

/// Being the only one that may serve this user. A note that a crash left stays until [`Instance::serve`].
#[derive(Debug)]
pub struct Instance {
    file: File,
    path: PathBuf,
}

/// Serving, with a note. Its end in order, however that comes about, takes the note back; a crash leaves it.
#[derive(Debug)]
pub struct Serving(File);

impl Instance {
    /// Becomes the one, waiting up to `patience` for another that is on its way out.
    ///
    /// # Errors
    /// When another one stays.
    pub fn acquire(path: &Path, patience: Duration) -> Result<Self, InstanceFault> {
        let write = |source| InstanceFault::Write { path: path.to_owned(), source };
        let file = durable::open_lock(path).map_err(write)?;
        if durable::lock_within(&file, patience).map_err(write)? {
            return Ok(Self { file, path: path.to_owned() });
        }
        let pid = read_note(path).map(|note| note.pid).filter(|pid| *pid != 0);
        Err(InstanceFault::Running { pid })
    }

    /// Begins to serve: the socket is bound, and the note takes the place of an older one.
    ///
    /// # Errors
    /// When the file system does not take it.
    pub fn serve(mut self, note: &Note) -> Result<Serving, InstanceFault> {
        let text = serde_json::to_string(note).unwrap_or_default();
        let written = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        written
            .and_then(|_| self.file.write_all(text.as_bytes()))
            .map_err(|source| InstanceFault::Write { path: self.path, source })?;
        Ok(Serving(self.file))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.set_len(0);
    }
}

/// The note of the daemon that runs, or that was killed since this machine started. Only to be read from a
/// directory that is known to be private: whoever writes it chooses an identity.
#[must_use]
pub fn read_note(path: &Path) -> Option<Note> {
    let file = open_regular(path, true).ok()?;
    if !is_own_file(&file, file.metadata().ok()?.uid()) {
        return None;
    }
    let mut text = String::new();
    file.take(LARGEST_NOTE).read_to_string(&mut text).ok()?;
    let note: Note = serde_json::from_str(&text).ok()?;
    (note.boot == sys::boot_id()).then_some(note)
}

const LARGEST_NOTE: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_and_a_note_that_goes_with_it() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("daemon.lock");
        let acquire = || Instance::acquire(&path, Duration::ZERO);
        let source = Some(NamedSource::File { path: "/k.json".into() });
        let note = Note { pid: 7, version: "0.1.0".to_owned(), boot: sys::boot_id(), source };
        let first = acquire().unwrap().serve(&note).unwrap();
        assert!(matches!(acquire(), Err(InstanceFault::Running { pid: Some(7) })));
        assert_eq!(read_note(&path), Some(note.clone()));
        drop(first);
        assert_eq!(read_note(&path), None);
        // What a crash leaves stays, also when the next one does not come to serve.
        std::fs::write(&path, serde_json::to_string(&note).unwrap()).unwrap();
        drop(acquire().unwrap());
        assert_eq!(read_note(&path), Some(note.clone()));
        // Not over a start of the machine.
        let other_boot = Note { boot: Some("another".to_owned()), ..note };
        std::fs::write(&path, serde_json::to_string(&other_boot).unwrap()).unwrap();
        assert_eq!(read_note(&path), None);
    }
}
