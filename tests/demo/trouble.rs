//! Why the demo cannot go on: one sentence, what the failing program said, and what to do.

use std::fmt::Display;
use std::process::{Command, ExitStatus, Output};

/// See the module.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) sentence: String,
    /// The last lines of the program that failed.
    pub(crate) said: Vec<String>,
    pub(crate) hint: Option<String>,
}

impl Trouble {
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), said: Vec::new(), hint: None }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A program that ended badly.
    pub(crate) fn of_program(what: &str, output: &Output) -> Self {
        let mut trouble = Self::new(format!("{what} failed ({})", ending(output.status)));
        let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let lines: Vec<_> = text.iter().flat_map(|text| text.lines()).map(str::trim_end).collect();
        let first = lines.len().saturating_sub(MOST_LINES);
        trouble.said = lines.iter().skip(first).map(|line| (*line).to_owned()).collect();
        trouble
    }
}

/// Puts an act before an error of the system: `cannot write FILE: permission denied`.
pub(crate) fn cannot<E: Display>(act: impl Display) -> impl FnOnce(E) -> Trouble {
    move |error| Trouble::new(format!("cannot {act}: {error}"))
}

/// Runs a program to its end with its output kept. `what` stands in the message if it fails.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<Output, Trouble> {
    let output = command.output().map_err(cannot(format!("start {what}")))?;
    if output.status.success() { Ok(output) } else { Err(Trouble::of_program(what, &output)) }
}

fn ending(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

/// pip explains itself at length; the end is what counts.
const MOST_LINES: usize = 20;
