//! The archive that `docker load` reads, in the form that every engine since Docker 1.10, podman, buildah and skopeo
//! understand: a tar of one layer, the image's configuration, and a manifest that names both.

use std::io::{self, Write};

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::{IMAGE, ImageFault, Program};

/// Writes the image of a program.
///
/// # Errors
/// When the writer fails.
pub fn write(program: &Program, to: impl Write) -> Result<(), ImageFault> {
    let layer = layer(program).map_err(ImageFault::Write)?;
    let layer_digest = sha256(&layer);
    // By the short name older Dockerfiles find it.
    let names = [IMAGE, NAME].map(|name| [format!("{name}:latest"), format!("{name}:{VERSION}")]);
    let configuration = configuration(program, &layer_digest).to_string();
    let configuration_name = format!("{}.json", sha256(configuration.as_bytes()));
    let layer_name = format!("{layer_digest}/layer.tar");
    let manifest = json!([{
        "Config": configuration_name,
        "RepoTags": names.concat(),
        "Layers": [layer_name],
    }])
    .to_string();
    let mut archive = Builder::new(to);
    let entries = [
        (configuration_name.as_str(), configuration.as_bytes()),
        (layer_name.as_str(), layer.as_slice()),
        ("manifest.json", manifest.as_bytes()),
    ];
    for (name, bytes) in entries {
        append(&mut archive, name, 0o644, bytes).map_err(ImageFault::Write)?;
    }
    archive.into_inner().and_then(|mut to| to.flush()).map_err(ImageFault::Write)
}

/// By what an engine knows the program's layer, in the words of its `RootFS`: equal for equal programs.
///
/// # Errors
/// Never: it is written into memory.
pub fn layer_digest(program: &Program) -> io::Result<String> {
    layer(program).map(|layer| format!("sha256:{}", sha256(&layer)))
}

/// The whole file system of the image.
fn layer(program: &Program) -> io::Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::with_capacity(program.bytes.len() + 4096));
    append(&mut layer, NAME, 0o755, &program.bytes)?;
    // Hard links, not symbolic ones: a build that mounts one name does not see the others.
    for face in FACES {
        let mut header = header(0o755, 0);
        header.set_entry_type(EntryType::Link);
        layer.append_link(&mut header, face, NAME)?;
    }
    layer.into_inner()
}

fn configuration(program: &Program, layer_digest: &str) -> Value {
    json!({
        "architecture": program.platform().architecture(),
        "config": {
            "Entrypoint": [format!("/{NAME}")],
            "Labels": {
                "org.opencontainers.image.title": NAME,
                "org.opencontainers.image.description": env!("CARGO_PKG_DESCRIPTION"),
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                "org.opencontainers.image.version": VERSION,
            },
            "WorkingDir": "/",
        },
        "created": CREATED,
        "history": [{ "created": CREATED, "created_by": "valetkey docker image" }],
        "os": "linux",
        "rootfs": { "diff_ids": [format!("sha256:{layer_digest}")], "type": "layers" },
    })
}

fn append(archive: &mut Builder<impl Write>, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(mode, bytes.len() as u64), name, bytes)
}

/// Root's, and of no time: what is archived is the same whoever archives it, and when.
fn header(mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The program's name in the image, and the image's.
const NAME: &str = "valetkey";
/// What else it is called by: see `called_name`.
const FACES: [&str; 2] = ["docker-credential-valetkey", "keyring"];
const VERSION: &str = env!("CARGO_PKG_VERSION");
const CREATED: &str = "1970-01-01T00:00:00Z";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::super::Platform;
    use super::*;

    fn archive(platform: Platform) -> Vec<u8> {
        let program = Program { bytes: b"a program".repeat(100), platform };
        let mut archive = Vec::new();
        write(&program, &mut archive).unwrap();
        archive
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().display().to_string(), bytes)
        });
        entries.collect()
    }

    #[test]
    fn manifest_configuration_and_layer_agree() {
        let files = files(&archive(Platform::Arm64));
        let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        let [image] = manifest.as_array().unwrap().as_slice() else { panic!("{manifest}") };
        let tags = ["valetkey.invalid/valetkey", "valetkey"]
            .map(|name| [json!(format!("{name}:latest")), json!(format!("{name}:{VERSION}"))]);
        assert_eq!(image["RepoTags"].as_array().unwrap(), &tags.concat());
        let name = image["Config"].as_str().unwrap();
        assert_eq!(name, format!("{}.json", sha256(&files[name])));
        let configuration: Value = serde_json::from_slice(&files[name]).unwrap();
        let layer = &files[image["Layers"][0].as_str().unwrap()];
        assert_eq!(configuration["rootfs"]["diff_ids"], json!([format!("sha256:{}", sha256(layer))]));
        let program = Program { bytes: b"a program".repeat(100), platform: Platform::Arm64 };
        assert_eq!(configuration["rootfs"]["diff_ids"], json!([layer_digest(&program).unwrap()]));
        assert_eq!(configuration["architecture"], "arm64");
        assert_eq!(configuration["config"]["Entrypoint"], json!(["/valetkey"]));
        assert_eq!(configuration["config"]["Labels"]["org.opencontainers.image.version"], VERSION);
        assert_eq!(files.len(), 3);
    }

    #[test]
    fn a_layer_holds_one_program_under_three_names() {
        let program = Program { bytes: b"a program".to_vec(), platform: Platform::Amd64 };
        let layer = layer(&program).unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(
                (header.mode().unwrap(), header.uid().unwrap(), header.mtime().unwrap()),
                (0o755, 0, 0)
            );
            let link = entry.link_name().unwrap().map(|name| name.display().to_string());
            seen.push((entry.path().unwrap().display().to_string(), link, header.entry_type()));
        }
        let link = |name: &str| (name.to_owned(), Some("valetkey".to_owned()), EntryType::Link);
        let first = ("valetkey".to_owned(), None, EntryType::Regular);
        assert_eq!(seen, [first, link("docker-credential-valetkey"), link("keyring")]);
    }

    #[test]
    fn the_same_program_gives_the_same_bytes() {
        assert_eq!(archive(Platform::Amd64), archive(Platform::Amd64));
        assert_ne!(archive(Platform::Amd64), archive(Platform::Arm64));
    }

    #[test]
    fn a_reader_that_went_away_is_a_failure() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let program = Program { bytes: b"a program".to_vec(), platform: Platform::Amd64 };
        assert!(matches!(write(&program, Gone), Err(ImageFault::Write(_))));
    }
}
