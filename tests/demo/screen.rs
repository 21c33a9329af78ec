//! What the demo prints: one line a step, with the time that it took in front.
//!
//! Colour, and the line of the step that is running, are for a terminal only, and not with `NO_COLOR`.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use valetkey::environment::Environment;

use crate::trouble::Trouble;

/// See the module. A reader that went away does not end the demo: there is still something to clean up.
#[derive(Debug)]
pub(crate) struct Screen {
    lively: bool,
    /// The same for standard error.
    lively_errors: bool,
    interrupted: Arc<AtomicBool>,
}

impl Screen {
    pub(crate) fn new(environment: &Environment, interrupted: Arc<AtomicBool>) -> Self {
        let plain = environment.get("NO_COLOR").is_some() || environment.text("TERM") == Some("dumb");
        let lively = !plain && stdout().is_terminal();
        let lively_errors = !plain && stderr().is_terminal();
        Self { lively, lively_errors, interrupted }
    }

    /// Runs a step and prints its line. The step returns what the next ones need, and the text of its line.
    pub(crate) fn step<T>(
        &self,
        name: &str,
        act: impl FnOnce() -> Result<(T, String), Trouble>,
    ) -> Result<T, Trouble> {
        let start = Instant::now();
        if self.lively {
            self.write(&format!("{:>8}  {name} …", ""));
        }
        let outcome = act();
        if self.lively {
            self.write("\r\x1b[K");
        }
        let (value, text) = outcome?;
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Trouble::new("interrupted"));
        }
        self.line(name, Some(start.elapsed()), &text);
        Ok(value)
    }

    /// The line of a step.
    pub(crate) fn line(&self, name: &str, took: Option<Duration>, text: &str) {
        let took = self.paint(DIM, &format!("{:>8}", took.map(time).unwrap_or_default()));
        let name = self.paint(GREEN, &format!("{name:<9}"));
        self.write(&format!("{took}  {name} {text}\n"));
    }

    /// What belongs to the line above.
    pub(crate) fn below(&self, text: &str) {
        for line in text.lines() {
            let line = self.paint(DIM, line);
            self.write(&format!("{:>20}{line}\n", ""));
        }
    }

    pub(crate) fn plain(&self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    pub(crate) fn title(&self, text: &str) {
        let text = self.paint(BOLD, text);
        self.plain(&text);
    }

    /// Says on standard error why there is no more.
    pub(crate) fn fail(&self, trouble: &Trouble) {
        let paint = |colour, text| if self.lively_errors { painted(colour, text) } else { text.to_owned() };
        let mut text = format!("{} {}\n", paint(RED, "error:"), trouble.sentence);
        for line in &trouble.said {
            text += &format!("  {} {line}\n", paint(DIM, "|"));
        }
        if let Some(hint) = &trouble.hint {
            text += &format!("{} {hint}\n", paint(CYAN, "hint:"));
        }
        let _ = stderr().lock().write_all(text.as_bytes());
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.lively { painted(colour, text) } else { text.to_owned() }
    }

    #[expect(clippy::unused_self, reason = "all output goes through the screen")]
    fn write(&self, text: &str) {
        let mut stdout = stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }
}

fn painted(colour: &str, text: &str) -> String {
    format!("\x1b[{colour}m{text}\x1b[0m")
}

/// `0.8 ms`, `12 ms`, `3.41 s`.
fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 0.01 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        format!("{:.1} ms", seconds * 1e3)
    }
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "1;31";
const GREEN: &str = "32";
const CYAN: &str = "36";
