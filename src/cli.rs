//! The command line: which face was called, one error printed, the exit code. One file a subcommand.
//!
//! `keyring` is decided before anything else is set up: clients call it for every index, and they wait for it.

mod completions;
mod control;
mod defect;
mod docker;
mod doctor;
mod env;
mod exec;
#[cfg(not(target_os = "macos"))]
mod keychain;
mod keyring;
mod login;
mod logout;
mod serve;
mod status;
mod terminal;
mod token;
mod vault;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ContextValue;
use clap::{Parser, Subcommand, ValueEnum};

use crate::environment::{self, Environment};
use crate::error::shown::{redacted, shown};
use crate::error::{Failure, Kind};
use crate::paths::called_name;
use crate::sys;

/// Short-lived Google credentials for pip, other Python clients, docker build and containers.
#[derive(Debug, Parser)]
#[command(name = "valetkey", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "\
Exit codes: 0 done, 1 nothing found or refused, 2 wrong usage, 3 a source or the network failed.
Environment: VALETKEY_CREDENTIAL, VALETKEY_SOCKET, VALETKEY_AUTO_START, VALETKEY_IDLE, VALETKEY_LOG.")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sign in with a browser, once
    Login(login::Flags),
    /// Revoke a sign-in at Google, then forget it
    Logout {
        /// Whose
        #[arg(long, value_name = "EMAIL")]
        account: Option<String>,
        /// Every account
        #[arg(long, conflicts_with = "account")]
        all: bool,
    },
    /// Show where sign-ins are kept, or move them
    Vault {
        /// Move all of them there
        #[arg(value_enum)]
        to: Option<vault::To>,
    },
    /// Answer like Python's keyring; also when called by the name `keyring`
    #[command(disable_help_flag = true)]
    Keyring {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Print an access token, or keep one in a file
    #[command(after_long_help = "\
Examples:
  valetkey token --format header | curl -H @- URL
  valetkey token --format json --output token.json --keep &
  docker build --secret id=valetkey,src=token.json .")]
    Token(token::Flags),
    /// Show identity, source, expiry, daemon, listeners and grants; never a secret
    Status {
        /// Print the stable JSON form
        #[arg(long)]
        json: bool,
    },
    /// Run the daemon in the foreground
    Serve {
        #[arg(long, hide = true)]
        started_by_helper: bool,
    },
    /// End the daemon, after the answers that it owes
    Stop,
    /// Have the daemon read its configuration again
    Reload,
    /// Run a command with pip, uv and other clients wired to the daemon
    ///
    /// Requests of the command, and of all that it starts, to private registries go to the daemon, which puts the token
    /// in; every other request passes as it is. Streams, signals and the exit code are the command's.
    #[command(after_long_help = "\
Examples:
  valetkey exec -- pip install -r requirements.txt
  valetkey exec --index europe-west1/PROJECT/REPOSITORY -- uv sync
  valetkey exec -- bash")]
    Exec(exec::Flags),
    /// Print settings for a shell
    ///
    /// They switch on the keyring support of pip, uv and others, and put `keyring` first on PATH. What needs a process
    /// behind it, an index on loopback or clients that call no keyring, needs `valetkey exec`.
    #[command(after_long_help = "Example:\n  eval \"$(valetkey env)\"")]
    Env,
    /// Try every step for real and name the one that fails
    Doctor {
        /// An index or file URL, to be asked for with the credential
        url: Option<String>,
        #[command(flatten)]
        source: SourceFlag,
    },
    /// Flags for image builds, and this program as an image
    Docker {
        #[command(subcommand)]
        command: docker::DockerCommand,
    },
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Ask the keychain in the place of another valetkey
    #[cfg(not(target_os = "macos"))]
    #[command(name = "__vault", hide = true)]
    Keychain,
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man { directory: PathBuf },
}

/// The flag that decides the source.
#[derive(Debug, clap::Args)]
struct SourceFlag {
    /// Use this and nothing else: a credential file, the sign-in of an account, `gcloud`, or `metadata`
    #[arg(long, value_name = "FILE|EMAIL|gcloud|metadata")]
    credential: Option<PathBuf>,
}

/// How a token is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The token alone
    Raw,
    /// With the user name and the time of its end
    Json,
    /// As a header, for `curl -H @-`
    Header,
}

/// Runs the program with these arguments, the name first.
#[must_use]
pub fn run(arguments: &[OsString]) -> ExitCode {
    defect::tell_of_panics();
    environment::restore();
    sys::keep_lookups_inside();
    let face = called_name(arguments.first().map(OsString::as_os_str));
    if face == b"keyring" {
        return keyring::run(arguments.get(1..).unwrap_or_default());
    }
    if arguments.get(1).is_some_and(|word| word == "keyring") {
        return keyring::run(arguments.get(2..).unwrap_or_default());
    }
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version come this way too; clap knows which stream and which code.
            if error.use_stderr() {
                terminal::say(&without_secrets(&error));
                // Also where it is misspelt: that stands in `docker build $(…)` as well. `image` goes into a pipe.
                let is_docker = arguments.get(1).is_some_and(|word| word == "docker");
                if is_docker && arguments.get(2).is_none_or(|word| word != "image") {
                    docker::refuse_for_docker("its own arguments are wrong");
                }
            } else {
                let _ = error.print();
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match defect::caught(|| dispatch(parsed.command)) {
        // It has been told.
        None => ExitCode::from(Kind::Local.exit_code()),
        Some(Ok(code)) => code,
        Some(Err(failure)) => {
            terminal::report(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// What clap says of a command line, which repeats the words that it does not understand.
fn without_secrets(error: &clap::Error) -> String {
    let mut text = error.render().to_string();
    for (_, value) in error.context() {
        let words = match value {
            ContextValue::String(word) => std::slice::from_ref(word),
            ContextValue::Strings(words) => words.as_slice(),
            _ => continue,
        };
        for word in words.iter().filter(|word| shown(word) != **word) {
            text = text.replace(word.as_str(), &shown(word));
        }
    }
    redacted(&text)
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    let environment = Environment::capture();
    match command {
        Command::Login(flags) => login::run(environment, flags),
        Command::Logout { account, all } => logout::run(environment, account, all),
        Command::Vault { to } => vault::run(environment, to),
        Command::Keyring { arguments } => Ok(keyring::run(&arguments)),
        Command::Token(flags) => token::run(environment, flags),
        Command::Status { json } => status::run(environment, json),
        Command::Serve { started_by_helper } => serve::run(started_by_helper),
        Command::Stop => control::stop(environment),
        Command::Reload => control::reload(environment),
        Command::Doctor { url, source } => doctor::run(environment, source.credential, url.as_deref()),
        Command::Exec(flags) => exec::run(environment, flags),
        Command::Env => env::run(&environment),
        Command::Docker { command } => docker::run(environment, command),
        Command::Completions { shell } => completions::completions(shell),
        #[cfg(not(target_os = "macos"))]
        Command::Keychain => keychain::run(),
        Command::Man { directory } => completions::manual(&directory),
    }
}

/// Writes a result. A reader that went away is a failure like any other, never a panic.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::new(Kind::Local, "cannot write to standard output").with_cause(error))
}
