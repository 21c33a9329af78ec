//! The SSH agent's socket as a carrier: byte streams between a client inside a container and the daemon outside,
//! as Sign requests of the agent protocol.
//!
//! Every tool that carries an SSH agent into a container passes a Sign request and its answer on unread. So the
//! daemon is an agent that lists one pseudo identity, and a Sign request for it whose data is a [frame](super::frame)
//! is one exchange of one stream. Everything else that can be asked of an agent is answered as by one that has
//! this key and will not use it: nothing is ever signed, and no other key is ever listed.
//!
//! No state hangs on a connection. Those who carry us cut it (buildah, two seconds after accept), share it (buildah,
//! one for a whole step), or change the flags of a request; so a stream is known by its name alone, each exchange
//! can be repeated, and a client reconnects as a matter of course.
//!
//! | module | side | what |
//! |---|---|---|
//! | [`server`] | daemon | [`AgentServer`] serves the connections of one listener, [`Incoming`] gives the streams |
//! | [`find`] | container | which socket leads to us |
//! | [`channel`] | container | [`AgentChannel`] opens streams |
//! | [`once`] | container | the same for a program without a runtime: one request, one answer |
//! | [`wire`] | both | the messages of the agent protocol |

pub mod budget;
pub mod channel;
mod conversation;
pub mod find;
pub mod once;
pub mod server;
pub mod stream;
pub mod wire;

pub use budget::{Budget, Limits};
pub use channel::{AgentChannel, AgentStream};
pub use once::exchange_once;
pub use server::{AgentServer, Caller, Incoming};
pub use stream::CarriedStream;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::frame::{FrameFault, Status};
use crate::error::shown::shown_path;
use crate::error::{Fault, Kind};
use crate::sys;

/// Why a stream, or the way to the daemon, is no more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AgentFault {
    /// The agent answers, and with a failure: nobody is behind it any more. In a build of buildah's that is for
    /// good, since it dials the host once a step.
    #[error("the agent socket {} leads to no daemon any more", shown_path(.0))]
    Gone(PathBuf),
    /// The socket itself is gone, or its connections break each time.
    #[error("cannot reach the daemon through the agent socket {}: {problem}", shown_path(.path))]
    Broken { path: PathBuf, problem: String },
    /// It is mounted for another user than the one who runs the step.
    #[error("the agent socket {} is there, and uid {} may not open it", shown_path(.0), sys::own_uid())]
    Closed(PathBuf),
    /// The daemon was restarted in the middle, or the stream was idle for too long.
    #[error("the daemon behind {} does not know this stream any more", shown_path(.0))]
    Forgotten(PathBuf),
    /// Other streams, of this peer or of all, did not make room in time.
    #[error("the daemon behind {} serves as many streams as it may", shown_path(.0))]
    Full(PathBuf),
    /// The daemon is on its way out.
    #[error("the daemon behind {} is ending", shown_path(.0))]
    Ending(PathBuf),
    /// What answers is not of our kind or version.
    #[error("the agent socket {} gives answers that cannot be used: {fault}", shown_path(.path))]
    Nonsense { path: PathBuf, fault: FrameFault },
    /// The answer is longer than the asker takes.
    #[error("the answer through the agent socket {} is too long", shown_path(.0))]
    TooLong(PathBuf),
    /// The asker's time is over.
    #[error("no answer in time through the agent socket {}", shown_path(.0))]
    Deadline(PathBuf),
    /// The operating system has no random bytes to give.
    #[error("this system gives no random bytes for the name of a stream")]
    Random,
}

impl AgentFault {
    /// What a refusal by the daemon means for the stream.
    fn of_status(status: Status, path: PathBuf) -> Self {
        match status {
            Status::Unknown => Self::Forgotten(path),
            Status::Full => Self::Full(path),
            Status::Ending => Self::Ending(path),
            Status::Ok | Status::Version | Status::Malformed => {
                Self::Nonsense { path, fault: FrameFault::Malformed("the daemon did not understand ours") }
            }
        }
    }
}

impl Fault for AgentFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Deadline(_) => Kind::Deadline,
            Self::Random => Kind::Local,
            Self::Closed(_) => Kind::Refused,
            _ => Kind::Unreachable,
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Gone(_) | Self::Broken { .. } => {
                "see that the daemon runs where the build was started, and run this step again"
            }
            Self::Closed(_) => MODE,
            Self::Forgotten(_) | Self::Ending(_) => "run this step again: the daemon was restarted",
            Self::Full(_) => "run fewer downloads at once",
            Self::Nonsense { fault, .. } => return fault.hint(),
            Self::Deadline(_) => {
                "the daemon may be stopped (`valetkey status` there says so), or that machine too busy: run this step again"
            }
            Self::TooLong(_) | Self::Random => return None,
        };
        Some(text.to_owned())
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Forgotten(_) | Self::Full(_) | Self::Ending(_))
    }
}

impl From<AgentFault> for io::Error {
    fn from(fault: AgentFault) -> Self {
        let kind = match fault {
            AgentFault::Forgotten(_) => io::ErrorKind::ConnectionReset,
            AgentFault::Full(_) => io::ErrorKind::WouldBlock,
            AgentFault::Deadline(_) => io::ErrorKind::TimedOut,
            AgentFault::Nonsense { .. } | AgentFault::TooLong(_) => io::ErrorKind::InvalidData,
            AgentFault::Random => io::ErrorKind::Other,
            AgentFault::Closed(_) => io::ErrorKind::PermissionDenied,
            AgentFault::Gone(_) | AgentFault::Broken { .. } | AgentFault::Ending(_) => {
                io::ErrorKind::ConnectionRefused
            }
        };
        Self::new(kind, fault)
    }
}

/// What a step that does not run as root has to say.
pub const MODE: &str =
    "add `mode=0666` to that mount: `--mount=type=ssh,id=valetkey,required=true,mode=0666`";
