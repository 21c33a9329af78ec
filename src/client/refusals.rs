//! Remembers, for a minute, that a client's URL was refused.
//!
//! pip asks about the URL first and about the bare host next. For `http://HOST/…` the first is refused, and the
//! second would bring a token that pip then sends in clear. So the refusal is left in the private directory, where the
//! next helper finds it, and in the state directory too, for one that a wrapper has given another private directory.
//!
//! Whose next question it is cannot be told by the parent: between pip and us may stand a shell, `sudo`, `timeout` or a
//! script, new each time, in a session of its own or under another parent by now, and what a wrapper is cannot be told
//! from what it looks like. One thing can be told for certain: a client spawns what asks for the bare host after its
//! URL was refused. So a bare host is given only to a program that was running already when the URL was refused, beside
//! the one that was (another terminal, another job). Whoever began later, and whoever cannot be seen, is refused: two
//! clients in one shell within a minute as well, which is the price. It costs them a sentence, since what they
//! ask for first is the URL.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::OFlags;

use crate::broker::{REFUSAL, just_refused, without_port};
use crate::clock::{Clock, between};
use crate::durable;
use crate::error::{Failure, Kind};
use crate::paths::{Paths, ensure_private, read_regular};
use crate::secret::Fingerprint;
use crate::sys::ancestry::{Call, Process};

/// Remembers a refusal, wherever that is possible.
pub fn remember(paths: &Paths, call: Call, host: &str) {
    let trail = Trail::of(call).unwrap_or_default();
    if let Some(state) = &paths.state {
        let _ = durable::create_directory(state);
    }
    for directory in places(paths).filter(|directory| ensure_private(directory).is_ok()) {
        for mark in marks(directory, PREFIX).filter(|mark| !is_young(mark)) {
            let _ = fs::remove_file(mark);
        }
        leave(directory, host, &trail);
    }
}

/// The private directory, and the one of the sign-ins.
fn places(paths: &Paths) -> impl Iterator<Item = &Path> {
    [Some(&paths.runtime), paths.state.as_ref()].into_iter().flatten().map(PathBuf::as_path)
}

fn leave(directory: &Path, host: &str, trail: &Trail) {
    // A client that goes on asking leaves one mark, and the time of its last refusal.
    let who = Fingerprint::of(trail.above.first().map(ToString::to_string).unwrap_or_default().as_bytes());
    let mark = directory.join(format!("{}{who}", prefix(host)));
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(mark);
    // One that stays empty, on a full disk, counts for everybody.
    let _ = file.and_then(|mut file| file.write_all(trail.to_string().as_bytes()));
}

/// Refuses a bare host whose URL was refused within the last minute, unless it was to another client for certain. Where
/// that cannot be known, because another user prepared the directory or none can be made, it has to be assumed.
///
/// # Errors
/// Why the bare host gets nothing.
pub fn check(paths: &Paths, call: Call, host: &str) -> Result<(), Failure> {
    let unknown = |reason: String| {
        let text = format!("no token for the bare host {host}, since refusals cannot be remembered here");
        Err(Failure::new(Kind::Refused, text)
            .with_cause(reason)
            .with_hint(format!("ask for https://{host}/…")))
    };
    if let Err(fault) = ensure_private(&paths.runtime) {
        return unknown(fault.to_string());
    }
    let prefix = prefix(host);
    let refused: Vec<_> =
        places(paths).flat_map(|place| marks(place, &prefix)).filter(|mark| is_young(mark)).collect();
    if !refused.is_empty() {
        let asking = Trail::of(call);
        let is_beside = |mark: &Path| {
            let refused: Option<Trail> = read_regular(mark, LONGEST).ok().and_then(|text| text.parse().ok());
            asking.as_ref().zip(refused).is_some_and(|(asking, refused)| asking.is_beside(&refused))
        };
        if refused.len() >= MOST || !refused.iter().all(|mark| is_beside(mark)) {
            return Err(just_refused(host));
        }
    }
    can_remember(paths).or_else(|error| unknown(error.to_string()))
}

/// What stands above a helper, in words that another one compares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Trail {
    /// In which numbers mean the same.
    namespace: String,
    /// When the helper was started.
    started: u64,
    /// From its parent upwards.
    above: Vec<Process>,
}

impl Trail {
    fn of(call: Call) -> Option<Self> {
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?.to_str()?.to_owned();
        Some(Self { namespace, started: call.started()?, above: call.ancestors() })
    }

    /// Whether this helper was asked by a program that was running when the other one was refused, and not by what that
    /// one's client has started since. Below the first process that stands above both there has to be one that is
    /// older than the refusal.
    fn is_beside(&self, refused: &Self) -> bool {
        let meet = self.above.iter().position(|process| refused.above.contains(process));
        let below = meet.and_then(|meet| self.above.get(meet.checked_sub(1)?));
        self.namespace == refused.namespace && below.is_some_and(|below| below.started < refused.started)
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.namespace, self.started)?;
        self.above.iter().try_for_each(|process| write!(f, " {process}"))?;
        f.write_str(" .")
    }
}

impl FromStr for Trail {
    type Err = ();

    /// The point at its end tells a whole one.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.strip_suffix(" .").ok_or(())?.split(' ');
        let namespace = words.next().ok_or(())?.to_owned();
        let started = words.next().and_then(|word| word.parse().ok()).ok_or(())?;
        let above = words.map(|word| word.parse().map_err(drop)).collect::<Result<_, _>>()?;
        Ok(Self { namespace, started, above })
    }
}

/// Whether a mark could have been made: on a full disk there would be none to find.
fn can_remember(paths: &Paths) -> io::Result<()> {
    let probe = paths.runtime.join("refused-probe");
    match fs::File::create_new(&probe) {
        // Another helper is at it, this moment.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(_) => fs::remove_file(&probe),
    }
}

fn marks(directory: &Path, prefix: &str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let ours = move |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(prefix.as_bytes());
    entries.filter(move |entry| ours(&entry.file_name())).map(|entry| entry.path())
}

/// What the marks of a host begin with.
fn prefix(host: &str) -> String {
    format!("{PREFIX}{}-", Fingerprint::of(without_port(host).to_ascii_lowercase().as_bytes()))
}

fn is_young(mark: &Path) -> bool {
    let written = mark.symlink_metadata().and_then(|data| data.modified());
    written.is_ok_and(|written| between(written, Clock::system().now()) < REFUSAL)
}

const PREFIX: &str = "refused-";
/// So many clients that are refused one host in a minute are all of them.
const MOST: usize = 64;
/// Sixty-four processes, and more.
const LONGEST: u64 = 4 << 10;

#[cfg(test)]
mod tests;
