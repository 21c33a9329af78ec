//! `/etc/valetkey/policy.toml`: the ceiling. What it does not say is not limited by it; what it says, no
//! configuration and no command can widen. It binds a daemon of the system; against a user's own programs, which can
//! do without valetkey, it is advice.

use serde::{Deserialize, Deserializer};

use super::listeners::Width;
use crate::error::shown::shown;
use crate::registry::configured::is_host_and_port;

/// See the module. Absent members allow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// The widest access of any listener but the owner's.
    pub access: Option<Width>,
    /// Whether any listener but the owner's may hand out tokens.
    pub tokens: Option<bool>,
    /// The repositories that builds and containers may be granted.
    pub repositories: Option<Vec<String>>,
    /// The registry hosts that a configuration may add to Google's.
    #[serde(deserialize_with = "hosts")]
    pub hosts: Option<Vec<String>>,
    /// Where a credential may come from.
    pub sources: Option<Vec<SourceKind>>,
    /// The domains of accounts that may sign in, and whose tokens may be given.
    #[serde(deserialize_with = "domains")]
    pub account_domains: Option<Vec<String>>,
    /// The one OAuth client that `login` may use.
    pub oauth_client: Option<String>,
}

/// The kinds of source that a policy can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    Login,
    File,
    Gcloud,
    Metadata,
}

impl SourceKind {
    /// As it is written in the file.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::File => "file",
            Self::Gcloud => "gcloud",
            Self::Metadata => "metadata",
        }
    }
}

impl Policy {
    #[must_use]
    pub fn allows_source(&self, kind: SourceKind) -> bool {
        self.sources.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }

    /// Whether an account's domain is allowed. Compared whole: `corp.example` says nothing about its subdomains.
    #[must_use]
    pub fn allows_account(&self, email: Option<&str>) -> bool {
        let Some(domains) = &self.account_domains else { return true };
        let domain = email.and_then(|email| email.rsplit_once('@')).map(|(_, domain)| domain);
        domain.is_some_and(|domain| domains.iter().any(|allowed| allowed.eq_ignore_ascii_case(domain)))
    }

    #[must_use]
    pub fn allows_client(&self, client_id: &str) -> bool {
        self.oauth_client.as_deref().is_none_or(|allowed| allowed == client_id)
    }

    #[must_use]
    pub fn allows_host(&self, host: &str) -> bool {
        self.hosts.as_ref().is_none_or(|hosts| hosts.iter().any(|allowed| allowed == host))
    }
}

/// A word that can match nothing is a mistake of whoever wrote it, and not a ceiling.
fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    listed(deserializer, is_host_and_port, "a lower-case host or host:port")
}

fn domains<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    listed(
        deserializer,
        |text| is_host_and_port(&text.to_ascii_lowercase()) && !text.contains(':'),
        "a domain",
    )
}

fn listed<'de, D: Deserializer<'de>>(
    deserializer: D,
    is_one: impl Fn(&str) -> bool,
    what: &str,
) -> Result<Option<Vec<String>>, D::Error> {
    let words = Vec::<String>::deserialize(deserializer)?;
    match words.iter().find(|word| !is_one(word)) {
        Some(wrong) => Err(serde::de::Error::custom(format!("{:?} is not {what}", shown(wrong)))),
        None => Ok(Some(words)),
    }
}

/// Where it stands.
pub const POLICY: &str = "/etc/valetkey/policy.toml";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_policy_does_not_say_it_does_not_limit() {
        let none = Policy::default();
        assert!(none.allows_source(SourceKind::Gcloud) && none.allows_account(None));
        assert!(none.allows_client("any") && none.allows_host("any.test"));
    }

    #[test]
    fn a_ceiling_of_words_that_match_nothing_is_an_error() {
        for wrong in [
            "hosts = [\"https://a.test\"]",
            "hosts = [\"A.test\"]",
            "hosts = [\"*.test\"]",
            "account_domains = [\"@corp.example\"]",
            "account_domains = [\"me@corp.example\"]",
            "account_domains = [\"*.corp.example\"]",
            "account_domains = [\"\"]",
        ] {
            assert!(toml::from_str::<Policy>(wrong).is_err(), "{wrong}");
        }
        let text = "hosts = [\"a.test:8443\"]\naccount_domains = [\"Corp.example\"]";
        assert!(toml::from_str::<Policy>(text).is_ok());
    }

    #[test]
    fn domains_are_compared_whole() {
        let policy: Policy = toml::from_str("account_domains = [\"corp.example\"]").unwrap();
        assert!(policy.allows_account(Some("a@CORP.example")));
        for wrong in
            ["a@evilcorp.example", "a@sub.corp.example", "a@corp.example.evil.test", "corp.example", ""]
        {
            assert!(!policy.allows_account(Some(wrong)), "{wrong}");
        }
        assert!(!policy.allows_account(None), "an identity that is not told is not in the domain");
    }
}
