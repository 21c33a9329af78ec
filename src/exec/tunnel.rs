//! What a `CONNECT` asks for, and the way to a host that is none of ours: straight, or by the proxy that the
//! environment names, and nothing in between is read or changed.

use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::Uri;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::timeout;
use tower_service::Service;

use crate::error::shown::shown;
use crate::error::{Fault, Kind};
use crate::http::proxy::ProxyConnector;
use crate::http::reached::Reached;

/// The host and port of a `CONNECT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// In lower case; an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
}

impl Destination {
    /// Reads `HOST:PORT` as RFC 9110 7.1 writes it, and nothing that could be read in another way: no user name, no
    /// escape, no missing port.
    #[must_use]
    pub fn parse(authority: &str) -> Option<Self> {
        if authority.len() > LONGEST {
            return None;
        }
        let (host, port) = authority.rsplit_once(':')?;
        let digits = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits)?;
        if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            let address: Ipv6Addr = address.parse().ok()?;
            return Some(Self { host: address.to_string(), port });
        }
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(inner);
        let name = host.strip_suffix('.').unwrap_or(host);
        name.split('.').all(label).then(|| Self { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why there is no way.
#[derive(Debug, Error)]
pub enum TunnelFault {
    /// No name, no route, nobody listening, or a proxy that refuses.
    #[error("cannot reach {}: {problem}", shown(&to.to_string()))]
    Connect { to: Destination, problem: String },
    /// Nothing but loopback is connected to this machine.
    #[error("cannot reach {}{}: there is no network here, only loopback", shown(&to.to_string()), by(proxy.as_deref()))]
    Network { to: Destination, proxy: Option<String> },
    /// Nothing came in time.
    #[error("{} did not answer within {} s", shown(&to.to_string()), CONNECT.as_secs())]
    Deadline { to: Destination },
    /// A proxy behind TLS, where nobody has said which certificates it may show.
    #[error("the proxy for {} cannot be spoken to", shown(&to.to_string()))]
    Proxy { to: Destination },
}

impl Fault for TunnelFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Connect { .. } | Self::Network { .. } => Kind::Unreachable,
            Self::Deadline { .. } => Kind::Deadline,
            Self::Proxy { .. } => Kind::Configuration,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Network { .. } => {
                "give this step a network, or take out of the command what asks for that host"
            }
            Self::Connect { .. } | Self::Deadline { .. } => {
                "check the network of this container, and HTTPS_PROXY where a proxy is needed"
            }
            Self::Proxy { .. } => return None,
        };
        Some(text.to_owned())
    }
}

fn by(proxy: Option<&str>) -> String {
    proxy.map(|proxy| format!(" by the proxy {proxy}")).unwrap_or_default()
}

/// Opens the way to a destination.
///
/// # Errors
/// When there is none in time.
pub async fn open(connector: &ProxyConnector, to: &Destination) -> Result<Reached, TunnelFault> {
    let connect = |problem: String| TunnelFault::Connect { to: to.clone(), problem };
    let uri: Uri = format!("https://{to}/").parse().map_err(|_| connect("it is no address".to_owned()))?;
    if !connector.can_reach(&uri) {
        return Err(TunnelFault::Proxy { to: to.clone() });
    }
    let opened = timeout(CONNECT, connector.clone().call(uri)).await;
    let opened = opened.map_err(|_| TunnelFault::Deadline { to: to.clone() })?;
    opened.map(TokioIo::into_inner).map_err(|error| connect(innermost(error.as_ref())))
}

/// Moves bytes both ways until both sides have ended.
///
/// # Errors
/// When one side broke, or nothing has moved for an hour.
pub async fn pump(one: impl AsyncRead + AsyncWrite, other: impl AsyncRead + AsyncWrite) -> io::Result<()> {
    let ((from_one, to_one), (from_other, to_other)) = (split(one), split(other));
    let moved = AtomicU64::new(0);
    // An error in one direction is the end of both: there is nobody to answer.
    tokio::try_join!(copy(from_one, to_other, &moved), copy(from_other, to_one, &moved)).map(drop)
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let seen = moved.load(Ordering::Relaxed);
        let read = match timeout(IDLE, from.read(&mut buffer)).await {
            Ok(read) => read?,
            // The other direction may be the busy one.
            Err(_) if moved.load(Ordering::Relaxed) > seen => continue,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        if read == 0 {
            return to.shutdown().await;
        }
        moved.fetch_add(read as u64, Ordering::Relaxed);
        timeout(IDLE, to.write_all(&buffer[..read])).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
}

/// The innermost cause says what happened; the outer ones only repeat that something did.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    crate::error::printable(&last.to_string())
}

const CONNECT: Duration = Duration::from_secs(20);
const IDLE: Duration = Duration::from_secs(3600);
const BUFFER: usize = 32 << 10;
/// A name of 253 bytes, a port, and what stands between them.
const LONGEST: usize = 262;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_destination_is_read_in_one_way_only() {
        for (text, host, port) in [
            ("us-python.pkg.dev:443", "us-python.pkg.dev", 443),
            ("US-Python.PKG.dev:443", "us-python.pkg.dev", 443),
            ("127.0.0.1:8443", "127.0.0.1", 8443),
            ("[::1]:443", "::1", 443),
            ("a_b.test.:1", "a_b.test.", 1),
        ] {
            let read = Destination::parse(text).unwrap();
            assert_eq!((read.host.as_str(), read.port), (host, port), "{text}");
        }
        for text in [
            "",
            ":443",
            "a.test",
            "a.test:",
            "a.test:0",
            "a.test:0443",
            "a.test:+443",
            "a.test:65536",
            "u@a.test:443",
            "u:p@a.test:443",
            "a.test:443@b.test:443",
            "a.test\r\nx:443",
            "a test:443",
            "a.test/x:443",
            "a.test?x:443",
            "a%2etest:443",
            "a..test:443",
            ".test:443",
            "::1:443",
            "[::1]443",
            "[::1%lo]:443",
            "[a.test]:443",
            "ä.test:443",
        ] {
            assert_eq!(Destination::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_read_is_written_and_read_again(text in "[\\[\\]:.@%a-zA-Z0-9_-]{0,40}") {
            if let Some(read) = Destination::parse(&text) {
                prop_assert_eq!(Destination::parse(&read.to_string()), Some(read));
            }
        }
    }
}
