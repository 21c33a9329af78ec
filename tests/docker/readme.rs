//! The README's chapter "Docker" as it is printed: its commands, its step and its rows for other builders are read from
//! it and run, with the names of repositories put in. What it says cannot drift from what works.

use std::fs;
use std::path::PathBuf;

use super::engine::{Built, Engine, PATIENCE, Release, assert_success, shell, unique};
use super::harness::{Run, Sandbox};
use super::podman::Podman;
use super::prepared;
use super::process::{run, run_together};
use super::scene::{Scene, repository};

/// The chapter, whatever is around it.
pub(crate) struct Chapter(String);

impl Chapter {
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string(prepared::root().join("README.md")).unwrap();
        let (_, chapter) = text.split_once("\n## Docker\n").expect("the chapter");
        Self(chapter.split("\n## ").next().unwrap().to_owned())
    }

    /// The one indented line that begins so.
    #[track_caller]
    pub(crate) fn command(&self, start: &str) -> String {
        let lines: Vec<_> =
            self.0.lines().filter_map(|line| line.strip_prefix("    ")?.strip_prefix(start)).collect();
        assert_eq!(lines.len(), 1, "{start:?} is printed once");
        format!("{start}{}", lines[0])
    }

    /// The blocks of a language.
    pub(crate) fn blocks(&self, language: &str) -> Vec<String> {
        let fence = format!("```{language}\n");
        self.0.split(&fence).skip(1).map(|part| part.split("```").next().unwrap().to_owned()).collect()
    }

    /// The first code of the second column, in the row whose first column begins so.
    #[track_caller]
    pub(crate) fn row(&self, start: &str) -> String {
        self.codes_of(start).remove(0)
    }

    /// The second one there.
    #[track_caller]
    pub(crate) fn second(&self, start: &str) -> String {
        self.codes_of(start).remove(1)
    }

    #[track_caller]
    fn codes_of(&self, start: &str) -> Vec<String> {
        let row = self.0.lines().find(|line| line.starts_with(&format!("| {start}"))).expect("the row");
        codes(row.split(" | ").nth(1).unwrap())
    }

    /// The one piece of code in the running text that begins so.
    #[track_caller]
    pub(crate) fn code(&self, start: &str) -> String {
        let text: String = self.0.split("```").step_by(2).collect();
        let mut found: Vec<_> = codes(&text).into_iter().filter(|code| code.starts_with(start)).collect();
        found.dedup();
        assert_eq!(found.len(), 1, "{start:?} is printed once: {found:?}");
        found.remove(0)
    }

    /// A step as it is printed, behind a base and the list of what is wanted.
    pub(crate) fn dockerfile(&self, base: &str) -> String {
        around(base, &self.blocks("dockerfile")[0])
    }
}

/// Debian's pip wants to be told that an image is no machine of somebody.
fn around(base: &str, step: &str) -> String {
    format!(
        "FROM {base}\nENV PIP_BREAK_SYSTEM_PACKAGES=1\nCOPY requirements.txt .\n{step}\
         RUN python3 -c 'import acme_hello; print(acme_hello.MESSAGE)'\n"
    )
}

fn codes(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Puts the sandbox's repository in the place of the one that is printed.
#[track_caller]
pub(crate) fn named(scene: &Scene, text: &str) -> String {
    const PRINTED: &str = "europe-west1/PROJECT/REPOSITORY";
    assert!(text.contains(PRINTED), "{text}");
    text.replace(PRINTED, &repository(&scene.sandbox, "private"))
}

/// Somebody who is signed in, and no more.
pub(crate) fn scene() -> Scene {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    Scene { sandbox, flags: Vec::new() }
}

/// What the lasting sockets give, as the chapter's own configuration says it, but for its listeners.
pub(crate) fn terms(scene: &Scene) -> String {
    let printed = Chapter::read().blocks("toml").into_iter().find(|block| block.starts_with("[build]"));
    let printed = named(scene, &printed.expect("[build] is printed"));
    printed.split("[[listener]]").next().unwrap().to_owned()
}

/// A directory with a Dockerfile and what it installs.
pub(crate) fn project(scene: &Scene, dockerfile: &str) -> PathBuf {
    scene.sandbox.write("home/project/Dockerfile", dockerfile);
    let wanted = format!("--index-url {}\nacme-hello\n", scene.sandbox.index());
    scene.sandbox.write("home/project/requirements.txt", &wanted);
    scene.sandbox.path("home/project")
}

/// A build that said the name of its image itself.
pub(crate) fn built(run: &Run, image: &str) -> Built {
    let log = format!("{}{}", run.stdout, run.stderr);
    Built { code: run.code, log, image: image.to_owned(), took: run.took }
}

/// Runs a shell in the project, which has to build an image that holds the private package, and to print no secret.
#[track_caller]
fn build_in(engine: &Engine, scene: &Scene, script: &str, image: Option<&str>) -> Built {
    let mut command = engine.shell(&scene.sandbox, script);
    let run = run_together(command.current_dir(scene.sandbox.path("home/project")), PATIENCE);
    let id = run.stdout.split("writing image ").nth(1).and_then(|text| text.split_whitespace().next());
    let name = image.or(id).unwrap_or_default();
    let built = built(&run, name);
    built.assert_success();
    assert!(built.log.contains("hello from a private index"), "{}: {}", engine.version, built.log);
    scene.hunt_in(&built, Vec::new());
    built
}

#[test]
fn the_build_runs_as_printed_on_every_engine() {
    if prepared::static_program().is_none() {
        return;
    }
    let chapter = Chapter::read();
    for engine in Engine::all() {
        let scene = scene();
        project(&scene, &chapter.dockerfile(engine.base()));
        let printed = named(&scene, &chapter.command("docker build $(valetkey docker args"));
        // What is printed for the build says the same as the README, and whether the program has to be loaded first.
        let args = printed.split(['(', ')']).nth(1).unwrap();
        let said = run(&mut engine.shell(&scene.sandbox, args), PATIENCE);
        assert_success(&said);
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert!(words(&said.stderr).contains(&words(&chapter.blocks("dockerfile")[0])), "{said:?}");
        let is_loaded = engine.release == Release::Installed;
        assert_eq!(!said.stdout.contains(" --build-context valetkey="), is_loaded, "{said:?}");
        let load = chapter.command("valetkey docker image");
        if is_loaded {
            assert_success(&run(&mut engine.shell(&scene.sandbox, &load), PATIENCE));
        }
        // Nobody is told to load what is there.
        let said = run(&mut engine.shell(&scene.sandbox, args), PATIENCE);
        assert_success(&said);
        assert!(!said.stderr.contains("load"), "{said:?}");
        let built = build_in(engine, &scene, &printed, None);
        scene.hunt(&built, &engine.export(&built.image), engine.stores());
        assert_eq!(built.log.contains("[context valetkey.invalid/valetkey]"), !is_loaded, "{}", built.log);
        if engine.release == Release::Sid {
            let other = printed.replacen("docker build", "docker buildx build --no-cache", 1);
            build_in(engine, &scene, &other, None);
        }
    }
}

/// Nobody has signed in there, and no daemon runs: a variable says whose token it is.
#[test]
fn ci_builds_as_printed() {
    if prepared::static_program().is_none() {
        return;
    }
    let chapter = Chapter::read();
    let (command, export) = (chapter.row("CI"), chapter.second("CI"));
    for engine in [Release::Installed, Release::Sid].into_iter().filter_map(Engine::of) {
        let scene = Scene { sandbox: Sandbox::new(), flags: Vec::new() };
        engine.valetkey();
        project(&scene, &chapter.dockerfile(engine.base()));
        assert!(scene.sandbox.service_account().ends_with("home/key.json"));
        let command = command.replace("REPO", &repository(&scene.sandbox, "private"));
        let built = build_in(engine, &scene, &format!("{export}\n{command}"), None);
        scene.hunt(&built, &engine.export(&built.image), engine.stores());
    }
}

#[test]
fn compose_builds_as_printed() {
    if prepared::static_program().is_none() {
        return;
    }
    let chapter = Chapter::read();
    for engine in [Release::Trixie, Release::Sid].into_iter().filter_map(Engine::of) {
        let scene = scene();
        scene.sandbox.configure(&terms(&scene));
        let _daemon = scene.serve();
        engine.valetkey();
        let directory = project(&scene, &chapter.dockerfile(engine.base()));
        let image = unique("composed");
        let build = chapter.row("compose");
        let text = format!("services:\n  app:\n    image: {image}\n    {build}\n");
        fs::write(directory.join("compose.yaml"), text).unwrap();
        build_in(engine, &scene, "docker compose --progress plain build", Some(&image));
    }
}

/// Both builders share their images, so one loads the program for both.
#[test]
fn podman_and_buildah_build_as_printed() {
    let (Some(_), Some(podman)) = (prepared::static_program(), Podman::find()) else { return };
    let chapter = Chapter::read();
    let buildah = podman.buildah;
    let scene = scene();
    scene.sandbox.configure(&terms(&scene));
    let _daemon = scene.serve();
    let directory = project(&scene, &chapter.dockerfile(buildah.base()));
    podman.put_on_path(&scene.sandbox);
    let script = |text: &str| {
        let mut command = shell(&scene.sandbox, text);
        run_together(command.current_dir(&directory), PATIENCE)
    };
    assert_success(&script(&chapter.code("valetkey docker image | podman")));
    let flags = chapter.row("`buildah bud`, `podman build`");
    for (number, builder) in ["buildah bud", "podman build"].into_iter().enumerate() {
        let image = format!("localhost/{}", unique("printed"));
        let run = script(&format!("{builder} --network host --tag {image} {flags} ."));
        let built = built(&run, &image);
        built.assert_success();
        // What a short step prints, buildah loses at times; that the package is there, the last step's end says.
        let requests = scene.sandbox.google.registry_requests().into_iter();
        let fetched = requests.filter(|it| it.path == "/acme/private/simple/acme-hello/").count();
        assert_eq!(fetched, number + 1, "{builder}: {}", built.log);
        scene.hunt(&built, &buildah.export(&image), buildah.stores());
    }
}

/// The token is in the step, and nowhere else: neither in the image nor in what the engine keeps.
#[test]
fn a_token_file_is_mounted_as_printed() {
    if prepared::static_program().is_none() {
        return;
    }
    let chapter = Chapter::read();
    let make = chapter.command("valetkey token --format json");
    let command = chapter.command("docker build --secret");
    let step = &chapter.blocks("dockerfile")[1];
    for engine in [Release::Installed, Release::Sid].into_iter().filter_map(Engine::of) {
        let scene = scene();
        engine.valetkey();
        // Only the host of these tests is not one of Google's, so only here the step has to be told of it.
        let configuration =
            fs::read_to_string(scene.sandbox.path("home/.config/valetkey/config.toml")).unwrap();
        let ca = scene.sandbox.path("ca.pem").display().to_string();
        let step =
            format!("COPY config.toml ca.pem /etc/valetkey/\nENV PIP_CERT=/etc/valetkey/ca.pem\n{step}");
        let directory = project(&scene, &around(engine.base(), &step));
        fs::write(directory.join("config.toml"), configuration.replace(&ca, "/etc/valetkey/ca.pem")).unwrap();
        fs::copy(scene.sandbox.path("ca.pem"), directory.join("ca.pem")).unwrap();
        fs::write(
            directory.join("requirements.txt"),
            format!("--index-url {}\nacme-hello\n", scene.sandbox.index_with_user()),
        )
        .unwrap();
        let script = format!("{make}; {}", command.replace("docker build", "docker build --network host"));
        let built = build_in(engine, &scene, &script, None);
        scene.hunt(&built, &engine.export(&built.image), engine.stores());
        fs::remove_file(scene.sandbox.path("run/token.json")).unwrap();
    }
}

/// Needs no builder, but belongs to the chapter.
#[test]
fn the_printed_policy_is_understood() {
    let blocks = Chapter::read().blocks("toml");
    let [_, policy] = &blocks[..] else { panic!("{blocks:?}") };
    let policy: valetkey::config::policy::Policy = toml::from_str(policy).unwrap();
    assert!(policy.repositories.is_some() && policy.oauth_client.is_some(), "{policy:?}");
}
