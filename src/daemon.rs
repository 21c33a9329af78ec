//! The daemon: listeners, each with a grant; peers, checked before a byte is answered; and the broker behind
//! them. It owns no credential logic.
//!
//! [`run`] takes what it serves and when to stop as arguments; nothing is bound or read in here, so a test can
//! hand it anything.

pub mod audit;
mod connections;
mod current;
mod form;
mod indexing;
pub mod instance;
pub mod lifecycle;
pub mod listener;
pub mod metrics;
pub mod open;
pub mod opening;
mod passing;
pub mod peer;
pub mod post;
pub mod route;
pub mod subordinate;
pub mod terms;
pub mod usage;

pub use current::{Lasting, Loaded};
pub use lifecycle::run;
pub use open::{Bound, Socket, SocketFile, cannot_listen};

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::ask::{NamedSource, Whose};
use crate::broker::Broker;
use crate::broker::cache::Upstream;
use crate::broker::choice::Sources;
use crate::carrier::agent::{Budget, Limits};
use crate::clock::Clock;
use crate::config::listeners::ExtraListener;
use crate::daemon::audit::Log;
use crate::daemon::current::Current;
use crate::daemon::post::{Carrier, Post, Purpose};
use crate::daemon::terms::Terms;
use crate::error::Failure;
use crate::google::credential_file::Stamp;
use crate::proxy::Proxy;
use crate::proxy::index::merge::{Known, Merged};

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
    /// The Python repositories that are there, for each identity by itself: what one may read, a registry may hide from
    /// another by the same answer that says that a name is free.
    known: Mutex<HashMap<Identity, Arc<Known>>>,
    listeners: Mutex<Vec<Served>>,
    own_file: OnceLock<SocketFile>,
    /// Held by whoever opens and closes listeners.
    changing: Mutex<()>,
    /// Held by whoever writes down which sockets of builds are open: the last to write has to know of all.
    writing: Mutex<()>,
    /// What counted at the start.
    lasting: Lasting,
    /// What the streams of all agent listeners share.
    pub streams: Arc<Budget>,
    /// Where sockets that builds ask for are opened; nowhere where an init system opens ours.
    pub runtime: Option<PathBuf>,
    /// Listeners on their way into [`run`].
    opened: mpsc::UnboundedSender<Bound>,
    to_serve: Mutex<Option<mpsc::UnboundedReceiver<Bound>>>,
}

/// A listener that is open.
struct Served {
    post: Arc<Post>,
    own: Option<SocketFile>,
}

/// What decides, and the state of the files that say which account that is.
type Identity = (Option<NamedSource>, Vec<Option<Stamp>>);

/// Serving, or on the way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Serving,
    Draining,
    /// Draining, and whatever was opened for builds stays closed at the next start.
    Forgetting,
}

/// What came of reading the configuration again.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// The listeners that could not be opened; all else counts.
    pub closed: Vec<Failure>,
    /// The keys whose new values count from the next start on.
    pub next_start: Vec<&'static str>,
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
        runtime: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let clock = Clock::system();
        let (opened, to_serve) = mpsc::unbounded_channel();
        let current: Current = reload()?.try_into()?;
        let lasting = current.lasting;
        Ok(Self {
            current: RwLock::new(current),
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
            known: Mutex::default(),
            listeners: Mutex::default(),
            own_file: OnceLock::new(),
            changing: Mutex::default(),
            writing: Mutex::default(),
            lasting,
            streams: Budget::new(Limits::default()),
            runtime,
            opened,
            to_serve: Mutex::new(Some(to_serve)),
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

    /// The merged Python index, where the configuration has one.
    #[must_use]
    pub fn merged(&self) -> Option<Arc<Merged>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).merged.clone()
    }

    /// What is known of repositories where this decides whose token is used.
    #[must_use]
    pub fn known(&self, whose: &Whose) -> Arc<Known> {
        let broker = self.broker();
        let sources = broker.cache().upstream();
        let named = sources.deciding(whose, None);
        let stamps = sources.stamps(named.as_ref());
        let identity = (named, stamps);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_IDENTITIES && !known.contains_key(&identity) {
            // What was known is asked for again.
            known.clear();
        }
        Arc::clone(known.entry(identity).or_default())
    }

    /// Reads the configuration again, and opens and closes listeners by it. A wrong one changes nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn reload(&self) -> Result<Reloaded, Failure> {
        let current: Current = (self.reload)()?.try_into()?;
        let next_start = self.lasting.changed(&current.lasting);
        let posts = self.posts();
        let mut terms = Vec::with_capacity(posts.len());
        for post in &posts {
            terms.push(match (current.terms(&post.purpose), &post.purpose) {
                // What one build once asked for keeps no configuration from counting.
                (Err(_), Purpose::Opened(_)) => None,
                (terms, _) => Some(terms?),
            });
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        // The table of accounts may be another one.
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for (post, terms) in posts.iter().zip(terms) {
            match terms {
                Some(terms) => post.set_terms(terms),
                None => self.close(post),
            }
        }
        let closed = self.adjust();
        tracing::info!(?next_start, "configuration read again");
        Ok(Reloaded { closed, next_start })
    }

    /// A listener for this purpose, on the terms of the configuration.
    ///
    /// # Errors
    /// When those are wrong.
    pub fn post(&self, name: String, carrier: Carrier, purpose: Purpose) -> Result<Arc<Post>, Failure> {
        let terms = self.terms(&purpose)?;
        Ok(Post::new(name, carrier, purpose, terms))
    }

    fn terms(&self, purpose: &Purpose) -> Result<Terms, Failure> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).terms(purpose)
    }

    /// Further listeners that the configuration names.
    #[must_use]
    pub fn extra(&self) -> Vec<ExtraListener> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).extra.clone()
    }

    /// Begins to serve a listener.
    pub fn serve(&self, bound: Bound) {
        let served = Served { post: Arc::clone(&bound.post), own: bound.own.clone() };
        self.lock_listeners().push(served);
        if let (Purpose::Owner, Some(file)) = (&bound.post.purpose, &bound.own) {
            let _ = self.own_file.set(file.clone());
        }
        // Nobody takes it where the end has begun.
        let _ = self.opened.send(bound);
    }

    /// Ends a listener and removes its file, at once.
    fn shut(&self, post: &Arc<Post>) {
        let mut listeners = self.lock_listeners();
        if let Some(place) = listeners.iter().position(|served| Arc::ptr_eq(&served.post, post))
            && let Some(file) = listeners.remove(place).own
        {
            file.remove();
        }
        drop(listeners);
        post.close();
    }

    /// Whether the path of a listener still leads to it.
    fn has_file(&self, post: &Post) -> bool {
        let listeners = self.lock_listeners();
        let own = listeners.iter().find(|served| std::ptr::eq(&raw const *served.post, post));
        own.and_then(|served| served.own.as_ref()).is_none_or(SocketFile::is_there)
    }

    /// The socket files that are ours.
    fn files(&self) -> Vec<SocketFile> {
        self.lock_listeners().iter().filter_map(|served| served.own.clone()).collect()
    }

    /// What is to be served, for the one who serves it.
    fn take_opened(&self) -> Option<mpsc::UnboundedReceiver<Bound>> {
        self.to_serve.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The owner's socket, where its file is ours.
    fn owners_file(&self) -> Option<SocketFile> {
        self.own_file.get().cloned()
    }

    #[must_use]
    pub fn posts(&self) -> Vec<Arc<Post>> {
        self.lock_listeners().iter().map(|served| Arc::clone(&served.post)).collect()
    }

    fn lock_listeners(&self) -> MutexGuard<'_, Vec<Served>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the end: no new connections, answers that are owed are given.
    pub fn stop(&self) {
        self.enter(Phase::Draining);
    }

    fn enter(&self, next: Phase) {
        self.phase.send_modify(|phase| {
            if *phase != Phase::Forgetting {
                *phase = next;
            }
        });
    }

    fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Resolves when the end begins.
    pub async fn stopping(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives as long as we do, so the wait cannot fail.
        let _ = phase.wait_for(|phase| *phase != Phase::Serving).await;
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Serving
    }

    #[must_use]
    pub fn is_draining(&self) -> bool {
        !self.is_ready()
    }

    pub fn note_request(&self) {
        *self.last_request.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    #[must_use]
    pub fn last_request(&self) -> Instant {
        *self.last_request.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const MOST_IDENTITIES: usize = 64;
