//! Every pip that a person here may mean: that of the active environment, those on PATH, and those of the Pythons on PATH.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::super::{Finding, Level};
use super::python::{Python, interpreter};
use super::{Asker, NOWHERE, Silence, hangs};
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind, printable};
use crate::wiring::keyring::Package;
use crate::wiring::pip::{Pip, Settings, Verdict};

/// The first one is what `pip install` would be; of the others it is only told what they do.
pub(super) async fn examine(asker: &Asker<'_>) -> Vec<Finding> {
    let programs = pythons(asker);
    if programs.is_empty() {
        return vec![Finding::note("pip", "there is no python3 on PATH", ACTIVATE)];
    }
    let mut findings: Vec<Finding> = Vec::new();
    for (at, answer) in all(asker, &programs).await.into_iter().enumerate() {
        let finding = match answer {
            Ok(pip) => finding(pip.judge(asker.keyring.as_deref())),
            Err(Trouble::Hangs) => hangs("pip", &programs[at]),
            Err(Trouble::None) if at > 0 => continue,
            Err(Trouble::None) => {
                Finding::note("pip", format!("{} has no pip", shown_path(&programs[at])), ACTIVATE)
            }
            Err(Trouble::Configuration) => {
                let text =
                    format!("the pip of {} cannot read its own configuration", shown_path(&programs[at]));
                let hint = format!("run `{} -m pip config list` to see why", shown_path(&programs[at]));
                Finding::wrong("pip", &Failure::new(Kind::Local, text).with_hint(hint))
            }
        };
        let first = findings.is_empty();
        findings.push(if first {
            finding
        } else {
            Finding { level: finding.level.min(Level::Note), ..finding }
        });
    }
    findings
}

/// Why nothing can be said of a pip.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// There is none.
    None,
    Hangs,
    /// It fails with every command.
    Configuration,
}

impl From<Silence> for Trouble {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Failed => Self::None,
            Silence::Hangs => Self::Hangs,
        }
    }
}

/// Asks all of them at once.
async fn all(asker: &Asker<'_>, programs: &[PathBuf]) -> Vec<Result<Pip, Trouble>> {
    let mut waiting: Vec<_> = programs.iter().map(|program| Box::pin(ask(asker, program))).collect();
    let mut answers: Vec<Option<Result<Pip, Trouble>>> = programs.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, answer) in waiting.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *answer = Some(ready);
            }
        }
        if answers.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    answers.into_iter().flatten().collect()
}

async fn ask(asker: &Asker<'_>, program: &Path) -> Result<Pip, Trouble> {
    let python = Python::ask(asker, program).await?;
    let full = python.pip.clone().ok_or(Trouble::None)?;
    let (package, settings) = tokio::join!(python.package(asker, program), settings(asker, program));
    let settings = settings.map_err(|silence| match silence {
        Silence::Failed => Trouble::Configuration,
        Silence::Hangs => Trouble::Hangs,
    })?;
    pip(&python, &full, package, settings).ok_or(Trouble::None)
}

fn pip(python: &Python, full: &str, package: Package, settings: Settings) -> Option<Pip> {
    let mut numbers = full.split('.').map(|part| part.parse().ok());
    let version = (numbers.next()??, numbers.next().flatten().unwrap_or(0));
    let full: String = printable(full).chars().take(20).collect();
    let text = format!("{full} in {}", shown_path(&python.prefix));
    Some(Pip { text, version, scripts: python.scripts.clone(), package, settings })
}

/// What the pip of a Python says is in force for it.
pub(super) async fn settings(asker: &Asker<'_>, program: &Path) -> Result<Settings, Silence> {
    // Any option would count as a setting.
    let config = |what: &'static str| async move {
        asker.ask(program, &["-m", "pip", "config", what], Some(Path::new(NOWHERE))).await
    };
    let mut settings = Settings::parse(&config("list").await?);
    if settings.is_of_a_file() {
        // An older pip does not tell of which.
        settings.find_file(&config("debug").await.unwrap_or_default());
    }
    Ok(settings)
}

fn finding(verdict: Verdict) -> Finding {
    match verdict {
        Verdict::Yes(text) => Finding::fine("pip", text),
        Verdict::Partly(text, hint) => Finding::note("pip", text, hint),
        Verdict::No(text, hint) => Finding::wrong("pip", &Failure::new(Kind::Local, text).with_hint(hint)),
    }
}

/// The Pythons, each environment once.
fn pythons(asker: &Asker<'_>) -> Vec<PathBuf> {
    let environment = asker.environment;
    let active = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(|name| environment.path(name))
        .filter(|prefix| prefix.is_absolute())
        .map(|prefix| prefix.join("bin/python"));
    let named = ["python3", "python"].into_iter().filter_map(|name| environment.find_program(name));
    let scripts = environment.search_path().flat_map(|directory| {
        ["pip", "pip3"].into_iter().filter_map(move |name| interpreter(&directory.join(name)))
    });
    let mut seen = HashSet::new();
    active
        .filter(|python| crate::environment::is_executable(python))
        .chain(named)
        .chain(scripts)
        // Two names of one Python in one directory are one; a link elsewhere is an environment of its own.
        .filter(|python| {
            let directory = python.parent().and_then(|directory| directory.canonicalize().ok());
            seen.insert((directory, python.canonicalize().ok()))
        })
        .take(MOST)
        .collect()
}

const ACTIVATE: &str = "activate the virtual environment that you install into";
const MOST: usize = 8;
