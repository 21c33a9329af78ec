//! A `.netrc` that names a registry: pip, uv and whatever is made with requests take it before any keyring.

use std::path::Path;

use super::super::Finding;
use super::Asker;
use crate::error::printable;
use crate::error::shown::shown_path;
use crate::paths::read_regular;

pub(super) fn examine(asker: &Asker<'_>) -> Vec<Finding> {
    let home = asker.environment.path("HOME").map(|home| home.join(".netrc"));
    let Some(file) = asker.environment.path("NETRC").or(home) else { return Vec::new() };
    let Ok(text) = read_regular(&file, LARGEST) else { return Vec::new() };
    let text = zeroize::Zeroizing::new(text);
    machines(&text)
        .filter(|host| asker.hosts.resolve(host).is_ok())
        .take(MOST)
        .map(|host| about(host, &file))
        .collect()
}

fn about(host: &str, file: &Path) -> Finding {
    let host: String = printable(host).chars().take(100).collect();
    let text = format!("{} has an entry for {host}, which wins over every keyring", shown_path(file));
    let hint = "take it out, unless it is meant: a token in it is dead within the hour";
    Finding::note("netrc", text, hint)
}

/// The hosts that it names. Only the word behind `machine` is looked at.
fn machines(text: &str) -> impl Iterator<Item = &str> {
    let mut words = text.split_ascii_whitespace();
    std::iter::from_fn(move || {
        words.find(|word| *word == "machine")?;
        words.next()
    })
}

const LARGEST: u64 = 1 << 20;
const MOST: usize = 8;
