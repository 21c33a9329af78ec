//! What the daemon lets this process have: the answer to `GET /v1/grant`, which is asked before a command is wired.
//!
//! Nothing is decided by it. The daemon checks each request again; this says which hosts are worth leading to it.

use std::fmt;
use std::net::Ipv4Addr;

use serde::Deserialize;

use crate::ask::Access;
use crate::error::printable;
use crate::error::shown::shown;

/// See the module. Keys that are not known here come from a newer daemon and mean nothing to us.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Granted {
    /// Requests that the daemon makes in our place.
    pub proxy: Option<Proxied>,
    /// The widest access of a token that is handed out.
    pub credential: Option<Access>,
    /// Whether it serves a Python index.
    #[serde(default)]
    pub index: bool,
    /// How to be granted a repository, in a sentence.
    #[serde(default)]
    pub remedy: Option<String>,
    /// Of the daemon; an older one does not say.
    #[serde(default)]
    pub version: Option<String>,
}

impl Granted {
    /// What to tell whoever runs another version than the daemon's inside of a build: an image that was loaded once stays
    /// in use when valetkey is updated outside.
    #[must_use]
    pub fn outdated(&self) -> Option<String> {
        let (theirs, ours) = (self.version.as_deref()?, env!("CARGO_PKG_VERSION"));
        (theirs != ours).then(|| {
            format!(
                "this is valetkey {ours}, and the daemon outside is {}: where the program was loaded as an image, load \
                 it again there: `valetkey docker image | docker load`",
                printable(theirs)
            )
        })
    }
}

/// Which requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Proxied {
    pub access: Access,
    pub hosts: Vec<HostPattern>,
    /// None for every repository that the identity may reach.
    pub repositories: Option<Vec<String>>,
}

/// A host, or all hosts below a name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum HostPattern {
    /// `HOST`, which stands for port 443, or `HOST:PORT`.
    Exact { host: String, port: u16 },
    /// `*.SUFFIX`: any name below it, on port 443.
    Below(String),
}

impl HostPattern {
    /// Whether a host, in lower case, is meant.
    #[must_use]
    pub fn covers(&self, host: &str, port: u16) -> bool {
        match self {
            Self::Exact { host: own, port: own_port } => own == host && *own_port == port,
            Self::Below(suffix) => port == 443 && is_below(host, suffix),
        }
    }

    /// The name, without the port: what a certificate speaks of.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Exact { host, .. } => host,
            Self::Below(suffix) => suffix,
        }
    }

    /// The address, where a host is named by one.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.name().parse().ok()
    }
}

/// Whether a name stands below another one, label by label.
#[must_use]
pub fn is_below(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

impl TryFrom<String> for HostPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{:?} is not a host", shown(&text));
        if let Some(suffix) = text.strip_prefix("*.") {
            // A whole top-level domain would be too much, whoever says it.
            return if is_name(suffix) && suffix.contains('.') {
                Ok(Self::Below(suffix.to_owned()))
            } else {
                Err(wrong())
            };
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?),
            None => (text.as_str(), 443),
        };
        if is_name(host) { Ok(Self::Exact { host: host.to_owned(), port }) } else { Err(wrong()) }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact { host, port: 443 } => f.write_str(host),
            Self::Exact { host, port } => write!(f, "{host}:{port}"),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// A DNS name in lower case.
fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(inner);
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        HostPattern::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn a_grant_is_read_as_the_daemon_writes_it() {
        let text = r#"{"proxy": {"access": "read", "hosts": ["us-python.pkg.dev", "*.pkg.dev", "localhost:8443"],
            "repositories": ["us/acme/private"]}, "credential": null, "index": true, "later": 1}"#;
        let granted: Granted = serde_json::from_str(text).unwrap();
        let proxied = granted.proxy.unwrap();
        assert_eq!((proxied.access, granted.credential, granted.index), (Access::Read, None, true));
        let hosts: Vec<String> = proxied.hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["us-python.pkg.dev", "*.pkg.dev", "localhost:8443"]);
        let text = r#"{"proxy": null, "credential": "write"}"#;
        let granted: Granted = serde_json::from_str(text).unwrap();
        assert_eq!((granted.credential, granted.outdated()), (Some(Access::Write), None));
        let of = |version: &str| Granted { version: Some(version.to_owned()), ..granted.clone() }.outdated();
        assert_eq!(of(env!("CARGO_PKG_VERSION")), None);
        assert!(of("9.9.9").unwrap().contains("the daemon outside is 9.9.9"));
    }

    #[test]
    fn hosts_are_compared_whole() {
        let covers = |text: &str, host: &str, port| pattern(text).covers(host, port);
        assert!(covers("*.pkg.dev", "us-python.pkg.dev", 443));
        assert!(covers("*.pkg.dev", "python.us.rep.pkg.dev", 443));
        assert!(covers("localhost:8443", "localhost", 8443));
        assert!(covers("us-python.pkg.dev", "us-python.pkg.dev", 443));
        for (text, host, port) in [
            ("*.pkg.dev", "pkg.dev", 443),
            ("*.pkg.dev", ".pkg.dev", 443),
            ("*.pkg.dev", "evilpkg.dev", 443),
            ("*.pkg.dev", "us-python.pkg.dev.evil.test", 443),
            ("*.pkg.dev", "us-python.pkg.dev", 8443),
            ("us-python.pkg.dev", "us-python.pkg.dev", 8443),
            ("us-python.pkg.dev", "pdm-pypi-us-python.pkg.dev", 443),
            ("localhost:8443", "localhost", 443),
        ] {
            assert!(!covers(text, host, port), "{text} {host}:{port}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in
            ["", "*", "*.", "*.dev", "*.*.dev", "a b.dev", "Us.pkg.dev", "a.dev:", "a.dev:0", "a.dev:x"]
        {
            assert!(HostPattern::try_from(text.to_owned()).is_err(), "{text:?}");
        }
        for text in ["a..dev", "a.dev:1:2", "[::1]:443", "a.dev/x", "u@a.dev", "*.a.dev:8443", "a.dev."] {
            assert!(HostPattern::try_from(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
