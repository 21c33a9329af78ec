//! The numbers, in Prometheus' text form.

use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use super::Daemon;
use crate::clock::between;

/// Renders all metrics.
#[must_use]
pub fn render(daemon: &Daemon) -> String {
    let broker = daemon.broker();
    let counters = broker.counters();
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: u64| {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "# HELP valetkey_{name} {help}\n# TYPE valetkey_{name} {kind}\nvaletkey_{name} {value}\n"
        );
    };
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    metric("credentials_given_total", "counter", "Credentials handed out.", load(&counters.given));
    metric("asks_failed_total", "counter", "Asks that ended without a credential.", load(&counters.failed));
    metric("requests_refused_total", "counter", "Requests of peers that may not ask.", load(&daemon.refused));
    metric(
        "upstream_calls_total",
        "counter",
        "Times a source was asked for a token.",
        load(&counters.flights),
    );
    metric("requests_passed_total", "counter", "Requests passed on to a registry.", load(&daemon.passed));
    metric(
        "passed_bytes_total",
        "counter",
        "Bytes of answers passed back from registries.",
        load(&daemon.passed_bytes),
    );
    let connections = daemon.connections.load(Ordering::Relaxed) as u64;
    metric("connections", "gauge", "Open connections.", connections);
    metric("streams", "gauge", "Open streams through agents.", daemon.streams.streams() as u64);
    metric("tokens_held", "gauge", "Valid tokens in memory.", broker.cache().held().len() as u64);
    let started = between(UNIX_EPOCH, daemon.started).as_secs();
    metric("start_time_seconds", "gauge", "When the daemon started, in seconds since 1970.", started);
    let version = env!("CARGO_PKG_VERSION");
    text.push_str("# HELP valetkey_build_info The version that runs.\n# TYPE valetkey_build_info gauge\n");
    let _ = writeln!(text, "valetkey_build_info{{version=\"{version}\"}} 1");
    text
}
