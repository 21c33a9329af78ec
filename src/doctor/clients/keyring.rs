//! Which `keyring` is on PATH, and what switches Python's package of that name off.

use std::path::{Path, PathBuf};

use super::super::Finding;
use crate::client::delegate::is_same_program;
use crate::environment::{Environment, is_executable};
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::paths::read_regular;
use crate::wiring::keyring::{Chosen, VARIABLE, chosen, is_disabled_by};

/// The program, where it is valetkey and comes first, and what is to be said.
pub(super) fn examine(environment: &Environment) -> (Option<PathBuf>, Vec<Finding>) {
    let (program, finding) = program(environment);
    let mut findings = vec![finding];
    findings.extend(variable(environment));
    findings.extend(file(environment));
    (program, findings)
}

fn program(environment: &Environment) -> (Option<PathBuf>, Finding) {
    let own = std::env::current_exe().ok();
    let all: Vec<PathBuf> = environment
        .search_path()
        .map(|directory| directory.join("keyring"))
        .filter(|file| is_executable(file))
        .collect();
    let is_ours = |file: &Path| own.as_ref().is_some_and(|own| is_same_program(own, file));
    match all.first() {
        Some(first) if is_ours(first) => {
            let finding = Finding::fine("keyring", format!("{} is valetkey", shown_path(first)));
            (Some(first.clone()), finding)
        }
        Some(first) => {
            let behind = all.iter().find(|file| is_ours(file));
            let text = match behind {
                Some(ours) => format!("{} comes before valetkey's {}", shown_path(first), shown_path(ours)),
                None => format!("{} is not valetkey", shown_path(first)),
            };
            let hint = "put a link named `keyring` to valetkey into a directory that comes earlier on PATH";
            (None, Finding::note("keyring", text, hint))
        }
        None => {
            let hint = "make a link named `keyring` to valetkey in a directory on PATH, such as ~/.local/bin";
            (None, Finding::note("keyring", "there is no keyring on PATH", hint))
        }
    }
}

fn variable(environment: &Environment) -> Option<Finding> {
    let hint = format!("unset {VARIABLE}");
    match chosen(environment) {
        Chosen::Empty => {
            let text = format!(
                "{VARIABLE} is set to nothing, with which Python's keyring fails in every program that imports it"
            );
            Some(Finding::wrong("keyring", &Failure::new(Kind::Local, text).with_hint(hint)))
        }
        Chosen::Nobody => {
            let text = format!("{VARIABLE} switches Python's keyring off for every program that imports it");
            Some(Finding::note("keyring", text, hint))
        }
        Chosen::Nothing | Chosen::Other(_) => None,
    }
}

/// `keyring --disable` writes a file, for good and without a word.
fn file(environment: &Environment) -> Option<Finding> {
    let home = environment.path("HOME").map(|home| home.join(".config"));
    let config = environment.path("XDG_CONFIG_HOME").or(home)?;
    let file = config.join("python_keyring/keyringrc.cfg");
    let text = read_regular(&file, LARGEST).ok()?;
    is_disabled_by(&text).then(|| {
        let text = format!(
            "{} switches Python's keyring off for every program that imports it, as `keyring --disable` does",
            shown_path(&file)
        );
        Finding::note("keyring", text, format!("remove {}", shown_path(&file)))
    })
}

const LARGEST: u64 = 64 << 10;
