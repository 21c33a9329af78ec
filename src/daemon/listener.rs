//! Accepts connections on one listener and serves each in a task of its own: HTTP on a Unix socket or a loopback
//! port, or the SSH agent's protocol, whose streams then carry HTTP.
//!
//! The number of connections is bounded. At the bound the oldest one on which nothing is owed makes room, so that
//! a crowd of silent peers cannot keep a helper out; where all are busy the new one is closed, and its helper
//! answers by itself.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::peer::Peer;
use super::route::Routes;
use super::{Bound, Daemon, Socket};
use crate::carrier::agent::{AgentServer, Incoming};
use crate::carrier::unix::widen;
use crate::clock::between;
use crate::http::server::{Line, serve_connection};
use crate::sys;

/// Serves one listener until the daemon stops or its time is over, then gives what is owed.
pub async fn serve(daemon: Arc<Daemon>, bound: Bound) {
    let Bound { socket, post, own } = bound;
    let crew = Arc::new(Crew {
        daemon: Arc::clone(&daemon),
        routes: Routes::compile(Arc::clone(&post)),
        lines: Lines::default(),
    });
    let served = match socket {
        Socket::Unix(socket) => match UnixListener::from_std(socket) {
            Ok(socket) => accept_all(&socket, &crew, |stream| Peer::of(stream), Crew::serve).await,
            Err(error) => Err(error),
        },
        Socket::Tcp(socket) => match TcpListener::from_std(socket) {
            Ok(socket) => accept_all(&socket, &crew, Peer::of_tcp, Crew::serve).await,
            Err(error) => Err(error),
        },
        Socket::Agent(socket) => match UnixListener::from_std(socket) {
            Ok(socket) => serve_agent(&socket, &crew).await,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = served {
        tracing::error!(listener = %post.name, %error, "cannot serve");
    }
    if !daemon.is_draining() {
        // Its own time is over, not the daemon's.
        if let Some(file) = own {
            file.remove();
        }
        daemon.close(&post);
    }
}

/// An agent's connections, and the streams that come out of them.
async fn serve_agent(socket: &UnixListener, crew: &Arc<Crew>) -> io::Result<()> {
    let (agent, streams) = AgentServer::new(&crew.daemon.streams);
    let mut serving = JoinSet::new();
    serving.spawn(serve_streams(streams, Arc::clone(crew)));
    let one = |crew: Arc<Crew>, stream: UnixStream, peer: Option<Peer>, line: Arc<Line>| {
        let agent = agent.clone();
        async move {
            let Some(peer) = peer else { return };
            widen(&stream);
            tokio::select! {
                () = agent.serve_connection(stream, peer.uid, peer) => {}
                () = line.hung_up() => {}
            }
            drop(crew);
        }
    };
    let served = accept_all(socket, crew, |stream| Peer::of(stream), one).await;
    agent.refuse_new();
    drop(agent);
    serving.shutdown().await;
    served
}

async fn serve_streams(mut streams: Incoming<Peer>, crew: Arc<Crew>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            stream = streams.accept() => match stream {
                Some((stream, peer)) => {
                    let crew = Arc::clone(&crew);
                    tasks.spawn(async move { crew.http(stream, Some(&peer), &Arc::default()).await });
                }
                None => break,
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// What accepts connections.
trait Accept {
    type Stream: Send + 'static;
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for UnixListener {
    type Stream = UnixStream;
    async fn accept(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        // Answers are written whole; waiting for more to send helps nobody.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// The loop: until the daemon stops, or the post's time is over.
async fn accept_all<L, P, S, F>(listener: &L, crew: &Arc<Crew>, peer: P, serve: S) -> io::Result<()>
where
    L: Accept + Sync,
    P: Fn(&L::Stream) -> Option<Peer>,
    S: Fn(Arc<Crew>, L::Stream, Option<Peer>, Arc<Line>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let daemon = &crew.daemon;
    let mut tasks = JoinSet::new();
    let mut number = 0_u64;
    let (mut most, mut calm) = (0, None);
    let over = crew.routes.post().until().map(|until| Instant::now() + between(daemon.clock.now(), until));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    number += 1;
                    let Some(line) = crew.lines.open(number) else { continue };
                    let seat = Seat::take(crew, number);
                    let peer = peer(&stream);
                    let serving = serve(Arc::clone(crew), stream, peer, line);
                    tasks.spawn(async move {
                        serving.await;
                        drop(seat);
                    });
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
            () = sleep_until(over.unwrap_or_else(Instant::now)), if over.is_some() => break,
            () = daemon.stopping() => break,
        }
    }
    crew.lines.hang_up();
    let drained = async { while tasks.join_next().await.is_some() {} };
    if timeout(DRAIN, drained).await.is_err() {
        tasks.shutdown().await;
    }
    Ok(())
}

/// What the connections of one listener share.
struct Crew {
    daemon: Arc<Daemon>,
    routes: Routes,
    lines: Lines,
}

impl Crew {
    async fn serve<S>(self: Arc<Self>, stream: S, peer: Option<Peer>, line: Arc<Line>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.http(stream, peer.as_ref(), &line).await;
    }

    async fn http<S>(&self, stream: S, peer: Option<&Peer>, line: &Arc<Line>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        serve_connection(stream, line, |request| self.routes.answer(&self.daemon, peer, request)).await;
    }
}

/// A place among the connections, given up when the value goes.
struct Seat {
    crew: Arc<Crew>,
    number: u64,
}

impl Seat {
    fn take(crew: &Arc<Crew>, number: u64) -> Self {
        crew.daemon.connections.fetch_add(1, Ordering::Relaxed);
        Self { crew: Arc::clone(crew), number }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crew.daemon.connections.fetch_sub(1, Ordering::Relaxed);
        self.crew.lines.close(self.number);
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
