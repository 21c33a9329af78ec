//! The leak hunt: searches files, also inside of archives, for secrets in every form in which they might turn up.
//!
//! What cannot be read has not been searched, and counts as found. Whoever hunts should first see the hunt find
//! something: a search that cannot fail proves nothing.

#![allow(dead_code, unreachable_pub, reason = "each target uses a part")]
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use flate2::read::MultiGzDecoder;

/// Where to look.
#[derive(Debug)]
pub enum Place {
    /// A file, or a directory and all that is below it. Links are not followed.
    Path(PathBuf),
    /// What a program said, or an answer.
    Text(String, Vec<u8>),
}

/// Searches all of it; what comes back says where a secret is, with the first letters of the secret.
#[must_use]
pub fn hunt<T: AsRef<str>>(places: &[Place], secrets: &[T]) -> Vec<String> {
    hunt_since(0, places, secrets)
}

/// The same, but for files that nobody has changed since the secrets came to be: they cannot hold one. An engine keeps
/// the whole of every base image, and is searched after each build. In seconds, as the file system counts them.
#[must_use]
pub fn hunt_since<T: AsRef<str>>(since: i64, places: &[Place], secrets: &[T]) -> Vec<String> {
    let mut hunt = Hunt::new(secrets);
    hunt.since = since;
    for place in places {
        match place {
            Place::Path(path) => hunt.search_path(path, &[]),
            Place::Text(name, bytes) => hunt.search(name, bytes),
        }
    }
    hunt.found
}

/// A hunt for a set of secrets.
pub struct Hunt {
    automaton: AhoCorasick,
    /// What each pattern of the automaton betrays.
    betrays: Vec<String>,
    /// How many files were read, those in archives included.
    pub files: usize,
    pub found: Vec<String>,
    since: i64,
}

impl Hunt {
    pub fn new<T: AsRef<str>>(secrets: &[T]) -> Self {
        let (mut patterns, mut betrays) = (Vec::new(), Vec::new());
        for secret in secrets.iter().map(AsRef::as_ref).filter(|secret| secret.len() >= SHORTEST) {
            for form in forms(secret) {
                patterns.push(form);
                betrays.push(secret.chars().take(6).collect());
            }
        }
        let automaton = AhoCorasick::new(patterns).expect("patterns of some kilobytes");
        Self { automaton, betrays, files: 0, found: Vec::new(), since: 0 }
    }

    /// Searches a file, or a directory and what is below it, but for some paths.
    pub fn search_path(&mut self, path: &Path, but: &[PathBuf]) {
        if but.iter().any(|but| path == but) {
            return;
        }
        let name = path.display().to_string();
        self.match_bytes(&format!("the name {name}"), path.as_os_str().as_bytes());
        let outcome = path.symlink_metadata().and_then(|data| {
            if data.is_dir() {
                for entry in fs::read_dir(path)? {
                    self.search_path(&entry?.path(), but);
                }
            } else if data.is_symlink() {
                self.match_bytes(&name, fs::read_link(path)?.as_os_str().as_bytes());
            } else if data.is_file() && data.ctime() + COARSE >= self.since {
                self.search(&name, &fs::read(path)?);
            }
            Ok(())
        });
        match outcome {
            // An engine tidies up while it is looked at; what is gone betrays nothing.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => self.found.push(format!("{name} (unread: {error})")),
            Ok(()) => {}
        }
    }

    /// Searches bytes, and where they are an archive also what is in it.
    pub fn search(&mut self, place: &str, bytes: &[u8]) {
        self.files += 1;
        self.match_bytes(place, bytes);
        if bytes.starts_with(b"\x1f\x8b") {
            let mut inside = Vec::new();
            let whole = MultiGzDecoder::new(bytes).read_to_end(&mut inside);
            self.search(&format!("{place} (unpacked)"), &inside);
            // Padding behind a compressed file is nothing; a file that only begins like one was searched as it is.
            if let (Err(error), false) = (whole, inside.is_empty()) {
                self.found.push(format!("{place} (broken off: {error})"));
            }
        } else if bytes.get(257..262) == Some(b"ustar") {
            // Its files were searched with the whole; what is packed in them was not.
            self.search_tar(place, bytes);
        }
    }

    fn search_tar(&mut self, place: &str, bytes: &[u8]) {
        let mut archive = tar::Archive::new(bytes);
        for entry in archive.entries().into_iter().flatten().flatten() {
            let at = usize::try_from(entry.raw_file_position()).unwrap_or(usize::MAX);
            let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
            let inside = bytes.get(at..at.saturating_add(size)).unwrap_or_default();
            if inside.starts_with(b"\x1f\x8b") || inside.get(257..262) == Some(b"ustar") {
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                self.search(&format!("{place}: {name}"), inside);
            } else {
                self.files += 1;
            }
        }
    }

    pub fn match_bytes(&mut self, place: &str, bytes: &[u8]) {
        if let Some(hit) = self.automaton.find(bytes) {
            self.found.push(format!("{place} holds {}…", self.betrays[hit.pattern().as_usize()]));
        }
    }
}

impl std::fmt::Debug for Hunt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hunt").field("files", &self.files).field("found", &self.found).finish_non_exhaustive()
    }
}

/// A secret as it might turn up: as it is, as the inside of a base64 text of either alphabet at each of its three
/// offsets, in hex of either case, and as a URL or a form encodes it.
#[must_use]
pub fn forms(secret: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![secret.as_bytes().to_vec()];
    for offset in 0..3 {
        let inside = secret.as_bytes().get(offset..).unwrap_or_default();
        let whole = &inside[..inside.len() / 3 * 3];
        forms.push(STANDARD_NO_PAD.encode(whole).into_bytes());
        forms.push(URL_SAFE_NO_PAD.encode(whole).into_bytes());
    }
    let in_hex = |upper: bool, before: &str, keep: fn(u8) -> bool| {
        let mut text = String::new();
        for byte in secret.bytes() {
            let _ = match (keep(byte), upper) {
                (true, _) => write!(text, "{}", char::from(byte)),
                (false, true) => write!(text, "{before}{byte:02X}"),
                (false, false) => write!(text, "{before}{byte:02x}"),
            };
        }
        text.into_bytes()
    };
    for upper in [true, false] {
        forms.push(in_hex(upper, "", |_| false));
        forms.push(in_hex(upper, "%", |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)));
    }
    forms.push(secret.replace('/', "\\/").into_bytes());
    forms.sort();
    forms.dedup();
    // At an odd length, an offset can leave next to nothing of a short secret.
    forms.retain(|form| form.len() >= SHORTEST);
    forms
}

/// File systems count time in steps of their own.
const COARSE: i64 = 2;
/// What is shorter is found everywhere.
const SHORTEST: usize = 12;
