//! One request on the daemon's socket, blocking and bounded.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::ask::Ask;
use crate::carrier::agent::{AgentFault, exchange_once};
use crate::carrier::unix::{connect, set_patience};
use crate::daemon::instance::read_note;
use crate::error::{Failure, Kind};
use crate::http::headers::{JSON, STARTED_BY, VERSION};
use crate::paths::LOCK;
use crate::sys;
use crate::sys::users::{is_own, shown};

/// The daemon's answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub version: Option<String>,
    pub started_by: Option<String>,
    pub body: Vec<u8>,
}

/// Why there is none.
#[derive(Debug)]
pub enum Silence {
    /// Nobody listens there.
    Unreachable(io::Error),
    /// Somebody listens and does not answer, or breaks off.
    Silent(io::Error),
    /// The daemon of this user is there and does not answer: it is stopped, or stuck.
    Stuck { pid: u32, stopped: bool },
    /// The owner's socket is served by somebody else.
    Foreign(u32),
}

impl Silence {
    /// As an end of the ask, where no other way is allowed.
    #[must_use]
    pub fn at(&self, path: &Path, by: &str) -> Failure {
        let path = crate::error::shown::shown_path(path);
        let (text, hint) = match self {
            Self::Unreachable(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let text = format!("uid {} may not open {path} ({by})", sys::own_uid());
                return Failure::new(Kind::Refused, text)
                    .with_hint("run this as the user whose socket it is, or have it mounted with mode=0666");
            }
            Self::Unreachable(error) => {
                (format!("nobody answers at {path} ({by}): {error}"), "start the daemon that serves it")
            }
            Self::Stuck { pid, stopped } => {
                let (text, hint) = not_answering(*pid, *stopped);
                return Failure::new(Kind::Unreachable, text).with_hint(hint);
            }
            Self::Silent(error) if error.kind() == io::ErrorKind::TimedOut => (
                format!("the daemon at {path} ({by}) does not answer"),
                "run `valetkey status` where it runs: it may be stopped",
            ),
            Self::Silent(error) => {
                (format!("the daemon at {path} ({by}) broke off: {error}"), "look at that daemon's log")
            }
            Self::Foreign(uid) => (format!("{path} is served by {}", shown(*uid)), "remove the socket"),
        };
        Failure::new(Kind::Unreachable, text).with_hint(hint)
    }
}

impl Reply {
    /// Whether a helper of this version may put a newer daemon in the place of the one that answered.
    #[must_use]
    pub fn is_replaceable(&self) -> bool {
        let older = self.version.as_deref().and_then(numbers) < numbers(env!("CARGO_PKG_VERSION"));
        older && self.version.is_some() && self.started_by.as_deref() == Some("helper")
    }
}

/// What is said of a daemon that is there and does not answer, and what helps.
pub(super) fn not_answering(pid: u32, stopped: bool) -> (String, String) {
    let (why, first) = if stopped {
        (": it is stopped", format!("let it go on with `kill -CONT {pid}`, or "))
    } else {
        ("", String::new())
    };
    (format!("the daemon (pid {pid}) does not answer{why}"), format!("{first}end it with `kill -9 {pid}`"))
}

/// Asks for a credential on a socket that somebody named.
///
/// # Errors
/// When there is no complete answer in time.
pub fn ask(path: &Path, ask: &Ask, until: Instant) -> Result<Reply, Silence> {
    let stream = open(path, until)?;
    let body = body(ask, until)?;
    exchange(stream, "POST", "/v1/credential", &body, until)
}

/// Asks for a credential on the owner's socket. A daemon that owes an answer for two seconds has to show that it
/// lives; one that does not is silent.
///
/// # Errors
/// When there is no complete answer in time.
pub fn ask_own(path: &Path, ask: &Ask, until: Instant) -> Result<Reply, Silence> {
    let stream = open_own(path, until)?;
    let body = body(ask, until)?;
    let mut stream = send(stream, "POST", "/v1/credential", &body)?;
    let first = until.min(Instant::now() + PATIENCE);
    let mut received = Vec::with_capacity(2048);
    match receive(&mut stream, &mut received, first) {
        Err(Silence::Silent(error)) if error.kind() == io::ErrorKind::TimedOut && first < until => {
            match call_own(path, "GET", "/health/live", until.min(Instant::now() + PULSE)) {
                // A socket that is gone while our connection stands is that of a daemon that ends in order: it
                // gives what it owes first.
                Ok(_) | Err(Silence::Unreachable(_)) => receive(&mut stream, &mut received, until),
                Err(silence) => Err(silence),
            }
        }
        outcome => outcome,
    }
}

/// Asks for a credential through an SSH agent.
///
/// # Errors
/// When there is no complete answer in time.
pub fn ask_agent(path: &Path, ask: &Ask, until: Instant) -> Result<Reply, AgentFault> {
    let body = body(ask, until).unwrap_or_default();
    let answer = exchange_once(path, &message("POST", "/v1/credential", &body), until)?;
    let whole = parse(&answer).ok().flatten();
    whole.ok_or_else(|| AgentFault::Broken { path: path.to_owned(), problem: "half an answer".to_owned() })
}

/// Any other request on the owner's socket, without a body.
///
/// # Errors
/// When there is no complete answer in time.
pub fn call_own(path: &Path, method: &str, target: &str, until: Instant) -> Result<Reply, Silence> {
    own(path, exchange(open_own(path, until)?, method, target, &[], until))
}

/// A request with a body on the owner's socket.
///
/// # Errors
/// When there is no complete answer in time.
pub fn post_own(path: &Path, target: &str, body: &[u8], until: Instant) -> Result<Reply, Silence> {
    own(path, exchange(open_own(path, until)?, "POST", target, body, until))
}

/// Says which process it is that has not answered.
fn own(path: &Path, outcome: Result<Reply, Silence>) -> Result<Reply, Silence> {
    outcome.map_err(|silence| match (silence, daemon_of(path)) {
        (Silence::Silent(error), Some(pid)) if error.kind() == io::ErrorKind::TimedOut => {
            Silence::Stuck { pid, stopped: is_stopped(pid) }
        }
        (silence, _) => silence,
    })
}

/// The daemon at the owner's socket, as its note says: where an init system made the socket, the kernel names that.
fn daemon_of(socket: &Path) -> Option<u32> {
    read_note(&socket.with_file_name(LOCK)).map(|note| note.pid).filter(|pid| *pid != 0)
}

fn is_stopped(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(sys::is_stopped)
}

/// Any other request on a socket that somebody named.
///
/// # Errors
/// When there is no complete answer in time.
pub fn call(path: &Path, method: &str, target: &str, until: Instant) -> Result<Reply, Silence> {
    exchange(open(path, until)?, method, target, &[], until)
}

fn open(path: &Path, until: Instant) -> Result<UnixStream, Silence> {
    let stream = connect(path, left(until)).map_err(Silence::Unreachable)?;
    awake(&stream)?;
    Ok(stream)
}

fn open_own(path: &Path, until: Instant) -> Result<UnixStream, Silence> {
    let stream = connect(path, left(until.min(Instant::now() + PATIENCE))).map_err(Silence::Unreachable)?;
    let server = sys::peer_of(&stream).map_err(Silence::Unreachable)?;
    if !is_own(server.uid) {
        return Err(Silence::Foreign(server.uid));
    }
    awake(&stream)?;
    Ok(stream)
}

fn awake(stream: &UnixStream) -> Result<(), Silence> {
    stopped_server(stream).map_or(Ok(()), |pid| Err(Silence::Stuck { pid, stopped: true }))
}

/// The kernel lets connections in for a process that is stopped, and nobody would answer. One of another namespace, as
/// outside of a container, has no number here.
pub(super) fn stopped_server(socket: impl AsFd) -> Option<u32> {
    let pid = sys::peer_of(socket).ok()?.pid;
    u32::try_from(pid).ok().filter(|_| sys::is_stopped(pid))
}

/// The daemon gets what is left of our time, less what the way back takes.
fn body(ask: &Ask, until: Instant) -> Result<Vec<u8>, Silence> {
    let deadline = left(until).saturating_sub(WAY_BACK).min(Ask::LONGEST);
    Ask { deadline, ..ask.clone() }.to_json().map_err(|error| Silence::Unreachable(io::Error::other(error)))
}

fn exchange(
    stream: UnixStream,
    method: &str,
    target: &str,
    body: &[u8],
    until: Instant,
) -> Result<Reply, Silence> {
    let mut stream = send(stream, method, target, body)?;
    receive(&mut stream, &mut Vec::with_capacity(2048), until)
}

fn send(mut stream: UnixStream, method: &str, target: &str, body: &[u8]) -> Result<UnixStream, Silence> {
    stream.write_all(&message(method, target, body)).map_err(Silence::Silent)?;
    Ok(stream)
}

fn message(method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    let mut message = format!(
        "{method} {target} HTTP/1.1\r\nhost: valetkey\r\nconnection: close\r\ncontent-type: {JSON}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    message.extend_from_slice(body);
    message
}

/// Reads until the reply is whole. What was read stays in `received` when the time is over.
fn receive(stream: &mut UnixStream, received: &mut Vec<u8>, until: Instant) -> Result<Reply, Silence> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(reply) = parse(received).map_err(Silence::Silent)? {
            return Ok(reply);
        }
        let left = left(until);
        if left.is_zero() {
            return Err(Silence::Silent(io::ErrorKind::TimedOut.into()));
        }
        set_patience(&*stream, left).map_err(Silence::Silent)?;
        match stream.read(&mut buffer) {
            Ok(0) => return Err(Silence::Silent(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => received.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Silence::Silent(io::ErrorKind::TimedOut.into()));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Silence::Silent(error)),
        }
        if received.len() > LARGEST_REPLY {
            return Err(Silence::Silent(io::Error::other("the answer is too long")));
        }
    }
}

/// The reply, once head and body are complete.
fn parse(received: &[u8]) -> io::Result<Option<Reply>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(received).map_err(io::Error::other)? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let length: usize = header("content-length")
        .and_then(|length| length.parse().ok())
        .filter(|length| *length <= LARGEST_REPLY)
        .ok_or_else(|| io::Error::other("the answer has no length"))?;
    let Some(body) = received.get(head..head + length) else { return Ok(None) };
    Ok(Some(Reply {
        status: response.code.unwrap_or_default(),
        version: header(VERSION).map(str::to_owned),
        started_by: header(STARTED_BY).map(str::to_owned),
        body: body.to_vec(),
    }))
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// `1.2.3` as numbers that can be compared.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next()??])
}

/// A daemon that has not answered by then has to show that it lives.
const PATIENCE: Duration = Duration::from_secs(2);
const PULSE: Duration = Duration::from_secs(1);
const WAY_BACK: Duration = Duration::from_millis(100);
const LARGEST_REPLY: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(version: &str, started_by: &str) -> Reply {
        Reply {
            status: 200,
            version: Some(version.into()),
            started_by: Some(started_by.into()),
            body: Vec::new(),
        }
    }

    #[test]
    fn only_an_older_daemon_that_a_helper_started_is_replaced() {
        assert!(reply("0.0.9", "helper").is_replaceable());
        assert!(!reply("0.0.9", "operator").is_replaceable());
        assert!(!reply("0.0.9", "systemd").is_replaceable());
        assert!(!reply(env!("CARGO_PKG_VERSION"), "helper").is_replaceable());
        assert!(!reply("99.0.0", "helper").is_replaceable());
        assert!(!Reply { version: None, ..reply("0.0.9", "helper") }.is_replaceable());
    }

    #[test]
    fn replies_are_whole_or_not_yet() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nvaletkey-version: 0.1.0\r\n\r\n{}";
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut]).unwrap().is_none(), "{cut}");
        }
        let reply = parse(whole).unwrap().unwrap();
        assert_eq!((reply.status, reply.body.as_slice()), (200, &b"{}"[..]));
        assert!(parse(b"SSH-2.0-OpenSSH_9.2\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n").is_err());
    }
}
