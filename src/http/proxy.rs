//! Reaches https origins directly or through the proxy that the environment names (`HTTPS_PROXY`, `ALL_PROXY`,
//! `NO_PROXY`, with curl's rules). TLS runs end to end: a proxy sees host and port, never a token.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::headers::OWN;
use super::resolve::{Connector, Resolver};
use crate::environment::Environment;

/// Opens the TCP connection under TLS.
#[derive(Debug, Clone)]
pub struct ProxyConnector {
    direct: Connector,
    proxies: Arc<Matcher>,
    /// What a proxy is told beside where to.
    told: HeaderMap,
}

impl ProxyConnector {
    #[must_use]
    pub fn new(environment: &Environment) -> Self {
        let variable = |upper: &str, lower: &str| {
            environment.text(lower).or_else(|| environment.text(upper)).unwrap_or_default().to_owned()
        };
        let all = variable("ALL_PROXY", "all_proxy");
        let https = variable("HTTPS_PROXY", "https_proxy");
        let proxies = Matcher::builder()
            .https(if https.is_empty() { all } else { https })
            .no(variable("NO_PROXY", "no_proxy"))
            .build();
        let mut direct = Connector::new_with_resolver(Resolver);
        direct.enforce_http(false);
        direct.set_connect_timeout(Some(CONNECT));
        direct.set_nodelay(true);
        Self { direct, proxies: Arc::new(proxies), told: HeaderMap::new() }
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
        let proxy = self.proxies.intercept(uri);
        let host = proxy.as_ref().and_then(|proxy| proxy.uri().host()).unwrap_or_default();
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        host.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
    }

    /// Whether the way to an origin is direct, or by a proxy that is spoken to in plain HTTP. Nothing else is
    /// spoken here, and what is meant for an encrypted proxy must not be sent in clear.
    #[must_use]
    pub fn can_reach(&self, uri: &Uri) -> bool {
        self.proxies.intercept(uri).is_none_or(|proxy| proxy.uri().scheme_str() == Some("http"))
    }

    /// The proxy that would be used for an origin, for `doctor`. Shows no user name and no password.
    #[must_use]
    pub fn proxy_for(&self, uri: &Uri) -> Option<String> {
        let proxy = self.proxies.intercept(uri)?;
        Some(format!("{}:{}", proxy.uri().host()?, proxy.uri().port_u16().unwrap_or(80)))
    }
}

impl Service<Uri> for ProxyConnector {
    type Response = TokioIo<TcpStream>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let mut direct = self.direct.clone();
        let Some(proxy) = self.proxies.intercept(&destination) else {
            return Box::pin(async move { direct.call(destination).await.map_err(Into::into) });
        };
        let mut tunnel = Tunnel::new(proxy.uri().clone(), direct).with_headers(self.told.clone());
        if let Some(credentials) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(credentials.clone());
        }
        Box::pin(async move { tunnel.call(destination).await.map_err(Into::into) })
    }
}

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
        let socks: Environment = [("ALL_PROXY", "socks5://p.test:1080")].into_iter().collect();
        assert!(!ProxyConnector::new(&socks).can_reach(&"https://a.test/".parse().unwrap()));
        let tls: Environment = [("HTTPS_PROXY", "https://u:p@p.test")].into_iter().collect();
        assert!(!ProxyConnector::new(&tls).can_reach(&"https://a.test/".parse().unwrap()));
        assert_eq!(proxy(&[("HTTP_PROXY", "http://p.test:80")], "https://a.test/"), None);
    }
}
