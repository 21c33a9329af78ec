//! Requirements files, read as pip reads them: what in one leads past the index that a command was given.
//!
//! pip's own order: the bytes are decoded by a mark or a declaration, lines are those of Python, a backslash at the end
//! joins two, a comment begins behind a blank, `${NAME}` is replaced, and what begins with a dash is an option of pip's
//! command line, with its abbreviations. Where another client reads less, it is warned of too much, and never of too
//! little. Values are not repeated: there may be a password in one.

use std::iter::Peekable;

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// What leads past an index, with its line.
    pub detours: Vec<(usize, String)>,
    /// The files that it takes in, as they are written.
    pub nested: Vec<(usize, String)>,
}

/// Reads one.
#[must_use]
pub fn read(bytes: &[u8], variable: impl Fn(&str) -> Option<String>) -> Requirements {
    let mut found = Requirements::default();
    let (text, odd) = decode(bytes);
    if let Some((line, encoding)) = odd {
        found
            .detours
            .push((line, format!("an encoding of {encoding:?} is not understood here, and what is in it")));
    }
    for (line, text) in join(&text) {
        let text = expand(without_comment(&text).trim(), &variable);
        let (requirement, options) = split_options(&text);
        if let Some(what) = direct(requirement) {
            found.detours.push((line, what));
        }
        options_of(&words(options), line, &mut found);
    }
    found
}

/// What a requirement that names its own address is called, or nothing for one that comes from an index.
#[must_use]
pub fn direct(requirement: &str) -> Option<String> {
    let at = requirement.find("://")?;
    let scheme =
        requirement[..at].rsplit(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).next()?;
    if scheme.is_empty() || scheme.eq_ignore_ascii_case("file") {
        return None;
    }
    let name: String = requirement
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .take(60)
        .collect();
    let is_named = requirement[name.len()..].trim_start().starts_with(['@', '[']);
    Some(if is_named { format!("`{name} @ …`") } else { "an address".to_owned() })
}

/// The long option of pip's that a word of its command line means: itself, or the only one that begins so.
#[must_use]
pub fn long_option(word: &str) -> Option<&'static str> {
    let mut found = OPTIONS.iter().map(|(name, _)| *name).filter(|name| name.starts_with(word));
    let exact = OPTIONS.iter().map(|(name, _)| *name).find(|name| *name == word);
    exact.or_else(|| found.next().filter(|_| word.len() > 2 && found.next().is_none()))
}

/// Whether an option names an index, or links, or that there is none.
#[must_use]
pub fn leads_past(option: &str) -> bool {
    PAST.contains(&option)
}

fn options_of(words: &[String], line: usize, found: &mut Requirements) {
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        if name.starts_with("--") {
            let Some(option) = long_option(name) else { continue };
            let takes = OPTIONS.iter().any(|(name, takes)| *name == option && *takes);
            let value = value.or_else(|| next(&mut words, takes));
            note(option, value, line, found);
        } else if let Some(option) = SHORT.iter().find(|(short, _)| word.starts_with(short)) {
            let value = Some(word[2..].to_owned()).filter(|value| !value.is_empty());
            let value = value.or_else(|| next(&mut words, true));
            note(option.1, value, line, found);
        }
    }
}

fn next<'a>(words: &mut Peekable<impl Iterator<Item = &'a String>>, takes: bool) -> Option<String> {
    if takes { words.next().cloned() } else { None }
}

fn note(option: &'static str, value: Option<String>, line: usize, found: &mut Requirements) {
    let value = value.unwrap_or_default();
    if leads_past(option) {
        found.detours.push((line, format!("`{option}`")));
    } else if NESTED.contains(&option) && !value.is_empty() {
        found.nested.push((line, value));
    } else if option == "--editable"
        && let Some(what) = direct(&value)
    {
        found.detours.push((line, what));
    }
}

/// Text by its mark, or as UTF-8. What is declared to be something that is not written like ASCII is not understood.
fn decode(bytes: &[u8]) -> (String, Option<(usize, String)>) {
    let wide = |bytes: &[u8], size: usize, little: bool| -> String {
        let number = |unit: &[u8]| {
            let fold = |sum: u32, byte: &u8| (sum << 8) | u32::from(*byte);
            if little { unit.iter().rev().fold(0, fold) } else { unit.iter().fold(0, fold) }
        };
        let units = bytes.chunks_exact(size).map(number);
        if size == 4 {
            return units.map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        }
        let units = units.map(|unit| u16::try_from(unit).unwrap_or_default());
        char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => return (String::from_utf8_lossy(rest).into_owned(), None),
        [0xff, 0xfe, 0, 0, rest @ ..] => return (wide(rest, 4, true), None),
        [0, 0, 0xfe, 0xff, rest @ ..] => return (wide(rest, 4, false), None),
        [0xff, 0xfe, rest @ ..] => return (wide(rest, 2, true), None),
        [0xfe, 0xff, rest @ ..] => return (wide(rest, 2, false), None),
        _ => {}
    }
    let text = String::from_utf8_lossy(bytes).into_owned();
    let declared = text.lines().take(2).enumerate().find_map(|(at, line)| {
        let rest = line.strip_prefix('#')?;
        let (_, name) = rest.split_once("coding:").or_else(|| rest.split_once("coding="))?;
        let inner = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
        let name: String = name.trim_start().chars().take_while(inner).take(40).collect();
        let plain = name.to_ascii_lowercase().replace('_', "-");
        let is_plain =
            ["utf-8", "utf8", "ascii", "us-ascii", "latin", "iso-8859", "iso8859", "cp125", "windows-125"];
        (!name.is_empty() && !is_plain.iter().any(|known| plain.starts_with(known))).then_some((at + 1, name))
    });
    (text, declared)
}

/// Lines that go on behind a backslash, with the number of the first. A comment ends what goes on, and is none of it.
fn join(text: &str) -> Vec<(usize, String)> {
    let mut joined = Vec::new();
    let mut begun: Option<(usize, String)> = None;
    for (at, line) in python_lines(text).into_iter().enumerate() {
        let comment = line.trim_start().starts_with('#');
        if line.ends_with('\\') && !comment {
            let begun = begun.get_or_insert((at + 1, String::new()));
            begun.1.push_str(line.trim_matches('\\'));
            continue;
        }
        let line = if comment { format!(" {line}") } else { line.to_owned() };
        match begun.take() {
            Some((first, text)) => joined.push((first, text + &line)),
            None => joined.push((at + 1, line)),
        }
    }
    joined.extend(begun);
    joined
}

/// Python ends lines at more characters than most.
fn python_lines(text: &str) -> Vec<&str> {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ends) {
        lines.push(&rest[..at]);
        let behind = &rest[at..];
        let length = behind.chars().next().map_or(1, char::len_utf8);
        rest = behind.strip_prefix("\r\n").unwrap_or(&behind[length..]);
    }
    lines.push(rest);
    lines
}

fn without_comment(line: &str) -> &str {
    let begins = |at: &usize| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    line.match_indices('#').map(|(at, _)| at).find(begins).map_or(line, |at| &line[..at])
}

/// `${NAME}` with a name in upper case, where it is set.
fn expand(line: &str, variable: &impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("${") {
        let (before, behind) = rest.split_at(at);
        expanded.push_str(before);
        let name = behind[2..].split_once('}').map(|(name, _)| name);
        let fits = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let name = name.filter(|name| !name.is_empty() && name.bytes().all(fits));
        let (written, shown) = match name.and_then(|name| Some((name.len() + 3, variable(name)?))) {
            Some(found) => found,
            None => (2, "${".to_owned()),
        };
        expanded.push_str(&shown);
        rest = &behind[written..];
    }
    expanded + rest
}

/// A requirement, and the options behind it: from the first word with a dash on.
fn split_options(line: &str) -> (&str, &str) {
    let mut at = 0;
    for word in line.split_inclusive(' ') {
        if word.starts_with('-') {
            break;
        }
        at += word.len();
    }
    (line[..at].trim(), &line[at..])
}

/// Words as a shell parts them. What is not closed goes to the end.
#[must_use]
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(letters.next()),
            (None, letter) if letter.is_whitespace() => words.extend(word.take()),
            (_, letter) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// What pip reads in a requirements file, of any version, and whether it takes a value.
const OPTIONS: &[(&str, bool)] = &[
    ("--index-url", true),
    ("--pypi-url", true),
    ("--extra-index-url", true),
    ("--no-index", false),
    ("--constraint", true),
    ("--requirement", true),
    ("--editable", true),
    ("--find-links", true),
    ("--no-binary", true),
    ("--only-binary", true),
    ("--prefer-binary", false),
    ("--require-hashes", false),
    ("--no-require-hashes", false),
    ("--pre", false),
    ("--all-releases", true),
    ("--only-final", true),
    ("--trusted-host", true),
    ("--use-feature", true),
    ("--process-dependency-links", false),
    ("--hash", true),
    ("--config-settings", true),
    ("--global-option", true),
    ("--install-option", true),
];
const SHORT: [(&str, &str); 5] = [
    ("-i", "--index-url"),
    ("-f", "--find-links"),
    ("-r", "--requirement"),
    ("-c", "--constraint"),
    ("-e", "--editable"),
];
const PAST: [&str; 6] = [
    "--index-url",
    "--pypi-url",
    "--extra-index-url",
    "--find-links",
    "--no-index",
    "--process-dependency-links",
];
const NESTED: [&str; 2] = ["--requirement", "--constraint"];

#[cfg(test)]
mod tests;
