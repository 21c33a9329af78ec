//! A token in a file, written once or kept fresh: for builders that can mount a secret and no socket.
//!
//! Only its owner can read the file. It is written beside and renamed, so readers see a whole token or the one before,
//! and a full disk leaves what was there. The place of the file is never followed: a link or a device there is refused.
//! When keeping ends in order, the file goes, unless somebody else has put another one there; `kill -9` leaves a token
//! that dies within its hour.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::super::terminal;
use crate::client::fallback::runtime;
use crate::clock::{Clock, between};
use crate::durable;
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::paths::is_own_path;

/// Whether a token may be put there.
///
/// # Errors
/// When there is something that is no file of this user.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let wrong = |what: &str, hint: &str| {
        Err(Failure::new(Kind::Refused, format!("{} {what}", shown_path(path))).with_hint(hint))
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(cannot_write(path, error)),
        Ok(data) if data.is_symlink() => wrong("is a link", "name the file itself"),
        Ok(data) if !data.is_file() => wrong("is no file", "name another place, or remove it"),
        Ok(data) if !is_own_path(path, &data) => wrong("belongs to somebody else", "name another place"),
        Ok(_) => Ok(()),
    }
}

/// Puts a text there, for this user alone.
///
/// # Errors
/// When the file system does not take it.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    put(path, text).map(drop)
}

fn put(path: &Path, text: &str) -> Result<File, Failure> {
    check(path)?;
    durable::put(path, text.as_bytes()).map_err(|error| cannot_write(path, error))
}

/// Keeps there what `ask` gives, a text and when it expires, until a signal ends it. `begun` is called when it is there.
///
/// # Errors
/// When there is no token, or no room for it, at the beginning.
pub(super) fn keep(
    path: PathBuf,
    ask: impl Fn() -> Result<(String, SystemTime), Failure> + Send + Sync + 'static,
    begun: &dyn Fn(),
) -> Result<(), Failure> {
    let kept = Arc::new(Kept { path, state: Mutex::default() });
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::listen()
            .map_err(|error| Failure::new(Kind::Local, "cannot listen for signals").with_cause(error))?;
        tokio::select! {
            failed = freshen(&kept, Arc::new(ask), Clock::system(), begun) => Err(failed),
            () = signals.any() => Ok(()),
        }
    });
    kept.end();
    // A question that is still out need not be answered.
    runtime.shutdown_background();
    outcome
}

/// Ends with the first failure where that is the first of all.
async fn freshen(
    kept: &Arc<Kept>,
    ask: Arc<impl Fn() -> Result<(String, SystemTime), Failure> + Send + Sync + 'static>,
    clock: Clock,
    begun: &dyn Fn(),
) -> Failure {
    let (mut is_first, mut pause, mut told) = (true, SHORTEST, String::new());
    loop {
        let (kept_there, ask) = (Arc::clone(kept), Arc::clone(&ask));
        let once = crate::blocking::run(move || {
            let (text, expires) = ask()?;
            kept_there.put(&text).map(|()| expires)
        });
        let outcome = once.await.unwrap_or_else(|fault| Err(fault.into()));
        let failed = outcome.is_err();
        let wait = match outcome {
            Ok(expires) => {
                if is_first {
                    begun();
                } else if !told.is_empty() {
                    terminal::whisper("there is a new token again");
                }
                (is_first, pause) = (false, SHORTEST);
                told.clear();
                // A build that begins now gets one with half of its life at least, where its source allows it.
                (between(clock.now(), expires) / 2).max(SHORTEST)
            }
            Err(failure) if is_first => return failure,
            Err(failure) => {
                let line = failure.one_line();
                if told != line {
                    let state = if kept.is_there() { "the old token stays" } else { "there is no token" };
                    terminal::whisper(&format!("{state}: {line}"));
                    told = line;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
        };
        // By the wall clock: a machine that slept has an older token than its own clock says.
        let due = clock.now() + wait;
        loop {
            sleep(between(clock.now(), due).min(LOOK)).await;
            // Where there is no file, its directory may be gone or its disk full: that is no reason to ask at once.
            if clock.now() >= due || !(failed || kept.is_there()) {
                break;
            }
        }
    }
}

/// The file, while it is kept.
struct Kept {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// As it was when it was written.
    written: Option<Mark>,
    is_over: bool,
}

/// Which file it is: device, number, and when it was written.
type Mark = (u64, u64, i64, i64);

impl Kept {
    fn put(&self, text: &str) -> Result<(), Failure> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // A token that comes behind the end would stay.
        if !state.is_over {
            let file = put(&self.path, text)?;
            state.written = file.metadata().ok().as_ref().map(mark);
        }
        Ok(())
    }

    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok()
    }

    fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_over = true;
        if state.written.is_some()
            && state.written == fs::symlink_metadata(&self.path).ok().as_ref().map(mark)
            && let Err(error) = durable::remove(&self.path)
        {
            terminal::whisper(&format!("{} is still there: {error}", shown_path(&self.path)));
        }
    }
}

fn mark(data: &Metadata) -> Mark {
    (data.dev(), data.ino(), data.mtime(), data.mtime_nsec())
}

fn cannot_write(path: &Path, error: io::Error) -> Failure {
    Failure::new(Kind::Local, format!("cannot write {}", shown_path(path)))
        .with_cause(error)
        .with_hint("name a file in a directory of your own, with room in it")
}

/// What ends it.
struct Signals([Signal; 3]);

impl Signals {
    fn listen() -> io::Result<Self> {
        let [terminate, interrupt, hangup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        Ok(Self([terminate?, interrupt?, hangup?]))
    }

    async fn any(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often it is looked whether the file is still there and the clock went on.
const LOOK: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::clock::parse_rfc3339;

    #[tokio::test(start_paused = true)]
    async fn a_file_that_has_no_place_any_more_is_no_reason_to_ask_without_a_pause() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("gone");
        fs::create_dir(&directory).unwrap();
        let kept = Arc::new(Kept { path: directory.join("token"), state: Mutex::default() });
        let clock = Clock::following_tokio(parse_rfc3339("2026-01-02T03:04:05Z").unwrap());
        let (asked, expires) = (Arc::new(AtomicU32::new(0)), clock.now() + Duration::from_secs(3600));
        let count = Arc::clone(&asked);
        let ask = move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(("x".to_owned(), expires))
        };
        let start = Instant::now();
        let begun = || fs::remove_dir_all(&directory).unwrap();
        let _ = timeout(Duration::from_secs(300), freshen(&kept, Arc::new(ask), clock, &begun)).await;
        assert!(start.elapsed() >= Duration::from_secs(300));
        assert!((5..20).contains(&asked.load(Ordering::Relaxed)), "{asked:?}");
    }
}
