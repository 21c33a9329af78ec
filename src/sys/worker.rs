//! A command that is done in a process of its own, so that whoever started it never waits longer than it was promised.
//!
//! Neither a thread nor an alarm can promise that. A process that waits for a file system whose server has taken the
//! question and says nothing cannot even be killed (seen with FUSE and Linux 6.18), and whoever waits for its end
//! waits as long. So the process that was started only waits, and a copy of it does the work. The copy holds nothing of
//! the client's: what it prints goes through pipes of its own, and is passed on when it is whole, for who reads to the end
//! of a pipe waits for everybody who holds it. It tells what it touches before it does, how it ends, and which program
//! is to be run in our place, through another pipe. Nobody reads any of them before the end.

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{self, Pid, Signal, WaitOptions};
use zeroize::Zeroizing;

/// Which of the two this process is.
#[derive(Debug)]
pub enum Half {
    /// The one that was started.
    Watcher(Watcher),
    /// Its copy.
    Worker,
}

/// Waits for the other half.
#[derive(Debug)]
pub struct Watcher {
    worker: Pid,
    told: PipeReader,
    stdout: PipeReader,
    stderr: PipeReader,
}

/// What came of the work.
#[derive(Debug)]
pub struct Outcome {
    pub ended: Ended,
    /// What it printed, which may be a secret.
    pub stdout: Zeroizing<Vec<u8>>,
    pub stderr: Zeroizing<Vec<u8>>,
}

/// How the work ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(u8),
    /// Another program is to take our place.
    Next(PathBuf),
    /// It came to grief and said nothing.
    Broken,
    /// It did not end in time. What it touched last, if it said so.
    Late(Option<PathBuf>),
}

/// Makes two of this process. To be called while there is one thread.
///
/// # Errors
/// When no process or no descriptor is left.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "there is no safe wrapper for a process that goes on as a copy of this one")]
pub fn divide() -> io::Result<Half> {
    let (told, tell) = io::pipe()?;
    let (stdout, print) = io::pipe()?;
    let (stderr, warn) = io::pipe()?;
    rustix::io::ioctl_fionbio(&tell, true)?;
    let watcher = process::getpid();
    // SAFETY: there is one thread, so no lock is held by another and nothing is half done in memory. The descriptors that
    // are replaced are owned by no Rust value.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let streams = [(print.as_raw_fd(), 1), (warn.as_raw_fd(), 2)];
            if streams.into_iter().any(|(pipe, stream)| unsafe { libc::dup2(pipe, stream) } < 0) {
                super::end_process(1);
            }
            // Nobody is left to whom an answer would go.
            let _ = process::set_parent_process_death_signal(Some(Signal::KILL));
            if process::getppid() != Some(watcher) {
                super::end_process(1);
            }
            *TELL.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
            Ok(Half::Worker)
        }
        worker => {
            let worker = Pid::from_raw(worker).ok_or(io::ErrorKind::InvalidData)?;
            Ok(Half::Watcher(Watcher { worker, told, stdout, stderr }))
        }
    }
}

/// Has been run on Linux only.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn divide() -> io::Result<Half> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Says what is touched next, in case that nothing comes back. Does nothing where nobody watches.
pub fn touch(path: &Path) {
    let path = path.as_os_str().as_bytes();
    // Whoever touches thousands of files leaves room for how it ends.
    if TOUCHED.fetch_add(path.len(), Ordering::Relaxed) < MOST_TOUCHED {
        tell(b'T', path);
    }
}

/// Ends the work: the watcher goes on with that, even where a thread of ours never ends.
pub fn end(ended: &Ended) {
    match ended {
        Ended::Code(code) => tell(b'C', code.to_string().as_bytes()),
        Ended::Next(path) => tell(b'N', path.as_os_str().as_bytes()),
        Ended::Broken | Ended::Late(_) => {}
    }
    drop(TELL.lock().unwrap_or_else(PoisonError::into_inner).take());
}

fn tell(kind: u8, text: &[u8]) {
    if let Some(pipe) = TELL.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        let mut record = Vec::with_capacity(text.len() + 2);
        record.push(kind);
        record.extend_from_slice(text);
        record.push(0);
        // It never blocks, and a pipe that is full has told enough.
        let _ = pipe.write_all(&record);
    }
}

impl Watcher {
    /// Waits for the end of the work, for so long and no longer. A worker that is late is killed, if the kernel lets it
    /// be.
    #[must_use]
    pub fn wait(mut self, until: Instant) -> Outcome {
        // Nothing but the end of the pipe wakes us.
        let is_over = ready(&self.told, PollFlags::empty(), until);
        if is_over {
            self.bury();
        } else {
            let _ = process::kill_process(self.worker, Signal::KILL);
        }
        // What is read now may be a secret. A program that takes our place starts without this.
        super::refuse_dumps();
        let ended = match (understood(&read(&mut self.told)), is_over) {
            (Ended::Late(_), true) => Ended::Broken,
            (Ended::Late(path), false) => Ended::Late(path),
            (ended, true) => ended,
            (_, false) => Ended::Late(None),
        };
        let (mut stdout, mut stderr) = <(Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>)>::default();
        if is_over {
            (stdout, stderr) = (read(&mut self.stdout), read(&mut self.stderr));
        }
        Outcome { ended, stdout, stderr }
    }

    /// Takes the dead worker out of the kernel's table, unless a thread of its own keeps it there.
    fn bury(&self) {
        #[cfg(target_os = "linux")]
        if let Ok(descriptor) = process::pidfd_open(self.worker, process::PidfdFlags::empty()) {
            ready(&descriptor, PollFlags::IN, Instant::now() + FUNERAL);
        }
        let give_up = Instant::now() + FUNERAL;
        while matches!(process::waitpid(Some(self.worker), WaitOptions::NOHANG), Ok(None))
            && Instant::now() < give_up
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What a pipe holds now.
fn read(pipe: &mut PipeReader) -> Zeroizing<Vec<u8>> {
    // Room for all that a pipe holds and for the read that finds the end: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(PIPE + 64));
    if rustix::io::ioctl_fionbio(&*pipe, true).is_ok() {
        let _ = pipe.take(PIPE as u64).read_to_end(&mut bytes);
    }
    bytes
}

/// Writes to somebody who may not be reading, until then and no longer.
///
/// # Errors
/// When it is not taken in time, or not at all.
pub fn write_until(stream: impl AsFd, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        if !ready(&stream, PollFlags::OUT, until) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A pipe that takes anything takes as much as this.
        let piece = bytes.get(..512).unwrap_or(bytes);
        match rustix::io::write(&stream, piece) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits for an event, or the end of the other side.
fn ready(descriptor: impl AsFd, events: PollFlags, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&descriptor, events)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return outcome.is_ok_and(|ready| ready > 0),
        }
    }
}

fn understood(records: &[u8]) -> Ended {
    let mut touched = None;
    for record in records.split(|byte| *byte == 0) {
        let Some((kind, text)) = record.split_first() else { continue };
        let path = || PathBuf::from(OsString::from_vec(text.to_vec()));
        match kind {
            b'C' => {
                let code = std::str::from_utf8(text).ok().and_then(|code| code.parse().ok());
                return code.map_or(Ended::Broken, Ended::Code);
            }
            b'N' => return Ended::Next(path()),
            _ => touched = Some(path()),
        }
    }
    Ended::Late(touched)
}

/// Has the kernel end this process after that time, without a word, where there is nobody to watch it. It counts for a
/// program that takes our place, too, unless `None` calls it off.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a function of the C library that has no safe wrapper")]
pub fn end_after(patience: Option<Duration>) {
    let seconds = patience.map_or(0, |patience| patience.as_secs().max(1));
    // SAFETY: it takes a number, and nobody here handles the signal.
    unsafe { libc::alarm(u32::try_from(seconds).unwrap_or(u32::MAX)) };
}

/// Has been run on Linux only.
#[cfg(not(target_os = "linux"))]
pub fn end_after(_patience: Option<Duration>) {}

static TOUCHED: AtomicUsize = AtomicUsize::new(0);
/// Half of a pipe.
const MOST_TOUCHED: usize = PIPE / 2;
/// What the kernel keeps in a pipe.
const PIPE: usize = 64 << 10;
/// The worker's end of the pipe.
static TELL: Mutex<Option<PipeWriter>> = Mutex::new(None);
/// How long a worker that has said its last word may take to be gone.
const FUNERAL: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_and_before_it_what_was_touched_last() {
        let touched = |path: &str| Ended::Late(Some(path.into()));
        assert_eq!(understood(b""), Ended::Late(None));
        assert_eq!(understood(b"T/a\0T/b\0"), touched("/b"));
        assert_eq!(understood(b"T/a\0T/b c\0C1\0"), Ended::Code(1));
        assert_eq!(understood(b"T/a\0N/x/keyring\0"), Ended::Next("/x/keyring".into()));
        assert_eq!(understood(b"T/a\0Cx\0"), Ended::Broken);
        // A record that was cut off by a full pipe.
        assert_eq!(understood(b"T/a\0T/home"), touched("/home"));
    }
}
