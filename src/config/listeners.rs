//! What the configuration says about listeners: the sockets for builds and containers, further ones by hand, and
//! who may use them.

use std::path::PathBuf;

use serde::Deserialize;

use crate::error::shown::shown;

/// The widest access that a listener gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Width {
    #[default]
    Read,
    Write,
}

/// What a listener other than the owner's gives, and to whom beside the owner and root.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// `LOCATION/PROJECT/REPOSITORY` or its URL. None listed: none.
    pub repositories: Vec<String>,
    pub access: Width,
    /// Whether tokens leave the daemon there. A token cannot be confined to a repository.
    pub tokens: bool,
    /// Whether they may do so although the source cannot narrow them to reading.
    pub unnarrowed: bool,
    pub peers: Vec<Peers>,
    /// Of `[build]`: `FILE:LINE`, or the file that it is to be written into.
    #[serde(skip)]
    pub place: Option<String>,
}

/// Users beside the owner and root.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PeersWire")]
pub enum Peers {
    /// These uids, both ends included.
    Range(u32, u32),
    /// The uids that the system gave the owner for containers, `/etc/subuid`.
    Subordinate,
    /// Everyone who can reach the listener, known or not.
    Anyone,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PeersWire {
    Number(u32),
    Text(String),
}

impl TryFrom<PeersWire> for Peers {
    type Error = String;

    fn try_from(wire: PeersWire) -> Result<Self, String> {
        let text = match wire {
            PeersWire::Number(uid) => return Ok(Self::Range(uid, uid)),
            PeersWire::Text(text) => text,
        };
        match text.as_str() {
            "subuid" => return Ok(Self::Subordinate),
            "anyone" => return Ok(Self::Anyone),
            _ => {}
        }
        let range = text.split_once('-').and_then(|(first, last)| {
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first <= last).then_some(Self::Range(first, last))
        });
        range.ok_or_else(|| {
            let text = shown(&text);
            format!("{text:?} is not a uid, a range such as \"100000-165535\", \"subuid\" or \"anyone\"")
        })
    }
}

/// A listener that the configuration adds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ExtraWire")]
pub struct ExtraListener {
    pub address: Address,
    pub terms: Terms,
    /// `FILE:LINE` of its `[[listener]]`.
    pub place: Option<String>,
}

/// Where it listens, and in which way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// HTTP on a Unix socket.
    Unix(PathBuf),
    /// The SSH agent's protocol on a Unix socket.
    Agent(PathBuf),
    /// HTTP on a port of this machine.
    Tcp(std::net::SocketAddr),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtraWire {
    unix: Option<PathBuf>,
    agent: Option<PathBuf>,
    tcp: Option<std::net::SocketAddr>,
    #[serde(default)]
    beyond_loopback: bool,
    #[serde(default)]
    repositories: Vec<String>,
    #[serde(default)]
    access: Width,
    #[serde(default)]
    tokens: bool,
    #[serde(default)]
    unnarrowed: bool,
    #[serde(default)]
    peers: Vec<Peers>,
}

impl TryFrom<ExtraWire> for ExtraListener {
    type Error = String;

    fn try_from(wire: ExtraWire) -> Result<Self, String> {
        let address = match (wire.unix, wire.agent, wire.tcp) {
            (Some(path), None, None) if path.is_absolute() => Address::Unix(path),
            (None, Some(path), None) if path.is_absolute() => Address::Agent(path),
            (None, None, Some(address)) if address.ip().is_loopback() => Address::Tcp(address),
            (None, None, Some(_)) if wire.beyond_loopback && wire.tokens => {
                return Err(
                    "tokens travel in clear beyond loopback: a listener with `beyond_loopback` has none"
                        .to_owned(),
                );
            }
            // Who is on another machine has no uid here.
            (None, None, Some(_)) if wire.beyond_loopback && !wire.peers.contains(&Peers::Anyone) => {
                return Err(
                    "nobody beyond loopback can be told from anybody else; say `peers = [\"anyone\"]` \
                            if all who can reach it are meant"
                        .to_owned(),
                );
            }
            (None, None, Some(address)) if wire.beyond_loopback => Address::Tcp(address),
            (None, None, Some(address)) => {
                return Err(format!(
                    "{address} can be reached from other machines; say `beyond_loopback = true` if that is meant"
                ));
            }
            _ => {
                return Err("a listener has one of `unix`, `agent` (absolute paths) or `tcp` (address:port)"
                    .to_owned());
            }
        };
        let (repositories, access, tokens) = (wire.repositories, wire.access, wire.tokens);
        let terms = Terms {
            repositories,
            access,
            tokens,
            unnarrowed: wire.unnarrowed,
            peers: wire.peers,
            place: None,
        };
        Ok(Self { address, terms, place: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(text: &str) -> Result<ExtraListener, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn peers_are_uids_ranges_or_the_subordinate_ones() {
        let parsed = listener("unix = \"/s\"\npeers = [1000, \"5-7\", \"subuid\"]").unwrap();
        assert_eq!(parsed.terms.peers, [Peers::Range(1000, 1000), Peers::Range(5, 7), Peers::Subordinate]);
        for wrong in ["peers = [\"7-5\"]", "peers = [\"root\"]", "peers = [-1]", "peers = [\"1-\"]"] {
            assert!(listener(&format!("unix = \"/s\"\n{wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_listener_has_one_address_and_stays_on_this_machine_unless_told_twice() {
        assert!(matches!(listener("tcp = \"127.0.0.1:8127\"").unwrap().address, Address::Tcp(_)));
        assert!(listener("tcp = \"0.0.0.0:8127\"").unwrap_err().contains("beyond_loopback"));
        let beyond = "tcp = \"0.0.0.0:8127\"\nbeyond_loopback = true\n";
        assert!(listener(beyond).unwrap_err().contains("peers = [\"anyone\"]"));
        assert!(listener(&format!("{beyond}peers = [\"0-65535\"]")).is_err());
        assert!(listener(&format!("{beyond}peers = [\"anyone\"]")).is_ok());
        let clear = listener(&format!("{beyond}peers = [\"anyone\"]\ntokens = true"));
        assert!(clear.unwrap_err().contains("in clear"));
        for wrong in
            ["", "unix = \"s\"", "unix = \"/s\"\nagent = \"/a\"", "tcp = \"localhost\"", "colour = 1"]
        {
            assert!(listener(wrong).is_err(), "{wrong}");
        }
    }
}
