//! `valetkey token --output`: a token in a file, once and kept fresh.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::harness::Sandbox;
use super::stand_in::Fault;

/// A sandbox whose tokens live for so long.
fn with_tokens(seconds: u64) -> (Sandbox, std::path::PathBuf) {
    let sandbox = Sandbox::new();
    sandbox.google.set_token_lifetime(Duration::from_secs(seconds));
    let key = sandbox.service_account();
    (sandbox, key)
}

fn token(sandbox: &Sandbox, key: &Path, path: &Path, more: &[&str]) -> Command {
    let mut command = sandbox.valetkey();
    command.args(["token", "--format", "json", "--credential"]).arg(key).arg("--output").arg(path).args(more);
    command
}

/// A run that keeps a file. Ends with the value.
struct Keeper<'a> {
    child: Child,
    sandbox: &'a Sandbox,
}

impl<'a> Keeper<'a> {
    fn start(sandbox: &'a Sandbox, key: &Path, path: &Path) -> Self {
        let mut command = token(sandbox, key, path, &["--keep"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Sandbox::wait_until("a token is there", || path.exists());
        Self { child, sandbox }
    }

    fn end(mut self, signal: Signal) -> (ExitStatus, String) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let status = self.child.wait().unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(self.child.stderr.as_mut().unwrap(), &mut said).unwrap();
        self.sandbox.hear(said.as_bytes());
        (status, said)
    }
}

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The token in it, which has to be whole.
fn read(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text:?}"));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    value["password"].as_str().unwrap().to_owned()
}

#[test]
fn a_token_goes_into_a_file_of_ones_own_and_not_to_the_output() {
    let (sandbox, key) = with_tokens(3599);
    let path = sandbox.path("home/token");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let run = sandbox.run(&mut token(&sandbox, &key, &path, &[]));
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""), "{run:?}");
    assert!(read(&path).starts_with("ya29."));
    let run = sandbox.run(sandbox.valetkey().args(["token", "--keep"]));
    assert!(run.code == Some(2) && run.stderr.contains("--output"), "{run:?}");
    let mut relative = token(&sandbox, &key, Path::new("beside"), &[]);
    assert_eq!(sandbox.run(&mut relative).code, Some(0));
    assert!(read(&sandbox.path("home/beside")).starts_with("ya29."));
}

#[test]
fn a_kept_token_is_renewed_before_it_dies_and_goes_at_the_end() {
    let (sandbox, key) = with_tokens(4);
    let path = sandbox.path("home/token");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let keeper = Keeper::start(&sandbox, &key, &path);
        let first = read(&path);
        Sandbox::wait_until("there is a new one", || read(&path) != first);
        let (status, said) = keeper.end(signal);
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(!path.exists() && said.contains("keeping a token in"), "{said}");
    }
    let left: Vec<_> =
        fs::read_dir(sandbox.path("home")).unwrap().flatten().map(|it| it.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".new-")), "{left:?}");
}

#[test]
fn a_token_is_kept_while_none_can_be_had_and_removed_by_nobody_else() {
    let (sandbox, key) = with_tokens(4);
    let path = sandbox.path("home/token");
    let keeper = Keeper::start(&sandbox, &key, &path);
    let first = read(&path);
    sandbox.google.token_fault_always(Some(Fault::oauth_error("invalid_grant", "no")));
    let asked = sandbox.google.token_requests().len();
    Sandbox::wait_until("it was tried", || sandbox.google.token_requests().len() > asked + 1);
    assert_eq!(read(&path), first);
    sandbox.google.token_fault_always(None);
    Sandbox::wait_until("there is a new one", || read(&path) != first);
    // Whoever removes it gets it again, and what another one puts there is not ours to remove.
    fs::remove_file(&path).unwrap();
    Sandbox::wait_until("it is back", || path.exists());
    sandbox.google.token_fault_always(Some(Fault::oauth_error("invalid_grant", "no")));
    fs::write(sandbox.path("home/theirs"), "{\"password\":\"theirs\"}").unwrap();
    fs::rename(sandbox.path("home/theirs"), &path).unwrap();
    let (status, said) = keeper.end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(said.matches("the old token stays").count(), 1, "{said}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\"password\":\"theirs\"}");
}

#[test]
fn two_may_keep_the_same_file() {
    let (sandbox, key) = with_tokens(4);
    let path = sandbox.path("home/token");
    let keepers = [Keeper::start(&sandbox, &key, &path), Keeper::start(&sandbox, &key, &path)];
    let first = read(&path);
    Sandbox::wait_until("there is a new one", || read(&path) != first);
    let [one, other] = keepers;
    assert_eq!(one.end(Signal::TERM).0.code(), Some(0));
    Sandbox::wait_until("the other one has it", || path.exists());
    assert!(read(&path).starts_with("ya29."));
    assert_eq!(other.end(Signal::TERM).0.code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn what_is_no_file_of_ones_own_is_left_alone() {
    let (sandbox, key) = with_tokens(3599);
    let target = sandbox.write("home/target", "mine");
    let link = sandbox.path("home/link");
    symlink(&target, &link).unwrap();
    for (path, word) in [
        (link.as_path(), "is a link"),
        (&sandbox.path("home"), "is no file"),
        (Path::new("/dev/null"), "is no file"),
        (&sandbox.path("home/missing/token"), "cannot write"),
        (&sandbox.path("home/target/token"), "cannot write"),
    ] {
        for more in [&[][..], &["--keep"]] {
            let run = sandbox.run(&mut token(&sandbox, &key, path, more));
            assert!(run.code.is_some_and(|code| code != 0) && run.stdout.is_empty(), "{run:?}");
            assert!(run.stderr.contains(word), "{word}: {run:?}");
        }
    }
    assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
    assert!(link.is_symlink());
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let (sandbox, key) = with_tokens(3599);
    let key = key.display();
    let script = format!(
        "cp /run/secrets/valetkey /run/secrets/token; dd if=/dev/zero of=/run/secrets/full bs=4k 2>/dev/null\n\
         valetkey token --credential {key} --output /run/secrets/token; echo $?\n\
         valetkey token --credential {key} --output /run/secrets/token --keep; echo $?\n\
         cat /run/secrets/token; ls -A /run/secrets"
    );
    let Some(run) = super::listeners::with_file(&sandbox, "/run/secrets", "valetkey", "old", &script) else {
        return;
    };
    assert_eq!(run.stderr.matches("No space left on device").count(), 2, "{run:?}");
    assert_eq!(run.stdout, "3\n3\noldfull\ntoken\nvaletkey\n", "{run:?}");
}
