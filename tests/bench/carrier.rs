//! The agent carrier against the bare channel it goes through, inside of real builds: BuildKit in a dockerd that is
//! started by hand, and buildah. Needs root; what is not installed is a line in the table.
//!
//! Both sides of the race run in one step of one build, in turns, so that what the machine does meanwhile meets both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process;
use super::table::{Table, Target, Unit};

/// Races in a build of Docker's and in one of buildah's, then measures the memory that 64 downloads need.
pub(crate) fn measure(table: &mut Table, carry: &Path, rounds: usize) {
    let place = Place::new(carry);
    race(table, "docker build", Target::AtLeast(0.9), &place.docker_build(rounds));
    race(table, "buildah bud", Target::AtLeast(0.85), &place.buildah_bud(rounds));
    race(table, "no container", Target::None, &place.on_the_host(rounds));
    memory(table, &place);
}

/// The carrier's part of what the bare channel gives on as many connections: the median of the rounds' ratios.
fn race(table: &mut Table, name: &str, target: Target, log: &Result<String, String>) {
    let measure = format!("200 MiB by the agent carrier, {name}");
    let log = match log {
        Ok(log) => log,
        Err(reason) => {
            table.row(measure, Target::None, f64::NAN, Unit::Times, reason);
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

fn memory(table: &mut Table, place: &Place) {
    for (what, pause) in [("64 downloads at once", "0"), ("64 slow ones", "20")] {
        let server = place.serve("memory");
        let log = place.run(&["crowd", &server.carried(), "--mebibytes", "10", "--pause", pause]);
        let rate = log.as_deref().map_or(f64::NAN, |log| figures::<1>(log, "crowd ")[0][0]);
        let note = format!("{rate:.0} MiB/s in all");
        let peak = process::peak(server.child.id());
        let measure = format!("memory at most, {what} by the agent carrier");
        table.row(measure, Target::AtMost(24.0), peak, Unit::Mebibytes, &note);
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
        let docker = program("docker")?;
        let engine = Engine::start(self)?;
        let server = self.serve("docker");
        let mut command = Command::new(docker);
        command
            .env("DOCKER_BUILDKIT", "1")
            .arg("-H")
            .arg(&engine.address)
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

/// A Docker Engine of our own that needs no network.
struct Engine {
    child: Child,
    address: String,
}

impl Engine {
    fn start(place: &Place) -> Result<Self, String> {
        let socket = place.path("docker.sock");
        let address = format!("unix://{}", socket.display());
        let log = fs::File::create(place.path("dockerd.log")).expect("a log");
        let mut command = Command::new(program("dockerd")?);
        command
            .arg("--data-root")
            .arg(place.path("docker"))
            .arg("--exec-root")
            .arg(place.path("docker-run"))
            .arg("--pidfile")
            .arg(place.path("docker.pid"))
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
                return Err(format!("dockerd does not start, see {}", place.path("dockerd.log").display()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(engine)
    }

    fn is_ready(&self) -> bool {
        let mut command = Command::new("docker");
        command.arg("-H").arg(&self.address).arg("version").stdout(Stdio::null()).stderr(Stdio::null());
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
fn program(name: &str) -> Result<PathBuf, String> {
    let places = ["/usr/bin", "/usr/sbin", "/usr/local/bin"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.exists());
    found.ok_or_else(|| format!("not measured: {name} is not installed"))
}

/// What a program says, on both outputs.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    if output.status.success() {
        return Ok(text.concat());
    }
    let last: Vec<&str> = text[1].lines().rev().take(3).collect();
    Err(format!("not measured: {}", last.join(" | ")))
}

/// The numbers behind a word, wherever in a line it stands.
fn figures<const N: usize>(log: &str, word: &str) -> Vec<[f64; N]> {
    let numbers = |line: &str| -> Option<[f64; N]> {
        let (_, rest) = line.split_once(word)?;
        let numbers: Vec<f64> = rest.split_whitespace().map_while(|word| word.parse().ok()).collect();
        numbers.try_into().ok()
    };
    log.lines().filter_map(numbers).collect()
}

fn median(mut figures: Vec<f64>) -> f64 {
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
