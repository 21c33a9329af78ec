//! uv: whether it is told to call `keyring`, and the store of its own, which it asks before any.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::super::Finding;
use super::{Asker, Silence, hangs};
use crate::ask::Credential;
use crate::clock::{Clock, between, in_words};
use crate::error::{Failure, Kind, printable};
use crate::paths::read_regular;

pub(super) async fn examine(asker: &Asker<'_>) -> Vec<Finding> {
    let program = asker.environment.find_program("uv");
    let (mut findings, directory) = match &program {
        Some(program) => {
            let (provider, directory) =
                tokio::join!(provider(asker, program), asker.ask(program, &["auth", "dir"], None));
            (vec![provider], directory.ok())
        }
        // Its store outlives it on PATH: in a virtual environment there may be another.
        None => (Vec::new(), None),
    };
    let directory = directory
        .map(|said| PathBuf::from(said.trim()))
        .or_else(|| asker.environment.path("UV_CREDENTIALS_DIR"))
        .or_else(|| asker.below("XDG_DATA_HOME", ".local/share", "uv/credentials"));
    findings.extend(directory.into_iter().flat_map(|directory| stored(asker, &directory)));
    findings
}

/// uv itself says what its files, those of the project and its variables come to.
async fn provider(asker: &Asker<'_>, program: &Path) -> Finding {
    let said = match asker.ask(program, &["pip", "list", "--show-settings"], None).await {
        Err(Silence::Hangs) => return hangs("uv", program),
        Err(Silence::Failed) => None,
        Ok(said) => in_settings(&said),
    };
    let told =
        said.or_else(|| asker.environment.text("UV_KEYRING_PROVIDER").map(|word| word == "subprocess"));
    let hint = "set UV_KEYRING_PROVIDER=subprocess, or write keyring-provider = \"subprocess\" under [tool.uv] in \
                pyproject.toml or in uv.toml";
    match (told, &asker.keyring) {
        (Some(true), Some(_)) => Finding::fine(
            "uv",
            "calls it for indexes with `authenticate = \"always\"` and for URLs with a user name",
        ),
        (Some(true), None) => {
            Finding::note("uv", "is told to call keyring, and will not find valetkey", "see the line above")
        }
        (Some(false), _) => Finding::note("uv", "is told to ask no keyring here", hint),
        (None, _) => Finding::note("uv", "does not tell whether it asks a keyring here", hint),
    }
}

/// Whether it calls the program, as `--show-settings` prints it.
fn in_settings(said: &str) -> Option<bool> {
    said.lines()
        .find_map(|line| line.trim().strip_prefix("keyring_provider: "))
        .map(|word| word.trim_start_matches("Some(").starts_with("Subprocess"))
}

/// Entries of `uv auth login` that are asked before the keyring. Their secrets are not even read.
fn stored(asker: &Asker<'_>, directory: &Path) -> Vec<Finding> {
    let file = directory.join("credentials.toml");
    let Ok(text) = read_regular(&file, LARGEST) else { return Vec::new() };
    let text = zeroize::Zeroizing::new(text);
    let Ok(store) = toml::from_str::<Store>(&text) else { return Vec::new() };
    let age = file
        .metadata()
        .and_then(|data| data.modified())
        .map_or(Duration::ZERO, |changed: SystemTime| between(changed, Clock::system().now()));
    store.credential.iter().filter_map(|entry| about(asker, entry, age)).collect()
}

fn about(asker: &Asker<'_>, entry: &Entry, age: Duration) -> Option<Finding> {
    let registry = asker.hosts.resolve(&entry.service).ok()?;
    let mut service = url::Url::parse(&entry.service).ok()?;
    // What a person may have put there.
    let _ = service.set_username("");
    let _ = service.set_password(None);
    service.set_query(None);
    service.set_fragment(None);
    let shown: String = printable(service.as_str()).chars().take(200).collect();
    let hint = format!("run `uv auth logout {shown}`");
    let text = format!("{shown} has a sign-in of uv's own (`uv auth login`), which wins over every keyring");
    let is_token = entry.username.as_deref() == Some(Credential::USERNAME);
    Some(if is_token && age > TOKEN_LIFE {
        let text =
            format!("{text}; it is {} old, and no token of {} lives so long", in_words(age), registry.host);
        Finding::wrong("uv", &Failure::new(Kind::Local, text).with_hint(hint))
    } else if is_token {
        Finding::note("uv", format!("{text}; a token that was put there lives for an hour at most"), hint)
    } else {
        Finding::note("uv", text, hint)
    })
}

#[derive(Deserialize)]
struct Store {
    #[serde(default)]
    credential: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    service: String,
    #[serde(default)]
    username: Option<String>,
}

const LARGEST: u64 = 1 << 20;
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_are_read_in_both_forms() {
        assert_eq!(in_settings("x {\n        keyring_provider: Subprocess,\n"), Some(true));
        assert_eq!(in_settings("keyring_provider: Some(\n"), Some(false));
        assert_eq!(in_settings("keyring_provider: Some(Subprocess),"), Some(true));
        assert_eq!(in_settings("keyring_provider: Disabled,"), Some(false));
        assert_eq!(in_settings("nothing"), None);
    }
}
