//! `valetkey token`: an access token for a person's own script.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Format, print, terminal};
use crate::ask::{Access, Ask};
use crate::client::Client;
use crate::environment::Environment;
use crate::error::Failure;
use crate::sys;

pub(super) fn run(
    environment: Environment,
    credential: Option<PathBuf>,
    write: bool,
    format: Format,
) -> Result<ExitCode, Failure> {
    sys::harden();
    let client = Client::new(environment, credential)?;
    let access = if write { Access::Write } else { Access::Read };
    let ask = Ask { access: Some(access), ..Ask::new("") };
    let spinner = terminal::Spinner::start("asking for a token");
    let got = client.credential(ask);
    drop(spinner);
    let got = match got {
        Ok(got) => got,
        Err(failure) => {
            client.tidy();
            return Err(failure);
        }
    };
    if let Some(warning) = got.warning {
        terminal::whisper(&format!("warning: {}", warning.one_line()));
    }
    let token = got.credential.password.expose();
    print(&match format {
        Format::Raw => format!("{token}\n"),
        Format::Header => format!("Authorization: Bearer {token}\n"),
        Format::Json => format!("{}\n", got.credential.to_json()),
    })?;
    client.tidy();
    Ok(ExitCode::SUCCESS)
}
