//! What a listener gives, and to whom: the configuration's words, held to the policy's ceiling.

use std::fmt;

use super::subordinate;
use crate::ask::Access;
use crate::config::listeners::{Peers, Terms as Written, Width};
use crate::config::policy::Policy;
use crate::error::Failure;
use crate::grant::{Grant, Pattern, ProxyGrant, Repositories};
use crate::registry::Hosts;
use crate::sys;

/// The terms in force at one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub grant: Grant,
    pub admitted: Admitted,
}

impl Terms {
    /// The owner's own socket.
    #[must_use]
    pub fn owner() -> Self {
        Self { grant: Grant::owner(), admitted: Admitted::owner() }
    }

    /// What was written, and no more than the policy allows. A repository beyond the ceiling is left out; the
    /// refusal comes when somebody asks for it.
    ///
    /// # Errors
    /// When a repository is none.
    pub fn new(written: &Written, policy: &Policy, hosts: &Hosts) -> Result<Self, Failure> {
        let parse = |list: &[String]| {
            list.iter().map(|text| Pattern::parse(text, hosts)).collect::<Result<Vec<_>, _>>()
        };
        let mut repositories = parse(&written.repositories)?;
        if let Some(ceiling) = &policy.repositories {
            let ceiling = parse(ceiling)?;
            repositories.retain(|repository| ceiling.contains(repository));
        }
        let access = width(written.access).min(policy.access.map_or(Access::Write, width));
        let tokens = written.tokens && policy.tokens.unwrap_or(true);
        let grant = Grant {
            credential: tokens.then_some(access),
            unnarrowed: written.unnarrowed,
            proxy: Some(ProxyGrant { access, repositories: Repositories::Listed(repositories) }),
            named_sources: false,
            control: false,
        };
        Ok(Self { grant, admitted: Admitted::new(&written.peers) })
    }
}

/// The uids that a listener serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    owner: u32,
    /// Root outside of containers has better ways; root inside one is often the only user there is.
    root: bool,
    ranges: Vec<(u32, u32)>,
}

impl Admitted {
    /// The owner, and nobody else.
    #[must_use]
    pub fn owner() -> Self {
        Self { owner: sys::own_uid(), root: false, ranges: Vec::new() }
    }

    /// The owner, root, and these.
    #[must_use]
    pub fn new(peers: &[Peers]) -> Self {
        let owner = sys::own_uid();
        let ranges = peers.iter().flat_map(|peers| match peers {
            Peers::Range(first, last) => vec![(*first, *last)],
            Peers::Subordinate => subordinate::ranges(owner),
        });
        Self { owner, root: true, ranges: ranges.collect() }
    }

    #[must_use]
    pub fn admits(&self, uid: u32) -> bool {
        uid == self.owner
            || (self.root && uid == 0)
            || self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&uid))
    }

    /// Only the owner: then there is no line that could be added for others.
    #[must_use]
    pub fn is_private(&self) -> bool {
        !self.root && self.ranges.is_empty()
    }
}

impl fmt::Display for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("owner")?;
        if self.root {
            f.write_str(", root")?;
        }
        for (first, last) in &self.ranges {
            if first == last { write!(f, ", uid {first}")? } else { write!(f, ", uids {first} to {last}")? }
        }
        Ok(())
    }
}

fn width(width: Width) -> Access {
    match width {
        Width::Read => Access::Read,
        Width::Write => Access::Write,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Written {
        toml::from_str(text).unwrap()
    }

    fn terms(text: &str, policy: &str) -> Terms {
        Terms::new(&written(text), &toml::from_str(policy).unwrap(), &Hosts::default()).unwrap()
    }

    #[test]
    fn nothing_is_granted_that_nobody_wrote() {
        let grant = terms("", "").grant;
        assert_eq!((grant.credential, grant.control, grant.named_sources), (None, false, false));
        let proxy = grant.proxy.unwrap();
        assert_eq!(proxy.access, Access::Read);
        assert_eq!(proxy.repositories, Repositories::Listed(Vec::new()));
    }

    #[test]
    fn a_policy_is_a_ceiling() {
        let text =
            "repositories = [\"us/acme/private\", \"us/acme/other\"]\naccess = \"write\"\ntokens = true";
        let free = terms(text, "").grant;
        assert_eq!(free.credential, Some(Access::Write));
        let held = terms(text, "access = \"read\"\ntokens = false\nrepositories = [\"us/acme/other\"]").grant;
        let proxy = held.proxy.unwrap();
        assert_eq!((held.credential, proxy.access), (None, Access::Read));
        let one = Pattern::parse("us/acme/other", &Hosts::default()).unwrap();
        assert_eq!(proxy.repositories, Repositories::Listed(vec![one]));
    }

    #[test]
    fn the_owner_s_socket_admits_the_owner_alone() {
        let own = sys::own_uid();
        assert!(Admitted::owner().admits(own) && !Admitted::owner().admits(own + 1));
        let some = Admitted::new(&[Peers::Range(100_000, 165_535)]);
        assert!(some.admits(own) && some.admits(0) && some.admits(100_000) && some.admits(165_535));
        assert!(!some.admits(99_999) && !some.admits(165_536));
        assert_eq!(some.to_string(), "owner, root, uids 100000 to 165535");
    }
}
