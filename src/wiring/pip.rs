//! The two settings of pip's own configuration files that would lead it past us: `cert` and `proxy`. A variable of ours
//! wins over them, so that what they say has to be known.

use std::path::PathBuf;

use crate::environment::Environment;

/// What pip's configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PipSettings {
    pub cert: Option<PathBuf>,
    pub proxy: Option<String>,
}

impl PipSettings {
    /// Takes in a file: what it says wins over those that were read before.
    pub fn read(&mut self, text: &str) {
        let mut concerns = false;
        for line in text.lines() {
            let line = line.trim_end();
            if let Some(section) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                concerns = SECTIONS.contains(&section);
                continue;
            }
            // A line that begins with a blank goes on with the value before it; neither of ours has several lines.
            let Some((name, value)) = line.split_once(['=', ':']) else { continue };
            let value = value.trim();
            if !concerns || value.is_empty() || line.starts_with([' ', '\t', '#', ';']) {
                continue;
            }
            match name.trim().to_ascii_lowercase().as_str() {
                "cert" => self.cert = Some(value.into()),
                "proxy" => self.proxy = Some(value.to_owned()),
                _ => {}
            }
        }
    }
}

/// The files that pip reads, those that win last.
#[must_use]
pub fn configuration_files(environment: &Environment) -> Vec<PathBuf> {
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

const SECTIONS: [&str; 3] = ["global", "install", "download"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cert_and_proxy_are_read_where_pip_reads_them() {
        let mut settings = PipSettings::default();
        settings
            .read("# x\n[global]\ncert = /old.pem\nproxy: http://p.test:3128\n[list]\ncert = /wrong.pem\n");
        settings
            .read("[install]\nCERT=/new.pem\nindex-url = https://x.test/\n cert = /continued\n;cert = /c\n");
        assert_eq!(settings.cert, Some("/new.pem".into()));
        assert_eq!(settings.proxy.as_deref(), Some("http://p.test:3128"));
    }

    #[test]
    fn files_come_in_the_order_in_which_they_win() {
        let environment: Environment =
            [("HOME", "/h"), ("VIRTUAL_ENV", "/v"), ("PIP_CONFIG_FILE", "/f")].into_iter().collect();
        let files = configuration_files(&environment);
        let last: Vec<_> = files.iter().rev().take(3).map(|path| path.to_str().unwrap()).collect();
        assert_eq!(last, ["/f", "/v/pip.conf", "/h/.config/pip/pip.conf"]);
        let none: Environment = [("HOME", "/h"), ("PIP_CONFIG_FILE", "/dev/null")].into_iter().collect();
        assert!(configuration_files(&none).is_empty());
    }
}
