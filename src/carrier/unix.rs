//! The Unix socket, from both ends.
//!
//! The helper's end is blocking and bounded: `connect` itself can block on a Unix socket whose backlog is full, so
//! the time-outs are set before it. The daemon's end takes the place of a dead socket only while it holds the
//! lock, so that nobody's live socket is ever unlinked.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::sys::worker::touch;

/// Connects within `patience`, which then also bounds every read and write.
///
/// # Errors
/// When nobody listens, or the daemon is too busy to accept.
pub fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = new_socket()?;
    set_patience(&socket, patience)?;
    touch(path);
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// Bounds every further read and write on a connection.
///
/// # Errors
/// When the socket is closed.
pub fn set_patience(socket: impl AsFd, patience: Duration) -> io::Result<()> {
    let patience = Some(patience.max(Duration::from_millis(1)));
    set_socket_timeout(&socket, Timeout::Send, patience)?;
    set_socket_timeout(&socket, Timeout::Recv, patience)?;
    Ok(())
}

/// Binds a socket that only this user can reach, in place of a dead one. The caller holds the lock.
///
/// # Errors
/// When the directory does not take it.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = new_socket()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    // The kernel cuts this to net.core.somaxconn. A short backlog makes bursts of helpers fail.
    rustix::net::listen(&socket, 4096)?;
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Lets the kernel hold more of what is sent on a connection, so that a large frame of the agent carrier takes one
/// turn and not five. What it gives is bounded by `net.core.wmem_max`.
pub fn widen(socket: impl AsFd) {
    // Slower without, and no worse.
    let _ = set_socket_send_buffer_size(&socket, SEND_BUFFER);
}

/// Device and inode of a socket file, to see later whether the path still leads to us.
#[must_use]
pub fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|data| (data.dev(), data.ino()))
}

fn new_socket() -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    Ok(socket)
}

/// The kernel doubles it, for what it needs itself.
const SEND_BUFFER: usize = 640 << 10;
