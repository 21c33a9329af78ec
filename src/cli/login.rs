//! `valetkey login`: the sign-in, as a person sees it.

use std::io::{BufRead, IsTerminal, Read};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{control, print, terminal};
use crate::ask::Access;
use crate::broker::choice::ADC;
use crate::client::{Client, fallback};
use crate::config::OauthClient;
use crate::environment::Environment;
use crate::error::shown::refuse_key;
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::google::accounts::{Accounts, Login};
use crate::google::source::World;
use crate::login::adopt::{self, adopt};
use crate::login::{SignInFault, Step, Wish, client, sign_in};
use crate::sys;
use crate::vault::{Vault, Vaults};

#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// Sign in to publish: kept beside the sign-in that reads
    #[arg(long)]
    write: bool,
    /// Whose sign-in it has to be
    #[arg(long, value_name = "EMAIL")]
    account: Option<String>,
    /// Print the address, and take the answer by paste (behind SSH, say)
    #[arg(long)]
    no_browser: bool,
    /// The OAuth client to sign in with: the JSON file of a client of the type "Desktop app"
    #[arg(long, value_name = "FILE", conflicts_with = "adopt")]
    client_id_file: Option<PathBuf>,
    /// Take over what `gcloud auth application-default login` wrote
    #[arg(long, conflicts_with_all = ["write", "account", "no_browser"])]
    adopt: bool,
    /// With --adopt: remove gcloud's file once the vault has what is in it
    #[arg(long = "move", requires = "adopt")]
    remove: bool,
}

pub(super) fn run(environment: Environment, flags: Flags) -> Result<ExitCode, Failure> {
    sys::harden();
    if let Some(path) = &flags.client_id_file {
        refuse_key("--client-id-file", path.as_os_str())?;
    }
    let place = Place::new(environment)?;
    let runtime = fallback::runtime()?;
    let login = if flags.adopt {
        runtime.block_on(place.adopt(None, flags.remove))
    } else {
        let client = runtime.block_on(place.oauth_client(&flags));
        match client? {
            Some(client) => runtime.block_on(place.sign_in(flags, client)),
            None => return place.without_client(&runtime, &flags),
        }
    };
    // The thread that waits for a paste may still wait.
    runtime.shutdown_background();
    place.tell(&login?)?;
    Ok(ExitCode::SUCCESS)
}

/// What every act on stored logins needs.
pub(super) struct Place {
    pub(super) client: Client,
    pub(super) world: World,
    pub(super) vaults: Vaults,
    pub(super) state: PathBuf,
}

impl Place {
    pub(super) fn new(environment: Environment) -> Result<Self, Failure> {
        let client = Client::new(environment, None)?;
        let world = fallback::sources(&client.config, &client.environment, &client.paths, None).world;
        let state = client.paths.state.clone().ok_or(SignInFault::NoHome)?;
        let vaults = Vaults::new(&client.environment, &state);
        Ok(Self { client, world, vaults, state })
    }

    /// Has a running daemon look again, so that what has just changed counts at once.
    pub(super) fn refresh_daemon(&self) {
        // None running is as good; one that does not listen looks at the list by itself within a second.
        let _ = control::control(&self.client, "POST", "/v1/reload");
    }

    async fn oauth_client(&self, flags: &Flags) -> Result<Option<OauthClient>, SignInFault> {
        if let Some(path) = &flags.client_id_file {
            return client::from_file(path, &self.world.endpoints).map(Some);
        }
        if let Some(configured) = self.client.config.oauth_client.clone().or_else(client::built_in) {
            return Ok(Some(configured));
        }
        let accounts = Accounts::load(&self.state)?;
        let until = Instant::now() + Duration::from_secs(120);
        client::remembered(&self.vaults, &accounts, flags.account.as_deref(), until).await
    }

    async fn sign_in(&self, flags: Flags, client: OauthClient) -> Result<Login, SignInFault> {
        let wish = Wish {
            access: if flags.write { Access::Write } else { Access::Read },
            account: flags.account,
            client,
            vault: self.client.config.vault,
            browser: !flags.no_browser,
            person: std::io::stdin().is_terminal(),
        };
        let (pass_on, pasted) = mpsc::channel(1);
        let mut pass_on = Some(pass_on);
        let mut spinner = None;
        let mut tell = |step: Step<'_>| {
            spinner = None;
            spinner = show(&step);
            // Not before: a terminal's input is the shell's as long as nobody is asked to paste.
            if let (Step::Open { paste: true, .. }, Some(pass_on)) = (step, pass_on.take()) {
                read_pasted(pass_on);
            }
        };
        sign_in(&self.world, &self.vaults, &self.state, wish, pasted, &mut tell).await
    }

    async fn adopt(&self, account: Option<&str>, and_remove: bool) -> Result<Login, SignInFault> {
        let mut spinner = None;
        let mut tell = |step: Step<'_>| {
            spinner = None;
            spinner = show(&step);
        };
        let gcloud = self.client.paths.gcloud.as_deref();
        let wish = adopt::Wish { account, vault: self.client.config.vault, and_remove };
        let adopted = adopt(&self.world, &self.vaults, &self.state, gcloud, wish, &mut tell).await;
        if let Err(SignInFault::NotRemoved { .. }) = &adopted {
            self.refresh_daemon();
        }
        adopted
    }

    /// Nothing says as which product to ask for consent: gcloud can ask as itself.
    fn without_client(&self, runtime: &tokio::runtime::Runtime, flags: &Flags) -> Result<ExitCode, Failure> {
        let file = self.client.paths.gcloud.as_ref().map(|directory| directory.join(ADC));
        if file.is_some_and(|file| file.exists()) {
            return Err(no_client().with_hint(
                "run `valetkey login --adopt` to take over gcloud's sign-in, or name a client of your own with \
                 --client-id-file",
            ));
        }
        let Some(gcloud) = self.world.environment.find_program("gcloud") else {
            let config = self.client.paths.configuration.as_ref();
            let config =
                config.map_or_else(|| "config.toml".into(), |path| shown_path(&path.join("config.toml")));
            return Err(no_client().with_hint(format!("make one, once for everybody:\n{HOW_TO}{config}")));
        };
        let person = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if !person {
            return Err(no_client().with_hint(
                "run `gcloud auth application-default login` and then `valetkey login --adopt`, or name a client \
                 of your own with --client-id-file",
            ));
        }
        terminal::say(
            "There is no OAuth client to sign in with. gcloud has one of its own: shall it sign in, and valetkey\n\
             take the result over? [Y/n] ",
        );
        let mut answer = String::new();
        // The end of the input is no answer.
        let read = std::io::stdin().lock().take(64).read_line(&mut answer).unwrap_or_default();
        if read == 0 || !matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes") {
            return Err(no_client().with_hint("name a client of your own with --client-id-file"));
        }
        let mut command = Command::new(&gcloud);
        command
            .args(["auth", "application-default", "login"])
            // gcloud's own `--no-browser` needs a second gcloud where the browser is.
            .args(flags.no_browser.then_some("--no-launch-browser"));
        let status = sys::with_own_umask(|| command.status()).map_err(|error| {
            Failure::new(Kind::Local, format!("cannot run {}", shown_path(&gcloud))).with_cause(error)
        })?;
        if !status.success() {
            return Err(Failure::new(Kind::Refused, "gcloud did not sign in"));
        }
        let login = runtime.block_on(self.adopt(flags.account.as_deref(), false))?;
        self.tell(&login)?;
        Ok(ExitCode::SUCCESS)
    }

    fn tell(&self, login: &Login) -> Result<(), Failure> {
        self.refresh_daemon();
        let what = match login.access {
            Access::Read => "to read",
            Access::Write => "to read and publish",
        };
        let place = match login.vault {
            Vault::Keychain => "the keychain".to_owned(),
            Vault::File => format!("a file in {} that only you can read", shown_path(&self.state)),
        };
        let mut text = format!("signed in as {} {what}; kept in {place}\n", login.account);
        if login.adopted {
            text += "it goes on using gcloud's OAuth client, and its tokens cannot be narrowed to reading\n";
        }
        print(&text)
    }
}

/// One step, on standard error; what takes long comes with a sign of life.
fn show(step: &Step<'_>) -> Option<terminal::Spinner> {
    match step {
        Step::Vault => return Some(terminal::Spinner::start("asking the keychain")),
        Step::NoKeychain(fault) => terminal::whisper(&format!(
            "there is no keychain here ({}), so the sign-in will rest in a file that only you can read",
            crate::error::printable(&fault.to_string())
        )),
        Step::Open { url, opened, paste } => {
            let how = match opened {
                Ok(()) => "Your browser has been asked to open this address; sign in there:",
                Err("") => "Open this address in a browser and sign in there:",
                Err(reason) => {
                    terminal::whisper(reason);
                    "Open this address in a browser and sign in there:"
                }
            };
            terminal::say(&format!("{how}\n\n{url}\n\n"));
            match (paste, opened) {
                (true, Ok(())) => terminal::say(
                    "When that is done, this goes on by itself. Should the browser end at an address that begins with\n\
                     http://127.0.0.1 and nothing happen here, paste that address here:\n",
                ),
                (true, Err(_)) => terminal::say(
                    "If that browser is on another machine, it ends at an address that begins with\n\
                     http://127.0.0.1 and cannot be shown. Paste that address here:\n",
                ),
                (false, _) => return Some(terminal::Spinner::start("waiting for the browser")),
            }
        }
        Step::Refused { uid, paste } => {
            terminal::whisper(&refusal(*uid));
            terminal::say(if *paste {
                "If it is yours, paste the address that it shows here (it begins with http://127.0.0.1):\n"
            } else {
                "If it is yours, run `valetkey login --no-browser` and paste the address that it ends at.\n"
            });
        }
        Step::BadPaste(problem) => terminal::say(&format!("{problem}; try again:\n")),
        Step::Answered => return Some(terminal::Spinner::start("finishing the sign-in")),
    }
    None
}

/// Whose browser was refused, and why.
fn refusal(uid: Option<u32>) -> String {
    let own = sys::own_uid();
    let why = if own == 0 {
        "this sign-in is root's; without sudo it would be yours".to_owned()
    } else {
        format!("this sign-in is that of the user {own}")
    };
    match uid {
        Some(uid) => format!("a browser of the user {uid} came back and was not heard: {why}"),
        None => "a browser came back and was not heard: its user cannot be told from here (it may be Windows', or outside \
                 of this container)"
            .to_owned(),
    }
}

/// Passes on the lines that a person pastes. The thread waits for them as long as the process lives.
fn read_pasted(pass_on: mpsc::Sender<String>) {
    let read = move || {
        let mut stdin = std::io::stdin().lock();
        let is_terminal = stdin.is_terminal();
        loop {
            // What is typed while we are in the background, or when it is over, is for the shell.
            if is_terminal {
                let has_line = terminal::has_line();
                if pass_on.is_closed() {
                    return;
                }
                if !has_line {
                    continue;
                }
            }
            let Some(line) = next_line(&mut stdin) else { return };
            if !line.trim().is_empty() && pass_on.blocking_send(line).is_err() {
                return;
            }
        }
    };
    // Without the thread there is no paste, and still the browser.
    let _ = std::thread::Builder::new().name("paste".to_owned()).spawn(read);
}

/// The next line, or the beginning of one that no address is as long as.
fn next_line(from: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    let read = from.take(LONGEST_PASTE).read_until(b'\n', &mut line).ok()?;
    if read == 0 {
        return None;
    }
    if line.last() != Some(&b'\n') {
        from.skip_until(b'\n').ok()?;
    }
    Some(String::from_utf8_lossy(&line).into_owned())
}

fn no_client() -> Failure {
    Failure::new(Kind::NeedsLogin, "there is no OAuth client to sign in with")
}

const HOW_TO: &str = "  1. in Google's console, under APIs & Services, Credentials, create an OAuth client ID of the type Desktop app
  2. download its JSON file and run `valetkey login --client-id-file FILE`, or write its client_id and
     client_secret under [oauth] in /etc/valetkey/config.toml or ";
const LONGEST_PASTE: u64 = 16 << 10;
