//! `valetkey env`: lines for `eval "$(valetkey env)"`. What needs a process behind it is told of, not given.

use std::path::Path;
use std::process::ExitCode;

use super::{print, terminal};
use crate::client::delegate::is_same_program;
use crate::environment::{Environment, is_executable};
use crate::error::Failure;
use crate::wiring::{Wiring, keyring_providers, path_with};

pub(super) fn run(environment: &Environment) -> Result<ExitCode, Failure> {
    let own = std::env::current_exe().ok();
    let is_ours = |file: &Path| own.as_deref().is_some_and(|own| is_same_program(own, file));
    let mut wiring = keyring_providers(environment);
    let first = environment.find_program("keyring");
    if !first.as_deref().is_some_and(is_ours) {
        // Where the link was made, and is not found.
        let beside = own.as_deref().and_then(Path::parent).filter(|directory| {
            let link = directory.join("keyring");
            is_executable(&link) && is_ours(&link)
        });
        match beside {
            Some(directory) => wiring.set("PATH", path_with(environment, directory)),
            None => wiring.notes.push(
                "the first `keyring` on PATH is not valetkey: make a link of that name to it, or use `valetkey exec`"
                    .to_owned(),
            ),
        }
    }
    print(&lines(&wiring))?;
    for note in &wiring.notes {
        terminal::whisper(note);
    }
    terminal::whisper(
        "an index on loopback, its certificates and clients that call no keyring need `valetkey exec -- COMMAND`",
    );
    Ok(ExitCode::SUCCESS)
}

/// Lines for a POSIX shell.
fn lines(wiring: &Wiring) -> String {
    let quoted = |value: &str| format!("'{}'", value.replace('\'', r"'\''"));
    let line = |(name, value): &(&str, std::ffi::OsString)| {
        // What is not text came from the environment and is there already.
        value.to_str().map(|value| format!("export {name}={}\n", quoted(value))).unwrap_or_default()
    };
    wiring.set.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_in_a_value_stays_in_it() {
        let mut wiring = Wiring::default();
        wiring.set("PATH", "/it's $HOME:/bin");
        assert_eq!(lines(&wiring), "export PATH='/it'\\''s $HOME:/bin'\n");
    }
}
