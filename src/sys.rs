//! The few things that only the operating system can do, and the only module that may hold `unsafe`.
//!
//! Everything here is small enough to audit by eye. Linux is what has been run; the other Unixes get the part of
//! it that POSIX gives them.

pub mod ancestry;
pub mod loopback_peer;
pub mod processes;
#[cfg(target_os = "linux")]
pub mod signals;
pub mod users;
pub mod worker;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;

#[cfg(target_os = "linux")]
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::process::{self, Resource, Rlimit};
#[cfg(target_os = "linux")]
use tokio::io::unix::AsyncFd;

/// The uid that decides what this process may do.
#[must_use]
pub fn own_uid() -> u32 {
    process::geteuid().as_raw()
}

/// The number of this process.
#[must_use]
pub fn own_pid() -> i32 {
    process::getpid().as_raw_nonzero().get()
}

/// Who is on the other end of a Unix socket, by the kernel's word at the time of `connect` (or `listen`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerId {
    pub uid: u32,
    pub pid: i32,
}

/// Asks the kernel who holds the other end of a connected Unix socket.
///
/// # Errors
/// When the descriptor is not a Unix socket.
#[cfg(target_os = "linux")]
pub fn peer_of(socket: impl AsFd) -> io::Result<PeerId> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(PeerId { uid: credentials.uid.as_raw(), pid: process::Pid::as_raw(Some(credentials.pid)) })
}

/// Keeps this process out of core dumps and away from a debugger of the same user, and gives the files that it
/// creates to nobody else.
pub fn harden() {
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    // None of these can do harm by failing: they are the second wall, not the first.
    let _ = process::setrlimit(Resource::Core, nothing);
    #[cfg(target_os = "linux")]
    let _ = process::set_dumpable_behavior(process::DumpableBehavior::NotDumpable);
    let before = process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    UMASK.get_or_init(|| before);
}

/// Starts a program that is a person's own and not a part of us: the files that it creates are for whom they
/// would be without us. What we create ourselves meanwhile has its mode said.
pub fn with_own_umask<T>(start: impl FnOnce() -> T) -> T {
    let Some(own) = UMASK.get() else { return start() };
    let ours = process::umask(*own);
    let started = start();
    process::umask(ours);
    started
}

/// Lifts the soft limit of open files to the hard one: one descriptor a connection.
pub fn raise_descriptor_limit() {
    let limit = process::getrlimit(Resource::Nofile);
    let raised =
        process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if raised.is_ok() {
        DESCRIPTORS.get_or_init(|| limit);
    }
}

/// Has a program start with the limit that this process was started with: some close every descriptor that there might be.
#[expect(unsafe_code, reason = "what runs between fork and exec is in its caller's care")]
pub fn with_own_descriptor_limit(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let Some(limit) = DESCRIPTORS.get() else { return };
    // SAFETY: the one call between fork and exec is a bare system call on a value that lives for ever.
    unsafe {
        command.pre_exec(|| Ok(process::setrlimit(Resource::Nofile, *limit)?));
    }
}

/// Keeps this process out of core dumps and away from a debugger of the same user, and nothing else: unlike
/// [`harden`] it leaves no trace in the processes that it starts.
pub fn refuse_dumps() {
    #[cfg(target_os = "linux")]
    let _ = process::set_dumpable_behavior(process::DumpableBehavior::NotDumpable);
}

/// Leaves the session of the process that started us: its terminal and its process group mean nothing to us from
/// now on.
pub fn leave_session() {
    // Fails only for the leader of a process group, which is then already on its own.
    let _ = process::setsid();
}

/// Closes every descriptor above standard error that a parent left open, so that nobody waits for an end of file
/// that we hold back. To be called before anything else has opened one.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "closing a descriptor that this process does not own as a Rust value")]
pub fn close_inherited_descriptors() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let inherited: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor > 2)
        .collect();
    for descriptor in inherited {
        // SAFETY: the caller promises that no Rust value owns a descriptor yet. The listing's own is closed again
        // by now, which the first call finds out.
        unsafe {
            if rustix::io::fcntl_getfd(BorrowedFd::borrow_raw(descriptor)).is_ok() {
                rustix::io::close(descriptor);
            }
        }
    }
}

/// Has the C library serve all threads from one heap. With one a thread, each keeps what a burst left in it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a function of the C library that has no safe wrapper")]
pub fn use_one_heap() {
    // SAFETY: it takes no pointer. It counts for the heaps that are not made yet, so it comes before any thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Other C libraries have one heap, or no such choice.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn use_one_heap() {}

/// Keeps a static program from loading the C library's plug-ins for looking up hosts and users. In a container they
/// belong to another C library, and the two in one process end it at the first look-up (seen with 2.36 in a program
/// and 2.43 in an image). The ways that are built in stay: files, and DNS for hosts. To be called before any thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "functions of the C library that have no safe wrapper")]
pub fn keep_lookups_inside() {
    unsafe extern "C" {
        /// <nss.h>: replaces a line of /etc/nsswitch.conf for this process.
        fn __nss_configure_lookup(
            database: *const libc::c_char,
            services: *const libc::c_char,
        ) -> libc::c_int;
    }
    // SAFETY: it reads a value that the kernel gave to this process. Zero: there is no loader, so nothing is dynamic.
    if unsafe { libc::getauxval(libc::AT_BASE) } != 0 {
        return;
    }
    for (database, services) in [(c"hosts", c"files dns"), (c"passwd", c"files"), (c"group", c"files")] {
        // SAFETY: both texts end in NUL and live for ever. It cannot fail for a database that there is.
        unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}

/// Other C libraries have no such plug-ins.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_lookups_inside() {}

/// Gives memory that a burst needed back to the system: the C library keeps it for good otherwise.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a function of the C library that has no safe wrapper")]
pub fn give_back_memory() {
    // SAFETY: it takes no pointer, and is safe to call from any thread at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries give memory back by themselves, or never.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn give_back_memory() {}

/// The process that started another one: field 4 of `/proc/PID/stat`.
#[must_use]
pub fn parent_of(pid: i32) -> Option<i32> {
    stat_field(pid, 4)
}

/// A numeric field of `/proc/PID/stat`, counted from 1 as its manual does.
fn stat_field<T: FromStr>(pid: i32, field: usize) -> Option<T> {
    let [text] = stat_fields(pid, [field])?;
    text.parse().ok()
}

/// Several of them, as they were at one moment.
fn stat_fields<const N: usize>(pid: i32, fields: [usize; N]) -> Option<[String; N]> {
    let mut stat = [0; 1024];
    let read = fs::File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut stat).ok()?;
    // The second field is a name in parentheses that may itself hold blanks and parentheses, and any byte.
    let stat = stat.get(..read)?;
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let words: Vec<&str> =
        std::str::from_utf8(stat.get(after_name..)?).ok()?.split_ascii_whitespace().collect();
    let mut found = [const { String::new() }; N];
    for (text, field) in found.iter_mut().zip(fields) {
        (*words.get(field.checked_sub(3)?)?).clone_into(text);
    }
    Some(found)
}

/// Whether a process is stopped, as by a shell's ctrl-Z.
#[must_use]
pub fn is_stopped(pid: i32) -> bool {
    matches!(stat_field(pid, 3), Some('T' | 't'))
}

/// Whether a process has ended, and nobody has waited for it yet.
#[must_use]
pub fn has_ended(pid: i32) -> bool {
    matches!(stat_field(pid, 3), None | Some('Z' | 'X' | 'x'))
}

/// Clock ticks between boot and the start of a process: field 22 of `/proc/PID/stat`.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    stat_field(pid, 22)
}

/// The executable of a process, for the audit line; its short name where the kernel keeps the path from us, as
/// it does for our own helpers. Nothing is decided by it.
#[must_use]
pub fn program_of(pid: i32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).map(|path| path.to_string_lossy().into_owned());
    path.or_else(|_| fs::read_to_string(format!("/proc/{pid}/comm")))
        .ok()
        .map(|name| name.trim_end().to_owned())
}

/// What tells this start of the machine from any other.
#[must_use]
pub fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

/// Ends this process from a thread that is not the one which does the work.
#[expect(clippy::exit, reason = "the thread that should return to main may be blocked for ever")]
pub fn end_process(code: i32) -> ! {
    std::process::exit(code)
}

/// Has whatever descends from us, and loses its parent, become a child of ours.
pub fn adopt_orphans() {
    // An old kernel gives them to the first process, and then they are strangers.
    #[cfg(target_os = "linux")]
    let _ = process::set_child_subreaper(Some(process::getpid()));
}

/// Ends a process group that we started.
pub fn kill_group(leader: u32) {
    let Some(pid) = i32::try_from(leader).ok().and_then(process::Pid::from_raw) else { return };
    let _ = process::kill_process_group(pid, process::Signal::KILL);
}

/// Tells when files leave a directory, or it goes itself. The kernel tells; nothing polls.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub struct DirectoryWatch(AsyncFd<OwnedFd>);

#[cfg(target_os = "linux")]
impl DirectoryWatch {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the kernel has no watch left, or there is no such directory.
    #[expect(unsafe_code, reason = "tokio asks its caller to vouch for the descriptor")]
    pub fn new(directory: &Path) -> io::Result<Self> {
        let events = WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVE_SELF;
        let notifier = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&notifier, directory, events)?;
        // SAFETY: the descriptor is owned by the value that is registered, is non-blocking, and is closed by its
        // drop only, after tokio has deregistered it.
        Ok(Self(unsafe { AsyncFd::register(notifier) }?))
    }

    /// Waits for the next change.
    ///
    /// # Errors
    /// When the runtime ends.
    pub async fn next(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = [0; 4096];
        while rustix::io::read(self.0.get_ref(), &mut buffer).is_ok_and(|read| read > 0) {}
        ready.clear_ready();
        Ok(())
    }
}

/// Sets variables of this process, and takes out those without a value. Only while it has one thread: the C library's
/// functions read the environment whenever they like.
#[expect(unsafe_code, reason = "the caller vouches that no other thread reads the environment")]
#[expect(clippy::disallowed_methods, reason = "what changes is what `environment` says")]
pub fn change_environment(changes: &BTreeMap<OsString, Option<OsString>>) {
    for (name, value) in changes {
        // SAFETY: called first of all, before there is a second thread.
        unsafe {
            match value {
                Some(value) => std::env::set_var(name, value),
                None => std::env::remove_var(name),
            }
        }
    }
}

/// Whether two paths lead to the same file.
#[must_use]
pub fn same_file(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => one.dev() == other.dev() && one.ino() == other.ino(),
        _ => false,
    }
}

/// The one that this process was started with.
static UMASK: OnceLock<rustix::fs::Mode> = OnceLock::new();
/// The limits of open files that this process was started with, once they have been raised.
static DESCRIPTORS: OnceLock<Rlimit> = OnceLock::new();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_of_a_socket_pair_is_ourselves() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = peer_of(&one).unwrap();
        assert_eq!(peer.uid, own_uid());
        assert_eq!(u32::try_from(peer.pid).unwrap(), std::process::id());
    }
}
