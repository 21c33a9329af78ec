//! `valetkey serve`: settles everything first (configuration, lock, sockets, log), then runs the daemon.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::blocking;
use crate::broker::{Broker, Counters, choice};
use crate::carrier::unix::{bind, connect};
use crate::client::fallback;
use crate::config::{Config, LogLevel};
use crate::daemon::audit::{Log, LogGuard};
use crate::daemon::instance::{Instance, InstanceFault, Note};
use crate::daemon::post::Post;
use crate::daemon::{
    Bound, Daemon, Lasting, Loaded, Socket, SocketFile, StartedBy, cannot_listen, run as run_daemon,
};
use crate::environment::Environment;
use crate::error::{Failure, Kind};
use crate::paths::{Paths, ensure_private};
use crate::registry::Hosts;
use crate::sys;
use crate::sys::users::check_distinct;

pub(super) fn run(started_by_helper: bool) -> Result<ExitCode, Failure> {
    if started_by_helper {
        // First of all: whoever waits for an end of file waits for us otherwise.
        sys::close_inherited_descriptors();
        sys::leave_session();
        // One that waits for a file system that does not answer would be one more with each helper.
        sys::worker::end_after(Some(TAKE_OVER * 2));
    }
    sys::harden();
    check_distinct()?;
    sys::raise_descriptor_limit();
    sys::use_one_heap();
    let environment = Environment::capture();
    let paths = Paths::new(&environment);
    let config = Config::load(&environment, &paths)?;
    let activated = activation();
    let started_by =
        match (started_by_helper, activated.is_empty() && environment.get("NOTIFY_SOCKET").is_none()) {
            (true, _) => StartedBy::Helper,
            (false, true) => StartedBy::Operator,
            (false, false) => StartedBy::Systemd,
        };
    let (log, guard) = open_log(started_by, &paths)?;
    start_tracing(log.clone(), config.log);
    let outcome = serve(environment, paths, &config, activated, started_by, log);
    if let (Err(failure), true) = (&outcome, started_by_helper) {
        tracing::error!(failure = %failure.one_line(), "cannot serve");
    }
    drop(guard);
    outcome.map(|()| ExitCode::SUCCESS)
}

fn serve(
    environment: Environment,
    paths: Paths,
    config: &Config,
    activated: Vec<Bound>,
    started_by: StartedBy,
    log: Log,
) -> Result<(), Failure> {
    let source = choice::named(None, &environment)?;
    let note = Note {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot: sys::boot_id(),
        source: source.clone(),
    };
    // A helper that replaces an older daemon starts us while that one still gives what it owes.
    let patience = if started_by == StartedBy::Helper { TAKE_OVER } else { Duration::ZERO };
    let runtime = paths.runtime.clone();
    let (given, instance) = if activated.is_empty() {
        ensure_private(&paths.runtime)?;
        let instance = Instance::acquire(&paths.lock(), patience)?;
        (vec![own_socket(&paths)?], Some(instance))
    } else {
        // An init system may hand over this user's own socket: then we are this user's daemon like any other.
        let own = activated.iter().any(|bound| bound.post.name == paths.socket().display().to_string());
        let instance = own.then(|| Instance::acquire(&paths.lock(), patience)).transpose()?;
        (activated, instance)
    };
    let idle = (started_by == StartedBy::Helper).then_some(config.idle);
    let counters = Arc::new(Counters::default());
    let reload = Box::new(move || {
        let config = Config::load(&environment, &paths)?;
        let mut sources = fallback::sources(&config, &environment, &paths, source.clone());
        sources.world.lingers = LINGERS;
        let clock = sources.world.clock;
        let broker = Broker::new(Hosts::new(&config.registries), sources, clock, Arc::clone(&counters));
        Ok(Loaded {
            broker,
            redirect_hosts: config.redirect_hosts,
            build: config.build,
            extra: config.listeners,
            index: config.index,
            policy: config.policy,
            lasting: Lasting { idle: config.idle, log: Some(config.log) },
        })
    });
    let daemon = Daemon::new(reload, log, started_by, idle, instance.is_some().then(|| runtime.clone()))?;
    let daemon = Arc::new(daemon);
    for bound in given {
        daemon.serve(bound);
    }
    // What cannot be opened is in the log, and `reload` tries again.
    let _ = daemon.adjust();
    daemon.open_again();
    // The runtime knows no other way to say that there is none than to panic.
    blocking::check(1)?;
    let threads = tokio::runtime::Builder::new_multi_thread()
        // One is as fast as two where clients share the cores, and needs half of the memory.
        .worker_threads(1)
        .thread_stack_size(1 << 20)
        .thread_keep_alive(Duration::from_secs(1))
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Local, "cannot start").with_cause(error))?;
    let serving = instance.map(|instance| instance.serve(&note)).transpose()?;
    sys::worker::end_after(None);
    threads.block_on(run_daemon(daemon));
    threads.shutdown_background();
    drop(serving);
    Ok(())
}

/// The owner's socket, unless somebody listens there who does not hold the lock: systemd does.
fn own_socket(paths: &Paths) -> Result<Bound, Failure> {
    let path = paths.socket();
    if connect(&path, Duration::from_millis(200)).is_ok() {
        return Err(InstanceFault::Running { pid: None }.into());
    }
    let socket = bind(&path).map_err(|error| cannot_listen(&path, error))?;
    let post = Post::of_owner(&path);
    Ok(Bound { socket: Socket::Unix(socket), post, own: Some(SocketFile::new(path)) })
}

/// The sockets that an init system hands over.
fn activation() -> Vec<Bound> {
    let mut given = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..given.len() {
        let Ok(Some(socket)) = given.take_unix_listener(index) else { continue };
        if socket.set_nonblocking(true).is_ok() {
            let post = Post::of_owner(&path_of(&socket));
            listeners.push(Bound { socket: Socket::Unix(socket), post, own: None });
        }
    }
    listeners
}

fn path_of(socket: &UnixListener) -> PathBuf {
    let address = socket.local_addr().ok();
    address.and_then(|address| address.as_pathname().map(PathBuf::from)).unwrap_or_else(|| "(socket)".into())
}

/// A daemon that started by itself has nobody who reads its standard error.
fn open_log(started_by: StartedBy, paths: &Paths) -> Result<(Log, LogGuard), Failure> {
    let failed = |error: std::io::Error| {
        let no_thread = error.kind() == std::io::ErrorKind::WouldBlock;
        let failure = Failure::new(Kind::Local, "cannot open the log").with_cause(error);
        if no_thread { failure.with_hint(blocking::NO_THREAD) } else { failure }
    };
    if started_by == StartedBy::Helper
        && let (Some(state), Some(path)) = (&paths.state, paths.log())
        && DirBuilder::new().recursive(true).mode(0o700).create(state).is_ok()
        && let Ok(log) = Log::to_file(&path)
    {
        return Ok(log);
    }
    Log::to_stderr().map_err(failed)
}

fn start_tracing(log: Log, level: LogLevel) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    // Others may log what we would not.
    let targets = Targets::new().with_default(LevelFilter::ERROR).with_target("valetkey", level);
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false).with_writer(log);
    let _ = tracing_subscriber::registry().with(targets).with(lines).try_init();
}

/// What a daemon lets finish that takes longer than an asker waits: a gcloud on a cold disk.
const LINGERS: Duration = Duration::from_secs(150);
/// An ask lives nine seconds, and so does an old daemon that was asked to end.
const TAKE_OVER: Duration = Duration::from_secs(11);
