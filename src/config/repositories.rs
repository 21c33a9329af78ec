//! Whether each repository that a file lists is one, and each registry of an account: told with file, line and key.
//!
//! A list is only a list of words until every file is read, since a repository may be written as the URL of a host that
//! another file names. So the places are kept aside, and all of them are looked at in the end.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::ConfigFault;
use super::read::{line_at, parse};
use crate::grant::{Pattern, PatternFault};
use crate::registry::google::is_in_googles_zones;
use crate::registry::{Format, Hosts};

/// A word and where it stands.
#[derive(Debug)]
pub(super) struct Listed {
    path: PathBuf,
    line: usize,
    key: &'static str,
    text: String,
}

/// All words of a file that name a repository or a registry.
pub(super) fn listed(path: &Path, text: &str) -> Result<Vec<Listed>, ConfigFault> {
    let lists: Lists = parse(path, text)?;
    let of = |key: &'static str, list: Vec<Spanned<String>>| {
        list.into_iter().map(move |word| (key, word)).collect::<Vec<_>>()
    };
    let mut words = of(POLICY, lists.repositories);
    words.extend(of(BUILD, lists.build.repositories));
    words.extend(lists.listener.into_iter().flat_map(|list| of(LISTENER, list.repositories)));
    words.extend(of(INDEX, lists.index.repositories));
    words.extend(lists.account.into_iter().filter_map(|account| Some((ACCOUNT, account.registry?))));
    let place = |(key, word): (&'static str, Spanned<String>)| {
        let line = line_at(text, word.span().start);
        Listed { path: path.to_owned(), line, key, text: word.into_inner() }
    };
    Ok(words.into_iter().map(place).collect())
}

impl Listed {
    /// Whether it is what its key wants.
    pub(super) fn check(self, hosts: &Hosts) -> Result<(), ConfigFault> {
        let verdict = match self.key {
            ACCOUNT => registry(&self.text, hosts),
            INDEX => Pattern::parse(&self.text, hosts).and_then(|_| python(&self.text, hosts)),
            _ => Pattern::parse(&self.text, hosts).map(drop),
        };
        verdict.map_err(|fault| ConfigFault::Repository {
            path: self.path,
            line: self.line,
            key: self.key,
            fault,
        })
    }
}

/// A rule for what is called like a registry of Google's and is none would leave the one that was meant to another
/// identity. A host of one's own may be named for when it is there.
fn registry(text: &str, hosts: &Hosts) -> Result<(), PatternFault> {
    let host = text.to_ascii_lowercase();
    if hosts.resolve(&host).is_ok() || !is_in_googles_zones(&host) {
        return Ok(());
    }
    Err(PatternFault::registry(text))
}

/// What is merged is Python's. A location stands for the hosts of all formats.
fn python(text: &str, hosts: &Hosts) -> Result<(), PatternFault> {
    let format = text.contains("://").then(|| hosts.resolve(text).ok()).flatten().map(|found| found.format);
    if format.is_none_or(|format| format == Format::Python) {
        Ok(())
    } else {
        Err(PatternFault::python(text))
    }
}

/// The lists alone; the rest is read elsewhere.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Lists {
    repositories: Vec<Spanned<String>>,
    build: List,
    listener: Vec<List>,
    index: List,
    account: Vec<Account>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct List {
    repositories: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Account {
    registry: Option<Spanned<String>>,
}

const POLICY: &str = "repositories";
const BUILD: &str = "[build] repositories";
const LISTENER: &str = "[[listener]] repositories";
const INDEX: &str = "[index] repositories";
const ACCOUNT: &str = "[[account]] registry";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::ExtraRegistry;

    fn check(text: &str) -> Result<(), String> {
        let extra = |host: &str, format| ExtraRegistry { host: host.to_owned(), format };
        let hosts = Hosts::new(&[extra("localhost:8443", Format::Python), extra("d.test", Format::Docker)]);
        let listed = listed(Path::new("/c.toml"), text).unwrap();
        listed.into_iter().try_for_each(|it| it.check(&hosts)).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_repository_that_is_none_is_told_with_file_line_and_key() {
        for (text, told) in [
            (
                "[build]\nrepositories = [\n  \"us/acme/private\",\n  \"us/acme\",\n]\n",
                "/c.toml:4: [build] repositories: \"us/acme\"",
            ),
            (
                "[[listener]]\nunix = \"/a\"\n[[listener]]\nunix = \"/b\"\nrepositories = [\"x\"]\n",
                "/c.toml:5: [[listener]] repositories: \"x\"",
            ),
            (
                "\n[index]\nrepositories = [\"https://elsewhere.test/acme/private\"]\n",
                "/c.toml:3: [index] repositories: \"https://elsewhere.test/acme/private\"",
            ),
            (
                "[index]\nrepositories = [\"https://us-npm.pkg.dev/acme/private\"]\n",
                "/c.toml:2: [index] repositories: \"https://us-npm.pkg.dev/acme/private\"",
            ),
            ("[index]\nrepositories = [\"https://d.test/acme/private\"]\n", "/c.toml:2: [index]"),
            ("repositories = [\"eu/acme/private\"]\n", "/c.toml:1: repositories: \"eu/acme/private\""),
            (
                "[[account]]\nregistry = \"eu-python.pkg.dev\"\n",
                "/c.toml:2: [[account]] registry: \"eu-python.pkg.dev\"",
            ),
            ("[[account]]\nregistry = \"pdm-pypi-us-python.pkg.dev\"\n", "/c.toml:2: [[account]] registry"),
        ] {
            let fault = check(text).unwrap_err();
            assert!(fault.starts_with(told), "{fault}");
        }
    }

    #[test]
    fn what_is_one_is_let_through() {
        for text in [
            "",
            "[build]\nrepositories = [\"us/acme/private\", \"https://localhost:8443/acme/private/simple/\"]\n",
            "[index]\nrepositories = [\"me-central2/example.com:acme/private\"]\n",
            "[[account]]\nregistry = \"elsewhere.test\"\n[[account]]\nregistry = \"localhost:8443\"\n[[account]]\nregistry = \"US-python.pkg.dev\"\n[[account]]\nproject = \"x\"\n",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }
}
