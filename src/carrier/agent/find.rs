//! Which socket leads to us: the one that `SSH_AUTH_SOCK` names, or one of those that BuildKit and buildah mount.
//!
//! An agent answers from its memory. What is no agent at all, or another machine's behind a link that is down, may never
//! answer, and nobody wants to wait for that in a shell. In a step of a build a mounted socket is there to be
//! used, and a builder that is busy takes its time: there those that are silent are asked again, with more patience.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::AgentFault;
use super::once::read_message;
use super::wire;
use crate::carrier::unix::connect;
use crate::environment::Environment;
use crate::sys;
use crate::sys::worker::touch;

/// Looks for a socket whose agent lists our identity: the one of the environment, then the [`mounted`] ones.
/// Where there are such, this is a step of a build. Blocks for half a second with each one that does not answer, for a
/// tenth with one that is served by this very machine, for ten seconds in a build, and not beyond `until`.
///
/// # Errors
/// In a build, when none is ours and one has not answered, or this user may not open it.
pub fn find(
    environment: &Environment,
    mounted: Vec<PathBuf>,
    until: Instant,
) -> Result<Option<PathBuf>, AgentFault> {
    let in_build = !mounted.is_empty();
    let named = environment.path("SSH_AUTH_SOCK");
    let others = mounted.into_iter().filter(|path| Some(path) != named.as_ref());
    let candidates: Vec<_> = named.clone().into_iter().chain(others).collect();
    let closed = candidates.iter().find(|path| is_closed(path)).cloned();
    // Elsewhere an agent's process may be here and only pass on what another machine says.
    let passes_on = || {
        environment.get("SSH_CONNECTION").is_some()
            || IN_CONTAINER.iter().any(|mark| Path::new(mark).exists())
    };
    let rounds: &[Patience] = match in_build {
        true => &IN_BUILD,
        false if passes_on() => &[SLOW],
        false => &[QUICK],
    };
    match first_of_ours(candidates, rounds, until) {
        Ok(found) => Ok(Some(found)),
        Err(silent) if in_build => {
            let silent = silent.into_iter().next().map(AgentFault::Deadline);
            silent.or(closed.map(AgentFault::Closed)).map_or(Ok(None), Err)
        }
        Err(_) => Ok(None),
    }
}

/// Whether there is a socket that this user may not open: BuildKit mounts it for root, where a step does not say
/// otherwise.
#[must_use]
pub fn is_closed(path: &Path) -> bool {
    access(path, Access::WRITE_OK).is_err_and(|error| error == Errno::ACCESS)
}

/// How long to wait for an answer.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// With one whose process is here to be seen.
    near: Duration,
    /// With one behind which there is a connection to another machine, or another container.
    far: Duration,
}

/// The first one that is ours, else those that have not answered in any round.
fn first_of_ours(
    mut candidates: Vec<PathBuf>,
    rounds: &[Patience],
    until: Instant,
) -> Result<PathBuf, Vec<PathBuf>> {
    for patience in rounds {
        let mut silent = Vec::new();
        for path in candidates {
            match is_ours(&path, *patience, until) {
                Ok(true) => return Ok(path),
                Err(error) if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {
                    silent.push(path);
                }
                Ok(false) | Err(_) => {}
            }
        }
        candidates = silent;
    }
    Err(candidates)
}

/// Whether the agent at this path lists our identity.
fn is_ours(path: &Path, patience: Patience, until: Instant) -> io::Result<bool> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut socket = connect(path, patience.far.min(left))?;
    // The process of a socket that was carried into a container is outside, and has no number here.
    let is_near = sys::peer_of(&socket).is_ok_and(|peer| peer.pid > 0);
    let until = until.min(Instant::now() + if is_near { patience.near } else { patience.far });
    socket.write_all(&wire::identities_request())?;
    let (kind, list) = read_message(&mut socket, LARGEST_LIST, until)?;
    Ok(kind == wire::IDENTITIES_ANSWER && wire::lists_us(&list))
}

/// The agents that BuildKit or buildah has mounted below this directory, which is [`MOUNTS`], in the order of their
/// numbers. The directory alone makes no build: where the builder itself runs, its own socket lies there.
#[must_use]
pub fn mounted(directory: &Path) -> Vec<PathBuf> {
    let number = |entry: &std::fs::DirEntry| -> Option<u32> {
        entry.file_name().to_str()?.strip_prefix("ssh_agent.")?.parse().ok()
    };
    touch(directory);
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.filter_map(|entry| Some((number(&entry)?, entry.path()))).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, path)| path).collect()
}

/// Where BuildKit and buildah mount an agent for which a step names no target.
pub const MOUNTS: &str = "/run/buildkit";
/// What Docker and podman leave in a container.
const IN_CONTAINER: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];
const LARGEST_LIST: usize = 256 << 10;
const QUICK: Patience = Patience { near: Duration::from_millis(100), far: Duration::from_millis(500) };
const SLOW: Patience = both(Duration::from_millis(500));
/// A silent one does not keep those behind it waiting for long, and a slow one has its ten seconds.
const IN_BUILD: [Patience; 3] = [SLOW, both(Duration::from_secs(2)), both(Duration::from_secs(8))];

const fn both(time: Duration) -> Patience {
    Patience { near: time, far: time }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// An agent of ours that leaves its first connections without an answer.
    fn agent(path: &Path, silent: usize) {
        let socket = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let mut lines: Vec<_> = socket.incoming().take(silent).collect();
            for line in socket.incoming() {
                let mut line = line.unwrap();
                line.read_exact(&mut [0; 5]).unwrap();
                line.write_all(&wire::identities_answer()).unwrap();
                lines.push(Ok(line));
            }
        });
    }

    #[test]
    fn one_that_is_silent_is_asked_again_and_those_behind_it_do_not_wait() {
        let top = tempfile::tempdir().unwrap();
        let [gone, dead, late, good] = ["gone", "dead", "late", "good"].map(|name| top.path().join(name));
        agent(&dead, 9);
        agent(&late, 1);
        agent(&good, 0);
        // One that passes, and one that nothing here outlasts.
        let rounds = [200, 60_000].map(|time| both(Duration::from_millis(time)));
        let all = |paths: &[&PathBuf]| paths.iter().map(|path| (*path).clone()).collect();
        let late_enough = Instant::now() + Duration::from_secs(120);
        assert_eq!(first_of_ours(all(&[&dead, &good]), &rounds, late_enough), Ok(good.clone()));
        assert_eq!(first_of_ours(all(&[&gone, &dead]), &rounds[..1], late_enough), Err(vec![dead.clone()]));
        assert_eq!(first_of_ours(all(&[&gone, &late]), &rounds, late_enough), Ok(late));
        // Whoever has no time left asks nobody, and waits for nobody in the rounds that last a minute.
        let soon = Instant::now() + Duration::from_millis(300);
        assert_eq!(first_of_ours(all(&[&dead]), &rounds, soon), Err(vec![dead]));
        assert_eq!(first_of_ours(all(&[&good]), &rounds, soon), Err(vec![good]));
    }
}
