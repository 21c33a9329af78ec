//! A registry host beyond Google's own, which only the configuration file can name, and the grammar of such a name.

use serde::{Deserialize, Deserializer};

use super::{Format, is_label};
use crate::error::shown::shown;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraRegistry {
    /// `host` or `host:port`, exactly as clients write it.
    #[serde(deserialize_with = "host_and_port")]
    pub host: String,
    #[serde(default)]
    pub format: Format,
}

/// Reads `host` or `host:port` from a configuration file.
///
/// # Errors
/// When the text is neither.
pub fn host_and_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_host_and_port(&text) {
        Ok(text)
    } else {
        let text = shown(&text);
        Err(serde::de::Error::custom(format!("{text:?} is not a lower-case host or host:port")))
    }
}

/// Whether a text is a lower-case `host` or `host:port`, written in the one way in which it stands in URLs.
#[must_use]
pub fn is_host_and_port(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "443"));
    let is_port = port.parse::<u16>().is_ok_and(|number| number != 0 && number.to_string() == port);
    host.len() <= LONGEST_HOST && host.split('.').all(is_label) && is_port
}

/// RFC 1035, 2.3.4, without the dot of the root.
const LONGEST_HOST: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_written_in_one_way() {
        for text in ["packages.corp.test", "localhost:8443", "127.0.0.1:8443", "a-b.test:1"] {
            assert!(is_host_and_port(text), "{text}");
        }
        for text in [
            "",
            ":8443",
            "A.test",
            "a.test:",
            "a.test:0",
            "a.test:+1",
            "a.test:08443",
            "a.test:99999",
            "a..test",
            "a.test.",
            "-a.test",
            "a-.test",
            "xn--a.test",
            "https://a.test",
            "a.test/x",
            "u@a.test",
            "*.a.test",
            "[::1]:1",
        ] {
            assert!(!is_host_and_port(text), "{text:?}");
        }
        assert!(!is_host_and_port(&format!("{}test", "a.".repeat(130))));
    }
}
