//! Which source decides, and the sources in their order.
//!
//! A source that the asking process named decides alone. Without one the configuration's table of accounts may
//! name a stored login for the registry; else the order is: what systemd hands to the service, the default login,
//! the file that gcloud wrote, the gcloud program, the metadata server. Absent means next; present but failing
//! ends the ask.

mod named;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokio::time::Instant;

pub use self::named::{CREDENTIAL, named};
use crate::ask::{GcloudVariables, NamedSource, Whose};
use crate::blocking;
use crate::broker::cache::Upstream;
use crate::config::AccountRule;
use crate::config::policy::{POLICY, SourceKind};
use crate::error::shown::{shown, shown_path};
use crate::error::{Failure, Kind};
use crate::google::credential_file::{CredentialFile, Stamp};
use crate::google::source::{Minted, Request, SourceFault, World};
use crate::google::{accounts, gcloud, metadata, service_account, stored_login, user};
use crate::paths::{Paths, read_regular, without_absent};
use crate::registry::Registry;

/// One place to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidate {
    /// A file that somebody named: it has to be there.
    File(PathBuf),
    /// The file that gcloud writes: it may be missing.
    ApplicationDefault(PathBuf),
    Gcloud(GcloudVariables),
    Metadata(Option<String>),
    /// What `valetkey login` stored in this directory, for an account or the default one.
    StoredLogin {
        state: PathBuf,
        account: Option<String>,
    },
    /// What systemd hands to this very service.
    Systemd(PathBuf),
}

impl Candidate {
    /// What a policy calls it.
    #[must_use]
    pub fn kind(&self) -> SourceKind {
        match self {
            Self::File(_) | Self::ApplicationDefault(_) | Self::Systemd(_) => SourceKind::File,
            Self::Gcloud(_) => SourceKind::Gcloud,
            Self::Metadata(_) => SourceKind::Metadata,
            Self::StoredLogin { .. } => SourceKind::Login,
        }
    }

    /// In words, for `status`, `doctor` and errors.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::File(path) => format!("credential file {}", shown_path(path)),
            Self::ApplicationDefault(path) => {
                format!("application default credentials {}", shown_path(path))
            }
            Self::Gcloud(_) => "gcloud".to_owned(),
            Self::Metadata(None) => "metadata server".to_owned(),
            Self::Metadata(Some(host)) => format!("metadata server at {}", shown(host)),
            Self::StoredLogin { account: None, .. } => "stored login".to_owned(),
            Self::StoredLogin { account: Some(account), .. } => format!("stored login of {}", shown(account)),
            Self::Systemd(path) => format!("systemd credential {}", shown_path(path)),
        }
    }
}

/// All sources, for the broker.
#[derive(Debug, Clone)]
pub struct Sources {
    pub world: World,
    /// gcloud's own directory.
    pub gcloud: Option<PathBuf>,
    /// Where the stored logins are.
    pub state: Option<PathBuf>,
    /// Which login is for which registry.
    pub rules: Vec<AccountRule>,
    /// What decides where an ask names nothing: the environment of this very process, if it names something.
    pub default: Option<NamedSource>,
}

impl Sources {
    #[must_use]
    pub fn new(world: World, paths: &Paths, rules: Vec<AccountRule>, default: Option<NamedSource>) -> Self {
        let (gcloud, state) = (paths.gcloud.clone(), paths.state.clone());
        Self { world, gcloud, state, rules, default }
    }

    /// Where to look, in order.
    #[must_use]
    pub fn candidates(&self, named: Option<&NamedSource>) -> Vec<Candidate> {
        match named.or(self.default.as_ref()) {
            Some(NamedSource::File { path }) => vec![Candidate::File(path.clone())],
            Some(NamedSource::Gcloud { variables }) => vec![Candidate::Gcloud(variables.clone())],
            Some(NamedSource::Metadata { host }) => vec![Candidate::Metadata(host.clone())],
            Some(NamedSource::Login { account, state }) => {
                let state = state.as_deref().or(self.state.as_deref());
                state.map(|state| stored(state, Some(account))).into_iter().collect()
            }
            Some(NamedSource::GcloudDirectory { path }) => in_gcloud(Some(path)),
            Some(NamedSource::Home { state, gcloud }) => {
                let login = state.as_deref().map(|state| stored(state, None));
                login.into_iter().chain(in_gcloud(gcloud.as_deref())).collect()
            }
            None => {
                let systemd =
                    self.world.environment.path(SYSTEMD).map(|directory| directory.join("valetkey"));
                let login = self.state.as_deref().map(|state| stored(state, None));
                let file = self.gcloud.as_deref().map(in_directory);
                let rest = [Candidate::Gcloud(GcloudVariables::default()), Candidate::Metadata(None)];
                systemd.map(Candidate::Systemd).into_iter().chain(login).chain(file).chain(rest).collect()
            }
        }
    }

    /// Asks one candidate.
    ///
    /// # Errors
    /// Absent, not allowed, or why it fails.
    pub async fn try_candidate(
        &self,
        candidate: &Candidate,
        request: Request,
    ) -> Result<Minted, SourceFault> {
        let world = &self.world;
        self.allow_kind(candidate)?;
        let token = match candidate {
            Candidate::File(path) => self.read_and_mint(path, request).await?,
            Candidate::ApplicationDefault(path) => {
                if !is_there(path, request.until).await? {
                    return Err(SourceFault::Absent(format!("there is no {}", shown_path(path))));
                }
                self.read_and_mint(path, request).await?
            }
            Candidate::Systemd(path) => {
                if !is_there(path, request.until).await? {
                    return Err(SourceFault::Absent(format!("systemd hands over no {}", shown_path(path))));
                }
                self.read_and_mint(path, request).await?
            }
            Candidate::StoredLogin { state, account } => {
                stored_login::mint(world, state, account.as_deref(), request).await?
            }
            Candidate::Gcloud(variables) => gcloud::mint(world, variables, request).await?,
            Candidate::Metadata(host) => metadata::mint(world, host.as_deref(), request).await?,
        };
        world.allow_account(token.identity.as_deref())?;
        Ok(Minted { token, source: candidate.describe(), passed_over: Vec::new() })
    }

    /// Whether a candidate counts as absent: the policy does not allow its kind, and nobody named it.
    #[must_use]
    pub fn passes_over(&self, candidate: &Candidate, key: Option<&NamedSource>) -> bool {
        let named = key.or(self.default.as_ref()).is_some_and(names_a_kind);
        !named && !self.world.policy.allows_source(candidate.kind())
    }

    fn allow_kind(&self, candidate: &Candidate) -> Result<(), SourceFault> {
        if self.world.policy.allows_source(candidate.kind()) {
            return Ok(());
        }
        let kinds = self.world.policy.sources.iter().flatten().map(|kind| kind.word()).collect::<Vec<_>>();
        let remedy = match kinds.as_slice() {
            [] => format!("`sources` in {POLICY} allows none"),
            kinds => format!("use one that `sources` in {POLICY} allows: {}", kinds.join(", ")),
        };
        Err(SourceFault::Forbidden { what: format!("the {}", candidate.describe()), remedy })
    }

    async fn read_and_mint(
        &self,
        path: &Path,
        request: Request,
    ) -> Result<crate::secret::AccessToken, SourceFault> {
        let (file, endpoints) = (path.to_owned(), self.world.endpoints.clone());
        // A file system that does not answer is a hang like any other.
        let read = move || CredentialFile::read(&file, &endpoints);
        match blocking::at(path, request.until, read).await?? {
            CredentialFile::ServiceAccount(key) => {
                service_account::mint(&self.world, &key, path, request).await
            }
            CredentialFile::AuthorizedUser(user) => user::mint(&self.world, &user, request).await,
        }
    }
}

/// Whether there is a file, or what stands for one.
async fn is_there(path: &Path, until: Instant) -> Result<bool, SourceFault> {
    let file = path.to_owned();
    Ok(blocking::at(path, until, move || !is_absent(&file)).await?)
}

impl Upstream for Sources {
    async fn mint(&self, key: Option<&NamedSource>, request: Request) -> Result<Minted, Failure> {
        let mut absent = Vec::new();
        for candidate in self.candidates(key) {
            match self.try_candidate(&candidate, request.clone()).await {
                Ok(minted) => return Ok(Minted { passed_over: absent, ..minted }),
                Err(SourceFault::Absent(reason)) => absent.push(reason),
                Err(fault) if self.passes_over(&candidate, key) => absent.push(fault.to_string()),
                Err(fault) => return Err(fault.into()),
            }
        }
        Err(nothing_found(key.or(self.default.as_ref()), absent))
    }

    fn lingers(&self) -> std::time::Duration {
        self.world.lingers
    }

    /// Files whose change means another identity: a new sign-in, another gcloud account.
    fn stamps(&self, key: Option<&NamedSource>) -> Vec<Option<Stamp>> {
        let mut files = Vec::new();
        for candidate in self.candidates(key) {
            match candidate {
                Candidate::File(path) | Candidate::ApplicationDefault(path) | Candidate::Systemd(path) => {
                    files.push(path);
                }
                Candidate::StoredLogin { state, .. } => files.push(accounts::file(&state)),
                Candidate::Gcloud(variables) => files.extend(self.gcloud_files(&variables)),
                Candidate::Metadata(_) => {}
            }
        }
        files.iter().map(|file| Stamp::of(file)).collect()
    }

    /// Where nothing is named, the asking process's own home decides, which may not be ours; and in our own the
    /// table of accounts.
    fn deciding(&self, whose: &Whose, registry: Option<&Registry>) -> Option<NamedSource> {
        let (gcloud, state) = (&whose.directory, &whose.state);
        if let Some(NamedSource::Login { account, state: None }) = &whose.source {
            // An account is that of the asking process's home, too.
            let elsewhere = state.clone().filter(|state| Some(state) != self.state.as_ref());
            return Some(NamedSource::Login { account: account.clone(), state: elsewhere });
        }
        if whose.source.is_some() || self.default.is_some() {
            return whose.source.clone();
        }
        // An older helper tells only the one; most listeners but the owner's, neither.
        let elsewhere =
            (gcloud.is_some() && *gcloud != self.gcloud) || (state.is_some() && *state != self.state);
        if elsewhere {
            return Some(match (state, gcloud) {
                (None, Some(path)) => NamedSource::GcloudDirectory { path: path.clone() },
                _ => NamedSource::Home { state: state.clone(), gcloud: gcloud.clone() },
            });
        }
        let registry = registry?;
        let project = registry.repository.as_ref().map(|(project, _)| project.as_str());
        let rule = self.rules.iter().find(|rule| rule.matches(&registry.host, project))?;
        Some(NamedSource::Login { account: rule.account.clone(), state: None })
    }
}

impl Sources {
    /// Where gcloud keeps which account is active.
    fn gcloud_files(&self, variables: &GcloudVariables) -> Vec<PathBuf> {
        let mut files: Vec<_> =
            GcloudVariables::FILES.iter().filter_map(|name| variables.get(name)).map(PathBuf::from).collect();
        let moved = variables.get(GcloudVariables::DIRECTORY).map(PathBuf::from);
        if let Some(directory) = moved.or_else(|| self.gcloud.clone()) {
            let active = directory.join("active_config");
            let written = || read_regular(&active, 256).ok().map(|text| text.trim().to_owned());
            let name = variables.get(GcloudVariables::CONFIGURATION).map(str::to_owned).or_else(written);
            let name = name.filter(|name| !name.contains('/')).unwrap_or_else(|| "default".to_owned());
            files.push(directory.join("configurations").join(format!("config_{name}")));
            files.push(active);
        }
        files
    }
}

/// Whether a source is one, and not the home in which one may be.
fn names_a_kind(source: &NamedSource) -> bool {
    !matches!(source, NamedSource::GcloudDirectory { .. } | NamedSource::Home { .. })
}

/// The application default credentials in a directory, else the gcloud that uses it, else the metadata server.
fn in_gcloud(directory: Option<&Path>) -> Vec<Candidate> {
    let text = directory.and_then(Path::to_str);
    let variable = text.map(|text| (GcloudVariables::DIRECTORY.to_owned(), text.to_owned()));
    let variables = variable.into_iter().collect::<BTreeMap<_, _>>();
    let variables = GcloudVariables::try_from(variables).unwrap_or_default();
    let rest = [Candidate::Gcloud(variables), Candidate::Metadata(None)];
    directory.map(in_directory).into_iter().chain(rest).collect()
}

/// Whether nothing is there, which is not the same as something that cannot be looked at.
fn is_absent(path: &Path) -> bool {
    matches!(without_absent(path, path.metadata()), Ok(None))
}

fn stored(state: &Path, account: Option<&String>) -> Candidate {
    Candidate::StoredLogin { state: state.to_owned(), account: account.cloned() }
}

fn in_directory(directory: &Path) -> Candidate {
    Candidate::ApplicationDefault(directory.join(ADC))
}

/// The end of an ask for which no source had anything. Where one was named, the others were not asked.
#[must_use]
pub fn nothing_found(named: Option<&NamedSource>, absent: Vec<String>) -> Failure {
    let (message, hint) = match named {
        Some(NamedSource::Login { .. }) => {
            ("a login was named as the source, and there is no place for logins", "set HOME")
        }
        Some(NamedSource::Gcloud { .. }) => {
            ("gcloud was named as the source and gives no token", "run `gcloud auth login`")
        }
        Some(NamedSource::Metadata { .. }) => (
            "the metadata server was named as the source and does not answer",
            "name another source on machines that are not Google's",
        ),
        _ => (
            "no Google credential found on this machine",
            "run `valetkey login`, or set GOOGLE_APPLICATION_CREDENTIALS",
        ),
    };
    Failure { causes: absent, ..Failure::new(Kind::NeedsLogin, message).with_hint(hint) }
}

/// The name that Google's tools gave the file.
pub const ADC: &str = "application_default_credentials.json";
/// Where systemd puts the credentials of a service.
const SYSTEMD: &str = "CREDENTIALS_DIRECTORY";
