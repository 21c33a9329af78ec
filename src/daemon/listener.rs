//! Accepts connections on one listener and serves each in a task of its own: HTTP on a Unix socket or a loopback
//! port, or the SSH agent's protocol, whose streams then carry HTTP.
//!
//! The number of connections is bounded (see `connections`); the helper of one that is closed for that answers by itself.
//! A connection of an agent is never idle while its build has a stream open: buildah has one for a whole step.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::connections::{Lines, MOST_CONNECTIONS};
use super::peer::{Peer, UNKNOWN};
use super::post::Post;
use super::route::Routes;
use super::{Bound, Daemon, Socket};
use crate::carrier::agent::{AgentServer, Caller, Incoming};
use crate::carrier::unix::widen;
use crate::clock::{Clock, between};
use crate::http::server::{Line, serve_connection};
use crate::http::unfinished::Breakable;
use crate::sys;

/// Serves one listener until the daemon stops or its time is over, then gives what is owed.
pub async fn serve(daemon: Arc<Daemon>, bound: Bound) {
    let Bound { socket, post, .. } = bound;
    let carried = matches!(socket, Socket::Agent(_)).then(|| AgentServer::new(&daemon.streams));
    let (agent, streams) = carried.unzip();
    let crew = Arc::new(Crew {
        daemon: Arc::clone(&daemon),
        routes: Routes::compile(Arc::clone(&post)),
        lines: Lines::default(),
        agent,
    });
    let served = match socket {
        Socket::Unix(socket) => match UnixListener::from_std(socket) {
            Ok(socket) => accept_all(socket, &crew, |stream| Peer::of(stream), Crew::serve).await,
            Err(error) => Err(error),
        },
        Socket::Tcp(socket) => match TcpListener::from_std(socket) {
            Ok(socket) => {
                let serve = |crew, stream, peer, line: Arc<Line>| {
                    let stream = Breakable::new(stream, line.unfinished());
                    Crew::serve(crew, stream, peer, line)
                };
                accept_all(socket, &crew, |stream| Some(Peer::of_tcp(stream)), serve).await
            }
            Err(error) => Err(error),
        },
        Socket::Agent(socket) => match UnixListener::from_std(socket) {
            Ok(socket) => serve_agent(socket, streams, &crew).await,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = served {
        tracing::error!(listener = %post.name, %error, "cannot serve");
    }
    if !daemon.is_draining() {
        // Its own time is over, not the daemon's.
        daemon.close(&post);
    }
}

/// An agent's connections, and the streams that come out of them.
async fn serve_agent(
    socket: UnixListener,
    streams: Option<Incoming<Peer>>,
    crew: &Arc<Crew>,
) -> io::Result<()> {
    let (Some(agent), Some(streams)) = (crew.agent.clone(), streams) else { return Ok(()) };
    let mut serving = JoinSet::new();
    serving.spawn(serve_streams(streams, Arc::clone(crew)));
    let one = |crew: Arc<Crew>, stream: UnixStream, peer: Option<Peer>, line: Arc<Line>| {
        let agent = agent.clone();
        async move {
            let Some(peer) = peer else { return };
            widen(&stream);
            tokio::select! {
                () = agent.serve_connection(stream, caller(Some(&peer)), peer) => {}
                () = line.hung_up() => {}
            }
            drop(crew);
        }
    };
    let served = accept_all(socket, crew, |stream| Peer::of(stream), one).await;
    agent.refuse_new();
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

/// The loop: until the daemon stops, or the post's time is over. Nobody waits behind the socket then: it is closed before
/// what is owed is given.
async fn accept_all<L, P, S, F>(listener: L, crew: &Arc<Crew>, peer: P, serve: S) -> io::Result<()>
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
    let mut over = pin!(ended(daemon.clock, crew.routes.post()));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    number += 1;
                    let peer = peer(&stream);
                    let caller = caller(peer.as_ref());
                    let Some(line) = crew.lines.open(number, caller, |caller| crew.has_streams(caller)) else {
                        continue;
                    };
                    let seat = Seat::take(crew, number);
                    let serving = serve(Arc::clone(crew), stream, peer, line);
                    tasks.spawn(async move {
                        serving.await;
                        drop(seat);
                    });
                    most = most.max(tasks.len());
                    calm = None;
                    if tasks.len() > MOST_CONNECTIONS {
                        // Whoever has to make room gets its turn to do so before the next one comes in.
                        yield_now().await;
                    }
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
            () = &mut over => break,
            () = daemon.stopping() => break,
        }
    }
    drop(listener);
    crew.lines.hang_up();
    let drained = async { while tasks.join_next().await.is_some() {} };
    if timeout(DRAIN, drained).await.is_err() {
        tasks.shutdown().await;
    }
    Ok(())
}

/// Waits for the end of a listener: it is closed, its time is over by the wall clock, or its build is. Looked at now and
/// then, since the other clock stands still while a laptop sleeps, and nothing tells of the end of a build.
async fn ended(clock: Clock, post: &Post) {
    let over = async {
        let Some(until) = post.until() else { return post.closed().await };
        while clock.now() < until && !post.is_over() {
            sleep(between(clock.now(), until).min(LOOK)).await;
        }
    };
    tokio::select! {
        () = over => {}
        () = post.closed() => {}
    }
}

/// What the connections of one listener share.
struct Crew {
    daemon: Arc<Daemon>,
    routes: Routes,
    lines: Lines,
    /// Where it speaks the agent's protocol.
    agent: Option<AgentServer<Peer>>,
}

impl Crew {
    fn has_streams(&self, caller: Caller) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.has_streams(caller))
    }

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
        crew.routes.post().usage.connected();
        Self { crew: Arc::clone(crew), number }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crew.daemon.connections.fetch_sub(1, Ordering::Relaxed);
        self.crew.routes.post().usage.disconnected();
        self.crew.lines.close(self.number);
    }
}

fn caller(peer: Option<&Peer>) -> Caller {
    peer.map_or(Caller { uid: UNKNOWN, process: 0 }, |peer| Caller { uid: peer.uid, process: peer.pid })
}

/// So many connections at once leave memory behind that is worth giving back, a moment after the last has gone.
const CROWD: usize = 32;
const CALM: Duration = Duration::from_secs(1);
/// So much longer at most a socket for a build is open on a machine that slept, or behind the end of its build.
const LOOK: Duration = Duration::from_secs(10);
/// Answers that are owed at the end have this long: an ask lives nine seconds.
const DRAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Whose;
    use crate::daemon::opening::{Opening, Wanted};
    use crate::daemon::post::{Carrier, Purpose};
    use crate::daemon::terms::Terms;

    fn opened(until: std::time::SystemTime, one_build: bool) -> Arc<Post> {
        let wanted = Wanted {
            repositories: Vec::new(),
            write: false,
            tokens: false,
            unnarrowed: false,
            seconds: 1,
            one_build,
            whose: Whose::default(),
        };
        let purpose = Purpose::Opened(Opening { path: "/x".into(), wanted, until });
        Post::new("/x".to_owned(), Carrier::Agent, purpose, Terms::owner())
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_socket_is_told_by_the_wall_clock() {
        let clock = Clock::system();
        let until = clock.now() + Duration::from_millis(100);
        // The other clock runs away here, as it falls behind on a machine that slept.
        ended(clock, &opened(until, false)).await;
        assert!(clock.now() >= until);
    }

    /// The process that asked was there, and is not any more.
    #[tokio::test(start_paused = true)]
    async fn a_socket_for_one_build_ends_a_while_after_it_and_one_for_a_time_does_not() {
        let clock = Clock::system();
        let until = clock.now() + Duration::from_secs(3600);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        let [one, lasting, unused] = [true, false, true].map(|one_build| opened(until, one_build));
        one.usage.note(pid);
        lasting.usage.note(pid);
        assert!(!one.is_over(), "the same line of a script may start it again");
        ended(clock, &one).await;
        assert!(one.is_over() && !lasting.is_over() && !unused.is_over());
        one.usage.connected();
        assert!(!one.is_over(), "never one with a connection");
        lasting.close();
        ended(clock, &lasting).await;
    }
}
