//! Which `keyring` is on PATH, and whether the pip on PATH will call it. pip's rules changed four times:
//!
//! - before 23.0 it imports the Python package only and never runs a program;
//! - 23.0 runs the program where the package cannot be imported;
//! - from 23.1 on, unless told `subprocess`, it imports the package where it can, and calls nothing at all under
//!   `--no-input`; before 26.2 it also needs a user name in the URL;
//! - a program that lies in pip's own scripts directory is passed over.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Finding;
use crate::client::delegate::is_same_program;
use crate::environment::{Environment, is_executable};
use crate::error::{Failure, Kind};

pub(super) fn examine(environment: &Environment) -> Vec<Finding> {
    let mut findings = Vec::new();
    let own = std::env::current_exe().ok();
    let all: Vec<PathBuf> = environment
        .search_path()
        .map(|directory| directory.join("keyring"))
        .filter(|file| is_executable(file))
        .collect();
    let is_ours = |file: &Path| own.as_ref().is_some_and(|own| is_same_program(own, file));
    let keyring = match all.first() {
        Some(first) if is_ours(first) => {
            findings.push(Finding::fine("keyring", format!("{} is valetkey", first.display())));
            Some(first)
        }
        Some(first) => {
            let behind = all.iter().find(|file| is_ours(file));
            let text = match behind {
                Some(ours) => format!("{} comes before valetkey's {}", first.display(), ours.display()),
                None => format!("{} is not valetkey", first.display()),
            };
            let hint = "put a link named `keyring` to valetkey into a directory that comes earlier on PATH";
            findings.push(Finding::note("keyring", text, hint));
            None
        }
        None => {
            let hint = "make a link named `keyring` to valetkey in a directory on PATH, such as ~/.local/bin";
            findings.push(Finding::note("keyring", "there is no keyring on PATH", hint));
            None
        }
    };
    findings.push(match ask_python(environment) {
        Ok(pip) => judge(&pip, keyring.map(PathBuf::as_path), environment),
        Err(reason) => Finding::note("pip", reason, "activate the virtual environment that you install into"),
    });
    findings
}

/// What Python says about its pip.
#[derive(Debug)]
struct Pip {
    version: (u32, u32),
    text: String,
    scripts: PathBuf,
    /// Whether `import keyring` works there.
    imports: bool,
}

fn judge(pip: &Pip, keyring: Option<&Path>, environment: &Environment) -> Finding {
    let (name, scripts) = (format!("pip {}", pip.text), pip.scripts.display());
    let wrong =
        |text: String, hint: &str| Finding::wrong("pip", &Failure::new(Kind::Local, text).with_hint(hint));
    if pip.version < (23, 0) {
        let text = format!("{name} can call no program: it only imports Python's keyring");
        return wrong(text, "upgrade it with `python -m pip install --upgrade pip`");
    }
    let Some(keyring) = keyring else {
        return Finding::note("pip", format!("{name} will not find valetkey"), "see the line above");
    };
    if keyring.parent().is_some_and(|directory| directory.starts_with(&pip.scripts)) {
        let text =
            format!("{name} passes over {}: it lies in pip's own scripts directory", keyring.display());
        return wrong(text, "link it into another directory on PATH as well");
    }
    let provider = environment.text("PIP_KEYRING_PROVIDER");
    match provider {
        Some("disabled") => wrong(format!("{name} is told to ask no keyring"), "unset PIP_KEYRING_PROVIDER"),
        Some("import") => {
            wrong(format!("{name} is told to import Python's keyring"), "set PIP_KEYRING_PROVIDER=subprocess")
        }
        _ if pip.version < (23, 1) => {
            let text = if pip.imports {
                format!("{name} imports the Python package keyring ({scripts}) and does not call valetkey")
            } else {
                format!("{name} calls it for URLs with a user name, but not under --no-input")
            };
            Finding::note("pip", text, "upgrade pip: from 23.1 on PIP_KEYRING_PROVIDER=subprocess settles it")
        }
        Some("subprocess") if pip.version < (26, 2) => Finding::fine(
            "pip",
            format!("{name} calls it for URLs with a user name: https://oauth2accesstoken@HOST/…"),
        ),
        Some("subprocess") => Finding::fine("pip", format!("{name} calls it")),
        _ if pip.imports => Finding::note(
            "pip",
            format!("{name} imports the Python package keyring ({scripts}) and does not call valetkey"),
            "set PIP_KEYRING_PROVIDER=subprocess",
        ),
        _ => Finding::note(
            "pip",
            format!("{name} calls it, but not under --no-input and not in isolated builds"),
            "set PIP_KEYRING_PROVIDER=subprocess",
        ),
    }
}

/// Runs the Python on PATH for a moment.
fn ask_python(environment: &Environment) -> Result<Pip, String> {
    let python = environment
        .find_program("python3")
        .or_else(|| environment.find_program("python"))
        .ok_or("there is no python3 on PATH")?;
    let mut child = Command::new(&python)
        .args(["-I", "-c", QUESTION])
        .env_clear()
        .envs(environment.iter())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{} cannot be run: {error}", python.display()))?;
    let give_up = Instant::now() + Duration::from_secs(5);
    while child.try_wait().is_ok_and(|status| status.is_none()) {
        if Instant::now() > give_up {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{} does not answer", python.display()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse(&text).ok_or_else(|| format!("{} has no pip", python.display()))
}

fn parse(text: &str) -> Option<Pip> {
    let mut lines = text.lines();
    let (version, scripts, imports) = (lines.next()?, lines.next()?, lines.next()?);
    let mut numbers = version.split('.').map(|part| part.parse().ok());
    let pair = (numbers.next()??, numbers.next().flatten().unwrap_or(0));
    Some(Pip { version: pair, text: version.to_owned(), scripts: scripts.into(), imports: imports == "True" })
}

const QUESTION: &str = "\
import importlib.metadata as m, importlib.util as u, sysconfig
print(m.version('pip')); print(sysconfig.get_path('scripts')); print(u.find_spec('keyring') is not None)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    fn verdict(version: &str, imports: bool, keyring: Option<&str>, provider: Option<&str>) -> Level {
        let pip =
            parse(&format!("{version}\n/venv/bin\n{}\n", if imports { "True" } else { "False" })).unwrap();
        let environment = provider.map(|it| ("PIP_KEYRING_PROVIDER", it)).into_iter().collect();
        judge(&pip, keyring.map(Path::new), &environment).level
    }

    #[test]
    fn pips_rules_are_told_apart() {
        let ours = Some("/opt/bin/keyring");
        let subprocess = Some("subprocess");
        assert_eq!(verdict("20.3.4", false, ours, subprocess), Level::Wrong);
        assert_eq!(verdict("22.3.1", false, ours, None), Level::Wrong);
        assert_eq!(verdict("26.3", false, Some("/venv/bin/keyring"), subprocess), Level::Wrong);
        assert_eq!(verdict("26.3", false, ours, Some("disabled")), Level::Wrong);
        assert_eq!(verdict("26.3", false, ours, subprocess), Level::Fine);
        assert_eq!(verdict("24.0", false, ours, subprocess), Level::Fine);
        assert_eq!(verdict("26.3", true, ours, None), Level::Note);
        assert_eq!(verdict("26.3", false, ours, None), Level::Note);
        assert_eq!(verdict("26.3", false, None, subprocess), Level::Note);
        assert!(parse("").is_none());
    }
}
