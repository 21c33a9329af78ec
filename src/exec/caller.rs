//! Who is at the other end of a connection to the forwarder, and whether this run serves him.
//!
//! A run serves the user who started it. Root's run also serves the other users that its own command has become (apt's
//! `_apt`, the scripts of npm, what gosu, setpriv and su start): a process is the command's if it descends from us, which
//! the kernel tells by the socket that it holds. Nobody else is served, whatever host he wants.
//!
//! - Where the kernel does not let us see what a process of ours holds (in a container without `CAP_SYS_PTRACE`), its uid
//!   has to do, as it does for every run in a network that others share; but never on the host's own network, where
//!   strangers of that number may be.
//! - Where our own uid may be anybody's (`sys::users`), only a process counts that lets itself be looked at, which the
//!   kernel allows to the very same user alone.
//!
//! Why somebody is refused is said in the words of its reason: that it could not be seen is not "another user".

use std::fmt;
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

use crate::blocking;
use crate::error::{Fault, Kind};
use crate::sys::loopback_peer::{LoopbackFault, LoopbackPeer, loopback_peer_of};
use crate::sys::processes::{Held, Processes, called, holds, uids_of};
use crate::sys::users::{is_anybody, is_own, shown};
use crate::sys::{own_pid, own_uid};

/// Whoever is served.
pub(super) struct Caller {
    peer: LoopbackPeer,
    name: OnceCell<String>,
}

/// Why somebody is not served.
#[derive(Debug, Error)]
pub(super) enum Stranger {
    /// Another user, or what is none of the command's.
    #[error("this valetkey serves {}; this connection is of {}", served(), shown(*uid))]
    Other { uid: u32 },
    /// A number that stands for many, and no process of the run that can be seen to hold the connection.
    #[error("this connection is of {}, and no process of this run is seen to hold it", shown(*uid))]
    Anybody { uid: u32 },
    /// The command has such a process, but so may others on this network.
    #[error("uid {uid} is one of this command's, but on the host's network it may be somebody else's too")]
    Shared { uid: u32 },
    /// Nothing is known.
    #[error(transparent)]
    Unknown(#[from] LoopbackFault),
}

impl Stranger {
    /// Whether a person should know. Of a connection that its own side has closed nobody wants to hear.
    pub(super) fn is_told(&self) -> bool {
        !matches!(self, Self::Unknown(LoopbackFault::Unseen))
    }
}

impl Fault for Stranger {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown(fault) => fault.kind(),
            _ => Kind::Refused,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Other { .. } => "run `valetkey exec` as the user who asks".to_owned(),
            Self::Anybody { .. } => {
                "give this user a number in the namespace: `unshare --user --map-current-user`, for one"
                    .to_owned()
            }
            Self::Shared { .. } => {
                "run the step without `--network=host`, or as root alone (apt: `-o APT::Sandbox::User=root`)"
                    .to_owned()
            }
            Self::Unknown(fault) => return fault.hint(),
        })
    }
}

impl Caller {
    /// Looks who it is. A descriptor that is missing for that is waited for: it comes back when a connection ends.
    pub(super) async fn of(mut stream: TcpStream) -> Option<(TcpStream, Result<Self, Stranger>)> {
        let mut looks = 1;
        loop {
            // The kernel's tables are files, and may be long.
            let looked = blocking::run(move || (admit(&stream), stream)).await;
            let admitted;
            (admitted, stream) = looked.ok()?;
            match admitted {
                Err(Stranger::Unknown(fault)) if fault.is_passing() && looks < MOST_LOOKS => {
                    looks += 1;
                    sleep(PAUSE).await;
                }
                admitted => return Some((stream, admitted)),
            }
        }
    }

    fn new(peer: LoopbackPeer) -> Self {
        Self { peer, name: OnceCell::new() }
    }

    /// What a person would call the process, and what of the command has started it. Found once, when it is wanted.
    pub(super) async fn name(&self) -> &str {
        let LoopbackPeer { uid, inode } = self.peer;
        let look = || async move {
            // Its arguments name files, and a file system may not answer.
            let found = timeout(NAME_TIME, blocking::run(move || name(inode))).await;
            let name = found.ok().and_then(Result::ok).flatten();
            name.unwrap_or_else(|| format!("a process of uid {uid}"))
        };
        self.name.get_or_init(look).await
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// What is served, in a sentence.
fn served() -> &'static str {
    if own_uid() == 0 { "root and what its own command starts" } else { "the user who started it" }
}

fn admit(stream: &TcpStream) -> Result<Caller, Stranger> {
    let peer = loopback_peer_of(stream)?;
    let LoopbackPeer { uid, inode } = peer;
    if is_own(uid) {
        return Ok(Caller::new(peer));
    }
    if uid != own_uid() && own_uid() != 0 {
        return Err(Stranger::Other { uid });
    }
    let processes = Processes::look();
    if uid == own_uid() {
        let seen = processes.all().any(|pid| holds(pid, inode) == Held::Yes);
        return if seen { Ok(Caller::new(peer)) } else { Err(Stranger::Anybody { uid }) };
    }
    let mut hidden = false;
    for pid in processes.below(own_pid()) {
        match holds(pid, inode) {
            Held::Yes => return Ok(Caller::new(peer)),
            Held::Hidden => hidden |= uids_of(pid).contains(&uid),
            Held::No => {}
        }
    }
    match (hidden, is_anybody(uid), is_network_apart()) {
        (false, false, _) => Err(Stranger::Other { uid }),
        (_, true, _) => Err(Stranger::Anybody { uid }),
        (true, false, true) => Ok(Caller::new(peer)),
        (true, false, false) => Err(Stranger::Shared { uid }),
    }
}

/// Whether this network is not the host's own: that one alone has the settings of the whole machine.
fn is_network_apart() -> bool {
    let settings = Path::new("/proc/sys/net/core");
    settings.join("somaxconn").exists() && !settings.join("netdev_max_backlog").exists()
}

fn name(inode: u64) -> Option<String> {
    let processes = Processes::look();
    let own = own_pid();
    let ours = processes.below(own);
    let holder = ours.iter().copied().chain(processes.all()).find(|pid| holds(*pid, inode) == Held::Yes)?;
    let chain = processes.chain(holder, own).unwrap_or_else(|| vec![holder]);
    let names: Vec<String> = chain.iter().take(MOST_NAMED).map(|pid| called(*pid)).collect();
    Some(names.join(", started by "))
}

const PAUSE: Duration = Duration::from_millis(50);
/// Two seconds of them.
const MOST_LOOKS: usize = 40;
const NAME_TIME: Duration = Duration::from_secs(2);
const MOST_NAMED: usize = 4;
