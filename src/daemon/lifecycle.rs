//! From ready to gone: signals, the idle end, a socket that somebody removed, the init system's messages, and the
//! order of the end: first the socket's file goes, so that the next daemon can start; then what is owed is given;
//! then the lock falls.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::{Bound, Daemon, SocketFile, StartedBy, listener};
use crate::sys;

/// Serves all listeners, and those that are opened on the way, until something ends it.
pub async fn run(daemon: Arc<Daemon>) {
    let Some(mut opened) = daemon.take_opened() else { return };
    let mut watching = JoinSet::new();
    // Before anything is answered: whoever sees us serve may send one.
    watching.spawn(signals(Arc::clone(&daemon), Signals::listen()));
    let mut serving = JoinSet::new();
    let serve = |bound: Bound, serving: &mut JoinSet<()>| {
        serving.spawn(listener::serve(Arc::clone(&daemon), bound));
    };
    while let Ok(bound) = opened.try_recv() {
        serve(bound, &mut serving);
    }
    if let Some(idle) = daemon.idle {
        watching.spawn(idle_end(Arc::clone(&daemon), idle));
    }
    // Without the owner's socket nobody reaches us to say anything.
    if let Some(file) = daemon.owners_file() {
        watching.spawn(removed(Arc::clone(&daemon), file));
    }
    init_system(&daemon, &mut watching);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "serving");
    loop {
        tokio::select! {
            Some(bound) = opened.recv() => serve(bound, &mut serving),
            Some(_) = serving.join_next(), if !serving.is_empty() => {}
            () = daemon.stopping() => break,
        }
    }
    tracing::info!("draining");
    #[cfg(target_os = "linux")]
    tell_of_the_end(&daemon);
    for file in daemon.files() {
        file.remove();
    }
    while serving.join_next().await.is_some() {}
    watching.shutdown().await;
    tracing::info!("ended");
}

/// The signals that mean something to us.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From here on they are heard.
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

async fn signals(daemon: Arc<Daemon>, signals: io::Result<Signals>) {
    let Ok(mut signals) = signals else {
        tracing::warn!("signals are not heard");
        return;
    };
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => {
                let again = Arc::clone(&daemon);
                let outcome = crate::blocking::run(move || again.reload()).await;
                if let Err(failure) = outcome.unwrap_or_else(|fault| Err(fault.into())) {
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
        // A step of a build may ask for its next file an hour after the last.
        if daemon.posts().iter().any(|post| post.holds_daemon()) {
            daemon.note_request();
        } else if daemon.last_request() + idle <= end {
            tracing::info!("nothing asked for {} s", idle.as_secs());
            daemon.stop();
            return;
        }
    }
}

/// Ends a daemon that nobody can reach any more, because its socket or the directory was removed.
#[cfg(target_os = "linux")]
async fn removed(daemon: Arc<Daemon>, file: SocketFile) {
    let Some(directory) = file.path().parent() else { return };
    let changes = sys::DirectoryWatch::new(directory);
    if let Err(error) = &changes {
        tracing::warn!(%error, "the kernel watches no more directories: looking every half minute");
    }
    while file.is_there() {
        match &changes {
            Ok(changes) if changes.next().await.is_err() => return,
            Ok(_) => {}
            Err(_) => sleep(LOOK).await,
        }
    }
    if daemon.is_ready() {
        tracing::warn!(socket = %file.path().display(), "the socket was removed");
        daemon.stop();
    }
}

/// Tells systemd that we are ready and alive, where it listens.
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
}

/// Tells it that the end has begun: here and now, since what watches goes with the end.
#[cfg(target_os = "linux")]
fn tell_of_the_end(daemon: &Daemon) {
    if daemon.started_by != StartedBy::Helper {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    }
}

/// How often to look for the socket where the kernel does not tell.
const LOOK: Duration = Duration::from_secs(30);
