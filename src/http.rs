//! HTTP, one stack of it: a client for Google's endpoints and a server for the daemon's sockets.

pub mod client;
pub mod headers;
pub mod patient;
pub mod proxy;
pub mod server;
