//! Docker Engines of three ages, each started by hand and shared by all tests of this program.
//!
//! Tests share images too, so each takes names of its own. No engine reaches a registry: whatever an image comes from
//! was made on this machine. The host's own Docker, if it has one, is not touched: own sockets, data and bridge.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::guard::{Charge, Guard};
use super::harness::hunt::Place;
use super::harness::{Run, Sandbox};
use super::prepared;
use super::process::{run, run_pipe, run_together};

/// Where an engine comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Release {
    /// Debian's package on this machine: 20.10, the first with a BuildKit that has every mount, on Debian 12.
    Installed,
    /// Debian 13's engine, client and buildx.
    Trixie,
    /// The newest engine, client and buildx that Debian has.
    Sid,
}

impl Release {
    pub(crate) const ALL: [Self; 3] = [Self::Installed, Self::Trixie, Self::Sid];
}

/// A running engine.
pub(crate) struct Engine {
    pub(crate) release: Release,
    /// As the engine says it.
    pub(crate) version: String,
    client: PathBuf,
    directory: PathBuf,
    data: PathBuf,
    base: OnceLock<()>,
    small: OnceLock<()>,
    tools: OnceLock<()>,
    valetkey: OnceLock<()>,
    _guard: Guard,
}

/// What came of a build.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) code: Option<i32>,
    /// All that the build printed.
    pub(crate) log: String,
    /// The name of the image, which there is if the code is zero.
    pub(crate) image: String,
    pub(crate) took: Duration,
}

impl Built {
    #[track_caller]
    pub(crate) fn assert_success(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{}", self.log);
        self
    }
}

impl Engine {
    /// Every engine that can run here. With `CI=true` that is all of them.
    pub(crate) fn all() -> Vec<&'static Self> {
        Release::ALL.into_iter().filter_map(Self::of).collect()
    }

    /// Starts it on first use. `None` says why on standard error.
    pub(crate) fn of(release: Release) -> Option<&'static Self> {
        static ENGINES: [OnceLock<Option<Engine>>; 3] = [const { OnceLock::new() }; 3];
        ENGINES[release as usize].get_or_init(|| Self::start(release, false)).as_ref()
    }

    /// As [`Self::of`], with `--userns-remap`: root in a container has the uid [`REMAPPED`] outside.
    pub(crate) fn remapped(release: Release) -> Option<&'static Self> {
        static ENGINES: [OnceLock<Option<Engine>>; 3] = [const { OnceLock::new() }; 3];
        ENGINES[release as usize].get_or_init(|| Self::start(release, true)).as_ref()
    }

    fn start(release: Release, remapped: bool) -> Option<Self> {
        if !prepared::is_root() {
            return None;
        }
        if release == Release::Sid && prepared::directory().join("no-sid").exists() {
            eprintln!("skipped: the newest engine needs a newer C library than this machine's");
            return None;
        }
        let (dockerd, client) = match release {
            Release::Installed => ("installed/dockerd", "installed/docker"),
            Release::Trixie => ("trixie/usr/sbin/dockerd", "trixie/usr/bin/docker"),
            Release::Sid => ("sid/usr/sbin/dockerd", "client/docker"),
        };
        let (dockerd, client) = (prepared::find(dockerd)?, prepared::find(client)?);
        let plugins = match release {
            Release::Trixie => "trixie/usr/libexec/docker/cli-plugins",
            _ => "client",
        };
        let plugins = [
            prepared::find(&format!("{plugins}/docker-buildx"))?,
            prepared::find(&format!("{plugins}/docker-compose"))?,
        ];
        let number = release as u8 + if remapped { 3 } else { 0 };
        let name = format!("{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(format!("vk-engine-{name}"));
        let data = prepared::directory().join(format!("run-{name}"));
        fs::create_dir_all(directory.join("config/cli-plugins")).expect("a directory");
        fs::create_dir_all(&data).expect("a directory");
        for plugin in plugins {
            let link = directory.join("config/cli-plugins").join(plugin.file_name().expect("a name"));
            std::os::unix::fs::symlink(plugin, link).expect("a link");
        }
        let dockerd = if remapped { with_other_users(&directory, &dockerd) } else { dockerd };
        let (bridge, address) = bridge(number);
        let charge = Charge { bridge: &bridge, address: &address, dockerd: &dockerd };
        let guard = Guard::start(&directory, &data, Some(charge));
        let mut engine = Self {
            release,
            version: String::new(),
            client,
            directory,
            data,
            base: OnceLock::new(),
            small: OnceLock::new(),
            tools: OnceLock::new(),
            valetkey: OnceLock::new(),
            _guard: guard,
        };
        engine.wait();
        Some(engine)
    }

    /// Until it answers; at the end of patience its log says why it does not.
    fn wait(&mut self) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let asked = run(
                &mut self.docker(&["version", "--format", "{{.Server.Version}}"]),
                Duration::from_secs(120),
            );
            if asked.code == Some(0) {
                asked.stdout.trim().clone_into(&mut self.version);
                return;
            }
            assert!(Instant::now() < give_up, "no engine: {}\n{}", asked.stderr, self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The client of this engine's age, in an environment of its own.
    pub(crate) fn docker<T: AsRef<str>>(&self, arguments: &[T]) -> Command {
        let mut command = Command::new(&self.client);
        command
            .args(arguments.iter().map(AsRef::as_ref))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.directory.join("config"))
            .envs(self.variables());
        command
    }

    /// A shell in a sandbox where `docker` is this engine's client and `valetkey` the static program, and both are on
    /// PATH as on a person's machine.
    pub(crate) fn shell(&self, sandbox: &Sandbox, script: &str) -> Command {
        let docker = sandbox.path("bin/docker");
        let _ = fs::remove_file(&docker);
        std::os::unix::fs::symlink(&self.client, docker).expect("a link");
        let mut command = shell(sandbox, script);
        command.envs(self.variables());
        command
    }

    pub(crate) fn client(&self) -> &Path {
        &self.client
    }

    /// What its client has to know.
    pub(crate) fn variables(&self) -> [(&'static str, String); 3] {
        [
            ("DOCKER_CONFIG", self.directory.join("config").display().to_string()),
            ("DOCKER_HOST", format!("unix://{}", self.directory.join("docker.sock").display())),
            // With which all build since 23.0.
            ("DOCKER_BUILDKIT", "1".to_owned()),
        ]
    }

    /// `docker run --rm` with these arguments.
    #[track_caller]
    pub(crate) fn run<T: AsRef<str>>(&self, arguments: &[T]) -> Run {
        let mut command = self.docker(&["run", "--rm"]);
        run(command.args(arguments.iter().map(AsRef::as_ref)), PATIENCE)
    }

    /// Builds a context of these files, under a name of its own. Nothing is taken from an earlier build's cache
    /// unless the steps are the very same.
    #[track_caller]
    pub(crate) fn build(&self, dockerfile: &str, context: &[(&str, &[u8])], flags: &[String]) -> Built {
        let mut command = self.build_command(dockerfile, context, flags);
        let run = run_together(&mut command.command, PATIENCE);
        Built { code: run.code, log: run.stdout, image: command.image, took: run.took }
    }

    /// The command of [`Self::build`], to be started otherwise; its context lives as long as the value.
    pub(crate) fn build_command(
        &self,
        dockerfile: &str,
        context: &[(&str, &[u8])],
        flags: &[String],
    ) -> Building {
        let directory = context_directory(dockerfile, context);
        let image = unique("build");
        let mut command = self.docker(&["build", "--progress=plain", "--tag", &image]);
        command.args(flags).arg(directory.path());
        Building { command, image, directory }
    }

    /// A Debian with Python and pip, by this name.
    #[track_caller]
    pub(crate) fn base(&self) -> &'static str {
        self.base.get_or_init(|| self.import(&prepared::find("python.tar").expect("the base image"), BASE));
        BASE
    }

    /// Busybox and nothing else, by this name.
    #[track_caller]
    pub(crate) fn small(&self) -> &'static str {
        self.small.get_or_init(|| {
            let tar = self.directory.join("small.tar");
            fs::write(&tar, prepared::small_system().expect("busybox")).expect("a file");
            self.import(&tar, SMALL);
        });
        SMALL
    }

    /// What a step may mount, by this name: git, curl, Node with npm, poetry, pdm and uv.
    #[track_caller]
    pub(crate) fn tools(&self) -> Option<&'static str> {
        let tar = prepared::find("tools.tar")?;
        self.tools.get_or_init(|| self.import(&tar, TOOLS_IMAGE));
        Some(TOOLS_IMAGE)
    }

    #[track_caller]
    fn import(&self, tar: &Path, name: &str) {
        assert_success(&run(self.docker(&["import"]).arg(tar).arg(name), PATIENCE));
    }

    /// `valetkey docker image | docker load`.
    #[track_caller]
    pub(crate) fn load(&self, program: &Path) -> Run {
        let mut image = Command::new(program);
        run_pipe(image.args(["docker", "image"]), &mut self.docker(&["load"]), PATIENCE)
    }

    /// The static valetkey as the image `valetkey`, loaded on first use.
    #[track_caller]
    pub(crate) fn valetkey(&self) -> &'static str {
        self.valetkey.get_or_init(|| {
            assert_success(&self.load(&prepared::static_program().expect("the static program")));
        });
        "valetkey"
    }

    /// Everything that is in an image.
    #[track_caller]
    pub(crate) fn export(&self, image: &str) -> Exported {
        let directory = tempfile::Builder::new().prefix("vk-export").tempdir().expect("a directory");
        let archive = directory.path().join("image.tar");
        let mut command = self.docker(&["save", image, "--output"]);
        assert_success(&run(command.arg(&archive), PATIENCE));
        Exported::unpack(directory, &archive)
    }

    /// All that the engine keeps: BuildKit's cache and content store, layers, containers, their logs and its own.
    pub(crate) fn stores(&self) -> Vec<Place> {
        vec![Place::Path(self.data.clone()), Place::Path(self.directory.join("dockerd.log"))]
    }

    /// The host as a container on the engine's own network sees it; `None` where there is no such network.
    pub(crate) fn gateway(&self) -> Option<String> {
        fs::read_to_string(self.directory.join("address")).ok().map(|text| text.trim().to_owned())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("dockerd.log")).unwrap_or_default()
    }
}

/// A shell in a sandbox, with the static `valetkey` on PATH before the system's programs.
pub(crate) fn shell(sandbox: &Sandbox, script: &str) -> Command {
    let program = prepared::static_program().expect("the static program");
    for name in ["valetkey", "keyring"] {
        let _ = fs::remove_file(sandbox.path("bin").join(name));
        std::os::unix::fs::symlink(&program, sandbox.path("bin").join(name)).expect("a link");
    }
    let mut command = sandbox.command("/bin/sh");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", sandbox.path("bin").display());
    command.args(["-ec", script]).env("PATH", path);
    command
}

/// A build that has not begun.
pub(crate) struct Building {
    pub(crate) command: Command,
    pub(crate) image: String,
    pub(crate) directory: tempfile::TempDir,
}

/// An image, unpacked.
pub(crate) struct Exported {
    directory: tempfile::TempDir,
    manifest: Value,
}

impl Exported {
    pub(crate) fn unpack(directory: tempfile::TempDir, archive: &Path) -> Self {
        let file = fs::File::open(archive).expect("an archive");
        tar::Archive::new(file).unpack(directory.path()).expect("a tar");
        fs::remove_file(archive).expect("an archive");
        let text = fs::read(directory.path().join("manifest.json")).expect("a manifest");
        let manifest: Value = serde_json::from_slice(&text).expect("JSON");
        Self { directory, manifest: manifest[0].clone() }
    }

    /// Environment, labels, history.
    pub(crate) fn configuration(&self) -> Value {
        let text = fs::read(self.path(&self.manifest["Config"])).expect("a configuration");
        serde_json::from_slice(&text).expect("JSON")
    }

    /// The tars of the layers, lowest first.
    pub(crate) fn layers(&self) -> Vec<PathBuf> {
        self.manifest["Layers"].as_array().expect("layers").iter().map(|layer| self.path(layer)).collect()
    }

    /// What is in the layers above the lowest `skipped`: path and content, in the order of the tars.
    pub(crate) fn files(&self, skipped: usize) -> BTreeMap<String, u64> {
        let mut files = BTreeMap::new();
        for layer in self.layers().into_iter().skip(skipped) {
            let mut archive = tar::Archive::new(fs::File::open(layer).expect("a layer"));
            for entry in archive.entries().expect("a tar") {
                let entry = entry.expect("an entry");
                files.insert(String::from_utf8_lossy(&entry.path_bytes()).into_owned(), entry.size());
            }
        }
        files
    }

    /// For the hunt: manifest, configuration with history, and every layer.
    pub(crate) fn place(&self) -> Place {
        Place::Path(self.directory.path().to_owned())
    }

    fn path(&self, name: &Value) -> PathBuf {
        self.directory.path().join(name.as_str().expect("a name"))
    }
}

/// A directory with a Dockerfile and these files.
pub(crate) fn context_directory(dockerfile: &str, files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let directory = tempfile::Builder::new().prefix("vk-context").tempdir().expect("a directory");
    fs::write(directory.path().join("Dockerfile"), dockerfile).expect("a file");
    for (name, bytes) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        fs::write(path, bytes).expect("a file");
    }
    directory
}

/// A name that no other test takes.
pub(crate) fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[track_caller]
pub(crate) fn assert_success(run: &Run) {
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
}

/// A name of at most 15 bytes and an address of the range that is reserved for tests of networks.
fn bridge(number: u8) -> (String, String) {
    let process = std::process::id();
    let net = process % 42 * 6 + u32::from(number);
    (format!("vk{process}b{number}"), format!("198.18.{net}.1"))
}

/// An engine that remaps users by a table of its own in the place of the system's, which nobody else sees: it runs in
/// a mount namespace for that.
fn with_other_users(directory: &Path, dockerd: &Path) -> PathBuf {
    let table = directory.join("subuid");
    fs::write(&table, format!("daemon:{REMAPPED}:65536\n")).expect("a file");
    let script = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind \"$0\" /etc/subuid && mount --bind \"$0\" /etc/subgid && \
         exec \"$@\"' {} {} --userns-remap daemon \"$@\"\n",
        table.display(),
        dockerd.display()
    );
    let path = directory.join("dockerd");
    fs::write(&path, script).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    path
}

/// The first uid of those that a remapped engine gives to containers.
pub(crate) const REMAPPED: u32 = 200_000;

const BASE: &str = "python-of-debian";
const SMALL: &str = "busybox-of-debian";
const TOOLS_IMAGE: &str = "tools-of-debian";
/// For one command; the longest builds install things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
