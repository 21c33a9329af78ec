//! What a listener gives, and to whom: the configuration's words, held to the policy's ceiling.

use std::fmt;

use super::peer::UNKNOWN;
use super::subordinate;
use crate::ask::Access;
use crate::config::listeners::{Peers, Terms as Written, Width};
use crate::config::policy::{POLICY, Policy};
use crate::error::{Failure, Kind};
use crate::grant::{Grant, Origin, Pattern, ProxyGrant, Repositories};
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
    pub fn new(written: &Written, policy: &Policy, hosts: &Hosts, origin: Origin) -> Result<Self, Failure> {
        let parse = |list: &[String]| {
            list.iter().map(|text| Pattern::parse(text, hosts)).collect::<Result<Vec<_>, _>>()
        };
        let ceiling = policy.repositories.as_deref().map(parse).transpose()?;
        let within = |it: &Pattern| ceiling.as_ref().is_none_or(|ceiling| ceiling.contains(it));
        let (repositories, withheld) = parse(&written.repositories)?.into_iter().partition(within);
        let highest = policy.access.map_or(Access::Write, width);
        let access = width(written.access).min(highest);
        let tokens = written.tokens && policy.tokens.unwrap_or(true);
        let grant = Grant {
            credential: tokens.then_some(access),
            // One that cannot be narrowed to reading can write.
            unnarrowed: written.unnarrowed && highest == Access::Write,
            proxy: Some(ProxyGrant {
                withheld,
                ..ProxyGrant::new(access, Repositories::Listed(repositories), origin)
            }),
            named_sources: false,
            control: false,
        };
        Ok(Self { grant, admitted: Admitted::new(&written.peers) })
    }

    /// Whether all that was written is in force.
    ///
    /// # Errors
    /// What the policy withholds. Whoever asks by a command is told at once.
    pub fn check_whole(&self, written: &Written) -> Result<(), Failure> {
        let refuse = |what: &str| {
            Err(Failure::new(Kind::Refused, format!("the policy of this machine, {POLICY}, {what}")))
        };
        let Some(proxy) = &self.grant.proxy else { return Ok(()) };
        if let Some(withheld) = proxy.withheld.first() {
            return refuse(&format!("allows no build to use {withheld}"));
        }
        if width(written.access) > proxy.access {
            return refuse("lets builds read and not write");
        }
        if written.tokens && self.grant.credential.is_none() {
            return refuse("lets no token into a build");
        }
        if written.unnarrowed && !self.grant.unnarrowed {
            return refuse("lets builds read, and a token that cannot be narrowed could write");
        }
        Ok(())
    }
}

/// The uids that a listener serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    owner: u32,
    /// Root outside of containers has better ways; root inside one is often the only user there is.
    root: bool,
    ranges: Vec<(u32, u32)>,
    /// Whoever it is, also where that cannot be known.
    anyone: bool,
}

impl Admitted {
    /// The owner, and nobody else.
    #[must_use]
    pub fn owner() -> Self {
        Self { owner: sys::own_uid(), root: false, ranges: Vec::new(), anyone: false }
    }

    /// The owner, root, and these.
    #[must_use]
    pub fn new(peers: &[Peers]) -> Self {
        let owner = sys::own_uid();
        let ranges = peers.iter().flat_map(|peers| match peers {
            Peers::Range(first, last) => vec![(*first, *last)],
            Peers::Subordinate => subordinate::ranges(owner),
            Peers::Anyone => Vec::new(),
        });
        Self { owner, root: true, ranges: ranges.collect(), anyone: peers.contains(&Peers::Anyone) }
    }

    #[must_use]
    pub fn admits(&self, uid: u32) -> bool {
        let listed = || self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&uid));
        let known = uid == self.owner || (self.root && uid == 0) || listed();
        self.anyone || (uid != UNKNOWN && known)
    }

    /// What to write so that one more is served.
    #[must_use]
    pub fn how_to_admit(&self, origin: &Origin, peer: &str) -> Option<String> {
        if self.ranges.is_empty() {
            origin.add(&format!("peers = [{peer}]"))
        } else {
            origin.append(peer, "peers")
        }
    }

    /// Only the owner: then there is no line that could be added for others.
    #[must_use]
    pub fn is_private(&self) -> bool {
        !self.root && self.ranges.is_empty()
    }
}

impl fmt::Display for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.anyone {
            return f.write_str("anyone");
        }
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
        Terms::new(&written(text), &toml::from_str(policy).unwrap(), &Hosts::default(), Origin::Build(None))
            .unwrap()
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
        assert_eq!(proxy.withheld, [Pattern::parse("us/acme/private", &Hosts::default()).unwrap()]);
    }

    #[test]
    fn a_token_that_cannot_be_narrowed_is_beyond_a_ceiling_of_reading() {
        let text = "tokens = true\nunnarrowed = true";
        assert!(terms(text, "").grant.unnarrowed);
        assert!(terms(text, "access = \"write\"").grant.unnarrowed);
        let held = terms(text, "access = \"read\"").grant;
        assert_eq!((held.credential, held.unnarrowed), (Some(Access::Read), false));
    }

    #[test]
    fn whoever_asks_by_a_command_hears_what_the_policy_withholds() {
        for (text, policy, word) in [
            ("repositories = [\"us/acme/private\"]", "repositories = []", "us/acme/private"),
            ("access = \"write\"", "access = \"read\"", "read and not write"),
            ("tokens = true", "tokens = false", "no token"),
            ("tokens = true\nunnarrowed = true", "access = \"read\"", "could write"),
        ] {
            let failure = terms(text, policy).check_whole(&written(text)).unwrap_err();
            assert!(failure.message.contains(word), "{failure:?}");
            assert_eq!(terms(text, "").check_whole(&written(text)), Ok(()));
        }
    }

    #[test]
    fn the_owner_s_socket_admits_the_owner_alone() {
        let own = sys::own_uid();
        assert!(Admitted::owner().admits(own) && !Admitted::owner().admits(own + 1));
        let some = Admitted::new(&[Peers::Range(100_000, 165_535)]);
        assert!(some.admits(own) && some.admits(0) && some.admits(100_000) && some.admits(165_535));
        assert!(!some.admits(99_999) && !some.admits(165_536) && !some.admits(UNKNOWN));
        assert!(!Admitted::new(&[Peers::Range(0, u32::MAX)]).admits(UNKNOWN), "nobody has that uid");
        assert!(Admitted::new(&[Peers::Anyone]).admits(UNKNOWN));
        assert_eq!(some.to_string(), "owner, root, uids 100000 to 165535");
    }
}
