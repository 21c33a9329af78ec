//! The image that `valetkey docker image` writes, in real engines, and the one of `packaging/image`.

use std::fs;
use std::process::Command;

use super::buildah::Buildah;
use super::engine::{Engine, PATIENCE, assert_success, unique};
use super::prepared;
use super::process::run;

/// Three names, one program.
const NAMES: [&str; 3] = ["/valetkey", "/keyring", "/docker-credential-valetkey"];

#[test]
fn every_engine_loads_the_image_under_both_of_its_names() {
    let Some(program) = prepared::static_program() else { return };
    let version = env!("CARGO_PKG_VERSION");
    for engine in Engine::all() {
        let loaded = engine.load(&program);
        assert_success(&loaded);
        for tag in ["latest", version] {
            assert!(loaded.stdout.contains(&format!("valetkey:{tag}")), "{}: {loaded:?}", engine.version);
        }
        let said = engine.run(&["valetkey:latest", "--version"]);
        assert_eq!(said.stdout, format!("valetkey {version}\n"), "{}: {said:?}", engine.version);
        let exported = engine.export("valetkey:latest");
        let configuration = exported.configuration();
        assert_eq!(configuration["config"]["Labels"]["org.opencontainers.image.version"], version);
        let names: Vec<_> = exported.files(0).into_keys().map(|name| format!("/{name}")).collect();
        let mut expected = NAMES.map(str::to_owned).to_vec();
        expected.sort();
        assert_eq!(names, expected, "nothing else is in it");
    }
}

#[test]
fn buildah_pulls_the_image() {
    let (Some(program), Some(buildah)) = (prepared::static_program(), Buildah::find()) else { return };
    assert_success(&buildah.load(&program));
    let images = buildah.run(&["images", "--format", "{{.Name}}:{{.Tag}}"]);
    for tag in ["latest", env!("CARGO_PKG_VERSION")] {
        assert!(images.stdout.lines().any(|line| line == format!("localhost/valetkey:{tag}")), "{images:?}");
    }
}

#[test]
fn a_step_that_mounts_the_program_from_the_image_can_run_it_and_keeps_nothing() {
    if prepared::static_program().is_none() {
        return;
    }
    let step = |image: &str, base: &str| {
        format!(
            "FROM {base}\n\
             RUN --mount=from={image},source=/keyring,target=/usr/local/sbin/keyring \
                 --mount=from={image},source=/valetkey,target=/usr/local/sbin/valetkey \
                 keyring --help | head -n 1 && valetkey --version && command -v keyring\n"
        )
    };
    for engine in Engine::all() {
        let built = engine.build(&step(engine.valetkey(), engine.base()), &[], &[]);
        built.assert_success();
        assert_ran(&built.log);
        // The directory of the mount point is Debian's own; of the program itself there is nothing.
        let left = engine.export(&built.image).files(1);
        assert!(!left.keys().any(|name| name.contains("keyring") || name.contains("valetkey")), "{left:?}");
    }
    if let Some(buildah) = Buildah::find() {
        let built = buildah.build(&step(buildah.valetkey(), buildah.base()), &[], &[]);
        built.assert_success();
        assert_ran(&built.log);
        // buildah leaves its mount points, which are empty.
        let left = buildah.export(&built.image).files(1);
        assert!(left.iter().all(|(name, size)| *size == 0 || !name.contains("keyring")), "{left:?}");
    }
}

#[track_caller]
fn assert_ran(log: &str) {
    for line in ["usage: keyring", "valetkey 0.", "/usr/local/sbin/keyring"] {
        // The command itself is in the log as well, without these.
        assert!(log.contains(line), "{line:?} is not in:\n{log}");
    }
}

#[test]
fn the_published_image_is_the_same_program_once() {
    let Some(program) = prepared::static_program() else { return };
    let size = program.metadata().unwrap().len();
    let context = tempfile::tempdir().unwrap();
    let prepare = prepared::root().join("packaging/image/context");
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let mut command = Command::new(prepare);
    command
        .arg(context.path())
        .arg(format!("{architecture}={}", program.display()))
        .env("VALETKEY", &program);
    assert_success(&run(&mut command, PATIENCE));
    let other = format!("{}={}", if architecture == "amd64" { "arm64" } else { "amd64" }, program.display());
    let mut command = Command::new(prepared::root().join("packaging/image/context"));
    let wrong = run(command.arg(context.path()).arg(other).env("VALETKEY", &program), PATIENCE);
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    let dockerfile = fs::read_to_string(prepared::root().join("packaging/image/Dockerfile")).unwrap();
    fs::write(context.path().join("Dockerfile"), dockerfile).unwrap();
    for engine in Engine::all() {
        let image = unique("published");
        let mut command = engine.docker(&["build", "--build-arg", "VERSION=1.2.3", "--tag", &image]);
        assert_success(&run(command.arg(context.path()), PATIENCE));
        let exported = engine.export(&image);
        let files = exported.files(0);
        let total: u64 = files.values().sum();
        assert_eq!(total, size, "{}: hard links stay links: {files:?}", engine.version);
        for name in NAMES {
            assert!(files.contains_key(&name[1..]), "{files:?}");
        }
        let labels = exported.configuration()["config"]["Labels"].clone();
        assert_eq!(labels["org.opencontainers.image.version"], "1.2.3");
        assert_eq!(labels["org.opencontainers.image.description"], env!("CARGO_PKG_DESCRIPTION"));
        assert_eq!(engine.run(&[image.as_str(), "--version"]).code, Some(0));
    }
}
