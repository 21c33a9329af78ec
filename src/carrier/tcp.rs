//! TCP on loopback: a way to the daemon for clients that can speak to nothing else, and for whatever else runs on this
//! machine, a browser included. So three things are settled before a request is looked at: the address is loopback,
//! the other end belongs to a user who may ask (`sys::loopback_peer`), and the request was not made by a web page or
//! passed on by a proxy.
//!
//! A page can have its name point at 127.0.0.1 and then is of one origin with us, so its requests are like any other but
//! for `Host`, which is therefore compared whole. Nothing here ever answers a preflight.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

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

#[cfg(test)]
mod tests {
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
}
