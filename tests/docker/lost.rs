//! What a step lacks, and what it hears of it: a daemon that is gone for good in the middle of pip's download, and a
//! network that is not there.

use super::buildah::Buildah;
use super::engine::{Built, Engine, Release};
use super::lifetimes::in_the_middle_of;
use super::scene::{Scene, buildah_step, step};
use super::stand_in::Fault;

const INSTALL: (&str, &[u8]) = ("install.py", include_bytes!("steps/install.py"));

/// With the patience that pip has by itself, and with one that outlasts everything.
const PATIENCE: [&str; 2] = ["", "--timeout 200"];

fn installing(base: &str, run: &dyn Fn(&str) -> String, index: &str, flags: &str) -> String {
    let install = run(&format!("valetkey exec -- python3 /install.py {index} {flags}"));
    format!("FROM {base}\nCOPY install.py /\n{install}")
}

/// One sentence of what was lost, and nothing that blames the file or the network.
#[track_caller]
fn assert_told(built: &Built) {
    assert_ne!(built.code, Some(0), "{}", built.log);
    for false_alarm in ["DO NOT MATCH", "tampered", "Read timed out", "BadZipFile", "is invalid"] {
        assert!(!built.log.contains(false_alarm), "{false_alarm}: {}", built.log);
    }
    let told =
        |line: &&str| line.contains("valetkey: ") && line.contains(".whl was broken off in the middle: ");
    // BuildKit repeats the end of a step that failed.
    let lines = built.log.lines().filter(told);
    let mut lines: Vec<&str> = lines.map(|line| &line[line.find("valetkey: ").unwrap()..]).collect();
    lines.dedup();
    assert_eq!(lines.len(), 1, "{}", built.log);
    assert!(lines[0].ends_with("run it again"), "{}", built.log);
}

#[test]
fn pip_in_a_step_of_docker_hears_of_a_daemon_that_is_gone() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    engine.valetkey();
    for flags in PATIENCE {
        let (scene, docker) = Scene::without_network();
        let text = installing(engine.base(), &step, &scene.sandbox.index(), flags);
        let built = in_the_middle_of(
            &scene,
            Fault::HalfThenSilence,
            || engine.build(&text, &[INSTALL], &docker),
            |mut daemon| {
                daemon.kill();
                None
            },
        );
        assert_told(&built);
        scene.hunt_in(&built, engine.stores());
    }
}

#[test]
fn pip_in_a_step_of_buildah_hears_of_a_daemon_that_is_gone() {
    let Some(buildah) = Buildah::find() else { return };
    let run = |command: &str| buildah_step(buildah, command);
    for flags in PATIENCE {
        let (scene, socket) = Scene::new();
        let text = installing(buildah.base(), &run, &scene.sandbox.index(), flags);
        let built = in_the_middle_of(
            &scene,
            Fault::HalfThenSilence,
            || buildah.build(&text, &[INSTALL], &socket),
            |mut daemon| {
                daemon.kill();
                None
            },
        );
        assert_told(&built);
        scene.hunt_in(&built, buildah.stores());
    }
}

#[test]
fn an_index_that_a_step_without_network_cannot_reach_is_told_and_costs_no_look_up() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    engine.valetkey();
    let (scene, flags) = Scene::without_network();
    scene.sandbox.google.add_package("acme", "private", "acme-hello", "1.0.0", &[]);
    let pip = format!(
        "valetkey exec -- python3 -m pip install --no-cache-dir --target /installed --index-url {} \
         --extra-index-url https://public.example/simple/ acme-hello",
        scene.sandbox.index()
    );
    let built = scene.build(engine, &format!("FROM {}\n{}", engine.base(), step(&pip)), &[], &flags);
    let sentence = "valetkey: cannot reach public.example:443: there is no network here, only loopback";
    assert_eq!(built.log.matches(sentence).count(), 1, "{}", built.log);
    // pip says it too, as far as it says anything.
    assert!(built.log.contains("502 cannot reach public.example:443"), "{}", built.log);
    assert!(built.log.contains("Successfully installed"), "{}", built.log);
}
