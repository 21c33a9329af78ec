//! Where an answer may send a request on to, and whether the token goes along.
//!
//! Artifact Registry sends downloads to another path of the same host, which wants the token again, and images to a
//! signed address in Cloud Storage, which must not see it. Nothing else is followed: not http, not an address in place
//! of a name, not another host, however it is written. A token that was once left behind does not come back.

use hyper::Uri;
use hyper::header::HeaderValue;
use thiserror::Error;
use url::{Host, Url};

use crate::error::shown::shown;
use crate::error::{Fault, Kind};

/// The next request of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    pub uri: Uri,
    /// Whether it is made with the token.
    pub with_token: bool,
}

/// Why an answer's `Location` is not followed. Its path is never told: it may be a ticket.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RedirectFault {
    /// It cannot be read.
    #[error("{from} redirects to what is no address")]
    Nonsense { from: String },
    /// The token would travel in clear, or at least the file would.
    #[error("{from} redirects to {}, which is not https", shown(to))]
    Insecure { from: String, to: String },
    /// A number in the place of a name.
    #[error("{from} redirects to {}, which is an address and not a name", shown(to))]
    Literal { from: String, to: String },
    /// Somebody else.
    #[error("{from} redirects to {}, which is not allowed", shown(to))]
    Foreign { from: String, to: String },
    /// Its own host, and there a place that this request may not go to with its token.
    #[error("{from} redirects to a place of its own that is not granted here")]
    Beyond { from: String },
    /// It never ends.
    #[error("{from} redirects more than {MOST} times")]
    Endless { from: String },
}

impl Fault for RedirectFault {
    fn kind(&self) -> Kind {
        Kind::Upstream
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Foreign { to, .. } => {
                Some(format!("if that is right, name {to} under redirect_hosts in config.toml"))
            }
            _ => None,
        }
    }
}

/// Follows a `Location`. `allowed` are hosts beside Cloud Storage, with a port where it is not 443.
///
/// # Errors
/// When it leads where nothing may go.
pub fn follow(hop: &Hop, location: &HeaderValue, allowed: &[String]) -> Result<Hop, RedirectFault> {
    let from = hop.uri.host().unwrap_or_default().to_owned();
    let nonsense = || RedirectFault::Nonsense { from: from.clone() };
    let base = Url::parse(&hop.uri.to_string()).map_err(|_| nonsense())?;
    let mut next = location.to_str().ok().and_then(|text| base.join(text).ok()).ok_or_else(nonsense)?;
    next.set_fragment(None);
    let host = next.host().ok_or_else(nonsense)?;
    let port = next.port_or_known_default().ok_or_else(nonsense)?;
    let to = if port == 443 { host.to_string() } else { format!("{host}:{port}") };
    if next.scheme() != "https" {
        return Err(RedirectFault::Insecure { from, to });
    }
    if !next.username().is_empty() || next.password().is_some() {
        return Err(nonsense());
    }
    let same = base.origin() == next.origin();
    if !same {
        if !matches!(host, Host::Domain(_)) {
            return Err(RedirectFault::Literal { from, to });
        }
        if to != CLOUD_STORAGE && !allowed.contains(&to) {
            return Err(RedirectFault::Foreign { from, to });
        }
    }
    let uri = next.as_str().parse().map_err(|_| nonsense())?;
    Ok(Hop { uri, with_token: hop.with_token && same })
}

/// How often a request is sent on.
pub const MOST: usize = 5;
const CLOUD_STORAGE: &str = "storage.googleapis.com";

#[cfg(test)]
mod tests {
    use super::*;

    fn go(from: &str, with_token: bool, location: &str) -> Result<Hop, RedirectFault> {
        let hop = Hop { uri: from.parse().unwrap(), with_token };
        follow(&hop, &HeaderValue::from_str(location).unwrap(), &["files.corp.test:8443".to_owned()])
    }

    #[test]
    fn the_token_stays_with_its_origin() {
        let from = "https://us-python.pkg.dev/acme/private/hello/hello.whl";
        for (location, to, with_token) in [
            ("/artifacts-downloads/x?y=%2f#z", "https://us-python.pkg.dev/artifacts-downloads/x?y=%2f", true),
            ("other.whl", "https://us-python.pkg.dev/acme/private/hello/other.whl", true),
            ("https://US-python.pkg.dev:443/x", "https://us-python.pkg.dev/x", true),
            ("https://storage.googleapis.com/b/o?sig=a", "https://storage.googleapis.com/b/o?sig=a", false),
            ("https://files.corp.test:8443/x", "https://files.corp.test:8443/x", false),
        ] {
            let hop = go(from, true, location).unwrap();
            assert_eq!((hop.uri.to_string().as_str(), hop.with_token), (to, with_token), "{location}");
        }
        // Nor does it come back to whoever never had it.
        let hop = go("https://storage.googleapis.com/b/o", false, "/b/other").unwrap();
        assert!(!hop.with_token);
        let back = go("https://storage.googleapis.com/b/o", false, "https://us-python.pkg.dev/x");
        assert!(matches!(back, Err(RedirectFault::Foreign { .. })), "{back:?}");
    }

    #[test]
    fn nothing_else_is_followed() {
        let from = "https://us-python.pkg.dev/acme/private/hello/hello.whl";
        for location in [
            "http://us-python.pkg.dev/x",
            "http://storage.googleapis.com/x",
            "ftp://storage.googleapis.com/x",
            "file:///etc/passwd",
            "javascript:x",
            "//evil.test/x",
            "/\\evil.test/x",
            "https://evil.test/x",
            "https://us-python.pkg.dev.evil.test/x",
            "https://us-python.pkg.dev./x",
            "https://us-docker.pkg.dev/x",
            "https://us-python.pkg.dev:8443/x",
            "https://us-python.pkg.dev@evil.test/x",
            "https://u:p@us-python.pkg.dev/x",
            "https://storage.googleapis.com.evil.test/x",
            "https://storage.googleapis.com:8443/x",
            "https://a.storage.googleapis.com/x",
            "https://files.corp.test/x",
            "https://127.0.0.1/x",
            "https://127.1/x",
            "https://0x7f000001/x",
            "https://2130706433/x",
            "https://169.254.169.254/x",
            "https://[::1]/x",
            "https://[::ffff:127.0.0.1]/x",
            "https:///x",
            "https://",
        ] {
            assert!(go(from, true, location).is_err(), "{location}");
        }
        let ticket = go(from, true, "https://evil.test/ticket?secret=1").unwrap_err();
        assert!(!ticket.to_string().contains("ticket"), "{ticket}");
    }
}
