//! The daemon: listeners, each with a grant; peers, checked before a byte is answered; and the broker behind
//! them. It owns no credential logic.
//!
//! [`run`] takes what it serves and when to stop as arguments; nothing is bound or read in here, so a test can
//! hand it anything.

pub mod audit;
pub mod instance;
pub mod lifecycle;
pub mod listener;
pub mod metrics;
mod passing;
pub mod peer;
pub mod route;
pub mod subordinate;
pub mod terms;

pub use lifecycle::run;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::broker::choice::Sources;
use crate::carrier::unix::inode;
use crate::clock::Clock;
use crate::daemon::audit::Log;
use crate::error::Failure;
use crate::grant::Grant;
use crate::proxy::{Proxy, TokenFuture, Wanted};

/// Who started the daemon: decides whether it ends by itself, and whether a newer helper may replace it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartedBy {
    Helper,
    Operator,
    Systemd,
}

impl StartedBy {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Helper => "helper",
            Self::Operator => "operator",
            Self::Systemd => "systemd",
        }
    }
}

/// A socket that is bound, and what it gives.
#[derive(Debug)]
pub struct Bound {
    pub socket: UnixListener,
    /// Where it is, for `status` and the audit line.
    pub path: PathBuf,
    pub grant: Grant,
    /// The file, where it is ours: to be removed at the end, and the end when somebody else removes it.
    pub own: Option<SocketFile>,
}

/// A socket file of ours, as it was when it was bound.
#[derive(Debug, Clone)]
pub struct SocketFile {
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

impl SocketFile {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let inode = inode(&path);
        Self { path, inode }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to us.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.inode.is_some() && inode(&self.path) == self.inode
    }

    /// Removes the file, unless the path leads to somebody else's by now.
    pub fn remove(&self) {
        if self.is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What the configuration makes, and makes anew when it is read again.
#[derive(Debug)]
pub struct Loaded {
    pub broker: Broker<Sources>,
    /// Where files may be sent on to, beside Cloud Storage.
    pub redirect_hosts: Vec<String>,
}

/// How the configuration is read.
pub type Reload = Box<dyn Fn() -> Result<Loaded, Failure> + Send + Sync>;

/// What all connections share.
pub struct Daemon {
    current: RwLock<Current>,
    reload: Reload,
    pub log: Log,
    pub clock: Clock,
    pub started: SystemTime,
    pub started_by: StartedBy,
    /// Ends the daemon after this time without a request; never where it is absent.
    pub idle: Option<Duration>,
    phase: watch::Sender<Phase>,
    last_request: Mutex<Instant>,
    pub connections: AtomicUsize,
    pub refused: AtomicU64,
    /// Requests passed on, and the bytes of their answers.
    pub passed: AtomicU64,
    pub passed_bytes: AtomicU64,
    pub listeners: Vec<(PathBuf, Grant)>,
}

/// What requests are answered with, from one reading of the configuration to the next.
struct Current {
    broker: Arc<Broker<Sources>>,
    proxy: Proxy,
}

impl From<Loaded> for Current {
    fn from(loaded: Loaded) -> Self {
        let broker = Arc::new(loaded.broker);
        let (http, hosts) = (broker.cache().upstream().world.http.clone(), broker.hosts().clone());
        let asked = Arc::clone(&broker);
        let tokens = Arc::new(move |wanted: Wanted| -> TokenFuture {
            let broker = Arc::clone(&asked);
            Box::pin(async move { broker.token(&wanted.registry, wanted.access, wanted.refused).await })
        });
        Self { broker, proxy: Proxy::new(http, hosts, tokens, loaded.redirect_hosts) }
    }
}

/// Serving, or on the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Serving,
    Draining,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").field("started_by", &self.started_by).finish_non_exhaustive()
    }
}

impl Daemon {
    /// A daemon with a first reading of the configuration.
    ///
    /// # Errors
    /// When the configuration is wrong.
    pub fn new(
        reload: Reload,
        log: Log,
        started_by: StartedBy,
        idle: Option<Duration>,
        listeners: &[Bound],
    ) -> Result<Self, Failure> {
        let clock = Clock::system();
        Ok(Self {
            current: RwLock::new(reload()?.into()),
            reload,
            log,
            clock,
            started: clock.now(),
            started_by,
            idle,
            phase: watch::Sender::new(Phase::Serving),
            last_request: Mutex::new(Instant::now()),
            connections: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            passed_bytes: AtomicU64::new(0),
            listeners: listeners.iter().map(|bound| (bound.path.clone(), bound.grant.clone())).collect(),
        })
    }

    #[must_use]
    pub fn broker(&self) -> Arc<Broker<Sources>> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).broker)
    }

    #[must_use]
    pub fn proxy(&self) -> Proxy {
        self.current.read().unwrap_or_else(PoisonError::into_inner).proxy.clone()
    }

    /// Reads the configuration again. A wrong one changes nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn reload(&self) -> Result<(), Failure> {
        let current = (self.reload)()?.into();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        tracing::info!("configuration read again");
        Ok(())
    }

    /// Begins the end: no new connections, answers that are owed are given.
    pub fn stop(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Resolves when the end begins.
    pub async fn stopping(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives as long as we do, so the wait cannot fail.
        let _ = phase.wait_for(|phase| *phase == Phase::Draining).await;
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.phase.borrow() == Phase::Serving
    }

    pub fn note_request(&self) {
        *self.last_request.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    #[must_use]
    pub fn last_request(&self) -> Instant {
        *self.last_request.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
