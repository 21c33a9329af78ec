//! Whom `exec` serves in a step: root's step becomes other users, and the engine lets root look into none of them.

use std::path::Path;

use super::engine::{Engine, Release};
use super::scene::{Scene, step, told_once};

const BECOME: &[u8] = include_bytes!("steps/become.py");

fn text(scene: &Scene, engine: &Engine) -> String {
    let page = format!("https://{}/acme/private/simple/acme-hello/", scene.host());
    let script = step(&format!("valetkey exec -- python3 /steps/become.py {page}"));
    format!("FROM {}\nCOPY become.py /steps/\n{script}", engine.base())
}

#[test]
fn the_users_that_root_becomes_in_a_step_are_served() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, flags) = Scene::without_network();
    engine.valetkey();
    let built = scene.build(engine, &text(&scene, engine), &[("become.py", BECOME)], &flags);
    for name in ["root", "program", "dropped"] {
        assert_eq!(told_once(&built, name), "200", "{name}: {}", built.log);
    }
}

#[test]
fn on_the_hosts_network_a_user_who_cannot_be_seen_is_refused_with_the_reason() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, mut flags) = Scene::new();
    engine.valetkey();
    flags.extend(["--network".to_owned(), "host".to_owned()]);
    let built = scene.build(engine, &text(&scene, engine), &[("become.py", BECOME)], &flags);
    assert_eq!(told_once(&built, "root"), "200", "{}", built.log);
    // The tests may run on a network of their own, which is no host's.
    let on_host = Path::new("/proc/sys/net/core/netdev_max_backlog").exists();
    for name in ["program", "dropped"] {
        let answer = told_once(&built, name);
        assert_eq!(answer != "200", on_host, "{name}: {}", built.log);
        assert!(!on_host || answer.contains("403"), "{name}: {}", built.log);
    }
    let reason = "uid 1234 is one of this command's, but on the host's network it may be somebody else's too";
    assert_eq!(built.log.contains(reason), on_host, "{}", built.log);
}
