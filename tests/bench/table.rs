//! The one table: measure, goal, what was seen, verdict.

use std::fmt::Write;

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    AtMost(f64),
    LessThan(f64),
    AtLeast(f64),
    Exactly(f64),
    /// For information.
    None,
}

/// How a figure is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Times,
    Milliseconds,
    PerSecond,
    Mebibytes,
    Count,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    rows: Vec<[String; 4]>,
}

impl Table {
    pub(crate) fn new(title: &str) -> Self {
        let head = ["measure", "goal", "seen", "verdict"].map(str::to_owned);
        Self { title: title.to_owned(), rows: vec![head] }
    }

    /// One figure. `note` stands behind it and says what it was made of.
    pub(crate) fn row(&mut self, measure: String, target: Target, value: f64, unit: Unit, note: &str) {
        let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
        self.rows.push([
            measure,
            target.words(unit),
            format!("{}{note}", unit.write(value)),
            target.verdict(value, unit),
        ]);
    }

    /// A figure that could not be taken: that is no goal met.
    pub(crate) fn missing(&mut self, measure: String, target: Target, unit: Unit, reason: &str) {
        self.rows.push([measure, target.words(unit), reason.to_owned(), "NOT MEASURED".to_owned()]);
    }

    pub(crate) fn render(&self) -> String {
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        let mut text = format!("\n{}\n\n", self.title);
        for (number, [measure, target, result, verdict]) in self.rows.iter().enumerate() {
            let [one, two, three] = widths;
            let _ = writeln!(text, "{measure:one$}  {target:two$}  {result:three$}  {verdict}");
            if number == 0 {
                let _ = writeln!(text, "{}", "-".repeat(one + two + three + 16));
            }
        }
        text
    }
}

impl Target {
    fn words(self, unit: Unit) -> String {
        match self {
            Self::AtMost(limit) => format!("<= {}", unit.write(limit)),
            Self::LessThan(limit) => format!("< {}", unit.write(limit)),
            Self::AtLeast(limit) => format!(">= {}", unit.write(limit)),
            Self::Exactly(limit) => unit.write(limit),
            Self::None => "-".to_owned(),
        }
    }

    fn verdict(self, value: f64, unit: Unit) -> String {
        let (met, limit) = match self {
            Self::AtMost(limit) => (value <= limit, limit),
            Self::LessThan(limit) => (value < limit, limit),
            Self::AtLeast(limit) => (value >= limit, limit),
            // Counts: small whole numbers, which floating point holds exactly.
            Self::Exactly(limit) => ((value - limit).abs() < f64::EPSILON, limit),
            Self::None => return "for information".to_owned(),
        };
        if met {
            return "met".to_owned();
        }
        let by = unit.write((value - limit).abs());
        if limit > 0.0 {
            format!("MISSED by {by} ({:.0} %)", (value - limit).abs() / limit * 100.0)
        } else {
            format!("MISSED by {by}")
        }
    }
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Self::Times => format!("{value:.2}x"),
            Self::Milliseconds => format!("{value:.1} ms"),
            Self::PerSecond => format!("{value:.0}/s"),
            Self::Mebibytes => format!("{value:.2} MiB"),
            Self::Count => format!("{value:.0}"),
        }
    }
}
