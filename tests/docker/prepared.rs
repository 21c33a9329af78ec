//! What `tests/prepare-engines` and `packaging/build-static` made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use tar::{EntryType, Header};

/// A file below the engines' directory; `None` where it was not made, which is a failure where `CI=true`.
pub(crate) fn find(below: &str) -> Option<PathBuf> {
    let path = directory().join(below);
    if path.exists() {
        return Some(path);
    }
    skip(&format!("there is no {}: run tests/prepare-engines", path.display()));
    None
}

/// Engines keep their layers below it: a temporary directory may be memory, or too small. Without links, as the kernel's
/// list of mounts has it, by which the guard tidies up.
pub(crate) fn directory() -> PathBuf {
    let named = std::env::var_os("VALETKEY_TEST_ENGINES");
    let directory = named.map_or_else(|| root().join("target/engines"), PathBuf::from);
    directory.canonicalize().unwrap_or(directory)
}

/// A small file system in Alpine's layout, as a tar: busybox under all its names, a user database, no C library. What
/// needs no Python is tested on it, since it is searched in no time.
pub(crate) fn small_system() -> Option<Vec<u8>> {
    let busybox = find("installed/busybox")?;
    let names = Command::new(&busybox).arg("--list").output().expect("busybox").stdout;
    let mut archive = tar::Builder::new(Vec::new());
    let header = |mode: u32, size: usize, kind: EntryType| {
        let mut header = Header::new_ustar();
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_entry_type(kind);
        header
    };
    let mut file = |name: &str, mode: u32, bytes: &[u8]| {
        archive.append_data(&mut header(mode, bytes.len(), EntryType::Regular), name, bytes).expect("a tar");
    };
    file("bin/busybox", 0o755, &fs::read(busybox).expect("busybox"));
    file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    );
    file("etc/group", 0o644, b"root:x:0:\nnobody:x:65534:\n");
    file("etc/alpine-release", 0o644, b"3.20.0\n");
    file("lib/apk/db/installed", 0o644, b"");
    for name in String::from_utf8_lossy(&names).lines().filter(|name| *name != "busybox") {
        let mut link = header(0o777, 0, EntryType::Symlink);
        archive.append_link(&mut link, format!("bin/{name}"), "busybox").expect("a tar");
    }
    archive.append_data(&mut header(0o1777, 0, EntryType::Directory), "tmp/", &[][..]).expect("a tar");
    Some(archive.into_inner().expect("a tar"))
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
