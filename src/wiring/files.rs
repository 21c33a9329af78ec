//! The settings in configuration files of pip's and npm's own that would lead them past us: a bundle of certificates and
//! a proxy. A variable of ours wins over them, so that what they say has to be known. Nothing else is read from them.

use std::path::PathBuf;

use crate::environment::Environment;

/// What the files of one tool name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    pub bundle: Option<PathBuf>,
    pub proxy: Option<String>,
}

/// What is said by all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    pub pip: Named,
    pub npm: Named,
}

impl Files {
    /// Reads them by a function that gives a file's text, or nothing where there is no such file.
    pub fn read(environment: &Environment, text: impl Fn(&PathBuf) -> Option<String>) -> Self {
        let mut files = Self::default();
        for file in pip_files(environment).iter().filter_map(&text) {
            files.pip.read(&file, &["global", "install", "download"], "cert", "proxy");
        }
        for file in npm_files(environment).iter().filter_map(&text) {
            files.npm.read(&file, &[""], "cafile", "proxy");
            files.npm.read(&file, &[""], "cafile", "https-proxy");
        }
        files
    }

    /// A proxy that only one of these tools was told of.
    #[must_use]
    pub fn proxy(&self) -> Option<&str> {
        self.pip.proxy.as_deref().or(self.npm.proxy.as_deref())
    }
}

impl Named {
    /// Takes in a file: what it says wins over those that were read before. What stands before any section is in the
    /// section with no name.
    fn read(&mut self, text: &str, sections: &[&str], bundle: &str, proxy: &str) {
        let mut concerns = sections.contains(&"");
        for line in text.lines() {
            let line = line.trim_end();
            if let Some(section) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                concerns = sections.contains(&section);
                continue;
            }
            // A line that begins with a blank goes on with the value before it; neither of ours has several lines.
            let Some((name, value)) = line.split_once(['=', ':']) else { continue };
            let value = value.trim().trim_matches(['"', '\'']);
            // npm puts variables in, and means nothing by `null`.
            let plain = !value.is_empty() && value != "null" && !value.contains("${");
            if !concerns || !plain || line.starts_with([' ', '\t', '#', ';']) {
                continue;
            }
            let name = name.trim().to_ascii_lowercase();
            if name == bundle {
                self.bundle = Some(value.into());
            } else if name == proxy {
                self.proxy = Some(value.to_owned());
            }
        }
    }
}

/// The files that pip reads, those that win last.
fn pip_files(environment: &Environment) -> Vec<PathBuf> {
    let named = environment.path("PIP_CONFIG_FILE");
    if named.as_ref().is_some_and(|path| path.as_os_str() == "/dev/null") {
        return Vec::new();
    }
    let home = environment.path("HOME");
    let below = |base: Option<PathBuf>, name: &str| base.map(|base| base.join(name));
    let config = environment.path("XDG_CONFIG_HOME").or_else(|| below(home.clone(), ".config"));
    let global = ["/etc/xdg/pip/pip.conf", "/etc/pip.conf"].map(|path| Some(PathBuf::from(path)));
    let own = [
        below(home, ".pip/pip.conf"),
        below(config, "pip/pip.conf"),
        below(environment.path("VIRTUAL_ENV"), "pip.conf"),
        named,
    ];
    global.into_iter().chain(own).flatten().collect()
}

/// The files that npm reads: beside the node that runs it, the user's, and the project's.
fn npm_files(environment: &Environment) -> Vec<PathBuf> {
    let prefix =
        environment.find_program("node").and_then(|node| Some(node.parent()?.parent()?.join("etc/npmrc")));
    let home = environment.path("HOME").map(|home| home.join(".npmrc"));
    let of_user = environment.path("NPM_CONFIG_USERCONFIG").or(home);
    [Some("/etc/npmrc".into()), prefix, of_user, Some(".npmrc".into())].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pairs: &[(&str, &str)], texts: &[(&str, &str)]) -> Files {
        let environment: Environment = pairs.iter().copied().collect();
        Files::read(&environment, |path| {
            let found = texts.iter().find(|(name, _)| path.as_os_str() == *name);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn the_last_of_pips_files_wins() {
        let old = "# x\ncert = /none\n[global]\ncert = /old.pem\nproxy: http://p.test:3128\n[list]\ncert = /wrong.pem\n";
        let new =
            "[install]\nCERT=/new.pem\nindex-url = https://x.test/\n cert = /continued\n;cert = /c\ncert =\n";
        let home = [("HOME", "/h"), ("VIRTUAL_ENV", "/v")];
        let texts =
            [("/v/pip.conf", new), ("/h/.config/pip/pip.conf", old), ("/f", "[global]\ncert = /f.pem")];
        let read = files(&home, &texts);
        assert_eq!(read.pip.bundle, Some("/new.pem".into()));
        assert_eq!(read.proxy(), Some("http://p.test:3128"));
        assert_eq!(files(&[("PIP_CONFIG_FILE", "/f")], &texts).pip.bundle, Some("/f.pem".into()));
        assert_eq!(files(&[("HOME", "/h"), ("PIP_CONFIG_FILE", "/dev/null")], &texts), Files::default());
    }

    #[test]
    fn npms_files_have_no_sections() {
        let text = "cafile=\"/corp.pem\"\nproxy=http://old.test\nhttps-proxy = http://p.test\n//x.test/:_authToken=t\n";
        let read = files(&[("HOME", "/h")], &[("/h/.npmrc", text), ("/etc/npmrc", "cafile=/system.pem\n")]);
        assert_eq!(read.npm.bundle, Some("/corp.pem".into()));
        assert_eq!(read.proxy(), Some("http://p.test"));
        let read = files(&[("HOME", "/h")], &[("/h/.npmrc", "cafile=${CA}\nproxy=null\n")]);
        assert_eq!(read.npm, Named::default());
    }
}
