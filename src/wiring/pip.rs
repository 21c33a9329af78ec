//! Whether a pip calls the program `keyring`. Its rules changed four times:
//!
//! - before 23.0 it imports the Python package only and never runs a program;
//! - 23.0 runs the program where the package cannot be imported;
//! - from 23.1 on, unless told `subprocess`, it imports the package where it can, and calls nothing at all under
//!   `--no-input`; before 26.2 it also needs a user name in the URL;
//! - a program that lies in pip's own scripts directory is passed over.
//!
//! What it is told stands in its files and in its variables, which it reads better than anybody else: `pip config list`
//! says what is in force, `pip config debug` which file says it.

use std::path::{Path, PathBuf};

use super::keyring::Package;
use crate::error::shown::shown_path;

/// A pip, as it tells of itself.
#[derive(Debug, Clone)]
pub struct Pip {
    /// `26.3 in /venv`
    pub text: String,
    pub version: (u32, u32),
    pub scripts: PathBuf,
    pub package: Package,
    pub settings: Settings,
}

/// What is in force for `pip install`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub provider: Option<Setting>,
    pub no_input: bool,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub value: Provider,
    pub place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    Auto,
    Disabled,
    Import,
    Subprocess,
    /// A word that pip does not know: it ends with a usage error.
    Unknown,
}

/// Where a setting stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Variable,
    /// In a section of a file that pip reads.
    File {
        section: &'static str,
        path: Option<PathBuf>,
    },
}

/// Whether pip asks valetkey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Yes(String),
    /// In some cases, and what makes it all.
    Partly(String, String),
    No(String, String),
}

impl Settings {
    /// Reads what `pip config list` prints. Nothing but these two settings is looked at: the others may hold secrets.
    #[must_use]
    pub fn parse(list: &str) -> Self {
        let mut settings = Self::default();
        // The later of them wins, as in pip.
        for (section, place) in [
            ("global", Place::File { section: "global", path: None }),
            ("install", Place::File { section: "install", path: None }),
            (":env:", Place::Variable),
        ] {
            for line in list.lines() {
                let Some((name, value)) =
                    line.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')?.split_once('='))
                else {
                    continue;
                };
                let value = value.trim().trim_matches(['\'', '"']);
                match name {
                    "keyring-provider" if !value.is_empty() => {
                        settings.provider =
                            Some(Setting { value: Provider::parse(value), place: place.clone() });
                    }
                    "no-input" => settings.no_input = is_true(value),
                    _ => {}
                }
            }
        }
        settings
    }

    /// Whether a file says what the provider is.
    #[must_use]
    pub fn is_of_a_file(&self) -> bool {
        self.provider.as_ref().is_some_and(|provider| provider.place != Place::Variable)
    }

    /// Finds the file that the provider stands in, in what `pip config debug` prints.
    pub fn find_file(&mut self, debug: &str) {
        let Some(Setting { place: Place::File { section, path }, .. }) = &mut self.provider else { return };
        let wanted = format!("    {section}.keyring-provider: ");
        let (mut rank, mut best, mut file) = (0, 0, None);
        for line in debug.lines() {
            if let Some(kind) = line.strip_suffix(':').filter(|kind| !kind.starts_with(' ')) {
                rank = ["global", "user", "base", "site", "env"]
                    .iter()
                    .position(|it| *it == kind)
                    .map_or(0, |at| at + 1);
            } else if let Some(name) =
                line.strip_prefix("  ").and_then(|rest| rest.strip_suffix(", exists: True"))
            {
                file = Some(PathBuf::from(name));
            } else if line.starts_with(&wanted) && rank >= best {
                best = rank;
                path.clone_from(&file);
            }
        }
    }
}

impl Provider {
    fn parse(word: &str) -> Self {
        match word {
            "auto" => Self::Auto,
            "disabled" => Self::Disabled,
            "import" => Self::Import,
            "subprocess" => Self::Subprocess,
            _ => Self::Unknown,
        }
    }
}

impl Setting {
    /// Who says so.
    fn place(&self) -> String {
        match &self.place {
            Place::Variable => VARIABLE.to_owned(),
            Place::File { path: Some(path), .. } => format!("keyring-provider in {}", shown_path(path)),
            Place::File { path: None, .. } => "keyring-provider in its configuration".to_owned(),
        }
    }

    /// How to have it say something else.
    fn remedy(&self) -> String {
        match &self.place {
            Place::Variable => format!("set {VARIABLE}=subprocess"),
            Place::File { section, .. } => format!(
                "run `pip config set {section}.keyring-provider subprocess`, or set {VARIABLE}=subprocess, which wins over files"
            ),
        }
    }
}

impl Pip {
    /// Judges by what pip does, with the `keyring` on PATH that is valetkey.
    #[must_use]
    pub fn judge(&self, keyring: Option<&Path>) -> Verdict {
        let name = format!("pip {}", self.text);
        let imports = format!("{name} imports the Python package keyring, {},", self.package.describe());
        if self.package.asks_us() && self.imports() {
            return Verdict::Yes(format!("{imports} and so reaches it"));
        }
        if self.version < (23, 0) {
            let text = format!("{name} can call no program: it only imports Python's keyring");
            return Verdict::No(text, "upgrade it with `python -m pip install --upgrade pip`".to_owned());
        }
        let told = self.settings.provider.as_ref().filter(|_| self.version >= (23, 1));
        match told.map(|setting| (setting, setting.value)) {
            Some((setting, Provider::Disabled)) => {
                return Verdict::No(
                    format!("{name} is told by {} to ask no keyring", setting.place()),
                    setting.remedy(),
                );
            }
            Some((setting, Provider::Import)) => {
                let text = format!("{name} is told by {} to import Python's keyring", setting.place());
                return Verdict::No(format!("{text}, {}", self.package.describe()), setting.remedy());
            }
            Some((setting, Provider::Unknown)) => {
                let text =
                    format!("{name} is told by {} to use a provider that it does not know", setting.place());
                return Verdict::No(text, setting.remedy());
            }
            _ => {}
        }
        let Some(keyring) = keyring else {
            return Verdict::Partly(
                format!("{name} will not find valetkey"),
                "see the line above".to_owned(),
            );
        };
        if keyring.parent().is_some_and(|directory| directory.starts_with(&self.scripts)) {
            let text =
                format!("{name} passes over {}: it lies in pip's own scripts directory", shown_path(keyring));
            return Verdict::No(text, "link it into another directory on PATH as well".to_owned());
        }
        let settled = || told.map_or(format!("set {VARIABLE}=subprocess"), Setting::remedy);
        if let Some(setting) = told.filter(|setting| setting.value == Provider::Subprocess) {
            let user = if self.version < (26, 2) {
                " for URLs with a user name: https://oauth2accesstoken@HOST/…"
            } else {
                ""
            };
            return Verdict::Yes(format!("{name} calls it{user} ({} is subprocess)", setting.place()));
        }
        if self.package.is_there() {
            let text = format!("{imports} and does not call valetkey");
            let hint = if self.version < (23, 1) { NEWER.to_owned() } else { settled() };
            return if self.package.finds_nothing() {
                Verdict::No(text, hint)
            } else {
                Verdict::Partly(text, hint)
            };
        }
        if self.version < (23, 1) {
            let text = format!("{name} calls it for URLs with a user name, but not under --no-input");
            return Verdict::Partly(text, NEWER.to_owned());
        }
        if self.settings.no_input {
            let text =
                format!("{name} is told `no-input`, and then calls no keyring unless it is told which");
            return Verdict::No(text, settled());
        }
        let text = format!("{name} calls it, but not under --no-input and not in isolated builds");
        Verdict::Partly(text, settled())
    }

    /// Whether it imports the package where it can.
    fn imports(&self) -> bool {
        let value = self.settings.provider.as_ref().map(|setting| setting.value);
        self.version < (23, 1) || matches!(value, None | Some(Provider::Auto | Provider::Import))
    }
}

/// As pip reads a switch.
fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "y" | "yes" | "t" | "true" | "on" | "1")
}

pub const VARIABLE: &str = "PIP_KEYRING_PROVIDER";
const NEWER: &str = "upgrade pip: from 23.1 on PIP_KEYRING_PROVIDER=subprocess settles it";

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(version: (u32, u32), package: Package, keyring: Option<&str>, list: &str) -> char {
        let text = format!("{}.{}", version.0, version.1);
        let settings = Settings::parse(list);
        let pip = Pip { text, version, scripts: "/venv/bin".into(), package, settings };
        match pip.judge(keyring.map(Path::new)) {
            Verdict::Yes(_) => 'y',
            Verdict::Partly(..) => 'p',
            Verdict::No(..) => 'n',
        }
    }

    #[test]
    fn pips_rules_are_told_apart() {
        let ours = Some("/opt/bin/keyring");
        let none = || Package::Missing;
        let fails = || Package::Asks(vec!["keyring.backends.fail".to_owned()]);
        let google = || Package::Asks(vec!["keyrings.gauth".to_owned()]);
        let backend = || Package::Asks(vec!["valetkey.backend".to_owned()]);
        let (subprocess, file) =
            (":env:.keyring-provider='subprocess'", "global.keyring-provider='subprocess'");
        assert_eq!(verdict((20, 3), none(), ours, subprocess), 'n');
        assert_eq!(verdict((22, 3), none(), ours, ""), 'n');
        assert_eq!(verdict((26, 3), none(), Some("/venv/bin/keyring"), subprocess), 'n');
        assert_eq!(verdict((26, 3), none(), ours, "global.keyring-provider='disabled'"), 'n');
        assert_eq!(verdict((26, 3), none(), None, "global.keyring-provider='import'"), 'n');
        assert_eq!(verdict((26, 3), none(), ours, "global.keyring-provider='sub'"), 'n');
        assert_eq!(verdict((26, 3), none(), ours, subprocess), 'y');
        assert_eq!(verdict((26, 3), google(), ours, file), 'y');
        assert_eq!(verdict((24, 0), fails(), ours, file), 'y');
        assert_eq!(verdict((23, 0), none(), ours, file), 'p');
        assert_eq!(verdict((26, 3), google(), ours, ""), 'p');
        assert_eq!(verdict((26, 3), fails(), ours, ""), 'n');
        assert_eq!(verdict((26, 3), none(), ours, ""), 'p');
        assert_eq!(verdict((26, 3), none(), ours, "global.no-input='true'"), 'n');
        assert_eq!(verdict((26, 3), none(), ours, "global.no-input='true'\n:env:.no-input='0'"), 'p');
        assert_eq!(verdict((26, 3), none(), None, subprocess), 'p');
        assert_eq!(verdict((26, 3), backend(), None, ""), 'y');
        assert_eq!(verdict((22, 3), backend(), None, ""), 'y');
        assert_eq!(verdict((26, 3), backend(), None, ":env:.keyring-provider='disabled'"), 'n');
    }

    #[test]
    fn what_is_in_force_is_what_pip_takes() {
        let list = "global.index-url='https://u:p@x.test/'\nglobal.keyring-provider='import'\n\
            install.keyring-provider='disabled'\n:env:.cert='x'\n";
        let provider = |list: &str| Settings::parse(list).provider;
        let told = provider(list).unwrap();
        assert_eq!(told.value, Provider::Disabled);
        assert_eq!(told.place, Place::File { section: "install", path: None });
        let told = provider(&format!("{list}:env:.keyring-provider='subprocess'")).unwrap();
        assert_eq!((told.value, told.place), (Provider::Subprocess, Place::Variable));
        assert_eq!(provider(":env:.keyring-provider=''\ndownload.keyring-provider='disabled'"), None);
    }

    #[test]
    fn the_file_is_the_one_that_wins() {
        let debug = "env_var:\n  PIP_CERT='x'\nenv:\n  /f, exists: False\nglobal:\n  /etc/pip.conf, exists: True\n    \
            global.keyring-provider: subprocess\n    global.index-url: https://u:p@x.test/\nsite:\n  /venv/pip.conf, exists: True\n    \
            global.keyring-provider: disabled\nuser:\n  /h/pip.conf, exists: True\n    global.keyring-provider: import\n    \
            install.keyring-provider: auto\n";
        let mut settings = Settings::parse("global.keyring-provider='disabled'");
        settings.find_file(debug);
        assert_eq!(settings.provider.unwrap().place(), "keyring-provider in /venv/pip.conf");
        let mut settings = Settings::parse("global.keyring-provider='disabled'");
        settings.find_file("nonsense");
        assert_eq!(settings.provider.unwrap().place(), "keyring-provider in its configuration");
    }
}
