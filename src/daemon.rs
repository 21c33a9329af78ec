//! The daemon: listeners, each with a grant; peers, checked before a byte is answered; and the broker behind
//! them. It owns no credential logic.
//!
//! [`run`] takes what it serves and when to stop as arguments; nothing is bound or read in here, so a test can
//! hand it anything.

pub mod audit;
mod indexing;
pub mod instance;
pub mod lifecycle;
pub mod listener;
pub mod metrics;
pub mod opening;
mod passing;
pub mod peer;
pub mod post;
pub mod route;
pub mod subordinate;
pub mod terms;

pub use lifecycle::run;

use std::collections::HashMap;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
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
use crate::carrier::unix::{bind, inode};
use crate::clock::Clock;
use crate::config::index::Index;
use crate::config::listeners::{ExtraListener, Terms as Written};
use crate::config::policy::Policy;
use crate::daemon::audit::Log;
use crate::daemon::opening::Opening;
use crate::daemon::post::{Carrier, Post, Purpose};
use crate::daemon::terms::Terms;
use crate::error::{Failure, Kind};
use crate::google::credential_file::Stamp;
use crate::grant::Origin;
use crate::proxy::index::merge::{Known, Merged};
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

/// What accepts connections, and in which way it speaks.
#[derive(Debug)]
pub enum Socket {
    /// HTTP.
    Unix(UnixListener),
    /// The SSH agent's protocol.
    Agent(UnixListener),
    /// HTTP, from processes of this machine.
    Tcp(TcpListener),
}

/// A socket that is bound, and what it gives.
#[derive(Debug)]
pub struct Bound {
    pub socket: Socket,
    pub post: Arc<Post>,
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
    /// On which terms builds and containers are served.
    pub build: Written,
    pub extra: Vec<ExtraListener>,
    /// The merged Python index.
    pub index: Option<Index>,
    pub policy: Policy,
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
    posts: Mutex<Vec<Arc<Post>>>,
    own_file: OnceLock<SocketFile>,
    /// What the streams of all agent listeners share.
    pub streams: Arc<Budget>,
    /// Where sockets that builds ask for are opened; nowhere where an init system opens ours.
    pub runtime: Option<PathBuf>,
    /// Listeners on their way into [`run`].
    opened: mpsc::UnboundedSender<Bound>,
    to_serve: Mutex<Option<mpsc::UnboundedReceiver<Bound>>>,
}

/// What decides, and the state of the files that say which account that is.
type Identity = (Option<NamedSource>, Vec<Option<Stamp>>);

/// What requests are answered with, from one reading of the configuration to the next.
struct Current {
    broker: Arc<Broker<Sources>>,
    proxy: Proxy,
    merged: Option<Arc<Merged>>,
    build: Written,
    extra: Vec<ExtraListener>,
    policy: Policy,
}

impl TryFrom<Loaded> for Current {
    type Error = Failure;

    fn try_from(loaded: Loaded) -> Result<Self, Failure> {
        let broker = Arc::new(loaded.broker);
        let (http, hosts) = (broker.cache().upstream().world.http.clone(), broker.hosts().clone());
        let asked = Arc::clone(&broker);
        let tokens = Arc::new(move |wanted: Wanted| -> TokenFuture {
            let broker = Arc::clone(&asked);
            Box::pin(async move {
                broker.token(&wanted.whose, &wanted.registry, wanted.access, wanted.refused).await
            })
        });
        let merged = loaded.index.map(|index| indexing::merged(&index, &hosts)).transpose()?.map(Arc::new);
        Ok(Self {
            broker,
            proxy: Proxy::new(http, hosts, tokens, loaded.redirect_hosts),
            merged,
            build: loaded.build,
            extra: loaded.extra,
            policy: loaded.policy,
        })
    }
}

impl Current {
    /// The terms of a listener, as the configuration has them now.
    fn terms(&self, purpose: &Purpose) -> Result<Terms, Failure> {
        let (written, origin) = match purpose {
            Purpose::Owner => return Ok(Terms::owner()),
            Purpose::Build => (self.build.clone(), Origin::Build),
            Purpose::Extra(address) => {
                let listed = self.extra.iter().find(|extra| extra.address == *address).cloned();
                let (terms, place) = listed.map(|extra| (extra.terms, extra.place)).unwrap_or_default();
                (terms, Origin::Listener(place))
            }
            Purpose::Opened(opening) => (opening.written(), Origin::Command),
        };
        let mut terms = Terms::new(&written, &self.policy, self.broker.hosts(), origin)?;
        if let (Purpose::Opened(opening), Some(proxy)) = (purpose, &mut terms.grant.proxy) {
            proxy.whose = opening.wanted.whose.clone();
        }
        Ok(terms)
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
        runtime: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let clock = Clock::system();
        let (opened, to_serve) = mpsc::unbounded_channel();
        Ok(Self {
            current: RwLock::new(reload()?.try_into()?),
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
            posts: Mutex::default(),
            own_file: OnceLock::new(),
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

    /// Reads the configuration again. A wrong one changes nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn reload(&self) -> Result<(), Failure> {
        let current: Current = (self.reload)()?.try_into()?;
        let posts = self.posts();
        let terms = posts.iter().map(|post| current.terms(&post.purpose)).collect::<Result<Vec<_>, _>>()?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        // The table of accounts may be another one.
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for (post, terms) in posts.iter().zip(terms) {
            post.set_terms(terms);
        }
        tracing::info!("configuration read again");
        Ok(())
    }

    /// A listener for this purpose, on the terms of the configuration.
    ///
    /// # Errors
    /// When those are wrong.
    pub fn post(&self, name: String, carrier: Carrier, purpose: Purpose) -> Result<Arc<Post>, Failure> {
        let terms = self.current.read().unwrap_or_else(PoisonError::into_inner).terms(&purpose)?;
        Ok(Post::new(name, carrier, purpose, terms))
    }

    /// Further listeners that the configuration names.
    #[must_use]
    pub fn extra(&self) -> Vec<ExtraListener> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).extra.clone()
    }

    /// Begins to serve a listener.
    pub fn serve(&self, bound: Bound) {
        self.lock_posts().push(Arc::clone(&bound.post));
        if let (Purpose::Owner, Some(file)) = (&bound.post.purpose, &bound.own) {
            let _ = self.own_file.set(file.clone());
        }
        // Nobody takes it where the end has begun.
        let _ = self.opened.send(bound);
    }

    /// Forgets a listener whose time is over.
    pub fn close(&self, post: &Arc<Post>) {
        post.withdraw();
        self.lock_posts().retain(|other| !Arc::ptr_eq(other, post));
        self.write_openings();
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
        self.lock_posts().clone()
    }

    fn lock_posts(&self) -> MutexGuard<'_, Vec<Arc<Post>>> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a socket for a build.
    ///
    /// # Errors
    /// When there is nowhere to open it, or what is wanted makes no grant.
    pub fn open(&self, wanted: opening::Wanted) -> Result<Opening, Failure> {
        let Some(runtime) = &self.runtime else {
            return Err(Failure::new(Kind::Refused, "an init system opens the sockets of this daemon")
                .with_hint("name the listener as [[listener]] in config.toml"));
        };
        let opened = self.posts().iter().filter(|post| matches!(post.purpose, Purpose::Opened(_))).count();
        if opened >= MOST_OPENINGS {
            return Err(Failure::new(Kind::Refused, "too many sockets for builds are open")
                .with_hint("run `valetkey stop`, or ask for a shorter --for"));
        }
        let opening = Opening::new(runtime, wanted, self.clock.now())?;
        let terms = self
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .terms(&Purpose::Opened(opening.clone()))?;
        terms.check_whole(&opening.written())?;
        self.reopen(opening.clone())?;
        self.write_openings();
        Ok(opening)
    }

    /// Opens the socket of a build, perhaps one that an earlier daemon had open.
    ///
    /// # Errors
    /// When it cannot be bound, or the grant cannot be had any more.
    pub fn reopen(&self, opening: Opening) -> Result<(), Failure> {
        let path = opening.path.clone();
        let post = self.post(path.display().to_string(), Carrier::Agent, Purpose::Opened(opening))?;
        let socket = bind(&path).map_err(|error| cannot_listen(&path, error))?;
        self.serve(Bound { socket: Socket::Agent(socket), post, own: Some(SocketFile::new(path)) });
        Ok(())
    }

    fn write_openings(&self) {
        let Some(runtime) = &self.runtime else { return };
        let posts = self.posts();
        let openings = posts.iter().filter_map(|post| match &post.purpose {
            Purpose::Opened(opening) => Some(opening.clone()),
            _ => None,
        });
        opening::store(runtime, &openings.collect::<Vec<_>>());
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

/// A socket that cannot be bound, in words.
#[must_use]
pub fn cannot_listen(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(Kind::Local, format!("cannot listen at {}", path.display()))
        .with_cause(error)
        .with_hint("make room on that file system, or point XDG_RUNTIME_DIR elsewhere")
}

const MOST_OPENINGS: usize = 64;
const MOST_IDENTITIES: usize = 64;
