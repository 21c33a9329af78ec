//! The file vault under `kill -9`: at random moments, and at every system call of a write.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;
use valetkey::environment::Environment;
use valetkey::vault::{Vault, VaultFault, Vaults};

use super::harness::{Sandbox, is_ci};
use super::vault::{entry, secret};

/// Writes a login when it is told to, once for each word on its standard input; at the end of that the two words
/// in turns for ever. A program of its own, since it is to be killed.
#[test]
#[ignore = "the program that the other tests of this file kill"]
fn writer() {
    let Some(state) = Environment::capture().path("STATE") else { return };
    let vaults = Vaults::with_program(&Environment::default(), &state, "/nonexistent".into());
    // Its own way to wake itself up would be a `write` too; without one, those that are counted are the vault's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let write = |word: &str| {
        let until = Instant::now() + Duration::from_secs(60);
        runtime.block_on(vaults.write(Vault::File, &entry(), &secret(word), until))
    };
    println!("ready");
    for word in std::io::stdin().lines() {
        match write(&word.unwrap()) {
            Ok(()) => println!("written"),
            Err(fault) => println!("failed: {fault:?}"),
        }
    }
    for word in ["old", "new"].iter().cycle() {
        write(word).unwrap();
    }
}

/// The writer above, which is ready.
struct Writer {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Writer {
    fn start(state: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "--test-threads=1", "vault_crash::writer"])
            .env_clear()
            .env("STATE", state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut writer = Self { child, said };
        while writer.line().is_some_and(|line| line != "ready") {}
        writer
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.said.read_line(&mut line).unwrap();
        // The test harness prints its own beginning of a line.
        (read > 0).then(|| line.trim_end().rsplit(' ').next().unwrap_or_default().to_owned())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A state directory in which the old login may be.
struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("vk").tempdir().unwrap())
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn vaults(&self) -> Vaults {
        Vaults::with_program(&Environment::default(), &self.state(), "/nonexistent".into())
    }

    fn write(&self, word: &str) {
        block_on(async { self.vaults().write(Vault::File, &entry(), &secret(word), soon()).await }).unwrap();
    }

    /// Which of the words the vault holds, whole; none where there is no login.
    #[track_caller]
    fn word(&self) -> Option<&'static str> {
        match block_on(async { self.vaults().read(Vault::File, &entry(), soon()).await }) {
            Err(VaultFault::Missing { .. }) => None,
            Ok(found) => Some(["old", "new"].into_iter().find(|word| secret(word) == found).unwrap()),
            Err(fault) => panic!("{fault:?}"),
        }
    }

    /// Another one after each write.
    fn stamp(&self) -> (u64, i64) {
        let files = fs::read_dir(self.state().join("logins")).unwrap();
        let is_login = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
        let login = files.map(|file| file.unwrap().path()).find(is_login).unwrap();
        let data = login.metadata().unwrap();
        (data.ino(), data.mtime_nsec())
    }

    /// What must hold after a crash: nothing is open to others, and the next write takes away what the crash left.
    #[track_caller]
    fn assert_sound(&self) {
        let logins = self.state().join("logins");
        for directory in [&self.state(), &logins] {
            assert!(directory.metadata().map_or(0o700, |data| data.permissions().mode() & 0o777) == 0o700);
        }
        for file in fs::read_dir(&logins).into_iter().flatten().flatten() {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        }
        self.write("old");
        assert_eq!(self.word(), Some("old"));
        assert_eq!(fs::read_dir(&logins).unwrap().count(), 1);
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn a_writer_that_is_killed_at_any_moment_leaves_one_whole_login() {
    let disk = Disk::new();
    disk.write("old");
    let mut seen = [0; 2];
    for round in 0..200_u64 {
        let mut writer = Writer::start(&disk.state());
        let before = disk.stamp();
        drop(writer.child.stdin.take());
        Sandbox::wait_until("it writes", || disk.stamp() != before);
        // Not waiting for anything: the moment is what varies.
        std::thread::sleep(Duration::from_micros(round * 7919 % 20_000));
        drop(writer);
        match disk.word() {
            Some("old") => seen[0] += 1,
            Some("new") => seen[1] += 1,
            _ => panic!("round {round}: the login is gone"),
        }
        disk.assert_sound();
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}: the writer never got to write");
}

/// What becomes of a write when one of its system calls goes wrong.
#[derive(Debug, PartialEq)]
enum End {
    Killed,
    Failed,
    Written,
    /// It could not say.
    Mute,
}

/// Has the kernel's interface do `what` at the N-th call of `call` of a thread, once the writer has the word.
/// None where strace cannot do that here; else how the write ended, and whether it was disturbed.
fn disturbed_write(disk: &Disk, call: &str, what: &str, count: u32) -> Option<(End, bool)> {
    let mut writer = Writer::start(&disk.state());
    let log = disk.0.path().join("strace");
    // A call that this machine does not have is passed over for its question mark.
    let inject = format!("inject=?{call}:{what}:when={count}");
    let mut strace = Command::new("strace")
        .args(["-f", "-o"])
        .arg(&log)
        .args(["-e", &format!("trace=?{call}"), "-e", &inject, "-p", &writer.child.id().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut told = BufReader::new(strace.stderr.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    if !line.contains("attached") {
        println!("strace says {line}");
        let _ = strace.wait();
        return None;
    }
    // It may be dead before it has read it.
    let _ = writer.child.stdin.as_mut().unwrap().write_all(b"new\n");
    let end = match writer.line().as_deref() {
        None => End::Killed,
        Some("written") => End::Written,
        Some(_) => End::Failed,
    };
    let _ = writer.child.kill();
    let status = writer.child.wait().unwrap();
    // It panics where it is the word itself that cannot be written.
    let end = if status.signal() == Some(9) { end } else { End::Mute };
    let _ = told.read_to_string(&mut line);
    strace.wait().unwrap();
    let log = fs::read_to_string(log).unwrap_or_default();
    // It notes an error that it made up, not a signal that it sent.
    Some((end, log.contains("INJECTED")))
}

/// Disturbs the write at each call of each kind, on top of an old login or none, until it is not disturbed any
/// more. Says whether it could.
fn disturb_every_call(what: &str, mut check: impl FnMut(&End, Option<&str>)) -> bool {
    let mut disturbed = 0;
    for old in [None, Some("old")] {
        for call in CALLS {
            for count in 1.. {
                let disk = Disk::new();
                if let Some(old) = old {
                    disk.write(old);
                }
                let Some((end, was_disturbed)) = disturbed_write(&disk, call, what, count) else {
                    assert!(!is_ci(), "CI can trace its own processes");
                    println!("skipped: there is no strace, or it may not trace");
                    return false;
                };
                let word = disk.word();
                assert!(word == old || word == Some("new"), "{call} {count}: {end:?} left {word:?}");
                if end == End::Written {
                    assert_eq!(word, Some("new"), "{call} {count}: it was said to be written");
                }
                check(&end, word);
                disk.assert_sound();
                disturbed += u32::from(end != End::Written);
                assert!(end != End::Mute || call == "write", "{call} {count}");
                if end == End::Written && !was_disturbed {
                    break;
                }
                assert!(count < 40, "{call} is disturbed for ever");
            }
        }
    }
    assert!(disturbed > 15, "only {disturbed} calls were disturbed");
    true
}

#[test]
fn a_writer_that_is_killed_at_any_system_call_leaves_the_old_login_or_the_new_one() {
    let mut left = [0; 3];
    let ran = disturb_every_call("signal=KILL", |end, word| {
        assert!(matches!(end, End::Killed | End::Written), "{end:?}");
        left[match word {
            None => 0,
            Some("old") => 1,
            _ => 2,
        }] += 1;
    });
    assert!(!ran || left.iter().all(|count| *count > 0), "nothing, the old login, the new one: {left:?}");
}

#[test]
fn a_disk_that_fails_at_any_system_call_leaves_the_old_login_or_the_new_one() {
    for error in ["error=ENOSPC", "error=EIO"] {
        disturb_every_call(error, |end, _| assert_ne!(*end, End::Killed));
    }
}

/// Whatever makes, fills, syncs, moves or removes a file. Some exist on some processors only.
const CALLS: [&str; 13] = [
    "openat",
    "write",
    "fsync",
    "rename",
    "renameat",
    "renameat2",
    "mkdir",
    "mkdirat",
    "unlink",
    "unlinkat",
    "flock",
    "getdents64",
    "close",
];
