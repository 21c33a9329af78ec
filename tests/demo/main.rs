//! `cargo demo`: a real pip installs a private package through valetkey, step by step, on this machine alone.
//!
//! A stand-in plays Google. Everything else is real: the daemon, the `keyring` on PATH, a fresh virtual environment
//! and the pip in it. All of it happens in a temporary directory that is gone at the end.

#[path = "../harness/hunt.rs"]
mod hunt;
mod leaks;
mod place;
mod python;
mod screen;
#[path = "../stand-in/stand_in.rs"]
mod stand_in;
mod trouble;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use valetkey::environment::Environment;

use hunt::Hunt;
use leaks::Watch;
use place::Place;
use python::Python;
use screen::Screen;
use stand_in::{Options, StandIn};
use trouble::{Trouble, cannot, run};

/// A real pip installs a private package through valetkey; a stand-in on this machine plays Google.
#[derive(Debug, Parser)]
#[command(name = "cargo demo")]
struct Arguments {
    /// The Python to make the virtual environment with
    #[arg(default_value = "python3")]
    python: PathBuf,
    /// Bring the newest pip first, from wherever this user's pip gets packages
    #[arg(long)]
    upgrade_pip: bool,
    /// Sign in by hand, in this machine's browser, on the stand-in's consent page
    #[arg(long)]
    browser: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let environment = Environment::capture();
    // From here on an interrupt ends the step and not this program, so that what was made is removed.
    let interrupts = Interrupts::listen();
    let interrupted = interrupts.as_ref().map(|interrupts| Arc::clone(&interrupts.came)).unwrap_or_default();
    let screen = Screen::new(&environment, Arc::clone(&interrupted));
    screen.title("A real pip installs a private package through valetkey");
    let network =
        if arguments.upgrade_pip { "only the newest pip is fetched" } else { "nothing leaves this machine" };
    screen.plain(&format!("A stand-in plays Google; everything else is real, and {network}.\n"));
    match play(&screen, &environment, &arguments) {
        Ok(()) => {
            epilogue(&screen);
            ExitCode::SUCCESS
        }
        // What the interrupted program said about it is of no interest.
        Err(_) if interrupted.load(Ordering::Relaxed) => {
            screen.fail(&Trouble::new("interrupted"));
            ExitCode::from(130)
        }
        Err(trouble) => {
            screen.fail(&trouble);
            ExitCode::FAILURE
        }
    }
}

fn play(screen: &Screen, environment: &Environment, arguments: &Arguments) -> Result<(), Trouble> {
    let python = screen.step("python", || {
        let python = Python::find(environment, &arguments.python)?;
        let text = format!("{} at {}", python.version, python.program.display());
        Ok((python, text))
    })?;
    let valetkey = screen.step("build", || build(environment))?;
    let google = screen.step("stand-in", || {
        let google = StandIn::try_start(Options::default()).map_err(cannot("start the stand-in"))?;
        let text = format!("token endpoint and private index at {}", google.origin());
        Ok((google, text))
    })?;
    let place = screen.step("home", || {
        let place = Place::new(environment, valetkey)?;
        place.configure(&google)?;
        if !arguments.browser {
            place.sign_in_as_gcloud(&google)?;
        }
        let what = if arguments.browser { "settings" } else { "settings and sign-in" };
        let text = format!("{}: its own {what}", place.path("").display());
        Ok((place, text))
    })?;
    if arguments.browser {
        sign_in(screen, &place, environment)?;
    }
    let venv = screen.step("venv", || virtual_environment(&place, &python, arguments.upgrade_pip))?;

    let watch = Watch::start(format!("localhost:{}", google.port()));
    install(screen, &place, &venv, &google)?;
    ask_again(screen, &place, &google)?;
    let command_lines = watch.end();

    let status = screen.step("status", || {
        let output = run(&mut place.valetkey(&["status"]), "`valetkey status`")?;
        let text = place.with_tilde(&String::from_utf8_lossy(&output.stdout));
        Ok((text, "what `valetkey status` shows".to_owned()))
    })?;
    screen.below(&status);
    screen.step("secrets", || {
        let mut hunt = Hunt::new(&google.secrets());
        hunt.search_path(&place.path(""), &place.secret_places());
        for line in &command_lines {
            hunt.search("a command line", line);
        }
        match hunt.found.first() {
            Some(first) => Err(Trouble::new(format!("a secret is in {first}"))),
            None => Ok((
                (),
                format!(
                    "no token in {} files (log, cache, virtual environment) nor in {} command lines",
                    hunt.files,
                    command_lines.len(),
                ),
            )),
        }
    })?;
    if arguments.browser {
        screen.step("sign-out", || {
            run(&mut place.valetkey(&["logout"]), "`valetkey logout`")?;
            match google.revocations().len() {
                1 => Ok(((), "`valetkey logout`: revoked at the stand-in, and forgotten here".to_owned())),
                _ => Err(Trouble::new("the sign-in was not revoked")),
            }
        })?;
    }
    screen.step("stop", || {
        place.remove()?;
        Ok(((), "the daemon has ended, the directory is removed".to_owned()))
    })
}

/// `valetkey login`, with a person at the browser.
fn sign_in(screen: &Screen, place: &Place, environment: &Environment) -> Result<(), Trouble> {
    screen.plain(
        "\nNow `valetkey login`. The page that opens is the stand-in's: choose an account and allow it.\n",
    );
    let start = Instant::now();
    let status = place.login(environment)?.status().map_err(cannot("start `valetkey login`"))?;
    if !status.success() {
        return Err(Trouble::new("`valetkey login` did not sign in"));
    }
    screen.plain("");
    screen.line("sign-in", Some(start.elapsed()), "the refresh token rests in this home's vault");
    Ok(())
}

/// Has cargo build the program, as this one was built.
fn build(environment: &Environment) -> Result<(PathBuf, String), Trouble> {
    let own = std::env::current_exe().map_err(cannot("find this program"))?;
    let directory = own.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or("debug");
    let profile = if directory == "debug" { "dev" } else { directory };
    let mut command = Command::new(environment.get("CARGO").unwrap_or("cargo".as_ref()));
    // `sandbox` changes nothing in the program, but with it the library is built already.
    command
        .args(["build", "--quiet", "--bin", "valetkey", "--features", "sandbox", "--profile", profile])
        .args(["--message-format", "json-render-diagnostics", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    // What cargo tells this program about itself would make build scripts run again.
    for (name, _) in environment.iter() {
        let name_text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name_text.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    let output = run(&mut command, "`cargo build --bin valetkey`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let program = messages
        .filter(|message| message["target"]["name"] == "valetkey")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    let program = program.ok_or_else(|| Trouble::new("cargo does not say where it put valetkey"))?;
    Ok((program, format!("valetkey {}, profile {profile}", env!("CARGO_PKG_VERSION"))))
}

fn virtual_environment(
    place: &Place,
    python: &Python,
    upgrade_pip: bool,
) -> Result<(PathBuf, String), Trouble> {
    let venv = python.environment(place)?;
    if upgrade_pip {
        python::upgrade_pip(&venv)?;
    }
    let pip = python::pip_version(place, &venv)?;
    if !python::can_call_programs(&pip) {
        let text = format!(
            "{} brings pip {pip}, which cannot call a program for a password: that came with pip 23.0",
            python.program.display()
        );
        let hint = "run `cargo demo --upgrade-pip` (needs a network), or name a newer Python: `cargo demo python3.12`";
        return Err(Trouble::new(text).with_hint(hint));
    }
    Ok((venv, format!("a fresh virtual environment with pip {pip}")))
}

/// The main thing.
fn install(screen: &Screen, place: &Place, venv: &Path, google: &StandIn) -> Result<(), Trouble> {
    let index = index_with_user(google);
    screen.step("install", || {
        let installed = python::install(place, venv, &index)?;
        Ok(((), format!("pip installed {installed}")))
    })?;
    screen.below(&format!(
        "PIP_KEYRING_PROVIDER=subprocess pip install {} \\\n    --index-url {index}",
        python::PACKAGE,
    ));
    let requests = google.registry_requests();
    let refused = requests.iter().filter(|request| request.status == 401).count();
    screen.line(
        "",
        None,
        &format!("the index refused {refused} of {} requests: then pip asked keyring", requests.len()),
    );
    screen.step("import", || {
        let message = python::message(place, venv)?;
        Ok(((), format!("acme_hello says {message:?}")))
    })
}

/// What every later question costs.
fn ask_again(screen: &Screen, place: &Place, google: &StandIn) -> Result<(), Trouble> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let mut command = place.command(place.path("bin/keyring"));
        command.args(["get", &index_with_user(google), "oauth2accesstoken"]);
        let start = Instant::now();
        let output = run(&mut command, "`keyring get`")?;
        times.push(start.elapsed());
        let answer = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        if !google.secrets().contains(&answer) {
            return Err(Trouble::new("`keyring get` answered with something that is no token"));
        }
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or(Duration::ZERO);
    let build = if cfg!(debug_assertions) { ", unoptimised build" } else { "" };
    let text = format!("`keyring get` answers from the daemon's memory (median of {ROUNDS}{build})");
    screen.line("again", Some(median), &text);
    // The sign-in itself exchanges a code.
    let requests = google.token_requests();
    let asked = requests.iter().filter(|request| request.grant_type == "refresh_token").count();
    let times = if asked == 1 { "once".to_owned() } else { format!("{asked} times") };
    screen.line("", None, &format!("Google was asked for a token {times} in all"));
    if asked == 1 { Ok(()) } else { Err(Trouble::new("one token should have been enough")) }
}

/// With the user name that pip before 26.2 needs to ask keyring at all.
fn index_with_user(google: &StandIn) -> String {
    google.index_url("acme", "private").replace("https://", "https://oauth2accesstoken@")
}

fn epilogue(screen: &Screen) {
    screen.title("\nThe same with your own Google account");
    screen.plain(concat!(
        "  cargo install --locked --path .\n",
        "  ln -s valetkey ~/.cargo/bin/keyring      # any directory on PATH but the one that pip is in\n",
        "  valetkey login                           # or: gcloud auth application-default login\n",
        "  export PIP_KEYRING_PROVIDER=subprocess\n",
        "  pip install --index-url \\\n",
        "      https://oauth2accesstoken@LOCATION-python.pkg.dev/PROJECT/REPOSITORY/simple/ PACKAGE",
    ));
    screen.plain("If it does not work, `valetkey doctor URL` names the step that fails.");
}

/// Notices an interrupt in the place of ending by it.
#[derive(Debug)]
struct Interrupts {
    came: Arc<AtomicBool>,
    _runtime: tokio::runtime::Runtime,
}

impl Interrupts {
    fn listen() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let came = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&came);
        runtime.spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                note.store(true, Ordering::Relaxed);
            }
        });
        Ok(Self { came, _runtime: runtime })
    }
}

const ROUNDS: usize = 25;
