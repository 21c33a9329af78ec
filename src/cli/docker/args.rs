//! `valetkey docker args`: opens a socket for one build and prints the flags that carry it in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::super::{print, terminal};
use crate::client::locate::Carrier;
use crate::client::request::{Reply, Silence, post_own};
use crate::client::{Client, autostart};
use crate::clock::parse_duration;
use crate::environment::Environment;
use crate::error::shown::shown;
use crate::error::{Failure, Kind};
use crate::http::server::failure_from_problem;
use crate::image::Program;
use crate::paths::{check_private, ensure_private};

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
      --mount=type=bind,from=valetkey,source=/valetkey,target=/usr/bin/valetkey \\
      valetkey exec -- pip install -r requirements.txt";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Flags {
    /// A repository that the build may read, as LOCATION/PROJECT/REPOSITORY or as its URL
    #[arg(required = true, value_name = "REPO")]
    repositories: Vec<String>,
    /// How long the socket stays open, such as 45s, 10m, 1h or 7d
    #[arg(long = "for", value_name = "TIME", default_value = "1h")]
    time: String,
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
    let time = parse_duration(&flags.time).ok_or_else(|| {
        Failure::new(
            Kind::Usage,
            format!("{:?} is not a duration such as 45s, 10m or 1h", shown(&flags.time)),
        )
    })?;
    let client = Client::new(environment, None)?;
    let (carrier, named) = client.locate()?;
    let Carrier::Owner(socket) = &carrier else {
        return Err(Failure::new(Kind::Refused, "a socket for a build is opened by the daemon of this user")
            .with_hint("unset VALETKEY_SOCKET, or run this where the daemon runs"));
    };
    // Where a daemon with an identity of its own was killed, the one that is started here does not know it.
    let named = named.or_else(|| client.left_behind());
    let whose = client.whose(named).to_json()?;
    let mut wanted = json!({
        "repositories": flags.repositories,
        "write": flags.write,
        "tokens": flags.tokens,
        "seconds": time.as_secs(),
        "whose": whose,
    });
    if flags.unnarrowed {
        // A daemon that does not know it refuses it.
        wanted["unnarrowed"] = true.into();
    }
    let opened = open(&client, socket, &wanted.to_string())?;
    if opened.address.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_whitespace) {
        return Err(Failure::new(Kind::Local, format!("{} holds a blank", opened.address.display()))
            .with_hint("point XDG_RUNTIME_DIR at a directory without one"));
    }
    let mut words = format!("--ssh valetkey={}", opened.address.display());
    let from = match context(&client) {
        Ok(Some(directory)) => {
            words += &format!(" --build-context valetkey={}", directory.display());
            None
        }
        Ok(None) => Some("load the program first, once: `valetkey docker image | docker load`".to_owned()),
        Err(failure) => Some(failure.one_line()),
    };
    print(&format!("{words}\n"))?;
    terminal::say(&format!("open until {}. In the Dockerfile:\n\n{STEP}\n\n", opened.until));
    if let Some(from) = from {
        terminal::say(&format!("{from}\n"));
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Deserialize)]
struct Opened {
    address: PathBuf,
    until: String,
}

/// Asks the daemon for a socket, and starts it where none runs.
fn open(client: &Client, socket: &Path, wanted: &str) -> Result<Opened, Failure> {
    let until = Instant::now() + PATIENCE;
    ensure_private(&client.paths.runtime)?;
    let ask = || post_own(socket, "/v1/listeners", wanted.as_bytes(), until);
    let reply = match ask() {
        Err(Silence::Unreachable(_)) => {
            autostart::start(&client.paths, &client.environment, until)?;
            ask()
        }
        reply => reply,
    };
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
fn context(client: &Client) -> Result<Option<PathBuf>, Failure> {
    let program = Program::running(None)?;
    let knows = client.environment.find_program("docker").is_some_and(|docker| {
        let help = Command::new(docker).args(["build", "--help"]).stdin(Stdio::null()).output();
        help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--build-context"))
    });
    if !knows || !matches!(check_private(&client.paths.runtime), Ok(true)) {
        return Ok(None);
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
    Ok(Some(directory))
}

const PATIENCE: Duration = Duration::from_secs(6);
