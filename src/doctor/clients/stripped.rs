//! Programs that start others with less than there is: tox hands on a few variables only, and a hook of git runs wherever
//! git was started, an editor among other places. What is missing there decides whose token comes, and whether any does.

use super::super::Finding;
use super::Asker;
use crate::wiring::pip::VARIABLE;

pub(super) fn examine(asker: &Asker<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(tox(asker));
    findings.extend(hooks(asker));
    findings
}

fn tox(asker: &Asker<'_>) -> Option<Finding> {
    let environment = asker.environment;
    if environment.get("TOX_ENV_NAME").is_some() {
        let text = "this is inside of tox, which hands on no variables of Google's, uv's or valetkey's unless it is told to: \
                    the identity above may be another one than outside";
        return Some(Finding::note("tox", text, format!("write `pass_env = {PASS}` in tox.ini")));
    }
    environment.find_program("tox")?;
    let names = environment.iter().filter_map(|(name, value)| name.to_str().filter(|_| !value.is_empty()));
    let lost: Vec<&str> = names.filter(|name| is_lost(name)).take(MOST).collect();
    (!lost.is_empty()).then(|| {
        let text = format!("hands on none of these, which are set here: {}", lost.join(", "));
        Finding::note("tox", text, format!("write `pass_env = {PASS}` in tox.ini"))
    })
}

/// Whether a variable that matters to us is taken away by tox.
fn is_lost(name: &str) -> bool {
    LOST.iter().any(|lost| match lost.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == *lost,
    })
}

/// pre-commit passes everything on, and installs hooks with a pip of a new environment each.
fn hooks(asker: &Asker<'_>) -> Option<Finding> {
    let inside = asker.environment.get("PRE_COMMIT").is_some();
    let there = || asker.environment.find_program("pre-commit").is_some();
    if !inside && !there() {
        return None;
    }
    let told = asker.environment.text(VARIABLE) == Some("subprocess");
    let hint = "run `pip config set global.keyring-provider subprocess`, which holds wherever git is started";
    match (inside, told) {
        (true, false) => {
            let text = format!("this is inside of pre-commit, and {VARIABLE}=subprocess is not set here");
            Some(Finding::note("hooks", text, hint))
        }
        (false, true) => {
            let text = format!(
                "pre-commit installs hooks wherever git is started; an editor may know no {VARIABLE}"
            );
            Some(Finding::note("hooks", text, hint))
        }
        _ => None,
    }
}

const PASS: &str = "XDG_RUNTIME_DIR, GOOGLE_APPLICATION_CREDENTIALS, CLOUDSDK_*, GCE_METADATA_HOST, VALETKEY_*, \
                    UV_KEYRING_PROVIDER, PYTHON_KEYRING_BACKEND";
const LOST: [&str; 7] = [
    "GOOGLE_APPLICATION_CREDENTIALS",
    "CLOUDSDK_*",
    "GCE_METADATA_*",
    "VALETKEY_*",
    "UV_KEYRING_PROVIDER",
    "PYTHON_KEYRING_BACKEND",
    "XDG_RUNTIME_DIR",
];
const MOST: usize = 12;
