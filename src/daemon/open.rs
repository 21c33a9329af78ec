//! Opens listeners: the sockets for builds and containers, those that the configuration names, and those that builds ask
//! for. A reload opens what is new, closes what is gone, and leaves the rest alone.
//!
//! One that cannot be opened keeps nobody from the others. A file is replaced only where it is a socket that nobody
//! serves.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::opening::{self, Opening};
use super::post::{Carrier, Post, Purpose};
use super::usage::Standing;
use super::{Daemon, Phase};
use crate::carrier::unix::{bind, connect, inode};
use crate::config::listeners::Address;
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::paths::SOCKET;

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
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A listener that the configuration wants.
struct Wished {
    address: Address,
    purpose: Purpose,
    mode: u32,
    /// `FILE:LINE` of its `[[listener]]`.
    place: Option<String>,
}

impl Wished {
    fn carrier(&self) -> Carrier {
        match self.address {
            Address::Unix(_) => Carrier::Unix,
            Address::Agent(_) => Carrier::Agent,
            Address::Tcp(_) => Carrier::Tcp,
        }
    }

    fn name(&self) -> String {
        match &self.address {
            Address::Unix(path) | Address::Agent(path) => path.display().to_string(),
            Address::Tcp(address) => address.to_string(),
        }
    }

    fn is(&self, post: &Post) -> bool {
        post.name == self.name() && post.carrier == self.carrier() && post.purpose == self.purpose
    }

    /// Why it cannot be opened, in words.
    fn failed(&self, error: io::Error) -> Failure {
        let Some(place) = &self.place else { return cannot_listen(Path::new(&self.name()), error) };
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => "name another one, or end what is there; then run `valetkey reload`",
            io::ErrorKind::AddrNotAvailable => "name an address of this machine; then run `valetkey reload`",
            _ => "name a place where this user may make it; then run `valetkey reload`",
        };
        Failure::new(Kind::Local, format!("cannot listen at {}, the [[listener]] at {place}", self.name()))
            .with_cause(error)
            .with_hint(hint)
    }
}

impl Daemon {
    /// Opens what the configuration wants and is not open, and closes what it does not want any more. Says what could not
    /// be opened.
    #[must_use]
    pub fn adjust(&self) -> Vec<Failure> {
        let _alone = self.alone();
        let wished = self.wished();
        let gone = |post: &Post| match post.purpose {
            Purpose::Build | Purpose::Extra(_) => {
                !wished.iter().any(|wish| wish.is(post)) || !self.has_file(post)
            }
            Purpose::Owner | Purpose::Opened(_) => false,
        };
        let closed: Vec<_> = self.posts().into_iter().filter(|post| gone(post)).collect();
        for post in &closed {
            tracing::info!(listener = %post.name, "closed");
            self.shut(post);
        }
        let open = self.posts();
        // A port is free a moment after its listener was told to end.
        let until = Instant::now() + if closed.is_empty() { Duration::ZERO } else { HANDOVER };
        let mut failures = Vec::new();
        for (number, wish) in wished.iter().enumerate() {
            if wished[..number].iter().any(|other| other.name() == wish.name()) {
                failures.push(wish.failed(io::Error::new(io::ErrorKind::AddrInUse, "it is listed twice")));
            } else if !open.iter().any(|post| wish.is(post))
                && let Err(failure) = self.open_wished(wish, until)
            {
                failures.push(failure);
            }
        }
        for failure in &failures {
            tracing::error!(failure = %failure.one_line(), "a listener stays closed");
        }
        failures
    }

    /// What is to be open beside the owner's socket and those of single builds. Those of the private directory belong to
    /// the one who holds its lock.
    fn wished(&self) -> Vec<Wished> {
        let build = |address, mode| Wished { address, purpose: Purpose::Build, mode, place: None };
        let mut wished = Vec::new();
        if let Some(runtime) = &self.runtime {
            wished.push(build(Address::Agent(runtime.join("build.sock")), 0o600));
            // Who may use it, the daemon decides: a container's users have other uids outside.
            wished.push(build(Address::Unix(runtime.join(CONTAINER).join(SOCKET)), 0o666));
        }
        wished.extend(self.extra().into_iter().map(|extra| Wished {
            purpose: Purpose::Extra(extra.address.clone()),
            address: extra.address,
            mode: 0o666,
            place: Some(extra.place.unwrap_or_else(|| "config.toml".to_owned())),
        }));
        wished
    }

    fn open_wished(&self, wish: &Wished, until: Instant) -> Result<(), Failure> {
        let post = self.post(wish.name(), wish.carrier(), wish.purpose.clone())?;
        let failed = |error| wish.failed(error);
        let (socket, own) = match &wish.address {
            Address::Tcp(address) => {
                let socket = patiently(until, || TcpListener::bind(address)).map_err(failed)?;
                socket.set_nonblocking(true).map_err(failed)?;
                (Socket::Tcp(socket), None)
            }
            Address::Unix(path) | Address::Agent(path) => {
                if wish.place.is_some() {
                    self.check_free(path).map_err(failed)?;
                } else if let Some(directory) = path.parent().filter(|it| it.ends_with(CONTAINER)) {
                    make_container(directory).map_err(failed)?;
                }
                let socket = bind(path).map_err(failed)?;
                let file = SocketFile::new(path.clone());
                let mode = fs::Permissions::from_mode(wish.mode);
                if let Err(error) = fs::set_permissions(path, mode) {
                    file.remove();
                    return Err(failed(error));
                }
                let agent = wish.carrier() == Carrier::Agent;
                (if agent { Socket::Agent(socket) } else { Socket::Unix(socket) }, Some(file))
            }
        };
        self.serve(Bound { socket, post, own });
        Ok(())
    }

    /// Whether a socket may be bound at a path that somebody wrote: there is nothing, or a socket that nobody serves.
    fn check_free(&self, path: &Path) -> io::Result<()> {
        let taken = |text| Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        let kind = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            data => data?.file_type(),
        };
        if !kind.is_socket() {
            return taken("something else than a socket is there");
        }
        if self.posts().iter().any(|post| Path::new(&post.name) == path) {
            return taken("valetkey itself listens there");
        }
        match connect(path, AT_ONCE) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            _ => taken("another program listens there"),
        }
    }

    /// Opens a socket for a build. Where as many are open as may be, one that no build uses gives way.
    ///
    /// # Errors
    /// When there is nowhere to open it, what is wanted makes no grant, or builds use all that there may be.
    pub fn open(&self, wanted: opening::Wanted) -> Result<Opening, Failure> {
        let Some(runtime) = &self.runtime else {
            return Err(Failure::new(Kind::Refused, "an init system opens the sockets of this daemon")
                .with_hint("name the listener as [[listener]] in config.toml"));
        };
        let _alone = self.alone();
        let opening = Opening::new(runtime, wanted, self.clock.now())?;
        let terms = self.terms(&Purpose::Opened(opening.clone()))?;
        terms.check_whole(&opening.wanted.written())?;
        self.make_room()?;
        self.reopen(opening.clone())?;
        self.write_openings();
        Ok(opening)
    }

    /// Opens the sockets of builds again that an earlier daemon had open.
    pub fn open_again(&self) {
        let Some(runtime) = &self.runtime else { return };
        for opening in opening::load(runtime, self.clock.now()).into_iter().take(MOST_OPENINGS) {
            if let Err(failure) = self.reopen(opening) {
                tracing::error!(failure = %failure.one_line(), "a listener stays closed");
            }
        }
        let open: Vec<_> = self.posts().iter().map(|post| PathBuf::from(&post.name)).collect();
        opening::sweep(runtime, &open);
    }

    fn reopen(&self, opening: Opening) -> Result<(), Failure> {
        let path = opening.path.clone();
        let post = self.post(path.display().to_string(), Carrier::Agent, Purpose::Opened(opening))?;
        let socket = bind(&path).map_err(|error| cannot_listen(&path, error))?;
        self.serve(Bound { socket: Socket::Agent(socket), post, own: Some(SocketFile::new(path)) });
        Ok(())
    }

    /// Of those whose build is over the first that ended goes, else the oldest that no build has come for, else the one
    /// that has been quiet for longest. Never one with a connection, or whose build is known to go on.
    fn make_room(&self) -> Result<(), Failure> {
        let posts = self.posts();
        let opened: Vec<_> = posts.iter().filter(|post| matches!(post.purpose, Purpose::Opened(_))).collect();
        if opened.len() < MOST_OPENINGS {
            return Ok(());
        }
        // Equal ones stand in the order in which they were opened.
        let rank = |post: &Post| match post.usage.standing() {
            Standing::Over(since) => Some((0, Some(since))),
            Standing::Unused => Some((1, None)),
            Standing::Quiet(since) => Some((2, Some(since))),
            Standing::InUse => None,
        };
        let ranked = opened.into_iter().filter_map(|post| Some((rank(post)?, post)));
        let Some((_, leaving)) = ranked.min_by_key(|(rank, _)| *rank) else {
            let text = format!("{MOST_OPENINGS} builds are running, and each has a socket open");
            return Err(Failure::new(Kind::Refused, text).with_hint("wait until one of them has ended"));
        };
        tracing::info!(listener = %leaving.name, "gives way to another build");
        self.shut(leaving);
        Ok(())
    }

    fn write_openings(&self) {
        let Some(runtime) = &self.runtime else { return };
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let posts = if self.phase() == Phase::Forgetting { Vec::new() } else { self.posts() };
        let openings = posts.iter().filter_map(|post| match &post.purpose {
            Purpose::Opened(opening) => Some(opening.clone()),
            _ => None,
        });
        opening::store(runtime, &openings.collect::<Vec<_>>());
    }

    /// Forgets a listener whose time is over.
    pub fn close(&self, post: &Arc<Post>) {
        self.shut(post);
        if matches!(post.purpose, Purpose::Opened(_)) {
            self.write_openings();
        }
    }

    /// As [`Self::stop`], and no later daemon opens the sockets of builds again.
    pub fn stop_for_good(&self) {
        self.enter(Phase::Forgetting);
        self.write_openings();
    }
}

/// A directory that can be mounted whole, so that a container sees the socket of a daemon that was restarted.
fn make_container(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::set_permissions(directory, fs::Permissions::from_mode(0o755)),
    }
}

fn patiently<T>(until: Instant, mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(STEP);
            }
            outcome => return outcome,
        }
    }
}

/// A socket that cannot be bound, in words.
#[must_use]
pub fn cannot_listen(path: &Path, error: io::Error) -> Failure {
    Failure::new(Kind::Local, format!("cannot listen at {}", shown_path(path)))
        .with_cause(error)
        .with_hint("make room on that file system, or point XDG_RUNTIME_DIR elsewhere")
}

const MOST_OPENINGS: usize = 64;
const CONTAINER: &str = "container";
/// Somebody who listens lets a connection in at once, or is too busy to do so: then he is there.
const AT_ONCE: Duration = Duration::from_millis(200);
const HANDOVER: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(10);
