//! The clients that are on this machine: each is asked itself what is in force for it, since its files and variables win
//! over each other in ways that only it knows. All are asked at once, and what has not answered after some seconds is given
//! up: one that hangs costs only its own line.
//!
//! Of what they say only the few words that are looked for are kept; the rest may be an index's URL with a password.

mod keyring;
mod netrc;
mod pdm;
mod pip;
mod pipenv;
mod pipx;
mod poetry;
mod publishers;
mod python;
mod stripped;
mod uv;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::Instant;

use super::Finding;
use crate::client::Client;
use crate::environment::Environment;
use crate::error::shown::shown_path;
use crate::paths::absolute;
use crate::process::{RunFault, run_for};
use crate::registry::Hosts;

/// Looks at every client.
pub(super) async fn examine(client: &Client, tell: &mut dyn FnMut(Finding)) {
    // Inside of `valetkey exec` they see what that has wired.
    let environment = &client.environment.as_given();
    let (keyring, findings) = keyring::examine(environment);
    let until = Instant::now() + PATIENCE;
    let asker = Asker { environment, hosts: Hosts::new(&client.config.registries), keyring, until };
    let answers = tokio::join!(
        pip::examine(&asker),
        uv::examine(&asker),
        poetry::examine(&asker),
        pdm::examine(&asker),
        pipenv::examine(&asker),
        publishers::examine(&asker),
    );
    let (pip, uv, poetry, pdm, pipenv, publishers) = answers;
    let others = [pipx::examine(&asker), netrc::examine(&asker), stripped::examine(&asker)];
    [findings, pip, uv, poetry, pdm, pipenv, publishers].into_iter().chain(others).flatten().for_each(tell);
}

/// Asks programs, and what their answers are judged by.
struct Asker<'a> {
    environment: &'a Environment,
    hosts: Hosts,
    /// The `keyring` that is first on PATH, where that is valetkey.
    keyring: Option<PathBuf>,
    until: Instant,
}

/// Why a program did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Silence {
    /// It cannot be run, or ended with an error.
    Failed,
    /// It hangs.
    Hangs,
}

impl Asker<'_> {
    /// What a program prints. `directory` is where it runs: the working directory may hold files that are for it, and
    /// others that it would run.
    async fn ask(
        &self,
        program: &Path,
        arguments: &[&str],
        directory: Option<&Path>,
    ) -> Result<String, Silence> {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(self.environment.iter()).stderr(Stdio::null());
        // A question about settings is no reason to look for a newer version of the program.
        command.env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env("PYTHONIOENCODING", "utf-8");
        if let Some(directory) = directory {
            command.current_dir(directory);
            // What it names is meant from here.
            if let Some(file) = self.environment.path("PIP_CONFIG_FILE") {
                command.env("PIP_CONFIG_FILE", absolute(&file));
            }
        }
        match run_for(&mut command, b"", self.until, LARGEST).await {
            Ok(finished) if finished.status.success() => {
                Ok(String::from_utf8_lossy(&finished.stdout).into_owned())
            }
            Ok(_) | Err(RunFault::Start(_)) => Err(Silence::Failed),
            Err(RunFault::Deadline) => Err(Silence::Hangs),
        }
    }

    /// A path below the user's home, or below what a variable of the base directories names.
    fn below(&self, variable: &str, fallback: &str, name: &str) -> Option<PathBuf> {
        let base = self.environment.path(variable).filter(|path| path.is_absolute());
        let base = base.or_else(|| Some(self.environment.path("HOME")?.join(fallback)))?;
        Some(base.join(name))
    }
}

fn hangs(step: &'static str, program: &Path) -> Finding {
    let text = format!("{} does not answer within {} s", shown_path(program), PATIENCE.as_secs());
    Finding::note(step, text, "run it by hand to see what it waits for")
}

/// Where nothing lies that a Python would import.
const NOWHERE: &str = "/";
/// For all questions together; a Python with a cold disk needs seconds for each of its two or three.
const PATIENCE: Duration = Duration::from_secs(20);
/// uv's settings are 300 KiB.
const LARGEST: usize = 2 << 20;
