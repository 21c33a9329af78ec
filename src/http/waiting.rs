//! How long the head of an answer is waited for.
//!
//! It is not due as long as the body of its request moves. Behind that a registry looks at the whole of a large file before
//! it answers, which takes minutes, and what it says then is worth more than anything that could be said in its place: the
//! file is there. A request that changes nothing is asked again sooner.

use std::time::Duration;

use tokio::time::Instant;

use super::body::Progress;

/// See the module.
#[derive(Debug)]
pub struct Waiting {
    /// Until it has ended.
    upload: Option<Progress>,
    seen: u64,
    idle: Duration,
    patience: Duration,
    due: Instant,
}

impl Waiting {
    /// `reads` where the request changes nothing. Whoever waits for somebody who waits gives some time on top.
    #[must_use]
    pub fn new(reads: bool, upload: Option<Progress>, on_top: Duration) -> Self {
        let upload = upload.filter(|upload| !upload.has_ended());
        let idle = IDLE + on_top;
        let patience = on_top + if reads { ANSWER } else { ANSWER_TO_WRITE };
        let due = Instant::now() + if upload.is_some() { idle } else { patience };
        Self { upload, seen: 0, idle, patience, due }
    }

    /// When to ask whether it is over.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Whether nothing has moved that would be worth another wait.
    pub fn is_over(&mut self) -> bool {
        let Some(upload) = &self.upload else { return true };
        let moved = upload.moved();
        if upload.has_ended() {
            self.due = Instant::now() + self.patience;
            self.upload = None;
        } else if moved > self.seen {
            self.seen = moved;
            self.due = Instant::now() + self.idle;
        } else {
            return true;
        }
        false
    }
}

/// Without a piece of the request's body, or without an answer to a request that changes nothing.
const IDLE: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(60);
/// Behind the last piece.
const ANSWER_TO_WRITE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep_until};

    use super::*;

    const NONE: Duration = Duration::ZERO;
    const SECOND: Duration = Duration::from_secs(1);

    /// Waits to the end, and says how long that was.
    async fn end(mut waiting: Waiting) -> u64 {
        let start = Instant::now();
        loop {
            sleep_until(waiting.due()).await;
            if waiting.is_over() {
                return start.elapsed().as_secs();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_has_minutes_to_look_at_a_file_and_one_to_give_one() {
        assert_eq!(end(Waiting::new(true, None, NONE)).await, 60);
        assert_eq!(end(Waiting::new(false, None, NONE)).await, 600);
        assert_eq!(end(Waiting::new(false, None, SECOND)).await, 601);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_moves_is_not_cut_and_one_that_does_not_is() {
        let upload = Progress::default();
        let mut waiting = Waiting::new(false, Some(upload.clone()), NONE);
        for _ in 0..100 {
            upload.add(1);
            sleep_until(waiting.due()).await;
            assert!(!waiting.is_over());
        }
        let start = Instant::now();
        assert_eq!(end(waiting).await, 60);
        assert_eq!(start.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_due_minutes_behind_the_last_piece() {
        let upload = Progress::default();
        let waiting = Waiting::new(false, Some(upload.clone()), NONE);
        advance(SECOND * 50).await;
        upload.add(1);
        upload.end();
        let waited = 50 + end(waiting).await;
        assert!((650..=720).contains(&waited), "{waited}");
    }
}
