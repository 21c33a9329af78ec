//! `valetkey docker args`: opens a socket for one build and prints the flags that carry it in.

use std::fs;
use std::io::IsTerminal;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::super::{print, terminal};
use super::engine::{self, Way};
use crate::client::locate::{Carrier, SOCKET};
use crate::client::request::{Reply, Silence, post_own};
use crate::client::{Client, autostart};
use crate::clock::parse_duration;
use crate::daemon::opening::Wanted;
use crate::environment::Environment;
use crate::error::shown::shown;
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::google::metadata;
use crate::http::server::failure_from_problem;
use crate::image::{IMAGE, Program};
use crate::paths::{check_private, ensure_private};
use crate::registry::Hosts;

/// For the end of the help.
pub(super) fn example() -> String {
    format!(
        "Example:\n  docker build $(valetkey docker args europe-west1/PROJECT/REPOSITORY) .\n\n\
         and in the Dockerfile:\n{STEP}"
    )
}

/// What a Dockerfile says.
const STEP: &str = "  \
  RUN --mount=type=ssh,id=valetkey,required=true \\
      --mount=type=bind,from=valetkey.invalid/valetkey,source=/valetkey,target=/usr/bin/valetkey \\
      valetkey exec -- pip install -r requirements.txt";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Flags {
    /// A repository that the build may read, as LOCATION/PROJECT/REPOSITORY or as its URL
    #[arg(required = true, value_name = "REPO")]
    repositories: Vec<String>,
    /// Keep the socket open for this time, however many builds use it: 45s, 10m, 1h or 7d [default: until one build is
    /// over, for an hour at most]
    #[arg(long = "for", value_name = "TIME")]
    time: Option<String>,
    /// Let the build publish to them, too
    #[arg(long)]
    write: bool,
    /// Hand out tokens in the build as well, which cannot be confined to these repositories
    #[arg(long)]
    tokens: bool,
    /// With --tokens: even tokens that cannot be narrowed to that access (gcloud's, for one)
    #[arg(long, requires = "tokens")]
    unnarrowed: bool,
}

pub(in crate::cli) fn run(environment: Environment, flags: &Flags) -> Result<ExitCode, Failure> {
    let outcome = answer(environment, flags);
    if let Err(failure) = &outcome {
        refuse_for_docker(&failure.message);
    }
    outcome
}

/// In `docker build $(valetkey docker args …) .` nobody hears our exit code, and a build without our flags might come to
/// something else. So the builder gets a flag that none knows: it refuses it and prints it, as every one of them was
/// seen to do, and the reason with it.
pub(in crate::cli) fn refuse_for_docker(reason: &str) {
    if !std::io::stdout().is_terminal() {
        // Where standard output is gone, so is the build.
        let _ = print(&format!("--valetkey-docker-args-failed--{}\n", as_one_word(reason)));
    }
}

/// A sentence as the name of a flag. What it quotes, names or points at stays out: that may be anything, and was said
/// on standard error.
fn as_one_word(sentence: &str) -> String {
    let unquoted: String = sentence.split('"').step_by(2).collect();
    let plain =
        |word: &&str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_,;.:()".contains(&byte));
    let words = unquoted.split_whitespace().filter(plain).map(|word| {
        let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        word.replace(|c: char| !c.is_ascii_alphanumeric(), "-")
    });
    let words: Vec<_> = words.filter(|word| !word.is_empty()).take(MOST_WORDS).collect();
    if words.is_empty() { "see-above".to_owned() } else { words.join("-") }
}

fn answer(environment: Environment, flags: &Flags) -> Result<ExitCode, Failure> {
    let text = flags.time.as_deref().unwrap_or(USUAL_TIME);
    let time = parse_duration(text).ok_or_else(|| {
        Failure::new(Kind::Usage, format!("{:?} is not a duration such as 45s, 10m or 1h", shown(text)))
    })?;
    // Meanwhile: where nothing answers, it takes its time to say so.
    let at_google = std::thread::Builder::new().spawn(metadata::is_here);
    let client = Client::new(environment, None)?;
    let (carrier, named) = client.locate()?;
    let socket = match &carrier {
        Carrier::Owner(socket) => socket,
        Carrier::Found { path, by } => return Err(elsewhere(path, by)),
        Carrier::Agent(path) => return Err(elsewhere(path, "an SSH agent that carries it")),
    };
    // Where a daemon with an identity of its own was killed, the one that is started here does not know it.
    let named = named.or_else(|| client.left_behind());
    let whose = client.whose(named);
    whose.to_json()?;
    let wanted = Wanted {
        repositories: flags.repositories.clone(),
        write: flags.write,
        tokens: flags.tokens,
        unnarrowed: flags.unnarrowed,
        seconds: time.as_secs(),
        one_build: flags.time.is_none(),
        whose,
    };
    // Nothing is started for what it would refuse.
    wanted.check(&Hosts::new(&client.config.registries), &client.config.policy)?;
    let opened = open(&client, socket, &wanted)?;
    if opened.address.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_whitespace) {
        return Err(Failure::new(Kind::Local, format!("{} holds a blank", shown_path(&opened.address)))
            .with_hint("point XDG_RUNTIME_DIR at a directory without one"));
    }
    let mut words = format!("--ssh valetkey={}", opened.address.display());
    let from = match program(&client) {
        Ok((Some(directory), _)) => {
            for name in [IMAGE, FORMER_NAME] {
                words += &format!(" --build-context {name}={}", directory.display());
            }
            None
        }
        Ok((None, Way::Loaded)) => None,
        Ok((None, Way::Outdated(version))) => {
            let version = version.map(|version| format!(", {version}")).unwrap_or_default();
            Some(format!("the image {IMAGE} is that of another valetkey{version}; load this one: {LOAD}"))
        }
        Ok((None, _)) => Some(format!("load the program first, once: {LOAD}")),
        Err(failure) => Some(failure.one_line()),
    };
    print(&format!("{words}\n"))?;
    let end = if flags.time.is_some() { "" } else { "its build is over, at the latest until " };
    terminal::say(&format!("open until {end}{}. In the Dockerfile:\n\n{STEP}\n\n", opened.until));
    if let Some(from) = from {
        terminal::say(&format!("{from}\n"));
    }
    if at_google.is_ok_and(|probe| probe.join().unwrap_or(false)) {
        terminal::say(&format!("{AT_GOOGLE}\n"));
    }
    Ok(ExitCode::SUCCESS)
}

fn elsewhere(path: &Path, by: &str) -> Failure {
    let text = format!(
        "a socket for a build is opened by the daemon of this user, and here one elsewhere decides: {} ({by})",
        shown_path(path)
    );
    let hint = if by == SOCKET { "unset VALETKEY_SOCKET, or run" } else { "run" };
    Failure::new(Kind::Refused, text).with_hint(format!("{hint} this where the daemon runs"))
}

#[derive(Deserialize)]
struct Opened {
    address: PathBuf,
    until: String,
}

/// Asks the daemon for a socket, and starts it where none runs.
fn open(client: &Client, socket: &Path, wanted: &Wanted) -> Result<Opened, Failure> {
    let until = Instant::now() + PATIENCE;
    ensure_private(&client.paths.runtime)?;
    let ask = |wanted: &Wanted| {
        let body = serde_json::to_vec(wanted).unwrap_or_default();
        post_own(socket, "/v1/listeners", &body, until)
    };
    let mut reply = match ask(wanted) {
        Err(Silence::Unreachable(_)) if !client.config.auto_start => {
            return Err(Failure::new(Kind::NotFound, "no daemon is running, and auto_start is false")
                .with_hint("start one with `valetkey serve`"));
        }
        Err(Silence::Unreachable(_)) => {
            autostart::start(&client.paths, &client.environment, until)?;
            ask(wanted)
        }
        reply => reply,
    };
    // A daemon from before an update does not know sockets that end with their build.
    if wanted.one_build && reply.as_ref().is_ok_and(|reply| reply.status == 400) {
        reply = ask(&Wanted { one_build: false, ..wanted.clone() });
    }
    let reply = reply.map_err(|silence| silence.at(socket, "the socket of this user"))?;
    read(&reply)
}

fn read(reply: &Reply) -> Result<Opened, Failure> {
    let strange = || {
        Failure::new(Kind::Local, "the daemon's answer is not one that valetkey understands")
            .with_hint("run `valetkey stop` and try again")
    };
    if reply.status == 200 {
        serde_json::from_slice(&reply.body).map_err(|_| strange())
    } else {
        Err(failure_from_problem(&reply.body).unwrap_or_else(strange))
    }
}

/// A directory with the program in it, as a build context: no image has to be loaded anywhere then. Nothing where
/// the installed builder does not know such contexts.
fn program(client: &Client) -> Result<(Option<PathBuf>, Way), Failure> {
    let program = Program::running(None)?;
    let way = engine::way(client, &program);
    if way != Way::Context || !matches!(check_private(&client.paths.runtime), Ok(true)) {
        return Ok((None, way));
    }
    let failed = |error: std::io::Error| {
        Failure::new(Kind::Local, "cannot put the program beside the socket").with_cause(error)
    };
    let directory = client.paths.runtime.join("context");
    fs::create_dir_all(&directory).map_err(failed)?;
    let own = directory.join("valetkey");
    let same = fs::read(&own).is_ok_and(|there| there == program.bytes());
    if !same {
        let new = directory.join(".new");
        fs::write(&new, program.bytes()).map_err(failed)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        fs::rename(&new, &own).map_err(failed)?;
        let keyring = directory.join("keyring");
        let _ = fs::remove_file(&keyring);
        fs::hard_link(&own, &keyring).map_err(failed)?;
    }
    Ok((Some(directory), way))
}

const PATIENCE: Duration = Duration::from_secs(6);
const USUAL_TIME: &str = "1h";
const LOAD: &str = "`valetkey docker image | docker load`";
/// What Dockerfiles of earlier versions say.
const FORMER_NAME: &str = "valetkey";
const MOST_WORDS: usize = 14;
const AT_GOOGLE: &str = "this machine reaches Google's metadata server, and so does each step that has a network: there it gets \
    the machine's own token.\nBuild with --network=none, or let the firewall keep containers from 169.254.169.254.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_becomes_one_word_that_quotes_nothing() {
        for (sentence, word) in [
            (
                "64 builds are running, and each has a socket open",
                "64-builds-are-running-and-each-has-a-socket-open",
            ),
            ("\"us/acme\" is not a repository", "is-not-a-repository"),
            ("\"https://u:secret@host.test/a b\" is not a repository", "is-not-a-repository"),
            ("cannot write /home/x y/é=$(id)", "cannot-write"),
            (
                "the daemon (pid 7) does not answer: it is stopped",
                "the-daemon-pid-7-does-not-answer-it-is-stopped",
            ),
            ("", "see-above"),
            ("\"all of it", "see-above"),
        ] {
            assert_eq!(as_one_word(sentence), word);
        }
    }
}
