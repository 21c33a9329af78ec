//! Files of a project, of every client that reads them: what in one names another index, or an address for a package,
//! where no variable can keep the client from it. Names are shown, and values are not: there may be a password in one.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::command::{Command, VARIABLES};
use super::requirements::direct;

/// What leads past an index, and the line where it stands.
pub type Detour = (usize, String);

/// The files of a project that are read, by their names.
pub const NAMES: [&str; 11] = [
    "pyproject.toml",
    "Pipfile",
    "Pipfile.lock",
    "uv.lock",
    "uv.toml",
    "pdm.toml",
    "hatch.toml",
    "setup.cfg",
    "tox.ini",
    "tox.toml",
    ".env",
];

/// What a file of that name says to the clients that the command may start.
#[must_use]
pub fn read(name: &str, text: &str, command: &Command) -> Vec<Detour> {
    let may = |client: &str| command.may_run(client);
    match name {
        "pyproject.toml" => toml(text, |path, key| pyproject(path, key, &may)),
        "Pipfile" if may("pipenv") => toml(text, pipfile),
        "Pipfile.lock" if may("pipenv") => pipfile_lock(text),
        "uv.lock" if command.is_frozen() && may("uv") => first(toml(text, uv_lock)),
        "pdm.toml" if may("pdm") => toml(text, pdm_config),
        // One that the command names, which wins over the one that we put in the place of all others.
        "--config-file" => toml(text, |path, item| uv(path, item, false)),
        "hatch.toml" if may("hatch") => toml(text, hatch),
        "setup.cfg" | ".pydistutils.cfg" => setup_cfg(text),
        "tox.ini" if may("tox") => lines(text),
        "tox.toml" if may("tox") => toml(text, |_, item| tox(item)),
        ".env" if may("pipenv") => lines(text),
        name if name.starts_with("pylock") => first(toml(text, pylock)),
        _ => Vec::new(),
    }
}

/// What a file says to uv that uv does not get to hear.
#[must_use]
pub fn unheeded(name: &str, text: &str, command: &Command) -> Vec<Detour> {
    let of_index =
        |path: &[&str], item: &Item<'_>| uv(path, item, false).filter(|_| uv(path, item, true).is_none());
    match name {
        _ if !command.may_run("uv") => Vec::new(),
        "pyproject.toml" => toml(text, |path, item| of_index(path.strip_prefix(&["tool", "uv"])?, item)),
        "uv.toml" => toml(text, |path, item| of_index(path, item).map(|what| what.replace("tool.uv.", ""))),
        _ => Vec::new(),
    }
}

/// What a script says for uv: TOML in its comments (PEP 723).
#[must_use]
pub fn script(text: &str) -> Vec<Detour> {
    let mut block = String::new();
    let mut inside = false;
    for line in text.lines() {
        let begins = line.trim_end() == "# /// script";
        let ends = line.trim_end() == "# ///";
        inside = begins || (inside && !ends);
        // Each line keeps its number.
        let content = line.strip_prefix("# ").filter(|_| inside && !begins).unwrap_or_default();
        block.push_str(content);
        block.push('\n');
    }
    toml(&block, |path, key| match path {
        ["tool", "uv", rest @ ..] => uv(rest, key, false),
        ["dependencies"] => requirement(key),
        _ => None,
    })
}

/// What stands at a path: a key with its value, or an element of a list, which has no key.
struct Item<'a> {
    key: &'a str,
    value: &'a DeValue<'a>,
}

impl Item<'_> {
    fn text(&self) -> &str {
        self.value.as_str().unwrap_or_default()
    }

    fn member(&self, name: &str) -> &str {
        self.value.get(name).and_then(|value| value.get_ref().as_str()).unwrap_or_default()
    }

    /// A name to call a table by.
    fn called(&self) -> String {
        let name: String = self.member("name").chars().filter(|c| !c.is_control()).take(60).collect();
        if name.is_empty() { String::new() } else { format!(" {name:?}") }
    }
}

/// Walks through a text. One that is no TOML is read as far as it goes: the client that reads it will say so.
fn toml(text: &str, judge: impl Fn(&[&str], &Item<'_>) -> Option<String>) -> Vec<Detour> {
    let (table, _) = DeTable::parse_recoverable(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut found = Vec::new();
    let mut note = |start: usize, what: String| {
        let line = text.get(..start).unwrap_or_default().matches('\n').count() + 1;
        found.push((line, what));
    };
    walk(table.get_ref(), &mut Vec::new(), &judge, &mut note);
    found.sort();
    found
}

fn walk<'a>(
    table: &'a DeTable<'a>,
    path: &mut Vec<&'a str>,
    judge: &impl Fn(&[&str], &Item<'_>) -> Option<String>,
    note: &mut impl FnMut(usize, String),
) {
    for (key, value) in table {
        let start = key.span().start;
        let key: &str = key.get_ref();
        let mut visit =
            |path: &mut Vec<&'a str>, key: &'a str, value: &'a Spanned<DeValue<'a>>, start: usize| {
                if let Some(what) = judge(path, &Item { key, value: value.get_ref() }) {
                    note(start, what);
                } else if let DeValue::Table(inner) = value.get_ref()
                    && path.len() < DEEPEST
                {
                    let length = path.len();
                    path.extend((!key.is_empty()).then_some(key));
                    walk(inner, path, judge, note);
                    path.truncate(length);
                }
            };
        if let DeValue::Array(list) = value.get_ref() {
            path.push(key);
            for element in list {
                visit(path, "", element, element.span().start);
            }
            path.pop();
        } else {
            visit(path, key, value, start);
        }
    }
}

fn pyproject(path: &[&str], item: &Item<'_>, may: &impl Fn(&str) -> bool) -> Option<String> {
    match path {
        ["project", "dependencies"]
        | ["project", "optional-dependencies", _]
        | ["build-system", "requires"]
        | ["dependency-groups", _] => requirement(item),
        ["tool", "uv", rest @ ..] if may("uv") => uv(rest, item, true),
        ["tool", "poetry", rest @ ..] if may("poetry") => poetry(rest, item),
        ["tool", "pdm", "source"] if may("pdm") => {
            (item.key.is_empty()).then(|| format!("`[[tool.pdm.source]]`{}", item.called()))
        }
        ["tool", "pdm", "dev-dependencies", _] if may("pdm") => {
            requirement(&Item { key: "", value: item.value })
        }
        ["tool", "hatch", rest @ ..] if may("hatch") => hatch(rest, item),
        ["tool", "tox", ..] if may("tox") => tox(item),
        _ => None,
    }
}

/// Below `tool.uv`. The settings of an index in its own files are kept from uv; what a single package is bound to is not.
fn uv(path: &[&str], item: &Item<'_>, is_replaced: bool) -> Option<String> {
    match path {
        ["sources"] => {
            source(item, &["index", "url", "git"]).map(|what| format!("`[tool.uv.sources]` {what}"))
        }
        ["sources", name] if item.key.is_empty() => {
            let named = Item { key: name, value: item.value };
            source(&named, &["index", "url", "git"]).map(|what| format!("`[tool.uv.sources]` {what}"))
        }
        [] | ["pip" | "index" | "find-links" | "extra-index-url"] | ["pip", _] if is_replaced => None,
        ["index"] if item.key.is_empty() => Some(format!("`[[tool.uv.index]]`{}", item.called())),
        ["find-links" | "extra-index-url"] if item.key.is_empty() => Some(format!("`{}`", path[0])),
        ["pip", "find-links" | "extra-index-url"] if item.key.is_empty() => Some(format!("`{}`", path[1])),
        [] | ["pip"] if ["index-url", "no-index"].contains(&item.key) => Some(format!("`{}`", item.key)),
        [
            "dev-dependencies"
            | "constraint-dependencies"
            | "override-dependencies"
            | "build-constraint-dependencies",
        ] => requirement(item),
        _ => None,
    }
}

fn poetry(path: &[&str], item: &Item<'_>) -> Option<String> {
    match path {
        ["source"] if item.key.is_empty() => Some(format!("`[[tool.poetry.source]]`{}", item.called())),
        ["dependencies" | "dev-dependencies"] | ["group", _, "dependencies"] => {
            source(item, &["source", "url", "git"])
        }
        _ => None,
    }
}

fn hatch(path: &[&str], item: &Item<'_>) -> Option<String> {
    match path {
        ["envs", _, "env-vars"] if VARIABLES.contains(&item.key) => Some(format!("`{}`", item.key)),
        ["envs", _, "dependencies" | "extra-dependencies"] => requirement(item),
        _ => None,
    }
}

/// Variables, options of a command word by word, and a whole `tox.ini` as one text.
fn tox(item: &Item<'_>) -> Option<String> {
    if VARIABLES.contains(&item.key) {
        return Some(format!("`{}`", item.key));
    }
    lines(item.text()).into_iter().next().map(|(_, what)| what)
}

fn pipfile(path: &[&str], item: &Item<'_>) -> Option<String> {
    match path {
        ["source"] if item.key.is_empty() && !is_mirrored(item.member("url")) => {
            Some(format!("`[[source]]`{}", item.called()))
        }
        ["packages" | "dev-packages"] => source(item, &["index", "file", "git", "svn", "hg", "bzr"]),
        _ => None,
    }
}

/// pipenv takes these from the mirror that its variable names: PyPI's own.
fn is_mirrored(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    host.split_once('.') == Some(("pypi", "org"))
}

fn pipfile_lock(text: &str) -> Vec<Detour> {
    let lock: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let sources = lock["_meta"]["sources"].as_array().cloned().unwrap_or_default();
    let others = sources.iter().filter(|source| !is_mirrored(source["url"].as_str().unwrap_or_default()));
    others.take(1).map(|_| (1, "`sources`".to_owned())).collect()
}

/// What was stored with `pdm config`.
fn pdm_config(path: &[&str], item: &Item<'_>) -> Option<String> {
    let is_other = !item.member("url").is_empty() && path == ["pypi"];
    is_other.then(|| {
        format!("`[pypi.{}]`", item.key.chars().filter(|c| !c.is_control()).take(60).collect::<String>())
    })
}

fn uv_lock(path: &[&str], item: &Item<'_>) -> Option<String> {
    (path == ["package", "source"] && item.key == "registry").then(|| "`registry`".to_owned())
}

fn pylock(path: &[&str], item: &Item<'_>) -> Option<String> {
    matches!((path, item.key), (["packages", ..], "url" | "index")).then(|| format!("`{}`", item.key))
}

/// A package that is bound to something else than the index.
fn source(item: &Item<'_>, keys: &[&str]) -> Option<String> {
    let bound = keys.iter().find(|key| {
        let value = item.member(key);
        // A file is an address only where it is one elsewhere.
        !value.is_empty() && (**key != "file" || value.contains("://"))
    })?;
    let name: String = item.key.chars().filter(|c| !c.is_control()).take(60).collect();
    Some(format!("`{name} = {{ {bound} = … }}`"))
}

fn requirement(item: &Item<'_>) -> Option<String> {
    if item.key.is_empty() { direct(item.text().trim_start_matches("-e ")) } else { None }
}

fn first(mut found: Vec<Detour>) -> Vec<Detour> {
    found.truncate(1);
    found
}

/// setuptools' own way of fetching what a build needs, and requirements with an address.
fn setup_cfg(text: &str) -> Vec<Detour> {
    let mut section = "";
    let mut key = "";
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let content = line.trim();
        if let Some(named) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            (section, key) = (named, "");
            continue;
        }
        if content.starts_with(['#', ';']) || content.is_empty() {
            continue;
        }
        let mut value = content;
        if !line.starts_with([' ', '\t'])
            && let Some((name, rest)) = content.split_once(['=', ':'])
        {
            key = name.trim();
            value = rest.trim();
        }
        let named = key.replace('-', "_").to_ascii_lowercase();
        let what = match (section, named.as_str()) {
            ("easy_install", "index_url" | "find_links" | "no_index") | ("options", "dependency_links") => {
                (!value.is_empty()).then(|| format!("`{named}`"))
            }
            ("options", "install_requires" | "setup_requires" | "tests_require")
            | ("options.extras_require", _) => direct(value),
            _ => None,
        };
        found.extend(what.map(|what| (at + 1, what)));
    }
    found
}

/// Lines that set a variable of an index, or give an option of pip's.
fn lines(text: &str) -> Vec<Detour> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        let command = Command::new(["pip".to_owned(), format!(" {}", line.replace(['=', ':'], " = "))]);
        let options = command.detours().into_iter();
        let variable = VARIABLES.iter().find(|name| {
            line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == **name)
        });
        let options = variable.map(|name| format!("`{name}`")).into_iter().chain(options);
        found.extend(options.take(1).map(|what| (at + 1, what)));
    }
    found
}

/// No client's file goes further down.
const DEEPEST: usize = 12;

#[cfg(test)]
mod tests;
