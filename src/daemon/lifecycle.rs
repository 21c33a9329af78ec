//! From ready to gone: signals, the idle end, a socket that somebody removed, the init system's messages, and the
//! order of the end: first the socket's file goes, so that the next daemon can start; then what is owed is given;
//! then the lock falls.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::{Bound, Daemon, StartedBy, listener};
use crate::carrier::unix::inode;
use crate::sys;

/// Serves all listeners until something ends it.
pub async fn run(daemon: Arc<Daemon>, listeners: Vec<Bound>) {
    let owned: Vec<_> = listeners.iter().filter(|it| it.owned).filter_map(Watched::new).collect();
    let mut serving = JoinSet::new();
    for bound in listeners {
        serving.spawn(listener::serve(Arc::clone(&daemon), bound));
    }
    let mut watching = JoinSet::new();
    watching.spawn(signals(Arc::clone(&daemon)));
    if let Some(idle) = daemon.idle {
        watching.spawn(idle_end(Arc::clone(&daemon), idle));
    }
    for watched in &owned {
        watching.spawn(removed(Arc::clone(&daemon), watched.clone()));
    }
    init_system(&daemon, &mut watching);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "serving");
    daemon.stopping().await;
    tracing::info!("draining");
    for watched in &owned {
        watched.remove();
    }
    while serving.join_next().await.is_some() {}
    watching.shutdown().await;
    tracing::info!("ended");
}

/// A socket file of ours, by path and inode.
#[derive(Debug, Clone)]
struct Watched {
    path: PathBuf,
    inode: (u64, u64),
}

impl Watched {
    fn new(bound: &Bound) -> Option<Self> {
        Some(Self { path: bound.path.clone(), inode: inode(&bound.path)? })
    }

    fn is_there(&self) -> bool {
        inode(&self.path) == Some(self.inode)
    }

    /// Removes the file, unless the path leads to somebody else's by now.
    fn remove(&self) {
        if self.is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

async fn signals(daemon: Arc<Daemon>) {
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = kinds.map(signal) else {
        tracing::warn!("signals are not heard");
        return;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                let again = Arc::clone(&daemon);
                if let Ok(Err(failure)) = tokio::task::spawn_blocking(move || again.reload()).await {
                    tracing::error!(failure = %failure.one_line(), "the old configuration stays");
                }
            }
        }
    }
    daemon.stop();
}

/// Sleeps until the last request is old enough: one wake-up for each time that it was not.
async fn idle_end(daemon: Arc<Daemon>, idle: Duration) {
    loop {
        let end = daemon.last_request() + idle;
        sleep_until(end).await;
        if daemon.last_request() + idle <= end {
            tracing::info!("nothing asked for {} s", idle.as_secs());
            daemon.stop();
            return;
        }
    }
}

/// Ends a daemon that nobody can reach any more, because its socket or the directory was removed.
#[cfg(target_os = "linux")]
async fn removed(daemon: Arc<Daemon>, watched: Watched) {
    let Some(directory) = watched.path.parent() else { return };
    let changes = sys::DirectoryWatch::new(directory);
    if let Err(error) = &changes {
        tracing::warn!(%error, "the kernel watches no more directories: looking every half minute");
    }
    while watched.is_there() {
        match &changes {
            Ok(changes) if changes.next().await.is_err() => return,
            Ok(_) => {}
            Err(_) => sleep(LOOK).await,
        }
    }
    if daemon.is_ready() {
        tracing::warn!(socket = %watched.path.display(), "the socket was removed");
        daemon.stop();
    }
}

/// Tells systemd that we are ready, alive and ending, where it listens.
#[cfg(target_os = "linux")]
fn init_system(daemon: &Arc<Daemon>, watching: &mut JoinSet<()>) {
    use sd_notify::{NotifyState, notify};
    if daemon.started_by == StartedBy::Helper {
        return;
    }
    // An error here is an init system that does not listen; `notify` itself says nothing where there is none.
    let _ = notify(&[NotifyState::Ready]);
    if let Some(interval) = sd_notify::watchdog_enabled() {
        watching.spawn(async move {
            loop {
                tokio::time::sleep(interval / 2).await;
                let _ = notify(&[NotifyState::Watchdog]);
            }
        });
    }
    let stopping = Arc::clone(daemon);
    watching.spawn(async move {
        stopping.stopping().await;
        let _ = notify(&[NotifyState::Stopping]);
    });
}

/// How often to look for the socket where the kernel does not tell.
const LOOK: Duration = Duration::from_secs(30);
