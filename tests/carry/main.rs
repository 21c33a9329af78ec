//! Both ends of the agent carrier as a program, for measuring it inside of real builds: a server that answers each
//! stream by HTTP, and a client that races the carrier against the bare channel.
//!
//! The bare channel is what the carrier can be at best: Sign requests on as many connections, each answered with a
//! frame's worth of bytes that are always the same, and nothing around it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a program for measuring, which says where it stands when it cannot go on"
)]

mod bare;
mod fetch;
#[path = "../bench/process.rs"]
#[allow(dead_code, reason = "the bench uses the rest")]
mod process;
#[path = "../bench/reader.rs"]
#[allow(dead_code, reason = "the bench uses the rest")]
mod reader;
mod serve;
#[path = "../bench/table.rs"]
#[allow(dead_code, reason = "the bench uses the rest")]
mod table;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Both ends of the agent carrier, for measuring.
#[derive(Debug, Parser)]
#[command(name = "carry")]
struct Arguments {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Serves the carrier on one socket and the bare channel on another until it is ended
    Serve { carried: PathBuf, bare: PathBuf },
    /// Fetches so many bytes through each in turn, and prints a line a round: MiB/s of the carrier, of the bare
    /// channel on as many connections, and of the bare channel on one
    Race {
        carried: PathBuf,
        bare: PathBuf,
        #[arg(long, default_value_t = 200)]
        mebibytes: u64,
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// Fetches so many files at once through the carrier, as fast as it goes or slowly
    Crowd {
        carried: PathBuf,
        #[arg(long, default_value_t = 64)]
        streams: usize,
        #[arg(long, default_value_t = 20)]
        mebibytes: u64,
        /// Milliseconds between two reads of 64 KiB
        #[arg(long, default_value_t = 0)]
        pause: u64,
    },
    /// Reads the large file of a registry by the carrier and through the forward proxy that the environment names, in
    /// turns, and prints a line a round: MiB/s of both. For a command under `valetkey exec`.
    Forward {
        host: String,
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// Fetches so many bytes through the bare channel
    Bare {
        bare: PathBuf,
        #[arg(long, default_value_t = 2)]
        connections: u64,
        #[arg(long, default_value_t = 200)]
        mebibytes: u64,
    },
    /// Asks for a small answer again and again, and prints the median and the 99th percentile in milliseconds
    Ask {
        carried: PathBuf,
        #[arg(long, default_value_t = 300)]
        count: usize,
    },
}

fn main() {
    let act = Arguments::parse().act;
    match &act {
        Act::Ask { carried, count } => return fetch::ask(carried, *count),
        Act::Forward { host, rounds } => return fetch::forward(host, *rounds),
        _ => {}
    }
    valetkey::sys::use_one_heap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match act {
            Act::Serve { carried, bare } => serve::both(&carried, &bare).await,
            Act::Race { carried, bare, mebibytes, rounds } => {
                fetch::race(&carried, &bare, mebibytes << 20, rounds).await;
            }
            Act::Crowd { carried, streams, mebibytes, pause } => {
                fetch::crowd(&carried, streams, mebibytes << 20, pause).await;
            }
            Act::Bare { bare, connections, mebibytes } => {
                bare::fetch(&bare, mebibytes << 20, connections).await;
            }
            Act::Ask { .. } | Act::Forward { .. } => {}
        }
    });
}
