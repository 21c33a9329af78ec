//! The open connections of one listener, and who of them makes room for a new one.
//!
//! Their number is bounded. At the bound the oldest one on which nothing is owed makes room, of the process that has the
//! most, so that a crowd of silent peers cannot keep a helper out. Where something is owed on all of them, a process
//! with more than its part makes room; else the new one is closed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::carrier::agent::Caller;
use crate::http::server::Line;

/// The open connections.
#[derive(Default)]
pub(super) struct Lines(Mutex<Open>);

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
    pub(super) fn open(
        &self,
        number: u64,
        caller: Caller,
        lives: impl Fn(Caller) -> bool,
    ) -> Option<Arc<Line>> {
        let line = Arc::new(Line::default());
        let mut open = self.lock();
        if open.lines.len() >= MOST_CONNECTIONS {
            let leaving = open.leaving(caller, lives)?;
            open.remove(leaving)?.line.hang_up();
        }
        open.insert(number, Kept { line: Arc::clone(&line), caller });
        Some(line)
    }

    pub(super) fn close(&self, number: u64) {
        self.lock().remove(number);
    }

    pub(super) fn hang_up(&self) {
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

/// One connection costs a descriptor and some ten kilobytes.
pub(super) const MOST_CONNECTIONS: usize = 1024;
/// What one process may have of them before it makes room for others in the middle of something.
const PART: usize = MOST_CONNECTIONS / 4;

#[cfg(test)]
mod tests {
    use super::*;

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
