//! poetry imports Python's keyring in an environment of its own, unless it is told not to.

use std::path::Path;

use super::super::Finding;
use super::python::package_of;
use super::{Asker, NOWHERE, Silence, hangs};
use crate::wiring::keyring::Package;

pub(super) async fn examine(asker: &Asker<'_>) -> Vec<Finding> {
    let Some(program) = asker.environment.find_program("poetry") else { return Vec::new() };
    // A project's file may say it too; its plugins stay asleep.
    let words = ["--no-plugins", "--no-interaction", "--no-ansi", "config", "keyring.enabled"];
    let (enabled, package) = tokio::join!(asker.ask(&program, &words, None), package_of(asker, &program));
    let enabled = match enabled {
        Err(Silence::Hangs) => return vec![hangs("poetry", &program)],
        Err(Silence::Failed) => asker.ask(&program, &words, Some(Path::new(NOWHERE))).await.ok(),
        Ok(said) => Some(said),
    };
    let text = match (enabled.as_deref().map(str::trim), package) {
        (Some("false"), _) => "is told by keyring.enabled to ask no keyring".to_owned(),
        (_, Some(Ok(Package::Missing))) => {
            "has no Python package keyring beside it, and calls no program".to_owned()
        }
        (_, Some(Ok(package))) if package.asks_us() => {
            return vec![Finding::fine("poetry", "imports Python's keyring, which asks valetkey")];
        }
        (_, Some(Ok(package))) => {
            format!("imports Python's keyring, {}, and does not call valetkey", package.describe())
        }
        _ => "imports Python's keyring, and does not call valetkey".to_owned(),
    };
    vec![Finding::note("poetry", text, HINT)]
}

const HINT: &str = "run it as `valetkey exec -- poetry …`, or set POETRY_HTTP_BASIC_NAME_USERNAME=oauth2accesstoken and \
                    POETRY_HTTP_BASIC_NAME_PASSWORD to what `valetkey token` prints";
