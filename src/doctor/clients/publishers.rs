//! twine, hatch and flit: what they upload with comes from variables, or from Python's keyring in an environment of their
//! own. None calls a program.

use std::path::Path;

use super::super::Finding;
use super::python::package_of;
use super::{Asker, Silence, hangs};

pub(super) async fn examine(asker: &Asker<'_>) -> Vec<Finding> {
    let [twine, hatch, flit] = &PUBLISHERS;
    let answers = tokio::join!(about(asker, twine), about(asker, hatch), about(asker, flit));
    [answers.0, answers.1, answers.2].into_iter().flatten().collect()
}

/// A client, the variable that brings its password, and how to give it one.
struct Publisher {
    name: &'static str,
    password: &'static str,
    hint: &'static str,
}

async fn about(asker: &Asker<'_>, publisher: &Publisher) -> Option<Finding> {
    let Publisher { name, password, hint } = publisher;
    let program = asker.environment.find_program(name)?;
    if asker.environment.get(password).is_some() {
        return Some(Finding::fine(name, format!("takes its password from {password}")));
    }
    Some(judge(asker, name, hint, &program).await)
}

async fn judge(asker: &Asker<'_>, name: &'static str, hint: &str, program: &Path) -> Finding {
    match package_of(asker, program).await {
        Some(Ok(package)) if package.asks_us() => {
            Finding::fine(name, "imports Python's keyring, which asks valetkey")
        }
        Some(Ok(package)) if package.is_there() => {
            let text =
                format!("imports Python's keyring, {}, and does not call valetkey", package.describe());
            Finding::note(name, text, hint)
        }
        Some(Err(Silence::Hangs)) => hangs(name, program),
        _ => Finding::note(name, "imports Python's keyring where it can, and calls no program", hint),
    }
}

const PUBLISHERS: [Publisher; 3] = [
    Publisher {
        name: "twine",
        password: "TWINE_PASSWORD",
        hint: "set TWINE_USERNAME=oauth2accesstoken and TWINE_PASSWORD to what `valetkey token --write` prints",
    },
    Publisher {
        name: "hatch",
        password: "HATCH_INDEX_AUTH",
        hint: "set HATCH_INDEX_USER=oauth2accesstoken and HATCH_INDEX_AUTH to what `valetkey token --write` prints",
    },
    Publisher {
        name: "flit",
        password: "FLIT_PASSWORD",
        hint: "set FLIT_USERNAME=oauth2accesstoken and FLIT_PASSWORD to what `valetkey token --write` prints",
    },
];
