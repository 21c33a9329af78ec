//! Accepts connections on one listener and serves each in a task of its own: HTTP on a Unix socket or a loopback
//! port, or the SSH agent's protocol, whose streams then carry HTTP.
//!
//! The number of connections is bounded. At the bound the oldest one on which nothing is owed makes room, of the
//! process that has the most, so that a crowd of silent peers cannot keep a helper out. Where something is owed on all of
//! them, a process with more than its part makes room; else the new one is closed, and its helper answers by itself.
//! A connection of an agent is never idle while its build has a stream open: buildah has one for a whole step.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::{Future, pending};
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::peer::{Peer, UNKNOWN};
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
    let Bound { socket, post, own } = bound;
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
            Ok(socket) => accept_all(&socket, &crew, |stream| Peer::of(stream), Crew::serve).await,
            Err(error) => Err(error),
        },
        Socket::Tcp(socket) => match TcpListener::from_std(socket) {
            Ok(socket) => {
                let serve = |crew, stream, peer, line: Arc<Line>| {
                    let stream = Breakable::new(stream, line.unfinished());
                    Crew::serve(crew, stream, peer, line)
                };
                accept_all(&socket, &crew, |stream| Some(Peer::of_tcp(stream)), serve).await
            }
            Err(error) => Err(error),
        },
        Socket::Agent(socket) => match UnixListener::from_std(socket) {
            Ok(socket) => serve_agent(&socket, streams, &crew).await,
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
async fn serve_agent(
    socket: &UnixListener,
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
    let until = crew.routes.post().until();
    let mut over = pin!(async {
        match until {
            Some(until) => reached(daemon.clock, until).await,
            None => pending().await,
        }
    });
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
    crew.lines.hang_up();
    let drained = async { while tasks.join_next().await.is_some() {} };
    if timeout(DRAIN, drained).await.is_err() {
        tasks.shutdown().await;
    }
    Ok(())
}

/// Waits by the wall clock, with a look at it now and then: the other clock stands still while a laptop sleeps.
async fn reached(clock: Clock, until: SystemTime) {
    while clock.now() < until {
        sleep(between(clock.now(), until).min(LOOK)).await;
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
        Self { crew: Arc::clone(crew), number }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crew.daemon.connections.fetch_sub(1, Ordering::Relaxed);
        self.crew.lines.close(self.number);
    }
}

/// The open connections.
#[derive(Default)]
struct Lines(Mutex<Open>);

#[derive(Default)]
struct Open {
    /// Oldest first.
    lines: BTreeMap<u64, Kept>,
    /// How many each process has.
    crowds: HashMap<Caller, usize>,
}

/// One connection.
struct Kept {
    line: Arc<Line>,
    caller: Caller,
}

impl Lines {
    /// A place for a new one, perhaps another's. `lives` says whether something is open beside what is owed.
    fn open(&self, number: u64, caller: Caller, lives: impl Fn(Caller) -> bool) -> Option<Arc<Line>> {
        let line = Arc::new(Line::default());
        let mut open = self.lock();
        if open.lines.len() >= MOST_CONNECTIONS {
            let leaving = open.leaving(caller, lives)?;
            open.remove(leaving)?.line.hang_up();
        }
        open.insert(number, Kept { line: Arc::clone(&line), caller });
        Some(line)
    }

    fn close(&self, number: u64) {
        self.lock().remove(number);
    }

    fn hang_up(&self) {
        for kept in self.lock().lines.values() {
            kept.line.hang_up();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn insert(&mut self, number: u64, kept: Kept) {
        *self.crowds.entry(kept.caller).or_default() += 1;
        self.lines.insert(number, kept);
    }

    fn remove(&mut self, number: u64) -> Option<Kept> {
        let kept = self.lines.remove(&number)?;
        if let Some(count) = self.crowds.get_mut(&kept.caller) {
            *count -= 1;
            if *count == 0 {
                self.crowds.remove(&kept.caller);
            }
        }
        Some(kept)
    }

    /// Who makes room for a new connection of `caller`, if anybody has to. A crowd of one process, the usual case, is
    /// seen by a look at its first line.
    fn leaving(&self, caller: Caller, lives: impl Fn(Caller) -> bool) -> Option<u64> {
        let mut crowds: Vec<(usize, Caller)> =
            self.crowds.iter().map(|(caller, count)| (*count, *caller)).collect();
        crowds.sort_unstable_by_key(|(count, _)| Reverse(*count));
        let mut of_equals = crowds.chunk_by(|(one, _), (other, _)| one == other);
        let idle = of_equals.find_map(|crowds| {
            let idle: HashSet<Caller> =
                crowds.iter().map(|(_, caller)| *caller).filter(|caller| !lives(*caller)).collect();
            let mut candidates = self.lines.iter().filter(|(_, kept)| idle.contains(&kept.caller));
            let idle = if idle.is_empty() { None } else { candidates.find(|(_, kept)| !kept.line.is_busy()) };
            idle.map(|(number, _)| *number)
        });
        idle.or_else(|| {
            let (count, greediest) = *crowds.first()?;
            let newest = || self.lines.iter().rev().find(|(_, kept)| kept.caller == greediest);
            if greediest != caller && count > PART { newest().map(|(number, _)| *number) } else { None }
        })
    }
}

fn caller(peer: Option<&Peer>) -> Caller {
    peer.map_or(Caller { uid: UNKNOWN, process: 0 }, |peer| Caller { uid: peer.uid, process: peer.pid })
}

/// So many connections at once leave memory behind that is worth giving back, a moment after the last has gone.
const CROWD: usize = 32;
const CALM: Duration = Duration::from_secs(1);
/// One connection costs a descriptor and some ten kilobytes.
const MOST_CONNECTIONS: usize = 1024;
/// What one process may have of them before it makes room for others in the middle of something.
const PART: usize = MOST_CONNECTIONS / 4;
/// So much longer at most a socket for a build is open on a machine that slept.
const LOOK: Duration = Duration::from_secs(15);
/// Answers that are owed at the end have this long: an ask lives nine seconds.
const DRAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_socket_is_told_by_the_wall_clock() {
        let clock = Clock::system();
        let until = clock.now() + Duration::from_millis(100);
        // The other clock runs away here, as it falls behind on a machine that slept.
        reached(clock, until).await;
        assert!(clock.now() >= until);
    }

    const fn of(process: i32) -> Caller {
        Caller { uid: 1000, process }
    }

    /// So many connections of each process, in this order.
    fn open(crowds: &[(i32, usize)]) -> Open {
        let all = crowds.iter().flat_map(|(process, count)| std::iter::repeat_n(*process, *count));
        let mut open = Open::default();
        for (number, process) in (1..).zip(all) {
            open.insert(number, Kept { line: Arc::default(), caller: of(process) });
        }
        open
    }

    #[test]
    fn the_oldest_idle_one_of_the_greediest_makes_room() {
        let nothing_lives = |_| false;
        assert_eq!(open(&[(1, 3), (2, 9), (3, 4)]).leaving(of(4), nothing_lives), Some(4));
        assert_eq!(open(&[(1, 3), (2, 9), (3, 4)]).leaving(of(2), nothing_lives), Some(4));
        // A thousand helpers with one each: the first that came.
        let each: Vec<_> = (1..1000).map(|process| (process, 1)).collect();
        assert_eq!(open(&each).leaving(of(4000), nothing_lives), Some(1));
        let mut open = open(&[(1, 2), (2, 3)]);
        assert!(open.remove(4).is_some() && open.remove(4).is_none() && open.remove(3).is_some());
        assert_eq!(open.leaving(of(3), nothing_lives), Some(1));
    }

    #[test]
    fn a_build_with_an_open_stream_is_not_idle_and_gives_way_only_beyond_its_part() {
        let lives = |caller: Caller| caller.process != 3;
        assert_eq!(open(&[(1, 1), (2, 500), (3, 2)]).leaving(of(4), lives), Some(502));
        let all_live = |_| true;
        let crowd = [(1, 1), (2, PART + 1), (3, 9)];
        // The newest of it: what it has had for long is the last to go.
        assert_eq!(open(&crowd).leaving(of(1), all_live), Some(PART as u64 + 2));
        assert_eq!(open(&crowd).leaving(of(2), all_live), None, "not for more of the same");
        assert_eq!(open(&[(1, 1), (2, PART)]).leaving(of(3), all_live), None);
    }
}
