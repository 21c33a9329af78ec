//! The agent carrier over real sockets: what lies between a container and the host, what breaks on the way, what a
//! hostile step may try, and the real OpenSSH.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says where it could not be run"
)]

mod between;
mod broken;
mod hostile;
mod openssh;
mod outside;
mod raw;
mod streams;

use std::future::Future;
use std::time::Duration;

/// Waits until something holds.
async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let whole = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    in_time(what, whole).await;
}

/// A test that hangs has failed.
async fn in_time<T>(what: &str, step: impl Future<Output = T>) -> T {
    let Ok(done) = tokio::time::timeout(Duration::from_secs(60), step).await else {
        panic!("{what}: it never came to that")
    };
    done
}
