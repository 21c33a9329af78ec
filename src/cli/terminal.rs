//! What a person sees: errors in one form, colour where it is wanted, and a sign of life while something is slow.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::getpgrp;
use rustix::termios::tcgetpgrp;

use crate::environment::Environment;
use crate::error::Failure;
use crate::error::shown::redacted;

/// Prints a failure on standard error: `error: …`, `caused by: …`, `hint: …`.
pub(super) fn report(failure: &Failure) {
    let mut stderr = std::io::stderr().lock();
    let mut text = format!("{} {}\n", paint(&stderr, RED, "error:"), failure.message);
    for cause in &failure.causes {
        text += &format!("{} {cause}\n", paint(&stderr, RED, "caused by:"));
    }
    if let Some(hint) = &failure.hint {
        text += &format!("{} {hint}\n", paint(&stderr, CYAN, "hint:"));
    }
    // Where standard error is gone there is nobody to tell.
    let _ = stderr.write_all(text.as_bytes());
}

/// Prints one line on standard error, for the helper protocols. Whoever made it, it holds nothing that looks like a secret.
pub(super) fn whisper(text: &str) {
    let text = redacted(text);
    let _ = std::io::stderr().lock().write_all(format!("valetkey: {text}\n").as_bytes());
}

/// The same where nobody may be reading, and there is no time to wait for one.
pub(super) fn mutter(text: &str) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stderr = std::io::stderr();
    let soon = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    // What fits into a pipe that takes anything is taken whole.
    let ready = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&soon));
    if ready.is_ok_and(|ready| ready > 0) {
        whisper(text);
    }
}

/// Prints text for a person on standard error, as it is.
pub(super) fn say(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// Whether standard input has a line for us: waits a moment for one. A terminal's may be read in its foreground only, or
/// it would stop us.
pub(super) fn has_line() -> bool {
    let stdin = std::io::stdin();
    let mut wanted = [PollFd::new(&stdin, PollFlags::IN)];
    let moment = Timespec::try_from(A_MOMENT).ok();
    if !poll(&mut wanted, moment.as_ref()).is_ok_and(|ready| ready > 0) {
        return false;
    }
    let in_background = tcgetpgrp(&stdin).is_ok_and(|group| group != getpgrp());
    if in_background {
        std::thread::sleep(A_MOMENT);
    }
    !in_background
}

/// A word in colour, where the stream is a terminal and nobody objects.
pub(super) fn paint(stream: &impl IsTerminal, colour: &str, text: &str) -> String {
    if is_lively(stream) { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Whether a person watches a stream and has not asked for plain text.
fn is_lively(stream: &impl IsTerminal) -> bool {
    let environment = Environment::capture();
    stream.is_terminal()
        && environment.get("NO_COLOR").is_none()
        && environment.get("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// A sign of life on anything slower than half a second, for a person at a terminal only.
#[derive(Debug)]
pub(super) struct Spinner(Option<(Sender<()>, JoinHandle<()>)>);

impl Spinner {
    pub(super) fn start(text: &'static str) -> Self {
        if !is_lively(&std::io::stderr()) {
            return Self(None);
        }
        let (stop, stopped) = channel();
        let thread = std::thread::Builder::new().name("spinner".to_owned()).spawn(move || {
            let mut wait = Duration::from_millis(500);
            let mut shown = false;
            for frame in FRAMES.iter().cycle() {
                if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
                let _ = write!(std::io::stderr().lock(), "\r{frame} {text}");
                shown = true;
                wait = Duration::from_millis(100);
            }
            if shown {
                let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
            }
        });
        Self(thread.ok().map(|thread| (stop, thread)))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

pub(super) const RED: &str = "1;31";
pub(super) const GREEN: &str = "32";
pub(super) const YELLOW: &str = "33";
pub(super) const CYAN: &str = "36";
const A_MOMENT: Duration = Duration::from_millis(200);
const FRAMES: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];
