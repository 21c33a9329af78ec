//! The benchmark: what is promised of speed, size and rest, measured on this machine in one run.
//!
//! `tests/bench/run` builds what is measured and calls this program. It starts a stand-in for Google in its own
//! process, gives each build of valetkey a home of its own, and prints one table. Times of commands are medians of
//! interleaved runs in random order, and what counts is their ratio: the machine's own speed cancels out. A target
//! that is missed is a line in the table and not a failure; the program fails only where a measure cannot be taken,
//! or an answer is wrong.
//!
//! The load, the stand-in and the daemon share the cores. Nothing leaves the loopback interface.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a benchmark that cannot go on says where it stands, and counts are small"
)]

mod builds;
mod caches;
mod carrier;
mod commands;
mod connections;
mod engine;
mod forward;
mod memory;
mod nginx;
mod pages;
mod process;
mod proxy;
mod race;
mod reader;
mod sandbox;
#[path = "../stand-in/stand_in.rs"]
mod stand_in;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use reader::MIB;
use sandbox::{Build, Sandbox};
use stand_in::{Options, StandIn};
use table::{Table, Target, Unit};

/// Measures valetkey and prints one table.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// The build that links the system's C library
    #[arg(long)]
    dynamic: PathBuf,
    /// The build that needs no library
    #[arg(long = "static")]
    standalone: PathBuf,
    /// The C library inside it: it decides the target
    #[arg(long, value_enum, default_value_t = Libc::Glibc)]
    libc: Libc,
    /// Python's `keyring`, with Google's own backend beside it
    #[arg(long)]
    python_keyring: PathBuf,
    /// The two ends of the agent carrier, static; without it, the carrier is not measured
    #[arg(long)]
    carry: Option<PathBuf>,
    /// `devpi-server`, with `devpi-init` beside it; without it, that index is not measured
    #[arg(long)]
    devpi: Option<PathBuf>,
    /// proxpi's Python; without it, that index is not measured
    #[arg(long)]
    proxpi: Option<PathBuf>,
    /// What `tests/prepare-engines` made: a build that installs something needs a file system with pip
    #[arg(long, default_value = "target/engines")]
    engines: PathBuf,
    /// How often each command runs; Python and auto-start, which are slow, run a quarter of it, at least 50 times
    #[arg(long, default_value_t = 300)]
    rounds: usize,
    /// How long each of three bursts of load lasts
    #[arg(long, default_value_t = 5.0)]
    load_seconds: f64,
    /// A short run while developing: too few rounds to tell anything
    #[arg(long)]
    quick: bool,
    /// Only these measures
    #[arg(long, value_enum)]
    only: Vec<Measure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Libc {
    Glibc,
    Musl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measure {
    Commands,
    Python,
    Autostart,
    Crowd,
    Load,
    /// A large file against nginx's `proxy_pass`, on Unix and TCP
    Proxy,
    /// The same against the first fetch of caching indexes
    Cache,
    /// `exec`'s forward proxy against its carrier
    Exec,
    /// The daemon's memory with many downloads at once
    Memory,
    /// First bytes of large index pages
    Pages,
    Size,
    /// The agent carrier against the bare channel, in builds
    Carrier,
    /// A build with credentials against one without
    Build,
}

fn main() {
    let arguments = Arguments::parse();
    process::raise_descriptor_limit();
    let wanted = |measure| arguments.only.is_empty() || arguments.only.contains(&measure);
    let rounds = if arguments.quick { 10 } else { arguments.rounds.max(50) };
    let slow_rounds = if arguments.quick { 5 } else { (arguments.rounds / 4).max(50) };
    let seconds = if arguments.quick { 1.0 } else { arguments.load_seconds };

    let google = StandIn::start(Options::default());
    let (name, warm_target) = match arguments.libc {
        Libc::Glibc => ("static glibc", Target::AtMost(1.6)),
        Libc::Musl => ("static musl", Target::AtMost(1.0)),
    };
    let builds = [
        Build { name, binary: absolute(&arguments.standalone), warm_target },
        Build { name: "dynamic", binary: absolute(&arguments.dynamic), warm_target: Target::None },
    ];
    let sandboxes = builds.map(|build| Sandbox::new(build, &google));

    let carry = arguments.carry.as_deref().map(absolute);

    let mut table = Table::new(&machine());
    if wanted(Measure::Commands) {
        say(&format!("commands, {rounds} rounds"));
        commands::against_true(&mut table, &sandboxes, rounds);
    }
    if wanted(Measure::Python) {
        say(&format!("Python's keyring, {slow_rounds} rounds"));
        let python = absolute(&arguments.python_keyring);
        commands::against_python(&mut table, &sandboxes, &python, slow_rounds);
    }
    if wanted(Measure::Autostart) {
        say(&format!("auto-start, {slow_rounds} rounds"));
        commands::first_asks(&mut table, &sandboxes, slow_rounds);
    }
    if wanted(Measure::Crowd) {
        say("1,000 cold asks at once");
        connections::crowd(&mut table, &sandboxes, if arguments.quick { 1 } else { 5 });
    }
    if wanted(Measure::Load) {
        say("256 busy connections, and rest");
        connections::load_and_rest(&mut table, &sandboxes, Duration::from_secs_f64(seconds));
    }
    let bulk_rounds = if arguments.quick { 3 } else { (arguments.rounds / 20).max(15) };
    if wanted(Measure::Proxy) {
        say("a large file through the registry proxy");
        proxy::against_nginx(&mut table, &sandboxes, bulk_rounds);
    }
    if wanted(Measure::Cache) {
        say("the same against caching indexes");
        let rounds = if arguments.quick { 2 } else { 7 };
        let (devpi, proxpi) = (arguments.devpi.as_deref(), arguments.proxpi.as_deref());
        caches::first_fetches(&mut table, &sandboxes, &caches::Programs { devpi, proxpi }, rounds);
    }
    if wanted(Measure::Exec) {
        say("the same through exec's forward proxy");
        forward::against_its_carrier(&mut table, &sandboxes, bulk_rounds);
        let rounds = if arguments.quick { 2 } else { 7 };
        forward::in_a_build(&mut table, &sandboxes[0], carry.as_deref(), rounds);
    }
    if wanted(Measure::Memory) {
        say("64 downloads at once on each carrier");
        memory::of_crowds(&mut table, &sandboxes);
    }
    if wanted(Measure::Pages) {
        say("large pages through the index");
        pages::first_bytes(&mut table, &sandboxes, if arguments.quick { 5 } else { rounds.min(100) });
    }
    if wanted(Measure::Size) {
        for sandbox in &sandboxes {
            let size = sandbox.build.binary.metadata().expect("the binary is there").len() as f64;
            let measure = format!("size of the binary, {}", sandbox.build.name);
            table.row(measure, Target::AtMost(7.0), size / MIB, Unit::Mebibytes, "");
        }
    }
    if wanted(Measure::Build) {
        say("twenty private wheels in a docker build");
        let rounds = if arguments.quick { 1 } else { 7 };
        builds::with_and_without(&mut table, &sandboxes[0], &absolute(&arguments.engines), rounds);
    }
    drop(sandboxes);
    if wanted(Measure::Carrier) {
        say("the agent carrier, inside of builds");
        carrier::measure(&mut table, carry.as_deref(), if arguments.quick { 1 } else { 5 });
    }
    let _ = std::io::stdout().write_all(table.render().as_bytes());
}

/// What the figures were measured on.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unknown processor", |(_, model)| model);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    format!("{cores} cores, {model}, shared by daemon and load; load average at the start {load}")
}

/// Progress, on standard error: the table stands alone on standard output.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "bench: {text}");
}

fn absolute(path: &std::path::Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
