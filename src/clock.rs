//! The only clock. Freshness is decided by the wall clock at the moment somebody asks, because laptops sleep and
//! a monotonic clock may stand still meanwhile; nothing else in the crate may read the time of day
//! (`clippy.toml` bans it).
//!
//! In tests the wall clock follows tokio's paused time.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};

/// Tells the time of day.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Hand);

#[derive(Debug, Clone, Copy)]
enum Hand {
    System,
    Following { base: SystemTime, start: tokio::time::Instant },
}

impl Clock {
    #[must_use]
    pub fn system() -> Self {
        Self(Hand::System)
    }

    /// A wall clock that stands at `base` now and moves with tokio's time, so that a test with paused time moves
    /// both.
    #[must_use]
    pub fn following_tokio(base: SystemTime) -> Self {
        Self(Hand::Following { base, start: tokio::time::Instant::now() })
    }

    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the time of day")]
    pub fn now(self) -> SystemTime {
        match self.0 {
            Hand::System => SystemTime::now(),
            Hand::Following { base, start } => base + start.elapsed(),
        }
    }
}

/// `later - earlier`, or nothing where the clock was set back in between.
#[must_use]
pub fn between(earlier: SystemTime, later: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or(Duration::ZERO)
}

/// Whole seconds in UTC, as RFC 3339 writes them: `2026-01-02T03:04:05Z`.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Reads an RFC 3339 time with any offset.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    DateTime::parse_from_rfc3339(text).ok().map(SystemTime::from)
}

/// A duration as people say it: `3 days`, in its largest whole unit.
#[must_use]
pub fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (number, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

/// A duration as people write it: `45s`, `10m`, `1h`, `7d`; at least a second and at most a year.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (digits, seconds) = match text.as_bytes().last()? {
        b's' => (text.strip_suffix('s')?, 1),
        b'm' => (text.strip_suffix('m')?, 60),
        b'h' => (text.strip_suffix('h')?, 3600),
        b'd' => (text.strip_suffix('d')?, 86_400),
        _ => return None,
    };
    let seconds = digits.parse::<u64>().ok()?.checked_mul(seconds)?;
    (1..=365 * 86_400).contains(&seconds).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_round_trips() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        assert_eq!(rfc3339(time), "2026-01-02T03:04:05Z");
        assert_eq!(parse_rfc3339("2026-01-02T03:04:05Z"), Some(time));
        assert_eq!(parse_rfc3339("2026-01-02T05:04:05+02:00"), Some(time));
        assert_eq!(parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn words_take_the_largest_whole_unit() {
        let said = |seconds| in_words(Duration::from_secs(seconds));
        assert_eq!(
            [0, 1, 119, 7200, 86_400 * 9].map(said),
            ["0 seconds", "1 second", "1 minute", "2 hours", "9 days"]
        );
    }

    #[test]
    fn durations_carry_a_unit() {
        assert_eq!(parse_duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("1h"), Some(Duration::from_secs(3600)));
        assert_eq!(parse_duration("60"), None);
        assert_eq!(parse_duration("-1s"), None);
        assert_eq!(parse_duration("0s"), None);
        assert_eq!(parse_duration("366d"), None);
        assert_eq!(parse_duration("18446744073709551615s"), None);
        assert_eq!(parse_duration("99999999999999999999d"), None);
        assert_eq!(parse_duration("é"), None);
    }
}
