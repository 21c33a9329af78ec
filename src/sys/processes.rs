//! The processes that this one can see, by `/proc`: who started whom, who holds a socket, and what a person would call
//! each of them.
//!
//! What is said of a process is bounded, a word and no sentence, and of its arguments only the one that names a file or a
//! Python module: any other may hold a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::parent_of;
use crate::error::printable;

/// Which process started which, at one moment.
#[derive(Debug, Default)]
pub struct Processes {
    parents: BTreeMap<i32, i32>,
}

/// Whether a process holds a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    Yes,
    No,
    /// The kernel does not let us see: another user's, without the right to look at it.
    Hidden,
}

impl Processes {
    /// Looks at all that can be seen.
    #[must_use]
    pub fn look() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Self { parents: numbers.filter_map(|pid| Some((pid, parent_of(pid)?))).collect() }
    }

    /// Everything that a process has started, and what that has started.
    #[must_use]
    pub fn below(&self, top: i32) -> Vec<i32> {
        let of_top = |pid: &&i32| self.chain(**pid, top).is_some();
        self.parents.keys().filter(of_top).copied().collect()
    }

    /// A process and those that led to it, up to one that `top` has started. None where it does not descend from that.
    #[must_use]
    pub fn chain(&self, pid: i32, top: i32) -> Option<Vec<i32>> {
        let (mut chain, mut seen) = (vec![pid], BTreeSet::from([pid]));
        loop {
            let parent = *self.parents.get(chain.last()?)?;
            if parent == top {
                return Some(chain);
            }
            // What was read one after the other may contradict itself.
            if !seen.insert(parent) {
                return None;
            }
            chain.push(parent);
        }
    }

    /// Every process that can be seen.
    pub fn all(&self) -> impl Iterator<Item = i32> {
        self.parents.keys().copied()
    }
}

/// Whether a process holds the socket with this number.
#[must_use]
pub fn holds(pid: i32, inode: u64) -> Held {
    let hidden = |error: &io::Error| error.kind() != io::ErrorKind::NotFound;
    let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => entries,
        Err(error) => return if hidden(&error) { Held::Hidden } else { Held::No },
    };
    let wanted = format!("socket:[{inode}]");
    let mut seen = Held::No;
    for entry in entries.flatten().take(MOST_DESCRIPTORS) {
        match fs::read_link(entry.path()) {
            Ok(link) if link.as_os_str() == wanted.as_str() => return Held::Yes,
            Err(error) if hidden(&error) => seen = Held::Hidden,
            _ => {}
        }
    }
    seen
}

/// The uids that a process has: real, effective, saved, and for files.
#[must_use]
pub fn uids_of(pid: i32) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    line.split_ascii_whitespace().filter_map(|uid| uid.parse().ok()).collect()
}

/// What a person would call a process: its program, and the script or module that it runs.
#[must_use]
pub fn called(pid: i32) -> String {
    let name = super::program_of(pid).unwrap_or_default();
    let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
    let name = name.rsplit('/').next().unwrap_or_default();
    let name = if name.is_empty() { "a process".to_owned() } else { bounded(name) };
    let mut line = Vec::new();
    let read = fs::File::open(format!("/proc/{pid}/cmdline"));
    let _ = read.and_then(|file| file.take(LONGEST_LINE).read_to_end(&mut line));
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).skip(1).collect();
    let directory = format!("/proc/{pid}/cwd");
    let is_file = |word: &OsStr| Path::new(&directory).join(word).is_file();
    match script(&words, is_file) {
        Some(script) => format!("{name} {script}"),
        None => name,
    }
}

/// The argument that says what an interpreter runs: `-m MODULE`, `-c`, or the first word that is no option, if there is a
/// file of that name.
fn script(words: &[&[u8]], is_file: impl Fn(&OsStr) -> bool) -> Option<String> {
    let is_module = |word: &[u8]| {
        !word.is_empty()
            && word.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'))
    };
    let mut words = words.iter();
    loop {
        match *words.next()? {
            b"-m" => {
                let module = words.next().filter(|module| is_module(module))?;
                return Some(format!("-m {}", bounded(&String::from_utf8_lossy(module))));
            }
            b"-c" => return Some("-c …".to_owned()),
            option if option.starts_with(b"-") => {}
            word => {
                let file = is_file(OsStr::from_bytes(word));
                return (!word.is_empty() && file).then(|| bounded(&String::from_utf8_lossy(word)));
            }
        }
    }
}

/// A word that can be told: of no characters that sentences and commands are made of, since a file may be named like one.
/// The end of a long path says more than its beginning.
fn bounded(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._-+/@~:,".contains(c);
    let text: String = printable(text).chars().map(|c| if plain(c) { c } else { '?' }).collect();
    match text.char_indices().nth_back(LONGEST_WORD - 1) {
        Some((at, _)) if at > 0 => format!("…{}", &text[at..]),
        _ => text,
    }
}

const MOST_DESCRIPTORS: usize = 1 << 16;
const LONGEST_LINE: u64 = 16 << 10;
const LONGEST_WORD: usize = 60;

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chain_ends_below_its_top_or_is_none() {
        let parents = [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1), (30, 31), (31, 30), (40, 39)];
        let processes = Processes { parents: parents.into() };
        assert_eq!(processes.chain(12, 10), Some(vec![12, 11]));
        assert_eq!(processes.chain(11, 10), Some(vec![11]));
        assert_eq!(processes.below(10), [11, 12]);
        // Itself, a neighbour, a circle, and one whose parent went meanwhile.
        for pid in [10, 20, 1, 30, 40, 99] {
            assert_eq!(processes.chain(pid, 10), None, "{pid}");
        }
    }

    #[test]
    fn of_the_arguments_only_a_file_or_a_module_is_told() {
        let told = |line: &[&str]| {
            let words: Vec<&[u8]> = line.iter().map(|word| word.as_bytes()).collect();
            script(&words, |word| {
                ["setup.py", "/usr/bin/pip", "a; run `b`"].contains(&word.to_str().unwrap())
            })
        };
        for (line, wanted) in [
            (&["setup.py", "install", "--password", "hunter2"][..], Some("setup.py")),
            (&["/usr/bin/pip", "install", "--index-url", "https://u:p@x.test/"], Some("/usr/bin/pip")),
            (&["-I", "-m", "pip", "install"], Some("-m pip")),
            (&["-m", "a b"], None),
            (&["-c", "print('hunter2')"], Some("-c …")),
            (&["-u", "me:hunter2", "https://x.test/"], None),
            (&["hunter2"], None),
            (&["a; run `b`"], Some("a??run??b?")),
            (&["--password=hunter2"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(told(line).as_deref(), wanted, "{line:?}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_is_seen_and_named() {
        let own = i32::try_from(std::process::id()).unwrap();
        let processes = Processes::look();
        assert!(processes.all().any(|pid| pid == own));
        assert!(uids_of(own).contains(&crate::sys::own_uid()));
        let program = std::env::current_exe().unwrap();
        let name = program.file_name().unwrap().to_str().unwrap();
        assert!(called(own).starts_with(&bounded(name)), "{}", called(own));
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let inode = fs::metadata(format!("/proc/self/fd/{}", one.as_raw_fd())).unwrap().ino();
        assert_eq!(holds(own, inode), Held::Yes);
        drop(one);
        assert_eq!(holds(own, inode), Held::No);
    }

    proptest! {
        #[test]
        fn whatever_the_words_are_what_is_told_is_short_and_printable(words in proptest::collection::vec(".{0,200}", 0..6)) {
            let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
            if let Some(told) = script(&words, |_| true) {
                prop_assert!(told.chars().count() <= LONGEST_WORD + 4);
                prop_assert!(!told.contains(char::is_control) && told.split(' ').count() <= 2);
            }
        }
    }
}
