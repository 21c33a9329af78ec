//! A home of the demo's own in a private temporary directory: configuration, sign-in, PATH, sockets and logs. The
//! user's own are neither read nor written. When it goes, the daemon in it ends and the directory is removed.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use valetkey::clock::{Clock, between};
use valetkey::environment::Environment;

use crate::stand_in::StandIn;
use crate::trouble::{Trouble, cannot, run};

/// See the module.
#[derive(Debug)]
pub(crate) struct Place {
    top: PathBuf,
    valetkey: PathBuf,
    /// What a program needs of the user's own environment to start at all.
    libraries: Option<std::ffi::OsString>,
}

impl Place {
    /// Makes the directory, with `valetkey` as the `keyring` on PATH.
    pub(crate) fn new(environment: &Environment, valetkey: PathBuf) -> Result<Self, Trouble> {
        let libraries = environment.get("LD_LIBRARY_PATH").map(OsStr::to_owned);
        let place = Self { top: make_top()?, valetkey, libraries };
        for directory in ["home", "run", "bin", "tmp"] {
            private_directory(&place.path(directory))?;
        }
        for name in ["keyring", "valetkey"] {
            let link = place.path("bin").join(name);
            symlink(&place.valetkey, &link).map_err(cannot(format!("write {}", link.display())))?;
        }
        Ok(place)
    }

    /// Writes a configuration that names the stand-in, and the file that gcloud writes when a user signs in.
    pub(crate) fn sign_in(&self, google: &StandIn) -> Result<(), Trouble> {
        let authority = self.path("ca.pem");
        self.write(&authority, &google.ca_pem())?;
        let config = format!(
            "extra_ca = \"{}\"\n\n[daemon]\nauto_start = true\n\n[endpoints]\ntoken = \"{}\"\n\n\
             [[registry]]\nhost = \"localhost:{}\"\nformat = \"python\"\n",
            authority.display(),
            google.token_uri(),
            google.port(),
        );
        self.write(&self.path("home/.config/valetkey/config.toml"), &config)?;
        self.write(&self.sign_in_file(), &google.authorized_user(DEVELOPER))
    }

    /// The one file that holds secrets on purpose.
    pub(crate) fn sign_in_file(&self) -> PathBuf {
        self.path("home/.config/gcloud/application_default_credentials.json")
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.top.join(below)
    }

    /// A command that knows this home and nothing else.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let bin = self.path("bin");
        let mut command = Command::new(program);
        command
            .env_clear()
            .envs(self.libraries.as_ref().map(|libraries| ("LD_LIBRARY_PATH", libraries)))
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("TMPDIR", self.path("tmp"))
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("LANG", "C.UTF-8")
            .current_dir(self.path("home"))
            .stdin(Stdio::null());
        if Path::new(SYSTEM_SOCKET).exists() {
            // A system's daemon would decide in the place of ours.
            command.env("VALETKEY_CREDENTIAL", self.sign_in_file());
        }
        command
    }

    pub(crate) fn valetkey(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(self.path("bin/valetkey"));
        command.args(arguments);
        command
    }

    /// A text with this home as people write theirs.
    pub(crate) fn with_tilde(&self, text: &str) -> String {
        text.replace(&self.path("home").display().to_string(), "~")
    }

    /// Ends the daemon and removes everything.
    pub(crate) fn remove(self) -> Result<(), Trouble> {
        run(&mut self.valetkey(&["stop"]), "`valetkey stop`")?;
        if self.path("run/valetkey/valetkey.sock").exists() {
            return Err(Trouble::new("the daemon left its socket behind"));
        }
        fs::remove_dir_all(&self.top).map_err(cannot(format!("remove {}", self.top.display())))
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), Trouble> {
        let parent = path.parent().unwrap_or(&self.top);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .and_then(|()| options.open(path)?.write_all(text.as_bytes()))
            .map_err(cannot(format!("write {}", path.display())))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.path("run/valetkey/valetkey.sock").exists() {
            let _ = self.valetkey(&["stop"]).output();
        }
        let _ = fs::remove_dir_all(&self.top);
    }
}

/// A directory that nobody else can enter. Where the usual place is too deep for a socket's address, `/tmp` serves.
fn make_top() -> Result<PathBuf, Trouble> {
    let usual = std::env::temp_dir();
    let place = if usual.as_os_str().len() > DEEPEST { PathBuf::from("/tmp") } else { usual };
    let now = between(UNIX_EPOCH, Clock::system().now()).subsec_nanos();
    let top = place.join(format!("valetkey-demo-{}-{now:x}", std::process::id()));
    private_directory(&top)?;
    Ok(top)
}

fn private_directory(path: &Path) -> Result<(), Trouble> {
    fs::DirBuilder::new().mode(0o700).create(path).map_err(cannot(format!("make {}", path.display())))
}

pub(crate) const DEVELOPER: &str = "developer@example.com";
const SYSTEM_SOCKET: &str = "/run/valetkey/valetkey.sock";
/// A socket's address has room for 107 bytes.
const DEEPEST: usize = 30;
