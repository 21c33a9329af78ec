//! A home of the demo's own in a private temporary directory: configuration, sign-in, PATH, sockets and logs. The
//! user's own are neither read nor written. When it goes, the daemon in it ends and the directory is removed.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
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

    /// Writes a configuration that names the stand-in. The vault is a file in this home: the user's own keychain is
    /// not touched.
    pub(crate) fn configure(&self, google: &StandIn) -> Result<(), Trouble> {
        let authority = self.path("ca.pem");
        self.write(&authority, &google.ca_pem())?;
        let client = google.desktop_client();
        let config = format!(
            "extra_ca = \"{}\"\nvault = \"file\"\n\n[daemon]\nauto_start = true\n\n\
             [endpoints]\ntoken = \"{}\"\nauthorization = \"{}\"\nrevocation = \"{}\"\n\n\
             [oauth]\nclient_id = \"{}\"\nclient_secret = \"{}\"\n\n\
             [[registry]]\nhost = \"localhost:{}\"\nformat = \"python\"\n",
            authority.display(),
            google.token_uri(),
            google.authorization_endpoint(),
            google.revocation_endpoint(),
            client.id,
            client.secret,
            google.port(),
        );
        self.write(&self.path("home/.config/valetkey/config.toml"), &config)
    }

    /// Writes the file that gcloud writes when a user signs in.
    pub(crate) fn sign_in_as_gcloud(&self, google: &StandIn) -> Result<(), Trouble> {
        self.write(&self.path(GCLOUD), &google.authorized_user(DEVELOPER))
    }

    /// `valetkey login` in this home, with the user's own terminal and browser.
    pub(crate) fn login(&self, environment: &Environment) -> Result<Command, Trouble> {
        let mut command = self.valetkey(&["login"]);
        command.stdin(Stdio::inherit());
        command.envs(DESKTOP.iter().filter_map(|name| Some((*name, environment.get(name)?))));
        // The browser is the user's own, with the user's own home.
        let of_user = |name: &str| environment.get(name).map(|value| (format!("USERS_{name}"), value));
        command
            .envs(["HOME", "PATH", "XDG_RUNTIME_DIR", "TMPDIR", "BROWSER"].into_iter().filter_map(of_user));
        if DESKTOP.iter().chain(&["BROWSER"]).any(|name| environment.get(name).is_some()) {
            let opener = self.path("bin/open-in-browser");
            self.write(&opener, OPENER)?;
            fs::set_permissions(&opener, fs::Permissions::from_mode(0o700))
                .map_err(cannot(format!("write {}", opener.display())))?;
            command.env("BROWSER", opener);
        }
        Ok(command)
    }

    /// What holds secrets on purpose.
    pub(crate) fn secret_places(&self) -> [PathBuf; 2] {
        [self.path(GCLOUD), self.path("home/.local/state/valetkey/logins")]
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
            let file = self.path(GCLOUD);
            command.env("VALETKEY_CREDENTIAL", if file.exists() { file } else { DEVELOPER.into() });
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

/// Opens an address with the home that the user has outside of the demo.
const OPENER: &str = r#"#!/bin/sh
export HOME="$USERS_HOME" PATH="$USERS_PATH"
if [ -n "$USERS_XDG_RUNTIME_DIR" ]; then export XDG_RUNTIME_DIR="$USERS_XDG_RUNTIME_DIR"; else unset XDG_RUNTIME_DIR; fi
if [ -n "$USERS_TMPDIR" ]; then export TMPDIR="$USERS_TMPDIR"; else unset TMPDIR; fi
if [ -n "$USERS_BROWSER" ]; then export BROWSER="$USERS_BROWSER"; exec ${USERS_BROWSER%%:*} "$1"; fi
unset BROWSER
exec xdg-open "$1"
"#;
/// What tells a program where the desktop is.
const DESKTOP: [&str; 8] = [
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "DBUS_SESSION_BUS_ADDRESS",
    "XDG_CURRENT_DESKTOP",
    "XDG_SESSION_TYPE",
    "WSL_DISTRO_NAME",
    "WSL_INTEROP",
];
const GCLOUD: &str = "home/.config/gcloud/application_default_credentials.json";
pub(crate) const DEVELOPER: &str = "developer@acme.example";
const SYSTEM_SOCKET: &str = "/run/valetkey/valetkey.sock";
/// A socket's address has room for 107 bytes.
const DEEPEST: usize = 30;
