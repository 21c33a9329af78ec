//! What the words of a command say, as far as they can be seen before it runs: which clients it starts, where, which
//! requirements files it names, which options of its own lead past an index, and whether it writes a lock file.
//!
//! A script that is given to a shell is looked into; one in a file, or a Makefile, is not: what is not known to be a
//! client counts as every one of them.

use std::path::{Path, PathBuf};

use super::requirements::{leads_past, long_option, words};

/// A command, word by word.
#[derive(Debug, Clone, Default)]
pub struct Command {
    words: Vec<String>,
}

impl Command {
    /// Takes in the words of a command line. One that holds several is a script.
    #[must_use]
    pub fn new(line: impl IntoIterator<Item = String>) -> Self {
        let mut all: Vec<String> = Vec::new();
        for word in line {
            let flag = all.last().cloned().unwrap_or_default();
            let of_shell =
                flag.starts_with('-') && flag.ends_with('c') && all.iter().any(|word| is_shell(word));
            if of_shell {
                all.pop();
            }
            // What a flag for files is followed by is the name of one, with blanks or without.
            let is_named = file_flag(&flag) == Some("");
            let is_script = of_shell || (word.contains(char::is_whitespace) && !is_named);
            if is_script {
                let parted: String = word
                    .chars()
                    .flat_map(|c| if ";&|()\n".contains(c) { vec![' ', c, ' '] } else { vec![c] })
                    .collect();
                all.extend(words(&parted));
            } else {
                all.push(word);
            }
        }
        Self { words: all }
    }

    /// Whether it may start this program: where it is seen, or where nothing is seen that is known.
    #[must_use]
    pub fn may_run(&self, program: &str) -> bool {
        self.runs(program) || !CLIENTS.iter().any(|client| self.runs(client))
    }

    /// Whether it is seen to start this program, by its name, by a path, or as a module of Python's.
    #[must_use]
    pub fn runs(&self, program: &str) -> bool {
        self.at(program).is_some()
    }

    /// The directories in which it works: its own, and those that it goes to.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        let mut found = vec![PathBuf::from(".")];
        for (at, word) in self.words.iter().enumerate() {
            let next = || self.words.get(at + 1).filter(|next| !next.starts_with('-')).map(PathBuf::from);
            let named = match word.as_str() {
                "cd" | "pushd" | "--directory" | "--project" | "-C" => next(),
                "-p" if self.runs("pdm") => next(),
                word => ["--directory=", "--project="]
                    .iter()
                    .find_map(|flag| word.strip_prefix(flag))
                    .map(PathBuf::from),
            };
            found.extend(named.filter(|path| !path.as_os_str().is_empty()));
        }
        found.truncate(MOST);
        found
    }

    /// The requirements files that it names.
    #[must_use]
    pub fn requirements_files(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for (at, word) in self.words.iter().enumerate() {
            let named = match file_flag(word) {
                Some("") => self.words.get(at + 1).map(String::as_str),
                Some(file) => Some(file),
                None => is_requirements_name(word).then_some(word.as_str()),
            };
            let named = named.filter(|file| !file.is_empty() && (!file.starts_with('-') || *file == "-"));
            if let Some(file) = named
                && !found.iter().any(|own| own == file)
            {
                found.push(file.to_owned());
            }
        }
        for (program, file) in IMPLIED {
            if self.runs(program) && found.is_empty() {
                found.push((*file).to_owned());
            }
        }
        found.truncate(MOST);
        found
    }

    /// The programs that it names by a path.
    pub fn programs(&self) -> impl Iterator<Item = PathBuf> {
        self.words.iter().filter(|word| word.contains("/bin/")).map(PathBuf::from).take(MOST)
    }

    /// Scripts of Python's, which may say for uv what they need: by the end of their name, by a flag of uv's, or called
    /// by themselves.
    pub fn scripts(&self) -> impl Iterator<Item = &str> {
        let is_script = |at: usize, word: &str| {
            let is_named = at > 0 && ["--script", "-s"].contains(&self.words[at - 1].as_str());
            let is_python = Path::new(word).extension().is_some_and(|end| end == "py");
            !word.starts_with('-') && (is_python || is_named || (at == 0 && word.starts_with("./")))
        };
        let words = self.words.iter().enumerate();
        words.filter(move |(at, word)| is_script(*at, word)).map(|(_, word)| word.as_str()).take(MOST)
    }

    /// What in it leads past an index by itself: options, and variables that it sets.
    #[must_use]
    pub fn detours(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let knows_pip = ["pip", "pip3", "pip-compile", "pip-sync", "piptools", "uv", "uvx", "pipx"]
            .iter()
            .any(|it| self.runs(it));
        let mut is_ours = false;
        for word in &self.words {
            // What stands behind our own name is said to us, to the word that ends our options.
            is_ours = (is_ours || is_called(word, "valetkey")) && word != "--" && !is_separator(word);
            if is_ours {
                continue;
            }
            let word = PASSED_ON.iter().find_map(|flag| word.strip_prefix(flag)).unwrap_or(word);
            let name = word.split_once('=').map_or(word, |(name, _)| name);
            let option = match name {
                _ if VARIABLES.contains(&name) && word.contains('=') => Some(name),
                "--pypi-mirror" if self.runs("pipenv") => Some(name),
                _ if !knows_pip => None,
                "--index" | "--default-index" => Some(name),
                name if name.starts_with("--") => long_option(name).filter(|option| leads_past(option)),
                name if name.starts_with("-i") => {
                    Some("--index-url").filter(|_| short_with_address(word, "-i"))
                }
                name if name.starts_with("-f") => {
                    Some("--find-links").filter(|_| short_with_address(word, "-f"))
                }
                _ => None,
            };
            if let Some(option) = option.map(|option| format!("`{option}`")).filter(|it| !found.contains(it))
            {
                found.push(option);
            }
        }
        found
    }

    /// The first step that writes a lock file, as it is called: what is in it are the addresses of the index.
    #[must_use]
    pub fn locks(&self) -> Option<String> {
        LOCKING.iter().find_map(|(program, acts)| {
            // What a script installs first it may call later.
            self.steps_of(program).find_map(|step| locks_in(program, acts, step))
        })
    }

    /// Whether a lock file is taken as it is.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.has(&["--frozen"])
    }

    /// Whether one of these words stands in it.
    #[must_use]
    pub fn has(&self, words: &[&str]) -> bool {
        self.words.iter().any(|word| words.contains(&word.as_str()))
    }

    /// What stands behind a flag, in the same word or the next one.
    pub fn values_of<'a>(&'a self, flag: &'a str) -> impl Iterator<Item = &'a str> {
        self.words.iter().enumerate().filter_map(move |(at, word)| {
            let rest = word.strip_prefix(flag)?;
            if rest.is_empty() { self.words.get(at + 1).map(String::as_str) } else { rest.strip_prefix('=') }
        })
    }

    /// Where a program stands.
    fn at(&self, program: &str) -> Option<usize> {
        self.words.iter().position(|word| is_called(word, program))
    }

    /// What stands behind a program, wherever its name stands, to the end of each step.
    pub fn steps_of<'a>(&'a self, program: &'a str) -> impl Iterator<Item = &'a [String]> {
        let places = self.words.iter().enumerate().filter(move |(_, word)| is_called(word, program));
        places.map(|(at, _)| {
            let step = &self.words[at + 1..];
            let length = step.iter().position(|word| is_separator(word)).unwrap_or(step.len());
            &step[..length]
        })
    }
}

/// Whether a word is the name of a program, or a path that ends in it.
fn is_called(word: &str, program: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or_default();
    // `pip3.12` is pip, and so is `pip-23.0`: what is behind the name says the version.
    name.strip_prefix(program).is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

/// What a step is called, if it writes a lock file.
fn locks_in(program: &str, acts: &[&str], step: &[String]) -> Option<String> {
    let mut found = acts_in(step);
    let (first, second) = (found.next().unwrap_or_default(), found.next());
    // What stands behind the command that is to be run is said to that one.
    let own = match second {
        Some(inner) if first == "run" => step.iter().position(|word| word == inner).unwrap_or(step.len()),
        _ => step.len(),
    };
    if step[..own].iter().any(|word| UNCHANGED.contains(&word.as_str())) {
        return None;
    }
    if acts.is_empty() {
        return Some(program.to_owned());
    }
    // `uv pip install` locks nothing, and `uv pip compile` does.
    if program == "uv" && first == "pip" {
        return (second == Some("compile")).then(|| "uv pip compile".to_owned());
    }
    acts.contains(&first).then(|| format!("{program} {first}"))
}

/// What a flag for requirements files names: the rest of the word, or nothing where it is the next one.
fn file_flag(word: &str) -> Option<&str> {
    if let Some(long) = word.strip_prefix("--") {
        let (name, value) = long.split_once('=').unwrap_or((long, ""));
        let is_prefix = |full: &str| full.starts_with(name) && name.len() >= 3;
        return FILE_FLAGS.iter().any(|full| is_prefix(full)).then_some(value);
    }
    let short = word.strip_prefix('-')?;
    // Flags without a value may stand before it in the same word.
    let rest = short.trim_start_matches(['U', 'q', 'v', 'I', 'n']);
    ["r", "c", "b"].iter().find_map(|flag| rest.strip_prefix(flag))
}

/// The words that are neither flags nor the values of those that may stand before a subcommand.
fn acts_in(step: &[String]) -> impl Iterator<Item = &str> {
    let is_value = |at: usize| at > 0 && VALUED.contains(&step[at - 1].as_str());
    let words = step.iter().enumerate();
    words.filter(move |(at, word)| !word.starts_with('-') && !is_value(*at)).map(|(_, word)| word.as_str())
}

fn is_requirements_name(word: &str) -> bool {
    let path = Path::new(word);
    let named = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    !word.starts_with('-')
        && !word.contains("://")
        && (path.extension().is_some_and(|end| end == "txt" || end == "in")
            || (named.starts_with("pylock") && path.extension().is_some_and(|end| end == "toml")))
}

fn short_with_address(word: &str, flag: &str) -> bool {
    let value = &word[flag.len()..];
    value.is_empty() || value.contains('/')
}

fn is_shell(word: &str) -> bool {
    SHELLS.contains(&word.rsplit('/').next().unwrap_or_default())
}

fn is_separator(word: &str) -> bool {
    matches!(word, ";" | "&" | "|" | "(" | ")" | "\n")
}

const CLIENTS: [&str; 17] = [
    "pip",
    "pip3",
    "uv",
    "uvx",
    "poetry",
    "pdm",
    "pipenv",
    "pip-compile",
    "pip-sync",
    "piptools",
    "pipx",
    "hatch",
    "twine",
    "npm",
    "apt",
    "apt-get",
    "wget",
];
/// What stands behind these is said to pip.
const PASSED_ON: [&str; 2] = ["--pip-args=", "--extra-pip-args="];
const SHELLS: [&str; 7] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "busybox"];
/// Long flags of pip, pip-tools and uv.
const FILE_FLAGS: [&str; 11] = [
    "requirement",
    "requirements",
    "constraint",
    "constraints",
    "override",
    "overrides",
    "build-constraint",
    "build-constraints",
    "with-requirements",
    "requirements-from-script",
    "excludes",
];
/// What is read where no file is named.
const IMPLIED: &[(&str, &str)] =
    &[("pip-compile", "requirements.in"), ("piptools", "requirements.in"), ("pip-sync", "requirements.txt")];
/// Which programs that heed the index write its addresses down, and when; always where nothing is listed.
const LOCKING: &[(&str, &[&str])] = &[
    ("uv", &["lock", "sync", "add", "remove", "run", "export", "tree", "upgrade", "version"]),
    ("pdm", &["lock", "add", "update", "install", "remove", "sync", "export"]),
    ("pipenv", &["lock", "install", "update", "upgrade", "uninstall", "requirements"]),
    ("pip-compile", &[]),
    ("piptools", &["compile"]),
    ("pip", &["lock"]),
];
/// With these nothing is written.
const UNCHANGED: [&str; 7] =
    ["--frozen", "--locked", "--frozen-lockfile", "--no-lock", "--check", "--deploy", "--help"];
/// Flags with a value that may stand before a subcommand.
const VALUED: [&str; 7] =
    ["--project", "--directory", "-C", "-p", "--python", "--config-file", "--cache-dir"];
/// Variables that name an index or links.
pub const VARIABLES: [&str; 16] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_NO_INDEX",
    "PIP_CONFIG_FILE",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
    "UV_CONFIG_FILE",
    "UV_INDEX_STRATEGY",
    "PIPENV_PYPI_MIRROR",
    "PDM_PYPI_URL",
    "PDM_IGNORE_STORED_INDEX",
];
const MOST: usize = 64;

#[cfg(test)]
mod tests;
