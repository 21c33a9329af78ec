//! Debian's buildah, which needs no daemon. Steps run in a chroot: its other ways need more than a plain machine has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::engine::{Built, Exported, PATIENCE, assert_success, context_directory, unique};
use super::guard::Guard;
use super::harness::Run;
use super::harness::hunt::Place;
use super::prepared;
use super::process::{run, run_together};

/// buildah with images of its own, which all tests of this program share.
pub(crate) struct Buildah {
    program: PathBuf,
    directory: PathBuf,
    short: PathBuf,
    base: OnceLock<()>,
    small: OnceLock<()>,
    valetkey: OnceLock<()>,
    _guard: Guard,
}

impl Buildah {
    /// `None` says why on standard error.
    pub(crate) fn find() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Buildah>> = OnceLock::new();
        SHARED.get_or_init(Self::new).as_ref()
    }

    fn new() -> Option<Self> {
        if !prepared::is_root() {
            return None;
        }
        let program = prepared::find("installed/buildah")?;
        // Layers, as those of the engines, belong on a real file system.
        let directory = prepared::directory().join(format!("run-{}-buildah", std::process::id()));
        // podman takes no longer path than fifty bytes.
        let short = std::env::temp_dir().join(format!("vk-engine-{}-b", std::process::id()));
        for directory in [&directory, &short] {
            fs::create_dir_all(directory).expect("a directory");
        }
        let guard = Guard::start(&short, &directory, None);
        fs::write(directory.join("policy.json"), ANY_IMAGE).expect("a file");
        let (base, small, valetkey) = Default::default();
        Some(Self { program, directory, short, base, small, valetkey, _guard: guard })
    }

    pub(crate) fn version(&self) -> String {
        run(&mut self.command(&["--version"]), PATIENCE).stdout.trim().to_owned()
    }

    pub(crate) fn command<T: AsRef<str>>(&self, arguments: &[T]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.directory)
            .env("TMPDIR", &self.directory)
            .args(self.places())
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
            let tar = self.directory.join("small.tar");
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
        "valetkey.invalid/valetkey"
    }

    /// `valetkey docker image >FILE; buildah pull docker-archive:FILE`.
    #[track_caller]
    pub(crate) fn load(&self, program: &Path) -> Run {
        let archive = self.directory.join(unique("archive"));
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
        vec![Place::Path(self.directory.clone())]
    }

    /// The flags that say where images are.
    pub(crate) fn places(&self) -> [String; 4] {
        let text = |path: PathBuf| path.display().to_string();
        let (root, run) = (text(self.directory.join("root")), text(self.short.join("run")));
        ["--root".to_owned(), root, "--runroot".to_owned(), run]
    }

    /// On the same file system as the images.
    pub(crate) fn temporary(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    pub(crate) fn policy(&self) -> String {
        self.directory.join("policy.json").display().to_string()
    }
}

const BASE: &str = "localhost/python-of-debian";
const SMALL: &str = "localhost/busybox-of-debian";
/// There are no images here but our own.
const ANY_IMAGE: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
