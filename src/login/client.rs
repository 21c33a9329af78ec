//! Which OAuth client signs in: a file that Google's console gives, the configuration's, the one that a
//! distributor built in, or the one that an earlier sign-in used. Never another product's.

use std::path::Path;

use serde::Deserialize;
use tokio::time::Instant;

use super::SignInFault;
use crate::config::OauthClient;
use crate::google::accounts::Accounts;
use crate::google::endpoints::Endpoints;
use crate::paths::read_regular;
use crate::secret::Secret;
use crate::vault::{StoredSecret, Vaults};

/// Reads the file that Google's console gives for a client of the type "Desktop app".
///
/// # Errors
/// When it is something else.
pub fn from_file(path: &Path, endpoints: &Endpoints) -> Result<OauthClient, SignInFault> {
    let wrong = |problem: String| SignInFault::ClientFile { path: path.to_owned(), problem };
    let text = read_regular(path, LARGEST).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let file: ClientFile = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("is not valid JSON (line {})", error.line())))?;
    let installed = match file {
        ClientFile { installed: Some(installed), .. } => installed,
        ClientFile { web: Some(_), .. } => {
            return Err(wrong("is of a web application, which cannot sign in on a desktop".to_owned()));
        }
        ClientFile { .. } => return Err(wrong("is not that of an OAuth client".to_owned())),
    };
    // Followed or not, a file that names another endpoint is not Google's.
    if installed.token_uri.is_some_and(|url| !endpoints.admits(&url)) {
        return Err(wrong("names a token endpoint that is not Google's".to_owned()));
    }
    if installed.client_id.is_empty() {
        return Err(wrong("has no client_id".to_owned()));
    }
    Ok(OauthClient { client_id: installed.client_id, client_secret: installed.client_secret })
}

/// The client that a distributor set when the program was built.
#[must_use]
pub fn built_in() -> Option<OauthClient> {
    let client_id = option_env!("VALETKEY_CLIENT_ID").filter(|id| !id.is_empty())?;
    let client_secret = option_env!("VALETKEY_CLIENT_SECRET").unwrap_or_default();
    Some(OauthClient {
        client_id: client_id.to_owned(),
        client_secret: Secret::new(client_secret.to_owned()),
    })
}

/// The client of an earlier sign-in, of this account if there is one. What was adopted from gcloud has gcloud's
/// client, and is passed over.
///
/// # Errors
/// When the vault that has it does not open.
pub async fn remembered(
    vaults: &Vaults,
    accounts: &Accounts,
    account: Option<&str>,
    until: Instant,
) -> Result<Option<OauthClient>, SignInFault> {
    let own = |login: &&crate::google::accounts::Login| !login.adopted;
    let mut logins: Vec<_> = accounts.logins.iter().filter(own).collect();
    logins.sort_by_key(|login| account.is_none_or(|account| !login.is_of(account)));
    for login in logins {
        match vaults.read(login.vault, &login.entry(), until).await {
            Ok(StoredSecret { client_id, client_secret, .. }) => {
                return Ok(Some(OauthClient { client_id, client_secret }));
            }
            Err(fault) if fault.is_missing() => {}
            Err(fault) => return Err(fault.into()),
        }
    }
    Ok(None)
}

#[derive(Deserialize)]
struct ClientFile {
    installed: Option<Installed>,
    web: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Installed {
    #[serde(default)]
    client_id: String,
    #[serde(default = "nothing")]
    client_secret: Secret,
    token_uri: Option<String>,
}

fn nothing() -> Secret {
    Secret::new(String::new())
}

const LARGEST: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<OauthClient, String> {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("client.json");
        std::fs::write(&path, text).unwrap();
        from_file(&path, &Endpoints::default()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn only_a_desktop_client_of_google_s_is_taken() {
        let good = r#"{"installed":{"client_id":"id","client_secret":"s","token_uri":"https://oauth2.googleapis.com/token"}}"#;
        assert_eq!(read(good).unwrap().client_id, "id");
        for (text, word) in [
            ("", "not valid JSON"),
            ("{}", "not that of an OAuth client"),
            (r#"{"web":{"client_id":"id"}}"#, "web application"),
            (r#"{"installed":{"client_secret":"hunter2"}}"#, "no client_id"),
            (r#"{"installed":{"client_id":"id","token_uri":"https://evil.test/token"}}"#, "not Google's"),
            (r#"{"installed":{"client_id":7,"client_secret":"hunter2"}}"#, "not valid JSON"),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(word) && !problem.contains("hunter2"), "{problem}");
        }
    }
}
