//! What one listener may do for its peers. A listener compiles its routes from its grant: what is not granted has
//! no route and answers like any other unknown path.

use crate::ask::Access;

/// What one listener gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whether tokens are handed out, and the widest access of one. A token is as wide as its identity and scope;
    /// it cannot be confined to a repository.
    pub credential: Option<Access>,
    /// Whether an ask may name its source. True only where every peer could read the file itself.
    pub named_sources: bool,
    /// Status, stop, reload and metrics.
    pub control: bool,
}

impl Grant {
    /// What the owner of the daemon gets on the owner's socket.
    #[must_use]
    pub fn owner() -> Self {
        Self { credential: Some(Access::Write), named_sources: true, control: true }
    }

    /// The forms in words, for `status` and the audit log.
    #[must_use]
    pub fn forms(&self) -> Vec<&'static str> {
        let credential = self.credential.map(|access| match access {
            Access::Read => "credential, read",
            Access::Write => "credential, read-write",
        });
        credential.into_iter().chain(self.control.then_some("control")).collect()
    }
}
