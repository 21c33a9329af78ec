//! HTTP, one stack of it: a client for Google's endpoints and for what is passed on, and a server for the daemon's
//! sockets.

pub mod body;
pub mod client;
pub mod headers;
pub mod named;
pub mod patience;
pub mod patient;
pub mod pinned;
pub mod pool;
pub mod proxy;
pub mod reached;
pub mod resolve;
pub mod server;
pub mod stream;
pub mod trust;
pub mod unfinished;
pub mod waiting;
pub mod wide;
