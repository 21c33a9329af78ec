//! Where the directories of runs may lie: where nobody else can take over a name when the run is over. What outlives a run
//! keeps the names of its files in its environment, and would trust whatever lies there next, certificates among it.
//!
//! A user's runtime directory and root's `/run` are such places. In a directory that is everybody's (`/dev/shm`) a directory
//! of this user's stays for good, empty between the runs: nobody but its owner can make anything in it, or move it away.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::paths::is_own_path;
use crate::sys;

/// The places, the best first.
pub(super) fn candidates(environment: &Environment) -> Vec<PathBuf> {
    let runtime = environment.path("XDG_RUNTIME_DIR").filter(|path| path.is_absolute());
    let own = runtime.into_iter().chain([PathBuf::from("/run")]);
    let shared = ["/dev/shm", "/tmp"].map(PathBuf::from);
    own.filter(|path| is_own(path)).chain(shared).collect()
}

/// The directory of this user's in one that is everybody's, which is made where there is none; any other one as it is.
pub(super) fn within(directory: &Path) -> io::Result<PathBuf> {
    if is_own(directory) {
        return Ok(directory.to_owned());
    }
    let prefix = format!("{PREFIX}{}-", sys::own_uid());
    let entries = fs::read_dir(directory)?.flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    if let Some(found) = named.map(|entry| entry.path()).find(|path| is_own(path)) {
        return Ok(found);
    }
    let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(directory)?;
    // Those that root's run serves pass through to the run's own, whatever the umask says; nobody can list it.
    fs::set_permissions(made.path(), Permissions::from_mode(0o711))?;
    Ok(made.keep())
}

/// Whether nobody but this user can make something in a directory, which is no link.
fn is_own(path: &Path) -> bool {
    let data = path.symlink_metadata();
    data.is_ok_and(|data| data.is_dir() && is_own_path(path, &data) && data.mode() & 0o022 == 0)
}

/// Behind it come the uid and something that nobody could have taken before.
const PREFIX: &str = "valetkey-of-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_of_this_user_stays_in_one_that_is_everybodys() {
        let top = tempfile::tempdir().unwrap();
        fs::set_permissions(top.path(), Permissions::from_mode(0o700)).unwrap();
        assert_eq!(within(top.path()).unwrap(), top.path());
        fs::set_permissions(top.path(), Permissions::from_mode(0o1777)).unwrap();
        // What others could have prepared is not used.
        let link = top.path().join(format!("{PREFIX}{}-link", sys::own_uid()));
        std::os::unix::fs::symlink("/", link).unwrap();
        let open = top.path().join(format!("{PREFIX}{}-open", sys::own_uid()));
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        let own = within(top.path()).unwrap();
        assert_eq!(own.metadata().unwrap().mode() & 0o7777, 0o711);
        assert_ne!(own, open);
        assert_eq!(within(top.path()).unwrap(), own);
    }
}
