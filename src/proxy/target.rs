//! Where a request for `/registry/HOST/PATH` goes: the host and path as they came, once nothing in them can be read in
//! two ways.
//!
//! What is checked here is byte for byte what is sent. Nothing is decoded and nothing is put right: a path that a server
//! could read otherwise than the grant does, by decoding it, decoding it twice, or climbing up in it, is refused. One
//! encoded slash is let through, that of a scoped npm package (`@scope%2fname`), since it cannot name another repository;
//! and so are the parameters of a segment (`;x=1`) behind the repository of a Python file: cutting them off, as some
//! servers do, leads to another file of the same place.
//!
//! The host is another matter: pip escapes the colon of a port in a link, and `localhost%3A8443` is read as what it was.

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use thiserror::Error;

use crate::error::shown::shown;
use crate::error::{Fault, Kind};
use crate::registry::request::{is_public_key, is_version_check, plain_host};
use crate::registry::{Format, Hosts, Registry, Rejection};

/// What a request is about, and where it goes.
#[derive(Debug, Clone)]
pub struct Target {
    pub registry: Registry,
    /// `https://HOST/PATH`, with the query.
    pub uri: Uri,
}

/// Why a request goes nowhere.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TargetFault {
    /// Not a path under `/registry/`, or one that can be read in two ways.
    #[error("the request's target {0}")]
    Malformed(&'static str),
    /// Two slashes in a row. pipenv asks so, and takes a 404 for an answer.
    #[error("the request's target has an empty segment in its path")]
    Empty,
    /// A host that may not see a token.
    #[error("{:?} is not a registry that valetkey serves", shown(.0))]
    Foreign(String),
    /// One that may, asked for by another port.
    #[error("no request to {host}: {reason}")]
    Insecure { host: String, reason: &'static str },
    /// No format has such a path.
    #[error("this path names no repository of {0}")]
    Nameless(String),
}

impl Fault for TargetFault {
    fn kind(&self) -> Kind {
        match self {
            Self::Malformed(_) => Kind::Usage,
            Self::Empty => Kind::NotFound,
            Self::Foreign(_) => Kind::NotOurs,
            Self::Insecure { .. } | Self::Nameless(_) => Kind::Refused,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Malformed(_) | Self::Empty => {
                Some("ask for /registry/HOST/PATH, with a plain path".to_owned())
            }
            Self::Foreign(_) => {
                Some("registries of your own are named as [[registry]] in config.toml".to_owned())
            }
            Self::Insecure { host, .. } => Some(format!("use https://{host}/")),
            Self::Nameless(_) => None,
        }
    }
}

impl Target {
    /// Reads the target of a request, from its first slash on.
    ///
    /// # Errors
    /// When it does not lead to a repository of a registry that may see a token, or not beyond doubt.
    pub fn parse(target: &str, hosts: &Hosts) -> Result<Self, TargetFault> {
        if target.len() > LONGEST {
            return Err(TargetFault::Malformed("is too long"));
        }
        let rest = target.strip_prefix(PREFIX).ok_or(TargetFault::Malformed("is not below /registry/"))?;
        let (host, below) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let host = &*plain_host(host);
        let (path, query) = below.split_once('?').map_or((below, None), |(path, query)| (path, Some(query)));
        let located = hosts.locate(host, path);
        check_path(path, located.as_ref().ok().map(|registry| registry.format))?;
        if !query.unwrap_or_default().bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(TargetFault::Malformed("has a query that is not plain"));
        }
        let registry = located.map_err(|rejection| match rejection {
            Rejection::NotOurs => TargetFault::Foreign(crate::error::printable(host)),
            Rejection::Insecure { host, reason } => TargetFault::Insecure { host, reason },
        })?;
        let of_no_repository =
            is_version_check(registry.format, path) || is_public_key(registry.format, path);
        if registry.repository.is_none() && !of_no_repository {
            return Err(TargetFault::Nameless(registry.host));
        }
        let uri = assemble(host, below).ok_or(TargetFault::Malformed("is no URL"))?;
        Ok(Self { registry, uri })
    }
}

/// Refuses a path that could be another one to somebody else.
fn check_path(path: &str, format: Option<Format>) -> Result<(), TargetFault> {
    let below = path.strip_prefix('/').ok_or(TargetFault::Malformed("has no path behind the host"))?;
    if below.is_empty() {
        return Ok(());
    }
    // One slash at the end is how an index is named.
    let segments = below.strip_suffix('/').unwrap_or(below).split('/');
    for (place, segment) in segments.enumerate() {
        if segment.is_empty() {
            return Err(TargetFault::Empty);
        }
        // Behind project and repository, where it can change neither.
        let format = format.filter(|_| place >= 2);
        if !(format == Some(Format::Npm) && is_scoped(segment)) {
            check_segment(segment, format == Some(Format::Python)).map_err(TargetFault::Malformed)?;
        }
    }
    Ok(())
}

/// `@scope%2fname`, as npm writes the name of a package that has a scope.
fn is_scoped(segment: &str) -> bool {
    let part = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
        !text.is_empty() && text != "." && text != ".." && text.bytes().all(plain)
    };
    let halves = segment.strip_prefix('@').and_then(|rest| rest.split_once('%'));
    let name = halves.and_then(|(_, behind)| behind.strip_prefix("2f").or(behind.strip_prefix("2F")));
    halves.zip(name).is_some_and(|((scope, _), name)| part(scope) && part(name))
}

/// `parameters` says whether a semicolon may stand in it, at which some servers cut.
fn check_segment(segment: &str, parameters: bool) -> Result<(), &'static str> {
    // RFC 3986's characters of a segment.
    let fits = |byte: u8| {
        byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,=:@".contains(&byte) || parameters && byte == b';'
    };
    if !segment.bytes().all(fits) {
        return Err("has a character in its path that is not plain");
    }
    let mut text = segment.as_bytes().to_vec();
    if decode(&text).1 {
        return Err("has a broken escape in its path");
    }
    loop {
        let harmless =
            |byte: &u8| !b"/\\".contains(byte) && (parameters || *byte != b';') && !byte.is_ascii_control();
        if !text.iter().all(harmless) {
            return Err("has an encoded separator in its path");
        }
        // What is left of it where it is cut, and what is cut off.
        let mut parts = text.split(|byte| *byte == b';');
        let name = parts.next().unwrap_or_default();
        if name.is_empty() || name == b"." || name == b".." {
            return Err("climbs in its path");
        }
        if !parts.all(is_parameter) {
            return Err("has a character in its path that is not plain");
        }
        // What was encoded twice may hold a percent sign by now, which stands for itself.
        let (decoded, _) = decode(&text);
        if decoded == text {
            return Ok(());
        }
        if std::str::from_utf8(&decoded).is_err() {
            return Err("has an escape in its path that is not UTF-8");
        }
        text = decoded;
    }
}

/// `name=value`, of plain characters.
fn is_parameter(part: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let mut halves = part.splitn(2, |byte| *byte == b'=');
    let (name, value) = (halves.next().unwrap_or_default(), halves.next());
    !name.is_empty() && name.iter().all(plain) && value.is_some_and(|value| value.iter().all(plain))
}

/// Decodes every escape once. A broken one is left as it is, and told.
fn decode(text: &[u8]) -> (Vec<u8>, bool) {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (mut decoded, mut broken) = (Vec::with_capacity(text.len()), false);
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        let escaped = match behind {
            [high, low, ..] if byte == b'%' => digit(*high).zip(digit(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            decoded.push(high << 4 | low);
            rest = &behind[2..];
        } else {
            broken |= byte == b'%';
            decoded.push(byte);
        }
    }
    (decoded, broken)
}

fn assemble(host: &str, path: &str) -> Option<Uri> {
    let mut parts = hyper::http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(host.parse::<Authority>().ok()?);
    parts.path_and_query = Some(path.parse::<PathAndQuery>().ok()?);
    // No parser may have put anything right.
    Uri::from_parts(parts).ok().filter(|uri| uri.path_and_query().is_some_and(|it| it.as_str() == path))
}

/// Where the daemon serves registries.
pub const PREFIX: &str = "/registry/";
/// No client asks for more: an index page's longest links are a few hundred bytes.
const LONGEST: usize = 8 << 10;

#[cfg(test)]
mod tests;
