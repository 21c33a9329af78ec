//! Real container engines: Docker of three ages with BuildKit, and buildah. What `valetkey` gives to builds and
//! containers is tested here, and that nothing secret stays behind in an image, a cache or a log.
//!
//! `tests/prepare-engines` fetches the engines, and `packaging/build-static` makes the program that runs in containers.
//! Without them these tests say so and pass; with `CI=true` that is a failure. Each engine is started once, by the
//! first test that wants it, and ends with this process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]
#![allow(clippy::disallowed_methods, reason = "the tests are told by the environment where the engines are")]
#![allow(dead_code, reason = "the rig offers more than the first tests use")]

#[path = "../harness/harness.rs"]
mod harness;
#[path = "../stand-in/stand_in.rs"]
mod stand_in;

mod args;
mod build;
mod buildah;
mod engine;
mod guard;
mod machine;
mod memory;
mod metadata;
mod podman;
mod prepared;
mod process;
mod scene;

mod callers;
mod confusion;
mod containers;
mod downloads;
mod hostile;
mod image;
mod leaks;
mod lifetimes;
mod locked;
mod lost;
mod names;
mod readme;
mod remote;
mod rig;
mod served;
mod untouched;
mod wider;
