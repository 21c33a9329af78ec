//! What Python's `keyring` is, where a program imports it: clients that do never run a program. It decides by a variable,
//! then a file, then by what is installed beside it, whom it asks.

use crate::environment::Environment;

/// The package in one Python, as that Python tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Package {
    Missing,
    /// It is there, and did not tell whom it asks.
    Silent,
    /// It is there, and asking it fails with this class of error.
    Broken(String),
    /// The modules of the backends that it asks.
    Asks(Vec<String>),
}

impl Package {
    #[must_use]
    pub fn is_there(&self) -> bool {
        *self != Self::Missing
    }

    /// Whether whoever imports it reaches valetkey.
    #[must_use]
    pub fn asks_us(&self) -> bool {
        matches!(self, Self::Asks(modules) if modules.iter().any(|module| module.starts_with(OURS)))
    }

    /// Whether it can find nothing at all.
    #[must_use]
    pub fn finds_nothing(&self) -> bool {
        match self {
            Self::Asks(modules) => modules.iter().all(|module| NOBODY.contains(&module.as_str())),
            Self::Broken(_) => true,
            Self::Missing | Self::Silent => false,
        }
    }

    /// A few words to stand behind its name.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Missing => "which is not there".to_owned(),
            Self::Silent => "which does not say whom it asks".to_owned(),
            Self::Broken(class) => format!("which fails with {class}"),
            Self::Asks(_) if self.asks_us() => "which asks valetkey".to_owned(),
            Self::Asks(modules) if modules.iter().any(|module| module == "keyring.backends.null") => {
                "which is switched off".to_owned()
            }
            Self::Asks(_) if self.finds_nothing() => "which has no backend, so it finds nothing".to_owned(),
            Self::Asks(modules) => format!("which asks {}", modules.join(", ")),
        }
    }
}

/// What the variable that chooses a backend does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    Nothing,
    /// It is there and empty: importing the package fails.
    Empty,
    /// Nobody is asked.
    Nobody,
    Other(String),
}

/// Reads [`VARIABLE`]. Unlike any other variable, an empty one counts there.
#[must_use]
pub fn chosen(environment: &Environment) -> Chosen {
    match environment.iter().find(|(name, _)| *name == VARIABLE) {
        None => Chosen::Nothing,
        Some((_, value)) if value.is_empty() => Chosen::Empty,
        Some((_, value)) => {
            let class = value.to_string_lossy();
            if is_nobody(&class) { Chosen::Nobody } else { Chosen::Other(class.into_owned()) }
        }
    }
}

/// Whether the text of `keyringrc.cfg` names a backend that finds nothing, as `keyring --disable` writes it.
#[must_use]
pub fn is_disabled_by(file: &str) -> bool {
    let mut concerns = false;
    let mut disabled = false;
    for line in file.lines().map(str::trim_end) {
        if let Some(section) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            concerns = section == "backend";
        } else if let Some((name, value)) = line.split_once(['=', ':'])
            && concerns
            && name.trim().eq_ignore_ascii_case("default-keyring")
        {
            disabled = is_nobody(value.trim());
        }
    }
    disabled
}

fn is_nobody(class: &str) -> bool {
    class.rsplit_once('.').is_some_and(|(module, _)| NOBODY.contains(&module))
}

pub const VARIABLE: &str = "PYTHON_KEYRING_BACKEND";
const NOBODY: [&str; 2] = ["keyring.backends.fail", "keyring.backends.null"];
const OURS: &str = "valetkey";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_choice_is_none_of_the_others() {
        let chosen = |pairs: &[(&str, &str)]| chosen(&pairs.iter().copied().collect());
        assert_eq!(chosen(&[]), Chosen::Nothing);
        assert_eq!(chosen(&[(VARIABLE, "")]), Chosen::Empty);
        assert_eq!(chosen(&[(VARIABLE, "keyring.backends.null.Keyring")]), Chosen::Nobody);
        assert_eq!(chosen(&[(VARIABLE, "x.Y")]), Chosen::Other("x.Y".to_owned()));
    }

    #[test]
    fn a_file_that_switches_it_off_is_known() {
        let disable = "[backend]\ndefault-keyring = keyring.backends.null.Keyring\n\n";
        assert!(is_disabled_by(disable));
        assert!(is_disabled_by("[backend]\nDefault-Keyring: keyring.backends.fail.Keyring"));
        for text in [
            "",
            "[other]\ndefault-keyring=keyring.backends.null.Keyring",
            "[backend]\ndefault-keyring=keyring.backends.SecretService.Keyring\n",
            "[backend]\nkeyring-path = /x\n",
        ] {
            assert!(!is_disabled_by(text), "{text}");
        }
    }

    #[test]
    fn packages_are_told_apart() {
        let asks =
            |modules: &[&str]| Package::Asks(modules.iter().map(|&module| module.to_owned()).collect());
        assert!(asks(&["keyring.backends.fail"]).finds_nothing() && asks(&[]).finds_nothing());
        assert!(Package::Broken("ValueError".to_owned()).finds_nothing());
        let real = asks(&["keyring.backends.SecretService", "valetkey.backend"]);
        assert!(real.asks_us() && !real.finds_nothing());
        assert_eq!(asks(&["keyrings.gauth"]).describe(), "which asks keyrings.gauth");
    }
}
