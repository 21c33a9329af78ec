//! A Docker Engine that is started by hand and ends with its value. It reaches no registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// See the module.
pub(crate) struct Engine {
    child: Child,
    address: String,
}

impl Engine {
    /// In this directory, until the value goes.
    pub(crate) fn start(directory: &Path) -> Result<Self, String> {
        let socket = directory.join("docker.sock");
        let address = format!("unix://{}", socket.display());
        let log = fs::File::create(directory.join("dockerd.log")).expect("a log");
        let mut command = Command::new(program("dockerd")?);
        command
            .arg("--data-root")
            .arg(directory.join("docker"))
            .arg("--exec-root")
            .arg(directory.join("docker-run"))
            .arg("--pidfile")
            .arg(directory.join("docker.pid"))
            .args([
                "-H",
                &address,
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--ip-masq=false",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().map_err(|error| format!("dockerd: {error}"))?;
        let engine = Self { child, address };
        // It listens before it serves, and answers late while it starts its parts.
        let give_up = Instant::now() + Duration::from_secs(60);
        while !engine.is_ready() {
            if Instant::now() > give_up {
                return Err(format!(
                    "dockerd does not start, see {}",
                    directory.join("dockerd.log").display()
                ));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(engine)
    }

    /// A client of it.
    pub(crate) fn docker(&self) -> Result<Command, String> {
        let mut command = Command::new(program("docker")?);
        command.env("DOCKER_BUILDKIT", "1").arg("-H").arg(&self.address);
        Ok(command)
    }

    fn is_ready(&self) -> bool {
        let Ok(mut command) = self.docker() else { return false };
        command.arg("version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // In order: it has processes and mounts of its own to take with it.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Where Debian puts a program; a first one on PATH may lack the parts that build.
pub(crate) fn program(name: &str) -> Result<PathBuf, String> {
    let places = ["/usr/bin", "/usr/sbin", "/usr/local/bin"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
    found.ok_or_else(|| format!("not measured: {name} is not installed"))
}

/// What a program says, on both outputs.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if output.status.success() {
        return Ok(text.concat());
    }
    // What a program says at its end stands in front of what the builder says of it.
    let said = text[1].lines().filter(|line| !line.trim_end_matches([' ', '-', '>']).is_empty());
    let last: Vec<&str> = said.rev().take(6).collect();
    Err(format!("not measured: {}", last.join(" | ")))
}
