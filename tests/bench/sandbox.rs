//! A home for one build of valetkey: directories, configuration, credentials, and the daemon in it.
//!
//! The tests' own harness is for tests: it hunts for leaks and names the build that cargo made for them. Paths and
//! environments here are equally long for every build, so that none has more to copy than another.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::stand_in::StandIn;
use super::table::Target;

/// What is measured.
#[derive(Debug)]
pub(crate) struct Build {
    pub name: &'static str,
    pub binary: PathBuf,
    /// For `keyring get` against `/bin/true`.
    pub warm_target: Target,
}

/// See the module. Dropping it ends the daemon and removes the directory.
pub(crate) struct Sandbox<'a> {
    pub build: Build,
    pub google: &'a StandIn,
    top: PathBuf,
}

impl<'a> Sandbox<'a> {
    /// A home with a sign-in, as gcloud leaves one. The configuration names the stand-in, and `keyring` on PATH is
    /// this build and nothing else.
    pub(crate) fn new(build: Build, google: &'a StandIn) -> Self {
        let mut directory = fs::DirBuilder::new();
        directory.mode(0o700);
        let top = std::env::temp_dir().join(format!("vkbench-{:08x}", rand::random::<u32>()));
        directory.create(&top).expect("a directory of our own");
        for below in ["home", "run", "bin", "tmp"] {
            directory.create(top.join(below)).expect("a directory");
        }
        symlink(&build.binary, top.join("bin/keyring")).expect("a link");
        symlink(&build.binary, top.join("bin/valetkey")).expect("a link");
        let sandbox = Self { build, google, top };
        sandbox.configure("", "");
        sandbox.write(
            "home/.config/gcloud/application_default_credentials.json",
            &google.authorized_user("developer@acme.example"),
        );
        sandbox
    }

    /// Writes the configuration anew: the stand-in, whatever these certificates vouch for, and these lines.
    pub(crate) fn configure(&self, certificates: &str, lines: &str) {
        let ca = self.write("ca.pem", &(self.google.ca_pem() + certificates));
        let (ca, origin) = (ca.display(), self.google.origin());
        let text = format!("extra_ca = \"{ca}\"\n[endpoints]\ntoken = \"{origin}/token\"\n{lines}");
        self.write("home/.config/valetkey/config.toml", &text);
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.top.join(below)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/valetkey/valetkey.sock")
    }

    /// A command in this home. Its output comes by a pipe, its complaints go nowhere.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("TMPDIR", self.path("tmp"))
            .env("PATH", self.path("bin"))
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    /// `keyring get` for a service.
    pub(crate) fn get(&self, service: &str, username: &str) -> Command {
        let mut command = self.command(self.path("bin/keyring"));
        command.args(["get", service, username]);
        command
    }

    /// Starts a daemon in the foreground, which holds no token yet.
    pub(crate) fn serve(&self) -> Child {
        let mut command = self.command(self.path("bin/valetkey"));
        let mut child = command.arg("serve").stdout(Stdio::null()).spawn().expect("a daemon");
        self.wait_until("the daemon serves", || {
            assert!(child.try_wait().expect("a status").is_none(), "the daemon ended at once");
            std::os::unix::net::UnixStream::connect(self.socket()).is_ok()
        });
        child
    }

    /// Asks once, which starts the daemon and fills its cache, and tells the daemon's pid.
    pub(crate) fn first_ask(&self) -> u32 {
        let output = self.get(INDEX, USERNAME).output().expect("a process");
        assert!(output.stdout.starts_with(b"ya29."), "{}: no token for the first ask", self.build.name);
        self.daemon().expect("the first ask started a daemon")
    }

    /// The daemon that started by itself.
    pub(crate) fn daemon(&self) -> Option<u32> {
        let note = fs::read(self.path("run/valetkey/daemon.lock")).ok()?;
        let note: serde_json::Value = serde_json::from_slice(&note).ok()?;
        let pid = u32::try_from(note.get("pid")?.as_u64()?).ok()?;
        self.socket().exists().then_some(pid)
    }

    /// Ends the daemon, if there is one, and waits until it is gone.
    pub(crate) fn stop(&self) {
        let Some(pid) = self.daemon() else { return };
        let _ = self.command(self.path("bin/valetkey")).arg("stop").output();
        self.wait_until("the daemon ends", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
    }

    pub(crate) fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let give_up = Instant::now() + Duration::from_secs(15);
        while !holds() {
            assert!(Instant::now() < give_up, "{}: {what}: it never came to that", self.build.name);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Writes a file that only this user can read, with the directories above it.
    pub(crate) fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.path(below);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        path
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
        // A daemon that is left ends when its socket goes.
        let _ = fs::remove_dir_all(&self.top);
    }
}

/// Runs a command to its end: how long it took, how it ended, and what it said.
pub(crate) fn timed(command: &mut Command) -> (Duration, Option<i32>, Vec<u8>) {
    let mut said = Vec::with_capacity(4096);
    let start = Instant::now();
    let mut child = command.spawn().expect("a process");
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut said).expect("what it says");
    }
    let status = child.wait().expect("a status");
    (start.elapsed(), status.code(), said)
}

/// A registry of Google's. Nothing connects to it: only the token is fetched, and that from the stand-in.
pub(crate) const INDEX: &str = "https://europe-west1-python.pkg.dev/acme/private/simple/";
pub(crate) const USERNAME: &str = "oauth2accesstoken";
