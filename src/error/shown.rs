//! Values from outside in what is said: how much of one is shown, and what is never shown.
//!
//! People put a key where its path is wanted, and a password into a URL. What a variable, a flag, a file or a peer gave
//! is shown with at most [`MOST`] characters, and not at all where it looks like a secret. Each [`Failure`] goes through
//! [`redacted`] once more as a whole, whoever made its text: a library that quotes what it could not read, for one.

use std::ffi::OsStr;
use std::path::Path;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::{Failure, Kind, printable};

/// A value as it may be shown.
#[must_use]
pub fn shown(text: &str) -> String {
    if is_secret(bare(text), DEEPEST) { HIDDEN.to_owned() } else { short(&printable(&redacted(text))) }
}

/// A path that somebody named, as it may be shown.
#[must_use]
pub fn shown_path(path: &Path) -> String {
    shown(&path.to_string_lossy())
}

/// A text without whatever looks like a secret in it; the rest stays as it is.
#[must_use]
pub fn redacted(text: &str) -> String {
    let text = without_passwords(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((start, end)) = document(rest) {
        words(&rest[..start], &mut out);
        out.push_str(HIDDEN);
        rest = &rest[end..];
    }
    words(rest, &mut out);
    out
}

/// As [`redacted`], with each quoted piece cut to the length of a value: for the sentences of libraries, which quote what
/// they were given.
#[must_use]
pub fn quoting(text: &str) -> String {
    let text = redacted(text);
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.find(['"', '`']) {
        let (before, quoted) = rest.split_at(start);
        let quote = &quoted[..1];
        let mut end = 1;
        while let Some(at) = quoted[end..].find(quote) {
            end += at;
            if !quoted[..end].ends_with('\\') {
                break;
            }
            end += 1;
        }
        let end = if quoted[end..].starts_with(quote) { end } else { quoted.len() };
        out.push_str(before);
        out.push_str(quote);
        out.push_str(&short(&quoted[1..end]));
        out.push_str(quoted.get(end..=end).unwrap_or_default());
        rest = quoted.get(end + 1..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// Refuses a value in which a key stands where its path is wanted. `name` is that of the variable, flag or setting.
///
/// # Errors
/// When it holds a key. No part of it is said.
pub fn refuse_key(name: &str, value: &OsStr) -> Result<(), Failure> {
    if !is_key(value) {
        return Ok(());
    }
    Err(Failure::new(Kind::Usage, format!("{name}: {KEY}"))
        .with_hint("name that file instead, and take the key out of where it stood: others may have seen it"))
}

/// Whether what stands where a path is wanted is no path, but the key itself: JSON, PEM, a token, base64 of one of these,
/// or longer than any path is.
#[must_use]
pub fn is_key(value: &OsStr) -> bool {
    let text = value.to_string_lossy();
    let text = bare(&text);
    let is_path = text.starts_with(['/', '.', '~']);
    text.contains(['\n', '\r', '\0'])
        || text.len() > LONGEST_PATH
        || text.split('/').any(|part| part.len() > LONGEST_PART)
        || (!is_path && text.contains(['{', '}']))
        || is_secret(text, DEEPEST)
}

/// Without what people put around a value.
fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || "'\"`\u{feff}".contains(c))
}

fn is_secret(text: &str, depth: usize) -> bool {
    document(text).is_some()
        || token(text, |_| text.len()).is_some()
        || (text.len() >= LONG && !text.contains(['/', '.']) && is_scrambled(text))
        || encoded(text, depth)
}

/// Base64, in either alphabet, of JSON, PEM, DER or gzip; or of base64 of it.
fn encoded(text: &str, depth: usize) -> bool {
    let text = text.rsplit([',', ':', '=']).find(|part| !part.is_empty()).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "+/-_".contains(c);
    if depth == 0 || text.len() < SHORTEST_ENCODED || !text.chars().all(plain) {
        return false;
    }
    let text = text.replace('-', "+").replace('_', "/");
    // What was cut off in the middle of a group is a key all the same.
    let whole = if text.len() % 4 == 1 { &text[..text.len() - 1] } else { &text };
    let Ok(bytes) = LENIENT.decode(whole) else { return false };
    if bytes.starts_with(&GZIP) || (bytes.starts_with(&DER) && bytes.len() > SHORTEST_ENCODED) {
        return true;
    }
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        // Cut off in the middle of a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    let text = text.trim_start_matches('\u{feff}').trim();
    let is_text = !text.contains(|c: char| c.is_control() && !c.is_whitespace());
    is_text && (text.starts_with(['{', '[']) || text.starts_with(PEM) || encoded(text, depth - 1))
}

/// Where a JSON object or a block of PEM begins and ends in a text. What has no end goes on to the end of the text.
fn document(text: &str) -> Option<(usize, usize)> {
    let json = text.match_indices('{').map(|(at, _)| at).find(|at| {
        let inside = unescaped(&text[at + 1..]);
        let word =
            inside.trim_start_matches(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let bare = word.len() < inside.len() && word.trim_start().starts_with(':');
        inside.starts_with(['"', '\'']) || bare
    });
    let pem = text.find(PEM).or_else(|| text.find("PRIVATE KEY"));
    let named = text.find("\"private_key\"").or_else(|| text.find("\"refresh_token\""));
    // As a URL has escaped it.
    let lower = text.to_ascii_lowercase();
    let escaped = ESCAPED.iter().filter_map(|start| lower.find(start)).min();
    let start = [json, pem, named, escaped].into_iter().flatten().min()?;
    let behind = &text[start..];
    let end = if json == Some(start) {
        behind.rfind('}').map_or(behind.len(), |end| end + 1)
    } else if escaped == Some(start) {
        behind.find(|c: char| c.is_whitespace() || "'\"`".contains(c)).unwrap_or(behind.len())
    } else {
        behind.len()
    };
    Some((start, start + end))
}

/// A text behind its blanks, be they written as they are or escaped, once or more often.
fn unescaped(text: &str) -> &str {
    let mut rest = text;
    loop {
        let next = rest.trim_start().trim_start_matches('\\');
        let blank = next.len() < rest.trim_start().len() && next.starts_with(['n', 'r', 't']);
        let next = if blank { &next[1..] } else { next };
        if next.len() == rest.len() {
            return rest;
        }
        rest = next;
    }
}

/// Puts a text without documents out, word by word, where a word is what a token or base64 is made of.
fn words(text: &str, out: &mut String) {
    let part = |c: char| c.is_ascii_alphanumeric() || "+_-".contains(c);
    let mut rest = text;
    while let Some(start) = rest.find(part) {
        let (before, behind) = rest.split_at(start);
        let is_value = before == "=" && names_a_secret(out);
        out.push_str(before);
        let until = |more: &str| behind.find(|c: char| !part(c) && !more.contains(c)).unwrap_or(behind.len());
        let token = token(behind, until);
        let (end, hidden) = if is_value {
            (behind.find(|c: char| c.is_whitespace() || "&#\"'`".contains(c)).unwrap_or(behind.len()), true)
        } else if let Some(end) = token {
            (end, true)
        } else {
            let word = &behind[..until("")];
            // The next line of what was broken into lines.
            let goes_on = out.trim_end().ends_with(HIDDEN) && !out.ends_with(HIDDEN) && is_mixed(word);
            // Base64 of bytes, in which a slash is a letter.
            let slashed = &behind[..until("/")];
            if slashed.len() > word.len() && is_base64_of_bytes(slashed) {
                (slashed.len(), true)
            } else {
                (word.len(), goes_on || is_scrambled(word) || encoded(word, DEEPEST))
            }
        };
        if !hidden {
            out.push_str(&behind[..end]);
        } else if out.trim_end().ends_with(HIDDEN) {
            out.truncate(out.trim_end().len());
        } else {
            out.push_str(HIDDEN);
        }
        rest = &behind[end..];
    }
    out.push_str(rest);
}

/// Where the token ends that a text begins with, if it begins as the known kinds do and is as long as one. A dot or a
/// slash is a part of some kinds, and the end of the others.
fn token(text: &str, until: impl Fn(&str) -> usize) -> Option<usize> {
    let found = |kinds: &[(&str, usize)], end: usize| {
        let is_of = |(start, least): &(&str, usize)| text[..end].starts_with(start) && end >= *least;
        kinds.iter().any(is_of).then_some(end)
    };
    found(&TOKENS_IN_PARTS, until("./")).or_else(|| found(&TOKENS, until("")))
}

/// Whether a text ends in the name of a parameter of a URL whose value is a secret.
fn names_a_secret(text: &str) -> bool {
    let Some((_, name)) = text.rsplit_once(['?', '&']) else { return false };
    let name = name.to_ascii_lowercase();
    !name.contains(char::is_whitespace) && SECRET_NAMES.iter().any(|word| name.contains(word))
}

/// Without what stands between a name and its host, as in `https://NAME:PASSWORD@HOST/` or `NAME:PASSWORD@HOST`.
fn without_passwords(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c: char| c.is_whitespace() || "\"'`<>()".contains(c)) {
        let address = piece.find("://").map_or(0, |at| at + 3);
        let (scheme, address) = piece.split_at(address);
        let authority = address.split(['/', '?', '#']).next().unwrap_or_default();
        let named =
            authority.split_once(':').filter(|(_, behind)| !behind.starts_with(|c: char| c.is_ascii_digit()));
        let at = match authority.rfind('@') {
            Some(at) => Some(at),
            // A slash that nobody has escaped in a password.
            None if named.is_some() => address.rfind('@'),
            None => None,
        };
        let password =
            at.and_then(|at| Some((address[..at].find(':')?, at))).filter(|(colon, at)| colon + 1 < *at);
        match password {
            Some((colon, at)) => {
                out.extend([scheme, &address[..=colon], HIDDEN, &address[at..]]);
            }
            None => out.push_str(piece),
        }
    }
    out
}

/// Whether a run with slashes in it is no path. Only its beginning is looked at: that is the same all the way.
fn is_base64_of_bytes(run: &str) -> bool {
    let run = &run[..run.len().min(LONG * 8)];
    let first = run.split('/').next().unwrap_or_default();
    let capital = first.bytes().any(|byte| byte.is_ascii_uppercase());
    // The names in a path change their kinds of characters less often than that.
    capital && (encoded(run, 1) || (run.len() >= LONG && is_scrambled(run) && changes(run) * 2 >= run.len()))
}

/// Whether a word is like nothing that a person would write: long, of all kinds of characters, which change all the time.
fn is_scrambled(word: &str) -> bool {
    let has = |kind: fn(&u8) -> bool| word.bytes().any(|byte| kind(&byte));
    let all = has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_digit);
    word.len() >= SHORTEST_SCRAMBLED && all && changes(word) * 5 >= word.len() * 2
}

/// How often the kind of character changes.
fn changes(word: &str) -> usize {
    let kind = |byte: u8| match byte {
        b'a'..=b'z' => 0,
        b'A'..=b'Z' => 1,
        b'0'..=b'9' => 2,
        _ => 3,
    };
    let kinds: Vec<u8> = word.bytes().map(kind).collect();
    kinds.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

/// Whether a word may be the last piece of something that is scrambled.
fn is_mixed(word: &str) -> bool {
    let has = |kind: fn(&u8) -> bool| word.bytes().any(|byte| kind(&byte));
    word.len() >= SHORTEST_ENCODED && has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase)
}

fn short(text: &str) -> String {
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The sentence for whoever put a key in the place of its path.
pub const KEY: &str = "this holds a key, not the path of one: write it to a file of mode 0600";
/// What stands in the place of what is not shown.
pub const HIDDEN: &str = "(hidden)";
/// How many characters of a value from outside are shown.
pub const MOST: usize = 80;
/// `PATH_MAX` and `NAME_MAX` of Linux.
const LONGEST_PATH: usize = 4096;
const LONGEST_PART: usize = 255;
/// The last one was encoded three times.
const DEEPEST: usize = 3;
/// `{"type":"x"}` has twelve bytes.
const SHORTEST_ENCODED: usize = 16;
const SHORTEST_SCRAMBLED: usize = 40;
/// A name of a file may be odd; one of this length and without a dot is no name.
const LONG: usize = 64;
const PEM: &str = "-----BEGIN";
const ESCAPED: [&str; 4] = ["%7b%22", "%7b%0a", "%7b%20", "%22private_key"];
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];
/// A sequence whose length takes two bytes, as a private key's does.
const DER: [u8; 2] = [0x30, 0x82];
/// How tokens and client secrets begin, Google's and those of what is used beside them, and how long one is at least.
const TOKENS: [(&str, usize); 8] = [
    ("GOCSPX-", 0),
    ("AIzaSy", 20),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghs_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("pypi-AgE", 16),
];
/// Those that have dots or slashes in them.
const TOKENS_IN_PARTS: [(&str, usize); 4] = [("ya29.", 0), ("1//0", 12), ("4/0", 20), ("eyJ", 16)];
const SECRET_NAMES: [&str; 9] =
    ["token", "secret", "password", "signature", "credential", "assertion", "key", "code", "sig"];
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests;
