//! The variables that give every installer one index, and what would bring in another beside it.
//!
//! An index beside ours is how a stranger's package of the same name gets in, so extra indexes and link lists are
//! taken away: where a configuration file may name them, an empty value would not do (pip ignores it), and the variable
//! names our own index, or an empty directory, instead. uv gets a file in the place of its own ones (`uv`).
//!
//! The index has a name that nobody can own (RFC 6761 6.4) and is reached through the run's proxy, under the run's own
//! authority. What outlives the run keeps the name, and finds nobody who could speak for it: on a bare port of loopback
//! it would take what the next one who listens there has to offer.

use std::path::PathBuf;

use super::files::Files;
use crate::environment::Environment;
use crate::wiring::Wiring;

/// What a command needs so that its packages come from one index. Makes the empty directory where it needs one.
///
/// # Errors
/// When that directory cannot be made.
pub fn index<E>(
    environment: &Environment,
    files: &Files,
    path: &str,
    empty_directory: impl FnOnce() -> Result<PathBuf, E>,
) -> Result<Wiring, E> {
    let mut wiring = Wiring::default();
    let url = format!("https://{HOST}{path}");
    for name in INDEX {
        wiring.set(name, url.clone());
    }
    // What is not needed is not set: it would stand in the files that pip-compile writes.
    if files.pip.links || environment.get(LINKS).is_some() {
        wiring.set(LINKS, empty_directory()?);
    }
    wiring.set("PIP_NO_INDEX", "false");
    wiring.unset.extend(BESIDE);
    Ok(wiring)
}

/// The index that another run has put into the environment, as a path of the daemon's. Its name leads nowhere but through
/// a run, and a command that was to have this index alone must not get another one for want of it.
#[must_use]
pub fn inherited(environment: &Environment) -> Option<String> {
    let named = INDEX.iter().filter_map(|name| environment.text(name));
    let mut paths = named.filter_map(|url| url.strip_prefix("https://")?.strip_prefix(HOST));
    paths.find(|path| path.starts_with('/') && path.ends_with("/simple/")).map(str::to_owned)
}

/// The name of the index.
pub const HOST: &str = "index.valetkey.invalid";
/// pip, pipenv, pip-tools; uv of two generations; pdm.
const INDEX: [&str; 6] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIPENV_PYPI_MIRROR",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "PDM_PYPI_URL",
];
const LINKS: &str = "PIP_FIND_LINKS";
/// What has its say beside an index.
const BESIDE: [&str; 6] = [
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
    "UV_INDEX_STRATEGY",
    "UV_TORCH_BACKEND",
];

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn wired(pairs: &[(&str, &str)], files: &Files) -> Wiring {
        let environment: Environment = pairs.iter().copied().collect();
        index(&environment, files, "/simple/", || Ok::<_, Infallible>("/shm/empty".into())).unwrap()
    }

    #[test]
    fn other_indexes_are_neutralised() {
        let wiring = wired(&[("PIP_FIND_LINKS", "https://x.test")], &Files::default());
        assert_eq!(wiring.value("PIP_INDEX_URL"), wiring.value("PIP_EXTRA_INDEX_URL"));
        assert_eq!(wiring.value("UV_DEFAULT_INDEX").unwrap(), "https://index.valetkey.invalid/simple/");
        assert_eq!(wiring.value("PIP_FIND_LINKS").unwrap(), "/shm/empty");
        assert!(wiring.unset.contains(&"UV_EXTRA_INDEX_URL"));
    }

    #[test]
    fn the_index_of_a_run_around_this_one_is_known() {
        let of = |name: &'static str, url: &'static str| inherited(&[(name, url)].into_iter().collect());
        let path = "/index/localhost:8443/a/b/simple/";
        assert_eq!(
            of("UV_DEFAULT_INDEX", "https://index.valetkey.invalid/simple/").as_deref(),
            Some("/simple/")
        );
        assert_eq!(
            of("PIP_INDEX_URL", "https://index.valetkey.invalid/index/localhost:8443/a/b/simple/").as_deref(),
            Some(path)
        );
        for url in [
            "https://x.test/simple/",
            "http://index.valetkey.invalid/simple/",
            "https://index.valetkey.invalid.x.test/simple/",
            "https://index.valetkey.invalid:1/simple/",
            "https://index.valetkey.invalid",
        ] {
            assert_eq!(of("PIP_INDEX_URL", url), None, "{url}");
        }
    }

    #[test]
    fn an_empty_directory_is_named_only_where_links_are() {
        let mut files = Files::default();
        assert_eq!(wired(&[], &files).value("PIP_FIND_LINKS"), None);
        files.pip.links = true;
        assert!(wired(&[], &files).value("PIP_FIND_LINKS").is_some());
    }
}
