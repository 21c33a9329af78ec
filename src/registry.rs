//! What a service name points at, and the one decision whether a host may ever see a Google token.
//!
//! Clients name a service in many shapes: an index URL, a file URL, a URL with `user@`, a bare `host` or
//! `host:port`, or a name that is no URL at all. [`Hosts::resolve`] accepts exactly Google's registry hosts and
//! the hosts that the configuration file names, over https, on their own port. Everything else is refused before
//! any parser could be tricked: one pass over plain ASCII, no normalisation, no decoding, no guessing.

pub mod configured;
mod format;
pub mod google;
pub mod request;

use std::borrow::Cow;

pub use self::configured::ExtraRegistry;
pub use self::format::Format;
use crate::ask::Access;

/// A registry that may see a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// Lower case, with the port where it is not 443.
    pub host: String,
    pub format: Format,
    /// `PROJECT` and `REPOSITORY`, where the path says them.
    pub repository: Option<(String, String)>,
    /// What the URL implies: exactly `/PROJECT/REPOSITORY` on a Python host is where uploads go; all else reads.
    pub access: Access,
}

/// Why a service gets nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// Not a registry of ours. Clients ask every keyring about every service, so this is the normal case.
    NotOurs,
    /// A registry of ours, asked for in a way that would send the token in clear or to another server. `host` is
    /// what the right URL would name.
    Insecure { host: String, reason: &'static str },
}

/// The hosts that may see a token.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    extra: Vec<ExtraRegistry>,
}

impl Hosts {
    /// Google's hosts and those that the configuration file names.
    #[must_use]
    pub fn new(extra: &[ExtraRegistry]) -> Self {
        Self { extra: extra.to_vec() }
    }

    /// The hosts that the configuration file names.
    pub fn extra(&self) -> impl Iterator<Item = &str> {
        self.extra.iter().map(|extra| extra.host.as_str())
    }

    /// Decides what a service name points at.
    ///
    /// # Errors
    /// When it is not a registry that may see a token.
    pub fn resolve(&self, service: &str) -> Result<Registry, Rejection> {
        let plain = |byte: u8| (0x21..=0x7e).contains(&byte) && byte != b'\\';
        if service.len() > LONGEST || !service.bytes().all(plain) {
            return Err(Rejection::NotOurs);
        }
        let (scheme, rest) = match service.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, service),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        // A user name may stand in a URL; in a bare host it has no meaning. Two of them are a trick.
        let address = match (scheme, authority.split_once('@')) {
            (_, None) => authority,
            (Some(_), Some((_, address))) if !address.contains('@') => address,
            _ => return Err(Rejection::NotOurs),
        };
        let address = address.to_ascii_lowercase();
        let (host, port) = match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address.as_str(), None),
        };
        if !host.split('.').all(is_label) {
            return Err(Rejection::NotOurs);
        }
        let (name, format) = self.admit(host, port)?;
        if !scheme.is_none_or(|scheme| scheme.eq_ignore_ascii_case("https")) {
            let reason = "it is not https, so the token would travel in clear";
            return Err(Rejection::Insecure { host: name, reason });
        }
        let repository = repository(path);
        let upload =
            scheme.is_some() && format == Format::Python && repository.as_ref().is_some_and(|it| it.exact);
        Ok(Registry {
            host: name,
            format,
            repository: repository.map(|it| (it.project, it.name)),
            access: if upload { Access::Write } else { Access::Read },
        })
    }

    /// Whether host and port are exactly one that may see a token.
    fn admit(&self, host: &str, port: Option<&str>) -> Result<(String, Format), Rejection> {
        let secure = matches!(port, None | Some("443"));
        let elsewhere = |right: &str| {
            let reason = "it is not the registry's own port";
            Err(Rejection::Insecure { host: right.to_owned(), reason })
        };
        if let Some(format) = google::format(host) {
            return if secure { Ok((host.to_owned(), format)) } else { elsewhere(host) };
        }
        let address = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let named = self.extra.iter().find(|extra| {
            let (extra_host, extra_port) = extra.host.split_once(':').unwrap_or((&extra.host, "443"));
            extra_host == host && extra_port == port.unwrap_or("443")
        });
        match named {
            Some(extra) if secure => Ok((host.to_owned(), extra.format)),
            Some(extra) => Ok((address, extra.format)),
            None if port.is_some() && self.extra.iter().any(|extra| extra.host == host) => elsewhere(host),
            None => Err(Rejection::NotOurs),
        }
    }
}

impl Registry {
    /// `PROJECT/REPOSITORY`, for logs.
    #[must_use]
    pub fn repository_name(&self) -> Option<String> {
        self.repository.as_ref().map(|(project, name)| format!("{project}/{name}"))
    }
}

/// A DNS label in lower case. Labels that carry punycode are refused: no registry has one.
fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
        && !label.starts_with("xn--")
}

struct Repository {
    project: String,
    name: String,
    /// The path is `/PROJECT/REPOSITORY` or the same with one slash behind it, and nothing else.
    exact: bool,
}

/// Reads `/PROJECT/REPOSITORY/…`. Segments that could be read in two ways name no repository.
fn repository(path: &str) -> Option<Repository> {
    let mut segments = path.strip_prefix('/')?.splitn(3, '/');
    let (project, name, rest) = (project(segments.next()?)?, segments.next()?, segments.next());
    let exact = rest.is_none_or(str::is_empty);
    is_plain(name).then(|| Repository { project: project.into_owned(), name: name.into(), exact })
}

/// The name of a project as a segment of a path writes it. That of an organisation with a domain has a colon
/// (`example.com:project`), which pip and twine escape. None where it can be read in more than one way.
#[must_use]
pub fn project(segment: &str) -> Option<Cow<'_, str>> {
    let project = match segment.split_once("%3A").or_else(|| segment.split_once("%3a")) {
        Some((domain, name)) if !domain.contains(':') => Cow::Owned(format!("{domain}:{name}")),
        _ => Cow::Borrowed(segment),
    };
    is_plain(&project).then_some(project)
}

/// Whether a segment can be the name of a project or a repository, and can be read in one way only.
#[must_use]
pub fn is_plain(segment: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(good)
}

/// No client sends a longer service name.
const LONGEST: usize = 4096;

#[cfg(test)]
mod tests;
