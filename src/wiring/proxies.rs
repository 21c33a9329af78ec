//! The variables that lead https requests to our forwarder, and those that would lead them past it.
//!
//! Plain http stays what it was: the forwarder does not speak it. What a user's own variables say about the way to
//! the rest of the world goes on to hold, behind the forwarder.

use crate::client::granted::{HostPattern, is_below};
use crate::environment::Environment;
use crate::wiring::Wiring;
use crate::wiring::files::Files;

/// What a command needs so that its https requests come to the forwarder at `port` on 127.0.0.1.
#[must_use]
pub fn proxies(environment: &Environment, files: &Files, port: u16, hosts: &[HostPattern]) -> Wiring {
    let mut wiring = Wiring::default();
    let address = format!("http://127.0.0.1:{port}");
    for name in PROXY {
        wiring.set(name, address.clone());
    }
    for name in OWN.into_iter().filter(|name| environment.get(name).is_some()) {
        wiring.set(name, address.clone());
    }
    for (name, file) in [(PIP, &files.pip), (NPM, &files.npm)] {
        if file.proxy.is_some() && environment.get(name).is_none() {
            wiring.set(name, address.clone());
        }
    }
    let (list, everything) = no_proxy(environment, hosts);
    if everything {
        // What is taken out of the list said that there is no proxy; what is left has to say the same.
        wiring.unset.extend(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]);
    }
    for name in ["NO_PROXY", "no_proxy"] {
        wiring.set(name, list.clone());
    }
    wiring
}

/// The environment that decides how a tunnel reaches the world: the user's own, and the proxy that only one
/// tool was told of where there is no other.
#[must_use]
pub fn beyond(environment: &Environment, files: &Files) -> Environment {
    let general = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let single = environment.text(PIP).or(environment.text(NPM)).or(files.proxy());
    let more = single.filter(|_| general.iter().all(|name| environment.get(name).is_none()));
    let more = more.map(|proxy| ("HTTPS_PROXY".into(), proxy.into()));
    environment.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).chain(more).collect()
}

/// The user's list with loopback, without what would lead past us; and whether it said "everything".
fn no_proxy(environment: &Environment, hosts: &[HostPattern]) -> (String, bool) {
    let named = environment.text("no_proxy").or_else(|| environment.text("NO_PROXY")).unwrap_or_default();
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
    name == own || is_below(own, name) || below
}

const PROXY: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const PIP: &str = "PIP_PROXY";
/// Variables of single tools that win over the general ones, replaced where they are set.
const OWN: [&str; 4] = [PIP, "CARGO_HTTP_PROXY", "NPM_CONFIG_HTTPS_PROXY", NPM];
const NPM: &str = "npm_config_https_proxy";
const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "::1"];

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostPattern {
        HostPattern::try_from(text.to_owned()).unwrap()
    }

    fn list(no_proxy: &str, hosts: &[&str]) -> String {
        let environment: Environment = [("NO_PROXY", no_proxy)].into_iter().collect();
        let hosts: Vec<_> = hosts.iter().map(|text| host(text)).collect();
        let wiring = proxies(&environment, &Files::default(), 1, &hosts);
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
        ] {
            assert_eq!(list(given, hosts), wanted, "{given:?} {hosts:?}");
        }
    }

    #[test]
    fn who_wanted_no_proxy_at_all_gets_none_for_plain_http() {
        let environment: Environment =
            [("no_proxy", "*"), ("http_proxy", "http://p.test")].into_iter().collect();
        let wiring = proxies(&environment, &Files::default(), 1, &[host("*.pkg.dev")]);
        assert!(wiring.unset.contains(&"http_proxy"));
        assert!(proxies(&Environment::default(), &Files::default(), 1, &[]).unset.is_empty());
    }

    #[test]
    fn variables_of_single_tools_are_replaced_where_they_are_set_and_used_behind_us() {
        let environment: Environment = [("PIP_PROXY", "http://p.test:3128")].into_iter().collect();
        let wiring = proxies(&environment, &Files::default(), 18, &[]);
        assert_eq!(wiring.value("PIP_PROXY").unwrap(), "http://127.0.0.1:18");
        assert_eq!(wiring.value("CARGO_HTTP_PROXY"), None);
        assert_eq!(beyond(&environment, &Files::default()).text("HTTPS_PROXY"), Some("http://p.test:3128"));
        let general: Environment =
            [("PIP_PROXY", "http://p.test"), ("https_proxy", "http://q.test")].into_iter().collect();
        assert_eq!(beyond(&general, &Files::default()).text("HTTPS_PROXY"), None);
        let mut files = Files::default();
        files.npm.proxy = Some("http://f.test".to_owned());
        let wiring = proxies(&Environment::default(), &files, 18, &[]);
        assert_eq!(wiring.value("npm_config_https_proxy").unwrap(), "http://127.0.0.1:18");
        assert_eq!(wiring.value("PIP_PROXY"), None);
        assert_eq!(beyond(&Environment::default(), &files).text("HTTPS_PROXY"), Some("http://f.test"));
    }
}
