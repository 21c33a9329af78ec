//! What a build lives through: caches, many steps, tokens that end, other builds beside it, and a daemon that comes
//! and goes.

use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};

use super::buildah::Buildah;
use super::engine::{Built, Engine, PATIENCE, Release};
use super::harness::Daemon;
use super::memory;
use super::scene::{Scene, args, buildah_step, repository, step, told_once};
use super::stand_in::Fault;

const FETCH: (&str, &[u8]) = ("fetch.py", include_bytes!("steps/fetch.py"));
const LARGE: usize = 48 << 20;

/// A small step that reads the private index.
fn read(scene: &Scene, before: &str) -> String {
    let index = scene.sandbox.index().replace("https://", "");
    format!("valetkey exec -- sh -c '{before}wget -q -O - $HTTPS_PROXY/registry/{index}acme-hello/'")
}

#[test]
fn a_step_is_cached_although_socket_and_token_are_others() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, mut flags) = Scene::without_network();
    engine.valetkey();
    let google = &scene.sandbox.google;
    let text = format!("FROM {}\n{}", engine.small(), step(&read(&scene, "")));
    scene.build(engine, &text, &[], &flags);
    let (asked, tokens) = (google.registry_requests().len(), google.token_requests().len());
    google.revoke_access_tokens();
    scene.sandbox.stop();
    let mut other = args(&scene.sandbox, &[&repository(&scene.sandbox, "private")]);
    other.extend(["--network".to_owned(), "none".to_owned()]);
    assert_ne!(flags, other);
    let built = scene.build(engine, &text, &[], &other);
    assert!(built.log.contains("CACHED"), "{}", built.log);
    assert_eq!((google.registry_requests().len(), google.token_requests().len()), (asked, tokens));
    flags = other;
    flags.push("--no-cache".to_owned());
    scene.build(engine, &text, &[], &flags);
    assert!(google.registry_requests().len() > asked && google.token_requests().len() == tokens + 1);
}

#[test]
fn ten_steps_take_one_token() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, flags) = Scene::without_network();
    engine.valetkey();
    let steps: String = (0..10).map(|number| step(&read(&scene, &format!("echo {number}; ")))).collect();
    scene.build(engine, &format!("FROM {}\n{steps}", engine.small()), &[], &flags);
    let google = &scene.sandbox.google;
    assert_eq!((google.registry_requests().len(), google.token_requests().len()), (10, 1));
}

#[test]
fn a_step_outlives_its_token() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, flags) = Scene::without_network();
    engine.valetkey();
    scene.sandbox.google.set_token_lifetime(Duration::from_secs(2));
    // The length of the step is what is tested, and no synchronisation.
    let twice =
        read(&scene, "").replace("sh -c '", "sh -c 'for i in 1 2; do sleep 3; ").replace("/'", "/; done'");
    let built = scene.build(engine, &format!("FROM {}\n{}", engine.small(), step(&twice)), &[], &flags);
    assert!(built.log.matches("acme_hello-1").count() >= 2, "{}", built.log);
    let requests = scene.sandbox.google.registry_requests();
    assert!(requests.iter().filter(|request| request.status == 200).count() == 2, "{requests:#?}");
    assert!(scene.sandbox.google.token_requests().len() >= 2);
}

#[test]
fn forty_builds_at_once_are_all_served() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, flags) = Scene::without_network();
    engine.valetkey();
    let base = engine.small();
    let built: Vec<Built> = std::thread::scope(|scope| {
        let start = |number: usize| {
            let (scene, flags) = (&scene, &flags);
            scope.spawn(move || {
                let read = read(scene, &format!("echo {number}; "));
                engine.build(&format!("FROM {base}\n{}", step(&read)), &[], flags)
            })
        };
        let running: Vec<_> = (0..40).map(start).collect();
        running.into_iter().map(|build| build.join().unwrap()).collect()
    });
    for built in &built {
        built.assert_success();
        assert!(built.log.contains("acme_hello-1"), "{}", built.log);
    }
    scene.hunt(&built[0], &engine.export(&built[0].image), engine.stores());
    let google = &scene.sandbox.google;
    assert_eq!((google.registry_requests().len(), google.token_requests().len()), (40, 1));
}

/// A builder that has much to do brings a connection late, or never.
#[test]
fn a_socket_that_is_silent_at_first_is_asked_again() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, flags) = Scene::without_network();
    engine.valetkey();
    let silent_first = |connections: usize| silenced(&scene, &flags, connections);
    let text = format!("FROM {}\n{}", engine.small(), step(&read(&scene, "")));
    let built = scene.build(engine, &text, &[], &silent_first(1));
    assert!(built.log.contains("acme_hello-1"), "{}", built.log);

    let mut flags = silent_first(usize::MAX);
    flags.push("--no-cache".to_owned());
    let built = engine.build(&text, &[], &flags);
    assert_ne!(built.code, Some(0), "{}", built.log);
    let sentence = "error: no answer in time through the agent socket /run/buildkit/ssh_agent.0";
    assert!(built.log.contains(sentence) && built.log.contains("run this step again"), "{}", built.log);
}

/// The same flags with a socket in between, whose first connections get no answer.
fn silenced(scene: &Scene, flags: &[String], connections: usize) -> Vec<String> {
    let socket = flags.iter().find_map(|flag| flag.strip_prefix("valetkey=")).expect("a socket");
    let (path, real) = (scene.sandbox.path(&format!("silent-{connections}")), socket.to_owned());
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for line in listener.incoming().map_while(Result::ok) {
            if silent.len() < connections {
                silent.push(line);
                continue;
            }
            let host = UnixStream::connect(&real).unwrap();
            let both = [(line.try_clone().unwrap(), host.try_clone().unwrap()), (host, line)];
            for (mut from, mut to) in both {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    flags.iter().map(|flag| flag.replace(socket, &path.display().to_string())).collect()
}

/// A build in the middle of a large download while something is done outside, which comes back with the daemon that
/// goes on.
fn in_the_middle<'a>(
    scene: &'a Scene,
    build: impl FnOnce() -> Built + Send,
    act: impl FnOnce(Daemon<'a>) -> Option<Daemon<'a>>,
) -> Built {
    // Without a strong validator nothing may be resumed.
    let validator = Fault::Headers(vec![("etag", "\"the-only-one\"")]);
    in_the_middle_of(scene, validator, build, act)
}

/// The same with a download that the registry gives in this way.
pub(super) fn in_the_middle_of<'a>(
    scene: &'a Scene,
    given: Fault,
    build: impl FnOnce() -> Built + Send,
    act: impl FnOnce(Daemon<'a>) -> Option<Daemon<'a>>,
) -> Built {
    let google = &scene.sandbox.google;
    google.add_large_package("acme", "private", "acme-large", "1.0.0", LARGE);
    google.registry_fault_always("/artifacts-downloads/", given);
    scene.sandbox.make_room();
    let daemon = scene.serve();
    std::thread::scope(|scope| {
        let build = scope.spawn(build);
        let give_up = Instant::now() + PATIENCE;
        while !google.registry_requests().iter().any(|request| request.path.contains("acme-middle")) {
            assert!(!build.is_finished(), "{}", build.join().unwrap().log);
            assert!(Instant::now() < give_up, "the step never came to its middle");
            std::thread::sleep(Duration::from_millis(20));
        }
        let _daemon = act(daemon);
        google.add_package("acme", "private", "acme-onward", "1.0.0", &[]);
        build.join().unwrap()
    })
}

#[track_caller]
fn assert_whole(scene: &Scene, built: &Built) {
    built.assert_success();
    let wheel = "acme_large-1.0.0-py3-none-any.whl";
    let content = scene.sandbox.google.file("acme", "private", "acme-large", wheel).unwrap();
    let digest = digest(&SHA256, &content);
    let hex: Vec<_> = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let hex = hex.concat();
    assert_eq!(told_once(built, "digest").trim(), hex);
}

fn fetching(base: &str, run: &dyn Fn(&str) -> String, index: &str, mark: &str) -> String {
    let fetch = run(&format!("valetkey exec -- python3 /fetch.py {index} {mark}"));
    format!("FROM {base}\nCOPY fetch.py /\n{fetch}")
}

fn docker_step_goes_on_after(end: impl FnOnce(&mut Daemon<'_>)) {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, flags) = Scene::without_network();
    engine.valetkey();
    let text = fetching(engine.base(), &step, &scene.sandbox.index(), "");
    let built = in_the_middle(
        &scene,
        || engine.build(&text, &[FETCH], &flags),
        |mut daemon| {
            end(&mut daemon);
            drop(daemon);
            Some(scene.serve())
        },
    );
    assert_whole(&scene, &built);
    scene.hunt(&built, &engine.export(&built.image), engine.stores());
}

#[test]
fn a_step_of_docker_goes_on_when_the_daemon_is_restarted_in_its_middle() {
    docker_step_goes_on_after(|daemon| {
        daemon.terminate();
    });
}

#[test]
fn a_step_of_docker_goes_on_when_the_daemon_is_killed_in_its_middle() {
    docker_step_goes_on_after(|daemon| {
        daemon.kill();
    });
}

#[test]
fn a_step_of_docker_ends_with_a_sentence_when_the_daemon_does_not_come_back() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, flags) = Scene::without_network();
    engine.valetkey();
    let text = fetching(engine.base(), &step, &scene.sandbox.index(), "");
    let text = text.replace("COPY", "ENV HASTE=1\nCOPY");
    let built = in_the_middle(
        &scene,
        || engine.build(&text, &[FETCH], &flags),
        |mut daemon| {
            daemon.kill();
            None
        },
    );
    assert_ne!(built.code, Some(0), "{}", built.log);
    assert!(built.log.contains(".whl was broken off in the middle: "), "{}", built.log);
    scene.hunt_in(&built, engine.stores());
}

/// buildah dials the socket once a step.
#[test]
fn a_step_of_buildah_ends_with_a_sentence_when_the_daemon_is_killed_in_its_middle() {
    let Some(buildah) = Buildah::find() else { return };
    let (scene, flags) = Scene::new();
    let run = |command: &str| buildah_step(buildah, command);
    let text = fetching(buildah.base(), &run, &scene.sandbox.index(), "");
    let text = text.replace("COPY", "ENV HASTE=1\nCOPY");
    let built = in_the_middle(
        &scene,
        || buildah.build(&text, &[FETCH], &flags),
        |mut daemon| {
            daemon.kill();
            drop(daemon);
            Some(scene.serve())
        },
    );
    assert_ne!(built.code, Some(0), "{}", built.log);
    assert!(built.log.contains(".whl was broken off in the middle: "), "{}", built.log);
    scene.hunt_in(&built, buildah.stores());
}

/// Read from outside, as root can.
#[test]
fn no_token_is_in_the_memory_of_a_step_while_it_runs() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, flags) = Scene::without_network();
    engine.valetkey();
    let mark = format!("mark-{:032x}", rand::random::<u128>());
    let text = fetching(engine.base(), &step, &scene.sandbox.index(), &mark);
    let secrets = || scene.sandbox.google.secrets();
    let built = in_the_middle(
        &scene,
        || engine.build(&text, &[FETCH], &flags),
        |daemon| {
            // The search finds what there is: the token where it is held, and the mark in the step.
            let (_, found) = memory::search(daemon.pid(), &secrets());
            assert!(!found.is_empty(), "the daemon holds a token");
            let (processes, found) = memory::search_marked(&mark, std::slice::from_ref(&mark));
            assert!(processes >= 2 && !found.is_empty(), "valetkey and python: {processes}");
            let (_, found) = memory::search_marked(&mark, &secrets());
            assert!(found.is_empty(), "{found:?}");
            Some(daemon)
        },
    );
    assert_whole(&scene, &built);
    scene.hunt(&built, &engine.export(&built.image), engine.stores());
}
