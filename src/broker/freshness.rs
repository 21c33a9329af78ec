//! How old a token is in its own terms, decided by the wall clock at the moment of asking.
//!
//! uv and poetry ask once in a run and never again, so a token should leave with half of its life ahead; a valid
//! token is never withheld because a new one cannot be had.

use std::time::{Duration, SystemTime};

use crate::clock::between;
use crate::secret::AccessToken;

/// The age of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Age {
    /// More than half of its life is ahead: give it.
    Fresh,
    /// Less than half is ahead: wait a little for a new one, then give the old one.
    Aging,
    /// It will hardly last for a run: wait for a new one; give the old one only if there is none.
    Dying,
    /// Google does not take it any more.
    Dead,
}

impl Age {
    #[must_use]
    pub fn of(token: &AccessToken, now: SystemTime) -> Self {
        let life = between(token.obtained, token.expires);
        let left = between(now, token.expires);
        // A clock that was set back makes a token look younger than it is.
        let set_back = between(now, token.obtained) > Duration::ZERO;
        if left.is_zero() {
            Self::Dead
        } else if set_back || left < DYING.min(life / 4) {
            Self::Dying
        } else if left < life / 2 {
            Self::Aging
        } else {
            Self::Fresh
        }
    }
}

/// How long an asker waits for a new token while the old one is still good for a run.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// A source that gave the same expiry again, or that was forced, is left alone for this long.
pub const LEAVE_ALONE: Duration = Duration::from_secs(60);
/// A client that asks again for a token that was given to it longer ago than this had it refused.
pub const REFUSED_AFTER: Duration = Duration::from_secs(60);
/// Below this much life a token may not last for a run. Tokens that live for two minutes are normal: for them it
/// is a quarter of their life.
const DYING: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::Age::{Aging, Dead, Dying, Fresh};
    use super::*;
    use crate::secret::Secret;

    fn age(life: u64, elapsed: i64) -> Age {
        let obtained = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let expires = obtained + Duration::from_secs(life);
        let token = AccessToken::new(Secret::new("t".into()), obtained, expires).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs((1_000_000 + elapsed).try_into().unwrap());
        Age::of(&token, now)
    }

    #[test]
    fn an_hour_is_fresh_then_aging_then_dying_then_dead() {
        let ages = [0, 1799, 1801, 3299, 3301, 3599, 3600, 9999].map(|elapsed| age(3600, elapsed));
        assert_eq!(ages, [Fresh, Fresh, Aging, Aging, Dying, Dying, Dead, Dead]);
    }

    #[test]
    fn short_tokens_are_not_dying_from_birth() {
        let ages = [0, 59, 61, 91, 120].map(|elapsed| age(120, elapsed));
        assert_eq!(ages, [Fresh, Fresh, Aging, Dying, Dead]);
    }

    #[test]
    fn clock_set_back_is_not_trusted() {
        assert_eq!(age(3600, -1), Age::Dying);
        assert_eq!(age(3600, -3600), Age::Dying);
    }
}
