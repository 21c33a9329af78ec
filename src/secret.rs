//! Secrets in memory: strings that cannot be printed and are wiped when dropped.
//!
//! A [`Secret`] has no `Display` and no `Serialize`, and its `Debug` shows no byte of it. Whoever needs the bytes
//! says so with [`Secret::expose`], which is easy to search for. Logs carry a [`Fingerprint`] instead.

use std::fmt;
use std::time::SystemTime;

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
}

impl AccessToken {
    #[must_use]
    pub fn new(secret: Secret, obtained: SystemTime, expires: SystemTime, identity: Option<String>) -> Self {
        let fingerprint = secret.fingerprint();
        Self { secret, fingerprint, obtained, expires, identity }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_byte_of_a_secret() {
        let secret = Secret::new("ya29.top".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        let token = AccessToken::new(secret, SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH, None);
        assert!(!format!("{token:?}").contains("ya29"));
    }

    #[test]
    fn fingerprint_is_eight_hex_digits_of_sha256() {
        assert_eq!(Fingerprint::of(b"abc").to_string(), "ba7816bf");
    }
}
