//! Debian's buildah, which needs no daemon. Steps run in a chroot: its other ways need more than a plain machine has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::engine::{Built, Exported, PATIENCE, assert_success, context_directory, unique};
use super::harness::Run;
use super::harness::hunt::Place;
use super::prepared;
use super::process::{run, run_together};

/// buildah with images of its own, which go with the value.
pub(crate) struct Buildah {
    program: PathBuf,
    directory: tempfile::TempDir,
    base: OnceLock<()>,
    small: OnceLock<()>,
    valetkey: OnceLock<()>,
}

impl Buildah {
    /// The one that all tests share; the last that lets go of it cleans up.
    pub(crate) fn find() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Buildah>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buildah) = shared.upgrade() {
            return Some(buildah);
        }
        if !prepared::is_root() {
            return None;
        }
        let program = prepared::find("installed/buildah")?;
        // Layers, as those of the engines, belong on a real file system.
        let directory = tempfile::Builder::new()
            .prefix("run-buildah")
            .tempdir_in(prepared::directory())
            .expect("a directory");
        fs::write(directory.path().join("policy.json"), ANY_IMAGE).expect("a file");
        let buildah = Arc::new(Self {
            program,
            directory,
            base: OnceLock::new(),
            small: OnceLock::new(),
            valetkey: OnceLock::new(),
        });
        *shared = Arc::downgrade(&buildah);
        Some(buildah)
    }

    pub(crate) fn version(&self) -> String {
        run(&mut self.command(&["--version"]), PATIENCE).stdout.trim().to_owned()
    }

    pub(crate) fn command<T: AsRef<str>>(&self, arguments: &[T]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.directory.path())
            .env("TMPDIR", self.directory.path())
            .arg("--root")
            .arg(self.directory.path().join("root"))
            .arg("--runroot")
            .arg(self.directory.path().join("run"))
            .args(arguments.iter().map(AsRef::as_ref));
        command
    }

    #[track_caller]
    pub(crate) fn run<T: AsRef<str>>(&self, arguments: &[T]) -> Run {
        run(&mut self.command(arguments), PATIENCE)
    }

    /// `buildah bud`, as `Engine::build`: with the same network as the host, since it makes no other here.
    #[track_caller]
    pub(crate) fn build(&self, dockerfile: &str, context: &[(&str, &[u8])], flags: &[String]) -> Built {
        let directory = context_directory(dockerfile, context);
        let image = format!("localhost/{}", unique("build"));
        let mut command = self.command(&["bud", "--isolation", "chroot", "--network", "host", "--layers"]);
        command
            .args(["--signature-policy", &self.policy(), "--tag", &image])
            .args(flags)
            .arg(directory.path());
        let run = run_together(&mut command, PATIENCE);
        Built { code: run.code, log: run.stdout, image, took: run.took }
    }

    /// As `Engine::base`.
    #[track_caller]
    pub(crate) fn base(&self) -> &'static str {
        self.base.get_or_init(|| self.import(&prepared::find("python.tar").expect("the base image"), BASE));
        BASE
    }

    /// As `Engine::small`.
    #[track_caller]
    pub(crate) fn small(&self) -> &'static str {
        self.small.get_or_init(|| {
            let tar = self.directory.path().join("small.tar");
            fs::write(&tar, prepared::small_system().expect("busybox")).expect("a file");
            self.import(&tar, SMALL);
        });
        SMALL
    }

    #[track_caller]
    fn import(&self, tar: &Path, name: &str) {
        let policy = self.policy();
        let container = self.run(&["from", "--signature-policy", &policy, "scratch"]);
        assert_success(&container);
        let container = container.stdout.trim();
        assert_success(&self.run(&["add", "--quiet", container, &tar.display().to_string(), "/"]));
        assert_success(&self.run(&[
            "commit",
            "--quiet",
            "--rm",
            "--signature-policy",
            &policy,
            container,
            name,
        ]));
    }

    /// As `Engine::valetkey`.
    #[track_caller]
    pub(crate) fn valetkey(&self) -> &'static str {
        self.valetkey.get_or_init(|| {
            assert_success(&self.load(&prepared::static_program().expect("the static program")));
        });
        "localhost/valetkey"
    }

    /// `valetkey docker image >FILE; buildah pull docker-archive:FILE`.
    #[track_caller]
    pub(crate) fn load(&self, program: &Path) -> Run {
        let archive = self.directory.path().join(unique("archive"));
        let file = fs::File::create(&archive).expect("a file");
        let image = Command::new(program).args(["docker", "image"]).stdout(file).status().expect("a process");
        assert!(image.success(), "{image}");
        let source = format!("docker-archive:{}", archive.display());
        self.run(&["pull", "--signature-policy", &self.policy(), &source])
    }

    /// As `Engine::export`.
    #[track_caller]
    pub(crate) fn export(&self, image: &str) -> Exported {
        let directory = tempfile::Builder::new().prefix("vk-export").tempdir().expect("a directory");
        let archive = directory.path().join("image.tar");
        let target = format!("docker-archive:{}", archive.display());
        assert_success(&self.run(&["push", "--signature-policy", &self.policy(), image, &target]));
        Exported::unpack(directory, &archive)
    }

    /// All that buildah keeps.
    pub(crate) fn stores(&self) -> Vec<Place> {
        vec![Place::Path(self.directory.path().to_owned())]
    }

    fn policy(&self) -> String {
        self.directory.path().join("policy.json").display().to_string()
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        // Layers may still be mounted where a build was broken off.
        let _ = run(&mut self.command(&["unmount", "--all"]), PATIENCE);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let top = self.directory.path().display().to_string();
        let mut below: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        below.retain(|mount| mount.starts_with(&top));
        below.sort_unstable();
        for mount in below.iter().rev() {
            let _ = Command::new("umount").arg("-l").arg(mount).status();
        }
    }
}

const BASE: &str = "localhost/python-of-debian";
const SMALL: &str = "localhost/busybox-of-debian";
/// There are no images here but our own.
const ANY_IMAGE: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
