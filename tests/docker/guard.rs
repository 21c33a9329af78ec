//! What must be gone when the tests are: see the script `guard`.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::prepared;

/// The guard tidies up when its standard input closes, which is when this process ends, in whatever way.
#[derive(Debug)]
pub(crate) struct Guard {
    _child: Child,
}

/// An engine for the guard to run.
pub(crate) struct Charge<'a> {
    pub(crate) bridge: &'a str,
    pub(crate) address: &'a str,
    pub(crate) dockerd: &'a Path,
}

impl Guard {
    /// Watches over a short path, for sockets, and a place on a real file system; they may be one.
    pub(crate) fn start(directory: &Path, data: &Path, charge: Option<Charge>) -> Self {
        let mut command = Command::new(prepared::root().join("tests/docker/guard"));
        command.args([directory, data]);
        if let Some(charge) = charge {
            command.args([charge.bridge, charge.address]).arg(charge.dockerd);
        }
        let child = command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("the guard");
        Self { _child: child }
    }
}
