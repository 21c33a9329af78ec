//! `valetkey doctor`: prints each finding as it is made.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{print, terminal};
use crate::client::Client;
use crate::doctor::{Finding, Level, examine};
use crate::environment::Environment;
use crate::error::{Failure, Kind};
use crate::sys;

pub(super) fn run(
    environment: Environment,
    credential: Option<PathBuf>,
    url: Option<&str>,
) -> Result<ExitCode, Failure> {
    sys::harden();
    let client = Client::new(environment, credential)?;
    let mut worst = Level::Fine;
    let mut broken = Ok(());
    examine(&client, url, &mut |finding| {
        worst = worst.max(finding.level);
        if broken.is_ok() {
            broken = print(&show(&finding));
        }
    })?;
    broken?;
    Ok(ExitCode::from(if worst == Level::Wrong { Kind::Local.exit_code() } else { 0 }))
}

fn show(finding: &Finding) -> String {
    let (colour, mark) = match finding.level {
        Level::Fine => (terminal::GREEN, "ok  "),
        Level::Note => (terminal::YELLOW, "note"),
        Level::Wrong => (terminal::RED, "FAIL"),
    };
    let stdout = std::io::stdout();
    let mark = terminal::paint(&stdout, colour, mark);
    let mut text = format!("{mark} {:<8} {}\n", finding.step, finding.text);
    if let Some(hint) = &finding.hint {
        let arrow = terminal::paint(&stdout, terminal::CYAN, "→");
        text += &format!("              {arrow} {hint}\n");
    }
    text
}
