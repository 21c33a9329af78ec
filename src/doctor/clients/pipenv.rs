//! pipenv brings a pip of its own, which reads pip's files and variables and never asks for a password: it calls a
//! keyring only where it is told which.

use super::super::Finding;
use super::pip::settings;
use super::python::interpreter;
use super::{Asker, Silence, hangs};
use crate::wiring::pip::Provider;

pub(super) async fn examine(asker: &Asker<'_>) -> Vec<Finding> {
    let Some(program) = asker.environment.find_program("pipenv") else { return Vec::new() };
    let of_its_own = asker.environment.text("PIPENV_KEYRING_PROVIDER").map(|word| word == "subprocess");
    let told = match (of_its_own, interpreter(&program)) {
        (Some(told), _) => told,
        // The pip beside it reads the same files.
        (None, Some(python)) => match settings(asker, &python).await {
            Ok(settings) => settings.provider.is_some_and(|told| told.value == Provider::Subprocess),
            Err(Silence::Hangs) => return vec![hangs("pipenv", &program)],
            Err(Silence::Failed) => by_variable(asker),
        },
        (None, None) => by_variable(asker),
    };
    vec![match (told, &asker.keyring) {
        (true, Some(_)) => Finding::fine("pipenv", "calls it"),
        (true, None) => Finding::note("pipenv", "will not find valetkey", "see the line above"),
        (false, _) => Finding::note(
            "pipenv",
            "is not told to call keyring, and so asks none",
            "set PIP_KEYRING_PROVIDER=subprocess",
        ),
    }]
}

fn by_variable(asker: &Asker<'_>) -> bool {
    asker.environment.text("PIP_KEYRING_PROVIDER") == Some("subprocess")
}
