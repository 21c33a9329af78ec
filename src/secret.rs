//! Secrets in memory: strings that cannot be printed and are wiped when dropped.
//!
//! A [`Secret`] has no `Display` and no `Serialize`, and its `Debug` shows no byte of it. Whoever needs the bytes
//! says so with [`Secret::expose`], which is easy to search for. Logs carry a [`Fingerprint`] instead.

use std::fmt;
use std::time::{Duration, SystemTime};

use ring::digest;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A string that nobody may see.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The bytes, for the one place that has to send them.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

/// The first 32 bits of a SHA-256: enough to tell two tokens apart in a log, useless for anything else.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(u32);

impl Fingerprint {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, bytes);
        let first = hash.as_ref().iter().take(4).fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        Self(first)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A word of 32 hex digits that stands for some text, for the name of a file.
#[must_use]
pub fn digest_word(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().iter().take(16).fold(String::new(), |word, byte| format!("{word}{byte:02x}"))
}

/// A short-lived credential and what is known about it.
#[derive(Debug, Clone)]
pub struct AccessToken {
    pub secret: Secret,
    pub fingerprint: Fingerprint,
    /// When this process got it, by the wall clock.
    pub obtained: SystemTime,
    /// When Google stops accepting it, by the wall clock.
    pub expires: SystemTime,
    /// The e-mail address that it speaks for, where the source tells.
    pub identity: Option<String>,
    /// Whether its scope is the one that was asked for and no wider, as far as the source can tell.
    pub narrowed: bool,
}

impl AccessToken {
    /// Takes what a source says, if it can be a token: something that fits into a header and into one line, and
    /// that lives. No token of Google's lives longer than twelve hours, whatever a clock or a program claims.
    #[must_use]
    pub fn new(secret: Secret, obtained: SystemTime, expires: SystemTime) -> Option<Self> {
        let text = secret.expose();
        let fits =
            (1..=LONGEST_TOKEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        let expires = expires.min(obtained.checked_add(LONGEST_LIFE)?);
        let fingerprint = secret.fingerprint();
        (fits && expires > obtained).then_some(Self {
            secret,
            fingerprint,
            obtained,
            expires,
            identity: None,
            narrowed: false,
        })
    }

    /// The same, from a source that gave the scope that was asked for and no other.
    #[must_use]
    pub fn with_narrowed(mut self, narrowed: bool) -> Self {
        self.narrowed = narrowed;
        self
    }

    /// The same with an identity, if that is an e-mail address and nothing that could drive a terminal.
    #[must_use]
    pub fn with_identity(mut self, identity: Option<String>) -> Self {
        let plain = |text: &String| {
            text.contains('@') && text.len() < 320 && !text.contains(|c: char| c.is_control() || c == ' ')
        };
        self.identity = identity.filter(plain);
        self
    }
}

const LONGEST_TOKEN: usize = 16 << 10;
const LONGEST_LIFE: Duration = Duration::from_secs(12 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_byte_of_a_secret() {
        let secret = Secret::new("ya29.top".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        let now = SystemTime::UNIX_EPOCH;
        let token = AccessToken::new(secret, now, now + Duration::from_secs(1)).unwrap();
        assert!(!format!("{token:?}").contains("ya29"));
    }

    #[test]
    fn what_cannot_be_a_token_is_none() {
        let now = SystemTime::UNIX_EPOCH;
        let token = |text: &str, life| {
            AccessToken::new(Secret::new(text.into()), now, now + Duration::from_secs(life))
        };
        assert!(token("ya29.a", 1).is_some());
        assert!(token("ya29.a", 0).is_none());
        for text in ["", "a b", "a\n", "a\u{1b}[2J", "ä", &"x".repeat(LONGEST_TOKEN + 1)] {
            assert!(token(text, 1).is_none(), "{text:?}");
        }
        assert_eq!(token("a", 1 << 40).unwrap().expires, now + LONGEST_LIFE);
        let shown = |identity: &str| token("a", 1).unwrap().with_identity(Some(identity.into())).identity;
        assert_eq!(shown("a@example.test").as_deref(), Some("a@example.test"));
        assert_eq!((shown("a@b\u{1b}[2J"), shown("nobody")), (None, None));
    }

    #[test]
    fn fingerprint_is_eight_hex_digits_of_sha256() {
        assert_eq!(Fingerprint::of(b"abc").to_string(), "ba7816bf");
    }
}
