//! `docker build` and `buildah bud` with one mounted socket: what is installed, and what is not left behind.

use super::buildah::Buildah;
use super::engine::{Engine, Release};
use super::harness::Sandbox;
use super::scene::Scene;

/// One step that installs with pip, as the README has it.
fn dockerfile(base: &str, index: &str, before: &str) -> String {
    format!(
        "FROM {base}\n{before}RUN --mount=type=ssh,id=valetkey,required=true,mode=0666 \
         --mount=from=valetkey.invalid/valetkey,source=/valetkey,target=/usr/bin/valetkey \
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
    let text = dockerfile(buildah.base(), &scene.sandbox.index(), "").replace(
        "--mount=from=valetkey.invalid/valetkey",
        &format!("--mount=type=bind,from={}", buildah.valetkey()),
    );
    let built = buildah.build(&text, &[], &flags);
    built.assert_success();
    scene.hunt(&built, &buildah.export(&built.image), buildah.stores());
}

#[test]
fn another_repository_is_refused_and_the_line_that_would_grant_it_is_named() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, flags) = Scene::new();
    engine.valetkey();
    scene.sandbox.google.add_package("acme", "other", "acme-other", "1.0.0", &[]);
    scene.mint();
    let other = scene.sandbox.google.index_url("acme", "other");
    let text = dockerfile(engine.base(), &other, "").replace("acme-hello\n", "acme-other\n");
    let built = engine.build(&text, &[], &flags);
    assert_ne!(built.code, Some(0), "{}", built.log);
    let line = format!("run `valetkey docker args https://{}/acme/other`", scene.host());
    assert!(built.log.contains(&line), "{}", built.log);
    Sandbox::wait_until("the refusal is in the log", || scene.sandbox.log().contains("is not granted here"));
    scene.hunt_in(&built, engine.stores());
}

#[test]
fn a_daemon_that_is_started_again_opens_the_same_socket() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, flags) = Scene::new();
    engine.valetkey();
    scene.sandbox.make_room();
    let _daemon = scene.serve();
    let text = dockerfile(engine.base(), &scene.sandbox.index(), "");
    scene.build(engine, &text, &[], &scene.flags);
    assert_eq!(flags, scene.flags);
}

#[test]
fn a_user_of_the_image_installs_as_root_does() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, flags) = Scene::new();
    engine.valetkey();
    let before = "RUN useradd --create-home dev\nUSER dev\n";
    let text = dockerfile(engine.base(), &scene.sandbox.index(), before);
    scene.build(engine, &text, &[], &flags);
}
