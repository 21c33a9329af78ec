//! The directory of one run: private, and in memory where there is a file system in memory, so that what a killed run
//! leaves behind is in no layer of an image. It holds certificates, a link and what was in the environment before, and no
//! secret of ours. The next run removes what killed ones have left.
//!
//! Root's run serves the other users that its command becomes, so they have to come by what is in it: then it can be passed
//! through, though not listed, by everybody.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statfs};
use tempfile::TempDir;

use super::ground;
use crate::environment::{Environment, before};
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::paths::{is_own_path, open_regular};

/// See the module. Goes with the value.
#[derive(Debug)]
pub struct Place {
    top: TempDir,
    in_memory: bool,
    /// Locked as long as this run lives.
    _lock: Option<File>,
}

impl Place {
    /// Makes one: for this user alone, or `shared` with those that are served beside him.
    ///
    /// # Errors
    /// When no directory for temporary files takes it.
    pub fn new(environment: &Environment, shared: bool) -> Result<Self, Failure> {
        let candidates = ground::candidates(environment);
        let volatile = candidates.iter().filter(|path| is_in_memory(path) && (!shared || is_open(path)));
        for directory in volatile {
            if let Ok(top) = ground::within(directory).and_then(|directory| make(&directory, shared)) {
                return Ok(Self { _lock: hold(top.path()), top, in_memory: true });
            }
        }
        let temporary = environment.path("TMPDIR").filter(|path| path.is_absolute());
        let temporary =
            temporary.filter(|path| !shared || is_open(path)).unwrap_or_else(|| PathBuf::from("/tmp"));
        let top = make(&temporary, shared).map_err(|error| {
            Failure::new(Kind::Local, format!("cannot make a directory in {}", shown_path(&temporary)))
                .with_cause(error)
                .with_hint("make /dev/shm or /tmp writable")
        })?;
        Ok(Self { _lock: hold(top.path()), top, in_memory: false })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        self.top.path()
    }

    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// A directory with this program in it under the name `keyring`.
    ///
    /// # Errors
    /// When the directory does not take it.
    pub fn link_keyring(&self) -> Result<PathBuf, Failure> {
        let directory = self.path().join("bin");
        let linked = make_open(&directory)
            .and_then(|()| std::env::current_exe())
            .and_then(|own| symlink(own, directory.join("keyring")));
        linked.map_err(|error| {
            Failure::new(Kind::Local, format!("cannot put keyring into {}", shown_path(&directory)))
                .with_cause(error)
        })?;
        Ok(directory)
    }

    /// Keeps the record of what the run changes, for programs that lose the variable on their way.
    ///
    /// # Errors
    /// As above.
    pub fn keep(&self, record: &OsStr) -> Result<(), Failure> {
        let path = self.path().join(before::FILE);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let kept = file.and_then(|mut file| file.write_all(record.as_bytes()));
        kept.map_err(|error| {
            Failure::new(Kind::Local, format!("cannot write {}", shown_path(&path))).with_cause(error)
        })
    }

    /// An empty directory.
    ///
    /// # Errors
    /// As above.
    pub fn empty(&self) -> Result<PathBuf, Failure> {
        let directory = self.path().join("empty");
        make_open(&directory).map_err(|error| {
            Failure::new(Kind::Local, format!("cannot make {}", shown_path(&directory))).with_cause(error)
        })?;
        Ok(directory)
    }
}

fn make(directory: &Path, shared: bool) -> io::Result<TempDir> {
    access(directory, Access::WRITE_OK | Access::EXEC_OK)?;
    sweep(directory);
    let private = fs::Permissions::from_mode(0o700);
    let top = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(directory)?;
    if shared {
        // Whatever the umask says.
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o711))?;
    }
    Ok(top)
}

/// A directory that whoever comes by can read: what stands above it decides who does.
fn make_open(directory: &Path) -> io::Result<()> {
    fs::create_dir(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
}

/// Whether every user can pass through a directory and those above it.
fn is_open(directory: &Path) -> bool {
    let is_passed = |path: &Path| path.metadata().is_ok_and(|data| data.mode() & 0o001 != 0);
    directory.canonicalize().is_ok_and(|path| path.ancestors().all(is_passed))
}

/// Says that this run lives. The lock has its name only once it is held.
fn hold(directory: &Path) -> Option<File> {
    let new = directory.join(".new");
    let file = File::create_new(&new).ok()?;
    file.try_lock().ok()?;
    fs::rename(new, directory.join(LOCK)).ok()?;
    Some(file)
}

/// Removes what killed runs of this user have left: a directory like ours whose lock nobody holds.
fn sweep(directory: &Path) {
    let named = |name: &OsStr| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| named(&entry.file_name())) {
        let own = entry.metadata().is_ok_and(|data| data.is_dir() && is_own_path(&entry.path(), &data));
        if own
            && let Ok(lock) = open_regular(&entry.path().join(LOCK), true)
            && lock.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

const PREFIX: &str = "valetkey-";
const LOCK: &str = "run.lock";

#[cfg(target_os = "linux")]
fn is_in_memory(path: &Path) -> bool {
    statfs(path).is_ok_and(|data| MEMORY.contains(&data.f_type))
}

#[cfg(not(target_os = "linux"))]
fn is_in_memory(_: &Path) -> bool {
    false
}

/// tmpfs and ramfs.
const MEMORY: [rustix::fs::FsWord; 2] = [0x0102_1994, 0x8584_58f6];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_directory_is_private_and_goes() {
        let place = Place::new(&Environment::default(), false).unwrap();
        let mode = place.path().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let keyring = place.link_keyring().unwrap().join("keyring");
        assert_eq!(fs::read_link(keyring).unwrap(), std::env::current_exe().unwrap());
        let path = place.path().to_owned();
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn a_shared_directory_is_passed_through_and_lies_where_everybody_gets() {
        let top = tempfile::tempdir().unwrap();
        // As a runtime directory is: this user's alone.
        fs::set_permissions(top.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let environment: Environment =
            [("XDG_RUNTIME_DIR", top.path()), ("TMPDIR", top.path())].into_iter().collect();
        let place = Place::new(&environment, true).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(place.path()), 0o711);
        assert!(is_open(place.path()) && !is_open(top.path()), "{}", place.path().display());
        assert_eq!((mode(&place.link_keyring().unwrap()), mode(&place.empty().unwrap())), (0o755, 0o755));
    }

    #[test]
    fn what_killed_runs_left_is_swept_and_nothing_else() {
        let top = tempfile::tempdir().unwrap();
        let living = make(top.path(), false).unwrap();
        let lock = hold(living.path());
        let killed = make(top.path(), true).unwrap().keep();
        drop(hold(&killed));
        let other = top.path().join("valetkey-1000");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("start.lock"), "").unwrap();
        let link = top.path().join("valetkey-link");
        symlink(&killed, &link).unwrap();
        // Another test that starts a process just now may hold the lock for a moment.
        let is_swept = |path: &Path| {
            (0..1000).any(|_| {
                sweep(top.path());
                std::thread::sleep(Duration::from_millis(5));
                !path.exists()
            })
        };
        assert!(is_swept(&killed));
        assert!(living.path().exists() && other.exists() && link.is_symlink());
        drop(lock);
        assert!(is_swept(living.path()));
    }
}
