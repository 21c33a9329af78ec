//! How bytes reach the daemon.

pub mod unix;
