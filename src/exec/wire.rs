//! Everything that a command gets: variables, and the files that some of them name, in the run's own directory.

use std::fs::{OpenOptions, Permissions, create_dir, set_permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::authority::Authority;
use super::bundle;
use super::place::Place;
use crate::client::granted::HostPattern;
use crate::environment::Environment;
use crate::environment::before::RECORD;
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::paths::{open_regular, read_regular};
use crate::wiring::command::Command;
use crate::wiring::files::Files;
use crate::wiring::proxies::{OwnWay, Ports, Tool, no_proxy_of, proxies};
use crate::wiring::warnings::Look;
use crate::wiring::{Wiring, index, keyring_providers, path_with, rc, trust, uv};

/// What is known when a command is wired.
pub(super) struct Wire<'a> {
    pub environment: &'a Environment,
    pub command: &'a Command,
    pub files: &'a Files,
    pub ports: &'a Ports,
    pub hosts: &'a [HostPattern],
    pub place: &'a Place,
    pub authority: &'a Authority,
    /// The path of the one index, if there is to be one.
    pub index: Option<&'a str>,
    /// Whether tokens are given here.
    pub credential: bool,
}

impl Wire<'_> {
    /// Puts everything together.
    ///
    /// # Errors
    /// When the directory does not take a file.
    pub(super) fn wiring(&self) -> Result<Wiring, Failure> {
        let environment = self.environment;
        let wanted = trust::bundles(environment, self.files);
        let mut wiring = proxies(environment, self.files, self.ports, self.hosts).and(bundle::write(
            self.place.path(),
            self.authority.pem(),
            &wanted,
            environment,
        )?);
        self.own_files(&mut wiring)?;
        if self.credential {
            wiring = wiring.and(keyring_providers(environment));
            wiring.set("PATH", path_with(environment, &self.place.link_keyring()?));
        }
        if let Some(path) = self.index {
            wiring = wiring.and(index::index(environment, self.files, path, || self.place.empty())?);
        }
        wiring.notes.extend(rc::unreached(self.command, self.ports.general));
        if let Some((path, line)) = self.files.curl.as_ref().filter(|_| self.command.may_run("curl")) {
            wiring.notes.push(format!(
                "{}:{line} wins over the variables that lead curl here: call it as curl -q, or take that line out",
                shown_path(path)
            ));
        }
        if let Some((path, line)) = self.files.pipenv.as_ref().filter(|_| self.command.runs("pipenv")) {
            wiring.notes.push(format!(
                "{}:{line} wins over the variables that lead pipenv here: take that line out, or set PIPENV_DONT_LOAD_ENV=1",
                path.display()
            ));
        }
        let named = self.command.values_of("--config-file").filter(|_| self.command.may_run("uv"));
        if named.filter_map(|file| text(Path::new(file))).any(|text| uv::leads_past(&text)) {
            wiring.notes.push(format!(
                "the file behind `--config-file` says which proxy uv uses, and wins over what leads uv here: name it in \
                 {} instead",
                uv::CONFIG_FILE
            ));
        }
        if self.index.is_some() {
            let look = Look {
                environment,
                command: self.command,
                files: self.files,
                directory: &working_directory(),
                read: &read,
            };
            wiring.notes.extend(look.warnings());
        }
        let wiring = wiring.recorded(environment);
        if let Some(record) = wiring.value(RECORD) {
            self.place.keep(record)?;
        }
        Ok(wiring)
    }

    /// The files that uv, wget and apt get in the place of their own, and what git gets as words.
    fn own_files(&self, wiring: &mut Wiring) -> Result<(), Failure> {
        let bundle = wiring.take(trust::WGET).map(PathBuf::from);
        let list = no_proxy_of(self.environment, self.own(Tool::Wget).as_ref(), self.hosts);
        let text = rc::wgetrc(self.files, bundle.as_deref(), &self.ports.address(Tool::Wget), &list);
        wiring.set("WGETRC", self.write("wgetrc", &text, !rc::is_private(&self.files.wgetrc.text))?);

        let bundle = wiring.take(trust::APT).map(PathBuf::from);
        let granted: Vec<HostPattern> =
            self.hosts.iter().filter(|host| host.name() != index::HOST).cloned().collect();
        let hosts = rc::apt_hosts(&granted, apt_sources());
        let general = format!("http://127.0.0.1:{}", self.ports.general);
        if !hosts.is_empty() {
            let text = rc::apt_conf(self.environment, &hosts, bundle.as_deref(), &general);
            wiring.set("APT_CONFIG", self.write("apt.conf", &text, true)?);
        }
        if let Some(words) = rc::git_parameters(self.environment, &granted, &general) {
            wiring.set(rc::GIT, words);
        }

        let own = self.ports.own.contains_key(&Tool::Uv).then(|| self.ports.address(Tool::Uv));
        let list = no_proxy_of(self.environment, self.own(Tool::Uv).as_ref(), self.hosts);
        let one_index = self.index.is_some() && self.command.may_run("uv");
        if let Some(text) = self.files.uv.in_place(own.as_deref(), &list, one_index) {
            wiring.set(uv::CONFIG_FILE, self.write("uv.toml", &text, !text.contains('@'))?);
        }
        Ok(())
    }

    fn own(&self, tool: Tool) -> Option<OwnWay> {
        crate::wiring::proxies::own_ways(self.environment, self.files).remove(&tool)
    }

    /// What a user's own file may hold, a password for one, is nobody else's business; the rest is for every user who
    /// is served here.
    fn write(&self, name: &str, text: &str, is_public: bool) -> Result<PathBuf, Failure> {
        let directory = self.place.path().join("tools");
        let path = directory.join(name);
        // The run's own directory decides who comes by.
        let made = match create_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            made => made.and_then(|()| set_permissions(&directory, Permissions::from_mode(0o711))),
        };
        let file =
            made.and_then(|()| OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path));
        let written = file.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.set_permissions(Permissions::from_mode(if is_public { 0o644 } else { 0o600 }))
        });
        written.map_err(|error| {
            Failure::new(Kind::Local, format!("cannot write {}", shown_path(&path))).with_cause(error)
        })?;
        Ok(path)
    }
}

/// The text of a file of a tool's, if there is one that can be read.
pub(super) fn text(path: &Path) -> Option<String> {
    read_regular(path, LARGEST_FILE).ok()
}

/// Where the command will run. A relative path counts from here as well.
pub(super) fn working_directory() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path, false)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_FILE { Err(std::io::Error::other("it is too large")) } else { Ok(bytes) }
}

fn apt_sources() -> impl Iterator<Item = String> {
    let listed = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let listed = listed.take(MOST_SOURCES).map(|entry| entry.path());
    [PathBuf::from("/etc/apt/sources.list")].into_iter().chain(listed).filter_map(|path| text(&path))
}

/// A lock file of a large project is larger than any other.
const LARGEST_FILE: u64 = 4 << 20;
const MOST_SOURCES: usize = 200;
