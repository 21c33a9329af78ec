//! The settings in files of the tools' own that would lead them past us: a bundle of certificates, a proxy, hosts that
//! need none. A variable of ours wins over them, so that what they say has to be known. Each counts for its own tool, and
//! nothing else is read from them.

use std::path::{Path, PathBuf};

use super::command::Command;
use super::uv::UvFiles;
use crate::environment::Environment;

/// What the files of one tool name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    pub bundle: Option<PathBuf>,
    pub proxy: Option<String>,
    pub no_proxy: Option<String>,
    /// Links that have their say beside an index.
    pub links: bool,
    /// Requirements files that count for every call.
    pub requirements: Vec<String>,
}

/// A file that a tool gets in the place of its own, and what that one says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    pub path: Option<PathBuf>,
    pub text: String,
}

/// What is said by all of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Files {
    pub pip: Named,
    pub npm: Named,
    pub yarn: Named,
    pub wget: Named,
    pub cargo: Named,
    pub curl: Option<(PathBuf, usize)>,
    /// pipenv puts what stands in a project's `.env` in the place of its own variables.
    pub pipenv: Option<(PathBuf, usize)>,
    pub wgetrc: Own,
    pub uv: UvFiles,
}

impl Files {
    /// Reads them by a function that gives a file's text, or nothing where there is no such file.
    pub fn read(
        environment: &Environment,
        command: &Command,
        directory: &Path,
        text: impl Fn(&Path) -> Option<String>,
    ) -> Self {
        let mut files = Self { uv: UvFiles::read(environment, command, directory, &text), ..Self::default() };
        for file in pip_files(environment, command).iter().filter_map(|path| text(path)) {
            files.pip.read(&file, &PIP, &["global", "install", "download", "wheel", "lock"]);
        }
        for file in npm_files(environment, directory, &text).iter().filter_map(|path| text(path)) {
            files.npm.read(&file, &NPM, &[""]);
        }
        // What is nearer wins, and is read last.
        let home = environment.path("HOME");
        let above: Vec<&Path> = home
            .as_deref()
            .into_iter()
            .chain(directory.ancestors().collect::<Vec<_>>().into_iter().rev())
            .collect();
        for file in above.iter().filter_map(|directory| text(&directory.join(".yarnrc.yml"))) {
            files.yarn.read(&file, &YARN, &[""]);
        }
        for directory in above {
            for name in ["config", "config.toml"] {
                if let Some(file) = text(&directory.join(".cargo").join(name)) {
                    files.cargo.read(&file, &CARGO, &["http"]);
                }
            }
        }
        let own = environment.path("WGETRC").or_else(|| home.as_ref().map(|home| home.join(".wgetrc")));
        for path in [Some(PathBuf::from("/etc/wgetrc")), own.clone()].into_iter().flatten() {
            files.wget.read(&text(&path).unwrap_or_default(), &WGET, &[""]);
        }
        for named in [&mut files.pip, &mut files.npm, &mut files.wget] {
            named.bundle = named.bundle.take().map(|path| environment.below_home(path));
        }
        files.wgetrc.text = own.as_ref().and_then(|path| text(path)).unwrap_or_default();
        files.wgetrc.path = own;
        files.curl = curl_files(environment).into_iter().find_map(|path| {
            let line = text(&path)?.lines().position(leads_curl_past)? + 1;
            Some((path, line))
        });
        let env = environment.path("PIPENV_DOTENV_LOCATION");
        let project = directory.ancestors().find(|above| text(&above.join("Pipfile")).is_some());
        let env = env.unwrap_or_else(|| project.unwrap_or(directory).join(".env"));
        if environment.get("PIPENV_DONT_LOAD_ENV").is_none()
            && let Some(line) = text(&env).and_then(|text| text.lines().position(leads_pipenv_past))
        {
            files.pipenv = Some((env, line + 1));
        }
        files
    }
}

/// What a tool calls the settings: bundle, proxies of which the last wins, hosts that need none, links, and lists of
/// requirements files.
struct Keys {
    bundle: &'static str,
    proxies: &'static [&'static str],
    no_proxy: &'static str,
    links: &'static str,
    requirements: &'static [&'static str],
}

impl Named {
    /// Takes in a file: what it says wins over those that were read before. What stands before any section is in the
    /// section with no name.
    fn read(&mut self, text: &str, keys: &Keys, sections: &[&str]) {
        let mut concerns = sections.contains(&"");
        let (mut rank, mut current) = (0, String::new());
        for line in text.lines() {
            let line = line.trim_end();
            if let Some(section) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                concerns = sections.contains(&section);
                continue;
            }
            if !concerns || line.starts_with(['#', ';']) {
                continue;
            }
            // A line that begins with a blank goes on with the value before it. Only lists have several lines.
            if line.starts_with([' ', '\t']) {
                if keys.requirements.contains(&current.as_str()) {
                    self.requirements.extend(line.split_whitespace().map(str::to_owned));
                }
                continue;
            }
            let Some((name, value)) = line.split_once(['=', ':']) else { continue };
            let value = value.trim().trim_matches(['"', '\'']);
            current = name.trim().to_ascii_lowercase();
            // npm puts variables in, and means nothing by `null`.
            if value.is_empty() || value == "null" || value.contains("${") {
                continue;
            }
            if current == keys.bundle {
                self.bundle = Some(value.into());
            } else if let Some(own) = keys.proxies.iter().position(|name| *name == current) {
                // Of two names in one file the stronger one counts, whatever their order.
                if own + 1 >= rank {
                    self.proxy = Some(value.to_owned());
                    rank = own + 1;
                }
            } else if current == keys.no_proxy {
                self.no_proxy = Some(value.to_owned());
            } else if current == keys.links {
                self.links = true;
            } else if keys.requirements.contains(&current.as_str()) {
                self.requirements.extend(value.split_whitespace().map(str::to_owned));
            }
        }
    }
}

/// The files that pip reads, those that win last. One lies in the virtual environment, be it entered or not.
fn pip_files(environment: &Environment, command: &Command) -> Vec<PathBuf> {
    let named = environment.path("PIP_CONFIG_FILE");
    if named.as_ref().is_some_and(|path| path.as_os_str() == "/dev/null") {
        return Vec::new();
    }
    let home = environment.path("HOME");
    let below = |base: Option<PathBuf>, name: &str| base.map(|base| base.join(name));
    let config = environment.path("XDG_CONFIG_HOME").or_else(|| below(home.clone(), ".config"));
    let listed = environment.text("XDG_CONFIG_DIRS").unwrap_or("/etc/xdg").split(':').map(PathBuf::from);
    let global = listed.map(|base| base.join("pip/pip.conf")).chain(["/etc/pip.conf".into()]);
    let own = [below(home, ".pip/pip.conf"), below(config, "pip/pip.conf")];
    let programs =
        ["pip", "pip3", "python", "python3"].into_iter().filter_map(|it| environment.find_program(it));
    let prefixes =
        programs.chain(command.programs()).filter_map(|it| Some(it.parent()?.parent()?.join("pip.conf")));
    let entered = below(environment.path("VIRTUAL_ENV"), "pip.conf");
    global.chain(own.into_iter().flatten()).chain(prefixes).chain(entered).chain(named).collect()
}

/// The files that npm reads: beside the node that runs it, the user's, and the project's.
fn npm_files(
    environment: &Environment,
    directory: &Path,
    text: &impl Fn(&Path) -> Option<String>,
) -> Vec<PathBuf> {
    let prefix =
        environment.find_program("node").and_then(|node| Some(node.parent()?.parent()?.join("etc/npmrc")));
    let home = environment.path("HOME").map(|home| home.join(".npmrc"));
    let of_user =
        environment.path("NPM_CONFIG_USERCONFIG").or_else(|| environment.path("npm_config_userconfig"));
    let project = directory.ancestors().find(|above| text(&above.join("package.json")).is_some());
    let project = project.unwrap_or(directory).join(".npmrc");
    [Some("/etc/npmrc".into()), prefix, of_user.or(home), Some(project)].into_iter().flatten().collect()
}

/// Where curl looks, the first that is there.
fn curl_files(environment: &Environment) -> Vec<PathBuf> {
    let directories =
        ["CURL_HOME", "XDG_CONFIG_HOME", "HOME"].into_iter().filter_map(|name| environment.path(name));
    directories.flat_map(|base| [base.join(".curlrc"), base.join("curlrc")]).collect()
}

/// A proxy or certificates that win over the variables. curl has no variable that wins over its file.
fn leads_curl_past(line: &str) -> bool {
    let line = line.trim_start().trim_start_matches('-');
    let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    let value = line[name.len()..].trim_start_matches([' ', '\t', '=', ':']).trim();
    let names = [
        "proxy",
        "noproxy",
        "cacert",
        "capath",
        "socks5",
        "socks5-hostname",
        "socks4",
        "socks4a",
        "preproxy",
    ];
    !value.is_empty() && (names.contains(&name.as_str()) || name == "x")
}

fn leads_pipenv_past(line: &str) -> bool {
    let line = line.trim_start();
    let name = line.strip_prefix("export ").unwrap_or(line).split('=').next().unwrap_or_default().trim();
    let names = ["PIP_PROXY", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"];
    line.contains('=')
        && (names.contains(&name)
            || ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"].contains(&name.to_ascii_uppercase().as_str()))
}

const PIP: Keys = Keys {
    bundle: "cert",
    proxies: &["proxy"],
    no_proxy: "",
    links: "find-links",
    requirements: &["requirement", "constraint", "build-constraint"],
};
const NPM: Keys = Keys {
    bundle: "cafile",
    proxies: &["proxy", "https-proxy"],
    no_proxy: "noproxy",
    links: "",
    requirements: &[],
};
const YARN: Keys =
    Keys { bundle: "httpscafilepath", proxies: &["httpsproxy"], no_proxy: "", links: "", requirements: &[] };
const CARGO: Keys =
    Keys { bundle: "cainfo", proxies: &["proxy"], no_proxy: "", links: "", requirements: &[] };
const WGET: Keys = Keys {
    bundle: "ca_certificate",
    proxies: &["https_proxy"],
    no_proxy: "no_proxy",
    links: "",
    requirements: &[],
};

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pairs: &[(&str, &str)], texts: &[(&str, &str)]) -> Files {
        let environment: Environment = pairs.iter().copied().collect();
        Files::read(&environment, &Command::default(), Path::new("/srv/app"), |path| {
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
        assert_eq!(read.pip.proxy.as_deref(), Some("http://p.test:3128"));
        assert_eq!(files(&[("PIP_CONFIG_FILE", "/f")], &texts).pip.bundle, Some("/f.pem".into()));
        assert_eq!(
            files(&[("HOME", "/h"), ("PIP_CONFIG_FILE", "/dev/null")], &texts),
            Files {
                wgetrc: Own { path: Some("/h/.wgetrc".into()), text: String::new() },
                ..Files::default()
            }
        );
    }

    #[test]
    fn a_bundle_may_lie_below_the_home() {
        let texts = [
            ("/h/.config/pip/pip.conf", "[global]\ncert = ~/corp.pem\n"),
            ("/h/.npmrc", "cafile=~/corp.pem\n"),
            ("/h/.wgetrc", "ca_certificate = ~/corp.pem\n"),
        ];
        let read = files(&[("HOME", "/h")], &texts);
        for named in [read.pip, read.npm, read.wget] {
            assert_eq!(named.bundle, Some("/h/corp.pem".into()));
        }
    }

    #[test]
    fn what_pips_files_take_in_is_known() {
        let text = "[global]\nfind-links =\n  /a\n[install]\nconstraint = a.txt\n  b.txt\nfind-links = x\n";
        let read = files(&[("PIP_CONFIG_FILE", "/f")], &[("/f", text)]);
        assert!(read.pip.links);
        assert_eq!(read.pip.requirements, ["a.txt", "b.txt"]);
    }

    #[test]
    fn npms_files_have_no_sections_and_count_for_npm_alone() {
        let text = "cafile=\"/corp.pem\"\nhttps-proxy = http://p.test\nproxy=http://old.test\nnoproxy = x.test\n//x.test/:_authToken=t\n";
        let read = files(&[("HOME", "/h")], &[("/h/.npmrc", text), ("/etc/npmrc", "cafile=/system.pem\n")]);
        assert_eq!(read.npm.bundle, Some("/corp.pem".into()));
        assert_eq!(read.npm.proxy.as_deref(), Some("http://p.test"));
        assert_eq!(read.npm.no_proxy.as_deref(), Some("x.test"));
        assert_eq!((read.pip, read.wget, read.yarn), Default::default());
        let read = files(&[("HOME", "/h")], &[("/h/.npmrc", "cafile=${CA}\nproxy=null\n")]);
        assert_eq!(read.npm, Named::default());
        let project = [
            ("/srv/package.json", "{}"),
            ("/srv/.npmrc", "proxy=http://p.test"),
            ("/srv/app/.npmrc", "proxy=http://q.test"),
        ];
        assert_eq!(files(&[], &project).npm.proxy.as_deref(), Some("http://p.test"));
    }

    #[test]
    fn what_pipenv_takes_for_variables_is_known() {
        let env = "# HTTPS_PROXY=x\nA=HTTPS_PROXY=x\nexport https_proxy = http://u:p@x.test\n";
        let texts = [("/srv/Pipfile", ""), ("/srv/.env", env), ("/srv/app/.env", "PIP_CERT=/x.pem")];
        assert_eq!(files(&[], &texts).pipenv, Some(("/srv/.env".into(), 3)));
        assert_eq!(files(&[], &texts[1..]).pipenv, Some(("/srv/app/.env".into(), 1)));
        assert_eq!(files(&[("PIPENV_DONT_LOAD_ENV", "1")], &texts).pipenv, None);
        assert_eq!(files(&[], &[("/srv/app/.env", "HTTP_PROXY=x\nB")]).pipenv, None);
    }

    #[test]
    fn the_files_of_other_tools_are_read_as_they_are_written() {
        let texts = [
            ("/h/.yarnrc.yml", "httpsProxy: \"http://old.test\"\n"),
            (
                "/srv/.yarnrc.yml",
                "nodeLinker: node-modules\nhttpsProxy: \"http://y.test:1\"\nhttpsCaFilePath: /y.pem\n",
            ),
            ("/h/.wgetrc", "# x\nhttps_proxy = http://w.test:2\nca_certificate=/w.pem\nno_proxy = a.test\n"),
            ("/h/.cargo/config.toml", "[build]\njobs = 1\n[http]\nproxy = \"http://c.test\"\n"),
            ("/h/.curlrc", "# proxy\nsilent\n--proxy \"http://u:p@x.test\"\n"),
        ];
        let read = files(&[("HOME", "/h")], &texts);
        assert_eq!(read.yarn.proxy.as_deref(), Some("http://y.test:1"));
        assert_eq!(read.yarn.bundle, Some("/y.pem".into()));
        assert_eq!(read.wget.proxy.as_deref(), Some("http://w.test:2"));
        assert_eq!(
            (read.wget.bundle, read.wget.no_proxy.as_deref()),
            (Some("/w.pem".into()), Some("a.test"))
        );
        assert_eq!(read.cargo.proxy.as_deref(), Some("http://c.test"));
        assert_eq!(read.curl, Some(("/h/.curlrc".into(), 3)));
        for line in ["proxy=x", "x = y", "cacert /x", "-x y", "noproxy: *"] {
            assert!(leads_curl_past(line), "{line}");
        }
        for line in ["# proxy=x", "proxy", "proxy-header = x", "silent", ""] {
            assert!(!leads_curl_past(line), "{line}");
        }
    }
}
