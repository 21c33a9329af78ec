//! Who answers: a carrier that was named or found, or the owner's daemon. And what the asking process names as
//! its source, which is accepted on the owner's socket only.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::ask::NamedSource;
use crate::broker::choice;
use crate::carrier::agent::{AgentFault, find};
use crate::carrier::unix::connect;
use crate::environment::Environment;
use crate::error::shown::{refuse_key, shown_path};
use crate::error::{Failure, Kind};
use crate::paths::{PathFault, Paths, SYSTEM_SOCKET, absolute, check_private, fits_socket};
use crate::sys;
use crate::sys::users::is_own;
use crate::sys::worker::touch;

/// Where the question goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// Named by a variable, or put there by an administrator: its answer is final, whatever it is.
    Found { path: PathBuf, by: &'static str },
    /// An SSH agent that carries us, as image builds mount it: its answer is final, too.
    Agent(PathBuf),
    /// The daemon of this user, which may not be running.
    Owner(PathBuf),
}

/// Decides in this order: a credential that was named · a socket that was named · Google's own variables · the
/// system's socket · an SSH agent that carries us · the owner's socket. Outside of builds the agent is not asked where
/// the owner's daemon answers: of the two, the second is there in practice, and asking costs time; never beyond `until`.
///
/// # Errors
/// When a socket is named that cannot be one, or one that a build has mounted does not answer.
pub fn locate(
    environment: &Environment,
    paths: &Paths,
    credential: Option<&Path>,
    until: Instant,
) -> Result<(Carrier, Option<NamedSource>), Failure> {
    let explicit = credential.is_some() || environment.get(choice::CREDENTIAL).is_some();
    if !explicit && let Some(path) = environment.path(SOCKET) {
        refuse_key(SOCKET, path.as_os_str())?;
        let path = absolute(&path);
        if !fits_socket(&path) {
            return Err(Failure::from(PathFault::TooLong(path)));
        }
        touch(&path);
        if path.is_dir() {
            let text = format!("{SOCKET} is {}, which is a directory", shown_path(&path));
            return Err(Failure::new(Kind::Usage, text).with_hint("name the socket itself"));
        }
        return Ok((Carrier::Found { path, by: SOCKET }, None));
    }
    let named = choice::named(credential, environment)?;
    let system = Path::new(SYSTEM_SOCKET);
    touch(system);
    // A socket that this user may not open is not meant for this user.
    if named.is_none() && rustix::fs::access(system, rustix::fs::Access::WRITE_OK).is_ok() {
        return Ok((Carrier::Found { path: system.to_owned(), by: "the system's socket" }, None));
    }
    if named.is_none()
        && let Some(path) = agent(environment, paths, until)?
    {
        return Ok((Carrier::Agent(path), None));
    }
    Ok((Carrier::Owner(paths.socket()), named))
}

/// An agent that carries us. Where a daemon of our own answers and no build runs, the agent of this shell is another
/// program's, and nobody waits for it.
fn agent(environment: &Environment, paths: &Paths, until: Instant) -> Result<Option<PathBuf>, AgentFault> {
    let mounted = find::mounted(Path::new(find::MOUNTS));
    let asked = !mounted.is_empty() || (environment.get("SSH_AUTH_SOCK").is_some() && !owner_answers(paths));
    if asked { find::find(environment, mounted, until) } else { Ok(None) }
}

/// A socket that may have been meant for this process, and that this user may not open.
#[must_use]
pub fn closed(environment: &Environment) -> Option<Failure> {
    let uid = sys::own_uid();
    if let Some(path) = environment.path("SSH_AUTH_SOCK").filter(|path| find::is_closed(path)) {
        return Some(AgentFault::Closed(path).into());
    }
    let system = Path::new(SYSTEM_SOCKET);
    find::is_closed(system).then(|| {
        Failure::new(Kind::Refused, format!("{SYSTEM_SOCKET} is there, and uid {uid} may not open it"))
            .with_hint("mount the directory `container/` of the daemon there, whose socket everyone may open")
    })
}

fn owner_answers(paths: &Paths) -> bool {
    let ours = |socket| sys::peer_of(&socket).is_ok_and(|peer| is_own(peer.uid));
    matches!(check_private(&paths.runtime), Ok(true)) && connect(&paths.socket(), AT_ONCE).is_ok_and(ours)
}

/// A daemon that lives accepts at once, or its backlog is full.
const AT_ONCE: Duration = Duration::from_millis(100);

/// The socket of a daemon that decides for this process.
pub const SOCKET: &str = "VALETKEY_SOCKET";

#[cfg(test)]
mod tests {
    use super::*;

    fn located(pairs: &[(&str, &str)], flag: Option<&str>) -> (Carrier, Option<NamedSource>) {
        let environment: Environment = pairs.iter().copied().collect();
        let paths = Paths { configuration: None, state: None, runtime: "/run/x".into(), gcloud: None };
        locate(&environment, &paths, flag.map(Path::new), Instant::now()).unwrap()
    }

    #[test]
    fn a_named_credential_goes_to_the_owner_and_a_named_socket_wins_over_googles_variables() {
        let owner = Carrier::Owner("/run/x/valetkey.sock".into());
        let named = Carrier::Found { path: "/s.sock".into(), by: SOCKET };
        let file = |path: &str| Some(NamedSource::File { path: path.into() });
        let both = [("VALETKEY_SOCKET", "/s.sock"), ("GOOGLE_APPLICATION_CREDENTIALS", "/g.json")];
        assert_eq!(located(&both, None), (named, None));
        assert_eq!(located(&both, Some("/f.json")), (owner.clone(), file("/f.json")));
        let explicit = [("VALETKEY_SOCKET", "/s.sock"), ("VALETKEY_CREDENTIAL", "/v.json")];
        assert_eq!(located(&explicit, None), (owner.clone(), file("/v.json")));
        assert_eq!(located(&both[1..], None), (owner, file("/g.json")));
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_refused() {
        let long = format!("/{}", "x".repeat(200));
        let environment: Environment = [("VALETKEY_SOCKET", long.as_str())].into_iter().collect();
        let paths = Paths { configuration: None, state: None, runtime: "/run/x".into(), gcloud: None };
        assert_eq!(locate(&environment, &paths, None, Instant::now()).unwrap_err().kind, Kind::Local);
    }
}
