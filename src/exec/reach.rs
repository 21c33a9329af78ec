//! Whether there is a way at all to a host that is none of ours, and what a person has to hear where there is none.
//!
//! A client tries again several times, and tends to keep to itself what a proxy says. So what cannot be is said at
//! once: where a container has no network, no name is looked up, since some C libraries wait for a name server that
//! nobody can reach; a name server that does not answer is waited for once, and not for every name and try.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Uri;
use tokio::time::{Instant, timeout};

use super::tunnel::{self, Destination, TunnelFault};
use crate::http::proxy::ProxyConnector;
use crate::http::reached::Reached;
use crate::http::resolve::look_up;
use crate::paths::read_regular;

/// What this run has learned of names.
#[derive(Debug, Default)]
pub struct Reach {
    silence: Mutex<Silence>,
}

/// Names that no name server has answered for, and until when that is believed.
#[derive(Debug, Default)]
struct Silence {
    names: BTreeMap<String, Instant>,
    /// Until when no other name is waited for as long as the first one.
    any: Option<Instant>,
}

/// The first machine on the way.
struct Hop {
    host: String,
    /// As it is shown, where it is a proxy.
    proxy: Option<String>,
}

impl Reach {
    /// Opens the way to a destination.
    ///
    /// # Errors
    /// When there is none: at once where that is known.
    pub async fn open(&self, connector: &ProxyConnector, to: &Destination) -> Result<Reached, TunnelFault> {
        let hop = Hop::to(connector, to);
        let by = |problem: String| match &hop.proxy {
            Some(proxy) => format!("the proxy {proxy}: {problem}"),
            None => problem,
        };
        if !has_network() && hop.is_outside() {
            return Err(TunnelFault::Network { to: to.clone(), proxy: hop.proxy });
        }
        if hop.host.parse::<IpAddr>().is_err()
            && let Err(problem) = self.look_up(&hop.host).await
        {
            return Err(TunnelFault::Connect { to: to.clone(), problem: by(problem) });
        }
        tunnel::open(connector, to).await.map_err(|fault| match fault {
            TunnelFault::Connect { to, problem } => TunnelFault::Connect { to, problem: by(problem) },
            fault => fault,
        })
    }

    /// Whether a name leads anywhere.
    async fn look_up(&self, host: &str) -> Result<(), String> {
        let start = Instant::now();
        let patience = {
            let mut silence = self.lock();
            silence.names.retain(|_, until| start < *until);
            if silence.names.contains_key(host) {
                return Err(SILENT.to_owned());
            }
            if silence.any.is_some_and(|until| start < until) { HASTE } else { PATIENCE }
        };
        let found = timeout(patience, look_up(host.to_owned())).await;
        let mut silence = self.lock();
        match found {
            Ok(Ok(_)) => {
                silence.any = None;
                Ok(())
            }
            Ok(Err(error)) => Err(crate::error::printable(&error.to_string())),
            Err(_) => {
                let until = Instant::now() + MEMORY;
                if silence.names.len() < MOST_NAMES {
                    silence.names.insert(host.to_owned(), until);
                }
                silence.any = Some(until);
                Err(SILENT.to_owned())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Silence> {
        self.silence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hop {
    fn to(connector: &ProxyConnector, to: &Destination) -> Self {
        let uri: Option<Uri> = format!("https://{to}/").parse().ok();
        let proxy = uri.and_then(|uri| connector.proxy_for(&uri));
        let address = proxy.as_ref().and_then(|proxy| {
            let address = proxy.split_once("://").map_or(proxy.as_str(), |(_, address)| address);
            let (host, port) = address.rsplit_once(':')?;
            port.parse::<u16>().ok().map(|_| host.trim_matches(['[', ']']).to_owned())
        });
        Self { host: address.unwrap_or_else(|| to.host.clone()), proxy }
    }

    /// Whether a network is needed to get there.
    fn is_outside(&self) -> bool {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            let address = address.to_canonical();
            return !address.is_loopback() && !address.is_unspecified();
        }
        let name = self.host.trim_end_matches('.');
        let is_local = name == "localhost" || name.ends_with(".localhost");
        let hosts = || read_regular(Path::new("/etc/hosts"), LARGEST_FILE).unwrap_or_default();
        !is_local && !is_listed(name, &hosts())
    }
}

/// Whether `/etc/hosts` knows a name, which then may be this machine's.
fn is_listed(name: &str, hosts: &str) -> bool {
    let line = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).any(|listed| listed.eq_ignore_ascii_case(name))
    };
    hosts.lines().any(line)
}

/// Whether anything but loopback is connected to this machine, as far as the kernel says.
fn has_network() -> bool {
    let read = |path| fs::read_to_string(path).ok();
    match (read("/proc/self/net/route"), read("/proc/self/net/ipv6_route")) {
        (None, None) => true,
        (four, six) => leads_out_four(&four.unwrap_or_default()) || leads_out_six(&six.unwrap_or_default()),
    }
}

/// Lines of interface, destination, gateway, flags, below a head.
fn leads_out_four(table: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace();
        let (interface, flags) = (fields.next(), fields.nth(2));
        interface.is_some_and(|interface| interface != LOOPBACK) && is_usable(flags)
    })
}

/// Lines that end in flags and interface.
fn leads_out_six(table: &str) -> bool {
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().rev();
        let (interface, flags) = (fields.next(), fields.next());
        interface.is_some_and(|interface| interface != LOOPBACK) && is_usable(flags)
    })
}

fn is_usable(flags: Option<&str>) -> bool {
    let flags = flags.and_then(|flags| u32::from_str_radix(flags, 16).ok()).unwrap_or(0);
    flags & ROUTE_UP != 0 && flags & ROUTE_REJECTS == 0
}

const LOOPBACK: &str = "lo";
const ROUTE_UP: u32 = 0x1;
const ROUTE_REJECTS: u32 = 0x200;
const SILENT: &str = "no name server of /etc/resolv.conf answers";
/// Shorter than pip's own, which would say nothing of it.
const PATIENCE: Duration = Duration::from_secs(8);
/// Where another name has just been waited for.
const HASTE: Duration = Duration::from_secs(1);
const MEMORY: Duration = Duration::from_secs(30);
const MOST_NAMES: usize = 1000;
const LARGEST_FILE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_route_that_is_not_loopback() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let default = "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        let beside = "eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        let rejected = "eth0\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0\n";
        for (table, leads) in [
            (String::new(), false),
            (head.to_owned(), false),
            (format!("{head}{default}"), true),
            (format!("{head}{beside}"), true),
            (format!("{head}{rejected}"), false),
            (format!("{head}{}", beside.replace("eth0", "lo")), false),
        ] {
            assert_eq!(leads_out_four(&table), leads, "{table}");
        }
        let zeros = "00000000000000000000000000000000";
        let six = |flags: &str, interface: &str| {
            format!("{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 {flags} {interface:>8}\n")
        };
        // A namespace with nothing in it has these two.
        assert!(!leads_out_six(&(six("00200200", "lo") + &six("80200001", "lo"))));
        assert!(leads_out_six(&six("00450003", "eth0")));
        assert!(!leads_out_six(""));
    }

    #[test]
    fn what_this_machine_is_itself_needs_no_network() {
        let outside = |host: &str| Hop { host: host.to_owned(), proxy: None }.is_outside();
        for host in
            ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "localhost", "a.localhost."]
        {
            assert!(!outside(host), "{host}");
        }
        for host in ["192.0.2.1", "2001:db8::1", "files.test", "localhost.test"] {
            assert!(outside(host), "{host}");
        }
        let hosts = "127.0.0.1 localhost\n# 10.0.0.1 no.test\n127.0.0.2\tMirror.test  alias # x.test\n";
        assert!(is_listed("mirror.test", hosts) && is_listed("alias", hosts));
        assert!(
            !is_listed("no.test", hosts) && !is_listed("x.test", hosts) && !is_listed("127.0.0.2", hosts)
        );
    }

    #[test]
    fn a_proxy_is_the_first_machine_on_the_way() {
        let environment = [("HTTPS_PROXY", "http://u:p@[::1]:3128"), ("NO_PROXY", "near.test")];
        let connector = ProxyConnector::new(&environment.into_iter().collect());
        let hop = |to: &str| Hop::to(&connector, &Destination::parse(to).unwrap());
        let far = hop("far.test:443");
        assert_eq!((far.host.as_str(), far.proxy.as_deref()), ("::1", Some("[::1]:3128")));
        let near = hop("near.test:8443");
        assert_eq!((near.host.as_str(), near.proxy), ("near.test", None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_server_that_is_silent_is_waited_for_once() {
        let reach = Reach::default();
        let until = Instant::now() + MEMORY;
        reach.lock().names.insert("gone.test".to_owned(), until);
        assert_eq!(reach.look_up("gone.test").await.unwrap_err(), SILENT);
        tokio::time::advance(MEMORY + Duration::from_secs(1)).await;
        assert_eq!(reach.look_up("localhost").await, Ok(()));
        assert!(reach.lock().names.is_empty());
    }
}
