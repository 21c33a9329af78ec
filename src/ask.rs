//! What a client wants, and what it gets: the words of `POST /v1/credential`.
//!
//! An [`Ask`] carries the URL as the client wrote it. What the URL points at and which access it asks for is
//! decided by whoever answers (`registry`), never by whoever asks.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize};

use crate::clock::{parse_rfc3339, rfc3339};
use crate::error::shown::{KEY, is_key};
use crate::error::{Failure, Kind};
use crate::secret::Secret;

/// Read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    Read,
    Write,
}

impl Access {
    /// The OAuth scope that gives this access and no more, where a scope can be asked for.
    #[must_use]
    pub fn scope(self) -> &'static str {
        match self {
            Self::Read => "https://www.googleapis.com/auth/cloud-platform.read-only",
            Self::Write => "https://www.googleapis.com/auth/cloud-platform",
        }
    }

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// A source that the asking process named by a flag or by its environment. It decides alone: where it is absent
/// or fails, the ask ends with that.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum NamedSource {
    /// A credential file, by its absolute path.
    File { path: PathBuf },
    /// gcloud's directory: the application default credentials in it, else the gcloud program that uses it.
    GcloudDirectory { path: PathBuf },
    /// The gcloud program, with the `CLOUDSDK_*` variables that choose its account.
    Gcloud { variables: GcloudVariables },
    /// A metadata server, Google's own where no host is given.
    Metadata { host: Option<String> },
    /// The stored login of one account, in this directory where it is not the answerer's own.
    Login {
        account: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<PathBuf>,
    },
    /// What a home holds: the login stored in one directory, else what gcloud keeps in another.
    Home { state: Option<PathBuf>, gcloud: Option<PathBuf> },
}

impl NamedSource {
    /// Whether a key stands where its path, or the name of an account or a host, is wanted.
    fn holds_key(&self) -> bool {
        let of_path = |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| is_key(path.as_os_str()));
        let of_text = |text: &str| is_key(OsStr::new(text));
        match self {
            Self::File { path } | Self::GcloudDirectory { path } => is_key(path.as_os_str()),
            Self::Gcloud { variables } => variables.iter().any(|(_, value)| of_text(value)),
            Self::Metadata { host } => host.as_deref().is_some_and(of_text),
            Self::Login { account, state } => of_text(account) || of_path(state),
            Self::Home { state, gcloud } => of_path(state) || of_path(gcloud),
        }
    }
}

impl<'de> Deserialize<'de> for NamedSource {
    /// What a peer or a file of ours says. A key in it is refused before it is kept anywhere, and not repeated.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = NamedWire::deserialize(deserializer)?;
        if named.holds_key() { Err(serde::de::Error::custom(KEY)) } else { Ok(named) }
    }
}

/// The variables by which gcloud is told which account to use, and no others: they end up in a child's
/// environment, so nothing else may come in this way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct GcloudVariables(BTreeMap<String, String>);

impl GcloudVariables {
    /// Where gcloud keeps its files, if not at the usual place.
    pub const DIRECTORY: &str = "CLOUDSDK_CONFIG";
    /// Which configuration is active.
    pub const CONFIGURATION: &str = "CLOUDSDK_ACTIVE_CONFIG_NAME";
    /// Variables that hold a path.
    pub const FILES: [&str; 2] =
        ["CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE"];
    /// Variables that choose an account: whoever sets one of them names gcloud as the source.
    pub const ACCOUNT: [&str; 5] = [
        Self::CONFIGURATION,
        Self::FILES[0],
        Self::FILES[1],
        "CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT",
        "CLOUDSDK_CORE_ACCOUNT",
    ];

    /// Whether a variable may be among them.
    #[must_use]
    pub fn admits(name: &str) -> bool {
        name == Self::DIRECTORY || Self::ACCOUNT.contains(&name)
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl TryFrom<BTreeMap<String, String>> for GcloudVariables {
    type Error = String;

    fn try_from(variables: BTreeMap<String, String>) -> Result<Self, String> {
        match variables.keys().find(|name| !Self::admits(name)) {
            None => Ok(Self(variables)),
            Some(_) => Err("a variable that does not choose gcloud's account".to_owned()),
        }
    }
}

/// What decides whose token a process gets: what it names, and its home, which may be another than the daemon's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whose {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<NamedSource>,
    /// Where gcloud's files are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Where the stored logins are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<PathBuf>,
}

impl Whose {
    /// What a peer sent, without directories that mean nothing here.
    #[must_use]
    pub fn absolute(self) -> Self {
        let absolute =
            |path: Option<PathBuf>| path.filter(|path| path.is_absolute() && !is_key(path.as_os_str()));
        Self { source: self.source, directory: absolute(self.directory), state: absolute(self.state) }
    }

    /// As the daemon is told.
    ///
    /// # Errors
    /// When the path of the source is not UTF-8.
    pub fn to_json(&self) -> Result<serde_json::Value, Failure> {
        serde_json::to_value(self).map_err(|_| {
            Failure::new(Kind::Usage, "the path of the credential is not text")
                .with_hint("move the file to a path that is")
        })
    }
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// A URL, a bare host, or any other name, just as the client gave it; empty for a token that is meant for no
    /// registry in particular.
    pub url: String,
    pub username: Option<String>,
    /// Wins over what the URL implies.
    pub access: Option<Access>,
    pub whose: Whose,
    /// Pid and start time of the client, opaque. Sent by `keyring get` only.
    pub asker: Option<String>,
    /// How long the client can wait.
    pub deadline: Duration,
}

impl Ask {
    /// A plain question for a URL.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        let deadline = Self::LONGEST;
        let url = url.into();
        Self { url, username: None, access: None, whose: Whose::default(), asker: None, deadline }
    }

    /// A helper has ten seconds, and needs the last one to say what went wrong.
    pub const LONGEST: Duration = Duration::from_secs(9);
    /// Nothing can be asked of anybody in less.
    pub const SHORTEST: Duration = Duration::from_millis(200);

    /// The JSON body of the request.
    ///
    /// # Errors
    /// When a path in the source is not UTF-8.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&AskWire {
            url: self.url.clone(),
            username: self.username.clone(),
            access: self.access,
            source: self.whose.source.clone(),
            directory: self.whose.directory.clone(),
            state: self.whose.state.clone(),
            asker: self.asker.clone(),
            deadline_ms: u64::try_from(self.deadline.as_millis()).ok(),
        })
    }

    /// Reads the JSON body of a request. Unknown members are ignored: a newer helper may send some.
    ///
    /// # Errors
    /// When it is not such a body.
    pub fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        let wire: AskWire = serde_json::from_slice(body)?;
        let deadline = wire.deadline_ms.map_or(Self::LONGEST, Duration::from_millis);
        Ok(Self {
            url: wire.url,
            username: wire.username.filter(|name| !name.is_empty()),
            access: wire.access,
            whose: Whose { source: wire.source, directory: wire.directory, state: wire.state }.absolute(),
            asker: wire.asker.filter(|asker| asker.len() <= LONGEST_ASKER),
            deadline: deadline.clamp(Self::SHORTEST, Self::LONGEST),
        })
    }
}

/// What a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub username: String,
    pub password: Secret,
    pub expires: SystemTime,
}

impl Credential {
    /// The only username that Artifact Registry takes an access token from.
    pub const USERNAME: &str = "oauth2accesstoken";

    /// The JSON body of the answer.
    #[must_use]
    pub fn to_json(&self) -> String {
        let wire = CredentialWire {
            username: self.username.as_str().into(),
            password: self.password.expose().into(),
            expires: rfc3339(self.expires).into(),
        };
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// Reads the JSON body of an answer.
    #[must_use]
    pub fn from_json(body: &[u8]) -> Option<Self> {
        let wire: CredentialWire<'_> = serde_json::from_slice(body).ok()?;
        let password = Secret::new(wire.password.into_owned());
        Some(Self { username: wire.username.into_owned(), password, expires: parse_rfc3339(&wire.expires)? })
    }
}

/// [`NamedSource`] as it is written.
#[derive(Deserialize)]
#[serde(remote = "NamedSource", tag = "kind", rename_all = "kebab-case")]
enum NamedWire {
    File {
        path: PathBuf,
    },
    GcloudDirectory {
        path: PathBuf,
    },
    Gcloud {
        variables: GcloudVariables,
    },
    Metadata {
        host: Option<String>,
    },
    Login {
        account: String,
        #[serde(default)]
        state: Option<PathBuf>,
    },
    Home {
        state: Option<PathBuf>,
        gcloud: Option<PathBuf>,
    },
}

#[derive(Serialize, Deserialize)]
struct AskWire {
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access: Option<Access>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<NamedSource>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    directory: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asker: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct CredentialWire<'a> {
    username: std::borrow::Cow<'a, str>,
    password: std::borrow::Cow<'a, str>,
    expires: std::borrow::Cow<'a, str>,
}

/// A pid and a start time are shorter.
const LONGEST_ASKER: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_choice_of_an_account_comes_in_as_a_variable() {
        let body = |name: &str| {
            format!(r#"{{"url":"h","source":{{"kind":"gcloud","variables":{{"{name}":"x"}}}}}}"#)
        };
        assert!(Ask::from_json(body("CLOUDSDK_CORE_ACCOUNT").as_bytes()).is_ok());
        for name in ["LD_PRELOAD", "PATH", "CLOUDSDK_PYTHON", "GOOGLE_APPLICATION_CREDENTIALS", ""] {
            assert!(Ask::from_json(body(name).as_bytes()).is_err(), "{name}");
        }
    }

    #[test]
    fn a_key_in_the_place_of_its_path_is_refused_and_not_repeated() {
        let key = r#"{\"private_key\": \"hunter2\"}"#;
        for source in [
            format!(r#"{{"kind":"file","path":"{key}"}}"#),
            format!(r#"{{"kind":"gcloud-directory","path":"{key}"}}"#),
            format!(r#"{{"kind":"gcloud","variables":{{"CLOUDSDK_CORE_ACCOUNT":"{key}"}}}}"#),
            format!(r#"{{"kind":"metadata","host":"{key}"}}"#),
            format!(r#"{{"kind":"login","account":"{key}"}}"#),
            format!(r#"{{"kind":"login","account":"a@b.test","state":"{key}"}}"#),
            format!(r#"{{"kind":"home","state":"/s","gcloud":"{key}"}}"#),
        ] {
            let ask = Ask::from_json(format!(r#"{{"url":"h","source":{source}}}"#).as_bytes()).unwrap_err();
            let whose = serde_json::from_str::<Whose>(&format!(r#"{{"source":{source}}}"#)).unwrap_err();
            for fault in [ask.to_string(), whose.to_string()] {
                assert!(fault.contains(KEY) && !fault.contains("hunter2"), "{fault}");
            }
        }
    }

    #[test]
    fn ask_survives_the_wire() {
        let mut ask = Ask::new("https://europe-west1-python.pkg.dev/p/r/simple/");
        ask.whose.source = Some(NamedSource::File { path: "/k.json".into() });
        ask.asker = Some("12:34".to_owned());
        assert_eq!(Ask::from_json(&ask.to_json().unwrap()).unwrap(), ask);
    }

    #[test]
    fn ask_takes_unknown_members_and_caps_the_deadline() {
        let ask =
            Ask::from_json(br#"{"url":"h","username":"","colour":"red","deadline_ms":99999999}"#).unwrap();
        assert_eq!((ask.username, ask.deadline), (None, Ask::LONGEST));
        let ask = Ask::from_json(br#"{"url":"h","deadline_ms":0,"directory":"relative"}"#).unwrap();
        assert_eq!((ask.whose.directory, ask.deadline), (None, Ask::SHORTEST));
    }

    #[test]
    fn credential_survives_the_wire() {
        let expires = parse_rfc3339("2026-01-02T03:04:05Z").unwrap();
        let password = Secret::new("ya29.\"quoted\"".to_owned());
        let credential = Credential { username: "u".to_owned(), password, expires };
        assert_eq!(Credential::from_json(credential.to_json().as_bytes()), Some(credential));
    }
}
