//! The variables that lead https requests to our forwarder, and those that would lead them past it.
//!
//! Plain http stays what it was: the forwarder does not speak it. What a user's own variables say about the way to
//! the rest of the world goes on to hold, behind the forwarder; and what only one tool was told goes on to hold for that
//! tool alone, which gets a port of its own.

use std::collections::BTreeMap;

use crate::client::granted::{HostPattern, is_below};
use crate::environment::Environment;
use crate::wiring::Wiring;
use crate::wiring::files::{Files, Named};

/// A way to the world that only one tool was told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnWay {
    pub proxy: String,
    /// The hosts that need no proxy, where they are the tool's own list.
    pub no_proxy: Option<String>,
    /// The variable or the file that says so.
    pub named: String,
    pub of_file: bool,
}

/// A tool that may have a way of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    Pip,
    Npm,
    Yarn,
    Cargo,
    Wget,
    Uv,
}

impl Tool {
    /// The program that it is.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Pip => "pip",
            Self::Npm => "npm",
            Self::Yarn => "yarn",
            Self::Cargo => "cargo",
            Self::Wget => "wget",
            Self::Uv => "uv",
        }
    }
}

/// Where the forwarder listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    pub general: u16,
    pub own: BTreeMap<Tool, u16>,
}

impl Ports {
    #[must_use]
    pub fn of(&self, tool: Tool) -> u16 {
        self.own.get(&tool).copied().unwrap_or(self.general)
    }

    #[must_use]
    pub fn address(&self, tool: Tool) -> String {
        format!("http://127.0.0.1:{}", self.of(tool))
    }
}

/// The ways that single tools were told of, by variables or by files of their own.
#[must_use]
pub fn own_ways(environment: &Environment, files: &Files) -> BTreeMap<Tool, OwnWay> {
    let mut found = BTreeMap::new();
    for (tool, variables, file) in [
        (Tool::Pip, &PIP[..], &files.pip),
        (Tool::Npm, &NPM, &files.npm),
        (Tool::Yarn, &YARN, &files.yarn),
        (Tool::Cargo, &CARGO, &files.cargo),
        (Tool::Wget, &[], &files.wget),
    ] {
        let variable = variables.iter().find_map(|name| Some(((*name).to_owned(), environment.text(name)?)));
        let of_file =
            file.proxy.as_deref().map(|proxy| (format!("{}'s configuration", tool.program()), proxy));
        if let Some((named, proxy)) = variable.or(of_file) {
            let of_file = named.ends_with("configuration");
            let way = OwnWay { proxy: proxy.to_owned(), no_proxy: file.no_proxy.clone(), named, of_file };
            found.insert(tool, way);
        }
    }
    found.extend(files.uv.way().map(|way| (Tool::Uv, way)));
    found
}

/// What a command needs so that its https requests come to the forwarder on 127.0.0.1.
#[must_use]
pub fn proxies(environment: &Environment, files: &Files, ports: &Ports, hosts: &[HostPattern]) -> Wiring {
    let mut wiring = Wiring::default();
    let general = format!("http://127.0.0.1:{}", ports.general);
    for name in PROXY {
        wiring.set(name, general.clone());
    }
    // Of the variables of a tool those that are set are replaced, and one that wins over its files where these speak.
    let variables = |tool, names: &[&'static str], file: &Named, wiring: &mut Wiring| {
        for (at, name) in names.iter().enumerate() {
            if environment.get(name).is_some() || (at == 0 && file.proxy.is_some()) {
                wiring.set(name, ports.address(tool));
            }
        }
    };
    variables(Tool::Pip, &PIP, &files.pip, &mut wiring);
    variables(Tool::Npm, &NPM, &files.npm, &mut wiring);
    variables(Tool::Cargo, &CARGO, &files.cargo, &mut wiring);
    if ports.own.contains_key(&Tool::Npm) {
        wiring.set("pnpm_config_https_proxy", ports.address(Tool::Npm));
    }
    // It does not read the general ones.
    wiring.set(YARN[0], ports.address(Tool::Yarn));
    let (list, everything) = no_proxy(&listed(environment), hosts);
    if everything {
        // What is taken out of the list said that there is no proxy; what is left has to say the same.
        wiring.unset.extend(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]);
    }
    for name in ["NO_PROXY", "no_proxy"] {
        wiring.set(name, list.clone());
    }
    for name in NPM_LIST {
        let own = environment.text(name).or(files.npm.no_proxy.as_deref().filter(|_| name == NPM_LIST[0]));
        if let Some(own) = own {
            wiring.set(name, no_proxy(own, hosts).0);
        }
    }
    wiring
}

/// The environment that decides how a tunnel reaches the world for one tool.
#[must_use]
pub fn beyond(environment: &Environment, way: &OwnWay) -> Environment {
    let replaced = |name: &str| {
        ["HTTPS_PROXY", "https_proxy"].contains(&name)
            || (way.no_proxy.is_some() && ["NO_PROXY", "no_proxy"].contains(&name))
    };
    let kept = environment.iter().filter(|(name, _)| name.to_str().is_none_or(|name| !replaced(name)));
    let mut pairs: Vec<_> = kept.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    pairs.push(("https_proxy".into(), way.proxy.clone().into()));
    pairs.extend(way.no_proxy.clone().map(|list| ("no_proxy".into(), list.into())));
    pairs.into_iter().collect()
}

/// The list of hosts that need no proxy, with loopback, as a tool of its own gets it.
#[must_use]
pub fn no_proxy_of(environment: &Environment, way: Option<&OwnWay>, hosts: &[HostPattern]) -> String {
    let own = way.and_then(|way| way.no_proxy.clone());
    no_proxy(&own.unwrap_or_else(|| listed(environment)), hosts).0
}

fn listed(environment: &Environment) -> String {
    environment.text("no_proxy").or_else(|| environment.text("NO_PROXY")).unwrap_or_default().to_owned()
}

/// The user's list with loopback, without what would lead past us; and whether it said "everything".
fn no_proxy(named: &str, hosts: &[HostPattern]) -> (String, bool) {
    let mut list: Vec<&str> = Vec::new();
    let mut everything = false;
    for entry in named.split([',', ' ', '\t']).chain(LOOPBACK).filter(|entry| !entry.is_empty()) {
        everything |= entry == "*";
        if entry != "*" && !list.contains(&entry) && !hosts.iter().any(|host| concerns(entry, host)) {
            list.push(entry);
        }
    }
    (list.join(","), everything)
}

/// Whether an entry of the list is about a host that has to come to us. Whether a tool takes `x.test` for the names
/// below it as well differs from tool to tool; here it is.
fn concerns(entry: &str, host: &HostPattern) -> bool {
    let entry = entry.to_ascii_lowercase();
    let name = entry.trim_start_matches("*.").trim_start_matches('.');
    let name = name.split_once(':').filter(|(_, port)| !port.contains(':')).map_or(name, |(name, _)| name);
    let own = host.name();
    let below = matches!(host, HostPattern::Below(_)) && is_below(name, own);
    name == own || is_below(own, name) || below || host.address().is_some_and(|own| covers(name, own))
}

/// Whether a network holds an address.
fn covers(network: &str, address: std::net::Ipv4Addr) -> bool {
    let Some((base, bits)) = network.split_once('/') else { return false };
    let (Ok(base), Ok(bits)) = (base.parse::<std::net::Ipv4Addr>(), bits.parse::<u32>()) else {
        return false;
    };
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
    bits <= 32 && (base.to_bits() & mask) == (address.to_bits() & mask)
}

const PROXY: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
/// Variables of single tools that win over the general ones, the one that wins over the tool's files first.
const PIP: [&str; 1] = ["PIP_PROXY"];
const NPM: [&str; 4] = [
    "npm_config_https_proxy",
    "NPM_CONFIG_HTTPS_PROXY",
    "pnpm_config_https_proxy",
    "PNPM_CONFIG_HTTPS_PROXY",
];
const YARN: [&str; 1] = ["YARN_HTTPS_PROXY"];
const CARGO: [&str; 1] = ["CARGO_HTTP_PROXY"];
const NPM_LIST: [&str; 2] = ["npm_config_noproxy", "NPM_CONFIG_NOPROXY"];
const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "::1"];

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostPattern {
        HostPattern::try_from(text.to_owned()).unwrap()
    }

    fn at(port: u16) -> Ports {
        Ports { general: port, own: BTreeMap::new() }
    }

    fn list(no_proxy: &str, hosts: &[&str]) -> String {
        let environment: Environment = [("NO_PROXY", no_proxy)].into_iter().collect();
        let hosts: Vec<_> = hosts.iter().map(|text| host(text)).collect();
        let wiring = proxies(&environment, &Files::default(), &at(1), &hosts);
        assert_eq!(wiring.value("NO_PROXY"), wiring.value("no_proxy"));
        wiring.value("NO_PROXY").unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn loopback_needs_no_proxy_and_a_granted_host_does() {
        let all = "127.0.0.1,localhost,::1";
        for (given, hosts, wanted) in [
            ("", &["*.pkg.dev"][..], all.to_owned()),
            ("corp.test, 10.0.0.0/8", &["*.pkg.dev"], format!("corp.test,10.0.0.0/8,{all}")),
            ("pkg.dev,.pkg.dev,*.pkg.dev,dev,.dev,corp.test", &["*.pkg.dev"], format!("corp.test,{all}")),
            ("us-python.pkg.dev,US-Python.pkg.dev:443", &["*.pkg.dev"], all.to_owned()),
            ("evilpkg.dev,kg.dev", &["*.pkg.dev"], format!("evilpkg.dev,kg.dev,{all}")),
            ("us-npm.pkg.dev", &["us-python.pkg.dev"], format!("us-npm.pkg.dev,{all}")),
            ("*", &["us-python.pkg.dev"], all.to_owned()),
            ("localhost,localhost:1", &["localhost:8443"], "127.0.0.1,::1".to_owned()),
            ("10.0.0.0/8,11.0.0.0/8", &["10.1.2.3"], format!("11.0.0.0/8,{all}")),
        ] {
            assert_eq!(list(given, hosts), wanted, "{given:?} {hosts:?}");
        }
    }

    #[test]
    fn who_wanted_no_proxy_at_all_gets_none_for_plain_http() {
        let environment: Environment =
            [("no_proxy", "*"), ("http_proxy", "http://p.test")].into_iter().collect();
        let wiring = proxies(&environment, &Files::default(), &at(1), &[host("*.pkg.dev")]);
        assert!(wiring.unset.contains(&"http_proxy"));
        assert!(proxies(&Environment::default(), &Files::default(), &at(1), &[]).unset.is_empty());
    }

    #[test]
    fn what_one_tool_was_told_counts_for_that_tool_alone() {
        let environment: Environment =
            [("PIP_PROXY", "http://p.test:3128"), ("NO_PROXY", "x.test")].into_iter().collect();
        let mut files = Files::default();
        files.npm.proxy = Some("http://n.test".to_owned());
        files.npm.no_proxy = Some("y.test,us-npm.pkg.dev".to_owned());
        let ways = own_ways(&environment, &files);
        assert_eq!(ways.keys().copied().collect::<Vec<_>>(), [Tool::Pip, Tool::Npm]);
        let pip = beyond(&environment, &ways[&Tool::Pip]);
        assert_eq!(
            (pip.text("https_proxy"), pip.text("NO_PROXY")),
            (Some("http://p.test:3128"), Some("x.test"))
        );
        let npm = beyond(&environment, &ways[&Tool::Npm]);
        assert_eq!((npm.text("https_proxy"), npm.text("NO_PROXY")), (Some("http://n.test"), None));
        let ports = Ports { general: 18, own: [(Tool::Pip, 19), (Tool::Npm, 20)].into() };
        let wiring = proxies(&environment, &files, &ports, &[host("*.pkg.dev")]);
        for (name, port) in [
            ("HTTPS_PROXY", 18),
            ("PIP_PROXY", 19),
            ("npm_config_https_proxy", 20),
            ("pnpm_config_https_proxy", 20),
            ("YARN_HTTPS_PROXY", 18),
        ] {
            assert_eq!(wiring.value(name).unwrap(), format!("http://127.0.0.1:{port}").as_str(), "{name}");
        }
        assert_eq!(wiring.value("CARGO_HTTP_PROXY"), None);
        assert_eq!(wiring.value("npm_config_noproxy").unwrap(), "y.test,127.0.0.1,localhost,::1");
        assert_eq!(own_ways(&Environment::default(), &Files::default()), BTreeMap::new());
    }
}
