//! Who signs in, and whose token is for which registry: `vault`, `[oauth]` and `[[account]]`.

use serde::Deserialize;

use crate::registry::configured::is_host_and_port;
use crate::secret::Secret;

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
        // As registries are called: 443 goes without saying.
        let registry = registry.map(|host| host.strip_suffix(":443").map(str::to_owned).unwrap_or(host));
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

fn no_secret() -> Secret {
    Secret::new(String::new())
}
