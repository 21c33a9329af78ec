//! The process environment, read once at the start and handed down.
//!
//! Nothing else in the crate looks at a variable, so that a test sees just what it gave. Two libraries do: the
//! one for directories (`HOME`, `XDG_*`) and the one for root certificates (`SSL_CERT_FILE`, `SSL_CERT_DIR`).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::sys::worker::touch;

/// A snapshot of the environment.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Reads the environment of this process.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn capture() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// The value of a variable; an empty value counts as unset, as it does for the programs we stand in for.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// The value as text; a value that is not UTF-8 counts as unset.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(OsStr::to_str)
    }

    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// The directories of `PATH` in order, without the relative ones: a program is never taken from the working
    /// directory.
    pub fn search_path(&self) -> impl Iterator<Item = PathBuf> {
        let path = self.get("PATH").unwrap_or_default();
        std::env::split_paths(path).filter(|entry| entry.is_absolute()).collect::<Vec<_>>().into_iter()
    }

    /// The first executable file of this name on `PATH`.
    #[must_use]
    pub fn find_program(&self, name: &str) -> Option<PathBuf> {
        self.search_path().map(|directory| directory.join(name)).find(|file| is_executable(file))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Whether this is a file that somebody may execute.
#[must_use]
pub fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    touch(file);
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
