//! Another program as a child, with a deadline.
//!
//! It runs in a process group of its own, and the whole group is ended when the time is over or nobody waits any
//! more: its own children would hold its output open. One that has ended and left such children behind is over all the
//! same, and so are they. What it is given goes through a pipe, never through its
//! arguments; what it says is capped, and wiped from memory, since it may be a credential.

use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::{Instant, timeout, timeout_at};
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
    let (mut said, mut complained) = (kept(largest), kept(largest));
    let ended = {
        let write = async {
            if let Some(mut stdin) = stdin {
                // A child that does not read it says why by its end.
                let _ = stdin.write_all(input).await;
                let _ = stdin.shutdown().await;
            }
        };
        let speech = async {
            tokio::join!(write, capped(stdout, &mut said, largest), capped(stderr, &mut complained, largest));
        };
        let mut speech = pin!(speech);
        let whole = async {
            tokio::select! {
                biased;
                () = &mut speech => child.wait().await.map(|status| (status, true)),
                status = child.wait() => {
                    let is_read = timeout(LAST_WORDS, &mut speech).await.is_ok();
                    status.map(|status| (status, is_read))
                }
            }
        };
        timeout_at(until, whole).await
    };
    let Ok(ended) = ended else {
        drop(group);
        // Who is not waited for stays in the table of processes.
        let _ = timeout(LAST_WORDS, child.wait()).await;
        return Err(RunFault::Deadline);
    };
    let (status, is_read) = ended?;
    if is_read {
        group.disarm();
    }
    Ok(Finished { status, stdout: said, stderr: complained })
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

/// Room for all of it and for the read that finds the end: a vector that grows leaves copies behind.
fn kept(largest: usize) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Vec::with_capacity(largest + 64))
}

/// Reads to the end and keeps the beginning.
async fn capped(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>, largest: usize) {
    let Some(mut stream) = stream else { return };
    let _ = (&mut stream).take(largest as u64).read_to_end(kept).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

/// What a child has said is there when it ends.
const LAST_WORDS: Duration = Duration::from_millis(500);
const LARGEST: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str) -> Result<Finished, RunFault> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stderr(Stdio::null());
        run(&mut command, b"", Instant::now() + Duration::from_secs(60)).await
    }

    #[tokio::test]
    async fn a_child_is_over_when_it_ends_and_what_it_left_behind_is_ended() {
        let finished = shell("sleep 600 & echo $!; exit 7").await.unwrap();
        assert_eq!(finished.status.code(), Some(7));
        let left: u32 = String::from_utf8_lossy(&finished.stdout).trim().parse().unwrap();
        // Gone, or dead and not yet waited for.
        let state = || std::fs::read_to_string(format!("/proc/{left}/stat")).unwrap_or_default();
        let give_up = Instant::now() + Duration::from_secs(20);
        while !state().is_empty() && !state().contains(") Z ") {
            assert!(Instant::now() < give_up, "{}", state());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn what_comes_late_and_in_pieces_is_whole() {
        let finished = shell("echo one; sleep 0.1; echo two; exec >&-; sleep 0.1; exit 0").await.unwrap();
        assert_eq!(finished.stdout.as_slice(), b"one\ntwo\n");
    }
}
