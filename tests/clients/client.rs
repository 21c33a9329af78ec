//! A client in the virtual environment that `tests/prepare-clients` made for it, and what it leaves behind.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::harness::{Run, Sandbox, finish};

/// Who the user is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Identity {
    /// Signed in as with gcloud: the first ask starts a daemon, which keeps the token.
    User,
    /// A key file that the environment names: no daemon, so that each call of `keyring` is one request for a token.
    ServiceAccount,
}

impl Identity {
    pub(crate) const BOTH: [Self; 2] = [Self::User, Self::ServiceAccount];
}

/// A virtual environment.
pub(crate) struct Client {
    venv: PathBuf,
}

impl Client {
    /// `None` where the environments were not made, which is a failure where `CI=true`.
    pub(crate) fn find(name: &str) -> Option<Self> {
        let made = std::env::var_os("VALETKEY_TEST_CLIENTS")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients"), PathBuf::from);
        // As it is when made: the stamp is written last.
        let venv = made.join(name);
        if venv.join("stamp").exists() {
            return Some(Self { venv });
        }
        skip(&format!("there is no {}: run tests/prepare-clients", venv.display()));
        None
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.venv.join("bin").join(name)
    }

    /// One of its programs, in an environment that knows the sandbox's authority and nothing of this machine.
    pub(crate) fn command(&self, sandbox: &Sandbox, identity: Identity, program: &str) -> Command {
        let mut command = sandbox.command(self.program(program));
        let authority = sandbox.path("ca.pem");
        command
            .env("PIP_CONFIG_FILE", "/dev/null")
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("PIP_RETRIES", "0")
            .env("PIP_CERT", &authority)
            .env("SSL_CERT_FILE", &authority)
            .env("REQUESTS_CA_BUNDLE", &authority);
        match identity {
            Identity::User => drop(sandbox.sign_in()),
            Identity::ServiceAccount => {
                command.env("GOOGLE_APPLICATION_CREDENTIALS", sandbox.service_account());
            }
        }
        command
    }

    /// `pip install` of what these arguments say, into [`site`], with the provider that calls programs. From 23.1
    /// on pip asks it even where it may not prompt.
    pub(crate) fn pip_install(&self, sandbox: &Sandbox, identity: Identity, index: &str) -> Command {
        let mut command = self.command(sandbox, identity, "python");
        command
            .args(["-m", "pip", "install", "--no-cache-dir", "--index-url", index, "--target"])
            .arg(site(sandbox))
            .env("PIP_KEYRING_PROVIDER", "subprocess");
        command
    }

    /// What a program that was installed into [`site`] prints.
    pub(crate) fn assert_installed(&self, sandbox: &Sandbox) {
        let code = "import acme_hello, acme_greeting; print(acme_greeting.GREETING, acme_hello.MESSAGE)";
        let mut command = sandbox.command(self.program("python"));
        let run = sandbox.run(command.args(["-c", code]).env("PYTHONPATH", site(sandbox)));
        assert_eq!(run.stdout, "hello hello from a private index\n", "{run:?}");
    }
}

/// Where packages go that are installed in a test: the virtual environments are shared.
pub(crate) fn site(sandbox: &Sandbox) -> PathBuf {
    sandbox.path("home/site")
}

/// As [`Sandbox::run`], for clients, which take their time: making an environment takes seconds, and other tests run.
/// All that it prints is searched for secrets, be it successful or not.
pub(crate) fn run(sandbox: &Sandbox, command: &mut Command) -> Run {
    let start = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    let run = finish(child, start, Duration::from_secs(150));
    sandbox.hear(run.stdout.as_bytes());
    sandbox.hear(run.stderr.as_bytes());
    run
}

#[track_caller]
pub(crate) fn assert_success(run: &Run) {
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
}

/// A `keyring` before ours on PATH that notes its arguments and becomes ours. The note is what a client says.
pub(crate) struct Spy {
    directory: PathBuf,
}

impl Spy {
    pub(crate) fn new(sandbox: &Sandbox) -> Self {
        let directory = sandbox.path("spy");
        let real = sandbox.path("bin/keyring");
        let text = format!(
            "#!/bin/sh\n{{ for word; do printf '<%s>' \"$word\"; done; echo; }} >>\"$0.calls\"\nexec '{}' \"$@\"\n",
            real.display()
        );
        let program = sandbox.write("spy/keyring", &text);
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).expect("a mode");
        Self { directory }
    }

    pub(crate) fn watch(&self, sandbox: &Sandbox, command: &mut Command) {
        command.env("PATH", path([&self.directory, &sandbox.path("bin")]));
    }

    /// The arguments of each call, each in angle brackets.
    pub(crate) fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.join("keyring.calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// A value for PATH.
pub(crate) fn path<T: AsRef<OsStr>>(directories: impl IntoIterator<Item = T>) -> std::ffi::OsString {
    std::env::join_paths(directories).expect("directories without colons")
}

/// Says why a test is not run. Where everything has to be there, that is a failure.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{reason}");
    eprintln!("skipped: {reason}");
}
