//! Where git's own configuration leads past us: the words that it gets from us name a host, and a proxy for one remote, or
//! for addresses that are said more exactly, wins over them. Nothing that can be set wins over those, so a person is told.

use std::path::{Path, PathBuf};

use crate::client::granted::HostPattern;
use crate::environment::Environment;

/// The lines that lead requests for granted hosts past us.
#[must_use]
pub fn detours(
    environment: &Environment,
    directory: &Path,
    granted: &[HostPattern],
    text: impl Fn(&Path) -> Option<String>,
) -> Vec<(PathBuf, usize)> {
    let home = environment.path("HOME");
    let config =
        environment.path("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
    let of_user = match environment.path("GIT_CONFIG_GLOBAL") {
        Some(named) => vec![named],
        None => [config.map(|it| it.join("git/config")), home.map(|it| it.join(".gitconfig"))]
            .into_iter()
            .flatten()
            .collect(),
    };
    let own = directory.ancestors().map(|above| above.join(".git/config"));
    let nearest = own.into_iter().find(|path| text(path).is_some());
    let files = [PathBuf::from("/etc/gitconfig")].into_iter().chain(of_user).chain(nearest);
    let read = files.filter_map(|path| Some((text(&path)?, path)));
    read.flat_map(|(text, path)| {
        lines(&text, granted).into_iter().map(move |line| (path.clone(), line)).collect::<Vec<_>>()
    })
    .collect()
}

fn lines(text: &str, granted: &[HostPattern]) -> Vec<usize> {
    let is_granted = |address: &str| {
        let uri: Option<hyper::Uri> = address.parse().ok();
        uri.is_some_and(|uri| {
            let port = uri.port_u16().unwrap_or(443);
            uri.host().is_some_and(|host| granted.iter().any(|pattern| pattern.covers(host, port)))
        })
    };
    let mut found = Vec::new();
    // The proxy of a section, and the address that it is for.
    let (mut proxy, mut address, mut concerns) = (None, String::new(), false);
    for (at, line) in text.lines().chain(["["]).enumerate() {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[') {
            found.extend(proxy.take().filter(|_| concerns && is_granted(&address)));
            let (kind, rest) = section.split_once('"').unwrap_or((section, ""));
            let named = rest.split('"').next().unwrap_or_default();
            let kind = kind.trim().to_ascii_lowercase();
            address = if kind == "http" { named.to_owned() } else { String::new() };
            let exact = named.split_once("://").map_or("", |(_, rest)| rest);
            let has_path = exact.split_once('/').is_some_and(|(_, path)| !path.is_empty());
            concerns = kind == "remote" || (kind == "http" && (has_path || exact.contains('@')));
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { continue };
        match name.trim().to_ascii_lowercase().as_str() {
            "proxy" => proxy = Some(at + 1),
            "url" => value.trim().trim_matches('"').clone_into(&mut address),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_is_said_more_exactly_than_ours_is_found() {
        let granted = [HostPattern::try_from("*.pkg.dev".to_owned()).unwrap()];
        let own = "[remote \"a\"]\n\turl = https://eu-git.pkg.dev/p/r\n\tproxy = http://u:p@x.test\n\
            [remote \"b\"]\n\tproxy = http://x.test\n\turl = https://other.test/p\n[remote \"c\"]\nurl = https://eu.pkg.dev/\n";
        let user = "[http]\nproxy = http://x.test\n[http \"https://eu.pkg.dev/\"]\nproxy = http://x.test\n\
            [HTTP \"https://eu.pkg.dev/p/\"]\nProxy = http://x.test\n[http \"https://me@eu.pkg.dev\"]\nproxy=http://x.test";
        let environment: Environment = [("HOME", "/h")].into_iter().collect();
        let texts = [("/a/.git/config", own), ("/h/.gitconfig", user)];
        let found = detours(&environment, Path::new("/a/b"), &granted, |path| {
            texts.iter().find(|(name, _)| path.as_os_str() == *name).map(|(_, text)| (*text).to_owned())
        });
        let wanted = [("/h/.gitconfig", 6), ("/h/.gitconfig", 8), ("/a/.git/config", 3)];
        assert_eq!(found, wanted.map(|(path, line)| (PathBuf::from(path), line)));
    }
}
