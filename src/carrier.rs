//! How bytes reach the daemon.

pub mod agent;
pub mod frame;
pub mod tcp;
pub mod unix;
