//! Who has used a listener, and whether the build that it was opened for is over.
//!
//! A step's connections come and go, and a build may compile for an hour between two of them. But all of them are dialled
//! by the process that was told of the socket (Docker's client, buildx, compose, buildah), which lives as long as its
//! build. So a build is over when every process that asked something has ended. Processes of another namespace, as
//! a client in a container is one, have no number here: of them nobody knows.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::sys;

/// See the module.
#[derive(Debug, Default)]
pub struct Usage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    connections: usize,
    users: Vec<Process>,
    /// Somebody without a number asked something.
    by_unknown: bool,
    last: Option<Instant>,
    /// Since when it is known to be over.
    over: Option<Instant>,
}

/// A process that asked something. A number alone is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    started: u64,
}

/// How a listener stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has asked anything yet.
    Unused,
    /// It has a connection, or a process that asked something lives.
    InUse,
    /// Whoever asked is not seen from here, and has been quiet since then.
    Quiet(Instant),
    /// Whoever asked has ended, as was seen then.
    Over(Instant),
}

impl Usage {
    pub fn connected(&self) {
        self.lock().connections += 1;
    }

    pub fn disconnected(&self) {
        let mut state = self.lock();
        state.connections = state.connections.saturating_sub(1);
        if state.last.is_some() {
            state.last = Some(Instant::now());
        }
    }

    /// Somebody asked something, whoever that was.
    pub fn note_somebody(&self) {
        let mut state = self.lock();
        state.last = Some(Instant::now());
        state.by_unknown = true;
    }

    /// This process asked something.
    pub fn note(&self, pid: i32) {
        let user = sys::start_time(pid).map(|started| Process { pid, started });
        let mut state = self.lock();
        state.last = Some(Instant::now());
        state.over = None;
        match user {
            Some(user) if !state.users.contains(&user) => {
                state.users.retain(Process::lives);
                state.users.push(user);
            }
            Some(_) => {}
            // One that has ended since is over like any other.
            None => state.by_unknown |= pid <= 0,
        }
    }

    #[must_use]
    pub fn is_used(&self) -> bool {
        self.lock().last.is_some()
    }

    #[must_use]
    pub fn standing(&self) -> Standing {
        let mut state = self.lock();
        let now = Instant::now();
        if state.connections > 0 || state.users.iter().any(Process::lives) {
            state.over = None;
            return Standing::InUse;
        }
        match state.last {
            None => Standing::Unused,
            Some(last) if state.by_unknown => Standing::Quiet(last),
            Some(_) => Standing::Over(*state.over.get_or_insert(now)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    fn lives(&self) -> bool {
        sys::start_time(self.pid) == Some(self.started) && !sys::has_ended(self.pid)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap()
    }

    fn number(child: &Child) -> i32 {
        i32::try_from(child.id()).unwrap()
    }

    #[test]
    fn a_build_is_over_when_all_that_asked_have_ended_and_not_between_two_connections() {
        let usage = Usage::default();
        let mut both = [sleeper(), sleeper()];
        usage.connected();
        usage.disconnected();
        assert_eq!((usage.standing(), usage.is_used()), (Standing::Unused, false), "nothing was asked");
        for child in &both {
            usage.connected();
            usage.note(number(child));
            usage.disconnected();
            assert_eq!(usage.standing(), Standing::InUse);
        }
        both[0].kill().unwrap();
        both[0].wait().unwrap();
        assert_eq!(usage.standing(), Standing::InUse);
        // One that nobody has waited for yet has ended as well.
        both[1].kill().unwrap();
        let give_up = std::time::Instant::now() + Duration::from_secs(20);
        while usage.standing() == Standing::InUse && std::time::Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(5));
        }
        let over = usage.standing();
        assert!(matches!(over, Standing::Over(_)), "{over:?}");
        assert_eq!(usage.standing(), over, "it is over since then");
        both[1].wait().unwrap();
        usage.connected();
        assert_eq!(usage.standing(), Standing::InUse, "somebody is there again");
    }

    #[test]
    fn of_a_process_that_cannot_be_seen_nobody_says_that_it_has_ended() {
        let usage = Usage::default();
        usage.note(0);
        assert!(matches!(usage.standing(), Standing::Quiet(_)));
        let gone = Usage::default();
        let mut child = sleeper();
        let pid = number(&child);
        child.kill().unwrap();
        child.wait().unwrap();
        gone.note(pid);
        assert!(matches!(gone.standing(), Standing::Over(_)));
    }
}
