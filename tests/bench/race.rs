//! Commands against each other: in every round each runs once, in an order drawn anew, so that whatever else the
//! machine does falls on all of them alike.

use std::process::Command;
use std::time::Duration;

use rand::seq::SliceRandom;

use super::reader::median;
use super::sandbox::timed;

/// One that takes part.
pub(crate) struct Runner {
    name: String,
    command: Command,
    /// How it has to end, and how its answer has to begin; an empty beginning stands for silence.
    code: i32,
    answer: &'static str,
    times: Vec<Duration>,
}

impl Runner {
    /// A command that succeeds in silence.
    pub(crate) fn new(name: impl Into<String>, command: Command) -> Self {
        Self { name: name.into(), command, code: 0, answer: "", times: Vec::new() }
    }

    /// It has to print a token.
    pub(crate) fn giving_a_token(self) -> Self {
        Self { answer: "ya29.", ..self }
    }

    /// It has to end as the real keyring does for what it does not know.
    pub(crate) fn finding_nothing(self) -> Self {
        Self { code: 1, ..self }
    }

    /// The median, in milliseconds.
    pub(crate) fn median(&self) -> f64 {
        median(&self.times) * 1000.0
    }

    fn run(&mut self) -> Duration {
        let (took, code, said) = timed(&mut self.command);
        let right = said.starts_with(self.answer.as_bytes()) && said.is_empty() == self.answer.is_empty();
        assert!(
            right && code == Some(self.code),
            "{}: ended with {code:?} after {} bytes",
            self.name,
            said.len()
        );
        took
    }
}

/// Runs them all, so many rounds. Two rounds before that warm caches up and are not counted.
pub(crate) fn race<const N: usize>(mut runners: [Runner; N], rounds: usize) -> [Runner; N] {
    let mut order: Vec<usize> = (0..N).collect();
    for round in 0..rounds + WARM_UP {
        order.shuffle(&mut rand::thread_rng());
        for &index in &order {
            let took = runners[index].run();
            if round >= WARM_UP {
                runners[index].times.push(took);
            }
        }
    }
    runners
}

const WARM_UP: usize = 2;
