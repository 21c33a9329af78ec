//! The log: one line of JSON for each credential given and each refusal, and plain lines for everything else.
//!
//! Whoever logs appends to a buffer and goes on; one thread writes it out and sleeps while there is nothing to
//! write. A log that does not take its lines (a full disk, a reader that does not read) costs lines and never an
//! answer; lines that find the buffer full are counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use serde::Serialize;
use tracing_subscriber::fmt::MakeWriter;

use super::peer::{Peer, UNKNOWN};

/// One line of the audit log.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    pub time: String,
    pub listener: &'a str,
    pub uid: u32,
    pub pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    pub form: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<&'static str>,
    pub verdict: &'a str,
    /// What the registry answered to a request that was passed on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How much of that answer went to the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How much of an upload was taken from the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uploaded: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<&'a str>,
    /// Eight hex digits of the token's SHA-256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl<'a> Line<'a> {
    /// A line that says who, and nothing else yet.
    #[must_use]
    pub fn of(listener: &'a str, peer: Option<&'a Peer>) -> Self {
        Self {
            time: String::new(),
            listener,
            uid: peer.map_or(UNKNOWN, |peer| peer.uid),
            pid: peer.map_or(0, |peer| peer.pid),
            program: peer.and_then(|peer| peer.program.as_deref()),
            parent: peer.and_then(|peer| peer.parent.as_deref()),
            registry: None,
            repository: None,
            form: "credential",
            access: None,
            verdict: "",
            status: None,
            bytes: None,
            uploaded: None,
            identity: None,
            token: None,
        }
    }
}

/// A log that never blocks its writers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    buffer: Mutex<Buffer>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    dropped: u64,
    closed: bool,
    /// The writing thread waits to be told that there is something.
    asleep: bool,
}

/// Ends the writing thread, with everything written that was logged before.
#[derive(Debug)]
pub struct LogGuard(Log, Option<JoinHandle<()>>);

impl Log {
    /// A log on standard error, where an init system or a person reads it.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn to_stderr() -> io::Result<(Self, LogGuard)> {
        Self::start(Sink::Stderr)
    }

    /// A log in a file of our own, which is put aside as `.1` when it has grown large.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn to_file(path: &Path) -> io::Result<(Self, LogGuard)> {
        let (file, size) = open(path)?;
        Self::start(Sink::File { path: path.to_owned(), file, size })
    }

    fn start(mut sink: Sink) -> io::Result<(Self, LogGuard)> {
        let log = Self(Arc::new(Shared { buffer: Mutex::default(), filled: Condvar::new() }));
        let writer = log.clone();
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .stack_size(128 << 10)
            .spawn(move || writer.write_out(&mut sink))?;
        let guard = LogGuard(log.clone(), Some(thread));
        Ok((log, guard))
    }

    pub fn audit(&self, line: &Line<'_>) {
        if let Ok(mut bytes) = serde_json::to_vec(line) {
            bytes.push(b'\n');
            self.append(&bytes);
        }
    }

    fn append(&self, bytes: &[u8]) {
        let wake = {
            let mut buffer = self.0.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            if buffer.bytes.len() > LARGEST_BACKLOG {
                buffer.dropped += 1;
                return;
            }
            buffer.bytes.extend_from_slice(bytes);
            std::mem::take(&mut buffer.asleep)
        };
        if wake {
            self.0.filled.notify_one();
        }
    }

    fn write_out(&self, sink: &mut Sink) {
        let mut taken = Vec::new();
        loop {
            let mut buffer = self.0.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            while buffer.bytes.is_empty() && !buffer.closed {
                buffer.asleep = true;
                buffer = self.0.filled.wait(buffer).unwrap_or_else(PoisonError::into_inner);
            }
            if !buffer.closed {
                // One wake-up takes the lines of a whole crowd: waking for each would cost more than writing it.
                drop(buffer);
                std::thread::sleep(GATHER);
                buffer = self.0.buffer.lock().unwrap_or_else(PoisonError::into_inner);
            }
            buffer.asleep = false;
            taken.clear();
            std::mem::swap(&mut taken, &mut buffer.bytes);
            let (dropped, closed) = (std::mem::take(&mut buffer.dropped), buffer.closed);
            drop(buffer);
            if dropped > 0 {
                taken.extend_from_slice(
                    format!("{{\"verdict\":\"lines lost\",\"count\":{dropped}}}\n").as_bytes(),
                );
            }
            // A full disk costs lines, not answers.
            let _ = sink.write(&taken);
            if taken.capacity() > KEEP {
                taken = Vec::new();
            }
            if closed {
                return;
            }
        }
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.0.0.buffer.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.0.0.filled.notify_one();
        // A reader that does not read must not keep us: what it has not taken by then is lost.
        let give_up = Instant::now() + LAST_WORDS;
        if let Some(thread) = self.1.take() {
            while !thread.is_finished() && Instant::now() < give_up {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// So that `tracing` writes to the same place.
impl<'a> MakeWriter<'a> for Log {
    type Writer = Appender;

    fn make_writer(&'a self) -> Appender {
        Appender(self.clone())
    }
}

/// One event's way into the log.
#[derive(Debug)]
pub struct Appender(Log);

impl Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
enum Sink {
    Stderr,
    File { path: PathBuf, file: File, size: u64 },
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().write_all(bytes),
            Self::File { path, file, size } => {
                if *size > LARGEST_FILE {
                    // Whether it could be put aside or not, the lines that come now are written.
                    let _ = std::fs::rename(&*path, path.with_extension("log.1"));
                    (*file, *size) = open(path)?;
                }
                file.write_all(bytes)?;
                *size += bytes.len() as u64;
                Ok(())
            }
        }
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    // A pipe in its place would wait for somebody who reads.
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    let data = file.metadata()?;
    if data.is_file() { Ok((file, data.len())) } else { Err(io::Error::other("it is not a regular file")) }
}

/// How long lines gather before they are written together.
const GATHER: Duration = Duration::from_millis(10);
const LAST_WORDS: Duration = Duration::from_secs(1);
const LARGEST_BACKLOG: usize = 8 << 20;
const LARGEST_FILE: u64 = 8 << 20;
/// A burst's buffer is given back.
const KEEP: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_in_order_and_a_large_file_is_put_aside() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("daemon.log");
        std::fs::write(&path, vec![b'x'; usize::try_from(LARGEST_FILE).unwrap() + 1]).unwrap();
        let (log, guard) = Log::to_file(&path).unwrap();
        for number in 0..100 {
            log.append(format!("{number}\n").as_bytes());
        }
        drop(guard);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 100);
        assert!(text.starts_with("0\n1\n") && text.ends_with("99\n"));
        assert!(top.path().join("daemon.log.1").exists());
    }
}
