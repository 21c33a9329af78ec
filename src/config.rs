//! Settings, with one precedence: flags, then `VALETKEY_*`, then `config.toml` of the user, then
//! `/etc/valetkey/config.toml`, then defaults.
//!
//! What widens trust, registry hosts and endpoints, comes from the files only, never from flags, the environment
//! or the working directory, and a file that other users can write is refused. An unknown key is an error that
//! names key, file and line. A section is a file.

mod daemon;
mod endpoints;
mod fault;
mod identities;
pub mod index;
pub mod listeners;
pub mod policy;
mod private_group;
mod read;
mod repositories;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use self::daemon::Daemon;
pub use self::daemon::LogLevel;
pub use self::endpoints::EndpointUrls;
pub use self::fault::ConfigFault;
pub use self::identities::{AccountRule, OauthClient, VaultChoice};
use self::index::Index;
use self::listeners::{ExtraListener, Terms};
use self::policy::{POLICY, Policy};
pub use self::read::line_of;
use self::read::{Keeper, line_at, parse, read};
use crate::environment::Environment;
use crate::error::shown::shown_path;
use crate::error::shown::{KEY, is_key};
use crate::paths::Paths;
use crate::registry::Hosts;
use crate::registry::configured::host_and_port;
pub use crate::registry::{ExtraRegistry, Format};

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Config {
    /// Registry hosts beyond Google's own, as the files name them.
    pub registries: Vec<ExtraRegistry>,
    /// Where a registry may send downloads on to, beside Cloud Storage, as `host` or `host:port`.
    pub redirect_hosts: Vec<String>,
    /// Certificates to trust beside the system's.
    pub extra_ca: Option<PathBuf>,
    /// Where secrets may go, and a person may be sent, instead of Google's own endpoints.
    pub endpoints: EndpointUrls,
    /// Where the secrets of stored logins rest.
    pub vault: VaultChoice,
    /// The OAuth client to sign in with.
    pub oauth_client: Option<OauthClient>,
    /// Which login is for which registry; the first that matches decides.
    pub accounts: Vec<AccountRule>,
    /// On which terms builds and containers are served.
    pub build: Terms,
    /// Further listeners.
    pub listeners: Vec<ExtraListener>,
    /// The merged Python index.
    pub index: Option<Index>,
    /// The ceiling.
    pub policy: Policy,
    /// Whether a helper may start the daemon.
    pub auto_start: bool,
    /// After this time without work a daemon ends.
    pub idle: Duration,
    /// How much is logged.
    pub log: LogLevel,
    /// The files that were read, for `doctor`.
    pub files: Vec<PathBuf>,
}

impl Config {
    /// Reads both files, the policy and the variables.
    ///
    /// # Errors
    /// When a file is there and wrong, or a variable means nothing.
    pub fn load(environment: &Environment, paths: &Paths) -> Result<Self, ConfigFault> {
        let user = paths.configuration.as_ref().map(|directory| directory.join("config.toml"));
        let machine = Some((PathBuf::from(MACHINE), Keeper::Machine));
        let mut config = Self::default();
        let mut listed = Vec::new();
        // Where `[build]` is to be written that nobody has written yet.
        config.build.place = user.as_ref().map(|path| shown_path(path));
        for (path, keeper) in [machine, user.map(|path| (path, Keeper::User))].into_iter().flatten() {
            if let Some(text) = read(&path, keeper)? {
                config.overlay(parse::<File>(&path, &text)?.placed(&path, &text));
                listed.extend(repositories::listed(&path, &text)?);
                config.files.push(path);
            }
        }
        let path = PathBuf::from(POLICY);
        if let Some(text) = read(&path, Keeper::Machine)? {
            config.policy = parse(&path, &text)?;
            let policy = &config.policy;
            config.registries.retain(|registry| policy.allows_host(&registry.host));
            listed.extend(repositories::listed(&path, &text)?);
            config.files.push(path);
        }
        let hosts = Hosts::new(&config.registries);
        listed.into_iter().try_for_each(|listed| listed.check(&hosts))?;
        config.overlay_variables(environment)?;
        Ok(config)
    }

    /// Puts one file on top of what is known: lists grow, single values replace.
    fn overlay(&mut self, file: File) {
        self.registries.extend(file.registry);
        self.redirect_hosts.extend(file.redirect_hosts.into_iter().map(|host| host.0));
        self.extra_ca = file.extra_ca.or(self.extra_ca.take());
        self.endpoints.overlay(file.endpoints);
        self.vault = file.vault.unwrap_or(self.vault);
        self.oauth_client = file.oauth.or(self.oauth_client.take());
        // The user's own rules come before those of the machine.
        self.accounts.splice(0..0, file.account);
        if let Some(build) = file.build {
            self.build = build.into_inner();
        }
        self.listeners.extend(file.listener.into_iter().map(Spanned::into_inner));
        // As a whole: an order that two files make together is one that nobody has written.
        self.index = file.index.or(self.index.take());
        self.auto_start = file.daemon.auto_start.unwrap_or(self.auto_start);
        self.idle = file.daemon.idle.unwrap_or(self.idle);
        self.log = file.log.unwrap_or(self.log);
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            registries: Vec::new(),
            redirect_hosts: Vec::new(),
            extra_ca: None,
            endpoints: EndpointUrls::default(),
            vault: VaultChoice::Auto,
            oauth_client: None,
            accounts: Vec::new(),
            build: Terms::default(),
            listeners: Vec::new(),
            index: None,
            policy: Policy::default(),
            auto_start: true,
            idle: Duration::from_secs(3600),
            log: LogLevel::Info,
            files: Vec::new(),
        }
    }
}

/// `config.toml` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    #[serde(deserialize_with = "path")]
    extra_ca: Option<PathBuf>,
    log: Option<LogLevel>,
    redirect_hosts: Vec<HostAndPort>,
    registry: Vec<ExtraRegistry>,
    endpoints: EndpointUrls,
    vault: Option<VaultChoice>,
    oauth: Option<OauthClient>,
    account: Vec<AccountRule>,
    build: Option<Spanned<Terms>>,
    listener: Vec<Spanned<ExtraListener>>,
    index: Option<Index>,
    daemon: Daemon,
}

impl File {
    /// With the line of `[build]` and of each listener, for refusals at it.
    fn placed(mut self, path: &Path, text: &str) -> Self {
        if let Some(build) = &mut self.build {
            let line = line_at(text, build.span().start);
            build.get_mut().place = Some(format!("{}:{line}", shown_path(path)));
        }
        for listener in &mut self.listener {
            let line = line_at(text, listener.span().start);
            listener.get_mut().place = Some(format!("{}:{line}", shown_path(path)));
        }
        self
    }
}

/// `host` or `host:port`.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct HostAndPort(#[serde(deserialize_with = "host_and_port")] String);

/// A path, and not what should stand in the file behind it.
fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_key(OsStr::new(&text)) { Err(serde::de::Error::custom(KEY)) } else { Ok(Some(text.into())) }
}

/// The settings of this machine.
const MACHINE: &str = "/etc/valetkey/config.toml";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_key_is_named_with_file_and_line() {
        let fault =
            parse::<File>(Path::new("/c.toml"), "log = \"info\"\n\n[daemon]\nidel = \"1h\"\n").unwrap_err();
        let text = fault.to_string();
        assert!(text.starts_with("/c.toml:4: unknown field `idel`"), "{text}");
    }

    #[test]
    fn a_listener_and_the_terms_of_builds_know_their_line() {
        let text = "log = \"info\"\n\n[[listener]]\nunix = \"/a\"\n\n[[listener]]\n# b\nagent = \"/b\"\n\n\
                    [build]\naccess = \"read\"\n";
        let mut config = Config::default();
        config.overlay(parse::<File>(Path::new("/c.toml"), text).unwrap().placed(Path::new("/c.toml"), text));
        let places: Vec<_> = config.listeners.iter().filter_map(|it| it.place.as_deref()).collect();
        assert_eq!(places, ["/c.toml:3", "/c.toml:6"]);
        assert_eq!(config.build.place.as_deref(), Some("/c.toml:10"));
    }

    #[test]
    fn later_file_replaces_values_and_adds_registries() {
        let mut config = Config::default();
        config.overlay(
            parse(Path::new("a"), "[daemon]\nidle = \"10m\"\n[[registry]]\nhost = \"a.test\"\n").unwrap(),
        );
        config.overlay(
            parse(Path::new("b"), "[daemon]\nidle = \"20m\"\n[[registry]]\nhost = \"b.test:8443\"\n")
                .unwrap(),
        );
        assert_eq!(config.idle, Duration::from_secs(1200));
        let hosts: Vec<_> = config.registries.iter().map(|registry| registry.host.as_str()).collect();
        assert_eq!(hosts, ["a.test", "b.test:8443"]);
    }

    #[test]
    fn endpoint_and_host_are_checked() {
        for wrong in [
            "[endpoints]\ntoken = \"http://a.test/token\"",
            "[endpoints]\nauthorization = \"http://a.test/auth\"",
            "[[account]]\naccount = \"a@b.test\"",
            "[[registry]]\nhost = \"https://a.test\"",
            "[[registry]]\nhost = \"A.test\"",
            "[[registry]]\nhost = \"a.test:99999\"",
            "redirect_hosts = [\"https://a.test\"]",
            "[index]\nrepositories = []",
            "[index]\npublic = \"https://a.test/simple/\"",
            "[index]\nrepositories = [\"us/acme/private\"]\npublic = \"http://a.test/simple/\"",
            "[index]\nrepositories = [\"us/acme/private\"]\npublic = \"https://a.test/simple/?x\"",
            "[index]\nrepositories = [\"us/acme/private\"]\nprivate = [\"acme-*-x\"]",
            "[index]\nrepositories = [\"us/acme/private\"]\nprivate = [\"\"]",
        ] {
            assert!(parse::<File>(Path::new("c"), wrong).is_err(), "{wrong}");
        }
    }
}
