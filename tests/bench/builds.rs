//! What credentials cost a real `docker build`: twenty small private wheels, against the same build from an index that
//! asks nobody for anything. Both step into the same image, on the host's network, with bundles of certificates of the
//! same length.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::engine::{Engine, output};
use super::reader::median;
use super::sandbox::Sandbox;
use super::stand_in::{Options, StandIn};
use super::table::{Table, Target, Unit};

/// `engines` is where `tests/prepare-engines` has put a file system with pip.
pub(crate) fn with_and_without(table: &mut Table, sandbox: &Sandbox<'_>, engines: &Path, rounds: usize) {
    let (measure, target) = ("docker build with 20 private wheels / with open ones", Target::AtMost(1.1));
    match measured(sandbox, engines, rounds) {
        Ok([private, open]) => {
            let note = format!("{private:.2} s against {open:.2} s, {rounds} rounds");
            table.row(measure.to_owned(), target, private / open, Unit::Times, &note);
        }
        Err(reason) => table.missing(measure.to_owned(), target, Unit::Times, &reason),
    }
}

/// The medians, in seconds.
fn measured(sandbox: &Sandbox<'_>, engines: &Path, rounds: usize) -> Result<[f64; 2], String> {
    let base = engines.join("python.tar");
    if !base.exists() {
        return Err(format!("not measured: no {}; run tests/prepare-engines", base.display()));
    }
    let open = StandIn::start(Options::default());
    open.open_to_all();
    for google in [sandbox.google, &open] {
        for number in 0..WHEELS {
            google.add_package("acme", "private", &name(number), "1.0.0", &[]);
        }
    }
    let directory = sandbox.path("builds");
    fs::create_dir_all(&directory).expect("a directory");
    let engine = Engine::start(&directory)?;
    output(engine.docker()?.arg("import").arg(&base).arg("base"))?;
    load(sandbox, &engine)?;

    sandbox.stop();
    sandbox.configure("", &format!("[[registry]]\nhost = \"localhost:{}\"\n", sandbox.google.port()));
    let mut daemon = sandbox.serve();
    let times = in_turns(sandbox, &open, &engine, &directory, rounds);
    sandbox.stop();
    let _ = daemon.wait();
    sandbox.configure("", "");
    Ok(times?.map(|times| median(&times)))
}

fn in_turns(
    sandbox: &Sandbox<'_>,
    open: &StandIn,
    engine: &Engine,
    directory: &Path,
    rounds: usize,
) -> Result<[Vec<Duration>; 2], String> {
    let private = Build::new(
        &directory.join("private"),
        sandbox.google,
        "--mount=type=ssh,id=valetkey,required=true \
         --mount=from=valetkey.invalid/valetkey,source=/valetkey,target=/usr/bin/valetkey valetkey exec --",
        socket(sandbox)?,
    );
    let plain = Build::new(&directory.join("open"), open, "PIP_CERT=/bundle.pem", Vec::new());
    let builds = [private, plain];
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        // The order is the other one each time.
        for which in [round % 2, 1 - round % 2] {
            let took = builds[which].run(engine)?;
            if round > 0 {
                times[which].push(took);
            }
        }
    }
    Ok(times)
}

/// A build that is run again and again.
struct Build {
    context: std::path::PathBuf,
    flags: Vec<String>,
}

impl Build {
    fn new(context: &Path, google: &StandIn, around: &str, flags: Vec<String>) -> Self {
        fs::create_dir_all(context).expect("a directory");
        let names: String = (0..WHEELS).map(|number| name(number) + "==1.0.0\n").collect();
        let index = google.index_url("acme", "private");
        let system = fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
        let dockerfile = format!(
            "FROM base\nCOPY requirements.txt bundle.pem /\nRUN {around} python3 -m pip install --no-cache-dir \
             --no-input --disable-pip-version-check --target /installed -r /requirements.txt\n"
        );
        for (file, text) in [
            ("Dockerfile", dockerfile),
            ("requirements.txt", format!("--index-url {index}\n{names}")),
            ("bundle.pem", system + &google.ca_pem()),
        ] {
            fs::write(context.join(file), text).expect("a file");
        }
        Self { context: context.to_owned(), flags }
    }

    fn run(&self, engine: &Engine) -> Result<Duration, String> {
        let mut command = engine.docker()?;
        command.args(["build", "--progress=plain", "--no-cache", "--network=host"]);
        command.args(&self.flags).arg(&self.context);
        let start = Instant::now();
        let log = output(&mut command)?;
        let took = start.elapsed();
        let installed = log.lines().find(|line| line.contains("Successfully installed")).unwrap_or_default();
        assert_eq!(installed.matches("acme-small-").count(), WHEELS, "{log}");
        Ok(took)
    }
}

/// The flags that `docker args` prints for the socket.
fn socket(sandbox: &Sandbox<'_>) -> Result<Vec<String>, String> {
    let repository = sandbox.google.index_url("acme", "private").replace("/simple/", "");
    let mut command = sandbox.command(sandbox.path("bin/valetkey"));
    let said = output(command.args(["docker", "args", &repository]).stderr(Stdio::piped()))?;
    let words = said.split_whitespace().skip_while(|word| *word != "--ssh").take(2);
    Ok(words.map(str::to_owned).collect())
}

/// `valetkey docker image | docker load`.
fn load(sandbox: &Sandbox<'_>, engine: &Engine) -> Result<(), String> {
    let mut docker = engine.docker()?;
    let mut image = Command::new(&sandbox.build.binary);
    let mut image = image.args(["docker", "image"]).stdout(Stdio::piped()).spawn().expect("a process");
    let archive = image.stdout.take();
    let loaded = docker.arg("load").stdin(archive.map_or_else(Stdio::null, Stdio::from)).output();
    let written = image.wait().expect("a status");
    let loaded = loaded.map_err(|error| error.to_string())?;
    let complaint = || format!("docker load: {}", String::from_utf8_lossy(&loaded.stderr));
    if written.success() && loaded.status.success() { Ok(()) } else { Err(complaint()) }
}

fn name(number: usize) -> String {
    format!("acme-small-{number:02}")
}

const WHEELS: usize = 20;
