//! The command: started with our terminal, our standard streams and our working directory, and watched to its end.
//!
//! It stays in our process group, so that a shell, a pipeline and a terminal treat both as one: ctrl-C, ctrl-Z, ctrl-\
//! and a change of the window reach it from the terminal itself. What another process sends to us alone is passed on.
//! Its exit code is ours, and 128 and the signal's number where a signal ended it. Whoever loses his parent to us, as
//! happens to the first process of a container, is taken leave of. In root's run that is everybody whom the command has
//! started: by their descent they are known as its own.

use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{Command, ExitCode};

use libc::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use rustix::process::{self, Pid, Signal, WaitOptions};
use thiserror::Error;

use crate::error::shown::shown;
use crate::error::{Fault, Kind};
use crate::sys;
use crate::sys::signals::{Arrived, HeldSignals, Signals};
use crate::wiring::Wiring;

/// Why a command did not start.
#[derive(Debug, Error)]
pub enum ChildFault {
    /// No such program, on PATH or at that path.
    #[error("there is no {:?} to run", shown(name))]
    Missing { name: String, source: io::Error },
    /// It is no program, or may not be run by this user.
    #[error("cannot run {:?}", shown(name))]
    Unusable { name: String, source: io::Error },
}

impl ChildFault {
    /// What a shell answers in the same place.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Missing { .. } => 127,
            Self::Unusable { .. } => 126,
        }
    }
}

impl Fault for ChildFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } => Kind::NotFound,
            Self::Unusable { .. } => Kind::Local,
        }
    }
}

/// Holds back the signals that are the command's business. Before any thread is started.
///
/// # Errors
/// When there is no descriptor left.
pub fn hold_signals() -> io::Result<HeldSignals> {
    HeldSignals::hold(&[SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH])
}

/// A command that can be started.
#[must_use]
pub fn command(program: &OsStr, arguments: &[OsString], wiring: &Wiring, signals: &HeldSignals) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    for (name, value) in &wiring.given {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    for name in &wiring.unset {
        command.env_remove(name);
    }
    for (name, value) in &wiring.set {
        command.env(name, value);
    }
    signals.release_in(&mut command);
    sys::with_own_descriptor_limit(&mut command);
    command
}

/// Whether the command may become other users, who are served all the same: root's may.
#[must_use]
pub fn serves_others() -> bool {
    sys::own_uid() == 0
}

/// Starts a command.
///
/// # Errors
/// When it cannot be found or run.
pub fn spawn(mut command: Command) -> Result<Pid, ChildFault> {
    if serves_others() {
        sys::adopt_orphans();
    }
    let child = command.spawn().map_err(|source| {
        let name = command.get_program().to_string_lossy().into_owned();
        match source.kind() {
            io::ErrorKind::NotFound => ChildFault::Missing { name, source },
            _ => ChildFault::Unusable { name, source },
        }
    })?;
    // From here on it is waited for by its number, beside all others that may become ours.
    Ok(Pid::from_child(&child))
}

/// Watches the command until it ends.
///
/// # Errors
/// When the runtime ends before it.
pub async fn supervise(child: Pid, signals: &Signals) -> io::Result<ExitCode> {
    loop {
        let arrived = signals.next().await?;
        if arrived.number == SIGCHLD {
            if let Some(code) = reap(child) {
                return Ok(code);
            }
        } else if is_passed_on(arrived)
            && let Some(signal) = Signal::from_named_raw(arrived.number)
        {
            let _ = process::kill_process(child, signal);
        }
    }
}

/// Whether the command has not heard of it. The terminal tells its whole foreground group, but a hang-up only the
/// leader of the session, which may be us.
fn is_passed_on(arrived: Arrived) -> bool {
    !(arrived.by_kernel && matches!(arrived.number, SIGINT | SIGQUIT | SIGWINCH))
}

/// Takes leave of every process that has ended. The exit code, if the command is one of them.
fn reap(child: Pid) -> Option<ExitCode> {
    let mut code = None;
    while let Ok(Some((pid, status))) = process::wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
        if pid != child {
            continue;
        }
        if status.stopped() {
            stop_with(child);
        } else if let Some(number) = status.exit_status() {
            code = Some(ExitCode::from(u8::try_from(number & 0xff).unwrap_or(1)));
        } else if let Some(signal) = status.terminating_signal() {
            code = Some(ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX)));
        }
    }
    code
}

/// The command has stopped itself: whoever waits for us, a shell, has to see that we have too. Not where it was
/// stopped with us and goes on with us, and not as the first process, which nobody could wake.
fn stop_with(child: Pid) {
    let own = process::getpid();
    if own.is_init() || !sys::is_stopped(child.as_raw_nonzero().get()) {
        return;
    }
    let _ = process::kill_process(own, Signal::STOP);
    let _ = process::kill_process(child, Signal::CONT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_terminal_says_is_not_said_twice() {
        let passed = |number, by_kernel| is_passed_on(Arrived { number, by_kernel });
        for number in [SIGINT, SIGQUIT, SIGWINCH] {
            assert!(passed(number, false) && !passed(number, true));
        }
        for number in [SIGTERM, SIGHUP, SIGUSR1, SIGUSR2] {
            assert!(passed(number, false) && passed(number, true));
        }
    }

    #[test]
    fn a_command_that_cannot_start_has_the_code_of_a_shell() {
        let start = |program: &str| spawn(Command::new(program)).unwrap_err().exit_code();
        assert_eq!(start("/nowhere/at/all"), 127);
        assert_eq!(start("/etc/passwd"), 126);
        assert_eq!(start("/"), 126);
    }
}
