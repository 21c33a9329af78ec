//! Debian's podman, unpacked and not installed. It builds with buildah's library, over buildah's own images here, so
//! what is loaded for one is there for both.

use std::fs;
use std::path::PathBuf;

use super::buildah::Buildah;
use super::harness::Sandbox;
use super::prepared;

/// See the module.
pub(crate) struct Podman {
    pub(crate) buildah: &'static Buildah,
    program: PathBuf,
    conmon: PathBuf,
}

impl Podman {
    /// `None` says why on standard error.
    pub(crate) fn find() -> Option<Self> {
        if prepared::directory().join("no-podman").exists() {
            eprintln!("skipped: podman does not run here");
            return None;
        }
        let buildah = Buildah::find()?;
        let program = prepared::find("podman/usr/bin/podman")?;
        Some(Self { buildah, program, conmon: prepared::find("podman/usr/bin/conmon")? })
    }

    /// `podman` and `buildah`, told what a plain machine would not have to be told: where their images are, that any
    /// image is to be trusted, and that steps run in a chroot.
    pub(crate) fn put_on_path(&self, sandbox: &Sandbox) {
        let settings = format!(
            "[engine]\nconmon_path = [\"{}\"]\nruntime = \"runc\"\nevents_logger = \"none\"\n\
             cgroup_manager = \"cgroupfs\"\n",
            self.conmon.display()
        );
        let settings = sandbox.write("home/containers.conf", &settings);
        let places = self.buildah.places().join(" ");
        let policy = self.buildah.policy();
        let variables = format!("BUILDAH_ISOLATION=chroot TMPDIR={}", self.buildah.temporary().display());
        let script = |more: &str, program: &str| {
            format!(
                "#!/bin/sh\nverb=$1; shift\n{variables} exec {program} {places} \"$verb\" \
                 --signature-policy {policy} \"$@\"\n"
            )
            .replace("exec ", &format!("{more}exec "))
        };
        let podman = script(
            &format!("CONTAINERS_CONF={} ", settings.display()),
            &format!("{} --tmpdir {}", self.program.display(), sandbox.path("tmp/podman").display()),
        );
        sandbox.script("podman", &podman);
        sandbox.script("buildah", &script("", &self.buildah.program().display().to_string()));
        fs::create_dir_all(sandbox.path("tmp/podman")).expect("a directory");
    }
}
