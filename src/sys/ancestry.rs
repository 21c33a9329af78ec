//! Which processes stand above this one. A client may start a helper by way of a shell, a wrapper or a chain of them,
//! which are new each time: only what is above them stays.
//!
//! What the kernel does not show (`hidepid`, another user's processes, the world outside of a container) ends the
//! chain. Whoever decides by it has to be as careful with a short chain as with none.

use std::fmt;
use std::fs;
use std::io::Read;
use std::str::FromStr;

use rustix::process;

/// A process. Its pid alone is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    pub pid: i32,
    /// In clock ticks since boot.
    pub started: u64,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pid, self.started)
    }
}

impl FromStr for Process {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pid, started) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self { pid: pid.parse()?, started: started.parse()? })
    }
}

/// A program that asks: the process that it started, and the one that started that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    own: i32,
    parent: Option<i32>,
}

impl Call {
    /// Of this very process.
    #[must_use]
    pub fn of_this() -> Self {
        let parent = process::getppid().map(process::Pid::as_raw_pid);
        Self { own: process::getpid().as_raw_pid(), parent }
    }

    /// When the process was started that was called.
    #[must_use]
    pub fn started(self) -> Option<u64> {
        look_at(self.own).map(|(process, _)| process.started)
    }

    /// All that stands above it, from its parent upwards, as far as the kernel shows it. Nothing where the numbers are
    /// those of another namespace than `/proc` shows.
    #[must_use]
    pub fn ancestors(self) -> Vec<Process> {
        let shown = fs::read_link("/proc/self").ok().and_then(|link| link.to_str()?.parse().ok());
        if shown != Some(process::getpid().as_raw_pid()) {
            return Vec::new();
        }
        chain(self.parent, look_at)
    }

    /// The program behind the wrappers that only pass on what it asks for: the nearest process above whose arguments
    /// are not this very question. A guess, and good enough where the worst is one token more than needed.
    #[must_use]
    pub fn client(self, service: &[u8]) -> Option<Process> {
        let (mut client, mut next) = (None, self.parent);
        for _ in 0..DEEPEST {
            let Some((process, parent)) = next.and_then(look_at) else { break };
            client = Some(process);
            if !arguments_of(process.pid).is_some_and(|arguments| passes_on(&arguments, service)) {
                break;
            }
            next = parent;
        }
        client
    }
}

/// The processes from one upwards. `look` gives each one and its parent.
fn chain(first: Option<i32>, look: impl Fn(i32) -> Option<(Process, Option<i32>)>) -> Vec<Process> {
    let (mut chain, mut next) = (Vec::new(), first);
    while let Some((process, parent)) = next.and_then(&look)
        && chain.len() < DEEPEST
    {
        chain.push(process);
        next = parent;
    }
    chain
}

fn look_at(pid: i32) -> Option<(Process, Option<i32>)> {
    let [parent, started] = super::stat_fields(pid, [4, 22])?;
    let parent = parent.parse().ok().filter(|parent| *parent > 0);
    Some((Process { pid, started: started.parse().ok()? }, parent))
}

/// The beginning of a process's arguments, each ended by a NUL.
fn arguments_of(pid: i32) -> Option<Vec<u8>> {
    let mut arguments = Vec::new();
    fs::File::open(format!("/proc/{pid}/cmdline")).ok()?.take(8 << 10).read_to_end(&mut arguments).ok()?;
    Some(arguments)
}

/// Whether arguments hold the question `get SERVICE`, as words of their own or inside of one, as `sh -c` has it.
fn passes_on(arguments: &[u8], service: &[u8]) -> bool {
    if service.is_empty() {
        return false;
    }
    let words = || arguments.split(|byte| *byte == 0);
    let asked = words().skip_while(|word| *word != GET).any(|word| word == service);
    asked
        || words().any(|word| {
            let get = find(word, b"get ");
            get.is_some_and(|get| find(&word[get..], service).is_some())
        })
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

const GET: &[u8] = b"get";
/// More than this stands above no helper.
const DEEPEST: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_parent_is_the_first_of_the_ancestors_and_all_are_older() {
        let ancestors = Call::of_this().ancestors();
        let parent = process::getppid().unwrap().as_raw_pid();
        assert_eq!(ancestors.first().map(|it| it.pid), Some(parent));
        assert!(ancestors.is_sorted_by_key(|it| std::cmp::Reverse(it.started)), "{ancestors:?}");
        assert_eq!("12:34".parse(), Ok(Process { pid: 12, started: 34 }));
        for wrong in ["", "12", "12:", ":34", "a:b", "12:34:5"] {
            assert!(wrong.parse::<Process>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrapper_passes_the_question_on_and_a_client_has_other_arguments() {
        let url = b"https://us-python.pkg.dev/a/b/simple/";
        let of = |words: &[&str]| passes_on(words.join("\0").as_bytes(), url);
        let url = "https://us-python.pkg.dev/a/b/simple/";
        assert!(of(&["/bin/sh", "/usr/local/bin/keyring", "get", url, "oauth2accesstoken"]));
        assert!(of(&["sudo", "-u", "me", "valetkey", "keyring", "--mode=creds", "get", url]));
        assert!(of(&["bash", "-c", &format!("valetkey keyring get '{url}' u")]));
        assert!(!of(&["python3", "-m", "pip", "install", "--index-url", url, "x"]));
        assert!(!of(&["pip", "download", "get", "--index-url=https://u@us-python.pkg.dev/a/b/simple/"]));
        assert!(!of(&["-bash"]));
    }

    proptest! {
        #[test]
        fn a_walk_ends_and_shows_what_can_be_seen(
            parents in prop::collection::vec(0..40_usize, 1..40), hidden in prop::collection::vec(any::<bool>(), 40)
        ) {
            // Any table at all: cycles, and processes that are hidden.
            let look = |pid: i32| {
                let at = usize::try_from(pid).ok()?.checked_sub(1)?;
                let parent = i32::try_from(*parents.get(at)?).ok()?;
                (!hidden[at]).then_some((Process { pid, started: 7 }, (parent > 0).then_some(parent)))
            };
            let seen = chain(Some(1), look);
            prop_assert!(seen.len() <= DEEPEST);
            for pair in seen.windows(2) {
                prop_assert_eq!(look(pair[0].pid).unwrap().1, Some(pair[1].pid));
            }
            prop_assert!(seen.iter().all(|it| !hidden[usize::try_from(it.pid).unwrap() - 1]));
        }
    }
}
