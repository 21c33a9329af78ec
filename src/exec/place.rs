//! The directory of one run: private, and in memory where there is a file system in memory, so that what a killed run
//! leaves behind is in no layer of an image. It holds certificates and a link, and no secret.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statfs};
use tempfile::TempDir;

use crate::environment::Environment;
use crate::error::{Failure, Kind};

/// See the module. Goes with the value.
#[derive(Debug)]
pub struct Place {
    top: TempDir,
    in_memory: bool,
}

impl Place {
    /// Makes one.
    ///
    /// # Errors
    /// When no directory for temporary files takes it.
    pub fn new(environment: &Environment) -> Result<Self, Failure> {
        let runtime = environment.path("XDG_RUNTIME_DIR").filter(|path| path.is_absolute());
        let fixed = ["/run", "/tmp"].map(PathBuf::from);
        let candidates: Vec<PathBuf> =
            [PathBuf::from("/dev/shm")].into_iter().chain(runtime).chain(fixed).collect();
        let volatile = candidates.iter().filter(|path| is_in_memory(path));
        for directory in volatile {
            if let Ok(top) = make(directory) {
                return Ok(Self { top, in_memory: true });
            }
        }
        let temporary = environment.path("TMPDIR").filter(|path| path.is_absolute());
        let temporary = temporary.unwrap_or_else(|| PathBuf::from("/tmp"));
        let top = make(&temporary).map_err(|error| {
            Failure::new(Kind::Local, format!("cannot make a directory in {}", temporary.display()))
                .with_cause(error)
                .with_hint("make /dev/shm or /tmp writable")
        })?;
        Ok(Self { top, in_memory: false })
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
    let private = fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().prefix("valetkey-").permissions(private).tempdir_in(directory)
}

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
}
