//! The real Python and the real pip: found, put into a fresh virtual environment, and let loose on the private index.

use std::path::{Path, PathBuf};
use std::process::Command;

use valetkey::environment::Environment;

use crate::place::Place;
use crate::trouble::{Trouble, cannot, run};

/// A Python that can make virtual environments.
#[derive(Debug)]
pub(crate) struct Python {
    pub(crate) program: PathBuf,
    pub(crate) version: String,
}

impl Python {
    /// Finds a Python by path, or by name on PATH, and says what it lacks.
    pub(crate) fn find(environment: &Environment, named: &Path) -> Result<Self, Trouble> {
        let is_path = named.components().count() > 1;
        let found =
            if is_path { Some(named.to_owned()) } else { environment.find_program(&named.to_string_lossy()) };
        let program = found.ok_or_else(|| {
            Trouble::new(format!("there is no {} on PATH", named.display())).with_hint(PACKAGES)
        })?;
        // In the user's own environment: the program may be a wrapper that needs it.
        let output = run(Command::new(&program).args(["-I", "-c", QUESTION]), &program.display().to_string())
            .map_err(|trouble| trouble.with_hint(PACKAGES))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines();
        let (Some(executable), Some(version)) = (lines.next(), lines.next()) else {
            return Err(Trouble::new(format!("{} does not say what it is", program.display())));
        };
        if let Some(lack) = lines.next() {
            let text = format!("{executable} cannot make a virtual environment: {lack}");
            return Err(Trouble::new(text).with_hint(PACKAGES));
        }
        Ok(Self { program: executable.into(), version: version.to_owned() })
    }

    /// Makes a fresh virtual environment with the pip that Python brings.
    pub(crate) fn environment(&self, place: &Place) -> Result<PathBuf, Trouble> {
        let directory = place.path("venv");
        let mut command = place.command(&self.program);
        run(command.args(["-I", "-m", "venv"]).arg(&directory), "`python3 -m venv`")
            .map_err(|trouble| trouble.with_hint(PACKAGES))?;
        Ok(directory.join("bin/python"))
    }
}

/// The version of the pip in a virtual environment.
pub(crate) fn pip_version(place: &Place, python: &Path) -> Result<String, Trouble> {
    let output = run(place.command(python).args(["-m", "pip", "--version"]), "`pip --version`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `pip 23.2.1 from … (python 3.11)`
    let version = text.split_ascii_whitespace().nth(1);
    version.map(str::to_owned).ok_or_else(|| Trouble::new("pip does not tell its version"))
}

/// Whether this pip can run a program to ask it for a password.
pub(crate) fn can_call_programs(version: &str) -> bool {
    version.split('.').next().and_then(|major| major.parse::<u32>().ok()).is_some_and(|major| major >= 23)
}

/// Brings the newest pip, from wherever this user's pip gets packages: the only step that needs a network.
pub(crate) fn upgrade_pip(python: &Path) -> Result<(), Trouble> {
    let mut command = Command::new(python);
    run(
        command.args(["-m", "pip", "install", "--quiet", "--upgrade", "pip"]),
        "`pip install --upgrade pip`",
    )?;
    Ok(())
}

/// Lets pip install a package, and returns what it installed.
pub(crate) fn install(place: &Place, python: &Path, index: &str) -> Result<String, Trouble> {
    let mut command = place.command(python);
    command
        .args(["-m", "pip", "install", "--index-url", index, PACKAGE])
        .env("PIP_KEYRING_PROVIDER", "subprocess")
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("PIP_CERT", place.path("ca.pem"))
        .env("PIP_LOG", place.path("pip.log"))
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    let output = run(&mut command, "`pip install`")?;
    for (name, bytes) in [("pip.out", &output.stdout), ("pip.err", &output.stderr)] {
        let file = place.path(name);
        std::fs::write(&file, bytes).map_err(cannot(format!("write {}", file.display())))?;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let installed = text.lines().find_map(|line| line.strip_prefix("Successfully installed "));
    installed.map(str::to_owned).ok_or_else(|| Trouble::new("pip installed nothing"))
}

/// What the installed package says.
pub(crate) fn message(place: &Place, python: &Path) -> Result<String, Trouble> {
    let program = "import acme_hello; print(acme_hello.MESSAGE)";
    let output = run(place.command(python).args(["-I", "-c", program]), "`import acme_hello`")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub(crate) const PACKAGE: &str = "acme-hello";
const PACKAGES: &str = "on Debian and Ubuntu: apt install python3 python3-venv";
/// Asks for the bundled pip itself: Debian ships the module apart from Python, and the wheel apart from the module.
const QUESTION: &str = "\
import sys
print(sys.executable); print(sys.version.split()[0])
try: import venv, ensurepip; ensurepip.version()
except Exception as error: print(error)";
