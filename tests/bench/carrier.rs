//! The agent carrier against the bare channel it goes through, inside of real builds: BuildKit in a dockerd that is
//! started by hand, and buildah. Needs root; what is not installed is a line in the table.
//!
//! Both sides of the race run in one step of one build, in turns, so that what the machine does meanwhile meets both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::engine::{Engine, output, program};
use super::table::{Table, Target, Unit};

/// Races in a build of Docker's, in one of buildah's, and without a container.
pub(crate) fn measure(table: &mut Table, carry: Option<&Path>, rounds: usize) {
    let place = carry.map(Place::new).ok_or_else(|| NO_CARRY.to_owned());
    let log = |run: fn(&Place, usize) -> Result<String, String>| {
        run(place.as_ref().map_err(String::clone)?, rounds)
    };
    race(table, "docker build", Target::AtLeast(0.9), &log(Place::docker_build));
    race(table, "buildah bud", Target::AtLeast(0.85), &log(Place::buildah_bud));
    race(table, "no container", Target::None, &log(Place::on_the_host));
}

/// The carrier's part of what the bare channel gives on as many connections: the median of the rounds' ratios.
fn race(table: &mut Table, name: &str, target: Target, log: &Result<String, String>) {
    let measure = format!("200 MiB by the agent carrier, {name}");
    let log = match log {
        Ok(log) => log,
        Err(reason) => {
            table.missing(measure, target, Unit::Times, reason);
            return;
        }
    };
    let rounds: Vec<[f64; 3]> = figures(log, "race ");
    let of = |pick: fn(&[f64; 3]) -> f64| median(rounds.iter().map(pick).collect());
    let note = format!(
        "{:.0} MiB/s; the bare channel {:.0} on two connections, {:.0} on one; {} rounds",
        of(|round| round[0]),
        of(|round| round[1]),
        of(|round| round[2]),
        rounds.len()
    );
    table.row(measure, target, of(|round| round[0] / round[1]), Unit::Times, &note);
    for [middle, late] in figures(log, "ask ") {
        let measure = format!("  an answer of 1,500 bytes, {name}");
        table.row(measure, Target::None, middle, Unit::Milliseconds, &format!("p99 {late:.1} ms"));
    }
}

/// A directory with everything in it.
struct Place {
    top: TempDir,
    carry: PathBuf,
}

impl Place {
    fn new(carry: &Path) -> Self {
        let top = tempfile::Builder::new().prefix("vkbench").tempdir().expect("a directory");
        fs::create_dir(top.path().join("context")).expect("a directory");
        fs::copy(carry, top.path().join("context/carry")).expect("a copy of the program");
        Self { top, carry: carry.to_owned() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    /// The host's side, which ends with the value.
    fn serve(&self, name: &str) -> Server {
        let sockets = ["carried", "bare"].map(|kind| self.path(&format!("{name}-{kind}.sock")));
        let mut command = Command::new(&self.carry);
        let child = command.arg("serve").args(&sockets).stdin(Stdio::null()).spawn().expect("a server");
        wait_for("the server's socket", || sockets[0].exists());
        Server { child, sockets }
    }

    /// The client's side on the host itself.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(&self.carry);
        output(command.args(arguments))
    }

    fn on_the_host(&self, rounds: usize) -> Result<String, String> {
        let server = self.serve("host");
        let race = ["race", &server.carried(), &server.bare(), "--rounds", &rounds.to_string()];
        Ok(self.run(&race)? + &self.run(&["ask", &server.carried()])?)
    }

    fn docker_build(&self, rounds: usize) -> Result<String, String> {
        let engine = Engine::start(self.top.path())?;
        let server = self.serve("docker");
        let mut command = engine.docker()?;
        command
            .args(["build", "--progress=plain", "--no-cache", "--network=none"])
            .args(["--ssh", &format!("carried={}", server.carried())])
            .args(["--ssh", &format!("bare={}", server.bare())])
            .arg(self.context(rounds));
        output(&mut command)
    }

    fn buildah_bud(&self, rounds: usize) -> Result<String, String> {
        let buildah = program("buildah")?;
        let server = self.serve("buildah");
        let mut command = Command::new(buildah);
        command
            .arg("--root")
            .arg(self.path("buildah"))
            .arg("--runroot")
            .arg(self.path("buildah-run"))
            .args(["--storage-driver", "vfs", "bud", "--no-cache", "--isolation", "chroot"])
            .args(["--ssh", &format!("carried={}", server.carried())])
            .args(["--ssh", &format!("bare={}", server.bare())])
            .arg(self.context(rounds));
        output(&mut command)
    }

    /// A build whose step needs nothing but the two sockets.
    fn context(&self, rounds: usize) -> PathBuf {
        let mounts =
            "--mount=type=ssh,id=carried,target=/carried.sock --mount=type=ssh,id=bare,target=/bare.sock";
        let text = format!(
            "FROM scratch\nCOPY carry /carry\n\
             RUN {mounts} [\"/carry\", \"race\", \"/carried.sock\", \"/bare.sock\", \"--rounds\", \"{rounds}\"]\n\
             RUN {mounts} [\"/carry\", \"ask\", \"/carried.sock\"]\n"
        );
        fs::write(self.path("context/Dockerfile"), text).expect("a Dockerfile");
        self.path("context")
    }
}

struct Server {
    child: Child,
    sockets: [PathBuf; 2],
}

impl Server {
    fn carried(&self) -> String {
        self.sockets[0].display().to_string()
    }

    fn bare(&self) -> String {
        self.sockets[1].display().to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The numbers behind a word, wherever in a line it stands.
pub(crate) fn figures<const N: usize>(log: &str, word: &str) -> Vec<[f64; N]> {
    let numbers = |line: &str| -> Option<[f64; N]> {
        let (_, rest) = line.split_once(word)?;
        let numbers: Vec<f64> = rest.split_whitespace().map_while(|word| word.parse().ok()).collect();
        numbers.try_into().ok()
    };
    log.lines().filter_map(numbers).collect()
}

pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < give_up, "{what}: it never came to that");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) const NO_CARRY: &str = "not measured: no --carry";
