//! Settings, with one precedence: flags, then `VALETKEY_*`, then `config.toml` of the user, then
//! `/etc/valetkey/config.toml`, then defaults.
//!
//! What widens trust, registry hosts and endpoints, comes from the files only, never from flags, the environment
//! or the working directory, and a file that other users can write is refused. An unknown key is an error that
//! names key, file and line.

pub mod listeners;
pub mod policy;

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use thiserror::Error;
use toml::Spanned;

use crate::clock::parse_duration;
use crate::config::listeners::{ExtraListener, Index, Terms};
use crate::config::policy::{POLICY, Policy};
use crate::environment::Environment;
use crate::error::{Fault, Kind};
use crate::paths::{Paths, open_regular};
use crate::secret::Secret;
use crate::sys;

/// What is wrong with a configuration file.
#[derive(Debug, Error)]
pub enum ConfigFault {
    /// It is there and cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Whoever writes it decides which hosts get a token.
    #[error("the configuration file {} can be written by other users", .0.display())]
    Writable(PathBuf),
    /// Another user's word about which hosts get a token.
    #[error("the configuration file {} belongs to uid {owner}, neither root nor you", path.display())]
    Foreign { path: PathBuf, owner: u32 },
    /// Unknown key, wrong type, or no TOML at all.
    #[error("{}:{line}: {message}", path.display())]
    Content { path: PathBuf, line: usize, message: String },
    /// A `VALETKEY_*` variable with a value that means nothing.
    #[error("{name} is {value:?}, which is not {expected}")]
    Variable { name: &'static str, value: String, expected: &'static str },
}

impl Fault for ConfigFault {
    fn kind(&self) -> Kind {
        Kind::Configuration
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Read { path, .. } => Some(format!("make {} readable or remove it", path.display())),
            Self::Writable(path) => Some(format!("run `chmod go-w {}`", path.display())),
            Self::Foreign { path, .. } => {
                Some(format!("make {} your own, or set HOME to your own", path.display()))
            }
            Self::Content { .. } => Some("correct that line; README.md lists the keys".to_owned()),
            Self::Variable { name, .. } => Some(format!("correct or unset {name}")),
        }
    }
}

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

/// A registry host that only the configuration file can name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraRegistry {
    /// `host` or `host:port`, exactly as clients write it.
    #[serde(deserialize_with = "host_and_port")]
    pub host: String,
    #[serde(default)]
    pub format: Format,
}

/// What a registry serves, in Artifact Registry's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Python,
    Docker,
    Npm,
    Maven,
    Go,
    Apt,
    Yum,
    Generic,
    Googet,
    Kfp,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Python,
        Self::Docker,
        Self::Npm,
        Self::Maven,
        Self::Go,
        Self::Apt,
        Self::Yum,
        Self::Generic,
        Self::Googet,
        Self::Kfp,
    ];

    /// The word that stands in a host name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Docker => "docker",
            Self::Npm => "npm",
            Self::Maven => "maven",
            Self::Go => "go",
            Self::Apt => "apt",
            Self::Yum => "yum",
            Self::Generic => "generic",
            Self::Googet => "googet",
            Self::Kfp => "kfp",
        }
    }

    /// Reads that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.word() == word)
    }
}

/// Endpoints that take the place of Google's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointUrls {
    /// Where refresh tokens, codes and assertions go.
    #[serde(deserialize_with = "https_url")]
    pub token: Option<String>,
    /// Where a refresh token goes to be revoked.
    #[serde(deserialize_with = "https_url")]
    pub revocation: Option<String>,
    /// Where repositories are asked about, without the `/v1/` behind it.
    #[serde(deserialize_with = "https_url")]
    pub artifact_registry: Option<String>,
    /// Where a browser is sent to sign in. No secret goes there, so plain http may be named on this machine.
    #[serde(deserialize_with = "browser_url")]
    pub authorization: Option<String>,
}

impl EndpointUrls {
    fn overlay(&mut self, above: Self) {
        self.token = above.token.or(self.token.take());
        self.revocation = above.revocation.or(self.revocation.take());
        self.artifact_registry = above.artifact_registry.or(self.artifact_registry.take());
        self.authorization = above.authorization.or(self.authorization.take());
    }
}

/// Which vault a sign-in uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VaultChoice {
    /// The keychain where there is one, else a file.
    Auto,
    Keychain,
    File,
}

/// An OAuth client of the type "Desktop app". Google gives it a secret that is none: it is the same on every
/// machine that the client is used on (RFC 8252, section 8.5).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OauthClient {
    pub client_id: String,
    #[serde(default = "no_secret")]
    pub client_secret: Secret,
}

/// One line of the table that says which login is for which registry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "AccountRuleWire")]
pub struct AccountRule {
    pub account: String,
    /// The registry's host, as clients write it.
    pub registry: Option<String>,
    pub project: Option<String>,
}

impl AccountRule {
    /// Whether it is for a registry of this host, and this project where the URL says one.
    #[must_use]
    pub fn matches(&self, host: &str, project: Option<&str>) -> bool {
        let same = |wanted: Option<&str>, seen: Option<&str>| wanted.is_none() || wanted == seen;
        same(self.registry.as_deref(), Some(host)) && same(self.project.as_deref(), project)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountRuleWire {
    account: String,
    #[serde(default)]
    registry: Option<String>,
    #[serde(default)]
    project: Option<String>,
}

impl TryFrom<AccountRuleWire> for AccountRule {
    type Error = &'static str;

    fn try_from(wire: AccountRuleWire) -> Result<Self, Self::Error> {
        let AccountRuleWire { account, registry, project } = wire;
        if registry.is_none() && project.is_none() {
            return Err("an account needs a `registry`, a `project`, or both, to say what it is for");
        }
        if account.is_empty() || account.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err("`account` is not the e-mail address of a sign-in");
        }
        let registry = registry.map(|host| host.to_ascii_lowercase());
        // A rule that can match nothing would leave its registry to another identity.
        if registry.as_ref().is_some_and(|host| !is_host_and_port(host)) {
            return Err("`registry` is not a host or host:port, as it stands in URLs");
        }
        if project.as_ref().is_some_and(|project| project.is_empty() || project.contains(['/', ' '])) {
            return Err("`project` is not the name of a project");
        }
        Ok(Self { account, registry, project })
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

impl Config {
    /// Reads both files and the variables.
    ///
    /// # Errors
    /// When a file is there and wrong, or a variable means nothing.
    pub fn load(environment: &Environment, paths: &Paths) -> Result<Self, ConfigFault> {
        let user = paths.configuration.as_ref().map(|directory| directory.join("config.toml"));
        let mut config = Self::default();
        // Where `[build]` is to be written that nobody has written yet.
        config.build.place = user.as_ref().map(|path| path.display().to_string());
        for path in [Some(PathBuf::from("/etc/valetkey/config.toml")), user].into_iter().flatten() {
            if let Some(text) = read(&path)? {
                config.overlay(parse::<File>(&path, &text)?.placed(&path, &text));
                config.files.push(path);
            }
        }
        let path = PathBuf::from(POLICY);
        if let Some(text) = read(&path)? {
            config.policy = parse(&path, &text)?;
            let policy = &config.policy;
            config.registries.retain(|registry| policy.allows_host(&registry.host));
            config.files.push(path);
        }
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

    fn overlay_variables(&mut self, environment: &Environment) -> Result<(), ConfigFault> {
        if let Some(value) = environment.text(AUTO_START) {
            self.auto_start = value.parse().map_err(|_| ConfigFault::Variable {
                name: AUTO_START,
                value: value.to_owned(),
                expected: "true or false",
            })?;
        }
        if let Some(value) = environment.text(IDLE) {
            self.idle = parse_duration(value).ok_or_else(|| ConfigFault::Variable {
                name: IDLE,
                value: value.to_owned(),
                expected: "a duration such as 45s, 10m or 1h",
            })?;
        }
        if let Some(value) = environment.text(LOG) {
            self.log = match value {
                "error" => LogLevel::Error,
                "warn" => LogLevel::Warn,
                "info" => LogLevel::Info,
                "debug" => LogLevel::Debug,
                _ => {
                    let expected = "one of error, warn, info, debug";
                    return Err(ConfigFault::Variable { name: LOG, value: value.to_owned(), expected });
                }
            };
        }
        Ok(())
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
            build.get_mut().place = Some(format!("{}:{line}", path.display()));
        }
        for listener in &mut self.listener {
            let line = line_at(text, listener.span().start);
            listener.get_mut().place = Some(format!("{}:{line}", path.display()));
        }
        self
    }
}

/// `host` or `host:port`.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct HostAndPort(#[serde(deserialize_with = "host_and_port")] String);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Daemon {
    auto_start: Option<bool>,
    #[serde(deserialize_with = "duration")]
    idle: Option<Duration>,
}

/// The text of a file, or nothing where there is none. It has to belong to root or to us, and nobody else may
/// write it.
fn read(path: &Path) -> Result<Option<String>, ConfigFault> {
    let wrong = |source| ConfigFault::Read { path: path.to_owned(), source };
    let file = match open_regular(path, false) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(wrong(error)),
    };
    let data = file.metadata().map_err(wrong)?;
    if data.uid() != 0 && data.uid() != sys::own_uid() {
        return Err(ConfigFault::Foreign { path: path.to_owned(), owner: data.uid() });
    }
    if data.mode() & 0o022 != 0 {
        return Err(ConfigFault::Writable(path.to_owned()));
    }
    let mut text = String::with_capacity(4096);
    file.take(LARGEST).read_to_string(&mut text).map_err(wrong)?;
    Ok(Some(text))
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigFault> {
    toml::from_str(text).map_err(|error| {
        let line = line_of(text, &error);
        ConfigFault::Content { path: path.to_owned(), line, message: error.message().to_owned() }
    })
}

/// The line of a TOML text that an error is about, counted from 1.
#[must_use]
pub fn line_of(text: &str, error: &toml::de::Error) -> usize {
    line_at(text, error.span().map_or(0, |span| span.start))
}

/// The line of a place in a text, counted from 1.
fn line_at(text: &str, place: usize) -> usize {
    text.get(..place.min(text.len())).unwrap_or_default().matches('\n').count() + 1
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a duration such as 45s, 10m or 1h")))
}

fn https_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let fine = url::Url::parse(&text)
        .is_ok_and(|url| url.scheme() == "https" && url.username().is_empty() && url.password().is_none());
    if fine { Ok(Some(text)) } else { Err(serde::de::Error::custom(format!("{text:?} is not an https URL"))) }
}

fn no_secret() -> Secret {
    Secret::new(String::new())
}

/// https, or http to this very machine.
fn browser_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let own = |url: &url::Url| matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    let fine = url::Url::parse(&text)
        .is_ok_and(|url| url.scheme() == "https" || (url.scheme() == "http" && own(&url)));
    let wrong = || serde::de::Error::custom(format!("{text:?} is neither https nor http on this machine"));
    if fine { Ok(Some(text)) } else { Err(wrong()) }
}

fn host_and_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_host_and_port(&text) {
        Ok(text)
    } else {
        Err(serde::de::Error::custom(format!("{text:?} is not a lower-case host or host:port")))
    }
}

fn is_host_and_port(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "443"));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
    !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok()
}

/// The ceiling of this machine.
/// `true` or `false`: whether a helper may start the daemon.
const AUTO_START: &str = "VALETKEY_AUTO_START";
/// A duration: after how long without work the daemon ends.
const IDLE: &str = "VALETKEY_IDLE";
/// error, warn, info or debug.
const LOG: &str = "VALETKEY_LOG";
/// A configuration file larger than this is cut, and then fails to parse.
const LARGEST: u64 = 1 << 20;

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

    #[test]
    fn variable_with_nonsense_is_named() {
        let environment: Environment = [("VALETKEY_IDLE", "soon")].into_iter().collect();
        let fault = Config::default().overlay_variables(&environment).unwrap_err();
        assert!(fault.to_string().contains("VALETKEY_IDLE"), "{fault}");
    }
}
