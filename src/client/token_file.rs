//! A token in a file, as a build gets it that can be given a secret and no socket: what
//! `valetkey token --format json` prints, mounted at `/run/secrets/valetkey`.
//!
//! It is the last way before this machine's own sign-ins: a file that is there and of no use ends the ask. Nobody
//! makes a new token here, so one that has expired says where a new one comes from.

use std::io;
use std::path::Path;

use crate::ask::{Ask, Credential};
use crate::broker::{other_username, rejected};
use crate::clock::{Clock, rfc3339};
use crate::config::Config;
use crate::config::policy::SourceKind;
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::google::source::World;
use crate::paths::{read_regular, without_absent};
use crate::registry::Hosts;

/// The token in the file at its usual place. Nothing where there is no file.
///
/// # Errors
/// When the file is there and gives no token for this ask.
pub fn credential(config: &Config, world: &World, ask: &Ask) -> Result<Option<Credential>, Failure> {
    read(Path::new(TOKEN_FILE), config, world, ask)
}

fn read(path: &Path, config: &Config, world: &World, ask: &Ask) -> Result<Option<Credential>, Failure> {
    let text = match without_absent(path, read_regular(path, LARGEST)) {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(None),
        // A file in the place of all secrets is none of ours.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(error) => {
            let text = format!("cannot read the token file {}", shown_path(path));
            return Err(Failure::new(Kind::Local, text).with_cause(error).with_hint(MAKE));
        }
    };
    if !world.policy.allows_source(SourceKind::File) {
        let text = format!("the policy of this machine does not allow the token file {}", shown_path(path));
        return Err(Failure::new(Kind::Refused, text));
    }
    // Nothing in the file says whose it is.
    world.allow_account(None).map_err(Failure::from)?;
    if !ask.url.is_empty() {
        let registry = Hosts::new(&config.registries).resolve(&ask.url).map_err(rejected)?;
        if let Some(name) = ask.username.as_deref().filter(|name| *name != Credential::USERNAME) {
            return Err(other_username(&registry.host, name));
        }
    }
    // What is wrong with it is not said in the words of a parser, which could quote a part of it.
    let Some(credential) = Credential::from_json(text.trim().as_bytes()) else {
        let text = format!("the token file {} does not hold a token", shown_path(path));
        return Err(Failure::new(Kind::Local, text).with_hint(MAKE));
    };
    let now = Clock::system().now();
    if credential.expires <= now {
        let (path, expired) = (shown_path(path), rfc3339(credential.expires));
        let text = format!("the token in {path} has expired, at {expired}");
        return Err(Failure::new(Kind::NeedsLogin, text).with_hint(MAKE));
    }
    Ok(Some(credential))
}

/// Where a build mounts a secret with the id `valetkey`.
pub const TOKEN_FILE: &str = "/run/secrets/valetkey";
const MAKE: &str = "where the build is started, run `valetkey token --format json > FILE` and mount FILE as the secret `valetkey`";
const LARGEST: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::client::fallback::sources;
    use crate::environment::Environment;
    use crate::paths::Paths;
    use crate::secret::Secret;

    fn ask(path: &Path, config: &Config, url: &str) -> Result<Option<Credential>, Failure> {
        let paths = Paths { configuration: None, state: None, runtime: PathBuf::from("/x"), gcloud: None };
        let world = sources(config, &Environment::default(), &paths, None).world;
        read(path, config, &world, &Ask::new(url))
    }

    fn token(life: i64) -> String {
        let now = Clock::system().now();
        let life = Duration::from_secs(life.unsigned_abs());
        let expires = if life > Duration::from_secs(5) { now + life } else { now - life };
        let password = Secret::new("ya29.hunter2".to_owned());
        Credential { username: Credential::USERNAME.to_owned(), password, expires }.to_json()
    }

    const URL: &str = "https://us-python.pkg.dev/acme/private/simple/";

    #[test]
    fn a_token_is_given_to_registries_until_it_expires() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("valetkey");
        let config = Config::default();
        assert_eq!(ask(&path, &config, URL), Ok(None));
        std::fs::write(&path, token(600) + "\n").unwrap();
        for url in [URL, "us-python.pkg.dev", ""] {
            assert_eq!(ask(&path, &config, url).unwrap().unwrap().password.expose(), "ya29.hunter2");
        }
        for url in ["http://us-python.pkg.dev/x", "https://evilpkg.dev/"] {
            assert!(ask(&path, &config, url).is_err(), "{url}");
        }
        std::fs::write(&path, token(1)).unwrap();
        let failure = ask(&path, &config, URL).unwrap_err();
        assert!(failure.message.contains("has expired"), "{failure:?}");
    }

    #[test]
    fn what_is_no_token_is_told_and_not_quoted() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("valetkey");
        for text in ["", "ya29.hunter2", "{\"password\":\"ya29.hunter2\"}", "[]", "\u{0}"] {
            std::fs::write(&path, text).unwrap();
            let failure = ask(&path, &Config::default(), URL).unwrap_err();
            assert!(failure.message.contains("does not hold a token"), "{failure:?}");
            assert!(!format!("{failure:?}").contains("hunter2"));
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let failure = ask(&path, &Config::default(), URL).unwrap_err();
        assert!(failure.message.contains("cannot read"), "{failure:?}");
    }

    #[test]
    fn a_policy_that_wants_to_know_the_account_gets_no_token_from_a_file() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("valetkey");
        std::fs::write(&path, token(600)).unwrap();
        for policy in ["account_domains = [\"corp.example\"]", "sources = [\"login\"]"] {
            let config = Config { policy: toml::from_str(policy).unwrap(), ..Config::default() };
            assert_eq!(ask(&path, &config, URL).unwrap_err().kind, Kind::Refused, "{policy}");
        }
    }
}
