//! The vault of a machine without a keychain: one file a login in `STATE/logins`, as safe as the file that gcloud
//! keeps for itself.
//!
//! The directory has mode 0700 and the files 0600. A file is read only if it is a regular one, ours, closed to
//! others, and no link. It is replaced whole, so that a crash leaves the old content or the new one; what a crash
//! leaves beside it holds a secret too, and the next write removes it.
//!
//! Writers take turns by a lock on the directory. Waiting for it ends by the deadline, and so does waiting for a
//! file system that hangs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::{Entry, LARGEST, StoredSecret, Vault, VaultFault};
use crate::blocking;
use crate::durable;
use crate::paths::{PathFault, check_private, ensure_private, open_regular};
use crate::sys::users::{is_own_file, shown};

/// The directory of the files.
#[derive(Debug, Clone)]
pub(super) struct Files(PathBuf);

impl Files {
    pub(super) fn new(state: &Path) -> Self {
        Self(state.join("logins"))
    }

    pub(super) async fn read(&self, entry: &Entry, until: Instant) -> Result<StoredSecret, VaultFault> {
        let (files, entry) = (self.clone(), entry.clone());
        by(until, move || files.read_now(&entry)).await
    }

    pub(super) async fn write(
        &self,
        entry: &Entry,
        secret: &StoredSecret,
        until: Instant,
    ) -> Result<(), VaultFault> {
        let (files, entry, secret) = (self.clone(), entry.clone(), secret.clone());
        by(until, move || files.write_now(&entry, &secret, until)).await
    }

    pub(super) async fn delete(&self, entry: &Entry, until: Instant) -> Result<(), VaultFault> {
        let (files, path) = (self.clone(), self.path(entry));
        by(until, move || {
            if !check_private(&files.0).map_err(unsafe_directory)? {
                return Ok(());
            }
            let _turn = files.take_turn(until)?;
            durable::remove(&path).map_err(|source| VaultFault::Io { path, source })
        })
        .await
    }

    pub(super) async fn probe(&self, until: Instant) -> Result<(), VaultFault> {
        let files = self.clone();
        by(until, move || {
            let _turn = files.prepare(until)?;
            // By this name the next write removes what a crash leaves.
            let path = files.0.join(format!("{}probe", durable::TEMPORARY));
            durable::replace(&path, &[b' '; PROBE])
                .and_then(|()| durable::remove(&path))
                .map_err(|source| VaultFault::Io { path, source })
        })
        .await
    }

    fn read_now(&self, entry: &Entry) -> Result<StoredSecret, VaultFault> {
        let missing = || VaultFault::Missing { vault: Vault::File, entry: entry.clone() };
        if !check_private(&self.0).map_err(unsafe_directory)? {
            return Err(missing());
        }
        let path = self.path(entry);
        let content = match read_private(&path) {
            Err(Reading::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
            Err(Reading::Io(source)) => return Err(VaultFault::Unreadable { path, source }),
            Err(Reading::Unsafe(problem)) => return Err(VaultFault::Unsafe { path, problem }),
            Ok(content) => content,
        };
        let problem = "is not one";
        StoredSecret::from_json(&content).ok_or(VaultFault::Malformed {
            vault: Vault::File,
            entry: entry.clone(),
            problem,
        })
    }

    fn write_now(&self, entry: &Entry, secret: &StoredSecret, until: Instant) -> Result<(), VaultFault> {
        let json = secret.to_json().ok_or(VaultFault::Malformed {
            vault: Vault::File,
            entry: entry.clone(),
            problem: "would be too large",
        })?;
        let _turn = self.prepare(until)?;
        let path = self.path(entry);
        durable::replace(&path, &json).map_err(|source| VaultFault::Io { path: path.clone(), source })?;
        if self.read_now(entry)? == *secret {
            Ok(())
        } else {
            let source = io::Error::other("it does not hold what was written");
            Err(VaultFault::Io { path, source })
        }
    }

    /// Makes the directory, takes the turn to write, and removes what a crash left.
    fn prepare(&self, until: Instant) -> Result<File, VaultFault> {
        let state = self.0.parent().unwrap_or(&self.0);
        // The last one is made on its own: a link in its place has to be seen.
        durable::create_directory(state)
            .map_err(|source| VaultFault::Io { path: state.to_owned(), source })?;
        ensure_private(&self.0).map_err(unsafe_directory)?;
        // Whether it was just made is not known; a login must not go with a directory that was never synced.
        let sync = || File::open(state)?.sync_all();
        sync().map_err(|source| VaultFault::Io { path: self.0.clone(), source })?;
        let turn = self.take_turn(until)?;
        for leftover in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            if leftover.file_name().to_string_lossy().starts_with(durable::TEMPORARY) {
                // Nobody reads it, and the next write tries again.
                let _ = fs::remove_file(leftover.path());
            }
        }
        Ok(turn)
    }

    /// Waits for the other writers. The kernel ends the turn of one that dies.
    fn take_turn(&self, until: Instant) -> Result<File, VaultFault> {
        let start = Instant::now();
        let unreadable = |source| VaultFault::Unreadable { path: self.0.clone(), source };
        let directory = File::open(&self.0).map_err(unreadable)?;
        let patience = until.saturating_duration_since(start);
        if durable::lock_within(&directory, patience).map_err(unreadable)? {
            Ok(directory)
        } else {
            Err(VaultFault::Unanswered { vault: Vault::File, waited: start.elapsed() })
        }
    }

    fn path(&self, entry: &Entry) -> PathBuf {
        self.0.join(format!("{}.json", entry.digest()))
    }
}

/// Why a file's content is not there.
enum Reading {
    Io(io::Error),
    Unsafe(String),
}

/// The content of a file that nobody but this user could have written or can read.
fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, Reading> {
    let file = open_regular(path, true).map_err(|error| {
        if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
            Reading::Unsafe("is a symbolic link".to_owned())
        } else {
            Reading::Io(error)
        }
    })?;
    let data = file.metadata().map_err(Reading::Io)?;
    if !is_own_file(&file, data.uid()) {
        return Err(Reading::Unsafe(format!("belongs to {}", shown(data.uid()))));
    }
    if data.mode() & 0o077 != 0 {
        return Err(Reading::Unsafe(format!("has mode {:04o}", data.mode() & 0o7777)));
    }
    // Room for one byte more than allowed, which no JSON of ours has, and for the read that finds the end.
    let mut content = Zeroizing::new(Vec::with_capacity(LARGEST + 64));
    file.take(LARGEST as u64 + 1).read_to_end(&mut content).map_err(Reading::Io)?;
    if content.len() > LARGEST { Err(Reading::Io(io::Error::other("it is too large"))) } else { Ok(content) }
}

fn unsafe_directory(fault: PathFault) -> VaultFault {
    let (path, problem) = match fault {
        PathFault::Create { path, source } => return VaultFault::Io { path, source },
        PathFault::Link(path) => (path, "is a symbolic link".to_owned()),
        PathFault::NotDirectory(path) | PathFault::TooLong(path) => (path, "is not a directory".to_owned()),
        PathFault::Owner { path, owner } => (path, format!("belongs to {}", shown(owner))),
        PathFault::Open { path, mode } => (path, format!("has mode {mode:04o}")),
    };
    VaultFault::Unsafe { path, problem }
}

/// Has work that may block done on a thread for that, and waits until the deadline.
async fn by<T: Send + 'static>(
    until: Instant,
    work: impl FnOnce() -> Result<T, VaultFault> + Send + 'static,
) -> Result<T, VaultFault> {
    let start = Instant::now();
    match timeout_at(until, blocking::run(work)).await {
        Ok(outcome) => outcome?,
        Err(_) => Err(VaultFault::Unanswered { vault: Vault::File, waited: start.elapsed() }),
    }
}

/// A file system without room for this has none for a login.
const PROBE: usize = 4 << 10;
