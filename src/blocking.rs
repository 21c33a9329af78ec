//! Work that may block, on a thread of its own.
//!
//! tokio has a pool for that, and it panics where its first thread cannot be had (`ulimit -u`, a container's limit of
//! processes). It also ends where enough of its threads wait for a file system that does not answer: then nobody
//! looks up a name any more. Here no thread is an error like any other, and for a path that has not answered nobody else
//! is sent to wait: whoever asks for it hears at once that it is silent, until it speaks again.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::error::shown::shown_path;
use crate::error::{Fault, Kind};

/// Why work that may block has not been done.
#[derive(Debug, Error)]
pub enum BlockingFault {
    /// A limit of processes, or of memory.
    #[error("no thread can be had")]
    NoThread(#[source] io::Error),
    /// Whatever is behind the path says nothing.
    #[error("{} does not answer", shown_path(.0))]
    Silent(PathBuf),
    /// It came to grief.
    #[error("a part of valetkey came to grief; this is a defect")]
    Broken,
}

impl Fault for BlockingFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Silent(_) => Kind::Deadline,
            Self::NoThread(_) | Self::Broken => Kind::Local,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoThread(_) => NO_THREAD.to_owned(),
            Self::Silent(_) => "look at the file system that holds it".to_owned(),
            Self::Broken => "report it".to_owned(),
        })
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::NoThread(_))
    }
}

/// Has work done on a thread for it. It goes on where nobody waits any more.
///
/// # Errors
/// When there is no thread for it.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, BlockingFault> {
    let (tell, told) = oneshot::channel();
    spawn(move || drop(tell.send(work())))?;
    told.await.map_err(|_| BlockingFault::Broken)
}

/// The same with a file, or with what lies below a directory: until then and no longer, and not at all while others have
/// been waiting there for a second.
///
/// # Errors
/// When it does not answer, or there is no thread to ask it.
pub async fn at<T: Send + 'static>(
    path: &Path,
    until: Instant,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BlockingFault> {
    let visit = Visit::begin(path).ok_or_else(|| BlockingFault::Silent(path.to_owned()))?;
    let work = run(move || {
        let done = work();
        drop(visit);
        done
    });
    timeout_at(until, work).await.unwrap_or_else(|_| Err(BlockingFault::Silent(path.to_owned())))
}

/// Whether there are so many threads left for what cannot do without.
///
/// # Errors
/// When there are fewer.
pub fn check(wanted: usize) -> Result<(), BlockingFault> {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = std::sync::Arc::new(Mutex::new(ended));
    // Each waits until all are there.
    let one = |_| {
        let ended = std::sync::Arc::clone(&ended);
        let wait = move || ended.lock().unwrap_or_else(PoisonError::into_inner).recv().is_err();
        std::thread::Builder::new().spawn(wait)
    };
    let (threads, missing): (Vec<_>, Vec<_>) = (0..wanted).map(one).partition(Result::is_ok);
    drop(end);
    let joined = threads.into_iter().flatten().all(|thread| thread.join().is_ok());
    match missing.into_iter().find_map(Result::err) {
        Some(error) => Err(BlockingFault::NoThread(error)),
        None if joined => Ok(()),
        None => Err(BlockingFault::Broken),
    }
}

/// Has work done that tells by itself what came of it.
///
/// # Errors
/// When there is no thread for it.
pub fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), BlockingFault> {
    let place = Place::take().ok_or_else(|| {
        let text = format!("{MOST} of them wait for something already");
        BlockingFault::NoThread(io::Error::other(text))
    })?;
    #[cfg(test)]
    let still = tests::Still::hold();
    let work = move || {
        #[cfg(test)]
        let _time = still.as_ref().map(tests::Still::enter);
        work();
        drop(place);
    };
    let thread = std::thread::Builder::new().name("blocking".to_owned()).spawn(work);
    thread.map(drop).map_err(BlockingFault::NoThread)
}

/// One of the threads that there may be.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let place = Self;
        // Given back at once by its end where there was none.
        (TAKEN.fetch_add(1, Ordering::Relaxed) < MOST).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        TAKEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Somebody who is at a path.
struct Visit(PathBuf);

/// Those who are.
struct Visitors {
    number: usize,
    /// When the first of them came, while there is one.
    since: Instant,
}

impl Visit {
    fn begin(path: &Path) -> Option<Self> {
        let (mut out, now) = (out(), Instant::now());
        let visitors = out.entry(path.to_owned()).or_insert(Visitors { number: 0, since: now });
        if now >= visitors.since + SILENT {
            return None;
        }
        visitors.number += 1;
        Some(Self(path.to_owned()))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut out = out();
        if let Some(visitors) = out.get_mut(&self.0) {
            visitors.number -= 1;
            // It answers: whoever came later is not late yet.
            visitors.since = Instant::now();
            if visitors.number == 0 {
                out.remove(&self.0);
            }
        }
    }
}

fn out() -> MutexGuard<'static, HashMap<PathBuf, Visitors>> {
    OUT.lock().unwrap_or_else(PoisonError::into_inner)
}

static OUT: LazyLock<Mutex<HashMap<PathBuf, Visitors>>> = LazyLock::new(Mutex::default);
static TAKEN: AtomicUsize = AtomicUsize::new(0);
const MOST: usize = 256;
/// After this time nobody follows whoever waits.
const SILENT: Duration = Duration::from_secs(1);
/// What to do where there is none.
pub const NO_THREAD: &str =
    "raise `ulimit -u`, or the limit of processes (pids) of this container, and try again";

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Time that is paused goes on while nobody works but threads of our own, and stands still while one of tokio's does.
    /// And only there it is the time of the test.
    pub(super) struct Still {
        runtime: tokio::runtime::Handle,
        _until: std::sync::mpsc::Sender<()>,
    }

    impl Still {
        pub(super) fn hold() -> Option<Self> {
            let runtime = tokio::runtime::Handle::try_current().ok()?;
            let (hold, until) = channel();
            runtime.spawn_blocking(move || until.recv());
            Some(Self { runtime, _until: hold })
        }

        pub(super) fn enter(&self) -> tokio::runtime::EnterGuard<'_> {
            self.runtime.enter()
        }
    }

    #[tokio::test]
    async fn nobody_follows_whoever_waits_at_a_silent_path_until_it_speaks() {
        let path = Path::new("/made/up/one");
        let (answer, answered) = channel::<()>();
        let (away, gone) = oneshot::channel();
        let soon = || Instant::now() + Duration::from_millis(50);
        let stuck = at(path, soon(), move || {
            let _ = answered.recv();
            let _ = away.send(());
        });
        assert!(matches!(stuck.await, Err(BlockingFault::Silent(_))));
        tokio::time::sleep(SILENT).await;
        // At once, and by nobody's thread.
        assert!(matches!(at(path, soon(), || 1).await, Err(BlockingFault::Silent(_))));
        let other = Instant::now() + Duration::from_secs(60);
        assert_eq!(at(Path::new("/made/up/two"), other, || 2).await.unwrap(), 2);
        drop(answer);
        gone.await.unwrap();
        // It may be a moment until the last one has left.
        while at(path, Instant::now() + Duration::from_secs(60), || 3).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn as_many_threads_as_are_wanted_are_there_at_once() {
        for wanted in [0, 1, 8] {
            check(wanted).unwrap();
        }
    }

    #[tokio::test]
    async fn work_that_panics_is_a_fault_and_gives_its_place_back() {
        let before = TAKEN.load(Ordering::Relaxed);
        assert!(matches!(run(|| panic!("on purpose")).await, Err::<(), _>(BlockingFault::Broken)));
        assert_eq!(run(|| 5).await.unwrap(), 5);
        while TAKEN.load(Ordering::Relaxed) > before {
            tokio::task::yield_now().await;
        }
    }
}
