//! The program: see `valetkey --help`, or README.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    valetkey::cli::run(&std::env::args_os().collect::<Vec<_>>())
}
