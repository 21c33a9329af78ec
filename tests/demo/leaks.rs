//! Looks for secrets where they do not belong: in every file of the demo's home, and in the command lines of the
//! programs that ran in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// Secrets in every form in which they might turn up.
#[derive(Debug)]
pub(crate) struct Hunt {
    /// By their first two bytes: the home holds all of pip, and most positions are passed over by one look.
    needles: Vec<Vec<Vec<u8>>>,
    pub(crate) files: usize,
    pub(crate) found: Vec<String>,
}

impl Hunt {
    pub(crate) fn new(secrets: &[String]) -> Self {
        let mut needles = vec![Vec::new(); 1 << 16];
        for form in secrets.iter().flat_map(|secret| forms(secret)) {
            if let Some(bucket) = form.first_chunk().and_then(|pair| needles.get_mut(pair_index(*pair))) {
                bucket.push(form);
            }
        }
        Self { needles, files: 0, found: Vec::new() }
    }

    /// Searches a directory and what is below it, but for some places. Links are not followed.
    pub(crate) fn search_directory(&mut self, directory: &Path, but: &[PathBuf]) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                _ if but.contains(&path) => {}
                Ok(kind) if kind.is_dir() => self.search_directory(&path, but),
                Ok(kind) if kind.is_file() => {
                    self.files += 1;
                    match fs::read(&path) {
                        Ok(bytes) => self.search(&path.display().to_string(), &bytes),
                        // What cannot be read has not been searched.
                        Err(error) => self.found.push(format!("{} (unread: {error})", path.display())),
                    }
                }
                _ => {}
            }
        }
    }

    pub(crate) fn search(&mut self, place: &str, bytes: &[u8]) {
        let hit = (0..bytes.len().saturating_sub(1)).any(|at| {
            let pair = pair_index([bytes[at], bytes[at + 1]]);
            let bucket = &self.needles[pair];
            !bucket.is_empty() && bucket.iter().any(|needle| bytes[at..].starts_with(needle))
        });
        if hit {
            self.found.push(place.to_owned());
        }
    }
}

fn pair_index(pair: [u8; 2]) -> usize {
    usize::from(u16::from_be_bytes(pair))
}

/// As it is, and as the inside of a base64 text at each of its three offsets.
fn forms(secret: &str) -> impl Iterator<Item = Vec<u8>> {
    let encoded = (0..3).filter_map(|offset| {
        let inside = secret.as_bytes().get(offset..)?;
        let whole = inside.get(..inside.len() / 3 * 3)?;
        Some(STANDARD_NO_PAD.encode(whole).into_bytes())
    });
    std::iter::once(secret.as_bytes().to_vec()).chain(encoded)
}

/// Collects, from `/proc`, the command lines that hold a text.
#[derive(Debug)]
pub(crate) struct Watch {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<BTreeSet<Vec<u8>>>>,
}

impl Watch {
    pub(crate) fn start(text: String) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let collect = move || {
            let mut seen = BTreeSet::new();
            while !end.load(Ordering::Relaxed) {
                for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                    let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
                    if String::from_utf8_lossy(&line).contains(&text) {
                        seen.insert(line);
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            seen
        };
        Self { ended, thread: std::thread::Builder::new().spawn(collect).ok() }
    }

    pub(crate) fn end(mut self) -> BTreeSet<Vec<u8>> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}
