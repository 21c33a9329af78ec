//! `valetkey docker args` and the builders: what they make of its failure, by which name they find the program, whether
//! it has to be loaded, and when the socket ends.

use super::buildah::Buildah;
use super::engine::{Engine, PATIENCE, Release, assert_success, shell, unique};
use super::harness::Sandbox;
use super::podman::Podman;
use super::prepared;
use super::process::{run, run_together};
use super::readme::scene;
use super::scene::{PROGRAM, SOCKET, Scene, buildah_step, repository, step, told_once};

/// `$(…)` hides the exit code, so the flag has to stop the build.
#[test]
fn every_builder_refuses_a_build_whose_docker_args_failed_and_prints_why() {
    if prepared::static_program().is_none() {
        return;
    }
    let assert_stopped = |run: &super::harness::Run, what: &str| {
        assert_ne!(run.code, Some(0), "{what}: {run:?}");
        // The sentence of valetkey's own, and the builder's.
        assert!(run.stdout.contains("\"nonsense\" is not a repository"), "{what}: {run:?}");
        assert!(run.stdout.contains(&format!("unknown flag: {FLAG}")), "{what}: {run:?}");
    };
    let scene = scene();
    scene.sandbox.write("home/project/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    scene.sandbox.write("home/project/compose.yaml", "services: {app: {build: .}}\n");
    for engine in Engine::all() {
        for words in ["build", "buildx build", "buildx bake", "compose build"] {
            let script = format!("docker {words} $(valetkey docker args nonsense) .");
            let mut command = engine.shell(&scene.sandbox, &script);
            let run = run_together(command.current_dir(scene.sandbox.path("home/project")), PATIENCE);
            assert_stopped(&run, &format!("{} {words}", engine.version));
        }
    }
    let Some(podman) = Podman::find() else { return };
    podman.put_on_path(&scene.sandbox);
    for builder in ["buildah bud", "podman build"] {
        let mut command = shell(&scene.sandbox, &format!("{builder} $(valetkey docker args nonsense) ."));
        let run = run_together(command.current_dir(scene.sandbox.path("home/project")), PATIENCE);
        assert_stopped(&run, builder);
    }
}

/// Where it is neither loaded nor given as a context, the program comes from nowhere, and not from somebody's repository
/// of that name on the public hub.
#[test]
fn what_is_below_our_name_is_looked_for_where_nothing_can_be() {
    for engine in Engine::all() {
        let name = unique("nothing");
        let program = PROGRAM.replace("invalid/valetkey", &format!("invalid/{name}"));
        assert_ne!(program, PROGRAM);
        let text = format!("FROM {}\nRUN {program} valetkey --version\n", engine.small());
        let built = engine.build(&text, &[], &[]);
        assert_ne!(built.code, Some(0), "{}", built.log);
        assert!(built.log.contains(&format!("https://valetkey.invalid/v2/{name}/")), "{}", built.log);
        assert!(!built.log.contains(&format!("library/{name}")), "{}", built.log);
    }
}

#[test]
fn dockerfiles_of_earlier_versions_find_the_program_by_its_short_name() {
    if prepared::static_program().is_none() {
        return;
    }
    for engine in [Release::Installed, Release::Sid].into_iter().filter_map(Engine::of) {
        let scene = scene();
        let printed = run(&mut engine.shell(&scene.sandbox, &args(&scene)), PATIENCE);
        assert_success(&printed);
        engine.valetkey();
        let flags: Vec<_> = printed.stdout.split_whitespace().map(str::to_owned).collect();
        let program = PROGRAM.replace("valetkey.invalid/", "");
        let text = format!("FROM {}\nRUN {SOCKET} {program} valetkey --version\n", engine.small());
        engine.build(&text, &[], &flags).assert_success();
    }
}

fn args(scene: &Scene) -> String {
    format!("valetkey docker args {}", repository(&scene.sandbox, "private"))
}

/// A client of an engine before build contexts, which says this of the image.
fn said_of(scene: &Scene, image: &str) -> String {
    let script = format!(
        "#!/bin/sh\ncase $1 in build) echo '--ssh stringArray';; image) {image};; *) exit 9;; esac\n"
    );
    scene.sandbox.script("docker", &script);
    let run = run(&mut shell(&scene.sandbox, &args(scene)), PATIENCE);
    assert_success(&run);
    assert!(!run.stdout.contains("--build-context"), "{run:?}");
    run.stderr
}

#[test]
fn whoever_has_no_or_another_program_loaded_is_told_to_load_this_one() {
    if prepared::static_program().is_none() {
        return;
    }
    let scene = scene();
    let first = format!("load the program first, once: {LOAD}\n");
    assert!(said_of(&scene, "echo 'No such image' >&2; exit 1").ends_with(&first));
    let layers = r#"{"layers":["sha256:0123"],"labels":"#;
    let label = r#"{"org.opencontainers.image.version":"0.0.9"}"#;
    let said = said_of(&scene, &format!("echo '{layers}{label}}}'"));
    let other = "the image valetkey.invalid/valetkey is that of another valetkey";
    assert!(said.ends_with(&format!("{other}, 0.0.9; load this one: {LOAD}\n")), "{said}");
    let said = said_of(&scene, &format!("echo '{layers}null}}'"));
    assert!(said.ends_with(&format!("{other}; load this one: {LOAD}\n")), "{said}");
    // A client that hangs is not waited for.
    assert!(said_of(&scene, "exec sleep 600").ends_with(&first));
}

/// Another user than root, and the mount is root's: the socket is there.
#[test]
fn a_step_that_may_not_open_the_socket_hears_which_word_is_missing() {
    if prepared::static_program().is_none() {
        return;
    }
    let closed = |command: &str, target: &str| {
        step(command).replace(",mode=0666", target).replace("RUN", "USER 1000\nRUN")
    };
    let assert_told = |log: &str| {
        assert!(log.contains("is there, and uid 1000 may not open it"), "{log}");
        assert!(log.contains("add `mode=0666` to that mount"), "{log}");
        assert!(!log.contains("valetkey serve"), "{log}");
    };
    for engine in Engine::all() {
        engine.valetkey();
        for target in ["", ",target=/run/mine.sock"] {
            let (scene, flags) = Scene::without_network();
            let text = format!("FROM {}\n{}", engine.small(), closed("valetkey exec -- true", target));
            let built = engine.build(&text, &[], &flags);
            assert_ne!(built.code, Some(0), "{}", built.log);
            assert_told(&built.log);
            // And that word is the one.
            let open = text.replace("required=true", "required=true,mode=0666");
            let built = engine.build(&open, &[], &flags);
            built.assert_success();
            scene.mint();
        }
    }
    // buildah mounts it for the user of the step.
    let Some(buildah) = Buildah::find() else { return };
    let (scene, flags) = Scene::new();
    let text = buildah_step(buildah, "valetkey exec -- true").replace(",mode=0666", "");
    let text = format!("FROM {}\n{}", buildah.small(), text.replace("RUN", "USER 1000\nRUN"));
    buildah.build(&text, &[], &flags).assert_success();
    scene.mint();
}

/// The process that dialled the socket is the builder's client, which lives as long as its build.
#[test]
fn the_socket_ends_a_while_after_its_build_and_not_within_it() {
    let (Some(_), Some(engine)) = (prepared::static_program(), Engine::of(Release::Installed)) else {
        return;
    };
    let (scene, flags) = Scene::without_network();
    engine.valetkey();
    let socket = flags.iter().find_map(|flag| flag.strip_prefix("valetkey=")).unwrap();
    let socket = std::path::PathBuf::from(socket);
    let index = scene.sandbox.index().replace("https://", "");
    let read = format!("valetkey exec -- sh -c 'wget -q -O - $HTTPS_PROXY/registry/{index}acme-hello/'");
    // Longer than the grace of a socket whose build is over.
    let pause = "RUN sleep 80; echo '<pause>' over\n";
    let text =
        format!("FROM {}\n{}{pause}{}", engine.small(), step(&read), step(&read.replace("-c '", "-c ': ; ")));
    let built = engine.build(&text, &[], &[flags, vec!["--no-cache".to_owned()]].concat());
    built.assert_success();
    assert_eq!(told_once(&built, "pause").trim(), "over");
    let give_up = std::time::Instant::now() + PATIENCE;
    while socket.exists() {
        assert!(std::time::Instant::now() < give_up, "the socket of a build that is over stays");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let list = std::fs::read_to_string(scene.sandbox.runtime().join("listeners.json")).unwrap();
    assert!(!list.contains("build-"), "{list}");
    Sandbox::wait_until("the daemon is well", || scene.sandbox.socket().exists());
    scene.mint();
}

const FLAG: &str = "--valetkey-docker-args-failed--is-not-a-repository";
const LOAD: &str = "`valetkey docker image | docker load`";
