//! The gcloud program: `gcloud config config-helper --format=json(credential)`.
//!
//! It is a shell script that starts Python, takes half a second and more, and may hang on a proxy or a lock. So
//! it runs in a process group of its own that is ended when the time is over (see `process`). On a cold disk it needs
//! longer than anybody waits: where there is a next asker, it goes on without this one, for two minutes at most, and one
//! at a time. The expiry is the one that it prints: the token comes from its own cache and may be nearly dead.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::source::{Request, SourceFault, World};
use crate::ask::GcloudVariables;
use crate::clock::parse_rfc3339;
use crate::error::printable;
use crate::error::shown::shown_path;
use crate::process::{self, Finished, RunFault};
use crate::secret::{AccessToken, Secret};

/// Whose turn it is: gcloud starts a whole Python, and locks files of its own.
#[derive(Debug, Clone)]
pub struct Turn(Arc<Semaphore>);

impl Default for Turn {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// Asks gcloud, with `variables` on top of the environment.
///
/// # Errors
/// Absent where there is no program or no account; else what gcloud said.
pub async fn mint(
    world: &World,
    variables: &GcloudVariables,
    request: Request,
) -> Result<AccessToken, SourceFault> {
    let program = world
        .environment
        .find_program("gcloud")
        .ok_or_else(|| SourceFault::Absent("there is no gcloud on PATH".to_owned()))?;
    let output = run(&program, world, variables, &request).await?;
    if !output.status.success() {
        return Err(refusal(&output));
    }
    let nonsense =
        |problem: &str| SourceFault::Nonsense { what: "gcloud".to_owned(), problem: problem.to_owned() };
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|_| nonsense("something that is not its JSON"))?;
    let expires = parse_rfc3339(&answer.credential.token_expiry)
        .ok_or_else(|| nonsense("an expiry that is not a time"))?;
    let now = world.clock.now();
    if expires <= now {
        return Err(SourceFault::Failed {
            what: "gcloud".to_owned(),
            problem: "it gave a token that has expired already".to_owned(),
            remedy: Some("sign in again with `gcloud auth login`, and check this machine's clock".to_owned()),
        });
    }
    let secret = Secret::new(answer.credential.access_token);
    let identity = answer.configuration.and_then(|it| it.properties.core.account);
    let token = AccessToken::new(secret, now, expires)
        .ok_or_else(|| nonsense("a token that cannot be sent in a header"))?;
    Ok(token.with_identity(identity))
}

#[derive(Deserialize)]
struct Answer {
    credential: TokenPart,
    configuration: Option<Configuration>,
}

#[derive(Deserialize)]
struct TokenPart {
    access_token: String,
    token_expiry: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Configuration {
    properties: Properties,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Properties {
    core: Core,
}

#[derive(Deserialize, Default)]
struct Core {
    account: Option<String>,
}

async fn run(
    program: &Path,
    world: &World,
    variables: &GcloudVariables,
    request: &Request,
) -> Result<Finished, SourceFault> {
    let start = Instant::now();
    let until = request.at_most.min(start + LONGEST);
    request.meanwhile.say(SourceFault::Running { what: WHAT.to_owned() });
    let late = || SourceFault::Deadline {
        what: WHAT.to_owned(),
        waited: start.elapsed(),
        remedy: if request.goes_on() { LOOK.to_owned() } else { format!("{DAEMON}; {LOOK}") },
    };
    // The one before it may be slow.
    let _turn = timeout_at(until, world.gcloud.0.acquire()).await.map_err(|_| late())?;
    let mut command = Command::new(program);
    command
        .args(["config", "config-helper", "--format=json(credential,configuration.properties.core.account)"])
        .arg(if request.force { "--force-auth-refresh" } else { "--min-expiry=30m" })
        .env_clear()
        // What chooses the account comes from whoever asks, not from whoever runs us.
        .envs(world.environment.iter().filter(|(name, _)| !chooses_account(name)))
        .envs(variables.iter())
        .env("CLOUDSDK_CORE_DISABLE_PROMPTS", "1")
        .stderr(Stdio::piped());
    process::run(&mut command, b"", until).await.map_err(|fault| match fault {
        RunFault::Start(error) => {
            SourceFault::Failed { what: shown_path(program), problem: error.to_string(), remedy: None }
        }
        RunFault::Deadline => late(),
    })
}

/// gcloud's error is a paragraph; its first line says what happened. No account at all means that gcloud is not
/// in use here.
fn refusal(output: &Finished) -> SourceFault {
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("do not currently have an active account") || text.contains("No credentialed accounts") {
        return SourceFault::Absent("gcloud is on PATH but has no account".to_owned());
    }
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing");
    // Prefixes of Google's access and refresh tokens.
    let line = if line.contains("ya29.") || line.contains("1//") { "it printed a credential" } else { line };
    SourceFault::Failed {
        what: "gcloud".to_owned(),
        problem: printable(line).chars().take(300).collect(),
        remedy: Some("run `gcloud auth login`".to_owned()),
    }
}

fn chooses_account(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name == "GOOGLE_APPLICATION_CREDENTIALS" || GcloudVariables::admits(name))
}

const WHAT: &str = "gcloud";
/// What takes longer waits for something that does not come.
const LONGEST: Duration = Duration::from_secs(120);
const LOOK: &str = "run `gcloud config config-helper` to see what it waits for";
const DAEMON: &str = "start a daemon with `valetkey serve`, which lets it finish and keeps what it brings";
