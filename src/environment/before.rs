//! What `valetkey exec` has changed in the environment of its command, written down so that valetkey itself can undo it.
//!
//! A run's proxy and certificates are the command's business, and end with it. A daemon that is started in there lives
//! longer, and its requests would come back to itself as long as the run lives; so does a shell that was left open. The
//! run leaves a record of what was there before, as a variable and, for programs that pass variables on by a list, as a
//! file beside its certificates. Every other run of this program reads it first of all and goes on as it would outside.
//!
//! The record is no more than the environment itself is: the same user writes both. It brings a value back only in the
//! place of the very value that the run had set, and it speaks of no variable that says who somebody is, which library
//! is loaded or where valetkey looks for its own. What is no record changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::secret::Fingerprint;

pub(super) type Variables = BTreeMap<OsString, OsString>;
/// New values; nothing where a variable goes.
pub(super) type Changes = BTreeMap<OsString, Option<OsString>>;

/// The record of how `after` came of `before`: entries `NAME=NOW:THEN` with a fingerprint of what was set and, behind
/// the colon, what was there, if anything was; `NAME=-:THEN` for what was taken out; `PATH=+DIRECTORY` for each
/// directory that came onto the path, because people go on changing that one.
pub(super) fn write(before: &Variables, after: &Variables) -> OsString {
    let names: BTreeSet<&OsString> = before.keys().chain(after.keys()).collect();
    let mut entries = vec![VERSION.to_owned()];
    for name in names.into_iter().filter(|name| may_change(name)) {
        let (then, now) = (before.get(name), after.get(name));
        if then == now {
            continue;
        }
        let shown = escaped(name);
        if name == PATH {
            let old: Vec<PathBuf> =
                then.map(|then| std::env::split_paths(then).collect()).unwrap_or_default();
            let new = now.map(|now| std::env::split_paths(now).collect::<Vec<_>>()).unwrap_or_default();
            let added = new.iter().filter(|directory| !old.contains(directory));
            entries.extend(added.map(|directory| format!("{shown}=+{}", escaped(directory.as_os_str()))));
            continue;
        }
        let now = now.map_or("-".to_owned(), |now| Fingerprint::of(now.as_bytes()).to_string());
        let then = then.filter(|then| then.len() <= LONGEST_VALUE).map(|then| format!(":{}", escaped(then)));
        entries.push(format!("{shown}={now}{}", then.unwrap_or_default()));
    }
    let mut text = String::new();
    // The system takes no longer variable.
    for entry in entries {
        if text.len() + entry.len() < LONGEST_RECORD {
            text.push_str(if text.is_empty() { "" } else { ";" });
            text.push_str(&entry);
        }
    }
    text.into()
}

/// What has to change so that everything is as it was before the run, or nothing where there was none.
pub(super) fn undo(variables: &Variables) -> Changes {
    let carried = variables.get(OsStr::new(RECORD));
    let mut changes = match carried.map(|record| Place::Living(record.clone())).or_else(|| place(variables)) {
        Some(Place::Living(record)) => read(&record, variables),
        Some(Place::Dead) => forget(variables),
        None => return Changes::new(),
    };
    if carried.is_some() {
        changes.insert(RECORD.into(), None);
    }
    changes
}

fn read(record: &OsStr, variables: &Variables) -> Changes {
    let mut changes = Changes::new();
    let mut entries = record.as_bytes().split(|byte| *byte == b';');
    if entries.next() != Some(VERSION.as_bytes()) {
        return changes;
    }
    for entry in entries {
        let Some(at) = entry.iter().position(|byte| *byte == b'=') else { continue };
        let (Some(name), said) = (plain(&entry[..at]), &entry[at + 1..]) else { continue };
        if !may_change(&name) {
            continue;
        }
        let now = variables.get(&name);
        if name == PATH {
            if let ([b'+', directory @ ..], Some(now)) = (said, now)
                && let Some(directory) = plain(directory)
            {
                // Several may be named, one after the other.
                let now = changes.remove(&name).flatten().unwrap_or_else(|| now.clone());
                changes.insert(name, Some(without(&now, Path::new(&directory))));
            }
            continue;
        }
        let mut parts = said.splitn(2, |byte| *byte == b':');
        let (set, then) = (parts.next().unwrap_or_default(), parts.next());
        let is_as_set = match now {
            None => set == b"-",
            Some(now) => set == Fingerprint::of(now.as_bytes()).to_string().as_bytes(),
        };
        let then = then.map(plain);
        // Whoever has set something else since then wants that.
        if is_as_set && !matches!(then, Some(None)) {
            changes.insert(name, then.flatten());
        }
    }
    changes
}

/// The directory of a run, by the certificates that are named.
enum Place {
    Living(OsString),
    /// Gone; whoever makes one of that name now is somebody else.
    Dead,
}

fn place(variables: &Variables) -> Option<Place> {
    let mut bundles = CERTIFICATES.iter().filter_map(|name| variables.get(OsStr::new(name)));
    let directory = bundles.find_map(|bundle| run_directory(Path::new(bundle)))?;
    let own = directory.symlink_metadata().ok().filter(|data| {
        let owner = data.uid();
        data.is_dir()
            && (owner == rustix::process::geteuid().as_raw() || owner == 0)
            && data.mode() & 0o022 == 0
    });
    if own.is_none() {
        return Some(Place::Dead);
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(directory.join(FILE)).ok()?;
    let mut record = Vec::new();
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    file.take(LONGEST_RECORD as u64).read_to_end(&mut record).ok()?;
    Some(Place::Living(OsString::from_vec(record)))
}

/// `/dev/shm/valetkey-XXXXXX` of `/dev/shm/valetkey-XXXXXX/ca-0.pem`, and the same in the other places that every system
/// has: others may lie on file systems that do not answer.
fn run_directory(bundle: &Path) -> Option<&Path> {
    let number = bundle.file_name()?.to_str()?.strip_prefix("ca-")?.strip_suffix(".pem")?;
    number.parse::<u8>().ok()?;
    let directory = bundle.parent()?;
    let is_run = directory.file_name()?.to_str()?.starts_with("valetkey-");
    (is_run && is_place(directory.parent()?)).then_some(directory)
}

/// Whether the directories of runs lie there: a place that every system has, a user's runtime directory, or what a user has
/// for all of his runs in a place that is everybody's.
fn is_place(path: &Path) -> bool {
    let is_fixed = |path: &Path| PLACES.map(Path::new).contains(&path);
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    match path.parent() {
        _ if is_fixed(path) => true,
        Some(above) if name.starts_with("valetkey-of-") => is_fixed(above),
        Some(above) => is_number && above == Path::new("/run/user"),
        None => false,
    }
}

/// Without a record: what leads to a run that is over is of use to nobody.
fn forget(variables: &Variables) -> Changes {
    let is_over = |name: &OsStr, value: &OsStr| {
        let proxy = value.to_str().and_then(|value| value.strip_prefix("http://127.0.0.1:"));
        let is_port = proxy.is_some_and(|port| port.parse::<u16>().is_ok());
        run_directory(Path::new(value)).is_some() || (is_port && PROXIES.map(OsStr::new).contains(&name))
    };
    let over = variables.iter().filter(|(name, value)| may_change(name) && is_over(name, value));
    over.map(|(name, _)| (name.clone(), None)).collect()
}

fn without(path: &OsStr, directory: &Path) -> OsString {
    let left = std::env::split_paths(path).filter(|entry| entry != directory);
    std::env::join_paths(left).unwrap_or_else(|_| path.to_owned())
}

/// Whether it is a variable that leads or wires. A run changes no other, and a record that speaks of another is none. What
/// names an index is the command's alone, and may hold a password that the run has taken from it.
fn may_change(name: &OsStr) -> bool {
    let Some(text) = name.to_str() else { return false };
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name
        && !OTHERS.contains(&text)
        && !FAMILIES.iter().any(|family| text.starts_with(family))
        && !INDEXES.iter().any(|word| text.contains(word))
}

/// As one word of ASCII, without what separates entries.
fn escaped(text: &OsStr) -> String {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"%;".contains(&byte);
    let one =
        |byte: &u8| if is_plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02x}") };
    text.as_bytes().iter().map(one).collect()
}

fn plain(text: &[u8]) -> Option<OsString> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(behind.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|byte| *byte != 0)?);
        rest = &behind[2..];
    }
    Some(OsString::from_vec(bytes))
}

/// The variable.
pub const RECORD: &str = "VALETKEY_BEFORE_EXEC";
/// The file in the directory of a run.
pub const FILE: &str = "before";
const VERSION: &str = "1";
const PATH: &str = "PATH";
const CERTIFICATES: [&str; 4] = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE"];
const PROXIES: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const PLACES: [&str; 3] = ["/dev/shm", "/run", "/tmp"];
const OTHERS: [&str; 8] = ["HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "IFS", "ENV", "BASH_ENV"];
const FAMILIES: [&str; 11] = [
    "VALETKEY_",
    "GOOGLE_",
    "CLOUDSDK_",
    "GCE_",
    "LD_",
    "DYLD_",
    "XDG_",
    "SSH_",
    "DBUS_",
    "LISTEN_",
    "NOTIFY_",
];
const INDEXES: [&str; 2] = ["INDEX", "FIND_LINKS"];
const LONGEST_VALUE: usize = 32 << 10;
const LONGEST_RECORD: usize = 96 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn restored(mut now: Variables, record: &OsStr) -> Variables {
        now.insert(RECORD.into(), record.to_owned());
        for (name, value) in undo(&now) {
            match value {
                Some(value) => now.insert(name, value),
                None => now.remove(&name),
            };
        }
        now
    }

    #[test]
    fn everything_is_as_it_was_but_for_what_was_changed_since() {
        let before = variables(&[
            ("HTTPS_PROXY", "http://u:p;%=@corp.test:3128"),
            ("http_proxy", "http://corp.test"),
            ("PATH", "/usr/bin:/bin"),
            ("HOME", "/root"),
        ]);
        let after = variables(&[
            ("HTTPS_PROXY", "http://127.0.0.1:18417"),
            ("SSL_CERT_FILE", "/dev/shm/valetkey-x/ca-0.pem"),
            ("PIP_CERT", "/dev/shm/valetkey-x/ca-0.pem"),
            ("PATH", "/dev/shm/valetkey-x/bin:/usr/bin:/bin"),
            ("HOME", "/root"),
        ]);
        let record = write(&before, &after);
        assert_eq!(restored(after.clone(), &record), before);
        let mut changed = after.clone();
        changed.insert("PATH".into(), "/venv/bin:/dev/shm/valetkey-x/bin:/usr/bin:/bin".into());
        changed.insert("PIP_CERT".into(), "/own.pem".into());
        changed.insert("http_proxy".into(), "http://other.test".into());
        let mut wanted = before.clone();
        wanted.insert("PATH".into(), "/venv/bin:/usr/bin:/bin".into());
        wanted.insert("PIP_CERT".into(), "/own.pem".into());
        wanted.insert("http_proxy".into(), "http://other.test".into());
        assert_eq!(restored(changed, &record), wanted);
    }

    #[test]
    fn a_record_speaks_of_wiring_only() {
        let now = variables(&[("HOME", "/root"), ("HTTPS_PROXY", "x")]);
        let of = |value: &str| Fingerprint::of(value.as_bytes());
        let text = format!(
            "1;HOME={};LD_PRELOAD=-:/evil.so;VALETKEY_CREDENTIAL=-:/evil.json;XDG_RUNTIME_DIR=-:/evil;A%3dB=-:x;HTTPS_PROXY={}:%zz",
            of("/root"),
            of("x")
        );
        assert_eq!(restored(now.clone(), OsStr::new(&text)), now);
        for text in ["", "2;HTTPS_PROXY=-:x", "{}", "1;;=;HTTPS_PROXY", "1;PATH=+/bin"] {
            assert_eq!(restored(now.clone(), OsStr::new(text)), now, "{text}");
        }
    }

    #[test]
    fn an_index_that_was_taken_from_the_command_is_in_no_record() {
        let before =
            variables(&[("PIP_INDEX_URL", "https://me:hunter2@private.test/"), ("UV_INDEX", "a=hunter2")]);
        let after = variables(&[("PIP_INDEX_URL", "http://127.0.0.1:1/"), ("PIP_FIND_LINKS", "/empty")]);
        assert_eq!(write(&before, &after), VERSION);
    }

    #[test]
    fn what_a_run_that_is_over_left_leads_nowhere() {
        let now = variables(&[
            ("SSL_CERT_FILE", "/dev/shm/valetkey-that-is-nowhere/ca-0.pem"),
            ("CARGO_HTTP_CAINFO", "/dev/shm/valetkey-that-is-nowhere/ca-1.pem"),
            ("HTTPS_PROXY", "http://127.0.0.1:18417"),
            ("https_proxy", "http://corp.test:3128"),
            ("PIP_CERT", "/etc/valetkey-own/ca-0.pem"),
        ]);
        let left: Vec<OsString> = undo(&now).into_keys().collect();
        assert_eq!(left, ["CARGO_HTTP_CAINFO", "HTTPS_PROXY", "SSL_CERT_FILE"]);
        let own = variables(&[("SSL_CERT_FILE", "/own.pem"), ("HTTPS_PROXY", "http://127.0.0.1:3128")]);
        assert!(undo(&own).is_empty());
    }

    proptest! {
        #[test]
        fn any_value_comes_back(then in prop::option::of(any::<Vec<u8>>()), now in prop::option::of(any::<Vec<u8>>())) {
            let clean = |value: Option<Vec<u8>>| value.map(|mut value| { value.retain(|byte| *byte != 0); OsString::from_vec(value) });
            let one = |value: Option<OsString>| value.map(|value| ("NO_PROXY".into(), value)).into_iter().collect::<Variables>();
            let (before, after) = (one(clean(then)), one(clean(now)));
            let record = write(&before, &after);
            prop_assert_eq!(restored(after, &record), before);
        }

        #[test]
        fn no_record_breaks_anything(record in any::<Vec<u8>>()) {
            let record = OsString::from_vec([b"1;".to_vec(), record].concat());
            let now = variables(&[("HOME", "/root"), ("PATH", "/bin")]);
            let restored = restored(now, &record);
            prop_assert_eq!(restored.get(OsStr::new("HOME")).unwrap(), "/root");
        }
    }
}
