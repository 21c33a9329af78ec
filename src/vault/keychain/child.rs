//! The child that asks the keychain, from both sides.
//!
//! `valetkey __vault` reads one JSON object on its standard input and writes one on its standard output; nothing
//! else carries a secret. The parent ends it, with all it started, when the time is over. Should the parent die
//! first, the child sees its output closed and ends by itself, so that no window asks for a password that nobody
//! waits for.
//!
//! Children take turns by a lock in the state directory: keychains have been seen to die of two sessions that were
//! opened at once. The child holds the lock, not the parent, so that it is held for just as long as somebody asks.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::super::{LARGEST, SecretWire, StoredSecret, Vault, VaultFault};
use super::act::{Act, Trouble, perform};
use super::{Answer, Keychain};
use crate::blocking;
use crate::durable;
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::process::{self, RunFault};
use crate::sys;

#[derive(Serialize, Deserialize)]
struct Question<'a> {
    act: Act,
    #[serde(borrow)]
    user: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    secret: Option<SecretWire<'a>>,
    /// The file whose lock is held meanwhile.
    lock: Cow<'a, Path>,
    /// How long the parent waits.
    patience_ms: u64,
}

/// Neither a secret nor a trouble: it is done.
#[derive(Serialize, Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    secret: Option<SecretWire<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trouble: Option<Trouble>,
}

/// The parent's side. The outer error says why the keychain was not asked, the inner one what it says.
pub(super) async fn ask(
    keychain: &Keychain,
    act: Act,
    user: &str,
    secret: Option<&StoredSecret>,
    until: Instant,
) -> Result<Answer, VaultFault> {
    let start = Instant::now();
    let patience = until.saturating_duration_since(start);
    let lock = keychain.state.join("keychain.lock");
    let question = Question {
        act,
        user: user.into(),
        secret: secret.map(SecretWire::from),
        lock: lock.into(),
        patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
    };
    let question =
        to_json(&question).ok_or_else(|| broken("what is to be asked of it is too large, or not UTF-8"))?;
    let mut command = Command::new(&keychain.program);
    command
        // The file may be named `keyring`, and then its name would choose the face.
        .arg0("valetkey")
        .arg(SUBCOMMAND)
        .current_dir("/")
        .env_clear()
        .envs(keychain.environment.iter().map(|(name, value)| (name, value)))
        .stderr(Stdio::null());
    let finished = process::run(&mut command, &question, until).await.map_err(|fault| match fault {
        RunFault::Start(error) => {
            broken(&format!("{} cannot be run to ask it: {error}", shown_path(&keychain.program)))
        }
        RunFault::Deadline => VaultFault::Unanswered { vault: Vault::Keychain, waited: start.elapsed() },
    })?;
    if !finished.status.success() {
        return Err(match finished.status.code() {
            Some(LATE) => VaultFault::Unanswered { vault: Vault::Keychain, waited: start.elapsed() },
            _ => broken(&format!("the process that asked it ended with {}", finished.status)),
        });
    }
    let nonsense = || broken("the process that asked it answered with something else than an answer");
    let reply: Reply<'_> = serde_json::from_slice(&finished.stdout).map_err(|_| nonsense())?;
    Ok(match (reply.trouble, reply.secret) {
        (Some(trouble), _) => Err(trouble),
        (None, Some(secret)) => Ok(Some(secret.into_secret().ok_or_else(nonsense)?)),
        (None, None) => Ok(None),
    })
}

/// The child's side: reads a question, asks the keychain, writes the answer. Blocks as long as the keychain does,
/// but not beyond the patience that the question names; then it ends the process.
///
/// # Errors
/// When the question is none, or the answer cannot be written. What the keychain refuses is an answer.
pub fn serve_child() -> Result<(), Failure> {
    let wrong = |problem: &str| Failure::new(Kind::Usage, format!("the question {problem}"));
    let mut input = Zeroizing::new(Vec::with_capacity(LONGEST + 64));
    io::stdin()
        .lock()
        .take(LONGEST as u64 + 1)
        .read_to_end(&mut input)
        .map_err(|error| wrong("cannot be read").with_cause(error))?;
    if input.len() > LONGEST {
        return Err(wrong("is too large"));
    }
    // The words of the parser would quote it.
    let question: Question<'_> = serde_json::from_slice(&input).map_err(|_| wrong("is not a question"))?;
    let late = |error: io::Error| Failure::new(Kind::Local, "cannot start a thread").with_cause(error);
    end_in_time(Duration::from_millis(question.patience_ms)).map_err(late)?;
    let (secret, trouble) = match answer(question) {
        Ok(secret) => (secret, None),
        Err(trouble) => (None, Some(trouble)),
    };
    let reply = Reply { secret: secret.as_ref().map(SecretWire::from), trouble };
    let output = to_json(&reply).unwrap_or_default();
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(&output)
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::new(Kind::Local, "cannot write the answer").with_cause(error))
}

fn answer(question: Question<'_>) -> Answer {
    let secret = question.secret.map(|wire| wire.into_secret().ok_or(Trouble::Malformed)).transpose()?;
    // The library waits for ever for threads that it cannot have: one for each core, and its own.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    blocking::check(cores + 1).map_err(|fault| Trouble::Broken(Failure::from(fault).one_line()))?;
    let _turn = take_turn(&question.lock).map_err(|error| {
        Trouble::Broken(format!("{} cannot be locked: {error}", shown_path(&question.lock)))
    })?;
    perform(question.act, &question.user, secret.as_ref())
}

/// Waits for the other children. The kernel ends the turn of one that dies.
fn take_turn(lock: &Path) -> io::Result<std::fs::File> {
    if let Some(state) = lock.parent() {
        durable::create_directory(state)?;
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = std::fs::File::from(rustix::fs::open(lock, flags, Mode::RUSR | Mode::WUSR)?);
    file.lock()?;
    Ok(file)
}

/// Ends this process when nobody waits for its answer any more.
fn end_in_time(patience: Duration) -> io::Result<()> {
    let end = std::time::Instant::now() + patience;
    let watch = move || {
        let stdout = io::stdout();
        // Asked for nothing, the kernel tells all the same that the reading end of a pipe is closed.
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            if poll(&mut watched, Some(&left)) != Err(rustix::io::Errno::INTR) {
                sys::end_process(LATE);
            }
        }
    };
    std::thread::Builder::new().name("patience".to_owned()).spawn(watch).map(drop)
}

fn to_json(value: &impl Serialize) -> Option<Zeroizing<Vec<u8>>> {
    // A vector that grows leaves copies behind.
    let mut json = Zeroizing::new(Vec::with_capacity(LONGEST));
    serde_json::to_writer(&mut *json, value).ok()?;
    (json.len() <= LONGEST).then_some(json)
}

fn broken(problem: &str) -> VaultFault {
    VaultFault::Broken { problem: problem.to_owned() }
}

/// The hidden subcommand that calls [`serve_child`].
const SUBCOMMAND: &str = "__vault";
/// The exit code of a child that was given up.
const LATE: i32 = 4;
/// A question or an answer: a secret and some words.
const LONGEST: usize = 2 * LARGEST;
