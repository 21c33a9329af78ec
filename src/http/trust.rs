//! Which certificates are trusted.
//!
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` stand in the place of the system's certificates, where one of them is set. Without
//! them the system's count, and beside them what pip, requests and gcloud are told to trust ([`named`]). What
//! the configuration names as `extra_ca` always counts.
//!
//! They are read when the first https request is made, away from the runtime, as regular files of bounded size. That it
//! failed is remembered for seconds. What was read is good for minutes, and less where a certificate was refused: a bundle
//! that is installed or replaced counts without a restart, and a reading that fails then leaves the one before it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, Error, RootCertStore};
use rustls_platform_verifier::Verifier;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::named::{self, Named, is_fixed};
use super::pinned::Pinned;
use crate::blocking;
use crate::environment::Environment;
use crate::error::shown::shown_path;
use crate::error::{Failure, Fault, Kind};
use crate::paths::open_regular;

/// Why nothing can be trusted.
#[derive(Debug, Clone, Error)]
pub enum TrustFault {
    /// What the configuration names is missing or no certificate.
    #[error("cannot read extra_ca {}: {problem}", shown_path(path))]
    Extra { path: PathBuf, problem: String },
    /// There is nothing to trust; where variables decide, what is wrong with what they name.
    #[error("no trusted root certificates{problems}")]
    Nothing { problems: String, by_variable: bool },
    /// A file system that does not answer.
    #[error("{} does not answer", shown_path(path))]
    Silent { path: PathBuf },
    /// The library, for a reason that no file is to blame for.
    #[error("{0}")]
    Library(String),
}

impl Fault for TrustFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Extra { .. } | Self::Nothing { .. } => Kind::Configuration,
            Self::Silent { .. } | Self::Library(_) => Kind::Local,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Extra { .. } => "correct `extra_ca` in config.toml, or take it out".to_owned(),
            Self::Nothing { by_variable: true, .. } => {
                "correct or unset SSL_CERT_FILE and SSL_CERT_DIR".to_owned()
            }
            Self::Nothing { .. } => {
                "install the package ca-certificates, or name your CA in SSL_CERT_FILE".to_owned()
            }
            Self::Silent { .. } => "check what is mounted there".to_owned(),
            Self::Library(_) => return None,
        })
    }
}

/// What was read.
#[derive(Debug)]
pub struct Trusted {
    pub config: Arc<ClientConfig>,
    /// What to do where a certificate's issuer is unknown.
    remedy: String,
}

impl Trusted {
    /// What to do about a certificate that was refused.
    #[must_use]
    pub fn remedy(&self, why: &Error) -> String {
        use CertificateError::{
            Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext,
        };
        match why {
            Error::InvalidCertificate(
                Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
            ) => "check this machine's clock; if it is right, the certificate has to be renewed there"
                .to_owned(),
            Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
                "somebody else answers in its place, or it is asked by another name than its certificate's"
                    .to_owned()
            }
            _ => self.remedy.clone(),
        }
    }
}

type Outcome = Result<Arc<Trusted>, TrustFault>;

/// See the module.
#[derive(Debug)]
pub struct Trust {
    environment: Environment,
    extra_ca: Option<PathBuf>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    last: Option<(Arc<Trusted>, Instant)>,
    failed: Option<(TrustFault, Instant)>,
    /// A certificate was refused by the last one.
    doubted: bool,
    reading: Option<Reading>,
}

/// A reading that is under way, and the file that it is at.
#[derive(Debug, Clone)]
struct Reading {
    landing: watch::Receiver<Option<Outcome>>,
    at: At,
}

#[derive(Debug, Clone, Default)]
struct At(Arc<Mutex<PathBuf>>);

impl Trust {
    #[must_use]
    pub fn new(environment: &Environment, extra_ca: Option<PathBuf>) -> Self {
        Self { environment: environment.clone(), extra_ca, known: Mutex::default() }
    }

    /// What is trusted now.
    ///
    /// # Errors
    /// When there is nothing, or it cannot be read.
    pub async fn get(self: &Arc<Self>) -> Outcome {
        let (mut reading, old) = {
            let (now, mut known) = (Instant::now(), self.known());
            let old = known.last.as_ref().map(|(trusted, _)| Arc::clone(trusted));
            if let Some((trusted, since)) = &known.last {
                let is_settled = now < *since + SETTLED || !known.doubted;
                if is_settled && now < *since + GOOD {
                    return Ok(Arc::clone(trusted));
                }
            }
            if let Some((fault, since)) = &known.failed
                && now < *since + SETTLED
            {
                return old.ok_or_else(|| fault.clone());
            }
            // One that came to grief has nobody who tells.
            let running = known.reading.take().filter(|reading| reading.landing.has_changed().is_ok());
            (known.reading.insert(running.unwrap_or_else(|| self.begin())).clone(), old)
        };
        let landing = timeout(PATIENCE, reading.landing.wait_for(Option::is_some)).await;
        let outcome = match landing {
            Ok(Ok(outcome)) => outcome.clone(),
            // Whoever reads came to grief, and the next one begins anew.
            Ok(Err(_)) => Some(Err(TrustFault::Library("the certificates cannot be read".to_owned()))),
            Err(_) => Some(Err(TrustFault::Silent { path: reading.at.path() })),
        };
        match (outcome, old) {
            (Some(Ok(trusted)), _) | (_, Some(trusted)) => Ok(trusted),
            (Some(Err(fault)), None) => Err(fault),
            (None, None) => Err(TrustFault::Library("the certificates cannot be read".to_owned())),
        }
    }

    /// A certificate was refused: what was read may be out of date.
    pub fn doubt(&self) {
        self.known().doubted = true;
    }

    fn begin(self: &Arc<Self>) -> Reading {
        let (sender, landing) = watch::channel(None);
        let at = At::default();
        let (trust, place) = (Arc::clone(self), at.clone());
        let tell = sender.clone();
        let read = move || {
            let outcome = read(&trust.environment, trust.extra_ca.as_deref(), &place).map(Arc::new);
            let (now, mut known) = (Instant::now(), trust.known());
            match &outcome {
                Ok(trusted) => {
                    (known.last, known.failed) = (Some((Arc::clone(trusted), now)), None);
                    known.doubted = false;
                }
                Err(fault) => {
                    tracing::warn!(fault = %fault, "cannot read what is trusted");
                    known.failed = Some((fault.clone(), now));
                }
            }
            known.reading = None;
            drop(known);
            tell.send_replace(Some(outcome));
        };
        if let Err(fault) = blocking::spawn(read) {
            sender.send_replace(Some(Err(TrustFault::Library(Failure::from(fault).one_line()))));
        }
        Reading { landing, at }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl At {
    fn is(&self, path: &Path) {
        path.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn path(&self) -> PathBuf {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(environment: &Environment, extra_ca: Option<&Path>, at: &At) -> Result<Trusted, TrustFault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let extra = extra_ca.map(|path| {
        let unreadable = |problem: String| TrustFault::Extra { path: path.to_owned(), problem };
        let list = certificates(path, at).map_err(|error| unreadable(error.to_string()))?;
        let sound = list.iter().all(is_sound);
        if sound { Ok(list) } else { Err(unreadable("one of its certificates is damaged".to_owned())) }
    });
    let mut named = extra.transpose()?.unwrap_or_default();
    let own = own(environment);
    let mut problems = Vec::new();
    // What others are told is trusted where nobody has said what we are to trust.
    let mut tried = own.clone();
    if own.is_empty() {
        tried.extend(named::trusted(environment, |file| at.is(file)));
    }
    tried.retain(|bundle| {
        let list = if is_fixed(&bundle.path) {
            certificates(&bundle.path, at)
        } else {
            Err(io::Error::other("it is no absolute path"))
        };
        let problem = list.map(|list| named.extend(list.into_iter().filter(is_sound)));
        problem.map_err(|error| problems.push(format!("{bundle}: {error}"))).is_ok()
    });
    let nothing = || {
        let problems: String = problems.iter().flat_map(|problem| ["; ", problem]).collect();
        TrustFault::Nothing { problems, by_variable: !own.is_empty() }
    };
    let verifier =
        verifier(&named, own.is_empty(), &provider, at).map_err(|library| library.unwrap_or_else(nothing))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TrustFault::Library(error.to_string()))?
        .dangerous() // rustls calls every verifier but webpki's own dangerous; this one asks that one first.
        .with_custom_certificate_verifier(Arc::new(Pinned::new(verifier, &named)))
        .with_no_client_auth();
    let remedy = remedy(&tried, &problems, environment, own.is_empty(), at);
    Ok(Trusted { config: Arc::new(config), remedy })
}

/// The system's own verifier where it counts, and else one for just these. Nothing is an error only where that is all.
fn verifier(
    named: &[CertificateDer<'static>],
    with_system: bool,
    provider: &Arc<CryptoProvider>,
    at: &At,
) -> Result<Arc<dyn ServerCertVerifier>, Option<TrustFault>> {
    if with_system {
        at.is(Path::new("the system's bundle of certificates"));
        // It fails where there is none at all.
        let verifier = Verifier::new_with_extra_roots(named.iter().cloned(), Arc::clone(provider));
        return Ok(Arc::new(verifier.map_err(|_| None)?));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(named.iter().cloned());
    if roots.is_empty() {
        return Err(None);
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    Ok(verifier.map_err(|error| TrustFault::Library(error.to_string()))?)
}

/// What stands in the place of the system's certificates.
fn own(environment: &Environment) -> Vec<Named> {
    let file = environment.path(FILE).map(|path| Named { by: FILE.to_owned(), path });
    let directories = environment.get(DIRECTORIES).into_iter().flat_map(std::env::split_paths);
    let directories = directories.map(|path| Named { by: DIRECTORIES.to_owned(), path });
    file.into_iter().chain(directories.filter(|named| !named.path.as_os_str().is_empty())).collect()
}

/// What a person can do whose company signs anew what comes from outside.
fn remedy(
    tried: &[Named],
    problems: &[String],
    environment: &Environment,
    others_count: bool,
    at: &At,
) -> String {
    let mut said = Vec::new();
    if !tried.is_empty() {
        let list: Vec<_> = tried.iter().map(ToString::to_string).collect();
        said.push(format!("it is not signed by what is trusted because of {}", list.join(", ")));
    }
    said.extend(problems.iter().cloned());
    let mut others = named::elsewhere(environment);
    if !others_count {
        others.extend(named::trusted(environment, |file| at.is(file)));
    }
    if let Some(other) = others.iter().find(|other| is_fixed(&other.path)) {
        let path = shown_path(&other.path);
        said.push(format!(
            "{} names {path}: if that is the CA of your company's proxy, write `extra_ca = \"{path}\"` in config.toml",
            other.by
        ));
    } else {
        said.push(
            "if a proxy of your company re-signs TLS, name its CA as `extra_ca` in config.toml or in SSL_CERT_FILE"
                .to_owned(),
        );
    }
    said.join("; ")
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.by, shown_path(&self.path))
    }
}

/// Whether it can be trusted at all: a bundle may hold what the library does not read.
fn is_sound(certificate: &CertificateDer<'static>) -> bool {
    RootCertStore::empty().add(certificate.clone()).is_ok()
}

/// The certificates in a file, or in a directory of files as OpenSSL has them.
fn certificates(path: &Path, at: &At) -> io::Result<Vec<CertificateDer<'static>>> {
    at.is(path);
    if !fs::metadata(path)?.is_dir() {
        return in_file(path);
    }
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(path)?.flatten().take(MOST_FILES) {
        // One file, under several names.
        files.extend(entry.path().canonicalize().ok());
    }
    let mut list = Vec::new();
    for file in files {
        at.is(&file);
        list.extend(in_file(&file).unwrap_or_default());
        if list.len() > MOST_CERTIFICATES {
            return Err(io::Error::other("it holds too many certificates"));
        }
    }
    if list.is_empty() { Err(io::Error::other("it holds no file with a certificate")) } else { Ok(list) }
}

fn in_file(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let mut bytes = Vec::new();
    open_regular(path, false)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other("it is too large"));
    }
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let list = list.map_err(|error| io::Error::other(error.to_string()))?;
    if list.is_empty() { Err(io::Error::other("it holds no PEM certificate")) } else { Ok(list) }
}

const FILE: &str = "SSL_CERT_FILE";
const DIRECTORIES: &str = "SSL_CERT_DIR";
/// For how long a failure is remembered, and how long what was read is not doubted.
const SETTLED: Duration = Duration::from_secs(2);
/// How long what was read is good.
const GOOD: Duration = Duration::from_secs(300);
/// What a file system is given.
const PATIENCE: Duration = Duration::from_secs(3);
/// The bundles of all systems stay far below these.
const LARGEST: u64 = 16 << 20;
const MOST_FILES: usize = 4096;
const MOST_CERTIFICATES: usize = 16_384;

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    fn certificate() -> String {
        rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap().cert.pem()
    }

    fn trust(file: &Path) -> Arc<Trust> {
        Arc::new(Trust::new(&[(FILE, file)].into_iter().collect(), None))
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_remembered_for_seconds_and_never_for_good() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("ca.pem");
        let trust = trust(&file);
        assert!(matches!(trust.get().await, Err(TrustFault::Nothing { by_variable: true, .. })));
        fs::write(&file, certificate()).unwrap();
        advance(SETTLED / 2).await;
        assert!(trust.get().await.is_err(), "a crowd does not read it each time");
        advance(SETTLED).await;
        assert!(trust.get().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_is_read_again_in_minutes_and_soon_where_it_is_doubted() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("ca.pem");
        fs::write(&file, certificate()).unwrap();
        let trust = trust(&file);
        let first = trust.get().await.unwrap();
        let is_first = |trusted: &Arc<Trusted>| Arc::ptr_eq(trusted, &first);
        advance(GOOD / 2).await;
        assert!(is_first(&trust.get().await.unwrap()));
        // A refused certificate: what was installed meanwhile counts at once.
        trust.doubt();
        let second = trust.get().await.unwrap();
        assert!(!is_first(&second));
        trust.doubt();
        assert!(Arc::ptr_eq(&trust.get().await.unwrap(), &second), "and not each time");
        // A bundle that is being written leaves the one before it.
        fs::remove_file(&file).unwrap();
        advance(GOOD * 2).await;
        assert!(Arc::ptr_eq(&trust.get().await.unwrap(), &second));
        fs::write(&file, certificate()).unwrap();
        sleep(SETTLED).await;
        assert!(!Arc::ptr_eq(&trust.get().await.unwrap(), &second));
    }
}
