//! What a registry serves, in Artifact Registry's words.

use serde::Deserialize;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Python,
    Docker,
    Npm,
    Maven,
    Go,
    Apt,
    Yum,
    Generic,
    Googet,
    Kfp,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Python,
        Self::Docker,
        Self::Npm,
        Self::Maven,
        Self::Go,
        Self::Apt,
        Self::Yum,
        Self::Generic,
        Self::Googet,
        Self::Kfp,
    ];

    /// The word that stands in a host name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Docker => "docker",
            Self::Npm => "npm",
            Self::Maven => "maven",
            Self::Go => "go",
            Self::Apt => "apt",
            Self::Yum => "yum",
            Self::Generic => "generic",
            Self::Googet => "googet",
            Self::Kfp => "kfp",
        }
    }

    /// Reads that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.word() == word)
    }
}
