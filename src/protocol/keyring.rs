//! The command line of Python's `keyring`, as pip, uv, pdm and people speak it.
//!
//! A pure function of the arguments, and a rendering of the answer that is exact to the byte: pip parses the JSON
//! form strictly, uv strips one line end and no more, pdm wants exactly two lines. The dialects and what breaks
//! which client were read from the clients' sources.
//!
//! Unlike argparse, options may stand anywhere. One text must never be produced: `unrecognized arguments`
//! together with an option's name tells pip and uv that this keyring is too old.

use std::ffi::{OsStr, OsString};

use crate::ask::Credential;
use crate::error::shown::shown;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    Get(Get),
    /// Store a password that is piped in.
    Set(Entry),
    Delete(Entry),
    Diagnose,
    ListBackends,
    Disable,
    PrintCompletion,
    Help,
    /// `-b` or `-p`: the caller wants some backend of Python's keyring, not us.
    OtherBackend,
}

/// What is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    pub service: OsString,
    /// An empty one counts as none: pdm passes `""` where it knows no name.
    pub username: Option<OsString>,
    pub mode: Mode,
    pub output: Output,
}

/// Which entry `set` and `del` mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub service: OsString,
    pub username: OsString,
}

/// What is printed: the password, or username and password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Password,
    Credentials,
}

/// How it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    #[default]
    Plain,
    Json,
}

/// What is wrong with a command line. Exit code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError(pub String);

/// Reads the arguments after the program's name.
///
/// # Errors
/// When the real `keyring` would print its usage and exit with 2.
pub fn parse(arguments: &[OsString]) -> Result<Invocation, UsageError> {
    let mut words = Words::default();
    let mut rest = arguments.iter();
    let mut only_positionals = false;
    while let Some(argument) = rest.next() {
        let text = argument.to_str();
        match text {
            Some("--") if !only_positionals => only_positionals = true,
            Some(option) if !only_positionals && option.starts_with("--") => {
                let (name, inline) = match option.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (option, None),
                };
                words.long(name, inline, &mut rest)?;
            }
            Some(option) if !only_positionals && option.len() > 1 && option.starts_with('-') => {
                words.short(option, &mut rest)?;
            }
            _ => words.positionals.push(argument.clone()),
        }
    }
    words.finish()
}

/// What goes to standard output for a found credential.
#[must_use]
pub fn render(get: &Get, credential: &Credential) -> String {
    let (username, password) = (&credential.username, credential.password.expose());
    match (get.mode, get.output) {
        (Mode::Password, Output::Plain) => format!("{password}\n"),
        (Mode::Credentials, Output::Plain) => format!("{username}\n{password}\n"),
        (Mode::Password, Output::Json) => format!("{{\"password\": {}}}\n", json(password)),
        (Mode::Credentials, Output::Json) => {
            format!("{{\"username\": {}, \"password\": {}}}\n", json(username), json(password))
        }
    }
}

/// The usage line, as it precedes an error.
pub const USAGE: &str = "\
usage: keyring [-h] [-p KEYRING_PATH] [-b KEYRING_BACKEND] [--list-backends] [--disable]
               [--mode {password,creds}] [--output {plain,json}]
               [--print-completion {bash,zsh,tcsh}]
               [{get,set,del,diagnose}] [service] [username]
";

/// What `--help` adds to the usage.
pub const HELP: &str = "
valetkey answers for Google's package registries with a short-lived access token and for nothing else:
other services are passed to the next `keyring` on PATH.

  get SERVICE [USERNAME]       print the password, or username and password with --mode creds
  set, del                     refused: access tokens are made when asked for, there is nothing to store
  diagnose                     where settings and state live
  --mode {password,creds}      what `get` prints (default: password, which needs a username)
  --output {plain,json}        how `get` prints it (default: plain)
  --list-backends              the one backend that answers
";

/// What was seen so far.
#[derive(Debug, Default)]
struct Words {
    positionals: Vec<OsString>,
    mode: Mode,
    output: Output,
    flag: Option<Invocation>,
    other_backend: bool,
}

impl Words {
    fn long<'a>(
        &mut self,
        name: &str,
        inline: Option<&str>,
        rest: &mut impl Iterator<Item = &'a OsString>,
    ) -> Result<(), UsageError> {
        let name = complete(name)?;
        let needs_value = !matches!(name, "--help" | "--list-backends" | "--disable");
        if !needs_value && inline.is_some() {
            return Err(UsageError(format!("argument {name}: ignored explicit argument")));
        }
        let mut value = || {
            inline
                .map(str::to_owned)
                .or_else(|| rest.next().map(|next| next.to_string_lossy().into_owned()))
                .ok_or_else(|| UsageError(format!("argument {name}: expected one argument")))
        };
        match name {
            "--help" => self.flag = Some(Invocation::Help),
            "--list-backends" => self.flag = Some(Invocation::ListBackends),
            "--disable" => self.flag = Some(Invocation::Disable),
            "--mode" => {
                self.mode = match value()?.as_str() {
                    "password" => Mode::Password,
                    "creds" => Mode::Credentials,
                    other => return Err(invalid_choice("--mode", other, "'password', 'creds'")),
                }
            }
            "--output" => {
                self.output = match value()?.as_str() {
                    "plain" => Output::Plain,
                    "json" => Output::Json,
                    other => return Err(invalid_choice("--output", other, "'plain', 'json'")),
                }
            }
            "--print-completion" => match value()?.as_str() {
                "bash" | "zsh" | "tcsh" => self.flag = Some(Invocation::PrintCompletion),
                other => return Err(invalid_choice("--print-completion", other, "'bash', 'zsh', 'tcsh'")),
            },
            _ => {
                value()?;
                self.other_backend = true;
            }
        }
        Ok(())
    }

    fn short<'a>(
        &mut self,
        option: &str,
        rest: &mut impl Iterator<Item = &'a OsString>,
    ) -> Result<(), UsageError> {
        match option.get(..2) {
            Some("-h") => self.flag = Some(Invocation::Help),
            Some(short @ ("-b" | "-p")) => {
                if option.len() == 2 && rest.next().is_none() {
                    let long = if short == "-b" { "--keyring-backend" } else { "--keyring-path" };
                    return Err(UsageError(format!("argument {short}/{long}: expected one argument")));
                }
                self.other_backend = true;
            }
            _ => return Err(UsageError(format!("unknown option {:?}", shown(option)))),
        }
        Ok(())
    }

    fn finish(self) -> Result<Invocation, UsageError> {
        if let Some(flag) = self.flag {
            return Ok(flag);
        }
        if self.other_backend {
            return Ok(Invocation::OtherBackend);
        }
        let mut positionals = self.positionals.into_iter();
        let operation = positionals
            .next()
            .ok_or_else(|| UsageError("Specify operation (get, set, del, diagnose).".to_owned()))?;
        let (service, username) = (positionals.next(), positionals.next());
        let Some(name @ ("get" | "set" | "del" | "diagnose")) = operation.to_str() else {
            let given = shown(&operation.to_string_lossy());
            let choices = "'get', 'set', 'del', 'diagnose'";
            let text = format!("argument operation: invalid choice: '{given}' (choose from {choices})");
            return Err(UsageError(text));
        };
        if positionals.next().is_some() {
            return Err(UsageError(format!("{name} takes a service and a username, and nothing more")));
        }
        if name == "diagnose" {
            return Ok(Invocation::Diagnose);
        }
        let needs = |what: &str| UsageError(format!("{name} requires {what}"));
        let lookup = name == "get" && self.mode == Mode::Credentials;
        let Some(service) = service else {
            return Err(needs(if lookup { "service" } else { "service and username" }));
        };
        if lookup {
            let username = username.filter(|name| !name.is_empty());
            return Ok(Invocation::Get(Get { service, username, mode: self.mode, output: self.output }));
        }
        let username = username.ok_or_else(|| needs("service and username"))?;
        Ok(match name {
            "set" => Invocation::Set(Entry { service, username }),
            "del" => Invocation::Delete(Entry { service, username }),
            _ => {
                let username = Some(username).filter(|name| !name.is_empty());
                Invocation::Get(Get { service, username, mode: self.mode, output: self.output })
            }
        })
    }
}

/// The option that a prefix stands for, as argparse allows.
fn complete(name: &str) -> Result<&'static str, UsageError> {
    if let Some(exact) = OPTIONS.iter().find(|option| **option == name) {
        return Ok(exact);
    }
    let mut matching = OPTIONS.iter().filter(|option| option.starts_with(name));
    match (matching.next(), matching.next()) {
        (Some(option), None) => Ok(option),
        (Some(_), Some(_)) => Err(UsageError(format!("ambiguous option: {}", shown(name)))),
        _ => Err(UsageError(format!("unknown option {:?}", shown(name)))),
    }
}

fn invalid_choice(option: &str, given: &str, choices: &str) -> UsageError {
    let given = shown(given);
    UsageError(format!("argument {option}: invalid choice: '{given}' (choose from {choices})"))
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Whether a name is the one that registries take tokens for.
#[must_use]
pub fn is_our_username(username: Option<&OsStr>) -> bool {
    username.is_none_or(|name| name == Credential::USERNAME)
}

const OPTIONS: [&str; 8] = [
    "--help",
    "--keyring-path",
    "--keyring-backend",
    "--list-backends",
    "--disable",
    "--mode",
    "--output",
    "--print-completion",
];

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::secret::Secret;

    fn words(line: &[&str]) -> Vec<OsString> {
        line.iter().map(OsString::from).collect()
    }

    fn get(service: &str, username: Option<&str>, mode: Mode, output: Output) -> Invocation {
        Invocation::Get(Get { service: service.into(), username: username.map(Into::into), mode, output })
    }

    const URL: &str = "https://us-python.pkg.dev/p/r/simple/";
    const USER: &str = "oauth2accesstoken";

    #[test]
    fn every_dialect_of_get_is_understood() {
        use Mode::{Credentials, Password};
        use Output::{Json, Plain};
        let table: &[(&[&str], Invocation)] = &[
            // pip 23.0 to 26.1, uv with a user name
            (&["get", URL, USER], get(URL, Some(USER), Password, Plain)),
            // pip from 26.2 on
            (&["--mode=creds", "--output=json", "get", URL], get(URL, None, Credentials, Json)),
            (&["--mode=creds", "--output=json", "get", URL, USER], get(URL, Some(USER), Credentials, Json)),
            // uv without a user name: the option behind the positionals
            (&["get", URL, "--mode", "creds"], get(URL, None, Credentials, Plain)),
            // pdm
            (&["--mode=creds", "get", URL, ""], get(URL, None, Credentials, Plain)),
            (&["--mode=password", "get", URL, "__token__"], get(URL, Some("__token__"), Password, Plain)),
            // people, in any order and abbreviated, as argparse allows
            (&["get", "--mode", "creds", URL, USER], get(URL, Some(USER), Credentials, Plain)),
            (&["get", URL, "--output", "json", USER], get(URL, Some(USER), Password, Json)),
            (&["--mod", "creds", "--out=json", "get", URL], get(URL, None, Credentials, Json)),
            (&["get", URL, "--", USER], get(URL, Some(USER), Password, Plain)),
            (&["get", "--", "--odd-service", USER], get("--odd-service", Some(USER), Password, Plain)),
            (&["get", "-", USER], get("-", Some(USER), Password, Plain)),
            (&["get", URL, ""], get(URL, None, Password, Plain)),
        ];
        for (line, expected) in table {
            assert_eq!(parse(&words(line)).as_ref(), Ok(expected), "{line:?}");
        }
    }

    #[test]
    fn other_operations_are_understood() {
        let entry =
            |service: &str, username: &str| Entry { service: service.into(), username: username.into() };
        let table: &[(&[&str], Invocation)] = &[
            (&["set", "h:8080", "u"], Invocation::Set(entry("h:8080", "u"))),
            (&["del", "s", "u"], Invocation::Delete(entry("s", "u"))),
            (&["diagnose"], Invocation::Diagnose),
            (&["--list-backends"], Invocation::ListBackends),
            (&["--list-backends", "get"], Invocation::ListBackends),
            (&["--disable"], Invocation::Disable),
            (&["--print-completion", "zsh"], Invocation::PrintCompletion),
            (&["-h"], Invocation::Help),
            (&["get", "--help"], Invocation::Help),
            (&["-b", "some.Backend", "get", "s", "u"], Invocation::OtherBackend),
            (&["-bsome.Backend", "get", "s", "u"], Invocation::OtherBackend),
            (&["--keyring-path=/x", "get", "s", "u"], Invocation::OtherBackend),
        ];
        for (line, expected) in table {
            assert_eq!(parse(&words(line)).as_ref(), Ok(expected), "{line:?}");
        }
    }

    /// The messages are those of the real program where a client could look at them.
    #[test]
    fn wrong_usage_is_told_in_the_real_programs_words() {
        let table: &[(&[&str], &str)] = &[
            (&[], "Specify operation (get, set, del, diagnose)."),
            (&["get"], "get requires service and username"),
            (&["get", URL], "get requires service and username"),
            (&["--mode=creds", "get"], "get requires service"),
            (&["set", URL], "set requires service and username"),
            (&["del"], "del requires service and username"),
            (
                &["bogus"],
                "argument operation: invalid choice: 'bogus' (choose from 'get', 'set', 'del', 'diagnose')",
            ),
            (
                &["--mode=tokens", "get", URL],
                "argument --mode: invalid choice: 'tokens' (choose from 'password', 'creds')",
            ),
            (&["--mode"], "argument --mode: expected one argument"),
            (&["--bogus", "get", URL, USER], "unknown option \"--bogus\""),
            (&["-x", "get", URL, USER], "unknown option \"-x\""),
            (&["-b"], "argument -b/--keyring-backend: expected one argument"),
            (&["--keyring", "x"], "ambiguous option: --keyring"),
            (&["--disable=yes"], "argument --disable: ignored explicit argument"),
            (&["get", URL, USER, "more"], "get takes a service and a username, and nothing more"),
        ];
        for (line, expected) in table {
            assert_eq!(parse(&words(line)), Err(UsageError((*expected).to_owned())), "{line:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_as_they_are() {
        let odd = OsString::from_vec(vec![b'h', 0xff, 0xfe]);
        let line = [OsString::from("get"), odd.clone(), odd.clone()];
        let Ok(Invocation::Get(get)) = parse(&line) else { panic!("get") };
        assert_eq!((get.service, get.username), (odd.clone(), Some(odd.clone())));
        assert!(parse(&[odd]).is_err());
    }

    #[test]
    fn answers_are_exact_to_the_byte() {
        let credential = Credential {
            username: USER.to_owned(),
            password: Secret::new("ya29.a\"b\\c".to_owned()),
            expires: SystemTime::UNIX_EPOCH,
        };
        let shown =
            |mode, output| render(&Get { service: "s".into(), username: None, mode, output }, &credential);
        assert_eq!(shown(Mode::Password, Output::Plain), "ya29.a\"b\\c\n");
        assert_eq!(shown(Mode::Credentials, Output::Plain), "oauth2accesstoken\nya29.a\"b\\c\n");
        assert_eq!(shown(Mode::Password, Output::Json), "{\"password\": \"ya29.a\\\"b\\\\c\"}\n");
        assert_eq!(
            shown(Mode::Credentials, Output::Json),
            "{\"username\": \"oauth2accesstoken\", \"password\": \"ya29.a\\\"b\\\\c\"}\n"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// pip and uv read this text as "the keyring is too old".
        #[test]
        fn no_error_can_be_taken_for_an_old_keyring(
            line in proptest::collection::vec(
                prop_oneof![
                    Just("get"), Just("--mode=creds"), Just("--mode"), Just("creds"), Just("--output=json"),
                    Just("--"), Just("s"), Just(""), Just("-b"), Just("--x"), Just("-h"), Just("set"),
                ],
                0..7,
            )
        ) {
            if let Err(UsageError(text)) = parse(&words(&line)) {
                prop_assert!(!format!("{USAGE}{text}").contains("unrecognized arguments"), "{text}");
            }
        }

        #[test]
        fn parsing_never_panics(line in proptest::collection::vec("\\PC{0,12}", 0..6)) {
            let _ = parse(&line.iter().map(OsString::from).collect::<Vec<_>>());
        }
    }
}
