//! Where things are: configuration, state, and the private directory of the socket.
//!
//! The directory of the socket is the gate on the host: mode 0700, ours, not a link. It is created so and never
//! mended, because whoever could plant a wrong one could also change it back.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use directories::ProjectDirs;
use rustix::fs::OFlags;
use thiserror::Error;

use crate::environment::Environment;
use crate::error::shown::shown_path;
use crate::error::{Fault, Kind};
use crate::sys;
use crate::sys::users::{is_anybody, is_own_file, shown};
use crate::sys::worker::touch;

/// Why a directory cannot serve.
#[derive(Debug, Error)]
pub enum PathFault {
    /// Somebody put a symbolic link in its place.
    #[error("{} is a symbolic link", shown_path(.0))]
    Link(PathBuf),
    /// Somebody put a file in its place.
    #[error("{} is not a directory", shown_path(.0))]
    NotDirectory(PathBuf),
    /// Another user made it.
    #[error("{} belongs to {}", shown_path(path), shown(*owner))]
    Owner { path: PathBuf, owner: u32 },
    /// Others can reach into it.
    #[error("{} has mode {mode:04o}, so other users can reach the socket", shown_path(path))]
    Open { path: PathBuf, mode: u32 },
    /// A read-only or full file system, or a missing parent.
    #[error("cannot create {}", shown_path(path))]
    Create { path: PathBuf, source: io::Error },
    /// A socket's address holds 107 bytes.
    #[error("the socket path {} is longer than {SUN_PATH} bytes", shown_path(.0))]
    TooLong(PathBuf),
}

impl Fault for PathFault {
    fn kind(&self) -> Kind {
        Kind::Local
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Link(path) | Self::NotDirectory(path) => {
                format!("remove {} and try again", shown_path(path))
            }
            Self::Owner { path, .. } => {
                format!("remove {} or point XDG_RUNTIME_DIR at a directory of your own", shown_path(path))
            }
            Self::Open { path, .. } => {
                format!("look at what is in {}, then run `chmod 0700` on it", shown_path(path))
            }
            Self::Create { .. } => "point XDG_RUNTIME_DIR at a writable directory of your own".to_owned(),
            Self::TooLong(_) => "give a shorter path".to_owned(),
        })
    }
}

/// The directories of this user.
#[derive(Debug, Clone)]
pub struct Paths {
    /// `config.toml` lives here; absent where there is no home.
    pub configuration: Option<PathBuf>,
    /// The stored logins, and the log of a daemon that started by itself.
    pub state: Option<PathBuf>,
    /// Holds the sockets and the lock.
    pub runtime: PathBuf,
    /// Where gcloud keeps its files.
    pub gcloud: Option<PathBuf>,
}

impl Paths {
    #[must_use]
    pub fn new(environment: &Environment) -> Self {
        // `directories` reads HOME and the XDG variables itself, and asks the user database where HOME is unset.
        let project = ProjectDirs::from("", "", "valetkey");
        let configuration = project.as_ref().map(|dirs| dirs.config_dir().to_owned());
        let state = project.as_ref().map(|dirs| dirs.state_dir().unwrap_or(dirs.data_local_dir()).to_owned());
        let gcloud = environment
            .path("CLOUDSDK_CONFIG")
            .or_else(|| directories::BaseDirs::new().map(|dirs| dirs.home_dir().join(".config/gcloud")));
        Self { configuration, state, runtime: runtime_directory(environment), gcloud }
    }

    /// The owner's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime.join(SOCKET)
    }

    /// Held by the one daemon of this user.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.runtime.join(LOCK)
    }

    /// The log of a daemon that started by itself.
    #[must_use]
    pub fn log(&self) -> Option<PathBuf> {
        self.state.as_ref().map(|state| state.join("daemon.log"))
    }
}

/// `$XDG_RUNTIME_DIR/valetkey`, else `/run/user/UID/valetkey`, else a directory of this user in the place for
/// temporary files. A runtime directory that belongs to somebody else (as `sudo` leaves it) is passed over, and
/// so is one that would make the socket's path too long.
fn runtime_directory(environment: &Environment) -> PathBuf {
    let uid = sys::own_uid();
    let temporary =
        environment.path("TMPDIR").filter(|path| path.is_absolute()).unwrap_or_else(|| "/tmp".into());
    let announced = environment.path("XDG_RUNTIME_DIR").filter(|path| path.is_absolute());
    let candidates =
        announced.map_or_else(|| vec![PathBuf::from(format!("/run/user/{uid}"))], |path| vec![path]);
    candidates
        .into_iter()
        .inspect(|path| touch(path))
        .filter(|path| path.metadata().is_ok_and(|data| data.is_dir() && is_own_path(path, &data)))
        .map(|path| path.join("valetkey"))
        .chain([temporary.join(format!("valetkey-{uid}"))])
        .find(|path| fits_socket(&path.join(LONGEST)))
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/valetkey-{uid}")))
}

/// Whether a path fits into the address of a Unix socket.
#[must_use]
pub fn fits_socket(path: &Path) -> bool {
    path.as_os_str().len() <= SUN_PATH
}

/// Makes a directory with mode 0700, or checks that the one that is there is private to this user.
///
/// # Errors
/// When it is a link, another user's, open to others, or cannot be made.
pub fn ensure_private(path: &Path) -> Result<(), PathFault> {
    match check_private(path) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let made = DirBuilder::new().mode(0o700).create(path);
            match made {
                // Somebody else may have been quicker: what counts is what is there now.
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(PathFault::Create { path: path.to_owned(), source: error })
                }
                _ => check_private(path).map(drop),
            }
        }
        Err(fault) => Err(fault),
    }
}

/// Whether a private directory is there; a directory that others could have prepared is a fault.
///
/// # Errors
/// As [`ensure_private`].
pub fn check_private(path: &Path) -> Result<bool, PathFault> {
    touch(path);
    let data = match fs::symlink_metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(PathFault::Create { path: path.to_owned(), source: error }),
    };
    let path = path.to_owned();
    if data.file_type().is_symlink() {
        Err(PathFault::Link(path))
    } else if !data.is_dir() {
        Err(PathFault::NotDirectory(path))
    } else if !is_own_path(&path, &data) {
        Err(PathFault::Owner { owner: data.uid(), path })
    } else if data.mode() & 0o077 != 0 {
        Err(PathFault::Open { path, mode: data.mode() & 0o7777 })
    } else {
        Ok(true)
    }
}

/// Whether what was found at a path belongs to this user. Where an owner may be anybody it has to let itself be opened as
/// only its owner can.
#[must_use]
pub fn is_own_path(path: &Path, data: &fs::Metadata) -> bool {
    if !is_anybody(data.uid()) {
        return data.uid() == sys::own_uid();
    }
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits()).unwrap_or_default();
    let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    opened.is_ok_and(|file| {
        let same = |now: fs::Metadata| (now.dev(), now.ino()) == (data.dev(), data.ino());
        file.metadata().is_ok_and(same) && is_own_file(&file, data.uid())
    })
}

/// The text of a small regular file. A named pipe would make us wait for its writer, a device for ever.
///
/// # Errors
/// When it is missing, unreadable, something else than a file, or larger than `largest` bytes.
pub fn read_regular(path: &Path, largest: u64) -> io::Result<String> {
    let file = open_regular(path, false)?;
    let mut text = String::with_capacity(4096);
    // One byte more than allowed tells a file that is too large from one that just fits.
    (&file).take(largest + 1).read_to_string(&mut text)?;
    if text.len() as u64 > largest { Err(io::Error::other("it is too large")) } else { Ok(text) }
}

/// Opens a regular file for reading, without waiting; `strict` refuses a link in its place.
///
/// # Errors
/// When it is missing, unreadable, or something else than a file.
pub fn open_regular(path: &Path, strict: bool) -> io::Result<fs::File> {
    let mut flags = OFlags::NONBLOCK;
    flags.set(OFlags::NOFOLLOW, strict);
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    touch(path);
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::Error::other("it is a directory"));
    }
    if kind.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// What a look at a file gave, with nothing where there is no such file. A link that leads nowhere, a file in the place of
/// its directory, and a directory that does not let us look are none of that: what was put there is meant to count.
///
/// # Errors
/// When it is there and cannot be had, or might be.
pub fn without_absent<T>(path: &Path, found: io::Result<T>) -> io::Result<Option<T>> {
    let error = match found {
        Ok(found) => return Ok(Some(found)),
        Err(error) => error,
    };
    if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        return Err(error);
    }
    // The nearest thing that is there says why the rest is not.
    let Some((above, link)) =
        path.ancestors().find_map(|above| Some((above, fs::symlink_metadata(above).ok()?)))
    else {
        return Ok(None);
    };
    match fs::metadata(above) {
        Err(_) if link.is_symlink() => {
            Err(io::Error::other(format!("the link {} leads nowhere", shown_path(above))))
        }
        // Not where a home is none: `/dev/null`, for many a service.
        Ok(data) if !data.is_dir() && Some(above) == path.parent() => Err(error),
        _ => Ok(None),
    }
}

/// An absolute path, taken from the working directory of the process that was given it. `..` stays: links decide
/// what it means.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The name under which this program was called.
#[must_use]
pub fn called_name(first_argument: Option<&OsStr>) -> &[u8] {
    first_argument.and_then(|argument| Path::new(argument).file_name()).map_or(b"", OsStrExt::as_bytes)
}

/// The name of the owner's socket.
pub const SOCKET: &str = "valetkey.sock";
/// The name of the lock beside it, which holds the note of the daemon.
pub const LOCK: &str = "daemon.lock";
/// Where a system unit listens.
pub const SYSTEM_SOCKET: &str = "/run/valetkey/valetkey.sock";
/// The longest name that will ever stand in the directory.
const LONGEST: &str = "build-0123456789abcdef.sock";
/// `sun_path` without its final NUL: 108 on Linux, 104 on the BSDs and macOS.
const SUN_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn directory_is_made_private_and_accepted_again() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("valetkey");
        assert!(!check_private(&path).unwrap());
        ensure_private(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        ensure_private(&path).unwrap();
    }

    #[test]
    fn open_directory_link_and_file_are_refused() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("valetkey");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(ensure_private(&path), Err(PathFault::Open { mode: 0o777, .. })));
        let link = top.path().join("link");
        std::os::unix::fs::symlink(top.path(), &link).unwrap();
        assert!(matches!(ensure_private(&link), Err(PathFault::Link(_))));
        let file = top.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(ensure_private(&file), Err(PathFault::NotDirectory(_))));
    }

    #[test]
    fn what_was_put_there_and_cannot_be_had_does_not_count_as_absent() {
        use std::os::unix::fs::symlink;
        let top = tempfile::tempdir().unwrap();
        let at = |below: &str| top.path().join(below);
        let absent = |below: &str| without_absent(&at(below), fs::read_to_string(at(below)));
        fs::create_dir(at("real")).unwrap();
        fs::write(at("file"), "text").unwrap();
        symlink(at("real"), at("directory")).unwrap();
        symlink(at("gone"), at("link")).unwrap();
        symlink(at("loop"), at("loop")).unwrap();
        assert_eq!(absent("file").unwrap().as_deref(), Some("text"));
        for nothing in
            ["none", "none/config.toml", "directory/config.toml", "directory/a/config.toml", "file/a/b"]
        {
            assert!(matches!(absent(nothing), Ok(None)), "{nothing}");
        }
        for wrong in
            ["link", "link/config.toml", "link/a/config.toml", "file/config.toml", "loop", "real", "loop/x"]
        {
            assert!(absent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn long_runtime_directory_is_passed_over() {
        let top = tempfile::tempdir().unwrap();
        let long = top.path().join("x".repeat(100));
        fs::create_dir(&long).unwrap();
        let environment: Environment = [("XDG_RUNTIME_DIR", long.as_os_str())].into_iter().collect();
        assert!(fits_socket(&runtime_directory(&environment).join(LONGEST)));
    }
}
