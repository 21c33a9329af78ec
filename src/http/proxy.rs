//! Reaches https origins directly or through the proxy that the environment names (`HTTPS_PROXY`, `ALL_PROXY`,
//! `NO_PROXY`, with curl's rules). TLS runs end to end: a proxy sees host and port, never a token.
//!
//! A proxy is spoken to in HTTP; where that is asked for in SOCKS 4 or 5 as well, and in HTTP over TLS where somebody has said
//! whom to trust. What is meant for an encrypted proxy is not sent in clear.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::headers::OWN;
use super::reached::{Opened, Reached};
use super::resolve::{Connector, Resolver, look_up};
use crate::environment::Environment;

/// Opens the TCP connection under TLS.
#[derive(Debug, Clone)]
pub struct ProxyConnector {
    direct: Connector,
    proxies: Arc<Matcher>,
    /// What a proxy is told beside where to.
    told: HeaderMap,
    /// What needs no proxy at one port only.
    at_port: Arc<Vec<(u16, Matcher)>>,
    /// Whether SOCKS is spoken.
    socks: bool,
    /// Whom to trust where the proxy itself is reached by TLS.
    trust: Option<Arc<ClientConfig>>,
    /// A port of this machine that leads back here.
    own: Option<u16>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl ProxyConnector {
    #[must_use]
    pub fn new(environment: &Environment) -> Self {
        let named = |names: [&'static str; 2]| in_force(environment, names).map(|(_, value)| value);
        let proxy = named(HTTPS).or_else(|| named(ALL)).unwrap_or_default();
        let list = entries(named(NO).unwrap_or_default());
        let (everywhere, at_port): (Vec<_>, Vec<_>) = list.into_iter().partition(|(_, port)| port.is_none());
        let everywhere: Vec<String> = everywhere.into_iter().map(|(entry, _)| entry).collect();
        // A scheme is the same in capitals.
        let proxy = proxy.split_once("://").map_or_else(
            || proxy.to_owned(),
            |(scheme, rest)| format!("{}://{rest}", scheme.to_ascii_lowercase()),
        );
        let proxies = Matcher::builder().https(proxy).no(everywhere.join(",")).build();
        let at_port = at_port.into_iter().filter_map(|(entry, port)| {
            Some((port?, Matcher::builder().https("http://proxy").no(entry).build()))
        });
        let mut direct = Connector::new_with_resolver(Resolver);
        direct.enforce_http(false);
        direct.set_connect_timeout(Some(CONNECT));
        direct.set_nodelay(true);
        Self {
            direct,
            proxies: Arc::new(proxies),
            told: HeaderMap::new(),
            at_port: Arc::new(at_port.collect()),
            socks: false,
            trust: None,
            own: None,
        }
    }

    /// The same for requests of valetkey's own, and not those of a command that it runs.
    #[must_use]
    pub fn for_own(environment: &Environment) -> Self {
        let told = [(HeaderName::from_static(OWN), HeaderValue::from_static("1"))].into_iter().collect();
        Self { told, ..Self::new(environment) }
    }

    /// Whether the way to an origin is by a proxy on this machine, which may be `valetkey exec`.
    #[must_use]
    pub fn is_by_loopback(&self, uri: &Uri) -> bool {
        let proxy = self.intercept(uri);
        let host = proxy.as_ref().and_then(|proxy| proxy.uri().host()).unwrap_or_default();
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        host.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
    }

    /// Lets proxies be spoken to in SOCKS.
    #[must_use]
    pub fn with_socks(mut self) -> Self {
        self.socks = true;
        self
    }

    /// Lets proxies be reached by TLS.
    #[must_use]
    pub fn with_trust(mut self, trust: Arc<ClientConfig>) -> Self {
        self.trust = Some(trust);
        self
    }

    /// Never goes to this port of 127.0.0.1, by whatever name: whoever listens there comes back here.
    #[must_use]
    pub fn without_port(mut self, own: u16) -> Self {
        self.own = Some(own);
        self
    }

    /// Whether the way to an origin is direct, or by a proxy that can be spoken to.
    #[must_use]
    pub fn can_reach(&self, uri: &Uri) -> bool {
        let scheme = self.intercept(uri).and_then(|proxy| proxy.uri().scheme_str().map(str::to_owned));
        scheme.is_none_or(|scheme| match scheme.as_str() {
            "http" => true,
            "https" => self.trust.is_some(),
            _ => self.socks,
        })
    }

    /// The proxy that would be used for an origin, for `doctor`. Shows no user name and no password.
    #[must_use]
    pub fn proxy_for(&self, uri: &Uri) -> Option<String> {
        let proxy = self.intercept(uri)?;
        let (scheme, port) = (proxy.uri().scheme_str().unwrap_or_default(), port_of(proxy.uri()));
        let host = proxy.uri().host()?;
        Some(if scheme == "http" { format!("{host}:{port}") } else { format!("{scheme}://{host}:{port}") })
    }

    fn intercept(&self, uri: &Uri) -> Option<Intercept> {
        let port = uri.port_u16().unwrap_or(443);
        let direct = self.at_port.iter().any(|(at, list)| *at == port && list.intercept(uri).is_none());
        if direct { None } else { self.proxies.intercept(uri) }
    }

    async fn open(mut self, destination: Uri) -> Result<Reached, BoxError> {
        let Some(proxy) = self.intercept(&destination) else {
            return Ok(Reached::Plain(self.dial(destination).await?));
        };
        let scheme = proxy.uri().scheme_str().unwrap_or_default().to_owned();
        let host = proxy.uri().host().unwrap_or_default().to_owned();
        let address: Uri = format!("http://{host}:{}/", port_of(proxy.uri())).parse()?;
        let stream = self.dial(address.clone()).await?;
        let stream = match scheme.as_str() {
            "https" => {
                let trust = self.trust.ok_or("nobody has said which certificates a proxy may show")?;
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
                Reached::Tls(Box::new(TlsConnector::from(trust).connect(name, stream).await?))
            }
            _ => Reached::Plain(stream),
        };
        let opened = Opened::new(stream);
        let stream = match scheme.as_str() {
            "socks4" | "socks4a" => {
                let to = if scheme == "socks4" { resolved(destination, true).await? } else { destination };
                SocksV4::new(address, opened).call(to).await?
            }
            "socks5" | "socks5h" => {
                let to = if scheme == "socks5" { resolved(destination, false).await? } else { destination };
                let mut socks = SocksV5::new(address, opened);
                if let Some((user, password)) = proxy.raw_auth() {
                    socks = socks.with_auth(user.to_owned(), password.to_owned());
                }
                socks.call(to).await?
            }
            _ => {
                let mut tunnel = Tunnel::new(address, opened).with_headers(self.told);
                if let Some(credentials) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(credentials.clone());
                }
                tunnel.call(destination).await?
            }
        };
        Ok(stream.into_inner())
    }

    async fn dial(&mut self, to: Uri) -> Result<TcpStream, BoxError> {
        let stream = self.direct.call(to).await?.into_inner();
        let own = self.own.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let reached = stream.peer_addr()?;
        let reached = SocketAddr::new(reached.ip().to_canonical(), reached.port());
        if own == Some(reached) {
            Err("it is the port on which valetkey itself listens".into())
        } else {
            Ok(stream)
        }
    }
}

impl Service<Uri> for ProxyConnector {
    type Response = TokioIo<Reached>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let opening = self.clone().open(destination);
        Box::pin(async move { opening.await.map(TokioIo::new) })
    }
}

/// Why a value is no proxy that can be spoken to, or where it leads.
///
/// # Errors
/// One that is no address, or has a scheme that is not spoken here. The text says which, and never shows the value.
pub fn address_of(value: &str) -> Result<(String, u16), String> {
    let uri: Uri = value.parse().map_err(|_| "is no address of a proxy".to_owned())?;
    let scheme = uri.scheme_str().unwrap_or("http").to_ascii_lowercase();
    if !SCHEMES.contains(&scheme.as_str()) {
        let scheme: String = scheme.chars().take(20).collect();
        return Err(format!("names a proxy by {scheme}:, which is not spoken here"));
    }
    // A number that is no port is not passed over for the usual one.
    let is_port = |authority: &str| {
        let behind = authority.rsplit(['@', ']']).next().unwrap_or_default();
        behind.split_once(':').is_none_or(|(_, port)| port.is_empty() || port.parse::<u16>().is_ok())
    };
    let is_whole = uri.authority().is_none_or(|authority| is_port(authority.as_str()));
    match uri.host().filter(|host| !host.is_empty() && is_whole) {
        Some(host) => Ok((host.trim_matches(['[', ']']).to_ascii_lowercase(), port_of(&uri))),
        None => Err("is no address of a proxy".to_owned()),
    }
}

/// The variable of a pair that counts, and its value: the one in lower case, as for curl and Python.
#[must_use]
pub fn in_force<'a>(
    environment: &'a Environment,
    names: [&'static str; 2],
) -> Option<(&'static str, &'a str)> {
    names.into_iter().find_map(|name| Some((name, environment.text(name)?)))
}

/// An origin by its address, for a proxy that does not look names up.
async fn resolved(origin: Uri, only_v4: bool) -> Result<Uri, BoxError> {
    let host = origin.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = origin.port_u16().unwrap_or(443);
    let mut found = look_up(host).await?;
    let address = found.find(|address| !only_v4 || address.is_ipv4()).ok_or("it has no address")?;
    Ok(format!("https://{}/", SocketAddr::new(address.ip(), port)).parse()?)
}

fn port_of(proxy: &Uri) -> u16 {
    let usual = match proxy.scheme_str() {
        Some("https") => 443,
        Some(scheme) if scheme.starts_with("socks") => 1080,
        _ => 80,
    };
    proxy.port_u16().unwrap_or(usual)
}

/// The entries of a list of hosts that need no proxy, parted by commas or blanks, each with the port that it names.
fn entries(list: &str) -> Vec<(String, Option<u16>)> {
    let entry = |entry: &str| {
        let entry = entry.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(entry);
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()),
            _ => (entry, None),
        };
        (host.trim_matches(['[', ']']).to_owned(), port)
    };
    list.split([',', ' ', '\t']).filter(|part| !part.is_empty()).map(entry).collect()
}

/// The pairs of variables, in the order in which they count.
pub const HTTPS: [&str; 2] = ["https_proxy", "HTTPS_PROXY"];
pub const ALL: [&str; 2] = ["all_proxy", "ALL_PROXY"];
const NO: [&str; 2] = ["no_proxy", "NO_PROXY"];
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];
/// An address that does not answer for this long is dead.
const CONNECT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(pairs: &[(&str, &str)], url: &str) -> Option<String> {
        let environment: Environment = pairs.iter().copied().collect();
        ProxyConnector::new(&environment).proxy_for(&url.parse().unwrap())
    }

    #[test]
    fn environment_chooses_the_proxy_and_its_password_is_not_shown() {
        let named = [("HTTPS_PROXY", "http://user:hunter2@proxy.test:3128"), ("NO_PROXY", "googleapis.com")];
        assert_eq!(proxy(&named, "https://accounts.google.com/").as_deref(), Some("proxy.test:3128"));
        assert_eq!(proxy(&named, "https://oauth2.googleapis.com/"), None);
        assert_eq!(
            proxy(&[("all_proxy", "http://p.test:80")], "https://a.test/").as_deref(),
            Some("p.test:80")
        );
        let socks = [("ALL_PROXY", "socks5h://u:p@p.test")];
        assert_eq!(proxy(&socks, "https://a.test/").as_deref(), Some("socks5h://p.test:1080"));
        let loud = [("HTTPS_PROXY", "SOCKS5://p.test:1")];
        assert_eq!(proxy(&loud, "https://a.test/").as_deref(), Some("socks5://p.test:1"));
        let both = [("HTTPS_PROXY", "http://upper.test:1"), ("https_proxy", "http://lower.test:2")];
        assert_eq!(proxy(&both, "https://a.test/").as_deref(), Some("lower.test:2"));
        assert_eq!(proxy(&[("HTTP_PROXY", "http://p.test:80")], "https://a.test/"), None);
    }

    #[test]
    fn an_encrypted_proxy_is_not_spoken_to_in_clear() {
        let environment: Environment = [("HTTPS_PROXY", "https://u:p@p.test")].into_iter().collect();
        let connector = ProxyConnector::new(&environment);
        assert!(!connector.can_reach(&"https://a.test/".parse().unwrap()));
        let socks: Environment = [("ALL_PROXY", "socks5://p.test:1080")].into_iter().collect();
        let uri = "https://a.test/".parse().unwrap();
        assert!(!ProxyConnector::new(&socks).can_reach(&uri));
        assert!(ProxyConnector::new(&socks).with_socks().can_reach(&uri));
    }

    #[test]
    fn a_list_of_exceptions_is_read_in_every_form() {
        for (list, url, is_direct) in [
            ("a.test b.test", "https://b.test/", true),
            ("a.test,\tb.test", "https://x.b.test/", true),
            ("*.b.test", "https://x.b.test/", true),
            (".b.test", "https://x.b.test/", true),
            ("b.test:8443", "https://b.test:8443/", true),
            ("b.test:8443", "https://b.test/", false),
            ("10.0.0.0/8", "https://10.1.2.3/", true),
            ("[fd00::1]:443", "https://[fd00::1]/", true),
            ("[fd00::1]:443", "https://[fd00::1]:8443/", false),
            ("fd00::1", "https://[fd00::1]:8443/", true),
            ("test", "https://btest/", false),
            ("*", "https://b.test/", true),
        ] {
            let found = proxy(&[("https_proxy", "http://p.test:1"), ("NO_PROXY", list)], url);
            assert_eq!(found.is_none(), is_direct, "{list:?} {url}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_told_without_its_value() {
        for (value, wanted) in [
            ("p.test:3128", Ok(("p.test", 3128))),
            ("HTTP://u:p@P.test", Ok(("p.test", 80))),
            ("socks5h://[::1]", Ok(("::1", 1080))),
            ("https://p.test", Ok(("p.test", 443))),
            ("socks://u:hunter2@p.test:1", Err("names a proxy by socks:, which is not spoken here")),
            ("http://u:hunter 2@p.test:1", Err("is no address of a proxy")),
            ("http://u:hunter2@p.test:99999", Err("is no address of a proxy")),
            ("p.test:port", Err("is no address of a proxy")),
            ("http://u:65536@[::1]", Ok(("::1", 80))),
            ("http://u:p@[::1]:1/", Ok(("::1", 1))),
            ("/path", Err("is no address of a proxy")),
        ] {
            let found = address_of(value);
            let wanted = wanted.map(|(host, port)| (host.to_owned(), port)).map_err(str::to_owned);
            assert_eq!(found, wanted, "{value}");
        }
    }
}
