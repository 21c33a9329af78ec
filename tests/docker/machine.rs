//! A machine on which Google's own names lead to the stand-in, for builds whose lock files name no other: nothing is
//! configured, and all that the machine trusts is the stand-in's authority.
//!
//! Only the daemon lives on it. It has a mount namespace of its own, with another list of hosts and other certificates;
//! a build reaches it by its socket, and knows no name of any registry at all.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use super::harness::{Daemon, Sandbox};
use super::prepared;
use super::scene::{Scene, args};
use super::stand_in::{Options, StandIn};

/// See the module.
pub(crate) struct Machine {
    pub(crate) scene: Scene,
}

impl Machine {
    /// `None` says why on standard error.
    pub(crate) fn new() -> Option<Self> {
        if !prepared::is_root() {
            return None;
        }
        let names = NAMES.map(str::to_owned);
        let address = own_address();
        let sandbox = Sandbox::with(Options {
            listen: SocketAddr::from((address, 443)),
            names: names.to_vec(),
            public_origin: Some(format!("https://{OAUTH}")),
            ..Options::default()
        });
        sandbox.sign_in();
        let machine = Self { scene: Scene { sandbox, flags: Vec::new() } };
        machine.configure("");
        let hosts = format!("127.0.0.1 localhost\n{address} {}\n", NAMES.join(" "));
        machine.scene.sandbox.write("hosts", &hosts);
        Some(machine)
    }

    /// The whole of the configuration.
    pub(crate) fn configure(&self, text: &str) {
        self.scene.sandbox.write("home/.config/valetkey/config.toml", text);
    }

    /// Has this machine trust another server, and know it by this name.
    pub(crate) fn knows(&self, name: &str, other: &StandIn) {
        let sandbox = &self.scene.sandbox;
        sandbox.write("ca.pem", &(sandbox.google.ca_pem() + &other.ca_pem()));
        let hosts = std::fs::read_to_string(sandbox.path("hosts")).expect("a file");
        sandbox.write("hosts", &format!("{hosts}127.0.0.1 {name}\n"));
    }

    /// Starts the daemon there, for the user who signed in.
    pub(crate) fn serve(&self) -> Daemon<'_> {
        self.serve_as(None)
    }

    /// The same with the key of a service account, whose tokens can be narrowed.
    pub(crate) fn serve_with_key(&self) -> Daemon<'_> {
        self.serve_as(Some(self.scene.sandbox.service_account()))
    }

    fn serve_as(&self, key: Option<PathBuf>) -> Daemon<'_> {
        let sandbox = &self.scene.sandbox;
        let mut command = sandbox.command("/usr/bin/unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-ec", MOVE_IN, "sh"])
            .arg(sandbox.path(""))
            .arg(super::harness::VALETKEY)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(key.map(|key| ("GOOGLE_APPLICATION_CREDENTIALS", key)));
        sandbox.serve_with(&mut command)
    }

    /// The flags of a build that may read these repositories, and has no network.
    pub(crate) fn flags(&self, repositories: &[&str]) -> Vec<String> {
        let mut flags = args(&self.scene.sandbox, repositories);
        flags.extend(["--network".to_owned(), "none".to_owned()]);
        flags
    }
}

/// An address for this test alone: there is one port 443 on each.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(64);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, NEXT.fetch_add(1, Ordering::Relaxed), high, low)
}

/// Takes the sandbox's directory and the command.
const MOVE_IN: &str = "mount --bind \"$1/hosts\" /etc/hosts; mount -t tmpfs tmpfs /etc/ssl/certs; \
    cp \"$1/ca.pem\" /etc/ssl/certs/ca-certificates.crt; export PATH=\"$1/bin\"; shift; exec \"$@\"";
pub(crate) const PYTHON: &str = "europe-west1-python.pkg.dev";
pub(crate) const NPM: &str = "europe-west1-npm.pkg.dev";
const OAUTH: &str = "oauth2.googleapis.com";
/// All that lead to the stand-in. Its repositories are the same at each; those that the API tells of are in `europe`.
const NAMES: [&str; 5] = [PYTHON, NPM, OAUTH, "europe-python.pkg.dev", "artifactregistry.googleapis.com"];
