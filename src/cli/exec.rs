//! `valetkey exec`: a command with everything wired. Its exit code is the command's.

use std::ffi::OsString;
use std::process::ExitCode;

use super::terminal;
use crate::client::Client;
use crate::environment::Environment;
use crate::error::shown::shown;
use crate::error::{Failure, Kind};
use crate::exec::{self, Order};
use crate::proxy::index::Repository;
use crate::registry::Hosts;
use crate::registry::google::is_in_googles_zones;

#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// Give every installer one index: that of REPO; of several, the first that has a name serves it; of none, the
    /// merged index that the daemon's configuration describes
    #[arg(long, value_name = "REPO", num_args = 0..)]
    index: Option<Vec<String>>,
    /// Listen on this port of 127.0.0.1 [default: a free one; 18417 in a step of a build]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The command and its arguments, behind --
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(super) fn run(environment: Environment, flags: Flags) -> Result<ExitCode, Failure> {
    let client = Client::new(environment, None)?;
    let hosts = Hosts::new(&client.config.registries);
    let index = flags.index.map(|repositories| index_path(&repositories, &hosts)).transpose()?;
    let mut words = flags.command.into_iter();
    let program = words.next().unwrap_or_default();
    let order =
        Order { program, arguments: words.collect(), index, port: flags.port, say: terminal::whisper };
    match exec::run(&client, &order)? {
        Ok(code) => Ok(code),
        Err(fault) => {
            let code = fault.exit_code();
            terminal::report(&fault.into());
            Ok(ExitCode::from(code))
        }
    }
}

/// The path of the daemon's index: the merged one of its configuration where no repository is named, and where several
/// are, one that merges them in their order.
fn index_path(repositories: &[String], hosts: &Hosts) -> Result<String, Failure> {
    let place = |text: &String| {
        let known = Repository::parse(text, hosts).or_else(|| elsewhere(text));
        known.map(|repository| repository.place().to_owned()).ok_or_else(|| {
            Failure::new(Kind::Usage, format!("{:?} is no Python repository", shown(text)))
                .with_hint("write it as LOCATION/PROJECT/REPOSITORY or as its https URL")
        })
    };
    let places = repositories.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    Ok(match places.as_slice() {
        [] => "/simple/".to_owned(),
        [one] => format!("/index/{one}/simple/"),
        several => format!("/merged/{}/simple/", several.join("/")),
    })
}

/// A repository of a host that only the daemon's configuration may name: whether it does is seen by what it grants.
fn elsewhere(text: &str) -> Option<Repository> {
    let path = text.strip_prefix("https://")?;
    let path = path.strip_suffix('/').unwrap_or(path);
    let path = path.strip_suffix("/simple").unwrap_or(path);
    let mut segments = path.split('/');
    let repository = Repository::new(segments.next()?, segments.next()?, segments.next()?)?;
    // Google's own hosts are known everywhere, and whatever else is called like one is none.
    let host = repository.place().split('/').next()?;
    (segments.next().is_none() && !is_in_googles_zones(host)).then_some(repository)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_repository_lead_to_its_index() {
        let path = |text: &str| index_path(&[text.to_owned()], &Hosts::default()).ok();
        let wanted = Some("/index/europe-west1-python.pkg.dev/acme/private/simple/".to_owned());
        assert_eq!(path("europe-west1/acme/private"), wanted);
        assert_eq!(path("https://europe-west1-python.pkg.dev/acme/private"), wanted);
        assert_eq!(path("https://europe-west1-python.pkg.dev/acme/private/simple/"), wanted);
        // A registry that the daemon's configuration may name.
        let other = Some("/index/r.corp.example:8443/acme/private/simple/".to_owned());
        assert_eq!(path("https://r.corp.example:8443/acme/private/simple/"), other);
        for text in [
            "",
            "acme",
            "europe-west1/acme",
            "europe-west1/acme/private/x",
            "https://r.corp.example/acme/private/x",
            "https://r.corp.example/acme",
            "https://u:p@r.corp.example/acme/private",
            "https://r.corp.example/acme/../private",
            "http://europe-west1-python.pkg.dev/acme/private/",
            "https://europe-west1-npm.pkg.dev/acme/private/",
            "europe-west1/../private",
        ] {
            assert_eq!(path(text), None, "{text:?}");
        }
    }

    #[test]
    fn several_repositories_stand_in_their_order() {
        let both = ["us/acme/private".to_owned(), "https://europe-python.pkg.dev/acme/other/".to_owned()];
        let path = index_path(&both, &Hosts::default()).unwrap();
        assert_eq!(path, "/merged/us-python.pkg.dev/acme/private/europe-python.pkg.dev/acme/other/simple/");
        assert_eq!(index_path(&[], &Hosts::default()).unwrap(), "/simple/");
        assert!(index_path(&[both[0].clone(), "acme".to_owned()], &Hosts::default()).is_err());
    }
}
