//! The interactive sign-in: a browser, a code, and a refresh token that goes into a vault.
//!
//! Authorization code with PKCE (RFC 7636) over a loopback redirect (RFC 8252). What comes back is believed only
//! if it carries the state that this process made up, comes from a process of this user, and is exchanged with
//! the verifier that never left this process. The vault is tried before a person is asked for anything, so that a
//! sign-in does not fail at its end.

pub mod adopt;
pub mod browser;
pub mod callback;
pub mod client;
pub mod exchange;
pub mod keep;
pub mod page;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::ask::Access;
use crate::config::{OauthClient, VaultChoice};
use crate::error::shown::{shown, shown_path};
use crate::error::{Failure, Fault, Kind};
use crate::google::accounts::{AccountsFault, Login};
use crate::google::source::{SourceFault, World};
use crate::login::callback::{Callback, Event, Loopback, Open, Wrong};
use crate::login::exchange::Attempt;
use crate::login::page::Page;
use crate::vault::{Vault, VaultFault, Vaults};

/// Why nobody is signed in.
#[derive(Debug, Error)]
pub enum SignInFault {
    /// There is nowhere to keep a login.
    #[error("this user has no home directory, so there is no place for a login")]
    NoHome,
    /// The file is not one that Google's console gives for a desktop client.
    #[error("the client file {} {problem}", crate::error::shown::shown_path(path))]
    ClientFile { path: PathBuf, problem: String },
    /// No port on 127.0.0.1.
    #[error("cannot listen on 127.0.0.1")]
    Listen(#[source] io::Error),
    /// No randomness.
    #[error("this machine gives no random numbers")]
    Random,
    /// The person said no, or an administrator did.
    #[error("the sign-in was refused: {0}")]
    Refused(String),
    /// Nobody finished it, or only somebody whose browser may not.
    #[error("nobody signed in within five minutes")]
    TimedOut { refused: bool },
    /// A box on the consent page.
    #[error("the sign-in was finished without the permission {0}")]
    Unticked(String),
    /// The consent gave no refresh token.
    #[error("the server gave no refresh token, so the sign-in would end within the hour")]
    NoRefreshToken,
    /// Somebody else signed in.
    #[error("{got} signed in, and --account names {}", shown(wanted))]
    OtherAccount { wanted: String, got: String },
    /// Nobody knows who signed in.
    #[error("the server does not vouch for who signed in, and --account names {}", shown(.0))]
    Unnamed(String),
    /// What gcloud has does not allow what Google's registries ask for.
    #[error("gcloud's sign-in has not the permission {0}")]
    TooNarrow(String),
    /// It was taken over, and the file is still there.
    #[error("the sign-in of {account} is kept, and gcloud's file {} cannot be removed", shown_path(path))]
    NotRemoved { account: String, path: PathBuf, source: io::Error },
    /// There is no file to take over.
    #[error("there is no sign-in of gcloud's to take over: {0}")]
    NothingToAdopt(String),
    /// There is none at all.
    #[error("no login is stored")]
    NobodyIsSignedIn,
    /// No such login.
    #[error("no login of {} is stored", shown(.0))]
    NoLogin(String),
    /// Which one is not said.
    #[error("several accounts are signed in: {}", .0.join(", "))]
    Several(Vec<String>),
    #[error(transparent)]
    Source(#[from] SourceFault),
    #[error(transparent)]
    Vault(#[from] VaultFault),
    #[error(transparent)]
    Accounts(#[from] AccountsFault),
}

impl Fault for SignInFault {
    fn kind(&self) -> Kind {
        match self {
            Self::ClientFile { .. } | Self::Several(_) => Kind::Usage,
            Self::NoHome | Self::Listen(_) | Self::Random | Self::NotRemoved { .. } => Kind::Local,
            Self::Refused(_)
            | Self::Unticked(_)
            | Self::TooNarrow(_)
            | Self::OtherAccount { .. }
            | Self::Unnamed(_) => Kind::Refused,
            Self::NothingToAdopt(_) | Self::NoLogin(_) | Self::NobodyIsSignedIn => Kind::NotFound,
            Self::TimedOut { .. } => Kind::Deadline,
            Self::NoRefreshToken => Kind::Upstream,
            Self::Source(fault) => fault.kind(),
            Self::Vault(fault) => fault.kind(),
            Self::Accounts(fault) => fault.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoHome => "set HOME".to_owned(),
            Self::ClientFile { .. } => {
                "download the JSON file of a client of the type \"Desktop app\" again".to_owned()
            }
            Self::Listen(_) | Self::Random => "look at what limits this process".to_owned(),
            Self::Refused(_) => "run `valetkey login` again and choose to allow it".to_owned(),
            Self::TimedOut { refused: false } => "run `valetkey login` again".to_owned(),
            Self::TimedOut { refused: true } => {
                "run `valetkey login --no-browser` and paste the address that the browser ends at".to_owned()
            }
            Self::Unticked(_) => "run `valetkey login` again and tick every box on the page".to_owned(),
            Self::NoRefreshToken => "check that the client is of the type \"Desktop app\"".to_owned(),
            Self::OtherAccount { .. } => {
                "choose that account in the browser, or leave --account out".to_owned()
            }
            Self::Unnamed(_) => "leave --account out".to_owned(),
            Self::TooNarrow(_) => {
                "run `gcloud auth application-default login` again, with the permissions that it asks for by itself"
                    .to_owned()
            }
            Self::NotRemoved { .. } => "remove it by hand".to_owned(),
            Self::NothingToAdopt(_) => "run `gcloud auth application-default login` first".to_owned(),
            Self::NobodyIsSignedIn => return None,
            Self::NoLogin(_) => "run `valetkey status` to see which there are".to_owned(),
            Self::Several(_) => "name one with --account, or all of them with --all".to_owned(),
            Self::Source(fault) => return fault.hint(),
            Self::Vault(fault) => return fault.hint(),
            Self::Accounts(fault) => return fault.hint(),
        })
    }
}

/// What a person wants.
#[derive(Debug)]
pub struct Wish {
    pub access: Access,
    pub account: Option<String>,
    pub client: OauthClient,
    pub vault: VaultChoice,
    /// Open a browser here; else the address is printed and an answer may be pasted.
    pub browser: bool,
    /// A person is at a terminal, and may paste an answer even while a browser is open here.
    pub person: bool,
}

/// What a person is told on the way.
#[derive(Debug)]
pub enum Step<'a> {
    /// The keychain is asked, and may ask for its password.
    Vault,
    /// No keychain: the login will rest in a file.
    NoKeychain(&'a VaultFault),
    /// The address to open; whether a browser was asked to; and whether an answer may be pasted.
    Open { url: &'a str, opened: Result<(), &'a str>, paste: bool },
    /// A browser came back, of the user with this uid or of one whom nobody can tell, and was not heard.
    Refused { uid: Option<u32>, paste: bool },
    /// What was pasted is not the answer.
    BadPaste(&'static str),
    /// Somebody answered; the code is being exchanged.
    Answered,
}

/// Signs in and keeps the login. `pasted` brings lines that a person pastes.
///
/// # Errors
/// Why nobody is signed in; nothing has changed then.
pub async fn sign_in(
    world: &World,
    vaults: &Vaults,
    state: &std::path::Path,
    wish: Wish,
    mut pasted: mpsc::Receiver<String>,
    tell: &mut (dyn FnMut(Step<'_>) + Send),
) -> Result<Login, SignInFault> {
    world.allow_client(&wish.client.client_id)?;
    let vault = keep::choose(vaults, state, wish.vault, tell).await?;
    let loopback = Loopback::bind().map_err(SignInFault::Listen)?;
    let attempt = Attempt::new(wish.client, loopback.port(), wish.access, wish.account)?;
    let until = Instant::now() + PATIENCE;
    let mut open = loopback.open(attempt.state.clone());
    let url = attempt.url(world.endpoints.authorization());
    let opened =
        if wish.browser { browser::open(&world.environment, &url).await } else { Err(String::new()) };
    let paste = opened.is_err() || wish.person;
    tell(Step::Open { url: &url, opened: opened.as_ref().copied().map_err(String::as_str), paste });
    let callback = first_answer(&mut open, paste.then_some(&mut pasted), &attempt, tell, until).await?;
    let outcome = match callback {
        Callback::Code(code) => {
            tell(Step::Answered);
            finish(world, vaults, state, &attempt, vault, &code).await
        }
        Callback::Refused(error) => Err(SignInFault::Refused(match error.as_str() {
            "access_denied" => "somebody chose not to allow it".to_owned(),
            _ => error,
        })),
    };
    open.show(match &outcome {
        Ok(login) => Page::SignedIn { account: login.account.clone(), vault },
        Err(fault) => Page::Failed(Failure::new(fault.kind(), fault.to_string()).one_line()),
    })
    .await;
    outcome
}

/// The first answer to this very attempt, from a browser or by paste.
async fn first_answer(
    open: &mut Open,
    mut pasted: Option<&mut mpsc::Receiver<String>>,
    attempt: &Attempt,
    tell: &mut (dyn FnMut(Step<'_>) + Send),
    until: Instant,
) -> Result<Callback, SignInFault> {
    let (paste, mut refused) = (pasted.is_some(), false);
    loop {
        let line = async {
            match &mut pasted {
                Some(pasted) => pasted.recv().await,
                None => std::future::pending().await,
            }
        };
        let line = tokio::select! {
            event = open.next() => match event {
                Event::Answered(callback) => return Ok(callback),
                Event::Refused(uid) => {
                    refused = true;
                    tell(Step::Refused { uid, paste });
                    continue;
                }
            },
            line = line => line,
            () = tokio::time::sleep_until(until) => return Err(SignInFault::TimedOut { refused }),
        };
        // Nobody can paste any more; the browser may still come.
        let Some(line) = line else {
            pasted = None;
            continue;
        };
        match callback::from_address(&line, &attempt.redirect, &attempt.state) {
            Ok(callback) => return Ok(callback),
            Err(Wrong::State) => tell(Step::BadPaste("that address belongs to another sign-in")),
            Err(Wrong::Shape) => tell(Step::BadPaste(
                "that is not the address that the browser ended at; it begins with http://127.0.0.1",
            )),
        }
    }
}

/// From the code to a login that is kept.
async fn finish(
    world: &World,
    vaults: &Vaults,
    state: &std::path::Path,
    attempt: &Attempt,
    vault: Vault,
    code: &crate::secret::Secret,
) -> Result<Login, SignInFault> {
    let (login, secret) = attempt.exchange(world, code, vault).await?;
    world.allow_account(Some(&login.account))?;
    keep::keep(vaults, state, &login, &secret).await?;
    Ok(login)
}

/// How long a person may take.
const PATIENCE: Duration = Duration::from_secs(300);
