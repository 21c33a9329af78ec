//! valetkey hands short-lived Google credentials to package clients, image builds and containers.
//!
//! The modules stand on floors, and an arrow (`use crate::…`) points to a lower floor only; `tests/house.rs`
//! reads the source and keeps it so. From the ground up:
//!
//! | floor | modules | what lives there |
//! |---|---|---|
//! | 0 | `error` `secret` `clock` `environment` `paths` `durable` `blocking` `process` `sys` | kinds of failure, secrets, time, directories, threads |
//! | 1 | `ask` `registry` `grant` `protocol` | pure: what is asked, what a URL points at, what may be given |
//! | 2 | `config` `http` `carrier` `vault` | settings; bytes only; where a login's secret rests |
//! | 3 | `google` | where a Google credential comes from |
//! | 4 | `broker` | an ask becomes a credential: choice, cache, one flight for many askers |
//! | 5 | `proxy` | authenticated pass-through to a registry, and Python's index on top of it |
//! | 6 | `daemon` | listeners, peers, grants, routes |
//! | 7 | `client` `wiring` | ask the daemon, start it, or answer in process; what each tool needs to be wired |
//! | 8 | `doctor` `exec` `image` `login` | tries every step for real; a command with everything wired; the program as an image; the sign-in |
//! | 9 | `cli` | one file a subcommand |

pub mod ask;
pub mod blocking;
pub mod broker;
pub mod carrier;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod durable;
pub mod environment;
pub mod error;
pub mod exec;
pub mod google;
pub mod grant;
pub mod http;
pub mod image;
pub mod login;
pub mod paths;
pub mod process;
pub mod protocol;
pub mod proxy;
pub mod registry;
pub mod secret;
pub mod sys;
pub mod vault;
pub mod wiring;
