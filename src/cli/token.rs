//! `valetkey token`: an access token for a person's own script, printed or in a file.

mod file;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Format, SourceFlag, print, terminal};
use crate::ask::{Access, Ask, Credential};
use crate::client::Client;
use crate::environment::Environment;
use crate::error::Failure;
use crate::error::shown::{refuse_key, shown_path};
use crate::sys;

#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// Ask for a token that may also publish [default: one that reads, where the source can narrow]
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    source: SourceFlag,
    /// The form of the token
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    format: Format,
    /// Put it into FILE, for your eyes only, instead of printing it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Go on until ctrl-C or SIGTERM: renew the token in FILE in time, and remove FILE at the end
    ///
    /// Readers see a whole token at any time. When no new one can be had, the old one stays, the reason is said once, and
    /// it is tried again.
    #[arg(long, requires = "output")]
    keep: bool,
}

pub(super) fn run(environment: Environment, flags: Flags) -> Result<ExitCode, Failure> {
    sys::harden();
    let order = Order {
        environment,
        credential: flags.source.credential,
        access: if flags.write { Access::Write } else { Access::Read },
        format: flags.format,
        warned: AtomicBool::new(false),
    };
    match &flags.output {
        None => print(&order.text(&order.ask()?))?,
        Some(path) => {
            refuse_key("--output", path.as_os_str())?;
            let path = crate::paths::absolute(path);
            file::check(&path)?;
            if flags.keep {
                return keep(path, order);
            }
            file::write(&path, &order.text(&order.ask()?))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn keep(path: PathBuf, order: Order) -> Result<ExitCode, Failure> {
    let shown = path.clone();
    file::keep(
        path,
        move || {
            let credential = order.ask()?;
            Ok((order.text(&credential), credential.expires))
        },
        &move || said(&shown),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn said(path: &Path) {
    terminal::whisper(&format!("keeping a token in {} until this is ended", shown_path(path)));
}

/// What is to be asked for, as often as it takes.
struct Order {
    environment: Environment,
    credential: Option<PathBuf>,
    access: Access,
    format: Format,
    warned: AtomicBool,
}

impl Order {
    fn ask(&self) -> Result<Credential, Failure> {
        let client = Client::new(self.environment.clone(), self.credential.clone())?;
        let ask = Ask { access: Some(self.access), ..Ask::new("") };
        let spinner = terminal::Spinner::start("asking for a token");
        let got = client.credential(ask);
        drop(spinner);
        client.tidy();
        let got = got?;
        if let Some(warning) = got.warning
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            terminal::whisper(&format!("warning: {}", warning.one_line()));
        }
        Ok(got.credential)
    }

    fn text(&self, credential: &Credential) -> String {
        let token = credential.password.expose();
        match self.format {
            Format::Raw => format!("{token}\n"),
            Format::Header => format!("Authorization: Bearer {token}\n"),
            Format::Json => format!("{}\n", credential.to_json()),
        }
    }
}
