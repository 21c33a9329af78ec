//! What a person is told before a command runs with one index: everything in sight that leads past it and that no variable
//! can keep a client from, by file and line; and what will be written down that only this run understands.
//!
//! One promise, one check: requirements files, projects, configuration, the command itself. What cannot be read is told as
//! well.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::command::Command;
use super::files::Files;
use super::{requirements, sources};
use crate::environment::Environment;
use crate::error::printable;
use crate::error::shown::shown_path;

/// What is looked at, and how a file is read.
pub struct Look<'a> {
    pub environment: &'a Environment,
    pub command: &'a Command,
    pub files: &'a Files,
    pub directory: &'a Path,
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
}

impl fmt::Debug for Look<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Look").field("command", &self.command).finish_non_exhaustive()
    }
}

impl Look<'_> {
    /// One sentence for each thing that was found.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut told = Vec::new();
        for what in self.command.detours() {
            told.push(format!("warning: {what} in the command leads past the merged index; leave it out"));
        }
        self.requirements(&mut told);
        self.projects(&mut told);
        for script in self.command.scripts().filter(|_| self.command.may_run("uv")) {
            if let Ok(bytes) = (self.read)(Path::new(script)) {
                tell(Path::new(script), sources::script(&String::from_utf8_lossy(&bytes)), &mut told);
            }
        }
        if self.command.runs("poetry") {
            told.push(
                "warning: poetry takes no index from outside: it asks the sources of its project, and PyPI; run it under \
                 plain `valetkey exec`, which serves the URLs that stand there"
                    .to_owned(),
            );
        }
        if let Some(act) = self.command.locks() {
            told.push(format!(
                "warning: what `{act}` writes down are the addresses of this run's index, which no other machine knows; \
                 run it under plain `valetkey exec`, without --index: that keeps the real URLs of the repository"
            ));
        }
        // A project may be named as a requirements file as well.
        let mut seen = BTreeSet::new();
        told.retain(|sentence| seen.insert(sentence.clone()));
        let more = told.len().saturating_sub(MOST_TOLD);
        told.truncate(MOST_TOLD);
        if more > 0 {
            told.push(format!("warning: {more} more places lead past the merged index"));
        }
        told
    }

    /// The requirements files that the command, its variables and pip's files name, and those that these take in.
    fn requirements(&self, told: &mut Vec<String>) {
        let mut named: Vec<(PathBuf, bool)> = Vec::new();
        for file in self.command.requirements_files() {
            if file == "-" || file.contains("://") {
                let what = if file == "-" { "standard input" } else { "a requirements file elsewhere" };
                told.push(format!("warning: {what} is not checked for what leads past the merged index"));
            } else {
                let places = self.command.directories().into_iter().map(|it| it.join(&file));
                let place = places.clone().find(|place| exists(self.read, place));
                named.push((place.unwrap_or_else(|| PathBuf::from(&file)), true));
            }
        }
        let variables = FILES.iter().filter_map(|name| self.environment.text(name));
        let listed = variables
            .flat_map(str::split_whitespace)
            .chain(self.files.pip.requirements.iter().map(String::as_str));
        named.extend(listed.map(|file| (PathBuf::from(file), true)));
        // A Makefile, a script: what they may read.
        if !CLIENTS.iter().any(|client| self.command.runs(client)) {
            named.extend(USUAL.iter().map(|file| (PathBuf::from(file), false)));
        }
        let mut seen = BTreeSet::new();
        let mut at = 0;
        while let Some((file, is_certain)) = named.get(at).cloned() {
            at += 1;
            if at > MOST_FILES || !seen.insert(file.clone()) {
                continue;
            }
            let bytes = match (self.read)(&file) {
                Ok(bytes) => bytes,
                // A client says itself what is not there.
                Err(error) if error.kind() == io::ErrorKind::NotFound || !is_certain => continue,
                Err(error) => {
                    told.push(format!(
                        "warning: {} is not checked for what leads past the merged index: {error}",
                        shown_path(&file)
                    ));
                    continue;
                }
            };
            let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if Path::new(name).extension().is_some_and(|end| end == "toml" || end == "cfg") {
                tell(&file, sources::read(name, &String::from_utf8_lossy(&bytes), self.command), told);
                continue;
            }
            if Path::new(name).extension().is_some_and(|end| end == "py") {
                continue;
            }
            let found = requirements::read(&bytes, |name| self.environment.text(name).map(str::to_owned));
            tell(&file, found.detours, told);
            for (line, nested) in found.nested {
                if nested.contains("://") {
                    told.push(format!(
                        "warning: {}:{line}: a requirements file elsewhere is not checked for what leads past the merged index",
                        shown_path(&file)
                    ));
                } else {
                    named.push((file.parent().unwrap_or(Path::new("")).join(nested), true));
                }
            }
        }
    }

    /// The files of projects where the command works, and those of the user's that belong to no project.
    fn projects(&self, told: &mut Vec<String>) {
        let mut seen = BTreeSet::new();
        let mut look = |path: PathBuf, name: &str, told: &mut Vec<String>| -> bool {
            let Ok(bytes) = (self.read)(&path) else { return false };
            if seen.insert(path.clone()) {
                let text = String::from_utf8_lossy(&bytes);
                tell(&path, sources::read(name, &text, self.command), told);
                for (line, what) in sources::unheeded(name, &text, self.command) {
                    let (place, what) = (shown_path(&path), printable(&what));
                    told.push(format!(
                        "warning: {place}:{line}: {what} is not heeded: under --index uv has the merged index alone"
                    ));
                }
            }
            true
        };
        for place in self.command.directories() {
            let place = self.directory.join(&place);
            for name in sources::NAMES {
                // The nearest one counts.
                for above in place.ancestors() {
                    let path = above.join(name);
                    let shown = path.strip_prefix(self.directory).map(Path::to_path_buf).unwrap_or(path);
                    if look(shown, name, told) {
                        break;
                    }
                }
            }
        }
        let home = self.environment.path("HOME");
        let config =
            self.environment.path("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|it| it.join(".config")));
        let uv = config.as_ref().map(|it| it.join("uv/uv.toml"));
        let pdm =
            self.environment.path("PDM_CONFIG_FILE").or_else(|| config.map(|it| it.join("pdm/config.toml")));
        for (path, name) in [
            (self.environment.path("PIPENV_PIPFILE"), "Pipfile"),
            (uv, "uv.toml"),
            (Some(PathBuf::from("/etc/uv/uv.toml")), "uv.toml"),
            (pdm, "pdm.toml"),
            (Some(PathBuf::from("/etc/xdg/pdm/config.toml")), "pdm.toml"),
            (home.map(|home| home.join(".pydistutils.cfg")), ".pydistutils.cfg"),
        ] {
            path.map(|path| look(path, name, told));
        }
        for named in self.command.values_of(NAMED) {
            look(PathBuf::from(named), NAMED, told);
        }
    }
}

fn exists(read: &dyn Fn(&Path) -> io::Result<Vec<u8>>, path: &Path) -> bool {
    !read(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn tell(file: &Path, found: Vec<sources::Detour>, told: &mut Vec<String>) {
    for (line, what) in found {
        let place = format!("warning: {}:{line}:", shown_path(file));
        let what = printable(&what);
        told.push(if what.starts_with("an encoding") {
            format!("{place} {what} is not checked for what leads past the merged index")
        } else if what.ends_with("@ …`") || what == "an address" {
            format!("{place} {what} is taken from where it says, and not from the merged index; name the package alone")
        } else {
            format!("{place} {what} leads past the merged index; remove that line, or leave out --index")
        });
    }
}

/// Variables that name requirements files: pip's and uv's.
const FILES: [&str; 8] = [
    "PIP_REQUIREMENT",
    "PIP_CONSTRAINT",
    "PIP_BUILD_CONSTRAINT",
    "UV_CONSTRAINT",
    "UV_BUILD_CONSTRAINT",
    "UV_OVERRIDE",
    "UV_EXCLUDE",
    "UV_REQUIREMENT",
];
/// Who says by itself which requirements files it reads.
const CLIENTS: [&str; 10] =
    ["pip", "uv", "uvx", "poetry", "pdm", "pipenv", "pip-compile", "pip-sync", "piptools", "pipx"];
const USUAL: [&str; 4] = ["requirements.txt", "requirements.in", "requirements-dev.txt", "constraints.txt"];
/// A file of uv's that the command itself names.
const NAMED: &str = "--config-file";
const MOST_FILES: usize = 200;
const MOST_TOLD: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(words: &[&str], pairs: &[(&str, &str)], texts: &[(&str, &str)]) -> Vec<String> {
        let environment: Environment = pairs.iter().copied().collect();
        let command = Command::new(words.iter().map(|word| (*word).to_owned()));
        let read = |path: &Path| {
            let found = texts.iter().find(|(name, _)| path.components().eq(Path::new(name).components()));
            match found {
                Some((_, "FIFO")) => Err(io::Error::other("it is not a regular file")),
                Some((_, text)) => Ok(text.as_bytes().to_vec()),
                None => Err(io::ErrorKind::NotFound.into()),
            }
        };
        let mut files = Files::default();
        files.pip.requirements = vec!["of-conf.txt".to_owned()];
        let look = Look {
            environment: &environment,
            command: &command,
            files: &files,
            directory: Path::new("/srv/app"),
            read: &read,
        };
        look.warnings()
    }

    #[track_caller]
    fn assert_told(found: &[String], wanted: &[&str]) {
        assert_eq!(found.len(), wanted.len(), "{found:#?}");
        for (told, wanted) in found.iter().zip(wanted) {
            assert!(told.contains(wanted), "{told:?}: {wanted:?}");
            assert!(!told.contains("hunter2"), "{told:?}");
        }
    }

    #[test]
    fn every_file_that_is_taken_in_is_looked_at_once() {
        let option = "--extra-index-url https://u:hunter2@x.test/\n";
        let texts = [
            ("a.txt", "-r sub/b.txt\n-c https://x.test/c.txt\nacme @ https://u:hunter2@x.test/a.whl\n"),
            ("sub/b.txt", "-r ../a.txt\n-r c.txt\n--index https://x.test\n"),
            ("sub/../a.txt", ""),
            ("sub/c.txt", option),
            ("of-variable.txt", option),
            ("of-conf.txt", option),
            ("pipe", "FIFO"),
            ("requirements.txt", option),
        ];
        let found = warnings(
            &["pip", "install", "-r", "a.txt", "-r", "pipe"],
            &[("PIP_CONSTRAINT", "of-variable.txt none.txt")],
            &texts,
        );
        assert_told(
            &found,
            &[
                "a.txt:3: `acme @ …` is taken from where it says",
                "a.txt:2: a requirements file elsewhere is not checked",
                "pipe is not checked",
                "of-variable.txt:1: `--extra-index-url` leads past",
                "of-conf.txt:1:",
                "sub/b.txt:3: `--index-url`",
                "sub/c.txt:1:",
            ],
        );
        assert_told(&warnings(&["make"], &[], &texts), &["of-conf.txt:1:", "requirements.txt:1:"]);
    }

    #[test]
    fn projects_are_looked_at_where_the_command_works() {
        let source = "[[tool.pdm.source]]\nname = \"x\"\n";
        let texts = [
            ("/srv/pyproject.toml", source),
            ("sub/pyproject.toml", "[[tool.pdm.source]]\nname = \"sub\"\n"),
            ("/h/.config/pdm/config.toml", "[pypi.extra]\nurl = \"https://x.test\"\n"),
        ];
        let home = [("HOME", "/h")];
        assert_told(
            &warnings(&["pdm", "sync", "--frozen-lockfile"], &home, &texts),
            &["/srv/pyproject.toml:1: `[[tool.pdm.source]]` \"x\"", "config.toml:1: `[pypi.extra]`"],
        );
        let found = warnings(&["sh", "-c", "cd sub && pdm sync --frozen-lockfile"], &home, &texts);
        assert_told(
            &found,
            &[
                "/srv/pyproject.toml:1:",
                "sub/pyproject.toml:1: `[[tool.pdm.source]]` \"sub\"",
                "config.toml:1:",
            ],
        );
        assert_told(&warnings(&["pip", "install", "."], &home, &texts), &[]);
    }

    #[test]
    fn what_writes_addresses_down_is_told() {
        assert_told(&warnings(&["uv", "lock"], &[], &[]), &["what `uv lock` writes down"]);
        assert_told(&warnings(&["poetry", "lock"], &[], &[]), &["poetry takes no index from outside"]);
        assert_told(
            &warnings(&["pip", "install", "-r", "-", "--extra", "https://u:hunter2@x.test"], &[], &[]),
            &["`--extra-index-url` in the command", "standard input is not checked"],
        );
    }
}
