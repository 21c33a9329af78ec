//! A sandbox for one test: its own HOME, XDG directories, PATH, socket and stand-in, and an empty environment,
//! since the machine may carry a real gcloud, TLS variables and a pip configuration.
//!
//! Everything that a program says in a sandbox is kept, and when the sandbox goes, all of it and every file that
//! valetkey left behind is searched for every secret that the stand-in ever gave out.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    clippy::panic,
    reason = "each test target uses a part, and a test fails by panicking"
)]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::hunt::Hunt;
use super::stand_in::{OAuthClient, Options, StandIn};

#[path = "hunt.rs"]
pub mod hunt;

/// See the module.
pub struct Sandbox {
    pub google: StandIn,
    top: TempDir,
    said: Mutex<Vec<u8>>,
    /// Switched off by tests whose own files hold secrets on purpose.
    pub hunts_leaks: bool,
}

/// What a program did.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Sandbox {
    /// A home with a configuration that names the stand-in, and `keyring` on PATH. No credential yet.
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let top = tempfile::Builder::new().prefix("vk").tempdir().expect("a directory");
        let google = StandIn::start(options);
        let sandbox = Self { google, top, said: Mutex::default(), hunts_leaks: true };
        for directory in ["home", "run", "bin", "tmp"] {
            fs::DirBuilder::new().mode(0o700).create(sandbox.path(directory)).expect("a directory");
        }
        symlink(VALETKEY, sandbox.path("bin/valetkey")).expect("a link");
        symlink(VALETKEY, sandbox.path("bin/keyring")).expect("a link");
        fs::write(sandbox.path("ca.pem"), sandbox.google.ca_pem()).expect("a file");
        sandbox.configure("");
        sandbox
    }

    /// Writes the configuration that names the stand-in, with `more` behind it.
    pub fn configure(&self, more: &str) {
        let (ca, origin, port) = (self.path("ca.pem"), self.google.origin(), self.google.port());
        let text = format!(
            "extra_ca = \"{}\"\n[endpoints]\ntoken = \"{origin}/token\"\n[[registry]]\nhost = \"localhost:{port}\"\n{more}",
            ca.display()
        );
        self.write(CONFIGURATION, &text);
    }

    /// Adds a line to the endpoints of a configuration that was written before.
    pub fn configure_endpoint(&self, line: &str) {
        let text = fs::read_to_string(self.path(CONFIGURATION)).expect("a configuration");
        self.write(CONFIGURATION, &text.replacen("[endpoints]\n", &format!("[endpoints]\n{line}\n"), 1));
    }

    /// As [`Sandbox::configure`], with all that a login needs: every endpoint, and a desktop client of its own.
    pub fn configure_login(&self, more: &str) -> OAuthClient {
        let (ca, origin, port) = (self.path("ca.pem"), self.google.origin(), self.google.port());
        let (authorization, revocation) =
            (self.google.authorization_endpoint(), self.google.revocation_endpoint());
        let client = self.google.desktop_client();
        let text = format!(
            "extra_ca = \"{}\"\nvault = \"file\"\n[oauth]\nclient_id = \"{}\"\nclient_secret = \"{}\"\n\
             [endpoints]\ntoken = \"{origin}/token\"\nauthorization = \"{authorization}\"\n\
             revocation = \"{revocation}\"\n[[registry]]\nhost = \"localhost:{port}\"\n{more}",
            ca.display(),
            client.id,
            client.secret,
        );
        self.write(CONFIGURATION, &text);
        client
    }

    /// A path below the sandbox's directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.top.path().join(below)
    }

    /// Writes a file that only this user can read, with the directories above it.
    pub fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.path(below);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        path
    }

    /// Puts a script on PATH.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        // What is there may be a link to the program itself, which a write would follow.
        let below = format!("bin/{name}");
        let _ = fs::remove_file(self.path(&below));
        let text = self.write(&format!("{below}.text"), text);
        let path = self.copy(&text, &below);
        fs::remove_file(text).expect("the text");
        path
    }

    /// Copies a program, by a process of its own: a thread of this one that forks meanwhile would hold the copy open for
    /// writing a little longer, and what is open for writing cannot be run.
    pub fn copy(&self, program: impl AsRef<Path>, below: &str) -> PathBuf {
        let path = self.path(below);
        let status = Command::new("cp").arg(program.as_ref()).arg(&path).status().expect("cp");
        assert!(status.success(), "{} is not copied", path.display());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
        path
    }

    /// Signs a user in, as gcloud would: the identity for which a daemon starts.
    pub fn sign_in(&self) -> PathBuf {
        self.write(ADC, &self.google.authorized_user("developer@acme.example"))
    }

    /// A service account's key: an identity for which no daemon starts.
    pub fn service_account(&self) -> PathBuf {
        self.write("home/key.json", &self.google.service_account_key("builder@acme.iam.gserviceaccount.com"))
    }

    /// The private index.
    pub fn index(&self) -> String {
        self.google.index_url("acme", "private")
    }

    /// The index with the user name in it, as pip before 26.2 needs it.
    pub fn index_with_user(&self) -> String {
        self.index().replace("https://", "https://oauth2accesstoken@")
    }

    pub fn runtime(&self) -> PathBuf {
        self.path("run/valetkey")
    }

    pub fn socket(&self) -> PathBuf {
        self.path("run/valetkey/valetkey.sock")
    }

    /// The log of a daemon that started by itself.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("home/.local/state/valetkey/daemon.log")).unwrap_or_default()
    }

    /// A command in the sandbox's environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("TMPDIR", self.path("tmp"))
            .env("PATH", self.path("bin"))
            .env("LANG", "C.UTF-8")
            .current_dir(self.path("home"))
            .stdin(Stdio::null());
        command
    }

    pub fn valetkey(&self) -> Command {
        self.command(VALETKEY)
    }

    /// `keyring` with these arguments.
    pub fn keyring<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(self.path("bin/keyring"));
        command.args(arguments);
        command
    }

    /// The plainest question of all.
    pub fn get(&self) -> Command {
        self.keyring([OsString::from("get"), self.index().into(), "oauth2accesstoken".into()])
    }

    /// Runs a command to its end, which it must reach by itself within half a minute.
    pub fn run(&self, command: &mut Command) -> Run {
        let start = Instant::now();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
        let run = finish(child, start, Duration::from_secs(60));
        self.hear(run.stderr.as_bytes());
        if run.code != Some(0) {
            self.hear(run.stdout.as_bytes());
        }
        run
    }

    /// Starts the daemon in the foreground and waits until it serves.
    pub fn serve(&self) -> Daemon<'_> {
        self.serve_with(&mut self.valetkey())
    }

    pub fn serve_with(&self, command: &mut Command) -> Daemon<'_> {
        let log = self.path("serve.log");
        let file = fs::OpenOptions::new().append(true).create(true).open(&log).expect("a log");
        let mut child = command.arg("serve").stdout(Stdio::null()).stderr(file).spawn().expect("a process");
        let give_up = Instant::now() + Duration::from_secs(10);
        while !is_alive(&self.socket()) {
            if let Some(status) = child.try_wait().expect("a status") {
                panic!("the daemon ended with {status}: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            assert!(Instant::now() < give_up, "the daemon does not serve");
            std::thread::sleep(Duration::from_millis(5));
        }
        Daemon { child, sandbox: self, log }
    }

    /// Waits until something holds.
    pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
        let give_up = Instant::now() + Duration::from_secs(15);
        while !holds() {
            assert!(Instant::now() < give_up, "{what}: it never came to that");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the daemon that started by itself, if there is one.
    pub fn stop(&self) {
        if self.socket().exists() {
            let _ = self.run(self.valetkey().arg("stop"));
        }
    }

    /// Ends the daemon as an update does, so that the next one opens the sockets of builds again.
    pub fn make_room(&self) {
        let mut stream = UnixStream::connect(self.socket()).expect("a daemon");
        let message =
            "POST /v1/stop?successor HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(message.as_bytes()).expect("a daemon");
        let lock = fs::File::open(self.runtime().join("daemon.lock")).expect("a lock");
        Self::wait_until("the old daemon is gone", || lock.try_lock().is_ok());
    }

    /// Keeps what a program said, for the leak hunt.
    pub fn hear(&self, bytes: &[u8]) {
        self.said.lock().expect("a lock").extend_from_slice(bytes);
    }

    /// Searches everything that was said and left behind for every secret there is: all but the file vault, whose
    /// purpose it is to hold refresh tokens. The configuration may hold clients' secrets, and no other.
    #[track_caller]
    pub fn hunt(&self) {
        let (vault, configuration) = (self.path(VAULT), self.path(CONFIGURATION));
        self.hunt_for(&self.google.secrets(), std::slice::from_ref(&vault));
        self.hunt_for(&self.google.client_secrets(), &[vault, configuration]);
    }

    #[track_caller]
    fn hunt_for(&self, secrets: &[String], but: &[PathBuf]) {
        let mut hunt = Hunt::new(secrets);
        hunt.search("output", &self.said.lock().expect("a lock"));
        for below in
            ["home/.local", "home/.config/valetkey", "home/.cache/valetkey", "run", "tmp", "serve.log"]
        {
            hunt.search_path(&self.path(below), but);
        }
        assert!(hunt.found.is_empty(), "a secret is in {}", hunt.found.join(" and in "));
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop();
        if self.hunts_leaks && !std::thread::panicking() {
            self.hunt();
        }
    }
}

/// A daemon in the foreground. Ends with the value.
pub struct Daemon<'a> {
    pub child: Child,
    sandbox: &'a Sandbox,
    log: PathBuf,
}

impl Daemon<'_> {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// As `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn terminate(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        self.child.wait().expect("a status")
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            self.kill();
        }
        self.sandbox.hear(self.log().as_bytes());
    }
}

/// Waits for a process that has its output piped.
pub fn finish(mut child: Child, start: Instant, patience: Duration) -> Run {
    let read = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                let _ = stream.read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let stdout = read(child.stdout.take().map(|it| Box::new(it) as Box<dyn Read + Send>));
    let stderr = read(child.stderr.take().map(|it| Box::new(it) as Box<dyn Read + Send>));
    let status = loop {
        if let Some(status) = child.try_wait().expect("a status") {
            break status;
        }
        if start.elapsed() > patience {
            let _ = child.kill();
            panic!("the program hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let took = start.elapsed();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    let stdout = text(stdout.join().expect("a reader"));
    let stderr = text(stderr.join().expect("a reader"));
    Run { code: status.code(), status, stdout, stderr, took }
}

/// With `CI` set, a test that cannot be run has failed.
#[allow(clippy::disallowed_methods, reason = "a test may look at its own environment")]
pub fn is_ci() -> bool {
    std::env::var_os("CI").is_some()
}

/// Whether a daemon answers: that it listens is not enough.
fn is_alive(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let mut reply = Vec::new();
    let asked = stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    asked.and_then(|()| stream.read_to_end(&mut reply)).is_ok() && reply.starts_with(b"HTTP/1.1 200 ")
}

pub const VALETKEY: &str = env!("CARGO_BIN_EXE_valetkey");
/// Where logins are kept on a machine without a keychain, below the sandbox's directory.
pub const VAULT: &str = "home/.local/state/valetkey/logins";
pub const CONFIGURATION: &str = "home/.config/valetkey/config.toml";
/// Where gcloud writes its sign-in, below the sandbox's directory.
pub const ADC: &str = "home/.config/gcloud/application_default_credentials.json";
