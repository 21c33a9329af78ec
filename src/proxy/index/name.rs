//! Names of Python projects, and the patterns that keep names from the public index.
//!
//! Two spellings of one project are one name here: `Acme.Lib`, `acme_lib` and `acme--lib` are all `acme-lib`
//! (PEP 503). So a name that only looks different cannot slip past a pattern, nor reach another repository.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::error::shown::shown;
use crate::error::{Fault, Kind};

/// The name of a project as PEP 503 normalises it: lower case, runs of `-`, `_` and `.` as one `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProjectName(String);

/// Names that are never looked for in the public index: one name, or all that begin alike (`acme-*`).
///
/// A `*` stands at the end only, where nobody reads it in two ways. `acme-*` does not cover `acme` itself, and `*`
/// alone covers everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    beginning: String,
    open: bool,
}

/// Why a text is no name or no pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameFault {
    /// Not what PEP 508 allows. Percent-encoded names are not decoded: no client encodes one.
    #[error("`{0}` is not the name of a Python project")]
    Name(String),
    /// In the configuration: a `*` that is not at the end, or a character that no name has.
    #[error("`{0}` is not a pattern of project names")]
    Pattern(String),
}

impl Fault for NameFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Name(_) => Kind::NotFound,
            Self::Pattern(_) => Kind::Configuration,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Name(_) => None,
            Self::Pattern(_) => Some("write a whole name, or its beginning with one * behind it".to_owned()),
        }
    }
}

impl ProjectName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProjectName {
    type Err = NameFault;

    /// Any spelling that PEP 508 allows.
    fn from_str(text: &str) -> Result<Self, NameFault> {
        let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        let valid = text.len() <= LONGEST
            && bytes.iter().copied().all(is_name_byte)
            && ends(bytes.first())
            && ends(bytes.last());
        if valid { Ok(Self(normalize(text))) } else { Err(NameFault::Name(shown(text))) }
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pattern {
    #[must_use]
    pub fn covers(&self, name: &ProjectName) -> bool {
        if self.open { name.0.starts_with(&self.beginning) } else { name.0 == self.beginning }
    }
}

impl FromStr for Pattern {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        let fault = || NameFault::Pattern(shown(text));
        let Some(beginning) = text.strip_suffix('*') else {
            let name: ProjectName = text.parse().map_err(|_| fault())?;
            return Ok(Self { beginning: name.0, open: false });
        };
        let starts_well = beginning.bytes().next().is_none_or(|byte| byte.is_ascii_alphanumeric());
        if beginning.len() > LONGEST || !starts_well || !beginning.bytes().all(is_name_byte) {
            return Err(fault());
        }
        Ok(Self { beginning: normalize(beginning), open: true })
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || is_separator(byte)
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b'-' | b'_' | b'.')
}

/// For ASCII names only.
fn normalize(text: &str) -> String {
    let mut normal = String::with_capacity(text.len());
    for byte in text.bytes() {
        if !is_separator(byte) {
            normal.push(char::from(byte.to_ascii_lowercase()));
        } else if !normal.ends_with('-') {
            normal.push('-');
        }
    }
    normal
}

/// Longer than any project's name, shorter than what could do harm.
const LONGEST: usize = 200;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> ProjectName {
        text.parse().unwrap_or_else(|_| panic!("{text}"))
    }

    #[test]
    fn every_spelling_is_one_name() {
        for text in ["acme-lib", "Acme-Lib", "ACME_LIB", "acme.lib", "acme-_.-lib", "Acme--Lib"] {
            assert_eq!(name(text).as_str(), "acme-lib", "{text}");
        }
        assert_eq!(name("A").as_str(), "a");
        assert_eq!(name("zope.interface").as_str(), "zope-interface");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(LONGEST + 1);
        for text in [
            "",
            "-a",
            "a-",
            ".",
            "..",
            "_",
            "a b",
            "a/b",
            "a%2fb",
            "%61cme",
            "a\u{0}",
            "a*",
            "acme\u{212a}",
            "\u{17f}imple",
            "a\n",
            "a;b",
            "a+b",
            &long,
        ] {
            assert!(text.parse::<ProjectName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn patterns_cover_every_spelling() {
        for pattern in ["acme-*", "Acme_*", "ACME.-*"] {
            let pattern: Pattern = pattern.parse().unwrap();
            for covered in ["acme-lib", "Acme_Lib", "ACME.lib", "acme--x"] {
                assert!(pattern.covers(&name(covered)), "{covered}");
            }
            for other in ["acme", "acmelib", "xacme-lib", "acm-e-lib"] {
                assert!(!pattern.covers(&name(other)), "{other}");
            }
        }
        let whole: Pattern = "Acme".parse().unwrap();
        assert!(whole.covers(&name("ACME")) && !whole.covers(&name("acme-lib")));
        let all: Pattern = "*".parse().unwrap();
        assert!(all.covers(&name("anything")));
    }

    #[test]
    fn a_pattern_that_could_be_read_in_two_ways_is_refused() {
        for text in ["", "*-acme", "a*b", "a**", "acme-?", "acme-[ab]", "-*", " acme-*", "acme-* "] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn normal_names_stay_as_they_are(text in "\\PC{0,20}|[a-zA-Z0-9._-]{1,20}") {
            if let Ok(once) = text.parse::<ProjectName>() {
                prop_assert_eq!(once.as_str().parse::<ProjectName>().ok(), Some(once.clone()));
                prop_assert!(once.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
                prop_assert!(!once.as_str().contains("--"));
            }
        }

        /// Whatever is covered in one spelling is covered in each.
        #[test]
        fn no_spelling_escapes_a_pattern(
            rest in "[a-z0-9]{1,8}", separator in "[-_.]{1,3}", upper in any::<bool>()
        ) {
            let pattern: Pattern = "acme-*".parse().unwrap();
            let text = format!("acme{separator}{rest}");
            let text = if upper { text.to_ascii_uppercase() } else { text };
            prop_assert!(pattern.covers(&name(&text)));
        }
    }
}
