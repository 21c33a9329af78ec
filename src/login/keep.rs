//! Into a vault, out of it, and from one to another, so that nothing is lost wherever the power fails.
//!
//! The order is always: the secret is written and read back; then the list of logins names it; then an older
//! place is emptied. Whoever dies in between leaves a login that works, and at worst a secret that nobody names,
//! which the next change of that login removes.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::adopt::is_shared;
use super::{SignInFault, Step};
use crate::config::VaultChoice;
use crate::error::{Failure, Kind};
use crate::google::accounts::health::{self, Health};
use crate::google::accounts::{Accounts, AccountsFault, Login};
use crate::google::oauth::revoke;
use crate::google::source::World;
use crate::vault::{Entry, StoredSecret, Vault, Vaults};

/// Which vault it will be. A keychain that is there and cannot be used is an error, never a step to a file.
///
/// # Errors
/// When that vault would not take an entry now, or the list of logins could not name it.
pub async fn choose(
    vaults: &Vaults,
    state: &Path,
    choice: VaultChoice,
    tell: &mut (dyn FnMut(Step<'_>) + Send),
) -> Result<Vault, SignInFault> {
    let directory = state.to_owned();
    blocking(move || Accounts::load(&directory)).await?;
    if choice == VaultChoice::File {
        vaults.probe(Vault::File, soon()).await?;
        return Ok(Vault::File);
    }
    tell(Step::Vault);
    match vaults.probe(Vault::Keychain, patiently()).await {
        Ok(()) => Ok(Vault::Keychain),
        Err(fault) if choice == VaultChoice::Auto && fault.is_absent_keychain() => {
            vaults.probe(Vault::File, soon()).await?;
            tell(Step::NoKeychain(&fault));
            Ok(Vault::File)
        }
        Err(fault) => Err(fault.into()),
    }
}

/// Keeps a login, in the place of an older one of the same account and access.
///
/// # Errors
/// When it could not be kept; then an older one still is.
pub async fn keep(
    vaults: &Vaults,
    state: &Path,
    login: &Login,
    secret: &StoredSecret,
) -> Result<(), SignInFault> {
    let entry = login.entry();
    // A refresh of the older login must not store its outcome over this one.
    let _alone = alone(state, &entry).await?;
    vaults.write(login.vault, &entry, secret, patiently()).await?;
    let (directory, new) = (state.to_owned(), login.clone());
    let old = blocking(move || Accounts::change(&directory, |accounts| accounts.put(new))).await?;
    Health::forget(state, &entry);
    if let Some(old) = old.filter(|old| old.vault != login.vault) {
        forget_quietly(vaults, old.vault, &entry).await;
    }
    Ok(())
}

/// Moves every login to a vault. Those that are there already stay.
///
/// # Errors
/// When one could not be moved; it then is where it was.
pub async fn move_all(vaults: &Vaults, state: &Path, to: Vault) -> Result<Vec<Login>, SignInFault> {
    vaults.probe(to, patiently()).await?;
    let mut moved = Vec::new();
    for login in Accounts::load(state)?.logins.into_iter().filter(|login| login.vault != to) {
        let entry = login.entry();
        let _alone = alone(state, &entry).await?;
        let secret = vaults.read(login.vault, &entry, patiently()).await?;
        vaults.write(to, &entry, &secret, patiently()).await?;
        let (directory, moving) = (state.to_owned(), entry.clone());
        let still_there = blocking(move || {
            Accounts::change(&directory, |accounts| {
                let same = accounts.logins.iter_mut().find(|login| login.entry() == moving)?;
                same.vault = to;
                Some(())
            })
        })
        .await?;
        // Signed out meanwhile: then the copy goes, too.
        let empty = if still_there.is_some() { login.vault } else { to };
        forget_quietly(vaults, empty, &entry).await;
        moved.push(Login { vault: to, ..login });
    }
    Ok(moved)
}

/// What became of one login at the end.
#[derive(Debug)]
pub struct Ended {
    pub login: Login,
    /// Why Google was not told, or did not do it.
    pub not_revoked: Option<Failure>,
}

/// Revokes all logins of an account at Google, then forgets them. Without network they are forgotten all the same.
///
/// # Errors
/// When the vault does not let them go.
pub async fn sign_out(
    world: &World,
    vaults: &Vaults,
    state: &Path,
    gcloud: Option<&Path>,
    account: &str,
) -> Result<Vec<Ended>, SignInFault> {
    let logins: Vec<_> =
        Accounts::load(state)?.logins.into_iter().filter(|login| login.is_of(account)).collect();
    if logins.is_empty() {
        return Err(SignInFault::NoLogin(account.to_owned()));
    }
    let mut ended = Vec::new();
    for login in logins {
        let entry = login.entry();
        let _alone = alone(state, &entry).await?;
        let not_revoked = match vaults.read(login.vault, &entry, patiently()).await {
            Ok(secret) => end(world, gcloud, &login, &secret).await.err(),
            Err(fault) if fault.is_missing() => Some(not_revoked_without_secret()),
            Err(fault) => return Err(fault.into()),
        };
        vaults.delete(login.vault, &entry, patiently()).await?;
        let (directory, gone) = (state.to_owned(), entry.clone());
        blocking(move || Accounts::change(&directory, |accounts| accounts.forget(&gone))).await?;
        Health::forget(state, &entry);
        ended.push(Ended { login, not_revoked });
    }
    Ok(ended)
}

/// There was nothing to tell Google about.
fn not_revoked_without_secret() -> Failure {
    Failure::new(Kind::NotFound, "its refresh token is not in the vault any more").with_hint(AT_GOOGLE)
}

/// Ends one refresh token at Google.
async fn end(
    world: &World,
    gcloud: Option<&Path>,
    login: &Login,
    secret: &StoredSecret,
) -> Result<(), Failure> {
    let not = |text: &str| Failure::new(Kind::Upstream, text);
    if login.adopted && is_shared(gcloud, secret, &world.endpoints) {
        return Err(not("gcloud uses it, too")
            .with_hint("run `gcloud auth application-default revoke` to end it for both"));
    }
    let Some(url) = world.endpoints.revocation() else {
        return Err(not("no endpoint for that is configured")
            .with_hint("name it as `endpoints.revocation` in config.toml"));
    };
    let outcome = revoke(world, url, &secret.refresh_token, soon()).await;
    outcome.map_err(|fault| Failure::from(fault).with_hint(AT_GOOGLE))
}

/// Nobody refreshes this login meanwhile.
async fn alone(state: &Path, entry: &Entry) -> Result<File, SignInFault> {
    let (directory, entry) = (state.to_owned(), entry.clone());
    blocking(move || health::lock(&directory, &entry, LOCK)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AccountsFault> + Send + 'static,
) -> Result<T, SignInFault> {
    Ok(crate::blocking::run(work).await.map_err(crate::google::source::SourceFault::from)??)
}

/// A secret that nobody names any more. That it cannot be removed now is for the next time.
async fn forget_quietly(vaults: &Vaults, vault: Vault, entry: &Entry) {
    if let Err(fault) = vaults.delete(vault, entry, patiently()).await {
        tracing::warn!(%fault, "an older copy of the login stays behind");
    }
}

/// For a vault that asks nobody, and for Google.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// For a keychain that may ask a person for a password.
fn patiently() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

/// Where a person ends what valetkey cannot.
const AT_GOOGLE: &str = "remove its access at https://myaccount.google.com/connections";
/// Longer than an ask lives.
const LOCK: Duration = Duration::from_secs(12);
