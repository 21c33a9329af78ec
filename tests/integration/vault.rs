//! The file vault on a real file system, and the child that asks the keychain, without a keychain.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;
use valetkey::ask::Access;
use valetkey::environment::Environment;
use valetkey::error::{Failure, Fault, Kind};
use valetkey::secret::Secret;
use valetkey::vault::{Entry, StoredSecret, Vault, VaultFault, Vaults};

use super::harness::{Sandbox, VALETKEY, is_ci};

/// A state directory, and the vaults in it.
pub(crate) struct Place {
    pub(crate) top: TempDir,
    pub(crate) vaults: Vaults,
}

impl Place {
    fn new() -> Self {
        Self::with(&[], VALETKEY)
    }

    fn with(environment: &[(&str, &OsStr)], program: impl Into<PathBuf>) -> Self {
        let top = tempfile::Builder::new().prefix("vk").tempdir().unwrap();
        let environment: Environment = environment.iter().copied().collect();
        let vaults = Vaults::with_program(&environment, &top.path().join("state"), program.into());
        Self { top, vaults }
    }

    fn logins(&self) -> PathBuf {
        self.top.path().join("state/logins")
    }

    /// The file of [`entry`].
    fn file(&self) -> PathBuf {
        self.logins().join("4e118570214eaf717a5e5b67d283a1b4.json")
    }
}

pub(crate) fn entry() -> Entry {
    Entry { account: "developer@acme.example".to_owned(), access: Access::Read }
}

/// Long enough to be written in parts, if anything were.
pub(crate) fn secret(word: &str) -> StoredSecret {
    StoredSecret {
        refresh_token: Secret::new(format!("1//fake-{word}-").repeat(80)),
        client_id: "client".to_owned(),
        client_secret: Secret::new(format!("fake-{word}")),
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// What a person would be told: one line with a remedy, and nothing of a secret in it.
#[track_caller]
fn told(fault: VaultFault, kind: Kind, words: &[&str]) {
    assert_eq!(fault.kind(), kind, "{fault:?}");
    assert!(fault.hint().is_some(), "{fault:?}");
    let line = Failure::from(fault).one_line();
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {line:?}");
    }
    assert!(!line.contains("fake-"), "{line}");
}

#[tokio::test]
async fn a_login_in_the_file_vault_is_whole_private_and_gone_when_deleted() {
    let place = Place::new();
    let vaults = &place.vaults;
    let missing = vaults.read(Vault::File, &entry(), soon()).await.unwrap_err();
    assert!(missing.is_missing() && !missing.is_absent_keychain());
    told(
        missing,
        Kind::NeedsLogin,
        &["no read login of", "`valetkey login --account developer@acme.example`"],
    );
    vaults.delete(Vault::File, &entry(), soon()).await.unwrap();
    assert!(!place.top.path().join("state").exists(), "looking leaves nothing behind");
    vaults.probe(Vault::File, soon()).await.unwrap();
    for word in ["one", "two"] {
        vaults.write(Vault::File, &entry(), &secret(word), soon()).await.unwrap();
        assert_eq!(vaults.read(Vault::File, &entry(), soon()).await.unwrap(), secret(word));
    }
    let write = Entry { access: Access::Write, ..entry() };
    assert!(vaults.read(Vault::File, &write, soon()).await.unwrap_err().is_missing(), "another token");
    let modes = [place.top.path().join("state"), place.logins(), place.file()].map(|path| mode(&path));
    assert_eq!(modes, [0o700, 0o700, 0o600]);
    assert_eq!(fs::read_dir(place.logins()).unwrap().count(), 1);
    vaults.delete(Vault::File, &entry(), soon()).await.unwrap();
    assert!(!place.file().exists());
    vaults.delete(Vault::File, &entry(), soon()).await.unwrap();
}

#[tokio::test]
async fn a_wide_state_directory_is_taken_and_a_wide_login_directory_is_not() {
    let place = Place::new();
    fs::create_dir(place.top.path().join("state")).unwrap();
    set_mode(&place.top.path().join("state"), 0o755);
    let vaults = &place.vaults;
    vaults.write(Vault::File, &entry(), &secret("one"), soon()).await.unwrap();
    assert_eq!(mode(&place.logins()), 0o700);
    set_mode(&place.logins(), 0o750);
    let wrong = ["logins has mode 0750", "chmod go="];
    told(vaults.read(Vault::File, &entry(), soon()).await.unwrap_err(), Kind::Local, &wrong);
    told(vaults.write(Vault::File, &entry(), &secret("two"), soon()).await.unwrap_err(), Kind::Local, &wrong);
    told(vaults.delete(Vault::File, &entry(), soon()).await.unwrap_err(), Kind::Local, &wrong);
    told(vaults.probe(Vault::File, soon()).await.unwrap_err(), Kind::Local, &wrong);
    set_mode(&place.logins(), 0o700);
    assert_eq!(vaults.read(Vault::File, &entry(), soon()).await.unwrap(), secret("one"));
}

#[tokio::test]
async fn a_link_in_the_place_of_the_login_directory_is_refused() {
    let place = Place::new();
    fs::create_dir_all(place.top.path().join("elsewhere")).unwrap();
    set_mode(&place.top.path().join("elsewhere"), 0o700);
    fs::create_dir(place.top.path().join("state")).unwrap();
    symlink(place.top.path().join("elsewhere"), place.logins()).unwrap();
    let fault = place.vaults.write(Vault::File, &entry(), &secret("one"), soon()).await.unwrap_err();
    told(fault, Kind::Local, &["is a symbolic link"]);
    assert_eq!(fs::read_dir(place.top.path().join("elsewhere")).unwrap().count(), 0);
}

/// What can be in the place of the file, and what is said about it.
#[tokio::test]
async fn a_file_that_others_could_have_written_or_read_is_not_taken() {
    type Spoil = fn(&Path);
    let spoils: [(Spoil, Kind, &str); 8] = [
        (|file| set_mode(file, 0o640), Kind::Local, "has mode 0640"),
        (|file| set_mode(file, 0o602), Kind::Local, "has mode 0602"),
        (|file| link_away(file), Kind::Local, "is a symbolic link"),
        (|file| replace_by(file, |file| fs::create_dir(file).unwrap()), Kind::Local, "is a directory"),
        (|file| replace_by(file, make_pipe), Kind::Local, "not a regular file"),
        (|file| fs::write(file, "{\"refresh_token\":\"1//fa").unwrap(), Kind::NeedsLogin, "is not one"),
        (|file| fs::write(file, "").unwrap(), Kind::NeedsLogin, "is not one"),
        (|file| fs::write(file, vec![b' '; 1 << 20]).unwrap(), Kind::Local, "too large"),
    ];
    for (spoil, kind, word) in spoils {
        let place = Place::new();
        place.vaults.write(Vault::File, &entry(), &secret("one"), soon()).await.unwrap();
        spoil(&place.file());
        told(place.vaults.read(Vault::File, &entry(), soon()).await.unwrap_err(), kind, &[word]);
        if place.file().is_dir() {
            continue;
        }
        // A new sign-in mends it.
        place.vaults.write(Vault::File, &entry(), &secret("two"), soon()).await.unwrap();
        assert_eq!(place.vaults.read(Vault::File, &entry(), soon()).await.unwrap(), secret("two"), "{word}");
        assert_eq!(mode(&place.file()), 0o600);
    }
}

fn replace_by(file: &Path, make: impl FnOnce(&Path)) {
    fs::remove_file(file).unwrap();
    make(file);
}

fn make_pipe(file: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

fn link_away(file: &Path) {
    let away = file.with_extension("away");
    fs::rename(file, &away).unwrap();
    symlink(&away, file).unwrap();
}

#[tokio::test]
async fn a_file_of_another_user_is_not_taken() {
    let place = Place::new();
    place.vaults.write(Vault::File, &entry(), &secret("one"), soon()).await.unwrap();
    if chown(place.file(), Some(65_534), None).is_err() {
        assert!(!is_ci(), "CI runs this as root");
        println!("skipped: giving a file away needs root");
        return;
    }
    let fault = place.vaults.read(Vault::File, &entry(), soon()).await.unwrap_err();
    told(fault, Kind::Local, &["belongs to uid 65534"]);
}

#[tokio::test]
async fn a_writer_that_keeps_its_turn_is_waited_for_until_the_deadline() {
    let place = Place::new();
    place.vaults.write(Vault::File, &entry(), &secret("one"), soon()).await.unwrap();
    let turn = fs::File::open(place.logins()).unwrap();
    turn.lock().unwrap();
    let until = || Instant::now() + Duration::from_millis(300);
    let fault = place.vaults.write(Vault::File, &entry(), &secret("two"), until()).await.unwrap_err();
    told(fault, Kind::Deadline, &["the file did not answer within 1 s"]);
    let read = place.vaults.read(Vault::File, &entry(), until()).await.unwrap();
    assert_eq!(read, secret("one"), "a reader waits for nobody");
    drop(turn);
    place.vaults.write(Vault::File, &entry(), &secret("two"), soon()).await.unwrap();
}

#[tokio::test]
async fn what_is_too_large_for_a_vault_is_refused_before_anything_is_written() {
    let place = Place::new();
    place.vaults.write(Vault::File, &entry(), &secret("one"), soon()).await.unwrap();
    let large = StoredSecret { refresh_token: Secret::new("x".repeat(1 << 20)), ..secret("two") };
    let fault = place.vaults.write(Vault::File, &entry(), &large, soon()).await.unwrap_err();
    told(fault, Kind::NeedsLogin, &["would be too large"]);
    assert_eq!(place.vaults.read(Vault::File, &entry(), soon()).await.unwrap(), secret("one"));
}

/// The child, with a question on its standard input.
fn child(top: &Path, question: &[u8]) -> Output {
    let mut child = child_command(top).spawn().unwrap();
    // It may end without having read all of it.
    let _ = child.stdin.take().unwrap().write_all(question);
    child.wait_with_output().unwrap()
}

fn child_command(top: &Path) -> Command {
    let mut command = Command::new(VALETKEY);
    command.arg("__vault").env_clear().env("HOME", top).env("XDG_RUNTIME_DIR", top);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn question(top: &Path, act: &str, patience_ms: u64) -> Vec<u8> {
    let lock = top.join("state/keychain.lock");
    serde_json::json!({"act": act, "user": "a@acme.example read", "lock": lock, "patience_ms": patience_ms})
        .to_string()
        .into_bytes()
}

#[test]
fn the_child_refuses_what_is_no_question_and_quotes_nothing_of_it() {
    let top = tempfile::tempdir().unwrap();
    let mut unknown = question(top.path(), "copy", 1000);
    let huge = [question(top.path(), "read", 1000), vec![b' '; 1 << 20]].concat();
    let cases = [
        (b"".to_vec(), "is not a question"),
        (b"fake-secret".to_vec(), "is not a question"),
        (br#"{"act":"write","secret":{"refresh_token":"fake-"#.to_vec(), "is not a question"),
        (br#"{"act":"read","secret":"fake-secret"}"#.to_vec(), "is not a question"),
        (std::mem::take(&mut unknown), "is not a question"),
        (vec![0xff; 100], "is not a question"),
        (huge, "is too large"),
    ];
    for (input, word) in cases {
        let output = child(top.path(), &input);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(word), "{stderr}");
        assert!(!stderr.contains("fake-"), "{stderr}");
    }
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
}

#[test]
fn the_child_says_that_there_is_no_keychain() {
    let top = tempfile::tempdir().unwrap();
    for act in ["read", "delete", "probe"] {
        let output = child(top.path(), &question(top.path(), act, 5000));
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
            (Some(0), r#"{"trouble":{"no-keychain":"there is no session bus"}}"#),
            "{act}"
        );
    }
    assert_eq!(mode(&top.path().join("state/keychain.lock")), 0o600);
}

#[test]
fn the_child_does_not_talk_to_a_terminal() {
    let top = tempfile::tempdir().unwrap();
    let mut command = Command::new("script");
    command.args(["-qec", &format!("{VALETKEY} __vault"), "/dev/null"]);
    command.env_clear().env("HOME", top.path()).env("SHELL", "/bin/sh").stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(2) && said.contains("is for valetkey itself"), "{output:?}");
}

/// A bus that takes connections and never says a word.
fn silent_bus(top: &Path) -> UnixListener {
    UnixListener::bind(top.join("bus")).unwrap()
}

#[test]
fn the_child_ends_when_its_patience_does_or_nobody_listens_any_more() {
    let top = tempfile::tempdir().unwrap();
    let _bus = silent_bus(top.path());
    let output = child(top.path(), &question(top.path(), "read", 200));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(4), 0), "{output:?}");
    // Nobody listens from the beginning, and from some point on.
    for closed_early in [true, false] {
        let start = std::time::Instant::now();
        let mut child = child_command(top.path()).spawn().unwrap();
        let mut stdout = child.stdout.take();
        if closed_early {
            stdout = None;
        }
        child.stdin.take().unwrap().write_all(&question(top.path(), "read", 60_000)).unwrap();
        if !closed_early {
            Sandbox::wait_until("it holds the lock", || {
                fs::File::open(top.path().join("state/keychain.lock"))
                    .is_ok_and(|lock| lock.try_lock().is_err())
            });
        }
        drop(stdout);
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = child.wait().unwrap();
        assert_eq!((status.code(), stderr.as_str()), (Some(4), ""), "closed early: {closed_early}");
        assert!(start.elapsed().as_secs() < 30, "closed early: {closed_early}: it ended by its patience");
    }
}

#[tokio::test]
async fn a_keychain_that_hangs_costs_the_deadline_and_leaves_no_child() {
    let top = tempfile::tempdir().unwrap();
    let _bus = silent_bus(top.path());
    let place = Place::with(&[("XDG_RUNTIME_DIR", top.path().as_os_str())], VALETKEY);
    let until = || Instant::now() + Duration::from_millis(500);
    for _ in 0..2 {
        let fault = place.vaults.read(Vault::Keychain, &entry(), until()).await.unwrap_err();
        let words = ["the keychain did not answer within 1 s", "the window that asks", "vault = \"file\""];
        told(fault, Kind::Deadline, &words);
        let lock = fs::File::open(place.top.path().join("state/keychain.lock")).unwrap();
        Sandbox::wait_until("the child is gone", || lock.try_lock().is_ok());
    }
    // Who waits for his turn waits no longer than who asks.
    let lock = fs::File::open(place.top.path().join("state/keychain.lock")).unwrap();
    lock.lock().unwrap();
    let fault = place.vaults.probe(Vault::Keychain, until()).await.unwrap_err();
    assert!(matches!(fault, VaultFault::Unanswered { .. }), "{fault:?}");
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_no_hang() {
    let place = Place::new();
    for vault in [Vault::Keychain, Vault::File] {
        let fault = place.vaults.write(vault, &entry(), &secret("one"), Instant::now()).await;
        assert!(matches!(fault, Err(VaultFault::Unanswered { .. }) | Ok(())), "{fault:?}");
    }
}

#[tokio::test]
async fn a_machine_without_a_keychain_is_told_apart() {
    let place = Place::with(&[("XDG_RUNTIME_DIR", OsStr::new("/nonexistent"))], VALETKEY);
    let fault = place.vaults.write(Vault::Keychain, &entry(), &secret("one"), soon()).await.unwrap_err();
    assert!(fault.is_absent_keychain() && !fault.is_missing(), "{fault:?}");
    told(fault, Kind::Local, &["there is no keychain here", "vault = \"file\""]);
}

/// A program in the place of the child.
fn place_with_script(script: &str) -> Place {
    let mut place = Place::with(&[], "/nonexistent/program");
    let path = place.top.path().join("program");
    if !script.is_empty() {
        fs::write(&path, format!("#!/bin/sh\ncd {}\n{script}\n", place.top.path().display())).unwrap();
        set_mode(&path, 0o700);
        let environment: Environment = [
            ("PATH", "/usr/bin:/bin"),
            ("HOME", "/h"),
            ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/b"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/fake-key.json"),
            ("LD_PRELOAD", "/fake-library.so"),
        ]
        .into_iter()
        .collect();
        place.vaults = Vaults::with_program(&environment, &place.top.path().join("state"), path);
    }
    place
}

#[tokio::test]
async fn a_child_that_fails_or_talks_nonsense_is_a_broken_keychain() {
    for script in ["", "exit 7", "kill -9 $$", "cat >/dev/null", "echo nonsense", "echo '{\"secret\":1}'"] {
        let place = place_with_script(script);
        let fault = place.vaults.read(Vault::Keychain, &entry(), soon()).await.unwrap_err();
        told(fault, Kind::Local, &["the keychain failed: "]);
    }
    // Done is no secret.
    let place = place_with_script("echo '{}'");
    let fault = place.vaults.read(Vault::Keychain, &entry(), soon()).await.unwrap_err();
    told(fault, Kind::Local, &["gave no secret"]);
    let endless = place_with_script("yes");
    let until = Instant::now() + Duration::from_millis(500);
    let fault = endless.vaults.read(Vault::Keychain, &entry(), until).await.unwrap_err();
    assert!(matches!(fault, VaultFault::Unanswered { .. }), "{fault:?}");
}

#[tokio::test]
async fn what_a_child_started_ends_with_it() {
    let place = place_with_script("sleep 600 & echo $! > pid; wait");
    let until = Instant::now() + Duration::from_secs(1);
    let fault = place.vaults.read(Vault::Keychain, &entry(), until).await.unwrap_err();
    assert!(matches!(fault, VaultFault::Unanswered { .. }), "{fault:?}");
    let pid = fs::read_to_string(place.top.path().join("pid")).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    Sandbox::wait_until("the grandchild is gone", || {
        fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))
    });
}

#[tokio::test]
async fn the_child_gets_the_secret_by_its_input_alone() {
    let script = "tr '\\0' '\\n' < /proc/$$/cmdline > cmdline; env > env; cat > input; echo '{}'";
    let place = place_with_script(script);
    place.vaults.write(Vault::Keychain, &entry(), &secret("one"), soon()).await.unwrap();
    let said = |name: &str| fs::read_to_string(place.top.path().join(name)).unwrap();
    assert!(said("input").contains("1//fake-one-") && said("input").contains("developer@acme.example read"));
    assert!(said("cmdline").trim_end().ends_with("__vault"), "{}", said("cmdline"));
    for name in ["cmdline", "env"] {
        assert!(!said(name).contains("fake-"), "{}", said(name));
    }
    assert!(said("env").contains("HOME=/h") && said("env").contains("DBUS_SESSION_BUS_ADDRESS=unix:path=/b"));
}
