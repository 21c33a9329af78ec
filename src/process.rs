//! Another program as a child, with a deadline.
//!
//! It runs in a process group of its own, and the whole group is ended when the time is over or nobody waits any
//! more: its own children would hold its output open. What it is given goes through a pipe, never through its
//! arguments; what it says is capped, and wiped from memory, since it may be a credential.

use std::io;
use std::process::{ExitStatus, Stdio};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use crate::sys;

/// What a child left behind.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    /// The beginning of it.
    pub stdout: Zeroizing<Vec<u8>>,
    /// The beginning of it; nothing where the command sends it elsewhere.
    pub stderr: Zeroizing<Vec<u8>>,
}

/// Why a child came to no end of its own.
#[derive(Debug, Error)]
pub enum RunFault {
    /// It could not be started or waited for.
    #[error(transparent)]
    Start(#[from] io::Error),
    /// The time is over; it has been ended.
    #[error("it did not end in time")]
    Deadline,
}

/// Runs a command to its end, with `input` on its standard input. What the command does with standard error is
/// the caller's to say; standard output is always read.
///
/// # Errors
/// When it cannot be started, or does not end in time.
pub async fn run(command: &mut Command, input: &[u8], until: Instant) -> Result<Finished, RunFault> {
    run_for(command, input, until, LARGEST).await
}

/// The same of a command that says more: so much of it is kept.
///
/// # Errors
/// When it cannot be started, or does not end in time.
pub async fn run_for(
    command: &mut Command,
    input: &[u8],
    until: Instant,
    largest: usize,
) -> Result<Finished, RunFault> {
    command
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let group = Group(child.id());
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let whole = async {
        let write = async {
            if let Some(mut stdin) = stdin {
                // A child that does not read it says why by its end.
                let _ = stdin.write_all(input).await;
                let _ = stdin.shutdown().await;
            }
        };
        let ((), stdout, stderr) = tokio::join!(write, capped(stdout, largest), capped(stderr, largest));
        child.wait().await.map(|status| Finished { status, stdout, stderr })
    };
    let finished = timeout_at(until, whole).await.map_err(|_| RunFault::Deadline)??;
    group.disarm();
    Ok(finished)
}

/// Ends the whole group when the waiting is given up.
struct Group(Option<u32>);

impl Group {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            sys::kill_group(leader);
        }
    }
}

/// Reads to the end and keeps the beginning.
async fn capped(stream: Option<impl AsyncRead + Unpin>, largest: usize) -> Zeroizing<Vec<u8>> {
    let Some(mut stream) = stream else { return Zeroizing::default() };
    // Room for all of it and for the read that finds the end: a vector that grows leaves copies behind.
    let mut kept = Zeroizing::new(Vec::with_capacity(largest + 64));
    let _ = (&mut stream).take(largest as u64).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    kept
}

const LARGEST: usize = 64 << 10;
