//! What wget, apt and git are told in a file or a variable of theirs, because no general variable reaches them: wget and apt
//! trust no certificates that a variable names, and the settings of all three win over `https_proxy`. What a user has
//! told them stays in front of it and goes on to hold for every host that is not granted.

use std::ffi::OsString;
use std::path::Path;

use super::files::Files;
use crate::client::granted::HostPattern;
use crate::environment::Environment;

/// The file that `WGETRC` names: the user's own, and behind it what leads to us. The last of two lines counts.
#[must_use]
pub fn wgetrc(files: &Files, bundle: Option<&Path>, proxy: &str, no_proxy: &str) -> String {
    let mut text = files.wgetrc.text.clone();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    if let Some(bundle) = bundle {
        text += &format!("ca_certificate = {}\n", bundle.display());
    }
    // Lists grow from line to line, and begin anew behind an empty one.
    text + &format!("use_proxy = on\nhttps_proxy = {proxy}/\nno_proxy =\nno_proxy = {no_proxy}\n")
}

/// Whether a user's own file for wget may hold what is nobody else's business: a name, a password, a header, cookies.
#[must_use]
pub fn is_private(wgetrc: &str) -> bool {
    wgetrc.lines().map(str::trim).filter(|line| !line.starts_with('#')).any(|line| {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        let name = name.trim().to_ascii_lowercase().replace(['-', '_'], "");
        let is_told = name.contains("pass") || name.ends_with("user") || name.contains("cookie");
        is_told || name == "header" || name == "postdata" || value.contains('@')
    })
}

/// The file that `APT_CONFIG` names. apt reads it first, so that the user's own files win over it; what is said about one
/// host wins over what is said about all, wherever it stands.
#[must_use]
pub fn apt_conf(environment: &Environment, hosts: &[String], bundle: Option<&Path>, proxy: &str) -> String {
    let mut text = String::new();
    if let Some(own) = environment.path("APT_CONFIG") {
        text += &format!("#include \"{}\";\n", own.display());
    }
    for host in hosts {
        if let Some(bundle) = bundle {
            text += &format!("Acquire::https::{host}::CaInfo \"{}\";\n", bundle.display());
        }
        text += &format!("Acquire::https::Proxy::{host} \"{proxy}\";\n");
    }
    text
}

/// The hosts that apt is told of: those that are granted by name, and of those that are granted by a pattern the ones
/// that its sources name.
pub fn apt_hosts(granted: &[HostPattern], sources: impl Iterator<Item = String>) -> Vec<String> {
    let mut found: Vec<String> = granted
        .iter()
        .filter(|pattern| matches!(pattern, HostPattern::Exact { .. }))
        .map(|pattern| pattern.name().to_owned())
        .collect();
    for text in sources {
        for (at, scheme) in text.match_indices("https://") {
            let rest = &text[at + scheme.len()..];
            let end = rest.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(rest.len());
            let host = rest[..end].rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
            if granted.iter().any(|pattern| pattern.covers(&host, 443)) {
                found.push(host);
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// What `GIT_CONFIG_PARAMETERS` says: for the granted hosts alone, and stronger than any file. The words that are
/// there already stay.
#[must_use]
pub fn git_parameters(environment: &Environment, granted: &[HostPattern], proxy: &str) -> Option<OsString> {
    let own: Vec<String> =
        granted.iter().map(|host| format!("'http.https://{host}/.proxy={proxy}'")).collect();
    if own.is_empty() {
        return None;
    }
    let mut words = environment.get(GIT).map_or_else(OsString::new, |words| {
        let mut words = words.to_owned();
        words.push(" ");
        words
    });
    words.push(own.join(" "));
    Some(words)
}

/// What a person should know who runs one of these: nothing that can be set reaches them.
#[must_use]
pub fn unreached(command: &super::command::Command, port: u16) -> Vec<String> {
    let mut notes = Vec::new();
    let own = OWN_WAYS.iter().find_map(|(program, flags)| {
        let mut words = command.steps_of(program).flatten();
        words.find_map(|word| flags.iter().find(|flag| is_flag(word, flag)))
    });
    if let Some(flag) = own {
        notes.push(format!("`{flag}` in the command wins over what leads here: leave it out"));
    }
    if let Some(program) = DNF.into_iter().find(|program| command.runs(program)) {
        notes.push(format!(
            "{program} trusts the certificates of this run only where its own option names them: add \
             --setopt=sslcacert=$SSL_CERT_FILE, in a shell that valetkey exec runs"
        ));
    }
    if let Some(program) = JAVA.into_iter().find(|program| command.runs(program)) {
        notes.push(format!(
            "{program} reads neither a proxy nor certificates from variables: give Java -Dhttps.proxyHost=127.0.0.1 \
             -Dhttps.proxyPort={port}, and a trust store with the certificates of $SSL_CERT_FILE"
        ));
    }
    notes
}

/// Whether a word is this flag, with or without its value.
fn is_flag(word: &str, flag: &str) -> bool {
    let Some(rest) = word.strip_prefix(flag) else { return false };
    // Of a flag with one letter the value may stand behind it at once.
    rest.is_empty() || rest.starts_with('=') || (flag.len() == 2 && rest.contains(':'))
}

pub const GIT: &str = "GIT_CONFIG_PARAMETERS";
/// Flags that name another way, or none.
const OWN_WAYS: &[(&str, &[&str])] = &[
    ("pip", &["--proxy"]),
    (
        "curl",
        &[
            "--proxy",
            "-x",
            "--preproxy",
            "--noproxy",
            "--socks4",
            "--socks4a",
            "--socks5",
            "--socks5-hostname",
        ],
    ),
    ("wget", &["--no-proxy"]),
    ("npm", &["--https-proxy", "--proxy"]),
];
const DNF: [&str; 6] = ["dnf", "dnf5", "yum", "microdnf", "tdnf", "zypper"];
const JAVA: [&str; 6] = ["mvn", "mvnw", "gradle", "gradlew", "sbt", "java"];

#[cfg(test)]
mod tests {
    use super::super::command::Command;
    use super::*;

    fn granted(hosts: &[&str]) -> Vec<HostPattern> {
        hosts.iter().map(|host| HostPattern::try_from((*host).to_owned()).unwrap()).collect()
    }

    #[test]
    fn what_a_user_told_wget_stays_in_front() {
        let mut files = Files::default();
        files.wgetrc.text = "tries = 3\nhttps_proxy = http://u:p@x.test".to_owned();
        let text = wgetrc(&files, Some(Path::new("/shm/ca.pem")), "http://127.0.0.1:1", "a.test");
        let wanted = "tries = 3\nhttps_proxy = http://u:p@x.test\nca_certificate = /shm/ca.pem\nuse_proxy = on\n\
            https_proxy = http://127.0.0.1:1/\nno_proxy =\nno_proxy = a.test\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn what_wget_is_told_of_nobody_is_for_everybody() {
        for text in ["", "tries = 3\nuser_agent = x\n# password = x", "https_proxy = http://p.test:1"] {
            assert!(!is_private(text), "{text}");
        }
        for text in ["tries=3\n Http-Password = x", "user=me", "header = Authorization: x", "proxy_passwd=x"]
        {
            assert!(is_private(text), "{text}");
        }
        assert!(is_private("https_proxy = http://u:p@p.test:1") && is_private("load_cookies = x"));
    }

    #[test]
    fn apt_is_told_of_granted_hosts_alone() {
        let sources =
            "deb [signed-by=/x] https://eu-apt.pkg.dev/projects/p r main\ndeb https://other.test/ x y\n";
        let hosts = apt_hosts(&granted(&["*.pkg.dev", "localhost:8443"]), [sources.to_owned()].into_iter());
        assert_eq!(hosts, ["eu-apt.pkg.dev", "localhost"]);
        let environment: Environment = [("APT_CONFIG", "/own.conf")].into_iter().collect();
        let text = apt_conf(&environment, &hosts[..1], Some(Path::new("/shm/ca.pem")), "http://127.0.0.1:1");
        assert_eq!(
            text,
            "#include \"/own.conf\";\nAcquire::https::eu-apt.pkg.dev::CaInfo \"/shm/ca.pem\";\n\
             Acquire::https::Proxy::eu-apt.pkg.dev \"http://127.0.0.1:1\";\n"
        );
    }

    #[test]
    fn git_is_told_of_granted_hosts_alone() {
        let environment: Environment = [(GIT, "'a.b=c'")].into_iter().collect();
        let words =
            git_parameters(&environment, &granted(&["*.pkg.dev", "localhost:8443"]), "http://127.0.0.1:1");
        let wanted = "'a.b=c' 'http.https://*.pkg.dev/.proxy=http://127.0.0.1:1' \
            'http.https://localhost:8443/.proxy=http://127.0.0.1:1'";
        assert_eq!(words.unwrap(), wanted);
    }

    #[test]
    fn what_cannot_be_reached_is_told_and_nothing_else() {
        let notes = |words: &[&str]| unreached(&Command::new(words.iter().map(|word| (*word).to_owned())), 7);
        assert!(notes(&["sh", "-c", "dnf install -y acme"])[0].contains("sslcacert"));
        assert!(notes(&["/usr/bin/mvn", "package"])[0].contains("proxyPort=7"));
        assert_eq!(notes(&["pip", "install", "dnf"]).len(), 1);
        assert!(
            notes(&["pip", "install", "--proxy", "http://u:p@x.test", "acme"])[0].starts_with("`--proxy`")
        );
        for command in [
            &["curl", "-sS", "-x", "http://x.test"][..],
            &["curl", "-xhttp://u:p@x.test", "https://y.test"],
            &["sh", "-c", "true; curl --socks5-hostname x.test:1 https://y.test"],
            &["wget", "--no-proxy", "https://y.test"],
            &["npm", "install", "--https-proxy=http://u:p@x.test"],
        ] {
            let found = notes(command);
            assert!(found.len() == 1 && found[0].contains("leave it out"), "{command:?}: {found:?}");
            assert!(!found[0].contains("x.test"), "{found:?}");
        }
        for command in [
            &["apt-get", "update"][..],
            &["sh", "-c", "curl -X POST https://y.test | tar -x"],
            &["sh", "-c", "wget -x https://y.test; foo --proxy x"],
        ] {
            assert!(notes(command).is_empty(), "{command:?}");
        }
    }
}
