//! The face that pip, uv and pdm know: `keyring get URL USER` and its dialects.
//!
//! Standard output carries the answer and nothing else. What is not ours is passed to the next `keyring` on PATH,
//! or ends at once and in silence: clients ask every keyring about every service.
//!
//! The whole of it is done by a copy of this process while the process itself waits, so that a client has its answer
//! within ten seconds whatever the answer has to come from.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{defect, print, terminal};
use crate::ask::Ask;
use crate::broker::{other_username, rejected};
use crate::client::{Client, delegate, refusals};
use crate::environment::Environment;
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind, printable};
use crate::protocol::keyring::{self, Entry, Get, HELP, Invocation, USAGE, is_our_username, parse, render};
use crate::registry::{Hosts, Rejection};
use crate::sys;
use crate::sys::ancestry;
use crate::sys::worker::{self, Ended, Half, Outcome};

/// Runs with the arguments behind the name.
pub(super) fn run(arguments: &[OsString]) -> ExitCode {
    let invocation = match parse(arguments) {
        Ok(invocation) => invocation,
        Err(keyring::UsageError(problem)) => {
            let text = format!("{USAGE}keyring: error: {}\n", printable(&problem));
            let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), text.as_bytes());
            return ExitCode::from(2);
        }
    };
    let now = Instant::now();
    let (until, late) = (now + ANSWER, now + PATIENCE);
    let call = Call { environment: Environment::capture(), asking: ancestry::Call::of_this(), until };
    match worker::divide() {
        Ok(Half::Watcher(watcher)) => {
            let outcome = watcher.wait(late);
            match pass_on(&outcome, late + LAST_WORDS) {
                Ok(()) => finish(outcome.ended, arguments),
                Err(failure) => {
                    terminal::mutter(&failure.one_line());
                    ExitCode::from(NOTHING)
                }
            }
        }
        Ok(Half::Worker) => {
            let ended = call.run_to_its_end(invocation);
            worker::end(&ended);
            match ended {
                Ended::Code(code) => ExitCode::from(code),
                _ => ExitCode::SUCCESS,
            }
        }
        // No process is to be had: then the kernel alone sees to it that this one ends.
        Err(_) => {
            worker::end_after(Some(PATIENCE));
            let ended = call.run_to_its_end(invocation);
            worker::end_after(None);
            finish(ended, arguments)
        }
    }
}

/// Gives the client what the other half printed.
fn pass_on(outcome: &Outcome, until: Instant) -> Result<(), Failure> {
    let _ = worker::write_until(std::io::stderr(), &outcome.stderr, until);
    let given = worker::write_until(std::io::stdout(), &outcome.stdout, until);
    given.map_err(|error| match error.kind() {
        std::io::ErrorKind::TimedOut => Failure::new(Kind::Local, "nobody reads standard output"),
        _ => Failure::new(Kind::Local, "cannot write to standard output").with_cause(error),
    })
}

/// What the process does that the client started, when the work is over.
fn finish(ended: Ended, arguments: &[OsString]) -> ExitCode {
    let failure = match ended {
        Ended::Code(code) => return ExitCode::from(code),
        // Returns only where it cannot be run.
        Ended::Next(next) => delegate::become_keyring(&next, arguments),
        Ended::Broken => Failure::new(Kind::Local, "valetkey came to grief; this is a defect")
            .with_hint("run `valetkey doctor`, and report it"),
        Ended::Late(touched) => late(touched.as_deref()),
    };
    terminal::mutter(&failure.one_line());
    ExitCode::from(NOTHING)
}

fn late(touched: Option<&Path>) -> Failure {
    let text = format!("no answer within {} s", PATIENCE.as_secs_f32().ceil());
    match touched {
        Some(path) => {
            let hint =
                format!("the last that was looked at is {}: is the file system there?", shown_path(path));
            Failure::new(Kind::Deadline, text).with_hint(hint)
        }
        None => Failure::new(Kind::Deadline, text).with_hint("run `valetkey doctor` to see what is slow"),
    }
}

struct Call {
    environment: Environment,
    /// Who asks.
    asking: ancestry::Call,
    /// When whoever asks has to have an answer.
    until: Instant,
}

/// How a call ends that gives nothing.
enum End {
    Silent,
    Said(Failure),
    /// Another keyring may know more.
    Next(PathBuf),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Said(failure)
    }
}

impl Call {
    fn run_to_its_end(&self, invocation: Invocation) -> Ended {
        defect::caught(|| self.run(invocation)).unwrap_or(Ended::Code(NOTHING))
    }

    fn run(&self, invocation: Invocation) -> Ended {
        match self.answer(invocation) {
            Ok(()) => Ended::Code(0),
            Err(End::Silent) => Ended::Code(NOTHING),
            Err(End::Said(failure)) => {
                terminal::whisper(&failure.one_line());
                Ended::Code(NOTHING)
            }
            Err(End::Next(next)) => Ended::Next(next),
        }
    }

    fn answer(&self, invocation: Invocation) -> Result<(), End> {
        match invocation {
            Invocation::Help => print(&format!("{USAGE}{HELP}"))?,
            Invocation::ListBackends => print("valetkey.Keyring (priority: 9)\n")?,
            Invocation::Diagnose => self.diagnose()?,
            Invocation::Get(get) => self.get(&get)?,
            Invocation::Set(entry) => return Err(self.refuse_change(&entry, STORE)),
            Invocation::Delete(entry) => return Err(self.refuse_change(&entry, DELETE)),
            Invocation::OtherBackend => {
                let text = "valetkey has no other backends";
                return Err(self.pass_on().unwrap_or_else(|| Failure::new(Kind::Usage, text).into()));
            }
            Invocation::Disable => {
                let text = "valetkey cannot be switched off here";
                let hint = "set PIP_KEYRING_PROVIDER=disabled, or take it off PATH";
                return Err(Failure::new(Kind::Usage, text).with_hint(hint).into());
            }
            Invocation::PrintCompletion => {
                let text = "completions come from `valetkey completions SHELL`";
                return Err(Failure::new(Kind::Usage, text).into());
            }
        }
        Ok(())
    }

    fn get(&self, get: &Get) -> Result<(), End> {
        // A service that is not text is nobody's URL.
        let Some(service) = get.service.to_str() else { return Err(self.pass_on().unwrap_or(End::Silent)) };
        let client = match Client::new(self.environment.clone(), None) {
            Ok(client) => client,
            // A wrong configuration is no reason to keep other keyrings from what is not Google's.
            Err(failure) if Hosts::default().resolve(service) == Err(Rejection::NotOurs) => {
                return Err(self.pass_on().unwrap_or(End::Said(failure)));
            }
            Err(failure) => return Err(failure.into()),
        };
        let registry = match Hosts::new(&client.config.registries).resolve(service) {
            Ok(registry) => registry,
            Err(Rejection::NotOurs) => return self.get_elsewhere(&client, get, service),
            Err(rejection) => {
                if let Rejection::Insecure { host, .. } = &rejection {
                    refusals::remember(&client.paths, self.asking, host);
                }
                return Err(rejected(rejection).into());
            }
        };
        if !is_our_username(get.username.as_deref()) {
            let name = get.username.as_deref().unwrap_or_default().to_string_lossy();
            return Err(self.pass_on().unwrap_or_else(|| other_username(&registry.host, &name).into()));
        }
        if !service.contains("://") {
            refusals::check(&client.paths, self.asking, &registry.host)?;
        }
        // From here on there are secrets in memory.
        sys::harden();
        let got = client.credential(self.ask(service));
        if got.is_err()
            && service.contains("://")
            && (client.has_rule_for(&registry) || client.is_elsewhere(self.until))
        {
            // The bare host, which pip asks for next, would be given another account.
            refusals::remember(&client.paths, self.asking, &registry.host);
        }
        let outcome = got.map_err(End::from).and_then(|got| {
            if let Some(warning) = got.warning {
                terminal::whisper(&format!("warning: {}", warning.one_line()));
            }
            Ok(print(&render(get, &got.credential))?)
        });
        client.tidy();
        outcome
    }

    /// A service that is no registry by the configuration here may be one by that of a daemon whose socket was carried
    /// here, into a container. It decides; what it does not know either is nobody's here.
    fn get_elsewhere(&self, client: &Client, get: &Get, service: &str) -> Result<(), End> {
        let silent = || self.pass_on().unwrap_or(End::Silent);
        let is_ours = is_our_username(get.username.as_deref());
        let Some(url) = without_secrets(service).filter(|_| is_ours && client.is_elsewhere(self.until))
        else {
            return Err(silent());
        };
        let address = url.split_once("://").map(|(_, address)| address);
        // Nothing that another keyring would inherit.
        sys::refuse_dumps();
        match client.credential(self.ask(&url)) {
            Ok(got) => {
                // Only now is it known that it is a registry.
                if address.is_none() {
                    refusals::check(&client.paths, self.asking, host_in(&url))?;
                }
                Ok(print(&render(get, &got.credential))?)
            }
            // Also where no tokens leave that daemon.
            Err(failure) if matches!(failure.kind, Kind::NotOurs | Kind::NotFound) => Err(silent()),
            Err(failure) => {
                if let Some(address) = address {
                    refusals::remember(&client.paths, self.asking, host_in(address));
                }
                Err(self.pass_on().unwrap_or(End::Said(failure)))
            }
        }
    }

    fn ask(&self, service: &str) -> Ask {
        let asker = self.asking.client(service.as_bytes()).map(|client| client.to_string());
        let deadline = self.until.saturating_duration_since(Instant::now());
        Ask { asker, deadline, ..Ask::new(service) }
    }

    /// There is nothing to store. For services that are not ours another keyring may know better.
    fn refuse_change(&self, entry: &Entry, text: &str) -> End {
        let hosts = Client::new(self.environment.clone(), None)
            .map_or_else(|_| Hosts::default(), |client| Hosts::new(&client.config.registries));
        let ours = entry.service.to_str().is_some_and(|it| hosts.resolve(it) != Err(Rejection::NotOurs));
        let passed = if ours { None } else { self.pass_on() };
        passed.unwrap_or_else(|| Failure::new(Kind::Refused, text).into())
    }

    fn diagnose(&self) -> Result<(), End> {
        let paths = crate::paths::Paths::new(&self.environment);
        let show =
            |path: Option<std::path::PathBuf>| path.map_or("-".to_owned(), |path| path.display().to_string());
        let config = show(paths.configuration.map(|directory| directory.join("config.toml")));
        Ok(print(&format!("config path: {config}\ndata root: {}\n", show(paths.state)))?)
    }

    /// To the next keyring, where there is one.
    fn pass_on(&self) -> Option<End> {
        delegate::next(&self.environment).map(End::Next)
    }
}

/// A service that may be asked about elsewhere: an https URL, or a host, without what may be a secret in it.
fn without_secrets(service: &str) -> Option<String> {
    let plain = service.bytes().all(|byte| (0x21..=0x7e).contains(&byte) && byte != b'\\');
    let (scheme, rest) = match service.split_once("://") {
        Some((scheme, rest)) if ["https", "http"].contains(&scheme) => (Some(scheme), rest),
        Some(_) => return None,
        None => (None, service),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let is_host = plain && (host.contains('.') || host == "localhost" || host.starts_with("localhost:"));
    is_host
        .then(|| scheme.map_or_else(|| format!("{host}{path}"), |scheme| format!("{scheme}://{host}{path}")))
}

/// The host in what stands behind a scheme, or would.
fn host_in(address: &str) -> &str {
    address.split('/').next().unwrap_or_default()
}

/// The exit code of the real `keyring` for "no such password".
const NOTHING: u8 = 1;
/// Ten seconds are promised. Every wait that is ours ends before, and says why.
const ANSWER: Duration = Duration::from_millis(8700);
const PATIENCE: Duration = Duration::from_millis(9100);
/// For a client that reads slowly.
const LAST_WORDS: Duration = Duration::from_millis(200);
const STORE: &str = "valetkey stores no passwords: access tokens are made when asked for";
const DELETE: &str = "valetkey stores no passwords, so there is none to delete";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_is_not_asked_about() {
        for (service, asked) in [
            ("https://me:hunter2@r.corp.example:8443/a/b/?key=x#y", Some("https://r.corp.example:8443/a/b/")),
            ("https://a@b:c@r.corp.example/", Some("https://r.corp.example/")),
            ("r.corp.example:8443", Some("r.corp.example:8443")),
            ("http://r.corp.example/x", Some("http://r.corp.example/x")),
            ("system", None),
            ("git:https://r.corp.example", None),
            ("my password\n.example", None),
            ("localhost my password", None),
            ("localhostage", None),
            ("localhost:8443", Some("localhost:8443")),
            ("", None),
        ] {
            assert_eq!(without_secrets(service).as_deref(), asked, "{service:?}");
        }
    }
}
