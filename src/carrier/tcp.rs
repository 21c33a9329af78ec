//! TCP on loopback: a way to the daemon for clients that can speak to nothing else, and for whatever else runs on this
//! machine, a browser included. So three things are settled before a request is looked at: the address is loopback,
//! the other end belongs to a user who may ask, and the request was not made by a web page or passed on by a proxy.
//!
//! A page can have its name point at 127.0.0.1 and then is of one origin with us, so its requests are like any other but
//! for `Host`, which is therefore compared whole. Nothing here ever answers a preflight.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};

use hyper::header::{FORWARDED, HOST, HeaderMap, HeaderName, ORIGIN};
use thiserror::Error;

use crate::error::{Fault, Kind};

/// Why a request that came by TCP is not looked at.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TcpFault {
    /// A listener anywhere else would serve the network.
    #[error("{0} is not a loopback address")]
    NotLoopback(SocketAddr),
    /// No `Host`, several, or another name than ours: DNS rebinding looks like that.
    #[error("the request's Host is not this listener")]
    Host,
    /// Only web pages and proxies send it.
    #[error("requests with the header {0} are not answered here")]
    Header(String),
}

impl Fault for TcpFault {
    fn kind(&self) -> Kind {
        match self {
            Self::NotLoopback(_) => Kind::Configuration,
            Self::Host | Self::Header(_) => Kind::Refused,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotLoopback(_) => "use 127.0.0.1:PORT or [::1]:PORT".to_owned(),
            Self::Host => {
                "use the listener's address and port as the host: 127.0.0.1:PORT, for one".to_owned()
            }
            Self::Header(_) => return None,
        })
    }
}

/// Binds a listener that only this machine reaches.
///
/// # Errors
/// When the address is not loopback, is taken, or cannot be had.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_loopback() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, TcpFault::NotLoopback(address)));
    }
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether the headers of a request can be those of a client on this machine that means this listener.
///
/// # Errors
/// What tells that they are not.
pub fn check(headers: &HeaderMap, own: SocketAddr) -> Result<(), TcpFault> {
    let mut hosts = headers.get_all(HOST).iter();
    // A page can have its name lead here, but not an address.
    let named = |name: &[u8]| {
        let name = std::str::from_utf8(name).unwrap_or_default();
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let address: Option<IpAddr> = address.parse().ok();
        address.is_some_and(|address| own.ip().is_unspecified() || address == own.ip())
    };
    let ours = |host: &[u8]| {
        let name = host.strip_suffix(format!(":{}", own.port()).as_bytes());
        let of_loopback = |name: &[u8]| [&b"127.0.0.1"[..], b"localhost", b"[::1]"].contains(&name);
        name.is_some_and(|name| of_loopback(name) || (!own.ip().is_loopback() && named(name)))
    };
    if !hosts.next().is_some_and(|host| ours(host.as_bytes())) || hosts.next().is_some() {
        return Err(TcpFault::Host);
    }
    let foreign = |name: &&HeaderName| {
        *name == ORIGIN
            || *name == FORWARDED
            || name.as_str() == "x-forwarded-for"
            || name.as_str().starts_with("sec-fetch-")
    };
    match headers.keys().find(foreign) {
        Some(name) => Err(TcpFault::Header(name.to_string())),
        None => Ok(()),
    }
}

/// The user at the other end of an open connection between two addresses of this machine, by the kernel's table. Nobody
/// where the other end is in another network namespace, or has been closed. Reads a file that may be long.
#[must_use]
pub fn peer_uid(peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    // A client that speaks IPv6 and asks for 127.0.0.1 stands in the other table.
    ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().find_map(|path| {
        let table = fs::read_to_string(path).ok()?;
        uid_in(&table, peer, own)
    })
}

/// The same of a connection.
#[must_use]
pub fn peer_of(stream: &tokio::net::TcpStream) -> Option<u32> {
    peer_uid(stream.peer_addr().ok()?, stream.local_addr().ok()?)
}

/// Finds the other end's own line: its local address is what we call the peer's.
fn uid_in(table: &str, peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, remote, state, _, _, _, uid, _, inode, ..] = fields.as_slice() else { return None };
        // What is left of a closed one belongs to nobody, which the table writes as root.
        let open = OPEN.contains(state) && *inode != "0";
        let ours = open && same(address(local)?, peer) && same(address(remote)?, own);
        ours.then(|| uid.parse().ok()).flatten()
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

/// Established, or half closed by the peer, who still waits for our end.
const OPEN: [&str; 3] = ["01", "04", "05"];

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use hyper::header::HeaderValue;

    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_loopback_is_bound() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"] {
            assert_eq!(
                bind(address.parse().unwrap()).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{address}"
            );
        }
        assert!(bind("127.0.0.1:0".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_request_of_a_web_page_or_through_a_proxy_is_not_looked_at() {
        let loopback: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        for host in ["127.0.0.1:8080", "localhost:8080", "[::1]:8080"] {
            assert_eq!(check(&headers(&[("host", host)]), loopback), Ok(()), "{host}");
        }
        for host in [
            "",
            "localhost",
            "127.0.0.1",
            "localhost:80",
            "localhost:08080",
            "localhost:18080",
            "Localhost:8080",
            "localhost.:8080",
            "evil.test:8080",
            "evil.localhost:8080",
            "127.0.0.1.evil.test:8080",
            "localhost:8080:8080",
            "a@localhost:8080",
            "localhost:8080, evil.test",
            "::1:8080",
            "0.0.0.0:8080",
        ] {
            assert_eq!(check(&headers(&[("host", host)]), loopback), Err(TcpFault::Host), "{host}");
        }
        assert_eq!(check(&headers(&[]), loopback), Err(TcpFault::Host));
        let twice = [("host", "localhost:8080"), ("host", "localhost:8080")];
        assert_eq!(check(&headers(&twice), loopback), Err(TcpFault::Host));
        for name in ["origin", "sec-fetch-site", "sec-fetch-mode", "x-forwarded-for", "forwarded"] {
            let list = [("host", "localhost:8080"), (name, "none")];
            assert_eq!(check(&headers(&list), loopback), Err(TcpFault::Header(name.to_owned())));
        }
    }

    #[test]
    fn beyond_loopback_only_an_address_is_a_host() {
        let answers =
            |own: &str, host: &str| check(&headers(&[("host", host)]), own.parse().unwrap()).is_ok();
        assert!(answers("192.0.2.1:8080", "192.0.2.1:8080") && answers("192.0.2.1:8080", "localhost:8080"));
        assert!(answers("0.0.0.0:8080", "192.0.2.1:8080") && answers("[::]:8080", "[2001:db8::1]:8080"));
        for host in
            ["192.0.2.2:8080", "192.0.2.1", "192.0.2.1:80", "evil.test:8080", "192.0.2.1.evil.test:8080"]
        {
            assert!(!answers("192.0.2.1:8080", host), "{host}");
        }
        for host in ["evil.test:8080", "host.docker.internal:8080", "", ":8080", "[192.0.2.1:8080"] {
            assert!(!answers("0.0.0.0:8080", host), "{host}");
        }
        assert!(!answers("127.0.0.1:8080", "192.0.2.1:8080"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_other_end_is_known_by_the_kernels_table_while_it_is_open() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may have no IPv6.
            let Ok(listener) = bind(address.parse().unwrap()) else { continue };
            listener.set_nonblocking(false).unwrap();
            let own = listener.local_addr().unwrap();
            let client = TcpStream::connect(own).unwrap();
            let (server, peer) = listener.accept().unwrap();
            assert_eq!(peer_uid(peer, own), Some(crate::sys::own_uid()), "{address}");
            // Not by the line of our own end, nor for anybody else.
            assert_eq!(peer_uid(own, SocketAddr::new(peer.ip(), 1)), None);
            drop(client);
            assert_eq!(peer_uid(peer, own), None, "{address}");
            drop(server);
        }
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
        let found = |table: String| uid_in(&table, peer, own);
        assert_eq!(found(line("0100007F:C350", "0100007F:1F90", "01", "7")), Some(1000));
        assert_eq!(found(line("0100007F:C350", "0100007F:1F90", "04", "7")), Some(1000), "half closed");
        let mapped = "0000000000000000FFFF00000100007F";
        assert_eq!(found(line(&format!("{mapped}:C350"), &format!("{mapped}:1F90"), "01", "7")), Some(1000));
        for (local, remote, state, inode) in [
            ("0100007F:1F90", "0100007F:C350", "01", "7"),
            ("0200007F:C350", "0100007F:1F90", "01", "7"),
            ("0100007F:C351", "0100007F:1F90", "01", "7"),
            ("0100007F:C350", "0100007F:1F90", "06", "0"),
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
