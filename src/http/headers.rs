//! Names and values that both sides of the daemon's socket use.

/// The version of the program that answers.
pub const VERSION: &str = "valetkey-version";
/// The version of the API: 1, frozen.
pub const PROTOCOL: &str = "valetkey-protocol";
/// `helper` where a helper started the daemon, `operator` where a person or an init system did.
pub const STARTED_BY: &str = "valetkey-started-by";

/// Whose token a request is made with, where that is not for the daemon to decide: JSON, from its owner alone.
pub const WHOSE: &str = "valetkey-whose";

/// On a request of valetkey's own to a proxy that may be `valetkey exec`, which must not hand it back to a daemon.
pub const OWN: &str = "valetkey-own";
/// On a daemon's request that goes by a proxy of this machine: which daemon made it. One that meets its own again has
/// been going in a circle.
pub const MADE_BY: &str = "valetkey-made-by";
/// On a request: what the daemon is to mark its own words with. On an answer: that mark, where nobody else wrote it. It
/// goes to no registry, so none can set it.
pub const MARK: &str = "valetkey-mark";
/// The query of `POST /v1/stop` by whoever starts a newer daemon in this one's place: sockets of builds are to go on.
pub const SUCCESSOR: &str = "successor";

pub const JSON: &str = "application/json";
/// RFC 9457.
pub const PROBLEM: &str = "application/problem+json";
/// Prometheus text exposition.
pub const METRICS: &str = "text/plain; version=0.0.4";
