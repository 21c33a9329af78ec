//! How bytes reach the daemon.

pub mod tcp;
pub mod unix;
