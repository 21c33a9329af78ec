//! Who holds the other end of a connection between two addresses of this machine, by the kernel's table.
//!
//! "It could not be looked up" is never told as "it is another user": the table may be out of reach (no `/proc`, no
//! descriptor left), and the line may be gone because its owner has closed the connection.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use thiserror::Error;
use tokio::net::TcpStream;

use crate::error::{Fault, Kind};

/// The owner of the other end. The uid is as the kernel shows it: see [`super::users`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopbackPeer {
    pub uid: u32,
    /// The number of the socket, by which its process can be found.
    pub inode: u64,
}

/// Why the owner is not known.
#[derive(Debug, Error)]
pub enum LoopbackFault {
    /// No `/proc`, no permission, or no descriptor left.
    #[error("cannot see whose connection this is: cannot read {path}")]
    Unreadable { path: &'static str, source: io::Error },
    /// The other end has been closed, or is in another network namespace.
    #[error("cannot see whose connection this is: its other end is closed, or in another network namespace")]
    Unseen,
}

impl LoopbackFault {
    /// Whether a descriptor was missing that another connection may give back.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if is_out_of_descriptors(source))
    }
}

impl Fault for LoopbackFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Unreadable { .. } => Kind::Local,
            Self::Unseen => Kind::Refused,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreadable { source, .. } if is_out_of_descriptors(source) => {
                "raise the limit of open files (`ulimit -n`)".to_owned()
            }
            Self::Unreadable { .. } => "mount /proc".to_owned(),
            Self::Unseen => return None,
        })
    }
}

/// Whether an act failed because this process, or the machine, has too many files open.
#[must_use]
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// The owner of the other end of a connection. Reads files that may be long.
///
/// # Errors
/// When it cannot be known.
pub fn loopback_peer_of(stream: &TcpStream) -> Result<LoopbackPeer, LoopbackFault> {
    let gone = |_| LoopbackFault::Unseen;
    find(stream.peer_addr().map_err(gone)?, stream.local_addr().map_err(gone)?)
}

fn find(peer: SocketAddr, own: SocketAddr) -> Result<LoopbackPeer, LoopbackFault> {
    for _ in 0..LOOKS {
        // A client that speaks IPv6 and asks for 127.0.0.1 stands in the other table.
        for path in TABLES {
            match fs::read_to_string(path) {
                Ok(table) => {
                    if let Some(found) = peer_in(&table, peer, own) {
                        return Ok(found);
                    }
                }
                // A machine without IPv6.
                Err(error) if path == TABLES[1] && error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(LoopbackFault::Unreadable { path, source }),
            }
        }
    }
    Err(LoopbackFault::Unseen)
}

/// Finds the other end's own line: its local address is what we call the peer's.
fn peer_in(table: &str, peer: SocketAddr, own: SocketAddr) -> Option<LoopbackPeer> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, remote, state, _, _, _, uid, _, inode, ..] = fields.as_slice() else { return None };
        let inode: u64 = inode.parse().ok()?;
        // What is left of a closed one belongs to nobody, which the table writes as root.
        let open = OPEN.contains(state) && inode != 0;
        let ours = open && same(address(local)?, peer) && same(address(remote)?, own);
        ours.then(|| Some(LoopbackPeer { uid: uid.parse().ok()?, inode })).flatten()
    })
}

fn same(one: SocketAddr, other: SocketAddr) -> bool {
    one.ip().to_canonical() == other.ip().to_canonical() && one.port() == other.port()
}

/// `0100007F:1F90`: words of the machine's own byte order, then a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let word = |at: usize| {
        let word = u32::from_str_radix(words.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip = match words.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The kernel gives the table in pieces, and a line may move from one that is still to come to one that is read.
const LOOKS: usize = 3;
/// Established, or half closed by the peer, who still waits for our end.
const OPEN: [&str; 3] = ["01", "04", "05"];

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_other_end_is_known_by_the_kernels_table_while_it_is_open() {
        for (address, from) in
            [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("127.0.0.1:0", "::ffff:127.0.0.1")]
        {
            // A machine may have no IPv6.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let own = listener.local_addr().unwrap();
            let Ok(client) = TcpStream::connect((from, own.port())) else { continue };
            let (server, peer) = listener.accept().unwrap();
            let found = find(peer, own).unwrap();
            assert_eq!(found.uid, crate::sys::own_uid(), "{address}");
            let link = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&client)));
            assert_eq!(link.unwrap().to_str(), Some(format!("socket:[{}]", found.inode).as_str()));
            // Not by the line of our own end, nor for anybody else.
            assert!(matches!(find(own, SocketAddr::new(peer.ip(), 1)), Err(LoopbackFault::Unseen)));
            drop(client);
            assert!(matches!(find(peer, own), Err(LoopbackFault::Unseen)), "{address}");
            drop(server);
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_somebody_else() {
        let source = || io::Error::from_raw_os_error(libc::EMFILE);
        let none_left = LoopbackFault::Unreadable { path: TABLES[0], source: source() };
        assert!(none_left.is_passing() && none_left.hint().unwrap().contains("ulimit -n"));
        let hidden =
            LoopbackFault::Unreadable { path: TABLES[0], source: io::ErrorKind::PermissionDenied.into() };
        assert!(!hidden.is_passing() && hidden.hint().unwrap().contains("/proc"));
        assert_eq!((hidden.kind(), LoopbackFault::Unseen.kind()), (Kind::Local, Kind::Refused));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_table_are_read_to_the_letter() {
        let line = |local: &str, remote: &str, state: &str, inode: &str| {
            format!(
                "head\n   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0 20 4 30 10 -1\n"
            )
        };
        let (peer, own) = ("127.0.0.1:50000".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
        let found = |table: String| peer_in(&table, peer, own);
        let wanted = Some(LoopbackPeer { uid: 1000, inode: 7 });
        assert_eq!(found(line("0100007F:C350", "0100007F:1F90", "01", "7")), wanted);
        assert_eq!(found(line("0100007F:C350", "0100007F:1F90", "04", "7")), wanted, "half closed");
        let mapped = "0000000000000000FFFF00000100007F";
        assert_eq!(found(line(&format!("{mapped}:C350"), &format!("{mapped}:1F90"), "01", "7")), wanted);
        for (local, remote, state, inode) in [
            ("0100007F:1F90", "0100007F:C350", "01", "7"),
            ("0200007F:C350", "0100007F:1F90", "01", "7"),
            ("0100007F:C351", "0100007F:1F90", "01", "7"),
            ("0100007F:C350", "0100007F:1F90", "06", "0"),
            ("0100007F:C350", "0100007F:1F90", "06", "7"),
            ("0100007F:C350", "0100007F:1F90", "02", "7"),
            ("0100007F:C350", "0100007F:1F90", "01", "0"),
            ("0100007F", "0100007F:1F90", "01", "7"),
            ("XX00007F:C350", "0100007F:1F90", "01", "7"),
        ] {
            assert_eq!(found(line(local, remote, state, inode)), None, "{local} {remote} {state} {inode}");
        }
        assert_eq!(found(String::new()), None);
    }
}
