//! Where the secrets of stored logins rest.
use crate::ask::Access;
use crate::environment::Environment;
use crate::error::{Fault, Kind};
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use thiserror::Error;
use tokio::time::Instant;
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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    pub account: String,
    pub access: Access,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSecret {
    pub refresh_token: Secret,
    pub client_id: String,
    pub client_secret: Secret,
}
#[derive(Debug, Clone)]
pub struct Vaults {
    state: PathBuf,
}
#[derive(Debug, Error)]
pub enum VaultFault {
    #[error("missing")]
    Missing,
    #[error("no keychain")]
    NoKeychain,
    #[error("io")]
    Io,
}
impl VaultFault {
    #[must_use]
    pub fn is_absent_keychain(&self) -> bool {
        matches!(self, Self::NoKeychain)
    }
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }
}
impl Fault for VaultFault {
    fn kind(&self) -> Kind {
        Kind::Local
    }
}
impl Vaults {
    #[must_use]
    pub fn new(_e: &Environment, state: &Path) -> Self {
        Self { state: state.to_owned() }
    }
    fn f(&self, e: &Entry) -> PathBuf {
        self.state.join("logins").join(format!(
            "{}.json",
            crate::secret::digest_word(format!("{} {}", e.account, e.access.word()).as_bytes())
        ))
    }
    pub async fn read(&self, v: Vault, e: &Entry, _u: Instant) -> Result<StoredSecret, VaultFault> {
        if v == Vault::Keychain {
            return Err(VaultFault::NoKeychain);
        }
        let t = std::fs::read(self.f(e)).map_err(|_| VaultFault::Missing)?;
        let v: serde_json::Value = serde_json::from_slice(&t).map_err(|_| VaultFault::Io)?;
        let g = |n: &str| v[n].as_str().unwrap_or_default().to_owned();
        Ok(StoredSecret {
            refresh_token: Secret::new(g("refresh_token")),
            client_id: g("client_id"),
            client_secret: Secret::new(g("client_secret")),
        })
    }
    pub async fn write(&self, v: Vault, e: &Entry, s: &StoredSecret, _u: Instant) -> Result<(), VaultFault> {
        if v == Vault::Keychain {
            return Err(VaultFault::NoKeychain);
        }
        let _ = std::fs::create_dir_all(self.state.join("logins"));
        let j = serde_json::json!({"refresh_token": s.refresh_token.expose(), "client_id": s.client_id, "client_secret": s.client_secret.expose()});
        crate::durable::replace(&self.f(e), j.to_string().as_bytes()).map_err(|_| VaultFault::Io)
    }
    pub async fn delete(&self, v: Vault, e: &Entry, _u: Instant) -> Result<(), VaultFault> {
        if v == Vault::Keychain {
            return Err(VaultFault::NoKeychain);
        }
        let _ = std::fs::remove_file(self.f(e));
        Ok(())
    }
    pub async fn probe(&self, v: Vault, _u: Instant) -> Result<(), VaultFault> {
        if v == Vault::Keychain { Err(VaultFault::NoKeychain) } else { Ok(()) }
    }
}
