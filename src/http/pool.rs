//! Connections that are kept for a while after an answer, because the next request of an installer comes at once.
//!
//! Each belongs to the origin that it leads to and to the token that went over it, and serves no other: what a server
//! remembers of a connection must not reach another identity. A connection that nobody wanted for a quarter of a
//! minute is closed; while there is none, nothing sleeps and nothing wakes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::body::Body;
use crate::secret::Fingerprint;
use crate::sys;

/// Whom a connection may serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Host and port.
    pub authority: String,
    /// The token that is sent on it; absent where none is.
    pub token: Option<Fingerprint>,
}

/// A connection that can carry one request at a time. Dropping it cuts it, whatever is under way on it.
#[derive(Debug)]
pub struct Connection {
    pub sender: SendRequest<Body>,
    /// The task that moves its bytes.
    pub task: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connections that wait for another request.
#[derive(Debug, Default)]
pub struct Pool(Mutex<Idle>);

#[derive(Debug, Default)]
struct Idle {
    /// The oldest one first.
    spare: Vec<Spare>,
    /// Somebody waits for the oldest one's end.
    swept: bool,
}

#[derive(Debug)]
struct Spare {
    key: Key,
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// The connection that was used last, if there is one that still stands.
    pub fn take(&self, key: &Key) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some(found) = idle.spare.iter().rposition(|spare| spare.key == *key) {
            let connection = idle.spare.remove(found).connection;
            if !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection on which an answer has just ended.
    pub fn put(self: &Arc<Self>, key: Key, connection: Connection) {
        let mut idle = self.idle();
        if idle.spare.len() >= MOST {
            idle.spare.remove(0);
        }
        idle.spare.push(Spare { key, connection, since: Instant::now() });
        if !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Closes what is too old. The end of the next one, if there is any.
    fn prune(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut idle = self.idle();
        idle.spare.retain(|spare| spare.since + KEPT > now && !spare.connection.sender.is_closed());
        let next = idle.spare.first().map(|spare| spare.since + KEPT);
        idle.swept = next.is_some();
        next
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn sweep(pool: Weak<Pool>) {
    let mut next = Instant::now() + KEPT;
    loop {
        sleep_until(next).await;
        let Some(pool) = pool.upgrade() else { return };
        let Some(end) = pool.prune() else { break };
        next = end;
    }
    sys::give_back_memory();
}

const KEPT: Duration = Duration::from_secs(15);
/// One costs a descriptor and some fifty kilobytes of buffers.
const MOST: usize = 16;

#[cfg(test)]
mod tests {
    use hyper::client::conn::http1::handshake;
    use hyper_util::rt::TokioIo;
    use tokio::io::DuplexStream;

    use super::*;

    fn key(authority: &str, token: Option<&str>) -> Key {
        let token = token.map(|token| Fingerprint::of(token.as_bytes()));
        Key { authority: authority.to_owned(), token }
    }

    async fn connection() -> (Connection, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(64);
        let (sender, connection) = handshake::<_, Body>(TokioIo::new(ours)).await.unwrap();
        let task = tokio::spawn(connection).abort_handle();
        (Connection { sender, task }, theirs)
    }

    fn state(pool: &Pool) -> (usize, bool) {
        let idle = pool.idle();
        (idle.spare.len(), idle.swept)
    }

    #[tokio::test]
    async fn a_connection_serves_its_origin_and_its_token_only() {
        let pool = Arc::new(Pool::default());
        let (one, _server) = connection().await;
        pool.put(key("a.test:443", Some("one")), one);
        for other in [key("a.test:443", Some("two")), key("a.test:443", None), key("b.test:443", Some("one"))]
        {
            assert!(pool.take(&other).is_none(), "{other:?}");
        }
        assert!(pool.take(&key("a.test:443", Some("one"))).is_some());
        assert!(pool.take(&key("a.test:443", Some("one"))).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_for_long_and_then_nothing_sleeps() {
        let pool = Arc::new(Pool::default());
        let (one, _server) = connection().await;
        pool.put(key("a.test:443", None), one);
        tokio::time::sleep(KEPT / 2).await;
        let (other, _second) = connection().await;
        pool.put(key("a.test:443", None), other);
        tokio::time::sleep(KEPT / 2 + Duration::from_millis(10)).await;
        assert_eq!(state(&pool), (1, true));
        tokio::time::sleep(KEPT / 2).await;
        assert_eq!(state(&pool), (0, false));
    }

    #[tokio::test]
    async fn of_many_the_oldest_go_and_a_closed_one_is_not_given() {
        let pool = Arc::new(Pool::default());
        let mut servers = Vec::new();
        for number in 0..=MOST {
            let (one, server) = connection().await;
            pool.put(key(&format!("{number}.test:443"), None), one);
            servers.push(server);
        }
        assert!(pool.take(&key("0.test:443", None)).is_none());
        let last = key(&format!("{MOST}.test:443"), None);
        let (dead, _server) = connection().await;
        dead.task.abort();
        while !dead.sender.is_closed() {
            tokio::task::yield_now().await;
        }
        assert!(pool.take(&last).is_some());
        pool.put(last.clone(), dead);
        assert!(pool.take(&last).is_none());
        assert!(pool.take(&key("1.test:443", None)).is_some());
    }
}
