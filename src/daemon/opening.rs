//! Sockets that `valetkey docker args` asks for: one a build, with a grant and an end of their own.
//!
//! What is open stands in a file in the private directory, so that a daemon which takes the place of another opens
//! the same sockets again and a build in the middle goes on. The file says which repositories and whose token, never a
//! secret. `valetkey stop` empties it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::ask::Whose;
use crate::clock::{parse_rfc3339, rfc3339};
use crate::config::listeners::{Terms as Written, Width};
use crate::config::policy::Policy;
use crate::daemon::terms::Terms;
use crate::durable;
use crate::error::{Failure, Kind};
use crate::grant::Origin;
use crate::paths::{read_regular, without_absent};
use crate::registry::Hosts;

/// The body of `POST /v1/listeners`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub repositories: Vec<String>,
    #[serde(default)]
    pub write: bool,
    #[serde(default)]
    pub tokens: bool,
    /// Not written where it is not wished for: an older daemon does not know it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unnarrowed: bool,
    pub seconds: u64,
    /// Whether it ends with the first build that uses it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_build: bool,
    /// Whose token is used there.
    #[serde(default)]
    pub whose: Whose,
}

impl Wanted {
    /// The terms, in the configuration's words.
    #[must_use]
    pub fn written(&self) -> Written {
        Written {
            repositories: self.repositories.clone(),
            access: if self.write { Width::Write } else { Width::Read },
            tokens: self.tokens,
            unnarrowed: self.unnarrowed,
            peers: Vec::new(),
            place: None,
        }
    }

    /// Whether a daemon with this configuration would open it: asked before one is started for nothing.
    ///
    /// # Errors
    /// What is wrong with it, or what the policy withholds.
    pub fn check(&self, hosts: &Hosts, policy: &Policy) -> Result<(), Failure> {
        self.check_time()?;
        let written = self.written();
        Terms::new(&written, policy, hosts, Origin::Command)?.check_whole(&written)
    }

    fn check_time(&self) -> Result<(), Failure> {
        if (1..=LONGEST.as_secs()).contains(&self.seconds) {
            return Ok(());
        }
        Err(Failure::new(Kind::Usage, "a socket for a build is open for a second to seven days"))
    }
}

/// A socket that is open until a certain time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    pub path: PathBuf,
    pub wanted: Wanted,
    pub until: SystemTime,
}

impl Opening {
    /// A socket of a new name in this directory.
    ///
    /// # Errors
    /// When it is wanted for no time or too long, or the system gives no random numbers.
    pub fn new(runtime: &Path, mut wanted: Wanted, now: SystemTime) -> Result<Self, Failure> {
        wanted.whose = wanted.whose.absolute();
        wanted.check_time()?;
        let mut random = [0; 8];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| Failure::new(Kind::Local, "this machine gives no random numbers"))?;
        let name = random.iter().fold(String::from("build-"), |name, byte| format!("{name}{byte:02x}"));
        let until = now + Duration::from_secs(wanted.seconds);
        Ok(Self { path: runtime.join(name + ".sock"), wanted, until })
    }
}

/// What is open, as the file says. What is over is left out.
#[must_use]
pub fn load(runtime: &Path, now: SystemTime) -> Vec<Opening> {
    let read = without_absent(&file(runtime), read_regular(&file(runtime), LARGEST));
    let text = read.unwrap_or_else(|error| {
        tracing::warn!(%error, "the sockets of builds are not opened again");
        None
    });
    let kept: Vec<serde_json::Value> = text
        .and_then(|text| {
            serde_json::from_str(&text)
                .inspect_err(|error| {
                    tracing::warn!(
                        line = error.line(),
                        "listeners.json is not one that valetkey understands"
                    );
                })
                .ok()
        })
        .unwrap_or_default();
    let opening = |kept: serde_json::Value| {
        let kept: Kept = serde_json::from_value(kept).ok()?;
        let until = parse_rfc3339(&kept.until).filter(|until| *until > now)?;
        // Whatever else the file says, nothing outside of the directory is touched.
        is_plain(&kept.name).then(|| Opening { path: runtime.join(&kept.name), wanted: kept.wanted, until })
    };
    kept.into_iter().filter_map(opening).collect()
}

/// Writes down what is open.
pub fn store(runtime: &Path, openings: &[Opening]) {
    let kept = |opening: &Opening| {
        let name = opening.path.file_name()?.to_str()?.to_owned();
        Some(Kept { name, wanted: opening.wanted.clone(), until: rfc3339(opening.until) })
    };
    let kept: Vec<_> = openings.iter().filter_map(kept).collect();
    let text = serde_json::to_vec(&kept).unwrap_or_default();
    if let Err(error) = durable::replace(&file(runtime), &text) {
        tracing::warn!(%error, "a restart will not open the sockets of builds again");
    }
}

/// Leaves nothing open for the next daemon. The caller holds the lock.
pub fn forget(runtime: &Path) {
    if file(runtime).exists() {
        store(runtime, &[]);
    }
    sweep(runtime, &[]);
}

/// Removes the sockets of builds that a daemon which was killed has left, but for these. The caller holds the lock.
pub fn sweep(runtime: &Path, open: &[PathBuf]) {
    for entry in std::fs::read_dir(runtime).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_plain) && !open.contains(&entry.path()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Whether this is the name of a socket for a build, in no directory.
fn is_plain(name: &str) -> bool {
    let random = name.strip_prefix("build-").and_then(|name| name.strip_suffix(".sock"));
    random.is_some_and(|random| random.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[derive(Serialize, Deserialize)]
struct Kept {
    name: String,
    wanted: Wanted,
    until: String,
}

fn file(runtime: &Path) -> PathBuf {
    runtime.join("listeners.json")
}

const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// As many wishes as are open at once, each as large as a request may be.
const LARGEST: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::NamedSource;

    fn whose() -> Whose {
        let source = Some(NamedSource::File { path: "/k.json".into() });
        Whose { source, directory: Some("/home/dev/.config/gcloud".into()), state: None }
    }

    fn wanted(seconds: u64) -> Wanted {
        let repositories = vec!["us/acme/private".to_owned()];
        Wanted {
            repositories,
            write: false,
            tokens: false,
            unnarrowed: false,
            seconds,
            one_build: true,
            whose: whose(),
        }
    }

    #[test]
    fn what_is_open_survives_the_file_until_its_end() {
        let top = tempfile::tempdir().unwrap();
        let now = parse_rfc3339("2026-01-02T03:04:05Z").unwrap();
        let [short, long] = [60, 3600].map(|life| Opening::new(top.path(), wanted(life), now).unwrap());
        assert_ne!(short.path, long.path);
        store(top.path(), &[short.clone(), long.clone()]);
        assert_eq!(load(top.path(), now), [short, long.clone()]);
        assert_eq!(load(top.path(), now + Duration::from_secs(61)), [long]);
        assert_eq!(load(top.path(), now + Duration::from_secs(3601)), []);
    }

    #[test]
    fn an_entry_that_cannot_be_read_does_not_lose_the_others() {
        let top = tempfile::tempdir().unwrap();
        let now = parse_rfc3339("2026-01-02T03:04:05Z").unwrap();
        let opening = Opening::new(top.path(), wanted(60), now).unwrap();
        store(top.path(), std::slice::from_ref(&opening));
        let text = std::fs::read_to_string(file(top.path())).unwrap();
        let strange = r#"[{"name": "build-00.sock", "wanted": {"later": 1}, "until": "never"},"#;
        std::fs::write(file(top.path()), text.replacen('[', strange, 1)).unwrap();
        assert_eq!(load(top.path(), now), [opening]);
    }

    #[test]
    fn a_file_that_names_another_place_is_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let now = parse_rfc3339("2026-01-02T03:04:05Z").unwrap();
        for name in ["../build-00.sock", "/etc/passwd", "build-../x.sock", "valetkey.sock", "build-xyz.sock"]
        {
            let kept =
                serde_json::json!([{"name": name, "wanted": wanted(9), "until": "2026-02-02T00:00:00Z"}]);
            std::fs::write(file(top.path()), kept.to_string()).unwrap();
            assert_eq!(load(top.path(), now), [], "{name}");
        }
        assert!(Opening::new(top.path(), wanted(0), now).is_err());
        assert!(Opening::new(top.path(), wanted(u64::MAX), now).is_err());
    }
}
