//! `[daemon]` and `log`: when the daemon starts and ends, and how much it says. Variables may say the same.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::{Config, ConfigFault};
use crate::clock::parse_duration;
use crate::environment::Environment;
use crate::error::shown::shown;

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// `[daemon]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Daemon {
    pub(super) auto_start: Option<bool>,
    #[serde(deserialize_with = "duration")]
    pub(super) idle: Option<Duration>,
}

impl Config {
    /// Puts the variables on top of the files.
    pub(super) fn overlay_variables(&mut self, environment: &Environment) -> Result<(), ConfigFault> {
        if let Some(value) = variable(environment, AUTO_START, "true or false", |text| text.parse().ok())? {
            self.auto_start = value;
        }
        let expected = "a duration such as 45s, 10m or 1h";
        if let Some(value) = variable(environment, IDLE, expected, parse_duration)? {
            self.idle = value;
        }
        let level = |text: &str| match text {
            "error" => Some(LogLevel::Error),
            "warn" => Some(LogLevel::Warn),
            "info" => Some(LogLevel::Info),
            "debug" => Some(LogLevel::Debug),
            _ => None,
        };
        if let Some(value) = variable(environment, LOG, "one of error, warn, info, debug", level)? {
            self.log = value;
        }
        Ok(())
    }
}

/// What a variable says. One that cannot be read never counts as unset.
fn variable<T>(
    environment: &Environment,
    name: &'static str,
    expected: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, ConfigFault> {
    let Some(value) = environment.get(name) else { return Ok(None) };
    value.to_str().and_then(read).map(Some).ok_or_else(|| ConfigFault::Variable {
        name,
        value: shown(&value.to_string_lossy()),
        expected,
    })
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong =
        || serde::de::Error::custom(format!("{:?} is not a duration such as 45s, 10m or 1h", shown(&text)));
    parse_duration(&text).map(Some).ok_or_else(wrong)
}

/// `true` or `false`: whether a helper may start the daemon.
const AUTO_START: &str = "VALETKEY_AUTO_START";
/// A duration: after how long without work the daemon ends.
const IDLE: &str = "VALETKEY_IDLE";
/// error, warn, info or debug.
const LOG: &str = "VALETKEY_LOG";

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn fault(name: &str, value: impl Into<OsString>) -> String {
        let environment: Environment = [(OsString::from(name), value.into())].into_iter().collect();
        Config::default().overlay_variables(&environment).unwrap_err().to_string()
    }

    #[test]
    fn variable_with_nonsense_is_named() {
        for name in [AUTO_START, IDLE, LOG] {
            assert!(fault(name, "soon").contains(name));
            // Not text, and so not as if it were unset.
            assert!(fault(name, OsString::from_vec(b"1h\xff".to_vec())).contains(name));
        }
    }

    #[test]
    fn of_a_variable_s_value_little_is_shown_and_of_a_secret_nothing() {
        let long = fault(IDLE, "a b".repeat(200));
        assert!(long.contains("a ba b") && long.len() < 200, "{long}");
        let secret = fault(IDLE, "{\"private_key\": \"hunter2\"}");
        assert!(!secret.contains("hunter2") && !secret.contains("private_key"), "{secret}");
    }
}
