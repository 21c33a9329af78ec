//! Looks up names by the C library, as every program of this machine does, on a thread of its own: the connector's own
//! way panics where no thread can be had.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use crate::blocking;
use crate::error::Failure;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Resolver;

/// Opens TCP connections, by name too.
pub type Connector = HttpConnector<Resolver>;

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(look_up(name.as_str().to_owned()))
    }
}

/// The addresses of a name, with the port 0.
///
/// # Errors
/// When it has none, or there is no thread to look it up.
pub async fn look_up(name: String) -> io::Result<std::vec::IntoIter<SocketAddr>> {
    let looked_up = blocking::run(move || (name.as_str(), 0).to_socket_addrs()).await;
    // In a line, with what to do: a connector shows the innermost cause only.
    looked_up.map_err(|fault| io::Error::other(Failure::from(fault).one_line()))?
}
