//! Completion scripts and manual pages, for packages.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use super::{Arguments, print};
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};

pub(super) fn completions(shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "valetkey", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn manual(directory: &Path) -> Result<ExitCode, Failure> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Arguments::command(), directory))
        .map_err(|error| {
            Failure::new(Kind::Local, format!("cannot write the manual pages to {}", shown_path(directory)))
                .with_cause(error)
        })?;
    Ok(ExitCode::SUCCESS)
}
