//! A Node program of this directory that speaks JSON, a line each way. Rust says what happens; Node stays dumb.
//!
//! Every answer is waited for with a deadline, and the program ends with the value: its stdin closes, and what does
//! not heed that is killed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::is_ci;

/// What the tests need of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    node: PathBuf,
    pub(crate) chromium: PathBuf,
}

impl Machine {
    /// `None` where something is missing, which is a failure where `CI` is set.
    pub(crate) fn find() -> Option<Self> {
        let found = look();
        if let Err(reason) = &found {
            assert!(!is_ci(), "{reason}");
            eprintln!("skipped: {reason}");
        }
        found.ok()
    }
}

fn look() -> Result<Machine, String> {
    let node = on_path("node").ok_or("there is no node; on Debian: apt-get install nodejs npm")?;
    let chromium = on_path("chromium").ok_or("there is no chromium; on Debian: apt-get install chromium")?;
    // Written last by `tests/prepare-browser`, with the lock file it obeyed.
    let wanted = fs::read(directory().join("package-lock.json")).expect("a lock file");
    if fs::read(directory().join("node_modules/.installed")).ok() != Some(wanted) {
        return Err("the Node packages of the tests are not there: run tests/prepare-browser".to_owned());
    }
    Ok(Machine { node, chromium })
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|program| program.is_file())
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser")
}

/// A running program.
pub(crate) struct Node {
    child: Child,
    speech: Mutex<Speech>,
    /// What it answered to the first line.
    pub(crate) ready: Value,
    errors: PathBuf,
}

struct Speech {
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Node {
    /// Starts `script`, with `place` for everything that it wants to keep.
    pub(crate) fn start(machine: &Machine, script: &str, place: &Path, first: &Value) -> Self {
        fs::create_dir_all(place).expect("a directory");
        let errors = place.join("errors");
        let mut child = Command::new(&machine.node)
            .arg(directory().join(script))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", place)
            .env("TMPDIR", place)
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&errors).expect("a file"))
            .spawn()
            .expect("a process");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut node =
            Self { child, speech: Mutex::new(Speech { stdin, answers }), ready: Value::Null, errors };
        node.ready = node.say(first);
        node
    }

    /// Has it do something, and panics where that fails.
    #[track_caller]
    pub(crate) fn ask(&self, what: &str, mut details: Value) -> Value {
        details["do"] = json!(what);
        let mut answer = self.say(&details);
        if let Some(error) = answer.get("error") {
            panic!("{details}: {}", error.as_str().unwrap_or_default());
        }
        answer["done"].take()
    }

    #[track_caller]
    fn say(&self, value: &Value) -> Value {
        let mut speech = self.speech.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let stdin = speech.stdin.as_mut().expect("it is running");
        let written = writeln!(stdin, "{value}").and_then(|()| stdin.flush());
        let answer = written.ok().and_then(|()| speech.answers.recv_timeout(PATIENCE).ok());
        let Some(answer) = answer else {
            panic!("no answer from Node: {}", fs::read_to_string(&self.errors).unwrap_or_default());
        };
        serde_json::from_str(&answer).expect("an answer in JSON")
    }

    /// Ends it and waits until it has.
    pub(crate) fn stop(&mut self) {
        let speech = self.speech.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(speech.stdin.take());
        let give_up = Instant::now() + Duration::from_secs(15);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > give_up {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Longer than the programs themselves wait for a page, so that the reason comes from them.
const PATIENCE: Duration = Duration::from_secs(60);
