//! Takes over what `gcloud auth application-default login` wrote: into the vault, with gcloud's own client for
//! the refresh. gcloud did the consent; valetkey never starts one as another product.

use std::path::Path;

use tokio::time::Instant;

use super::exchange::is_plain;
use super::{SignInFault, Step, keep};
use crate::ask::{Access, Ask};
use crate::broker::choice::ADC;
use crate::config::VaultChoice;
use crate::durable;
use crate::error::shown::shown_path;
use crate::google::accounts::Login;
use crate::google::credential_file::CredentialFile;
use crate::google::endpoints::Endpoints;
use crate::google::source::World;
use crate::google::user;
use crate::vault::{StoredSecret, Vaults};

/// Whether gcloud's file still holds this refresh token: to revoke it would sign gcloud's user out, too.
#[must_use]
pub fn is_shared(gcloud: Option<&Path>, secret: &StoredSecret, endpoints: &Endpoints) -> bool {
    let file = gcloud.map(|directory| CredentialFile::read(&directory.join(ADC), endpoints));
    matches!(file, Some(Ok(CredentialFile::AuthorizedUser(user))) if user.refresh_token == secret.refresh_token)
}

/// What a person wants.
#[derive(Debug)]
pub struct Wish<'a> {
    /// Whose sign-in it has to be.
    pub account: Option<&'a str>,
    pub vault: VaultChoice,
    /// Remove the file once the vault has what is in it.
    pub and_remove: bool,
}

/// Takes the file over.
///
/// # Errors
/// When there is none, or it is dead, or somebody else's, or the vault does not take it.
pub async fn adopt(
    world: &World,
    vaults: &Vaults,
    state: &Path,
    gcloud: Option<&Path>,
    wish: Wish<'_>,
    tell: &mut (dyn FnMut(Step<'_>) + Send),
) -> Result<Login, SignInFault> {
    let nothing = |text: String| SignInFault::NothingToAdopt(text);
    let path = gcloud.map(|directory| directory.join(ADC)).ok_or_else(|| nothing("no home".to_owned()))?;
    if !path.exists() {
        return Err(nothing(format!("there is no {}", shown_path(&path))));
    }
    let found = match CredentialFile::read(&path, &world.endpoints)? {
        CredentialFile::AuthorizedUser(user) => user,
        CredentialFile::ServiceAccount(_) => {
            return Err(nothing(format!("{} is a service account's key", shown_path(&path))));
        }
    };
    world.allow_client(&found.client_id)?;
    let vault = keep::choose(vaults, state, wish.vault, tell).await?;
    let granted = user::refresh(world, &found, Instant::now() + Ask::LONGEST, None).await?;
    let told = granted.token.identity.clone().or(found.account).filter(|email| is_plain(email));
    let scopes = granted.scopes.unwrap_or_default();
    if !scopes.iter().any(|scope| scope == Access::Write.scope()) {
        return Err(SignInFault::TooNarrow(Access::Write.scope().to_owned()));
    }
    match (wish.account, &told) {
        (Some(wanted), None) => return Err(SignInFault::Unnamed(wanted.to_owned())),
        (Some(wanted), Some(got)) if !wanted.eq_ignore_ascii_case(got) => {
            return Err(SignInFault::OtherAccount { wanted: wanted.to_owned(), got: got.clone() });
        }
        _ => {}
    }
    world.allow_account(told.as_deref())?;
    let login = Login {
        account: told.unwrap_or_else(|| format!("unknown-{}", found.refresh_token.fingerprint())),
        access: Access::Write,
        scopes,
        vault,
        client_id: found.client_id.clone(),
        created: world.clock.now(),
        ends: None,
        adopted: true,
    };
    let refresh_token = granted.refresh_token.unwrap_or(found.refresh_token);
    let secret =
        StoredSecret { refresh_token, client_id: found.client_id, client_secret: found.client_secret };
    keep::keep(vaults, state, &login, &secret).await?;
    if wish.and_remove {
        let account = login.account.clone();
        durable::remove(&path).map_err(|source| SignInFault::NotRemoved { account, path, source })?;
    }
    Ok(login)
}
