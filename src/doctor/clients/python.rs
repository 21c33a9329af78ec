//! A Python is asked about itself: its pip, and whom its package `keyring` asks.
//!
//! It runs in a directory where nothing lies, because a Python imports what it finds in its own; otherwise as the client
//! would run it, with the variables and the user's packages that count for that.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Asker, NOWHERE, Silence};
use crate::environment::is_executable;
use crate::error::printable;
use crate::wiring::keyring::Package;

/// What a Python says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Python {
    /// Where its environment is.
    pub(super) prefix: PathBuf,
    pub(super) scripts: PathBuf,
    /// The version of its pip.
    pub(super) pip: Option<String>,
    /// Whether there is a package `keyring`.
    keyring: bool,
}

#[derive(Deserialize)]
struct Backends {
    #[serde(default)]
    fault: Option<String>,
    #[serde(default)]
    backends: Vec<String>,
}

impl Python {
    pub(super) async fn ask(asker: &Asker<'_>, program: &Path) -> Result<Self, Silence> {
        let said = asker.ask(program, &["-c", ITSELF], Some(Path::new(NOWHERE))).await?;
        last_line(&said).ok_or(Silence::Failed)
    }

    /// Whom the package asks. That is a question of its own: backends may wait for a desktop.
    pub(super) async fn package(&self, asker: &Asker<'_>, program: &Path) -> Package {
        if !self.keyring {
            return Package::Missing;
        }
        let said = asker.ask(program, &["-c", BACKENDS], Some(Path::new(NOWHERE))).await;
        match said.ok().and_then(|said| last_line::<Backends>(&said)) {
            None => Package::Silent,
            Some(Backends { fault: Some(class), .. }) => Package::Broken(short(&class)),
            Some(Backends { backends, .. }) => {
                Package::Asks(backends.iter().take(MOST_BACKENDS).map(|module| short(module)).collect())
            }
        }
    }
}

/// The package in the Python that a client runs in.
pub(super) async fn package_of(asker: &Asker<'_>, client: &Path) -> Option<Result<Package, Silence>> {
    let program = interpreter(client)?;
    Some(match Python::ask(asker, &program).await {
        Ok(python) => Ok(python.package(asker, &program).await),
        Err(silence) => Err(silence),
    })
}

/// The Python in the first line of a script, as pip and others write it beside their packages.
pub(super) fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut beginning = Vec::new();
    File::open(script).ok()?.take(LONGEST_LINE).read_to_end(&mut beginning).ok()?;
    let text = String::from_utf8_lossy(&beginning).into_owned();
    let mut lines = text.lines();
    let first = lines.next()?.strip_prefix("#!")?.trim();
    let is_python = |path: &Path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        (name.starts_with("python") || name.starts_with("pypy")) && path.is_absolute() && is_executable(path)
    };
    let named = PathBuf::from(first.split(' ').next().unwrap_or_default());
    if is_python(&named) {
        return Some(named);
    }
    // Where that path is too long for a kernel: a shell that does nothing but `exec` it.
    let quoted = lines.next()?.strip_prefix("'''exec' ")?;
    let path = PathBuf::from(quoted.trim_start_matches('"').split('"').next()?.trim_end());
    is_python(&path).then_some(path)
}

fn last_line<T: for<'a> Deserialize<'a>>(said: &str) -> Option<T> {
    // What a `sitecustomize` prints comes before it.
    serde_json::from_str(said.lines().last()?).ok()
}

fn short(name: &str) -> String {
    printable(name).chars().take(80).collect()
}

const ITSELF: &str = "\
import json, sys, sysconfig
try:
    from importlib.metadata import version
    pip = version('pip')
except Exception:
    pip = None
try:
    from importlib.util import find_spec
    found = find_spec('keyring') is not None
except Exception:
    found = False
print()
print(json.dumps({'prefix': sys.prefix, 'scripts': sysconfig.get_path('scripts'), 'pip': pip, 'keyring': found}))";
const BACKENDS: &str = "\
import json
try:
    import keyring
    ring = keyring.get_keyring()
    said = {'backends': [type(one).__module__ for one in getattr(ring, 'backends', [ring])]}
except Exception as error:
    said = {'fault': type(error).__name__}
print()
print(json.dumps(said))";
const MOST_BACKENDS: usize = 8;
const LONGEST_LINE: u64 = 1024;
