//! Who is on the other end of a connection, by the kernel's word.

use std::os::fd::AsFd;

use tokio::net::TcpStream;

use crate::carrier::tcp::peer_of;
use crate::sys;

/// A peer at the time of its connect. The program is for the audit line only: nothing is decided by it.
#[derive(Debug, Clone)]
pub struct Peer {
    pub uid: u32,
    pub pid: i32,
    pub program: Option<String>,
    /// What started that program: pip behind its helper.
    pub parent: Option<String>,
}

impl Peer {
    /// Asks the kernel.
    #[must_use]
    pub fn of(socket: impl AsFd) -> Option<Self> {
        let peer = sys::peer_of(socket).ok()?;
        let name = |pid| sys::program_of(pid).map(|name| crate::error::printable(&name));
        let parent = sys::parent_of(peer.pid).and_then(name);
        Some(Self { uid: peer.uid, pid: peer.pid, program: name(peer.pid), parent })
    }

    /// Whose end of a loopback connection it is. Which process, the kernel's table does not say.
    #[must_use]
    pub fn of_tcp(stream: &TcpStream) -> Self {
        Self { uid: peer_of(stream).unwrap_or(UNKNOWN), pid: 0, program: None, parent: None }
    }
}

/// The uid of somebody whom the kernel does not know: on another machine, in another network namespace, or gone.
/// Nobody can have it.
pub const UNKNOWN: u32 = u32::MAX;
