//! What stands between a client and a registry: Python's index.

pub mod index;
