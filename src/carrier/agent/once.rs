//! The client's end for a program without a runtime: one request and its answer. Blocking and bounded.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use ring::rand::{SecureRandom, SystemRandom};

use super::AgentFault;
use super::conversation::{Conversation, Exchange};
use super::wire;
use crate::carrier::frame::{FrameFault, Reply, Status, StreamId};
use crate::carrier::unix::{connect, set_patience};

/// Sends one request and reads the answer to its end, on a stream of its own. The request has to ask for that end
/// (`connection: close`). With an answer that is there, it is one round trip.
///
/// # Errors
/// When there is no complete answer until then.
pub fn exchange_once(path: &Path, request: &[u8], until: Instant) -> Result<Vec<u8>, AgentFault> {
    let mut conversation = Conversation::new(random_name()?);
    if conversation.write(request) < request.len() {
        return Err(AgentFault::TooLong(path.to_owned()));
    }
    let (mut answer, mut line) = (Vec::new(), Line { path, socket: None, until });
    let mut trouble = Trouble::default();
    while !conversation.is_at_end() {
        let Some(exchange) = conversation.next(true, line.patience()) else { break };
        match line.exchange(&exchange) {
            Ok((reply, bytes)) => match conversation.absorb(exchange.number, &reply, bytes) {
                Ok(()) => trouble = Trouble::default(),
                Err(status) => {
                    let fault = AgentFault::of_status(status, path.to_owned());
                    trouble.wait(fault, status == Status::Full, until)?;
                }
            },
            Err(fault) => {
                conversation.lose(exchange.number);
                let is_worth_it = !matches!(fault, AgentFault::Nonsense { .. });
                trouble.wait(fault, is_worth_it, until)?;
            }
        }
        while let Some(bytes) = conversation.read(usize::MAX) {
            answer.extend_from_slice(&bytes);
        }
        if answer.len() > LARGEST_ANSWER {
            return Err(AgentFault::TooLong(path.to_owned()));
        }
    }
    Ok(answer)
}

/// A name for a stream that nobody can guess.
pub(super) fn random_name() -> Result<StreamId, AgentFault> {
    let mut name = [0; 16];
    SystemRandom::new().fill(&mut name).map_err(|_| AgentFault::Random)?;
    Ok(StreamId::new(name))
}

/// What the answer to a Sign request says.
pub(super) fn read_answer(
    path: &Path,
    kind: u8,
    answer: &Bytes,
    want: usize,
) -> Result<(Reply, Bytes), AgentFault> {
    match kind {
        wire::SIGN_ANSWER => {
            let nonsense = |fault| AgentFault::Nonsense { path: path.to_owned(), fault };
            let (reply, place) = wire::parse_answer(answer, want).map_err(nonsense)?;
            if reply.status == Status::Version {
                return Err(nonsense(FrameFault::Malformed("the daemon is of another version")));
            }
            Ok((reply, answer.slice(place)))
        }
        wire::FAILURE => Err(AgentFault::Gone(path.to_owned())),
        _ => Err(AgentFault::Nonsense { path: path.to_owned(), fault: FrameFault::Foreign }),
    }
}

/// Failures in a row: how often to try again, and how soon.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    since: Option<Instant>,
    pause: Duration,
}

impl Trouble {
    /// How long to wait before the next try; the fault itself when there is to be none.
    pub(super) fn next(&mut self, fault: AgentFault, is_worth_it: bool) -> Result<Duration, AgentFault> {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let patience = if matches!(fault, AgentFault::Full(_)) { WAIT_FOR_ROOM } else { WAIT_FOR_DAEMON };
        if !is_worth_it || now.duration_since(since) > patience {
            return Err(fault);
        }
        // The first try comes at once: a connection that was cut is nothing unusual.
        let pause = self.pause;
        self.pause = (pause * 2).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        Ok(pause)
    }

    fn wait(&mut self, fault: AgentFault, is_worth_it: bool, until: Instant) -> Result<(), AgentFault> {
        let again = fault.clone();
        let pause = self.next(fault, is_worth_it)?;
        if Instant::now() + pause >= until {
            return Err(again);
        }
        std::thread::sleep(pause);
        Ok(())
    }
}

/// A connection that is replaced before it is cut.
struct Line<'a> {
    path: &'a Path,
    socket: Option<(UnixStream, Instant)>,
    until: Instant,
}

impl Line<'_> {
    /// How long an answer may be held on this connection.
    fn patience(&mut self) -> Duration {
        let age = self.socket.as_ref().map_or(Duration::ZERO, |(_, born)| born.elapsed());
        if age > MOST_AGE {
            self.socket = None;
            return LAST_ANSWER;
        }
        LAST_ANSWER.saturating_sub(age)
    }

    fn exchange(&mut self, exchange: &Exchange) -> Result<(Reply, Bytes), AgentFault> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AgentFault::Deadline(self.path.to_owned()));
        }
        let until = Instant::now() + left.min(exchange.hold + TRANSIT);
        let broken =
            |error: io::Error| AgentFault::Broken { path: self.path.to_owned(), problem: error.to_string() };
        let (mut socket, born) = match self.socket.take() {
            Some(kept) => kept,
            None => (connect(self.path, left.min(TRANSIT)).map_err(broken)?, Instant::now()),
        };
        let (kind, answer) = set_patience(&socket, left.min(exchange.hold + TRANSIT))
            .and_then(|()| socket.write_all(&exchange.message))
            .and_then(|()| read_message(&mut socket, exchange.want + ANSWER_SLACK, until))
            .map_err(broken)?;
        self.socket = Some((socket, born));
        read_answer(self.path, kind, &Bytes::from(answer), exchange.want)
    }
}

/// Reads one message: its type and the rest.
pub(super) fn read_message(
    socket: &mut UnixStream,
    longest: usize,
    until: Instant,
) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; wire::MESSAGE_HEAD];
    read_exact(socket, &mut head, until)?;
    let (length, kind) = wire::message_head(head)
        .filter(|(length, _)| *length <= longest)
        .ok_or_else(|| io::Error::other("its answer is too long"))?;
    let mut message = vec![0; length];
    read_exact(socket, &mut message, until)?;
    Ok((kind, message))
}

fn read_exact(socket: &mut UnixStream, mut rest: &mut [u8], until: Instant) -> io::Result<()> {
    while !rest.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        set_patience(&*socket, left)?;
        match socket.read(rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => rest = &mut rest[read..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A connection this old is replaced: buildah cuts it two seconds after it was accepted.
pub(super) const MOST_AGE: Duration = Duration::from_millis(1200);
/// No answer is asked for later than this in the life of a connection.
pub(super) const LAST_ANSWER: Duration = Duration::from_millis(1800);
/// What an exchange may take besides what it is held.
pub(super) const TRANSIT: Duration = Duration::from_secs(10);
/// An answer is a little longer than the bytes that it brings.
pub(super) const ANSWER_SLACK: usize = wire::LARGEST_ANSWER - crate::carrier::frame::LARGEST_REPLY;

/// A daemon that restarts is back by then.
const WAIT_FOR_DAEMON: Duration = Duration::from_secs(5);
const WAIT_FOR_ROOM: Duration = Duration::from_secs(30);
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
const LARGEST_ANSWER: usize = 1 << 20;
