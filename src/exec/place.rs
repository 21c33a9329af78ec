//! The directory of one run: private, and in memory where there is a file system in memory, so that what a killed run
//! leaves behind is in no layer of an image. It holds certificates and a link, and no secret. The next run removes what
//! killed ones have left.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statfs};
use tempfile::TempDir;

use super::ground;
use crate::environment::Environment;
use crate::error::{Failure, Kind};
use crate::paths::open_regular;
use crate::sys;

/// See the module. Goes with the value.
#[derive(Debug)]
pub struct Place {
    top: TempDir,
    in_memory: bool,
    /// Locked as long as this run lives.
    _lock: Option<File>,
}

impl Place {
    /// Makes one.
    ///
    /// # Errors
    /// When no directory for temporary files takes it.
    pub fn new(environment: &Environment) -> Result<Self, Failure> {
        let candidates = ground::candidates(environment);
        let volatile = candidates.iter().filter(|path| is_in_memory(path));
        for directory in volatile {
            if let Ok(top) = ground::within(directory).and_then(|directory| make(&directory)) {
                return Ok(Self { _lock: hold(top.path()), top, in_memory: true });
            }
        }
        let temporary = environment.path("TMPDIR").filter(|path| path.is_absolute());
        let temporary = temporary.unwrap_or_else(|| PathBuf::from("/tmp"));
        let top = make(&temporary).map_err(|error| {
            Failure::new(Kind::Local, format!("cannot make a directory in {}", temporary.display()))
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
        let linked = fs::create_dir(&directory)
            .and_then(|()| std::env::current_exe())
            .and_then(|own| symlink(own, directory.join("keyring")));
        linked.map_err(|error| {
            Failure::new(Kind::Local, format!("cannot put keyring into {}", directory.display()))
                .with_cause(error)
        })?;
        Ok(directory)
    }

    /// An empty directory.
    ///
    /// # Errors
    /// As above.
    pub fn empty(&self) -> Result<PathBuf, Failure> {
        let directory = self.path().join("empty");
        fs::create_dir(&directory).map_err(|error| {
            Failure::new(Kind::Local, format!("cannot make {}", directory.display())).with_cause(error)
        })?;
        Ok(directory)
    }
}

fn make(directory: &Path) -> io::Result<TempDir> {
    access(directory, Access::WRITE_OK | Access::EXEC_OK)?;
    sweep(directory);
    let private = fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(directory)
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
        let own = entry.metadata().is_ok_and(|data| data.is_dir() && data.uid() == sys::own_uid());
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
        let place = Place::new(&Environment::default()).unwrap();
        let mode = place.path().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let keyring = place.link_keyring().unwrap().join("keyring");
        assert_eq!(fs::read_link(keyring).unwrap(), std::env::current_exe().unwrap());
        let path = place.path().to_owned();
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn what_killed_runs_left_is_swept_and_nothing_else() {
        let top = tempfile::tempdir().unwrap();
        let living = make(top.path()).unwrap();
        let lock = hold(living.path());
        let killed = make(top.path()).unwrap().keep();
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
