//! Python packages made in memory: valid wheels, so that real installers install them.
//!
//! Entries are stored, not compressed, with the fixed date of the zip format's beginning: the same input gives the
//! same bytes, and a large wheel is as large as it says.

use std::fmt::Write as _;
use std::io::{Cursor, Write as _};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::control::Control;

pub(super) struct Wheel {
    pub(super) filename: String,
    pub(super) content: Vec<u8>,
}

/// What every stand-in serves from the start, in `acme/private`.
pub(super) fn publish_samples(control: &Control) {
    let samples: [(&str, &[&str], &str); 3] = [
        ("acme-hello", &["acme-greeting"], "MESSAGE = \"hello from a private index\"\n"),
        ("acme-greeting", &[], "GREETING = \"hello\"\n"),
        ("acme-build-backend", &[], include_str!("../acme_build_backend.py")),
    ];
    for (name, requires, module) in samples {
        let wheel = wheel(name, "1.0.0", requires, module.as_bytes());
        control.add_file("acme", "private", name, &wheel.filename, wheel.content);
    }
}

/// A wheel of one module, named as the package is.
pub(super) fn wheel(name: &str, version: &str, requires: &[&str], module: &[u8]) -> Wheel {
    build(name, version, requires, &[("py", module)])
}

/// A wheel of one module with a file of `bytes` zeros beside it.
pub(super) fn large_wheel(name: &str, version: &str, bytes: usize) -> Wheel {
    let module = format!("SIZE = {bytes}\n");
    let zeros = vec![0; bytes];
    build(name, version, &[], &[("py", module.as_bytes()), ("bin", &zeros)])
}

/// The normal form of a project's name (PEP 503).
pub(super) fn normalize(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            other => normal.extend(other.to_lowercase()),
        }
    }
    normal
}

/// Lower-case hexadecimal SHA-256.
pub(super) fn sha256(content: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in digest(&SHA256, content).as_ref() {
        write!(text, "{byte:02x}").expect("a string takes any text");
    }
    text
}

/// `files` are (extension, content) of files at the top, named after the module.
fn build(name: &str, version: &str, requires: &[&str], files: &[(&str, &[u8])]) -> Wheel {
    let module = normalize(name).replace('-', "_");
    let info = format!("{module}-{version}.dist-info");
    let mut metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
    for requirement in requires {
        writeln!(metadata, "Requires-Dist: {requirement}").expect("a string takes any text");
    }
    let metadata_path = format!("{info}/METADATA");
    let wheel_path = format!("{info}/WHEEL");
    let mut entries: Vec<(String, &[u8])> =
        files.iter().map(|(extension, content)| (format!("{module}.{extension}"), *content)).collect();
    entries.push((metadata_path, metadata.as_bytes()));
    entries.push((wheel_path, WHEEL));

    let mut record = String::new();
    for (path, content) in &entries {
        let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, content));
        writeln!(record, "{path},sha256={hash},{}", content.len()).expect("a string takes any text");
    }
    let record_path = format!("{info}/RECORD");
    writeln!(record, "{record_path},,").expect("a string takes any text");
    entries.push((record_path, record.as_bytes()));

    Wheel { filename: format!("{module}-{version}-py3-none-any.whl"), content: archive(&entries) }
}

fn archive(entries: &[(String, &[u8])]) -> Vec<u8> {
    let options =
        SimpleFileOptions::default().compression_method(CompressionMethod::Stored).unix_permissions(0o644);
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, content) in entries {
        writer.start_file(path.as_str(), options).expect("a short name");
        writer.write_all(content).expect("memory takes any bytes");
    }
    writer.finish().expect("memory takes any bytes").into_inner()
}

const WHEEL: &[u8] = b"Wheel-Version: 1.0\nGenerator: stand-in\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
