//! Which source decides, and the sources in their order.
//!
//! A source that the asking process named decides alone. Without one the order is: a stored login (an issue of
//! its own brings it), the file that gcloud wrote, the gcloud program, the metadata server. Absent means next;
//! present but failing ends the ask.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::ask::NamedSource;
use crate::broker::cache::Upstream;
use crate::environment::Environment;
use crate::error::{Failure, Kind};
use crate::google::credential_file::{CredentialFile, Stamp};
use crate::google::source::{Minted, Request, SourceFault, World};
use crate::google::{gcloud, metadata, service_account, user};
use crate::paths::{Paths, absolute};

/// The source that a process names: the flag, then `VALETKEY_CREDENTIAL`, then the variables of Google's own
/// tools.
#[must_use]
pub fn named(flag: Option<&Path>, environment: &Environment) -> Option<NamedSource> {
    let word = flag.or(environment.get(CREDENTIAL).map(Path::new));
    word.map(|word| by_word(word, environment)).or_else(|| by_google(environment))
}

/// `gcloud`, `metadata`, or the path of a credential file.
fn by_word(word: &Path, environment: &Environment) -> NamedSource {
    match word.to_str() {
        Some("gcloud") => NamedSource::Gcloud { variables: gcloud_variables(environment) },
        Some("metadata") => NamedSource::Metadata { host: metadata_host(environment) },
        _ => NamedSource::File { path: absolute(word) },
    }
}

fn by_google(environment: &Environment) -> Option<NamedSource> {
    if let Some(path) = environment.get("GOOGLE_APPLICATION_CREDENTIALS") {
        return Some(NamedSource::File { path: absolute(Path::new(path)) });
    }
    if CHOOSE_ACCOUNT.iter().any(|name| environment.get(name).is_some()) {
        return Some(NamedSource::Gcloud { variables: gcloud_variables(environment) });
    }
    if let Some(path) = environment.get(DIRECTORY) {
        return Some(NamedSource::GcloudDirectory { path: absolute(Path::new(path)) });
    }
    metadata_host(environment).map(|host| NamedSource::Metadata { host: Some(host) })
}

/// What tells gcloud which account to use, and where its files are.
fn gcloud_variables(environment: &Environment) -> BTreeMap<String, String> {
    let own = |name: &&str| Some(((*name).to_owned(), environment.text(name)?.to_owned()));
    let mut variables: BTreeMap<_, _> = CHOOSE_ACCOUNT.iter().filter_map(own).collect();
    let directory = environment.get(DIRECTORY).map(|path| absolute(Path::new(path)));
    if let Some(directory) = directory.as_ref().and_then(|path| path.to_str()) {
        variables.insert(DIRECTORY.to_owned(), directory.to_owned());
    }
    variables
}

fn metadata_host(environment: &Environment) -> Option<String> {
    environment.text("GCE_METADATA_HOST").map(str::to_owned)
}

/// One place to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Candidate {
    /// A file that somebody named: it has to be there.
    File(PathBuf),
    /// The file that gcloud writes: it may be missing.
    ApplicationDefault(PathBuf),
    Gcloud(BTreeMap<String, String>),
    Metadata(Option<String>),
}

impl Candidate {
    /// In words, for `status`, `doctor` and errors.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::File(path) => format!("credential file {}", path.display()),
            Self::ApplicationDefault(path) => format!("application default credentials {}", path.display()),
            Self::Gcloud(_) => "gcloud".to_owned(),
            Self::Metadata(None) => "metadata server".to_owned(),
            Self::Metadata(Some(host)) => format!("metadata server at {host}"),
        }
    }
}

/// All sources, for the broker.
#[derive(Debug, Clone)]
pub struct Sources {
    pub world: World,
    /// gcloud's own directory.
    pub gcloud: Option<PathBuf>,
    /// What decides where an ask names nothing: the environment of this very process, if it names something.
    pub default: Option<NamedSource>,
}

impl Sources {
    #[must_use]
    pub fn new(world: World, paths: &Paths, default: Option<NamedSource>) -> Self {
        Self { world, gcloud: paths.gcloud.clone(), default }
    }

    /// Where to look, in order.
    #[must_use]
    pub fn candidates(&self, named: Option<&NamedSource>) -> Vec<Candidate> {
        let file = |directory: &Path| Candidate::ApplicationDefault(directory.join(ADC));
        match named.or(self.default.as_ref()) {
            Some(NamedSource::File { path }) => vec![Candidate::File(path.clone())],
            Some(NamedSource::Gcloud { variables }) => vec![Candidate::Gcloud(variables.clone())],
            Some(NamedSource::Metadata { host }) => vec![Candidate::Metadata(host.clone())],
            Some(NamedSource::GcloudDirectory { path }) => {
                let variables = path.to_str().map(|text| (DIRECTORY.to_owned(), text.to_owned()));
                vec![
                    file(path),
                    Candidate::Gcloud(variables.into_iter().collect()),
                    Candidate::Metadata(None),
                ]
            }
            None => self
                .gcloud
                .iter()
                .map(|directory| file(directory))
                .chain([Candidate::Gcloud(BTreeMap::new()), Candidate::Metadata(None)])
                .collect(),
        }
    }

    /// Asks one candidate.
    ///
    /// # Errors
    /// Absent, or why it fails.
    pub async fn try_candidate(
        &self,
        candidate: &Candidate,
        request: Request,
    ) -> Result<Minted, SourceFault> {
        let world = &self.world;
        let token = match candidate {
            Candidate::File(path) => self.read_and_mint(path, request).await?,
            Candidate::ApplicationDefault(path) => {
                if Stamp::of(path).is_none() && !path.is_symlink() {
                    return Err(SourceFault::Absent(format!("there is no {}", path.display())));
                }
                self.read_and_mint(path, request).await?
            }
            Candidate::Gcloud(variables) => gcloud::mint(world, variables, request).await?,
            Candidate::Metadata(host) => metadata::mint(world, host.as_deref(), request).await?,
        };
        Ok(Minted { token, source: candidate.describe(), passed_over: Vec::new() })
    }

    async fn read_and_mint(
        &self,
        path: &Path,
        request: Request,
    ) -> Result<crate::secret::AccessToken, SourceFault> {
        let (file, endpoints) = (path.to_owned(), self.world.endpoints.clone());
        let read = tokio::task::spawn_blocking(move || CredentialFile::read(&file, &endpoints));
        // A file system that does not answer is a hang like any other.
        let Ok(Ok(credential)) = tokio::time::timeout_at(request.until, read).await else {
            let problem = "cannot be read in time".to_owned();
            return Err(SourceFault::Malformed { path: path.to_owned(), problem });
        };
        match credential? {
            CredentialFile::ServiceAccount(key) => {
                service_account::mint(&self.world, &key, path, request).await
            }
            CredentialFile::AuthorizedUser(user) => user::mint(&self.world, &user, request).await,
        }
    }
}

impl Upstream for Sources {
    async fn mint(&self, key: Option<&NamedSource>, request: Request) -> Result<Minted, Failure> {
        let mut absent = Vec::new();
        for candidate in self.candidates(key) {
            match self.try_candidate(&candidate, request).await {
                Ok(minted) => return Ok(Minted { passed_over: absent, ..minted }),
                Err(SourceFault::Absent(reason)) => absent.push(reason),
                Err(fault) => return Err(fault.into()),
            }
        }
        Err(nothing_found(key.or(self.default.as_ref()), absent))
    }

    /// The files whose change means another identity: a new sign-in or another gcloud account counts at once.
    fn stamps(&self, key: Option<&NamedSource>) -> Vec<Option<Stamp>> {
        let mut files = Vec::new();
        for candidate in self.candidates(key) {
            match candidate {
                Candidate::File(path) | Candidate::ApplicationDefault(path) => files.push(path),
                Candidate::Gcloud(variables) => {
                    let moved = variables.get(DIRECTORY).map(PathBuf::from);
                    if let Some(directory) = moved.or_else(|| self.gcloud.clone()) {
                        files.push(directory.join("active_config"));
                        files.push(directory.join("configurations/config_default"));
                    }
                }
                Candidate::Metadata(_) => {}
            }
        }
        files.iter().map(|file| Stamp::of(file)).collect()
    }
}

/// The end of an ask for which no source had anything. Where one was named, the others were not asked.
#[must_use]
pub fn nothing_found(named: Option<&NamedSource>, absent: Vec<String>) -> Failure {
    let (message, hint) = match named {
        Some(NamedSource::Gcloud { .. }) => {
            ("gcloud was named as the source and gives no token", "run `gcloud auth login`")
        }
        Some(NamedSource::Metadata { .. }) => (
            "the metadata server was named as the source and does not answer",
            "name another source on machines that are not Google's",
        ),
        _ => (
            "no Google credential found on this machine",
            "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
        ),
    };
    Failure { causes: absent, ..Failure::new(Kind::NeedsLogin, message).with_hint(hint) }
}

/// A credential file, `gcloud` or `metadata`.
pub const CREDENTIAL: &str = "VALETKEY_CREDENTIAL";
/// The name that Google's tools gave the file.
pub const ADC: &str = "application_default_credentials.json";
/// Where gcloud keeps its files, if not at the usual place.
const DIRECTORY: &str = "CLOUDSDK_CONFIG";
/// The variables by which gcloud is told which account to use.
const CHOOSE_ACCOUNT: [&str; 5] = [
    "CLOUDSDK_ACTIVE_CONFIG_NAME",
    "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE",
    "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE",
    "CLOUDSDK_AUTH_IMPERSONATE_SERVICE_ACCOUNT",
    "CLOUDSDK_CORE_ACCOUNT",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn named_by(pairs: &[(&str, &str)]) -> Option<NamedSource> {
        named(None, &pairs.iter().copied().collect())
    }

    #[test]
    fn the_asking_process_decides_in_this_order() {
        let file = |path: &str| Some(NamedSource::File { path: path.into() });
        let all = [
            ("VALETKEY_CREDENTIAL", "/v.json"),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/g.json"),
            ("CLOUDSDK_CORE_ACCOUNT", "a@example.test"),
            ("CLOUDSDK_CONFIG", "/cfg"),
            ("GCE_METADATA_HOST", "127.0.0.1:1"),
        ];
        assert_eq!(named(Some(Path::new("/f.json")), &all.into_iter().collect()), file("/f.json"));
        assert_eq!(named_by(&all), file("/v.json"));
        assert_eq!(named_by(&all[1..]), file("/g.json"));
        let Some(NamedSource::Gcloud { variables }) = named_by(&all[2..]) else { panic!("gcloud") };
        assert_eq!(variables["CLOUDSDK_CONFIG"], "/cfg");
        assert_eq!(named_by(&all[3..]), Some(NamedSource::GcloudDirectory { path: "/cfg".into() }));
        assert_eq!(named_by(&all[4..]), Some(NamedSource::Metadata { host: Some("127.0.0.1:1".into()) }));
        assert_eq!(named_by(&[("GOOGLE_APPLICATION_CREDENTIALS", "")]), None);
    }

    #[test]
    fn a_relative_path_is_that_of_the_asking_process() {
        let Some(NamedSource::File { path }) = named_by(&[("GOOGLE_APPLICATION_CREDENTIALS", "k.json")])
        else {
            panic!("file")
        };
        assert!(path.is_absolute() && path.ends_with("k.json"));
    }
}
