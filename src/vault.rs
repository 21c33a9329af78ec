//! The vault: where the refresh tokens of `valetkey login` rest.
//!
//! Two vaults: the keychain of the desktop (Secret Service, macOS Keychain, Windows Credential Manager), and, where
//! there is none, a file that only its owner can read. Every act has a deadline, and ends by it.
//!
//! A write is durable and has been read back before it says so, and leaves the old secret or the new one whatever
//! happens in the middle of it. A vault that is there and says no is an error with its remedy: nothing in here goes
//! from one vault to the other by itself. No secret ever stands in an argument, an environment or an error.

mod fault;
mod file;
mod keychain;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use zeroize::Zeroizing;

pub use fault::VaultFault;
#[cfg(not(target_os = "macos"))]
pub use keychain::serve_child;

use crate::ask::Access;
use crate::environment::Environment;
use crate::secret::{Secret, digest_word};

/// Where a login's secret rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vault {
    Keychain,
    File,
}

impl Vault {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Keychain => "keychain",
            Self::File => "file",
        }
    }
}

/// Names one secret: the account and the access that its refresh token was granted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    pub account: String,
    pub access: Access,
}

impl Entry {
    /// The user name under which a keychain knows it.
    fn user(&self) -> String {
        format!("{} {}", self.account, self.access.word())
    }

    /// What files that belong to it are named by.
    #[must_use]
    pub fn digest(&self) -> String {
        digest_word(self.user().as_bytes())
    }
}

/// What is kept: a refresh token, and the client that it was given to, without which Google does not take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSecret {
    pub refresh_token: Secret,
    pub client_id: String,
    pub client_secret: Secret,
}

impl StoredSecret {
    /// The JSON object that rests in the vault; none where it is too large for one.
    fn to_json(&self) -> Option<Zeroizing<Vec<u8>>> {
        let wire = SecretWire::from(self);
        let length = wire.refresh_token.len() + wire.client_id.len() + wire.client_secret.len();
        // A vector that grows leaves copies behind. JSON makes six bytes of one at the worst.
        let mut json = Zeroizing::new(Vec::with_capacity(LARGEST));
        (length <= LARGEST / 8 && serde_json::to_writer(&mut *json, &wire).is_ok()).then_some(json)
    }

    /// Reads that JSON object. Unknown members are ignored: a newer valetkey may have written some.
    fn from_json(json: &[u8]) -> Option<Self> {
        serde_json::from_slice::<SecretWire<'_>>(json).ok()?.into_secret()
    }
}

#[derive(Serialize, Deserialize)]
struct SecretWire<'a> {
    #[serde(borrow)]
    refresh_token: Cow<'a, str>,
    #[serde(borrow)]
    client_id: Cow<'a, str>,
    #[serde(borrow)]
    client_secret: Cow<'a, str>,
}

impl<'a> From<&'a StoredSecret> for SecretWire<'a> {
    fn from(secret: &'a StoredSecret) -> Self {
        Self {
            refresh_token: secret.refresh_token.expose().into(),
            client_id: secret.client_id.as_str().into(),
            client_secret: secret.client_secret.expose().into(),
        }
    }
}

impl SecretWire<'_> {
    fn into_secret(self) -> Option<StoredSecret> {
        (!self.refresh_token.is_empty()).then(|| StoredSecret {
            refresh_token: Secret::new(self.refresh_token.into_owned()),
            client_id: self.client_id.into_owned(),
            client_secret: Secret::new(self.client_secret.into_owned()),
        })
    }
}

/// Both vaults of this user.
#[derive(Debug, Clone)]
pub struct Vaults {
    keychain: keychain::Keychain,
    files: file::Files,
}

impl Vaults {
    /// The vaults of the user whose environment and state directory these are.
    #[must_use]
    pub fn new(environment: &Environment, state: &Path) -> Self {
        Self::with_program(environment, state, keychain::own_program())
    }

    /// The same with the program that asks the keychain in our place.
    #[must_use]
    pub fn with_program(environment: &Environment, state: &Path, program: PathBuf) -> Self {
        Self {
            keychain: keychain::Keychain::new(environment, state, program),
            files: file::Files::new(state),
        }
    }

    /// The secret of this name.
    ///
    /// # Errors
    /// Missing where there is none; else what keeps the vault from giving it.
    pub async fn read(
        &self,
        vault: Vault,
        entry: &Entry,
        until: Instant,
    ) -> Result<StoredSecret, VaultFault> {
        match vault {
            Vault::Keychain => self.keychain.read(entry, until).await,
            Vault::File => self.files.read(entry, until).await,
        }
    }

    /// Puts a secret in the place of the one of this name: durable, and read back before it says so.
    ///
    /// # Errors
    /// When the vault does not take it. What it holds then is the old secret or the new one.
    pub async fn write(
        &self,
        vault: Vault,
        entry: &Entry,
        secret: &StoredSecret,
        until: Instant,
    ) -> Result<(), VaultFault> {
        match vault {
            Vault::Keychain => self.keychain.write(entry, secret, until).await,
            Vault::File => self.files.write(entry, secret, until).await,
        }
    }

    /// Removes the secret of this name. That there is none is no error.
    ///
    /// # Errors
    /// When the vault does not let it go.
    pub async fn delete(&self, vault: Vault, entry: &Entry, until: Instant) -> Result<(), VaultFault> {
        match vault {
            Vault::Keychain => self.keychain.delete(entry, until).await,
            Vault::File => self.files.delete(entry, until).await,
        }
    }

    /// Whether the vault would take a secret now, found out by giving it one that is none and taking that away
    /// again. It unlocks a keychain where a desktop can ask for the password, so that no sign-in fails at its end.
    ///
    /// # Errors
    /// When the vault would not.
    pub async fn probe(&self, vault: Vault, until: Instant) -> Result<(), VaultFault> {
        match vault {
            Vault::Keychain => self.keychain.probe(until).await,
            Vault::File => self.files.probe(until).await,
        }
    }
}

/// The largest JSON object that rests in a vault. Google's refresh tokens have 512 bytes at most.
const LARGEST: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(refresh_token: &str, client_id: &str, client_secret: &str) -> StoredSecret {
        StoredSecret {
            refresh_token: Secret::new(refresh_token.to_owned()),
            client_id: client_id.to_owned(),
            client_secret: Secret::new(client_secret.to_owned()),
        }
    }

    #[test]
    fn debug_shows_no_byte_of_a_stored_secret() {
        let shown = format!("{:?}", secret("refreshing", "id", "shibboleth"));
        assert!(!shown.contains("refreshing") && !shown.contains("shibboleth"), "{shown}");
    }

    #[test]
    fn a_stored_secret_has_the_documented_members() {
        let json = secret("1//r", "id", "s").to_json().unwrap();
        assert_eq!(
            std::str::from_utf8(&json).unwrap(),
            r#"{"refresh_token":"1//r","client_id":"id","client_secret":"s"}"#
        );
        let newer = br#"{"refresh_token":"1\/\/r","client_id":"id","client_secret":"s","granted":1}"#;
        assert_eq!(StoredSecret::from_json(newer), Some(secret("1//r", "id", "s")));
    }

    #[test]
    fn what_is_no_secret_is_none() {
        for json in ["", "{}", "[]", r#"{"refresh_token":"","client_id":"","client_secret":""}"#] {
            assert_eq!(StoredSecret::from_json(json.as_bytes()), None, "{json}");
        }
        assert!(secret(&"x".repeat(LARGEST), "", "").to_json().is_none());
    }

    proptest! {
        #[test]
        fn stored_secret_survives_json(token in ".{1,200}", id in ".{0,80}", word in ".{0,80}") {
            let given = secret(&token, &id, &word);
            let json = given.to_json().unwrap();
            prop_assert!(json.len() <= LARGEST);
            prop_assert_eq!(StoredSecret::from_json(&json), Some(given));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = StoredSecret::from_json(&bytes);
        }
    }
}
