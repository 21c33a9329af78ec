//! What `tests/prepare-engines` and `packaging/build-static` made.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A file below the engines' directory; `None` where it was not made, which is a failure where `CI=true`.
pub(crate) fn find(below: &str) -> Option<PathBuf> {
    let path = directory().join(below);
    if path.exists() {
        return Some(path);
    }
    skip(&format!("there is no {}: run tests/prepare-engines", path.display()));
    None
}

/// Engines keep their layers below it: a temporary directory may be memory, or too small.
pub(crate) fn directory() -> PathBuf {
    std::env::var_os("VALETKEY_TEST_ENGINES").map_or_else(|| root().join("target/engines"), PathBuf::from)
}

/// The static program, which must be of this source.
pub(crate) fn static_program() -> Option<PathBuf> {
    let path = root().join("target/static/dev/valetkey");
    let remedy = "run packaging/build-static dev --features sandbox";
    let Ok(built) = path.metadata().and_then(|data| data.modified()) else {
        skip(&format!("there is no {}: {remedy}", path.display()));
        return None;
    };
    let newest = ["src", "Cargo.toml", "Cargo.lock"].map(|below| newest(&root().join(below)));
    assert!(
        newest.iter().all(|changed| *changed <= built),
        "{} is older than its source: {remedy}",
        path.display()
    );
    Some(path)
}

/// Whether engines can run here at all.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("container engines need root here");
    }
    root
}

/// Says why a test is not run. Where everything has to be there, that is a failure.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{reason}");
    eprintln!("skipped: {reason}");
}

fn newest(path: &Path) -> SystemTime {
    let own = path.metadata().and_then(|data| data.modified()).expect("a file of the source");
    let below = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| newest(&entry.path()));
    // The time of a directory says that a name came or went, which the file beside it says as well.
    if path.is_dir() { below.max().unwrap_or(own) } else { own }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
