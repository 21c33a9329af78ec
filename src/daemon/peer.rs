//! Who is on the other end of a connection, by the kernel's word.

use std::os::fd::AsFd;

use tokio::net::TcpStream;

use crate::error::Failure;
use crate::sys;
use crate::sys::loopback_peer::{LoopbackFault, loopback_peer_of};
use crate::sys::users::is_anybody;

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
        Some(Self { uid: known(peer.uid), pid: peer.pid, program: name(peer.pid), parent })
    }

    /// Whose end of a loopback connection it is. Which process, the kernel's table does not say.
    #[must_use]
    pub fn of_tcp(stream: &TcpStream) -> Self {
        let uid = loopback_peer_of(stream).map_or_else(unknown, |peer| known(peer.uid));
        Self { uid, pid: 0, program: None, parent: None }
    }
}

/// Whoever is refused then hears that he is not known; why, is this machine's business.
fn unknown(fault: LoopbackFault) -> u32 {
    if let LoopbackFault::Unreadable { .. } = fault {
        tracing::warn!(failure = %Failure::from(fault).one_line(), "a peer is refused");
    }
    UNKNOWN
}

/// In a user namespace one uid may stand for many users, and then for none of them.
fn known(uid: u32) -> u32 {
    if is_anybody(uid) { UNKNOWN } else { uid }
}

/// The uid of somebody whom the kernel does not know: on another machine, in another network namespace, without a
/// number in our user namespace, or gone. Nobody can have it.
pub const UNKNOWN: u32 = u32::MAX;
