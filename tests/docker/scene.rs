//! What the tests of builds have in common: a daemon outside, a socket that was opened for the build, and steps that
//! use it.

use std::os::unix::fs::MetadataExt;

use super::buildah::Buildah;
use super::engine::{Built, Engine, Exported};
use super::harness::hunt::{Place, hunt_since};
use super::harness::{Daemon, Sandbox};

/// A build with a daemon outside, and a socket that was opened for it.
pub(crate) struct Scene {
    pub(crate) sandbox: Sandbox,
    pub(crate) flags: Vec<String>,
}

impl Scene {
    /// The flags are those that `docker args` prints for the private repository.
    pub(crate) fn new() -> (Self, Vec<String>) {
        let sandbox = Sandbox::new();
        sandbox.sign_in();
        let flags = args(&sandbox, &[&repository(&sandbox, "private")]);
        (Self { sandbox, flags: flags.clone() }, flags)
    }

    /// As [`Self::new`], for a build that has no network.
    pub(crate) fn without_network() -> (Self, Vec<String>) {
        let (scene, mut flags) = Self::new();
        flags.extend(["--network".to_owned(), "none".to_owned()]);
        (scene, flags)
    }

    pub(crate) fn serve(&self) -> Daemon<'_> {
        self.sandbox.serve()
    }

    /// Has the daemon hold a token before a build that is given nothing, so that there is something to hunt for.
    #[track_caller]
    pub(crate) fn mint(&self) {
        assert_eq!(self.sandbox.run(&mut self.sandbox.get()).code, Some(0));
    }

    /// The host of the registry, as it stands in URLs.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.sandbox.google.port())
    }

    /// A build that succeeds on this engine, searched for every secret.
    #[track_caller]
    pub(crate) fn build(
        &self,
        engine: &Engine,
        text: &str,
        context: &[(&str, &[u8])],
        flags: &[String],
    ) -> Built {
        let built = engine.build(text, context, flags);
        built.assert_success();
        self.hunt(&built, &engine.export(&built.image), engine.stores());
        built
    }

    /// Everything that a build may have left anywhere, searched for every secret that there ever was.
    #[track_caller]
    pub(crate) fn hunt(&self, built: &Built, exported: &Exported, stores: Vec<Place>) {
        let mut places = vec![exported.place()];
        places.extend(stores);
        self.hunt_in(built, places);
    }

    /// The same for a build that came to nothing.
    #[track_caller]
    pub(crate) fn hunt_in(&self, built: &Built, mut places: Vec<Place>) {
        places.push(Place::Text("the log".into(), built.log.clone().into_bytes()));
        let secrets = self.sandbox.google.secrets();
        // The sandbox is as old as its first secret.
        let first = self.sandbox.path("bin/valetkey").symlink_metadata().expect("a link").ctime();
        let mut found = hunt_since(first, &places, &secrets);
        // Another test's build may be writing an archive there at this moment.
        for _ in 0..40 {
            if found.is_empty() || !found.iter().all(|what| what.contains("broken off")) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(250));
            found = hunt_since(first, &places, &secrets);
        }
        assert!(found.is_empty(), "{found:?}");
        assert!(secrets.iter().any(|secret| secret.starts_with("ya29.")));
    }
}

/// What `docker args` prints.
pub(crate) fn args(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    let run = sandbox.run(sandbox.valetkey().args(["docker", "args"]).args(words));
    assert_eq!(run.code, Some(0), "{run:?}");
    run.stdout.split_whitespace().map(str::to_owned).collect()
}

/// A repository of the project `acme`, as `docker args` takes it.
pub(crate) fn repository(sandbox: &Sandbox, name: &str) -> String {
    sandbox.google.index_url("acme", name).replace("/simple/", "")
}

/// `RUN` with the socket and the program mounted, for an engine.
pub(crate) fn step(command: &str) -> String {
    format!("RUN {SOCKET} {PROGRAM} {command}\n")
}

/// The same for buildah, which takes a mount without a type for another of the type before it.
pub(crate) fn buildah_step(buildah: &Buildah, command: &str) -> String {
    step(command).replace(
        "--mount=from=valetkey.invalid/valetkey",
        &format!("--mount=type=bind,from={}", buildah.valetkey()),
    )
}

/// The lines which a step printed behind `<name> `, whatever the builder put before them.
pub(crate) fn told<'a>(built: &'a Built, name: &str) -> Vec<&'a str> {
    let mark = format!("<{name}> ");
    built.log.lines().filter_map(|line| Some(line.split_once(&mark)?.1)).collect()
}

/// The one line of that name.
#[track_caller]
pub(crate) fn told_once<'a>(built: &'a Built, name: &str) -> &'a str {
    let lines = told(built, name);
    assert_eq!(lines.len(), 1, "{name}: {}", built.log);
    lines[0]
}

pub(crate) const SOCKET: &str = "--mount=type=ssh,id=valetkey,required=true,mode=0666";
pub(crate) const PROGRAM: &str =
    "--mount=from=valetkey.invalid/valetkey,source=/valetkey,target=/usr/bin/valetkey";
