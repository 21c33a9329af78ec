//! Steps that mean harm, as a stranger's `setup.py` may: with the mounted socket, and with the port of `exec`. What they
//! use speaks the carrier by itself, and shares no code with ours.

use flate2::{Compression, write::GzEncoder};

use super::buildah::Buildah;
use super::engine::{Built, Engine, Release};
use super::scene::{SOCKET, Scene, args, buildah_step, repository, step, told_once};

const AGENT: &[u8] = include_bytes!("steps/agent.py");
const PROBE: &[u8] = include_bytes!("steps/probe.py");
const STREAMS: &[u8] = include_bytes!("steps/streams.py");
const SETUP: &str = include_str!("steps/setup.py");
const AUTHORITY: &[u8] = include_bytes!("steps/authority.py");

const SCRIPTS: [(&str, &[u8]); 4] =
    [("agent.py", AGENT), ("probe.py", PROBE), ("streams.py", STREAMS), ("authority.py", AUTHORITY)];

fn repositories_that_are_not_granted(scene: &Scene) {
    for (project, name) in [("evil", "private"), ("acme", "private-too"), ("evil", "secret")] {
        scene.sandbox.google.add_package(project, name, "evil-secret", "1.0.0", &[]);
    }
}

/// What the probes have to be told, whichever builder carried them.
#[track_caller]
fn assert_refused(scene: &Scene, built: &Built) {
    let host = scene.host();
    let line =
        |project: &str, name: &str| format!("run `valetkey docker args https://{host}/{project}/{name}`");
    for way in ["agent", "port"] {
        let says = |name: &str, statuses: &[&str], text: &str| {
            let answer = told_once(built, &format!("{way} {name}"));
            assert!(statuses.contains(&&answer[..3]), "{way} {name}: {answer}");
            assert!(answer.contains(text), "{way} {name}: {answer}");
            assert!(!answer.contains("evil-secret") && !answer.contains("ya29."), "{way} {name}: {answer}");
        };
        for name in ["stop", "reload", "status", "listeners", "credential", "metrics", "metadata", "twice"] {
            says(name, &["404"], "");
        }
        says("granted", &["200"], "acme_hello-");
        says("project", &["403"], &line("evil", "private"));
        says("prefix", &["403"], &line("acme", "private-too"));
        for name in ["stranger", "lookalike"] {
            says(name, &["404"], "is not a registry that valetkey serves");
        }
        says("climb", &["400", "404"], "");
        for name in ["up", "up-encoded", "slash", "slash-behind"] {
            says(name, &["400"], "");
        }
        for name in ["absolute", "absolute-registry"] {
            says(name, &["400", "403", "404", "501"], "");
        }
        for name in ["upload", "put", "delete"] {
            says(name, &["403"], "writing is not");
        }
    }
    // Nobody widens a grant for a stranger: each line that names the remedy names what asked, and who started that.
    let is_remedy = |line: &&str| line.contains("valetkey: ") && line.contains("run `valetkey docker args");
    let remedies: Vec<&str> = built.log.lines().filter(is_remedy).collect();
    assert!(!remedies.is_empty(), "{}", built.log);
    for remedy in remedies {
        assert!(remedy.contains(", started by python3"), "{remedy}");
        assert!(
            remedy.contains(" asked for ")
                && remedy.ends_with("(only if you know why that process asks for it)")
        );
    }
    // Nothing of it went out but what is granted.
    let requests = scene.sandbox.google.registry_requests();
    assert!(!requests.is_empty());
    for request in requests {
        let text = format!("{request:?}");
        let granted = ["/acme/private/", "/artifacts-downloads/namespaces/acme/repositories/private/"];
        assert!(granted.iter().any(|place| request.path.starts_with(place)), "{text}");
    }
    assert!(scene.sandbox.log().contains("is not granted here"));
}

/// The probes are the `setup.py` of a package in the private index, which pip builds.
fn probes(scene: &Scene, base: &str, run: &dyn Fn(&str) -> String) -> String {
    let (host, index) = (scene.host(), scene.sandbox.index());
    let package = "evil-package-1.0";
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::none()));
    for (name, content) in [("PKG-INFO", "Name: evil-package\nVersion: 1.0\n"), ("setup.py", SETUP)] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, format!("{package}/{name}"), content.as_bytes()).unwrap();
    }
    let archive = archive.into_inner().unwrap().finish().unwrap();
    let google = &scene.sandbox.google;
    google.add_file("acme", "private", "evil-package", &format!("{package}.tar.gz"), archive);
    let pip = format!("pip install --no-cache-dir --break-system-packages --index-url {index}");
    // Without isolation, since setuptools is not in this index; and with what the build prints.
    let probe =
        run(&format!("valetkey exec -- env REGISTRY={host} {pip} --no-build-isolation -v evil-package"));
    // The daemon lives on.
    let install = run(&format!("valetkey exec -- {pip} acme-hello"));
    format!("FROM {base}\nCOPY *.py /steps/\n{probe}{install}")
}

#[test]
fn a_setup_py_is_given_nothing_but_its_repository() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, flags) = Scene::without_network();
    engine.valetkey();
    repositories_that_are_not_granted(&scene);
    let text = probes(&scene, engine.base(), &step);
    assert_refused(&scene, &scene.build(engine, &text, &SCRIPTS, &flags));
}

#[test]
fn a_setup_py_in_buildah_is_given_nothing_but_its_repository() {
    let Some(buildah) = Buildah::find() else { return };
    let (scene, flags) = Scene::new();
    repositories_that_are_not_granted(&scene);
    let run = |command: &str| buildah_step(buildah, command);
    let text = probes(&scene, buildah.base(), &run);
    let built = buildah.build(&text, &SCRIPTS, &flags);
    built.assert_success();
    assert_refused(&scene, &built);
    scene.hunt(&built, &buildah.export(&built.image), buildah.stores());
}

/// Two builds' sockets in one step, so that what is guessed on one is known to be there on the other.
#[test]
fn streams_cannot_be_guessed_and_a_thousand_of_them_stop_nobody_else() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, mut flags) = Scene::without_network();
    let other = args(&scene.sandbox, &[&repository(&scene.sandbox, "private")]);
    let socket = other.iter().find_map(|word| word.strip_prefix("valetkey=")).unwrap();
    flags.extend(["--ssh".to_owned(), format!("other={socket}")]);
    let mounts = format!(
        "{} {}",
        SOCKET.replace("mode=", "target=/own,mode="),
        SOCKET.replace("id=valetkey", "id=other").replace("mode=", "target=/other,mode=")
    );
    let text = format!(
        "FROM {}\nCOPY *.py /steps/\nRUN {mounts} python3 /steps/streams.py {} /own /other\n",
        engine.base(),
        scene.host()
    );
    let built = scene.build(engine, &text, &SCRIPTS, &flags);
    let held: Vec<usize> =
        told_once(&built, "held").split(' ').map(|number| number.parse().unwrap()).collect();
    assert!((1..=412).contains(&held[0]) && held[0] + held[1] == 1000, "{held:?}");
    for name in ["other build", "afterwards"] {
        assert!(told_once(&built, name).starts_with("200 "), "{name}: {}", built.log);
    }
    assert_eq!(told_once(&built, "own build").trim(), "status 2", "full");
}

#[test]
fn the_authority_of_a_run_is_good_for_the_granted_host_alone() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, flags) = Scene::without_network();
    engine.valetkey();
    scene.mint();
    let script = step(&format!("valetkey exec -- python3 /steps/authority.py {}", scene.host()));
    let text = format!("FROM {}\nCOPY *.py /steps/\n{script}", engine.base());
    let built = scene.build(engine, &text, &SCRIPTS, &flags);
    assert!(told_once(&built, "granted").starts_with("200 accepted "), "{}", built.log);
    // Another name gets no certificate; an address in its place gets one that is not its own.
    for name in ["public.example", "localhost.public.example", "127.0.0.1"] {
        let refusal = if name == "127.0.0.1" { "CERTIFICATE_VERIFY_FAILED" } else { "ALERT_ACCESS_DENIED" };
        let answer = told_once(&built, name);
        assert!(answer.starts_with("200 refused ") && answer.contains(refusal), "{}", built.log);
    }
    // Not ours to answer: they are tunnels, and this step has no network for them.
    for name in ["public.example", "evilpkg.dev", "localhost.evilpkg.dev", "port"] {
        assert_eq!(told_once(&built, &format!("connect {name}")).trim(), "502", "{}", built.log);
    }
    assert!(scene.sandbox.google.registry_requests().is_empty());
}

/// What a step is refused stands in the build's own log, with the line to add.
#[test]
fn two_builds_at_once_get_each_its_own_repository_and_not_the_other_s() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, _) = Scene::without_network();
    engine.valetkey();
    scene.sandbox.google.add_package("acme", "other", "acme-other", "1.0.0", &[]);
    let pairs = [("private", "acme-hello", "other"), ("other", "acme-other", "private")];
    std::thread::scope(|scope| {
        for (own, package, foreign) in pairs {
            let scene = &scene;
            scope.spawn(move || {
                let sandbox = &scene.sandbox;
                let mut flags = args(sandbox, &[&repository(sandbox, own)]);
                flags.extend(["--network".to_owned(), "none".to_owned()]);
                let get = |name: &str| {
                    let index = sandbox.google.index_url("acme", name).replace("https://", "");
                    format!("wget -q -O - $HTTPS_PROXY/registry/{index}{package}/")
                };
                let (good, bad) = (get(own), get(foreign));
                let script = format!("valetkey exec -- sh -c '{good} && ! {bad}'");
                let text = format!("FROM {}\n{}", engine.small(), step(&script));
                let built = scene.build(engine, &text, &[], &flags);
                let line = format!("run `valetkey docker args https://{}/acme/{foreign}`", scene.host());
                assert!(built.log.contains(&line), "{}", built.log);
                assert!(built.log.contains(&format!("{}-1", package.replace('-', "_"))), "{}", built.log);
            });
        }
    });
}

#[test]
fn a_refusal_in_a_build_names_the_line_to_pip_s_user() {
    let Some(buildah) = Buildah::find() else { return };
    let (scene, flags) = Scene::new();
    scene.sandbox.google.add_package("acme", "other", "acme-other", "1.0.0", &[]);
    scene.mint();
    let other = scene.sandbox.google.index_url("acme", "other");
    let pip = format!("pip install --retries 0 --break-system-packages --index-url {other} acme-other");
    let text =
        format!("FROM {}\n{}", buildah.base(), buildah_step(buildah, &format!("valetkey exec -- {pip}")));
    let built = buildah.build(&text, &[], &flags);
    assert_ne!(built.code, Some(0), "{}", built.log);
    let line = format!("run `valetkey docker args https://{}/acme/other`", scene.host());
    assert!(built.log.contains(&line), "{}", built.log);
    scene.hunt_in(&built, buildah.stores());
}
