//! A stand-in for Google, for machines that have no Google account.
//!
//! One [`StandIn`] is a small world of its own: OAuth's authorization, token and revocation endpoints, a metadata
//! server, and a Python repository shaped like Artifact Registry, behind a private certificate authority. It answers as the real
//! services were seen to answer, keeps a record of every request, and misbehaves on demand ([`Fault`]).
//!
//! Integration tests include this file as a module and start as many as they like, each on ports of its own;
//! the program `stand-in` is the same module behind a command line. Every other method is on [`Control`], a
//! cheap handle that a closure may keep: `let control = stand_in.control();`.
//!
//! It must stay independent of the library under test: it shares no code with it, so that a misreading of the
//! protocol cannot pass unseen on both sides.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::result_large_err,
    clippy::must_use_candidate,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    reason = "each test target uses another part of this module, a test may panic, and an answer is moved once a request"
)]

// Explicit paths: a file that is itself included by `#[path]` would look for its children beside it.
#[path = "stand_in/assertion.rs"]
mod assertion;
#[path = "stand_in/authorization.rs"]
mod authorization;
#[path = "stand_in/certificate.rs"]
mod certificate;
#[path = "stand_in/client.rs"]
mod client;
#[path = "stand_in/code.rs"]
mod code;
#[path = "stand_in/control.rs"]
mod control;
#[path = "stand_in/fault.rs"]
mod fault;
#[path = "stand_in/grant.rs"]
mod grant;
#[path = "stand_in/identity.rs"]
mod identity;
#[path = "stand_in/login.rs"]
mod login;
#[path = "stand_in/metadata.rs"]
mod metadata;
#[path = "stand_in/oauth.rs"]
mod oauth;
#[path = "stand_in/package.rs"]
mod package;
#[path = "stand_in/page.rs"]
mod page;
#[path = "stand_in/record.rs"]
mod record;
#[path = "stand_in/registry.rs"]
mod registry;
#[path = "stand_in/revocation.rs"]
mod revocation;
#[path = "stand_in/rsa_key.rs"]
mod rsa_key;
#[path = "stand_in/scope.rs"]
mod scope;
#[path = "stand_in/server.rs"]
mod server;
#[path = "stand_in/state.rs"]
mod state;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::time::Duration;

use tokio::runtime::Runtime;

pub use self::authorization::Consent;
pub use self::client::OAuthClient;
pub use self::control::{Control, RegistryHook};
pub use self::fault::Fault;
pub use self::grant::Death;
pub use self::identity::IdentityLie;
pub use self::record::{
    Authorization, AuthorizationRequest, MetadataRequest, Outcome, RegistryRequest, RevocationRequest,
    RevokedToken, TokenRequest,
};
pub use self::scope::{CLOUD_PLATFORM, READ_ONLY, USERINFO_EMAIL};
pub use self::state::VM;

/// Where a stand-in listens and what it calls itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address for TLS: the token and revocation endpoints and the repository.
    pub listen: SocketAddr,
    /// The address of the authorization endpoint, which is plain HTTP so that a browser needs no certificate.
    pub authorization: SocketAddr,
    /// The address of the metadata server, which is plain HTTP; `None` for a world outside any cloud.
    pub metadata: Option<SocketAddr>,
    /// DNS names and addresses in the server's certificate.
    pub names: Vec<String>,
    /// The origin in `token_uri` of the key files; without it `https://localhost:PORT`.
    pub public_origin: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            listen: any_port,
            authorization: any_port,
            metadata: Some(any_port),
            names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            public_origin: None,
        }
    }
}

/// A running stand-in. Dropping it ends every connection and frees its ports.
pub struct StandIn {
    control: Control,
    port: u16,
    metadata: Option<SocketAddr>,
    ca_pem: String,
    runtime: Option<Runtime>,
}

impl StandIn {
    /// Starts a stand-in, ready to be connected to when this returns. Callable with or without a runtime.
    pub fn start(options: Options) -> Self {
        Self::try_start(options).expect("the stand-in starts")
    }

    /// As [`StandIn::start`], for the program: a port may be taken or a name may be malformed.
    pub fn try_start(options: Options) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("stand-in")
            .enable_all()
            .build()?;
        let authority = certificate::Authority::new(options.names)?;

        let tls = bind(options.listen)?;
        let port = tls.local_addr()?.port();
        let authorization = bind(options.authorization)?;
        let mut authorization_address = authorization.local_addr()?;
        if authorization_address.ip().is_unspecified() {
            authorization_address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let metadata = options.metadata.map(bind).transpose()?;
        let metadata_address = metadata.as_ref().map(TcpListener::local_addr).transpose()?;

        let origin = format!("https://localhost:{port}");
        let public_origin = options.public_origin.unwrap_or_else(|| origin.clone());
        let control = Control::new(origin, public_origin, format!("http://{authorization_address}"));
        package::publish_samples(&control);

        // `from_std` registers with the runtime that is entered; entering is allowed inside another runtime.
        let entered = runtime.enter();
        let tls = tokio::net::TcpListener::from_std(tls)?;
        let authorization = tokio::net::TcpListener::from_std(authorization)?;
        let metadata = metadata.map(tokio::net::TcpListener::from_std).transpose()?;
        drop(entered);
        runtime.spawn(server::serve_tls(tls, authority.server_config, control.clone()));
        runtime.spawn(server::serve_authorization(authorization, control.clone()));
        if let Some(metadata) = metadata {
            runtime.spawn(server::serve_metadata(metadata, control.clone()));
        }
        Ok(Self { control, port, metadata: metadata_address, ca_pem: authority.pem, runtime: Some(runtime) })
    }

    /// A handle that outlives a borrow of the stand-in, for closures and threads.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The port of the TLS listener.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of the metadata server, as `GCE_METADATA_HOST` wants it: `127.0.0.1:PORT`.
    pub fn metadata_address(&self) -> String {
        self.metadata.expect("this stand-in was started with a metadata server").to_string()
    }

    /// The certificate of the authority that signed the server's, in PEM.
    pub fn ca_pem(&self) -> String {
        self.ca_pem.clone()
    }
}

impl Deref for StandIn {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // A hook may hold a `Control`, which holds the hook: break the circle.
        self.control.clear_registry_hook();
        if let Some(runtime) = self.runtime.take() {
            // Not a plain drop: that would panic inside an async test, and wait for a `Fault::Hang`.
            runtime.shutdown_background();
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What Google grants a token for when nobody says otherwise: `expires_in` 3599.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3599);
