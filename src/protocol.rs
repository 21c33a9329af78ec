//! The ways in which other programs ask. Each protocol is a pure function of what came in: it knows nothing of
//! sockets, sources or clocks.

pub mod keyring;
