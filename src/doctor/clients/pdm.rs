//! pdm imports Python's keyring where that lies beside it, and calls the program on PATH where not: never both.

use super::super::Finding;
use super::python::package_of;
use super::{Asker, Silence, hangs};
use crate::error::shown::shown_path;
use crate::wiring::keyring::Package;

pub(super) async fn examine(asker: &Asker<'_>) -> Vec<Finding> {
    let Some(program) = asker.environment.find_program("pdm") else { return Vec::new() };
    // pdm itself is not run: it would load what a project's directory holds for it.
    let finding = match package_of(asker, &program).await {
        Some(Ok(Package::Missing)) if asker.keyring.is_some() => Finding::fine("pdm", "calls it"),
        Some(Ok(Package::Missing)) => Finding::note("pdm", "will not find valetkey", "see the line above"),
        Some(Ok(package)) if package.asks_us() => {
            Finding::fine("pdm", "imports Python's keyring, which asks valetkey")
        }
        Some(Ok(package)) => {
            let text =
                format!("imports Python's keyring, {}, and does not call valetkey", package.describe());
            Finding::note("pdm", text, "take the package keyring out of pdm's own environment")
        }
        Some(Err(Silence::Hangs)) => hangs("pdm", &program),
        Some(Err(Silence::Failed)) | None => {
            let text = format!("{} does not tell which Python it runs in", shown_path(&program));
            Finding::note("pdm", text, "it calls valetkey unless Python's keyring is installed beside it")
        }
    };
    vec![finding]
}
