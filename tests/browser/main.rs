//! `valetkey login` with a certified OAuth server in Google's place and a real Chromium in a person's hands.
//!
//! `tests/prepare-browser` installs the Node packages; Chromium and Node are the machine's. Where one is missing,
//! these tests say so and pass; with `CI` set that is a failure.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]
#![allow(clippy::disallowed_methods, reason = "a test looks at its machine and at the clock")]

#[path = "../harness/harness.rs"]
mod harness;
#[path = "../stand-in/stand_in.rs"]
mod stand_in;

mod attacker;
mod attacks;
mod browser;
mod certificate;
mod leaks;
mod login;
mod node;
mod oidc;
mod pages;
mod person;
mod rig;
mod shots;
mod sign_in;
mod wire;
