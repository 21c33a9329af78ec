//! Accepts connections on one socket and serves each in a task of its own.
//!
//! The number of connections is bounded. At the bound the oldest one on which nothing is owed makes room, so that
//! a crowd of silent peers cannot keep a helper out; where all are busy the new one is closed, and its helper
//! answers by itself.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::peer::Peer;
use super::route::Routes;
use super::{Bound, Daemon};
use crate::http::server::{Line, serve_connection};
use crate::sys;

/// Serves one listener until the daemon stops, then gives what is owed.
pub async fn serve(daemon: Arc<Daemon>, bound: Bound) {
    let Ok(socket) = UnixListener::from_std(bound.socket) else {
        tracing::error!(socket = %bound.path.display(), "cannot serve this socket");
        return;
    };
    let routes = Arc::new(Routes::compile(bound.path.display().to_string(), bound.grant));
    let lines = Arc::new(Lines::default());
    let mut tasks = JoinSet::new();
    let mut number = 0_u64;
    let (mut most, mut calm) = (0, None);
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => {
                    number += 1;
                    let Some(line) = lines.open(number) else { continue };
                    let connection = Connection {
                        daemon: Arc::clone(&daemon),
                        routes: Arc::clone(&routes),
                        lines: Arc::clone(&lines),
                        number,
                    };
                    tasks.spawn(connection.serve(stream, line));
                    most = most.max(tasks.len());
                    calm = None;
                }
                Err(error) => {
                    // Out of descriptors, mostly: it passes when a connection ends.
                    tracing::warn!(%error, "cannot accept");
                    sleep(Duration::from_millis(50)).await;
                }
            },
            // Reaps what has ended, so that the set stays small.
            Some(_) = tasks.join_next() => {
                if tasks.is_empty() && std::mem::take(&mut most) > CROWD {
                    calm = Some(Instant::now() + CALM);
                }
            }
            () = sleep_until(calm.unwrap_or_else(Instant::now)), if calm.is_some() => {
                calm = None;
                sys::give_back_memory();
            }
            () = daemon.stopping() => break,
        }
    }
    drop(socket);
    lines.hang_up();
    let drained = async { while tasks.join_next().await.is_some() {} };
    if timeout(DRAIN, drained).await.is_err() {
        tasks.shutdown().await;
    }
}

struct Connection {
    daemon: Arc<Daemon>,
    routes: Arc<Routes>,
    lines: Arc<Lines>,
    number: u64,
}

impl Connection {
    async fn serve(self, stream: UnixStream, line: Arc<Line>) {
        self.daemon.connections.fetch_add(1, Ordering::Relaxed);
        let peer = Peer::of(&stream);
        serve_connection(stream, &line, |request| self.routes.answer(&self.daemon, peer.as_ref(), request))
            .await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.daemon.connections.fetch_sub(1, Ordering::Relaxed);
        self.lines.close(self.number);
    }
}

/// The open connections, oldest first.
#[derive(Default)]
struct Lines(Mutex<BTreeMap<u64, Arc<Line>>>);

impl Lines {
    fn open(&self, number: u64) -> Option<Arc<Line>> {
        let line = Arc::new(Line::default());
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MOST_CONNECTIONS {
            let oldest = open.iter().find(|(_, line)| !line.is_busy()).map(|(number, _)| *number)?;
            open.remove(&oldest)?.hang_up();
        }
        open.insert(number, Arc::clone(&line));
        Some(line)
    }

    fn close(&self, number: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    fn hang_up(&self) {
        for line in self.0.lock().unwrap_or_else(PoisonError::into_inner).values() {
            line.hang_up();
        }
    }
}

/// So many connections at once leave memory behind that is worth giving back, a moment after the last has gone.
const CROWD: usize = 32;
const CALM: Duration = Duration::from_secs(1);
/// One connection costs a descriptor and some ten kilobytes.
const MOST_CONNECTIONS: usize = 1024;
/// Answers that are owed at the end have this long: an ask lives nine seconds.
const DRAIN: Duration = Duration::from_secs(10);
