//! The kinds of failure, and the one form in which a failure reaches a person or another program.
//!
//! Each module has an error enum of its own that implements [`Fault`]. At the edge of the module that enum
//! becomes a [`Failure`]: message, causes and hint as text, plus the [`Kind`], which alone decides the exit code
//! and the HTTP status. A failure travels over the daemon's socket as an RFC 9457 problem document and is
//! printed once, in `main`.
//!
//! No text in here may contain any part of a secret: messages name files, hosts and acts, and whatever looks like a
//! secret in one is taken out again ([`shown`]).

pub mod shown;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::shown::redacted;

/// What sort of failure it is. Decides exit code, HTTP status and the title of a problem document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The command line or a request is malformed.
    Usage,
    /// A configuration file is wrong.
    Configuration,
    /// The service is not a registry that valetkey serves.
    NotOurs,
    /// There is nothing to give: no daemon, no entry.
    NotFound,
    /// A rule, a grant or the peer check says no.
    Refused,
    /// No source has a credential, or the one that decides is dead: a person has to sign in.
    NeedsLogin,
    /// Google, or the program that stands for it, answered and refused or answered nonsense.
    Upstream,
    /// Nothing answered: connection refused, no name, no route, broken TLS.
    Unreachable,
    /// The time that the asker had is over.
    Deadline,
    /// This machine is in the way: a directory, a socket, a full disk.
    Local,
}

impl Kind {
    /// The exit code of a command that ends with this kind: 1 nothing found or refused, 2 wrong usage, 3 a source
    /// or the network failed.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::NotOurs | Self::NotFound | Self::Refused => 1,
            Self::Usage | Self::Configuration => 2,
            Self::NeedsLogin | Self::Upstream | Self::Unreachable | Self::Deadline | Self::Local => 3,
        }
    }

    /// The HTTP status that the daemon answers with.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Usage => 400,
            Self::Refused => 403,
            Self::NotOurs | Self::NotFound => 404,
            Self::NeedsLogin => 409,
            Self::Configuration | Self::Local => 500,
            Self::Upstream => 502,
            Self::Unreachable => 503,
            Self::Deadline => 504,
        }
    }

    /// The `title` of the problem document.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Usage => "malformed request",
            Self::Configuration => "wrong configuration",
            Self::NotOurs => "not a registry that valetkey serves",
            Self::NotFound => "not found",
            Self::Refused => "not granted",
            Self::NeedsLogin => "sign-in needed",
            Self::Upstream => "refused upstream",
            Self::Unreachable => "upstream unreachable",
            Self::Deadline => "deadline passed",
            Self::Local => "local failure",
        }
    }
}

/// What a module's error enum says about itself.
pub trait Fault: std::error::Error {
    /// See [`Kind`].
    fn kind(&self) -> Kind;

    /// One sentence that says what to do next.
    fn hint(&self) -> Option<String> {
        None
    }

    /// Whether the same call may succeed a moment later. Alone decides retries.
    fn is_transient(&self) -> bool {
        false
    }

    /// How long the other side asked to be left alone.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

/// A failure as text, fit to be shown, stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
    pub causes: Vec<String>,
    pub hint: Option<String>,
    pub transient: bool,
    pub retry_after: Option<Duration>,
}

impl Failure {
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: redacted(&message.into()),
            causes: Vec::new(),
            hint: None,
            transient: false,
            retry_after: None,
        }
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(redacted(&hint.into()));
        self
    }

    #[must_use]
    pub fn with_cause(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(redacted(&cause.to_string()));
        self
    }

    /// What happened and why, without what to do.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self.causes.as_slice() {
            [] => self.message.clone(),
            [cause] => format!("{}: {cause}", self.message),
            causes => format!("{} ({})", self.message, causes.join("; ")),
        }
    }

    /// Everything on one line, for the protocols that have room for one line only.
    #[must_use]
    pub fn one_line(&self) -> String {
        let mut line = self.sentence();
        if let Some(hint) = &self.hint {
            line.push_str("; ");
            line.push_str(hint);
        }
        told(&line)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Fault> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut causes = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            causes.push(told(&cause.to_string()));
            next = cause.source();
        }
        Self {
            kind: error.kind(),
            message: told(&error.to_string()),
            causes,
            hint: error.hint().as_deref().map(told),
            transient: error.is_transient(),
            retry_after: error.retry_after(),
        }
    }
}

/// A text that somebody else may have had a hand in, fit for one line and without what looks like a secret.
#[must_use]
pub fn told(text: &str) -> String {
    printable(&redacted(text))
}

/// Replaces control characters, so that text from elsewhere (an OAuth error description, a file name) can neither
/// break a line nor drive a terminal; and those that turn the direction of writing, so that it reads as it is.
#[must_use]
pub fn printable(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { ' ' } else { c }).collect()
}
