//! The process environment, read once at the start and handed down.
//!
//! Nothing else in the crate looks at a variable, so that a test sees just what it gave. Two libraries do: the
//! one for directories (`HOME`, `XDG_*`) and the one for root certificates (`SSL_CERT_FILE`, `SSL_CERT_DIR`).
//!
//! Inside of `valetkey exec` it is the environment of before ([`before`]), for the whole process and its children; only
//! what `exec` itself starts, and who asks for what a shell in there sees, gets the one that was given.

pub mod before;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::sys;

use crate::sys::worker::touch;

/// A snapshot of the environment.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: before::Variables,
    /// What this process was given in the place of what it has.
    given: before::Changes,
}

/// Gives this process the environment that there was before `valetkey exec` wired its command: a daemon, a browser, a
/// request to Google outlive the run or are none of its business. Once, before there is a second thread.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub fn restore() {
    let given: before::Variables = std::env::vars_os().collect();
    let changes = before::undo(&given);
    if !changes.is_empty() {
        sys::change_environment(&changes);
        let names = changes.into_keys().filter(|name| name != before::RECORD);
        let _ = GIVEN.set(names.map(|name| (name.clone(), given.get(&name).cloned())).collect());
    }
}

static GIVEN: OnceLock<before::Changes> = OnceLock::new();

impl Environment {
    /// Reads the environment of this process.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
    pub fn capture() -> Self {
        Self { variables: std::env::vars_os().collect(), given: GIVEN.get().cloned().unwrap_or_default() }
    }

    /// What a shell sees that runs where we were started: inside of `valetkey exec`, what that has wired.
    #[must_use]
    pub fn as_given(&self) -> Self {
        let mut variables = self.variables.clone();
        change(&mut variables, self.given());
        Self { variables, given: before::Changes::new() }
    }

    /// What was given in the place of what is here: nothing for what was not there.
    pub fn given(&self) -> impl Iterator<Item = (&OsStr, Option<&OsStr>)> {
        self.given.iter().map(|(name, value)| (name.as_os_str(), value.as_deref()))
    }

    /// The record of what `changes` make of what was given, for [`restore`] in whatever they are made for.
    #[must_use]
    pub fn record<'a>(&self, changes: impl IntoIterator<Item = (&'a OsStr, Option<&'a OsStr>)>) -> OsString {
        let mut after = self.as_given().variables;
        change(&mut after, changes);
        before::write(&self.variables, &after)
    }

    /// The value of a variable; an empty value counts as unset, as it does for the programs we stand in for.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
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

    /// A path as the programs read it that open `~/` themselves.
    #[must_use]
    pub fn below_home(&self, path: PathBuf) -> PathBuf {
        match (path.strip_prefix("~"), self.path("HOME")) {
            (Ok(below), Some(home)) => home.join(below),
            _ => path,
        }
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
        self.variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let variables = pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, given: before::Changes::new() }
    }
}

fn change<'a>(
    variables: &mut before::Variables,
    changes: impl IntoIterator<Item = (&'a OsStr, Option<&'a OsStr>)>,
) {
    for (name, value) in changes {
        match value {
            Some(value) => variables.insert(name.to_owned(), value.to_owned()),
            None => variables.remove(name),
        };
    }
}

/// Whether this is a file that somebody may execute.
#[must_use]
pub fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    touch(file);
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
