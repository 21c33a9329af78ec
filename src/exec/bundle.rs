//! Bundles of certificates: what is in force, with the run's authority behind it, as files in the run's own directory.
//!
//! Certificates are no secret, and whoever is served has to read them; who comes by is the directory's business. But a
//! file of certificates may hold a key as well, and that is never copied.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::environment::Environment;
use crate::error::shown::shown_path;
use crate::error::{Failure, Kind};
use crate::paths::open_regular;
use crate::wiring::Wiring;
use crate::wiring::trust::{Base, Trust};

/// Writes a bundle for each base and says which variable names which. A base that cannot be read is told of, and its
/// variable left as it is: the tool that reads it fails as it would without us.
///
/// # Errors
/// When the directory does not take a file.
pub fn write(
    directory: &Path,
    authority: &str,
    wanted: &[Trust],
    environment: &Environment,
) -> Result<Wiring, Failure> {
    let mut wiring = Wiring::default();
    let mut written: BTreeMap<&Base, Option<PathBuf>> = BTreeMap::new();
    for trust in wanted {
        if !written.contains_key(&trust.base) {
            let path = match contents(&trust.base, environment) {
                Ok(text) => {
                    let mut text = without_keys(text);
                    if !text.is_empty() && !text.ends_with(b"\n") {
                        text.push(b'\n');
                    }
                    text.extend_from_slice(authority.as_bytes());
                    let path = directory.join(format!("ca-{}.pem", written.len()));
                    write_file(&path, &text)?;
                    Some(path)
                }
                Err(problem) => {
                    wiring.notes.push(format!("{} stays as it is: {problem}", trust.variable));
                    None
                }
            };
            written.insert(&trust.base, path);
        }
        if let Some(Some(path)) = written.get(&trust.base) {
            wiring.set(trust.variable, path);
        }
    }
    Ok(wiring)
}

fn contents(base: &Base, environment: &Environment) -> Result<Vec<u8>, String> {
    let read = |path: &Path| {
        let bytes = if path.is_dir() { read_directory(path) } else { read_file(path) };
        bytes.map_err(|error| format!("cannot read {}: {error}", shown_path(path)))
    };
    match base {
        Base::Nothing => Ok(Vec::new()),
        Base::Named(path) => read(path),
        Base::System => match system(environment) {
            Some(path) => read(&path),
            None => Err("this system has no certificates of authorities; install ca-certificates".to_owned()),
        },
    }
}

/// Where this system keeps what it trusts. In an image without any, what Python's package installer brings along.
fn system(environment: &Environment) -> Option<PathBuf> {
    SYSTEM.iter().map(PathBuf::from).find(|path| path.is_file()).or_else(|| {
        let pythons = environment.search_path().map(|directory| directory.join("python3"));
        let prefixes =
            pythons.filter_map(|python| Some(python.canonicalize().ok()?.parent()?.parent()?.to_owned()));
        prefixes.flat_map(|prefix| certifi_below(&prefix)).next()
    })
}

fn certifi_below(prefix: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(prefix.join("lib")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("python3") {
            for packages in ["site-packages", "dist-packages"] {
                for below in ["certifi", "pip/_vendor/certifi"] {
                    found.push(entry.path().join(packages).join(below).join("cacert.pem"));
                }
            }
        }
    }
    found.retain(|path| path.is_file());
    found
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path, false)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST { Err(io::Error::other("it is too large")) } else { Ok(bytes) }
}

/// A directory as OpenSSL has them: a file for each certificate, and links to the same under other names.
fn read_directory(path: &Path) -> io::Result<Vec<u8>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(path)?.flatten().take(MOST_FILES) {
        if let Ok(file) = entry.path().canonicalize() {
            files.insert(file);
        }
    }
    let mut all = Vec::new();
    for file in files {
        if let Ok(bytes) = read_file(&file)
            && bytes.windows(BEGIN.len()).any(|window| window == BEGIN)
            && (all.len() + bytes.len()) as u64 <= LARGEST
        {
            all.extend_from_slice(&bytes);
            all.push(b'\n');
        }
    }
    if all.is_empty() { Err(io::Error::other("there is no certificate in it")) } else { Ok(all) }
}

/// Leaves out every block that is somebody's key, to its end, or to the end of all where that is missing.
fn without_keys(bytes: Vec<u8>) -> Vec<u8> {
    if !bytes.windows(KEY.len()).any(|window| window == KEY) {
        return bytes;
    }
    let is = |line: &[u8], mark: &[u8]| {
        let line = line.trim_ascii();
        line.starts_with(mark) && line.windows(KEY.len()).any(|window| window == KEY)
    };
    let (mut kept, mut in_key) = (Vec::with_capacity(bytes.len()), false);
    for line in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        in_key |= is(line, BEGIN);
        if !in_key {
            kept.extend_from_slice(line);
        }
        in_key &= !is(line, END);
    }
    kept
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(bytes)?;
        // Whatever the umask says.
        file.set_permissions(Permissions::from_mode(0o644))
    });
    written.map_err(|error| {
        Failure::new(Kind::Local, format!("cannot write {}", shown_path(path))).with_cause(error)
    })
}

/// Debian and Alpine, Fedora, SUSE, the BSDs and macOS.
const SYSTEM: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const KEY: &[u8] = b"PRIVATE KEY-----";
/// The system's own is a quarter of a megabyte.
const LARGEST: u64 = 8 << 20;
const MOST_FILES: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----\n";

    fn trust(variable: &'static str, base: &Path) -> Trust {
        Trust { variable, base: Base::Named(base.to_owned()) }
    }

    #[test]
    fn a_bundle_is_what_was_in_force_and_ours() {
        let top = tempfile::tempdir().unwrap();
        let corp = top.path().join("corp.pem");
        fs::write(&corp, "-----BEGIN CERTIFICATE-----\ncorp").unwrap();
        let folder = top.path().join("folder");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("one.pem"), "-----BEGIN CERTIFICATE-----\none").unwrap();
        fs::write(folder.join("README"), "no certificate").unwrap();
        std::os::unix::fs::symlink("one.pem", folder.join("0a1b2c3d.0")).unwrap();
        let wanted = [
            trust("SSL_CERT_FILE", &corp),
            trust("PIP_CERT", &corp),
            trust("REQUESTS_CA_BUNDLE", &folder),
            trust("CURL_CA_BUNDLE", &top.path().join("missing.pem")),
            Trust { variable: "NODE_EXTRA_CA_CERTS", base: Base::Nothing },
        ];
        let out = top.path().join("out");
        fs::create_dir(&out).unwrap();
        let wiring = write(&out, OURS, &wanted, &Environment::default()).unwrap();
        let text = |variable| fs::read_to_string(wiring.value(variable).unwrap()).unwrap();
        assert_eq!(text("SSL_CERT_FILE"), format!("-----BEGIN CERTIFICATE-----\ncorp\n{OURS}"));
        assert_eq!(wiring.value("PIP_CERT"), wiring.value("SSL_CERT_FILE"));
        assert_eq!(text("REQUESTS_CA_BUNDLE"), format!("-----BEGIN CERTIFICATE-----\none\n{OURS}"));
        assert_eq!(text("NODE_EXTRA_CA_CERTS"), OURS);
        assert_eq!(wiring.value("CURL_CA_BUNDLE"), None);
        assert!(
            wiring.notes[0].starts_with("CURL_CA_BUNDLE stays as it is: cannot read"),
            "{:?}",
            wiring.notes
        );
    }

    #[test]
    fn a_key_beside_the_certificates_is_not_copied() {
        let block = |label: &str| format!("-----BEGIN {label}-----\nc2VjcmV0\n-----END {label}-----\n");
        let (certificate, list) = (block("CERTIFICATE"), block("X509 CRL"));
        for key in [
            "PRIVATE KEY",
            "RSA PRIVATE KEY",
            "EC PRIVATE KEY",
            "ENCRYPTED PRIVATE KEY",
            "OPENSSH PRIVATE KEY",
        ] {
            for ends in ["\n", "\r\n", "\r"] {
                let text = format!("# mine\n{certificate}{}{list}", block(key)).replace('\n', ends);
                let wanted = format!("# mine\n{certificate}{list}").replace('\n', ends);
                let kept = String::from_utf8(without_keys(text.into_bytes())).unwrap();
                // The line feed behind a key's last line may stay.
                assert_eq!(
                    kept.replace(['\r', '\n'], ""),
                    wanted.replace(['\r', '\n'], ""),
                    "{key} {ends:?}"
                );
            }
            let cut = format!("{certificate}-----BEGIN {key}-----\nc2VjcmV0\n{certificate}");
            assert_eq!(without_keys(cut.into_bytes()), certificate.as_bytes(), "a key without an end");
        }
        let plain = format!("{certificate}{list}");
        assert_eq!(without_keys(plain.clone().into_bytes()), plain.as_bytes());
    }

    #[test]
    fn the_bundle_that_pip_brings_along_is_found() {
        let top = tempfile::tempdir().unwrap();
        let below = top.path().join("lib/python3.12/site-packages/pip/_vendor/certifi");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("cacert.pem"), "x").unwrap();
        assert_eq!(certifi_below(top.path()), [below.join("cacert.pem")]);
    }
}
