//! A login that `valetkey login` stored: the refresh token comes out of the vault, an access token comes of it.
//!
//! The token is asked for with exactly the scope that is needed, where that scope was granted word for word. One
//! refresh of a login runs at a time, in whatever process, and a new refresh token that a server gives with it is
//! stored before anything else happens: with such a server the old one is dead by then.
//!
//! A login that is there and gives nothing ends the ask; nobody is silently given another identity.

use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use super::accounts::health::{self, Health, Problem};
use super::accounts::{Accounts, AccountsFault, Login};
use super::oauth::{Exchange, Granted};
use super::source::{Request, SourceFault, World};
use crate::ask::Access;
use crate::blocking::{self, BlockingFault};
use crate::clock::{between, parse_rfc3339, rfc3339};
use crate::error::shown::{shown, shown_path};
use crate::error::{Fault, Kind};
use crate::secret::AccessToken;
use crate::vault::{StoredSecret, VaultFault, Vaults};

/// Why a stored login gives no token.
#[derive(Debug, Error)]
pub enum LoginFault {
    /// The list of logins cannot be read.
    #[error(transparent)]
    Accounts(#[from] AccountsFault),
    /// A rule or an ask names an account that never signed in here.
    #[error("no login of {} is stored", shown(account))]
    Nobody { account: String },
    /// It was made without `--write`.
    #[error("the login of {account} may read and not publish")]
    ReadOnly { account: String },
    /// The vault does not give the secret.
    #[error(transparent)]
    Vault(#[from] VaultFault),
    /// Google does not take the refresh token any more.
    #[error("the login of {account} is dead: {reason}")]
    Dead { account: String, reason: String, remedy: String },
    /// The server gave a new refresh token and ended the old one, and the new one could not be stored.
    #[error("the login of {account} is lost: its new refresh token could not be stored")]
    Lost { account: String, source: VaultFault, remedy: String },
    /// Another process refreshes it and does not come to an end.
    #[error("the login of {account} is being refreshed by another process that does not end")]
    Busy { account: String },
    /// The file system does not answer.
    #[error("{} does not answer", shown_path(.0))]
    Silent(PathBuf),
}

impl Fault for LoginFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Accounts(fault) => fault.kind(),
            Self::Nobody { .. } | Self::ReadOnly { .. } | Self::Dead { .. } | Self::Lost { .. } => {
                Kind::NeedsLogin
            }
            Self::Vault(fault) => fault.kind(),
            Self::Busy { .. } | Self::Silent(_) => Kind::Deadline,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Accounts(fault) => fault.hint(),
            Self::Nobody { account } => Some(format!("run `valetkey login --account {}`", shown(account))),
            Self::ReadOnly { account } => {
                Some(format!("run `valetkey login --write --account {account}` to publish with it"))
            }
            Self::Vault(fault) => fault.hint(),
            Self::Dead { remedy, .. } | Self::Lost { remedy, .. } => Some(remedy.clone()),
            Self::Busy { .. } => Some("try again in a moment".to_owned()),
            Self::Silent(_) => Some("check that file system".to_owned()),
        }
    }

    fn is_transient(&self) -> bool {
        match self {
            Self::Vault(fault) => fault.is_transient(),
            Self::Busy { .. } => true,
            _ => false,
        }
    }
}

/// Refreshes the login of an account, or of the default one.
///
/// # Errors
/// Absent where nobody ever signed in here; else why there is no token.
pub async fn mint(
    world: &World,
    state: &Path,
    account: Option<&str>,
    request: Request,
) -> Result<AccessToken, SourceFault> {
    let login = find(state, account, &request).await?;
    world.allow_client(&login.client_id)?;
    world.allow_account(Some(&login.account))?;
    let token = Refresh { world, state, login: &login }.run(&request).await?;
    let narrowed = login.scope_for(request.access).is_some();
    Ok(token.with_identity(Some(login.account)).with_narrowed(narrowed))
}

/// Which login it is.
async fn find(state: &Path, account: Option<&str>, request: &Request) -> Result<Login, SourceFault> {
    let directory = state.to_owned();
    // A file system that does not answer is a hang like any other.
    let accounts = match blocking::at(state, request.until, move || Accounts::load(&directory)).await {
        Ok(accounts) => accounts,
        Err(BlockingFault::Silent(_)) => return Err(LoginFault::Silent(super::accounts::file(state)).into()),
        Err(fault) => return Err(fault.into()),
    };
    let accounts = accounts.map_err(LoginFault::from)?;
    let Some(account) = account.or_else(|| accounts.default_account()) else {
        return Err(SourceFault::Absent("no login is stored (`valetkey login`)".to_owned()));
    };
    match accounts.login(account, request.access) {
        Some(login) => Ok(login.clone()),
        None if accounts.login(account, Access::Read).is_some() => {
            Err(LoginFault::ReadOnly { account: account.to_owned() }.into())
        }
        None => Err(LoginFault::Nobody { account: account.to_owned() }.into()),
    }
}

/// One refresh of one login.
struct Refresh<'a> {
    world: &'a World,
    state: &'a Path,
    login: &'a Login,
}

impl Refresh<'_> {
    async fn run(&self, request: &Request) -> Result<AccessToken, SourceFault> {
        let entry = self.login.entry();
        let _alone = self.alone(request.until).await?;
        let vaults = Vaults::new(&self.world.environment, self.state);
        let vault_until = request.until.min(Instant::now() + VAULT_PATIENCE);
        let secret = vaults.read(self.login.vault, &entry, vault_until).await.map_err(LoginFault::from)?;
        let mut health = Health::load(self.state, &entry);
        // The first refresh tells whether this server is one that changes them. Google is not.
        let unknown = health.refreshed.is_none() && !self.world.endpoints.is_google();
        if health.rotates || unknown {
            // The old one will be dead: there has to be room for the new one.
            vaults.probe(self.login.vault, vault_until).await.map_err(LoginFault::from)?;
        }
        let granted = self.send(&secret, request).await;
        let now = rfc3339(self.world.clock.now());
        match granted {
            Ok(granted) => {
                if let Some(new) = granted.refresh_token.filter(|new| *new != secret.refresh_token) {
                    health.rotates = true;
                    let new = StoredSecret { refresh_token: new, ..secret };
                    // Whatever the asker's deadline is: the old one is dead.
                    let until = Instant::now() + VAULT_PATIENCE;
                    let stored = vaults.write(self.login.vault, &entry, &new, until).await;
                    stored.map_err(|source| self.lost(source))?;
                }
                (health.refreshed, health.problem) = (Some(now), None);
                health.store(self.state, &entry);
                Ok(granted.token)
            }
            Err(fault) => {
                let fault = self.explain(fault, &health);
                if let SourceFault::Login(LoginFault::Dead { reason, remedy, .. }) = &fault {
                    let since = health.problem.map_or(now, |problem| problem.since);
                    let problem = Problem { text: reason.clone(), remedy: remedy.clone(), since };
                    Health { problem: Some(problem), ..health }.store(self.state, &entry);
                }
                Err(fault)
            }
        }
    }

    async fn alone(&self, until: Instant) -> Result<Option<std::fs::File>, SourceFault> {
        let (state, entry) = (self.state.to_owned(), self.login.entry());
        let patience = until.saturating_duration_since(Instant::now());
        match blocking::run(move || health::lock(&state, &entry, patience)).await {
            Ok(Ok(lock)) => Ok(Some(lock)),
            // Where nothing can be written, nobody else stores anything either.
            Ok(Err(AccountsFault::Write { .. })) => Ok(None),
            Err(fault) => Err(fault.into()),
            _ => Err(LoginFault::Busy { account: self.login.account.clone() }.into()),
        }
    }

    async fn send(&self, secret: &StoredSecret, request: &Request) -> Result<Granted, SourceFault> {
        let mut form = vec![
            ("grant_type", "refresh_token"),
            ("client_id", secret.client_id.as_str()),
            ("refresh_token", secret.refresh_token.expose()),
        ];
        // A client without one must not send an empty one.
        let client_secret = secret.client_secret.expose();
        form.extend((!client_secret.is_empty()).then_some(("client_secret", client_secret)));
        form.extend(self.login.scope_for(request.access).map(|scope| ("scope", scope)));
        let exchange = Exchange {
            url: self.world.endpoints.token(),
            form: &form,
            until: request.until,
            asked: Some(request),
            what: &format!("the login of {}", self.login.account),
            remedy: "",
            repeats: true,
        };
        exchange.send(self.world).await
    }

    /// A refusal that only a person can mend, with the one command that does.
    fn explain(&self, fault: SourceFault, health: &Health) -> SourceFault {
        let SourceFault::OAuth { error, subtype, .. } = &fault else { return fault };
        let account = self.login.account.clone();
        let again = self.sign_in_again();
        let (reason, remedy) = match (error.as_str(), subtype.as_deref()) {
            ("invalid_grant", Some("invalid_rapt" | "rapt_required")) => {
                ("the organisation wants a fresh sign-in".to_owned(), again)
            }
            ("invalid_grant", _) => (self.why_ended(health), again),
            ("deleted_client" | "invalid_client" | "unauthorized_client", _) => (
                format!("its OAuth client {} was deleted or changed", self.login.client_id),
                format!("get a new client file and run {}", self.command("--client-id-file FILE")),
            ),
            ("org_internal", _) => (
                "its OAuth client serves only accounts of the organisation that made it".to_owned(),
                format!("use a client of your own organisation: {}", self.command("--client-id-file FILE")),
            ),
            ("admin_policy_enforced", _) => (
                "an administrator of the organisation does not allow this OAuth client".to_owned(),
                format!("ask the administrator to trust the client {}", self.login.client_id),
            ),
            ("invalid_scope", _) => ("the scope that is needed was not granted".to_owned(), again),
            _ => return fault,
        };
        LoginFault::Dead { account, reason, remedy }.into()
    }

    /// Google tells one thing for all of these; the calendar tells more.
    fn why_ended(&self, health: &Health) -> String {
        let now = self.world.clock.now();
        if self.login.ends.is_some_and(|ends| ends <= now) {
            return "it was made with a client in testing mode, whose sign-ins end after seven days"
                .to_owned();
        }
        let used = health.refreshed.as_deref().and_then(parse_rfc3339).unwrap_or(self.login.created);
        if between(used, now) > HALF_A_YEAR {
            return "nobody used it for six months".to_owned();
        }
        "it was revoked, or the account's password was changed".to_owned()
    }

    fn lost(&self, source: VaultFault) -> LoginFault {
        LoginFault::Lost { account: self.login.account.clone(), source, remedy: self.sign_in_again() }
    }

    fn sign_in_again(&self) -> String {
        if self.login.adopted {
            return "run `gcloud auth application-default login`, then `valetkey login --adopt`".to_owned();
        }
        format!("sign in again with {}", self.command(""))
    }

    fn command(&self, more: &str) -> String {
        let write = if self.login.access == Access::Write { " --write" } else { "" };
        let more = if more.is_empty() { String::new() } else { format!(" {more}") };
        format!("`valetkey login{write} --account {}{more}`", self.login.account)
    }
}

/// A vault that asks nobody answers in a fraction of this.
const VAULT_PATIENCE: Duration = Duration::from_secs(5);
/// Google ends refresh tokens that nobody used for so long.
const HALF_A_YEAR: Duration = Duration::from_secs(180 * 86_400);
