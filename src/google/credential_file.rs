//! A credential file of Google's: what type it is, and whether it may be used at all.
//!
//! A file that is named and missing, unreadable or malformed is an error that names it. What it would send where
//! is checked here, before any of it is used.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::Deserialize;

use super::endpoints::Endpoints;
use super::source::SourceFault;
use crate::paths::read_regular;
use crate::secret::Secret;

/// A credential that can be used.
#[derive(Debug)]
pub enum CredentialFile {
    ServiceAccount(ServiceAccountKey),
    AuthorizedUser(AuthorizedUser),
}

/// A service account's key. The whole file is kept, since `gcp_auth` reads it itself.
#[derive(Debug)]
pub struct ServiceAccountKey {
    pub email: String,
    pub token_uri: String,
    pub private_key: Secret,
    pub json: Secret,
}

/// What `gcloud auth application-default login` writes.
#[derive(Debug)]
pub struct AuthorizedUser {
    pub client_id: String,
    pub client_secret: Secret,
    pub refresh_token: Secret,
    pub account: Option<String>,
}

impl CredentialFile {
    /// Reads a file that somebody named.
    ///
    /// # Errors
    /// When it is missing or cannot be used.
    pub fn read(path: &Path, endpoints: &Endpoints) -> Result<Self, SourceFault> {
        let text = read_regular(path, LARGEST)
            .map_err(|source| SourceFault::Unreadable { path: path.to_owned(), source })?;
        Self::parse(path, &Secret::new(text), endpoints)
    }

    fn parse(path: &Path, text: &Secret, endpoints: &Endpoints) -> Result<Self, SourceFault> {
        let malformed =
            |problem: &str| SourceFault::Malformed { path: path.to_owned(), problem: problem.into() };
        if text.expose().trim().is_empty() {
            return Err(malformed("is empty"));
        }
        // serde's own message could quote a part of the file.
        let fields: Fields = serde_json::from_str(text.expose())
            .map_err(|error| malformed(&format!("is not valid JSON (line {})", error.line())))?;
        let need = |field: Option<String>, name: &str| {
            field.filter(|value| !value.is_empty()).ok_or_else(|| malformed(&format!("has no {name}")))
        };
        match fields.kind.as_deref() {
            Some("service_account") => {
                let private_key = Secret::new(need(fields.private_key, "private_key")?);
                let email = need(fields.client_email, "client_email")?;
                let token_uri = need(fields.token_uri, "token_uri")?;
                if !endpoints.admits(&token_uri) {
                    let url = crate::error::printable(&token_uri).chars().take(120).collect();
                    return Err(SourceFault::ForeignEndpoint { path: path.to_owned(), url });
                }
                Ok(Self::ServiceAccount(ServiceAccountKey {
                    email,
                    token_uri,
                    private_key,
                    json: text.clone(),
                }))
            }
            Some("authorized_user") => Ok(Self::AuthorizedUser(AuthorizedUser {
                client_id: need(fields.client_id, "client_id")?,
                client_secret: Secret::new(need(fields.client_secret, "client_secret")?),
                refresh_token: Secret::new(need(fields.refresh_token, "refresh_token")?),
                account: fields.account.filter(|account| !account.is_empty()),
            })),
            Some(kind) if LATER.contains(&kind) => {
                Err(SourceFault::Unsupported { path: path.to_owned(), kind: kind.to_owned() })
            }
            Some(_) => Err(malformed("has a type that is no Google credential")),
            None => Err(malformed("has no type, so it is no Google credential")),
        }
    }
}

/// What tells whether a file is still the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    inode: u64,
    size: u64,
    modified: u128,
}

impl Stamp {
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let data = path.metadata().ok()?;
        let modified = data.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        Some(Self { inode: data.ino(), size: data.len(), modified })
    }
}

/// The members that matter of all types that can be used.
#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "type")]
    kind: Option<String>,
    client_email: Option<String>,
    private_key: Option<String>,
    token_uri: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    refresh_token: Option<String>,
    account: Option<String>,
}

/// Types that Google has and valetkey does not read yet.
const LATER: [&str; 4] = [
    "external_account",
    "external_account_authorized_user",
    "impersonated_service_account",
    "gdch_service_account",
];
const LARGEST: u64 = 256 << 10;
