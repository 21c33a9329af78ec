//! Bundles of certificates that the user's other programs are told of, so that a company's authority has to be named once.
//!
//! What pip, requests and gcloud trust is trusted here, too. It widens nothing that matters: whoever holds the key of an
//! authority that pip trusts chooses the programs that run as this user, and the one that requests and gcloud trust sees
//! Google's tokens already. The bundles of the others are only told to a person whom they would help. A relative path
//! counts for nothing, and neither does a file of the working directory or of a virtual environment: those come with a
//! stranger's checkout.

use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::error::shown::shown_path;
use crate::paths::read_regular;

/// A bundle and what names it, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub by: String,
    /// A file, or a directory of files.
    pub path: PathBuf,
}

/// What is in force for pip, requests and gcloud. May wait for a file system: `at` is told of each file before.
#[must_use]
pub fn trusted(environment: &Environment, at: impl Fn(&Path)) -> Vec<Named> {
    let pip = variable(environment, "PIP_CERT").or_else(|| in_pip_conf(environment, &at));
    let gcloud = variable(environment, GCLOUD).or_else(|| in_gcloud(environment, &at));
    let requests = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"].map(|name| variable(environment, name));
    requests.into_iter().chain([pip, gcloud]).flatten().collect()
}

/// What only other programs are told.
#[must_use]
pub fn elsewhere(environment: &Environment) -> Vec<Named> {
    ELSEWHERE.iter().filter_map(|name| variable(environment, name)).collect()
}

fn variable(environment: &Environment, name: &str) -> Option<Named> {
    Some(Named { by: name.to_owned(), path: bundle(environment, name)? })
}

/// The path in a variable, as its reader reads it.
#[must_use]
pub fn bundle(environment: &Environment, name: &str) -> Option<PathBuf> {
    let path = environment.path(name)?;
    Some(if OPENED.contains(&name) { environment.below_home(path) } else { path })
}

/// The last file that says something wins, as it does for pip.
fn in_pip_conf(environment: &Environment, at: &impl Fn(&Path)) -> Option<Named> {
    let home = environment.path("HOME");
    let below = |base: Option<PathBuf>, name: &str| base.map(|base| base.join(name));
    let named = environment.path("PIP_CONFIG_FILE");
    if named.as_ref().is_some_and(|path| path.as_os_str() == "/dev/null") {
        return None;
    }
    let config = environment.path("XDG_CONFIG_HOME").or_else(|| below(home.clone(), ".config"));
    let files = [
        named,
        below(config, "pip/pip.conf"),
        below(home, ".pip/pip.conf"),
        Some("/etc/pip.conf".into()),
        Some("/etc/xdg/pip/pip.conf".into()),
    ];
    files.into_iter().flatten().find_map(|file| {
        at(&file);
        let text = read_regular(&file, LARGEST).ok()?;
        let value = ["install", "download", "global"]
            .into_iter()
            .find_map(|section| setting(&text, section, "cert").map(str::to_owned))?;
        let path = environment.below_home(value.into());
        Some(Named { by: format!("`cert` in {}", shown_path(&file)), path })
    })
}

/// The property of the configuration that is active.
fn in_gcloud(environment: &Environment, at: &impl Fn(&Path)) -> Option<Named> {
    let home = || environment.path("HOME").map(|home| home.join(".config/gcloud"));
    let directory = environment.path("CLOUDSDK_CONFIG").or_else(home)?;
    let read = |file: &Path| {
        at(file);
        read_regular(file, LARGEST).ok()
    };
    let active = || read(&directory.join("active_config"));
    let name = environment.text("CLOUDSDK_ACTIVE_CONFIG_NAME").map(str::to_owned).or_else(active);
    let name = name.map_or_else(|| "default".to_owned(), |name| name.trim().to_owned());
    let name = Some(name).filter(|name| !name.contains('/'))?;
    let file = directory.join("configurations").join(format!("config_{name}"));
    let text = read(&file)?;
    let path = setting(&text, "core", "custom_ca_certs_file")?;
    Some(Named {
        by: format!("`core/custom_ca_certs_file` of gcloud, in {}", shown_path(&file)),
        path: path.into(),
    })
}

/// A value in an INI file: the last one in that section. A line that begins with a blank goes on with the one before it.
fn setting<'a>(text: &'a str, section: &str, name: &str) -> Option<&'a str> {
    let (mut concerns, mut found) = (false, None);
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_end();
        if let Some(begun) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            concerns = begun == section;
        } else if concerns
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((key, value)) = line.split_once(['=', ':'])
            && key.trim().eq_ignore_ascii_case(name)
        {
            found = Some(value.trim().trim_matches(['"', '\''])).filter(|value| !value.is_empty());
        }
    }
    found
}

/// Whether a path says where a file is, wherever the program was started.
#[must_use]
pub fn is_fixed(path: &Path) -> bool {
    path.is_absolute()
}

/// What pip and npm read in these may begin with `~/`, which they open themselves.
const OPENED: [&str; 3] = ["PIP_CERT", "npm_config_cafile", "NPM_CONFIG_CAFILE"];
const GCLOUD: &str = "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE";
/// git's, Node's, npm's, Amazon's, cargo's, the one that Nix's programs read, twine's, Deno's, and those of two libraries of
/// Google's.
const ELSEWHERE: [&str; 11] = [
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "npm_config_cafile",
    "NPM_CONFIG_CAFILE",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "NIX_SSL_CERT_FILE",
    "TWINE_CERT",
    "DENO_CERT",
    "HTTPLIB2_CA_CERTS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];
const LARGEST: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn found(home: &Path, more: &[(&str, &str)]) -> Vec<(String, String)> {
        // The machine may have files of pip's.
        let fixed = [("HOME", home.to_str().unwrap()), ("PIP_CONFIG_FILE", "/dev/null")];
        let environment: Environment = fixed.iter().chain(more).copied().collect();
        let shown = |named: Named| (named.by, named.path.display().to_string());
        trusted(&environment, |_| ()).into_iter().map(shown).collect()
    }

    fn write(home: &Path, below: &str, text: &str) -> String {
        let path = home.join(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    #[test]
    fn every_variable_that_pip_requests_and_gcloud_read_counts_and_no_other() {
        let home = tempfile::tempdir().unwrap();
        for name in ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", GCLOUD] {
            let wanted = vec![(name.to_owned(), "/corp.pem".to_owned())];
            assert_eq!(found(home.path(), &[(name, "/corp.pem")]), wanted);
            assert_eq!(found(home.path(), &[(name, "")]), []);
        }
        let below_home = home.path().join("corp.pem").display().to_string();
        assert_eq!(found(home.path(), &[("PIP_CERT", "~/corp.pem")])[0].1, below_home);
        assert_eq!(found(home.path(), &[("REQUESTS_CA_BUNDLE", "~/corp.pem")])[0].1, "~/corp.pem");
        for name in ELSEWHERE {
            assert_eq!(found(home.path(), &[(name, "/corp.pem")]), []);
            let environment: Environment = [(name, "/corp.pem")].into_iter().collect();
            assert_eq!(elsewhere(&environment).len(), 1);
        }
    }

    #[test]
    fn the_file_of_pip_that_wins_is_named_and_the_one_of_a_virtual_environment_is_not_read() {
        let home = tempfile::tempdir().unwrap();
        let old = write(home.path(), ".pip/pip.conf", "[global]\ncert = /old.pem\n");
        write(home.path(), "venv/pip.conf", "[global]\ncert = /venv.pem\n");
        let venv = home.path().join("venv");
        let own_files = ("PIP_CONFIG_FILE", "");
        let venv = [("VIRTUAL_ENV", venv.to_str().unwrap()), own_files];
        assert_eq!(found(home.path(), &venv), [(format!("`cert` in {old}"), "/old.pem".to_owned())]);
        let text = "cert = /none.pem\n[list]\ncert = /wrong.pem\n[install]\n;cert = /c\nCert: '/own.pem'\n continued\n";
        let own = write(home.path(), ".config/pip/pip.conf", text);
        assert_eq!(found(home.path(), &[own_files]), [(format!("`cert` in {own}"), "/own.pem".to_owned())]);
        let file = write(home.path(), "other.conf", "\u{feff}[global]\ncert = ~/corp.pem\n");
        let wanted = (format!("`cert` in {file}"), home.path().join("corp.pem").display().to_string());
        assert_eq!(found(home.path(), &[("PIP_CONFIG_FILE", &file)]), [wanted]);
        assert_eq!(found(home.path(), &[("PIP_CONFIG_FILE", "/dev/null")]), []);
        let variable = [("PIP_CONFIG_FILE", file.as_str()), ("PIP_CERT", "/v.pem")];
        assert_eq!(found(home.path(), &variable), [("PIP_CERT".to_owned(), "/v.pem".to_owned())]);
    }

    #[test]
    fn the_property_of_the_active_gcloud_configuration_counts() {
        let home = tempfile::tempdir().unwrap();
        let property = "[auth]\n[core]\naccount = a@example.test\ncustom_ca_certs_file = /corp.pem\n";
        write(home.path(), ".config/gcloud/configurations/config_work", property);
        assert_eq!(found(home.path(), &[]), []);
        write(home.path(), ".config/gcloud/active_config", "work\n");
        assert_eq!(found(home.path(), &[])[0].1, "/corp.pem");
        assert_eq!(found(home.path(), &[("CLOUDSDK_ACTIVE_CONFIG_NAME", "../x")]), []);
    }
}
