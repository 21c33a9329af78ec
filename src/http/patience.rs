//! A bound on each of many short waits, at the price of looking at the clock: the timer is not set anew for every wait
//! but when it fires, if the wait has begun later than it was set for.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// See the module. Belongs to what goes when nothing is awaited any more: the timer may fire once after the last wait.
#[derive(Debug, Default)]
pub struct Patience {
    timer: Option<Pin<Box<Sleep>>>,
    /// When the wait began that is under way.
    since: Option<Instant>,
}

impl Patience {
    /// What was awaited has come.
    pub fn met(&mut self) {
        self.since = None;
    }

    /// Begins a wait or goes on with it; ready when it is over.
    pub fn poll(&mut self, limit: Duration, context: &mut Context<'_>) -> Poll<()> {
        let end = *self.since.get_or_insert_with(Instant::now) + limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if timer.deadline() > end {
            timer.as_mut().reset(end);
        }
        loop {
            ready!(timer.as_mut().poll(context));
            if timer.deadline() >= end {
                return Poll::Ready(());
            }
            timer.as_mut().reset(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_over_after_its_limit_and_not_after_that_of_an_earlier_one() {
        let mut patience = Patience::default();
        for _ in 0..5 {
            let waited = timeout(LIMIT / 2, poll_fn(|context| patience.poll(LIMIT, context))).await;
            assert!(waited.is_err(), "it ended early");
            patience.met();
            advance(LIMIT / 3).await;
        }
        let start = Instant::now();
        poll_fn(|context| patience.poll(LIMIT, context)).await;
        assert_eq!(start.elapsed().as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_limit_counts_at_once() {
        let mut patience = Patience::default();
        let waited = timeout(LIMIT / 10, poll_fn(|context| patience.poll(LIMIT, context))).await;
        assert!(waited.is_err());
        patience.met();
        let start = Instant::now();
        poll_fn(|context| patience.poll(LIMIT / 5, context)).await;
        assert_eq!(start.elapsed().as_secs(), 2);
    }
}
