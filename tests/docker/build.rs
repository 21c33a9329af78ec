//! `docker build` and `buildah bud` with one mounted socket: what is installed, and what is not left behind.

use super::buildah::Buildah;
use super::engine::{Built, Engine, Exported};
use super::harness::hunt::{Place, hunt};
use super::harness::{Daemon, Sandbox};

/// A build with a daemon outside, and a socket that was opened for it.
struct Scene {
    sandbox: Sandbox,
    flags: Vec<String>,
}

impl Scene {
    /// The flags are those that `docker args` prints for the private repository.
    fn new() -> (Self, Vec<String>) {
        let sandbox = Sandbox::new();
        sandbox.sign_in();
        let repository = sandbox.google.index_url("acme", "private").replace("/simple/", "");
        let flags = args(&sandbox, &[&repository]);
        (Self { sandbox, flags: flags.clone() }, flags)
    }

    fn serve(&self) -> Daemon<'_> {
        self.sandbox.serve()
    }

    /// Everything that a build may have left anywhere, searched for every secret that there ever was.
    fn hunt(&self, built: &Built, exported: &Exported, stores: Vec<Place>) {
        let mut places =
            vec![exported.place(), Place::Text("the log".into(), built.log.clone().into_bytes())];
        places.extend(stores);
        let found = hunt(&places, &self.sandbox.google.secrets());
        assert!(found.is_empty(), "{found:?}");
        assert!(self.sandbox.google.secrets().iter().any(|secret| secret.starts_with("ya29.")));
    }
}

/// What `docker args` prints.
fn args(sandbox: &Sandbox, words: &[&str]) -> Vec<String> {
    let run = sandbox.run(sandbox.valetkey().args(["docker", "args"]).args(words));
    assert_eq!(run.code, Some(0), "{run:?}");
    run.stdout.split_whitespace().map(str::to_owned).collect()
}

/// One step that installs with pip, as the README has it.
fn dockerfile(base: &str, index: &str, before: &str) -> String {
    format!(
        "FROM {base}\n{before}RUN --mount=type=ssh,id=valetkey,required=true,mode=0666 \
         --mount=from=valetkey,source=/valetkey,target=/usr/bin/valetkey \
         valetkey exec -- pip install --no-cache-dir --break-system-packages --index-url {index} acme-hello\n\
         RUN python3 -c 'import acme_hello; print(acme_hello.MESSAGE)'\n"
    )
}

#[test]
fn pip_installs_in_docker_without_a_network_and_no_token_is_inside() {
    for engine in Engine::all() {
        let (scene, mut flags) = Scene::new();
        engine.valetkey();
        flags.extend(["--network".to_owned(), "none".to_owned()]);
        let text = dockerfile(engine.base(), &scene.sandbox.index(), "");
        let built = engine.build(&text, &[], &flags);
        built.assert_success();
        scene.hunt(&built, &engine.export(&built.image), engine.stores());
    }
}

#[test]
fn pip_installs_in_buildah_and_no_token_is_inside() {
    let Some(buildah) = Buildah::find() else { return };
    let (scene, flags) = Scene::new();
    let text = dockerfile(buildah.base(), &scene.sandbox.index(), "")
        .replace("--mount=from=valetkey", &format!("--mount=type=bind,from={}", buildah.valetkey()));
    let built = buildah.build(&text, &[], &flags);
    built.assert_success();
    scene.hunt(&built, &buildah.export(&built.image), buildah.stores());
}

#[test]
fn another_repository_is_refused_and_the_line_that_would_grant_it_is_named() {
    let Some(engine) = Engine::of(super::engine::Release::Installed) else { return };
    let (scene, flags) = Scene::new();
    engine.valetkey();
    scene.sandbox.google.add_package("acme", "other", "acme-other", "1.0.0", &[]);
    let other = scene.sandbox.google.index_url("acme", "other");
    let text = dockerfile(engine.base(), &other, "").replace("acme-hello\n", "acme-other\n");
    let built = engine.build(&text, &[], &flags);
    assert_ne!(built.code, Some(0), "{}", built.log);
    Sandbox::wait_until("the refusal is in the log", || scene.sandbox.log().contains("is not granted here"));
}

#[test]
fn a_daemon_that_is_started_again_opens_the_same_socket() {
    let Some(engine) = Engine::of(super::engine::Release::Installed) else { return };
    let (scene, flags) = Scene::new();
    engine.valetkey();
    scene.sandbox.stop();
    let _daemon = scene.serve();
    let text = dockerfile(engine.base(), &scene.sandbox.index(), "");
    engine.build(&text, &[], &scene.flags).assert_success();
    assert_eq!(flags, scene.flags);
}

#[test]
fn a_user_of_the_image_installs_as_root_does() {
    let Some(engine) = Engine::of(super::engine::Release::Installed) else { return };
    let (scene, flags) = Scene::new();
    engine.valetkey();
    let before = "RUN useradd --create-home dev\nUSER dev\n";
    let text = dockerfile(engine.base(), &scene.sandbox.index(), before);
    engine.build(&text, &[], &flags).assert_success();
}
