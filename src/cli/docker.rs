//! `valetkey docker`: the program as an image that `docker load` reads, and the flags for a build.

mod args;
mod engine;

pub(super) use args::refuse_for_docker;

use std::io::{BufWriter, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use crate::environment::Environment;
use crate::error::shown::refuse_key;
use crate::error::{Failure, Kind};
use crate::image::{Platform, Program, write};

#[derive(Debug, Subcommand)]
pub(super) enum DockerCommand {
    /// Open a socket for one build and print the flags that carry it in
    ///
    /// Steps that mount the socket read the named repositories through it, while it is open. The requests are made
    /// outside, and no token enters the build unless --tokens says so.
    #[command(after_long_help = args::example())]
    Args(args::Flags),
    /// Write a static valetkey as an image, for `docker load`
    ///
    /// A build takes the program from it with no registry in between and nothing left in a layer:
    /// `RUN --mount=type=bind,from=valetkey.invalid/valetkey,source=/valetkey,target=/usr/bin/valetkey …`
    Image {
        /// Refuse a program that was not built for it: linux/amd64 or linux/arm64
        #[arg(long)]
        platform: Option<String>,
        /// Take this static valetkey instead of the one that runs
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
    },
}

pub(super) fn run(environment: Environment, command: DockerCommand) -> Result<ExitCode, Failure> {
    match command {
        DockerCommand::Args(flags) => args::run(environment, &flags),
        DockerCommand::Image { platform, binary } => image(platform.as_deref(), binary),
    }
}

fn image(platform: Option<&str>, binary: Option<PathBuf>) -> Result<ExitCode, Failure> {
    binary.as_ref().map_or(Ok(()), |binary| refuse_key("--binary", binary.as_os_str()))?;
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        return Err(Failure::new(Kind::Usage, "an image is not for a terminal")
            .with_hint("run `valetkey docker image | docker load`"));
    }
    let platform = platform.map(str::parse::<Platform>).transpose()?;
    let program = match binary {
        Some(path) => Program::read(&path, platform)?,
        None => Program::running(platform)?,
    };
    write(&program, BufWriter::new(stdout.lock()))?;
    Ok(ExitCode::SUCCESS)
}
