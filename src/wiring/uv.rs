//! uv's own files. A proxy that they name wins over the variables, and an index of theirs is asked before every other; the
//! one variable that wins over them names a file in their place. So where they would lead past us, uv gets what they
//! say together, without that, and everything else in them stays in force.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::command::Command;
use super::proxies::OwnWay;
use crate::environment::Environment;

/// What uv's files say together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UvFiles {
    settings: Table,
}

impl UvFiles {
    /// Reads those that count where the command works, by a function that gives a file's text.
    pub fn read(
        environment: &Environment,
        command: &Command,
        directory: &Path,
        text: &impl Fn(&Path) -> Option<String>,
    ) -> Self {
        let table = |path: &Path| text(path).and_then(|text| text.parse::<Table>().ok());
        if let Some(named) = environment.path(CONFIG_FILE) {
            let settings = table(&named).map(|table| rooted(table, named.parent())).unwrap_or_default();
            return Self { settings };
        }
        if environment.get("UV_NO_CONFIG").is_some() || command.has(&["--no-config"]) {
            return Self::default();
        }
        let mut files = Self::default();
        // What is installed for the user heeds no project.
        if !command.runs("uvx") {
            let named = ["UV_WORKING_DIR", "UV_WORKING_DIRECTORY", "UV_PROJECT"];
            let named = named.into_iter().filter_map(|name| environment.path(name));
            let places: Vec<PathBuf> = command.directories().into_iter().chain(named).collect();
            // Of several the one that it goes to last: it is there that a script runs uv.
            files.add(places.iter().rev().find_map(|place| project(&directory.join(place), &table)));
        }
        let home = environment.path("HOME").map(|home| home.join(".config"));
        if let Some(own) = environment.path("XDG_CONFIG_HOME").or(home) {
            files.add(table(&own.join("uv/uv.toml")).map(|table| rooted(table, Some(&own.join("uv")))));
        }
        if environment.get("UV_NO_SYSTEM_CONFIG").is_none() {
            let listed =
                environment.text("XDG_CONFIG_DIRS").unwrap_or("/etc/xdg").split(':').map(PathBuf::from);
            let mut system =
                listed.map(|base| base.join("uv/uv.toml")).chain([PathBuf::from("/etc/uv/uv.toml")]);
            let found = system.find_map(|path| Some(rooted(table(&path)?, path.parent())));
            files.add(found);
        }
        files
    }

    /// The way that only uv was told of.
    #[must_use]
    pub fn way(&self) -> Option<OwnWay> {
        let proxy = self.settings.get("https-proxy")?.as_str()?.to_owned();
        let listed = self.settings.get("no-proxy").and_then(Value::as_array);
        let no_proxy = listed.map(|list| list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","));
        Some(OwnWay { proxy, no_proxy, named: "uv's configuration".to_owned(), of_file: true })
    }

    /// The file that uv gets in the place of its own, where there is something in them that it must not follow.
    #[must_use]
    pub fn in_place(&self, proxy: Option<&str>, no_proxy: &str, one_index: bool) -> Option<String> {
        let mut settings = self.settings.clone();
        let mut changed = false;
        if let Some(proxy) = proxy {
            settings.insert("https-proxy".to_owned(), proxy.into());
            changed = true;
        }
        if settings.contains_key("no-proxy") {
            let list: Vec<Value> = no_proxy.split(',').map(Value::from).collect();
            settings.insert("no-proxy".to_owned(), list.into());
            changed = true;
        }
        if one_index {
            // Where no file names an index now, one may do so that a script comes by.
            changed = true;
            for name in INDEX {
                settings.remove(name);
                if let Some(pip) = settings.get_mut("pip").and_then(Value::as_table_mut) {
                    pip.remove(name);
                }
            }
        }
        if !changed {
            return None;
        }
        for name in OF_PROJECT {
            settings.remove(name);
        }
        toml::to_string(&settings).ok()
    }

    fn add(&mut self, weaker: Option<Table>) {
        combine(&mut self.settings, weaker.unwrap_or_default());
    }
}

/// Whether a file that the command itself names leads past us: no variable wins over that.
#[must_use]
pub fn leads_past(text: &str) -> bool {
    let settings = text.parse::<Table>().unwrap_or_default();
    WAY.iter().any(|name| settings.contains_key(*name))
}

/// The nearest directory whose files are for uv; a workspace further up stands for its members.
fn project(directory: &Path, table: &impl Fn(&Path) -> Option<Table>) -> Option<Table> {
    let mut found = None;
    for above in directory.ancestors() {
        let own = table(&above.join("uv.toml"));
        let of_tool = table(&above.join("pyproject.toml")).and_then(|mut project| {
            let mut tools = project.remove("tool")?;
            Some(tools.as_table_mut()?.remove("uv")?.as_table()?.clone())
        });
        let is_workspace = of_tool.as_ref().is_some_and(|tool| tool.contains_key("workspace"));
        if is_workspace || found.is_none() {
            found = own.or(of_tool).map(|settings| rooted(settings, Some(above))).or(found);
        }
    }
    found
}

/// uv's own way: what is nearer wins, lists are put behind each other, tables go together.
fn combine(stronger: &mut Table, weaker: Table) {
    for (name, value) in weaker {
        match (stronger.get_mut(&name), value) {
            (Some(Value::Array(list)), Value::Array(more)) => list.extend(more),
            (Some(Value::Table(table)), Value::Table(more)) => combine(table, more),
            (Some(_), _) => {}
            (None, value) => {
                stronger.insert(name, value);
            }
        }
    }
}

/// Paths among the addresses count from the file in which they stand.
fn rooted(mut settings: Table, directory: Option<&Path>) -> Table {
    let Some(directory) = directory else { return settings };
    let root = |value: &mut Value| {
        let path = value.as_str().filter(|text| !text.contains("://") && Path::new(text).is_relative());
        // `name=URL` is no path, and neither is anything with a scheme.
        if let Some(path) =
            path.map(|path| directory.join(path)).and_then(|path| path.to_str().map(str::to_owned))
        {
            *value = Value::String(path);
        }
    };
    for name in ["find-links", "extra-index-url"] {
        settings.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().for_each(root);
    }
    settings.get_mut("index-url").into_iter().for_each(root);
    let indexes = settings.get_mut("index").and_then(Value::as_array_mut);
    indexes.into_iter().flatten().filter_map(|index| index.get_mut("url")).for_each(root);
    settings
}

/// Names the file that is read in the place of all others.
pub const CONFIG_FILE: &str = "UV_CONFIG_FILE";
/// What says how requests go.
const WAY: [&str; 2] = ["https-proxy", "no-proxy"];
/// What brings in another index, at the top and for `uv pip`.
const INDEX: [&str; 7] =
    ["index", "index-url", "extra-index-url", "find-links", "no-index", "index-strategy", "torch-backend"];
/// These are a project's own: uv reads them there, and allows them nowhere else.
const OF_PROJECT: [&str; 9] = [
    "build-backend",
    "conflicts",
    "default-groups",
    "dependency-groups",
    "dev-dependencies",
    "managed",
    "package",
    "sources",
    "workspace",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)], texts: &[(&str, &str)]) -> UvFiles {
        let environment: Environment = pairs.iter().copied().collect();
        UvFiles::read(&environment, &Command::default(), Path::new("/a/b"), &|path| {
            texts.iter().find(|(name, _)| path.as_os_str() == *name).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn what_leads_past_us_is_left_out_and_all_else_stays() {
        let project = "[project]\nname = \"a\"\n[tool.uv]\nmanaged = true\nlink-mode = \"copy\"\nfind-links = [\"links\"]\n\
            pip.index-url = \"https://x.test\"\npip.strict = true\n[[tool.uv.index]]\nurl = \"https://x.test\"\n";
        let user = "https-proxy = \"http://p.test\"\nno-proxy = [\"a.test\", \"dev\"]\nlink-mode = \"clone\"\noffline = true\n";
        let texts = [("/a/pyproject.toml", project), ("/h/.config/uv/uv.toml", user)];
        let files = read(&[("HOME", "/h")], &texts);
        let way = files.way().unwrap();
        assert_eq!((way.proxy.as_str(), way.no_proxy.as_deref()), ("http://p.test", Some("a.test,dev")));
        let text = files.in_place(Some("http://127.0.0.1:1"), "a.test,localhost", true).unwrap();
        let wanted = "https-proxy = \"http://127.0.0.1:1\"\nlink-mode = \"copy\"\nno-proxy = [\"a.test\", \"localhost\"]\n\
            offline = true\n\n[pip]\nstrict = true\n";
        assert_eq!(text, wanted);
        let text = files.in_place(None, "", false).unwrap();
        assert!(text.contains("find-links = [\"/a/links\"]") && !text.contains("managed"), "{text}");
    }

    #[test]
    fn nothing_is_put_in_place_of_what_leads_nowhere_else() {
        let texts = [("/a/b/uv.toml", "link-mode = \"copy\"\n"), ("/f", "index-url = \"https://x.test\"")];
        let files = read(&[("HOME", "/h")], &texts);
        assert_eq!(files.in_place(None, "", false), None);
        assert_eq!(files.way(), None);
        let named = read(&[("UV_CONFIG_FILE", "/f")], &texts);
        assert_eq!(named.in_place(None, "", true).as_deref(), Some(""));
        assert_eq!(named.in_place(None, "", false), None);
        assert_eq!(read(&[("UV_NO_CONFIG", "1")], &texts), UvFiles::default());
        let texts = [("/a/b/uv.toml", "offline = false\n"), ("/a/b/c/uv.toml", "offline = true\n")];
        let there = read(&[("UV_PROJECT", "c")], &texts);
        assert_eq!(there.in_place(None, "", true).as_deref(), Some("offline = true\n"));
    }

    #[test]
    fn a_workspace_stands_for_its_members() {
        let texts = [
            ("/a/b/pyproject.toml", "[tool.uv]\noffline = false\n"),
            ("/a/pyproject.toml", "[tool.uv]\noffline = true\nworkspace.members = [\"b\"]\n"),
        ];
        let files = read(&[], &texts);
        assert_eq!(files.settings.get("offline"), Some(&Value::Boolean(true)));
    }
}
