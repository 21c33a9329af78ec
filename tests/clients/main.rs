//! Real clients against the stand-in, over TLS with a private authority, with `keyring` on PATH being valetkey.
//!
//! `tests/prepare-clients` makes a virtual environment for each. Without them these tests say so and pass; with
//! `CI=true` a missing client is a failure. No client here knows any index but the stand-in's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]
#![allow(clippy::disallowed_methods, reason = "the tests are told by the environment where the clients are")]

#[path = "../harness/detour.rs"]
mod detour;
#[path = "../harness/harness.rs"]
mod harness;
#[path = "../harness/registry_daemon.rs"]
mod registry_daemon;
#[path = "../stand-in/stand_in.rs"]
mod stand_in;

mod arguments;
mod clear;
mod client;
mod clock;
mod confusion;
mod doctor;
mod exec;
mod exec_broken;
mod exec_index;
mod index_url;
mod pages;
mod pip;
mod pip_mid_run;
mod prefixes;
mod projects;
mod real_names;
mod served;
mod uv;
