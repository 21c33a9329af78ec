//! Files that a power failure leaves whole: the old content or the new one, never a part of either.
//!
//! A file is written under a temporary name in its own directory, synced, renamed over the old one, and then the
//! directory is synced. It is created with mode 0600; nobody else can read it at any moment.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::sys::worker::touch;

/// Puts new content in the place of a file. On an error the old content stays.
///
/// # Errors
/// When the file system does not take it.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    put(path, content).map(drop)
}

/// The same, and the file that is there now, whatever another program may put into its place a moment later.
///
/// # Errors
/// As above.
pub fn put(path: &Path, content: &[u8]) -> io::Result<File> {
    let directory = parent(path)?;
    let mut new = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory).map_err(bare)?;
    new.write_all(content)?;
    new.as_file().sync_all()?;
    let file = new.persist(path).map_err(|error| error.error)?;
    sync(directory)?;
    Ok(file)
}

/// Removes a file for good. That it is not there is no error.
///
/// # Errors
/// When the file system does not let it go.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync(parent(path)?),
    }
}

/// Makes a directory for good, with the ones above it, each with mode 0700. What is there already stays as it is.
///
/// # Errors
/// When the file system does not take it, or something else is in its place.
pub fn create_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path)?;
    create_directory(above)?;
    match DirBuilder::new().mode(0o700).create(path) {
        // Somebody else may have been quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync(above),
    }
}

/// Without the temporary name, which says nothing to a person: whoever tells of it names the file that was meant.
fn bare(error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() { error } else { error.kind().into() }
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::other("it has no directory"))
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Opens the file of a lock, or makes it, without waiting for anybody. A pipe in its place would wait for its other end,
/// and a link lead elsewhere.
///
/// # Errors
/// When the file system does not take it, or something else is in its place.
pub fn open_lock(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    touch(path);
    let file = options.open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Takes the lock of an open file, waiting up to `patience` for whoever holds it. False where that one kept it. The
/// lock ends with the file, or with the process.
///
/// # Errors
/// When the file system knows no locks.
pub fn lock_within(file: &File, patience: Duration) -> io::Result<bool> {
    let give_up = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= give_up => return Ok(false),
            Err(TryLockError::WouldBlock) => std::thread::sleep(STEP),
        }
    }
}

/// How often a lock is looked at: nothing tells when it falls.
const STEP: Duration = Duration::from_millis(10);
/// What a crash leaves behind begins with this.
pub const TEMPORARY: &str = ".new-";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_error_says_what_is_wrong_and_no_name_that_nobody_knows() {
        let top = tempfile::tempdir().unwrap();
        let error = replace(&top.path().join("missing/file"), b"new").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!error.to_string().contains(TEMPORARY), "{error}");
    }

    #[test]
    fn content_is_replaced_whole_and_for_the_owner_only() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("file");
        std::fs::write(&path, "old and longer").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(top.path()).unwrap().count(), 1, "nothing else is left");
        remove(&path).unwrap();
        remove(&path).unwrap();
    }

    #[test]
    fn a_lock_is_a_file_and_nothing_that_makes_anybody_wait() {
        let top = tempfile::tempdir().unwrap();
        let [pipe, link, file] = ["pipe", "link", "file"].map(|name| top.path().join(name));
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&pipe, &link, &top.path().to_owned()] {
            assert!(open_lock(path).is_err(), "{}", path.display());
        }
        assert!(lock_within(&open_lock(&file).unwrap(), Duration::ZERO).unwrap());
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn directories_are_made_for_the_owner_only_and_left_as_they_are() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("one/two");
        create_directory(&path).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o700, 0o700));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        create_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o755);
        std::fs::write(top.path().join("file"), "").unwrap();
        assert!(create_directory(&top.path().join("file/below")).is_err());
    }
}
