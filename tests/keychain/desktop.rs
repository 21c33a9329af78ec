//! A desktop for one test: a session bus, a real gnome-keyring on it, a home of its own, and, where somebody is to
//! be asked for a password, a screen with the real prompter.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use valetkey::environment::Environment;
use valetkey::vault::Vaults;

/// See the module. Everything that it started ends with it.
pub(crate) struct Desktop {
    top: TempDir,
    bus: Option<Child>,
    keyring: Option<Child>,
    screen: Option<(Child, String)>,
}

impl Desktop {
    /// A home, and no bus.
    pub(crate) fn new() -> Self {
        let top = tempfile::Builder::new().prefix("vk").tempdir().unwrap();
        for directory in ["home", "run", "services"] {
            fs::DirBuilder::new().mode(0o700).create(top.path().join(directory)).unwrap();
        }
        Self { top, bus: None, keyring: None, screen: None }
    }

    /// A desktop on which the keychain is unlocked; none where this machine lacks what it needs.
    pub(crate) fn unlocked() -> Option<Self> {
        if !has(&["dbus-daemon", "dbus-send", "gnome-keyring-daemon"]) {
            return None;
        }
        let mut desktop = Self::new();
        desktop.start_bus();
        desktop.start_keyring(Some(PASSWORD));
        Some(desktop)
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.top.path().join(below)
    }

    /// The vaults of this desktop's user.
    pub(crate) fn vaults(&self) -> Vaults {
        let environment: Environment = self.variables().into_iter().collect();
        Vaults::with_program(&environment, &self.path("state"), env!("CARGO_BIN_EXE_valetkey").into())
    }

    pub(crate) fn start_bus(&mut self) {
        // As a session bus has it: everybody may do everything.
        let configuration = format!(
            "<busconfig><type>session</type><listen>{}</listen><auth>EXTERNAL</auth><servicedir>{}</servicedir>\
             <policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/>\
             <allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>",
            self.address(),
            self.path("services").display()
        );
        fs::write(self.path("bus.conf"), configuration).unwrap();
        let mut command = self.command("dbus-daemon");
        command.arg(format!("--config-file={}", self.path("bus.conf").display()));
        command.args(["--nofork", "--print-address=1"]);
        if let Some((_, display)) = &self.screen {
            // What it starts inherits that.
            command.env("DISPLAY", display);
        }
        let mut bus = command.stdout(Stdio::piped()).spawn().unwrap();
        first_line(&mut bus);
        self.bus = Some(bus);
    }

    /// Starts the keychain, unlocked where there is a password.
    pub(crate) fn start_keyring(&mut self, password: Option<&str>) {
        self.kill_keyring();
        let mut command = self.command("gnome-keyring-daemon");
        command.args(["--foreground", "--components=secrets"]).stdout(Stdio::null());
        if password.is_some() {
            command.arg("--unlock");
        }
        let mut keyring = command.stdin(Stdio::piped()).spawn().unwrap();
        keyring.stdin.take().unwrap().write_all(password.unwrap_or_default().as_bytes()).unwrap();
        self.keyring = Some(keyring);
        wait_until("the keychain serves", || self.has_owner("org.freedesktop.secrets"));
    }

    /// As `kill -9`.
    pub(crate) fn kill_keyring(&mut self) {
        end(self.keyring.take());
        if self.bus.is_some() {
            wait_until("the name is free", || !self.has_owner("org.freedesktop.secrets"));
        }
    }

    /// The pid of the keychain, to be killed while something else runs.
    pub(crate) fn keyring_pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(self.keyring.as_ref().unwrap())
    }

    /// Gives the desktop a screen, and the real program that asks for passwords on it. False where this machine
    /// lacks it.
    pub(crate) fn add_screen(&mut self) -> bool {
        let service = Path::new("/usr/share/dbus-1/services").join(PROMPTER_SERVICE);
        if !has(&["Xvfb", "xdotool"]) || !service.exists() {
            assert!(!is_ci(), "CI has {PROMPTER_SERVICE}");
            return false;
        }
        let mut screen = self
            .command("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let display = format!(":{}", first_line(&mut screen).trim());
        self.screen = Some((screen, display));
        symlink(service, self.path("services").join(PROMPTER_SERVICE)).unwrap();
        end(self.keyring.take());
        end(self.bus.take());
        self.start_bus();
        true
    }

    /// Whether a window asks for a password.
    pub(crate) fn is_asked(&self) -> bool {
        self.has_owner(PROMPTER)
            && self
                .on_screen(&["search", "--onlyvisible", "--name", "."])
                .is_some_and(|found| !found.is_empty())
    }

    /// Types the password into the window.
    pub(crate) fn answer(&self) {
        self.on_screen(&["type", "--delay", "10", PASSWORD]).unwrap();
        self.on_screen(&["key", "Return"]).unwrap();
    }

    fn on_screen(&self, arguments: &[&str]) -> Option<String> {
        let (_, display) = self.screen.as_ref()?;
        let output = self.command("xdotool").args(arguments).env("DISPLAY", display).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// What `secret-tool`, which is none of ours, finds in the keychain.
    pub(crate) fn look_up(&self, user: &str) -> String {
        let arguments = ["lookup", "service", "valetkey", "username", user];
        let output = self.command("secret-tool").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn has_owner(&self, name: &str) -> bool {
        let output = self
            .command("dbus-send")
            .args([&format!("--bus={}", self.address()), "--print-reply", "--dest=org.freedesktop.DBus"])
            .args(["/", "org.freedesktop.DBus.NameHasOwner", &format!("string:{name}")])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).contains("boolean true")
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.path("bus").display())
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("HOME", self.path("home").display().to_string()),
            ("XDG_RUNTIME_DIR", self.path("run").display().to_string()),
            ("DBUS_SESSION_BUS_ADDRESS", self.address()),
            ("PATH", "/usr/bin:/bin".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
        ]
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.variables()).current_dir(self.top.path());
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        // A program that the bus started ends with its connection to it.
        end(self.keyring.take());
        end(self.bus.take());
        end(self.screen.take().map(|(screen, _)| screen));
    }
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "it says nothing");
    line
}

/// Waits until something holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < give_up, "{what}: it never came to that");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether all of these programs are there. With `CI` set they have to be.
pub(crate) fn has(programs: &[&str]) -> bool {
    let usual: Environment = [("PATH", "/usr/bin:/bin")].into_iter().collect();
    let missing: Vec<_> = programs.iter().filter(|name| usual.find_program(name).is_none()).collect();
    assert!(missing.is_empty() || !is_ci(), "CI has {missing:?}");
    if !missing.is_empty() {
        println!("skipped: there is no {missing:?}");
    }
    missing.is_empty()
}

fn is_ci() -> bool {
    Environment::capture().get("CI").is_some()
}

/// Of the keychain; made for the test and good for nothing else.
pub(crate) const PASSWORD: &str = "fakepassword";
const PROMPTER: &str = "org.gnome.keyring.SystemPrompter";
const PROMPTER_SERVICE: &str = "org.gnome.keyring.SystemPrompter.service";
