//! Who is served, by the kernel's word: the daemon is an ordinary user's here, and containers run as root, as another
//! user, and with users remapped. The directory is mounted as the README has it, and found where it is mounted.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::engine::{Engine, PATIENCE, REMAPPED, Release, assert_success};
use super::harness::{Run, Sandbox};
use super::prepared;
use super::process::run;
use super::readme::{Chapter, built, named, project, scene};
use super::scene::{Scene, repository};

/// The daemon of [`OWNER`], to whom the system gave the uids from [`REMAPPED`] on. Ends with the value.
struct Owner<'a> {
    scene: &'a Scene,
    child: Child,
}

impl<'a> Owner<'a> {
    /// `None` says why on standard error.
    fn serve(scene: &'a Scene, configuration: &str) -> Self {
        let sandbox = &scene.sandbox;
        let program = prepared::static_program().expect("the static program");
        let own = sandbox.copy(program, "bin/own");
        sandbox.configure(configuration);
        let table = sandbox.write("subuid", &format!("{OWNER}:{REMAPPED}:65536\n"));
        fs::set_permissions(&table, fs::Permissions::from_mode(0o644)).unwrap();
        let owner = format!("{OWNER}:{OWNER}");
        assert_success(&run(Command::new("chown").args(["-R", &owner]).arg(sandbox.path("")), PATIENCE));
        let script = format!("mount --bind \"$0\" /etc/subuid && exec {AS_OWNER} \"$@\"");
        let log = fs::File::create(sandbox.path("serve.log")).unwrap();
        let mut command = sandbox.command("/usr/bin/unshare");
        command
            .args(["--mount", "sh", "-c", &script])
            .arg(table)
            .arg(own)
            .arg("serve")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stderr(log);
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let owner = Self { scene, child };
        let socket = sandbox.runtime().join("container/valetkey.sock");
        Sandbox::wait_until("the daemon serves", || UnixStream::connect(&socket).is_ok());
        owner
    }

    /// Writes the configuration anew and has the daemon read it.
    fn reload(&self, configuration: &str) {
        let sandbox = &self.scene.sandbox;
        sandbox.configure(configuration);
        let script = format!("exec {AS_OWNER} {} reload", sandbox.path("bin/own").display());
        let mut command = sandbox.command("/bin/sh");
        command.args(["-c", &script]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        assert_success(&sandbox.run(&mut command));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scene.sandbox.path("serve.log")).unwrap_or_default()
    }
}

impl Drop for Owner<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.scene.sandbox.hear(self.log().as_bytes());
    }
}

/// `docker run` with the directory mounted as it is printed, and these flags.
fn ask(engine: &Engine, scene: &Scene, flags: &str) -> Run {
    let sandbox = &scene.sandbox;
    let index = sandbox.index().replace("https://", "");
    let script = format!(
        "#!/bin/sh\nvaletkey exec -- sh -c 'wget -q -O - $HTTPS_PROXY/registry/{index}acme-hello/' 2>&1\n"
    );
    let script = sandbox.script("ask", &script);
    let program = prepared::static_program().unwrap();
    let mount = Chapter::read().row("dev containers, `docker run`");
    let command = format!(
        "docker run --rm --network none {mount} -v {}:/usr/bin/valetkey:ro -v {}:/ask:ro {flags} {} /ask",
        program.display(),
        script.display(),
        engine.small()
    );
    let run = run(&mut engine.shell(sandbox, &command), PATIENCE);
    sandbox.hear(run.stdout.as_bytes());
    run
}

#[track_caller]
fn assert_served(run: &Run) {
    assert_success(run);
    assert!(run.stdout.contains("acme_hello-"), "{run:?}");
}

/// Comes back with the line to add.
#[track_caller]
fn refused(run: &Run, uid: u32) -> String {
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(!run.stdout.contains("acme_hello-"), "{run:?}");
    let line = format!("peers = [{uid}]");
    // Beside others another list would lose them.
    let printed = [format!("[build] {line}"), format!("add {uid} to the `peers` of [build] at ")];
    assert!(printed.iter().any(|printed| run.stdout.contains(printed)), "{run:?}");
    line
}

fn terms(scene: &Scene) -> String {
    format!("[build]\nrepositories = [\"{}\"]\n", repository(&scene.sandbox, "private"))
}

#[test]
fn root_is_served_and_another_user_once_the_printed_line_is_added() {
    if prepared::static_program().is_none() {
        return;
    }
    for engine in Engine::all() {
        let scene = scene();
        let terms = terms(&scene);
        let owner = Owner::serve(&scene, &terms);
        assert_served(&ask(engine, &scene, ""));
        let line = refused(&ask(engine, &scene, "--user 4711"), 4711);
        owner.reload(&format!("{terms}{line}\n"));
        assert_served(&ask(engine, &scene, "--user 4711"));
        for uid in [0, 4711] {
            assert!(owner.log().contains(&format!("\"uid\":{uid},")), "{}", owner.log());
        }
    }
}

/// The kernel says a remapped root's uid on the host, whatever it is inside.
#[test]
fn a_remapped_root_is_served_once_it_is_added_and_subuid_adds_all_of_them() {
    if prepared::static_program().is_none() {
        return;
    }
    for engine in Release::ALL.into_iter().filter_map(Engine::remapped) {
        let scene = scene();
        let terms = terms(&scene);
        let owner = Owner::serve(&scene, &terms);
        let line = refused(&ask(engine, &scene, ""), REMAPPED);
        refused(&ask(engine, &scene, "--user 4711"), REMAPPED + 4711);
        owner.reload(&format!("{terms}{line}\n"));
        assert_served(&ask(engine, &scene, ""));
        refused(&ask(engine, &scene, "--user 4711"), REMAPPED + 4711);
        owner.reload(&format!("{terms}peers = [\"subuid\"]\n"));
        assert_served(&ask(engine, &scene, ""));
        assert_served(&ask(engine, &scene, "--user 4711"));
        // Those of the table, and no other: the real root of the host is one by itself.
        let Some(plain) = Engine::of(engine.release) else { continue };
        assert_served(&ask(plain, &scene, &format!("--user {}", REMAPPED + 65_535)));
        refused(&ask(plain, &scene, &format!("--user {}", REMAPPED + 65_536)), REMAPPED + 65_536);
    }
}

/// A port is as the README has it, but for its number. A container with the host's network reaches it.
#[test]
fn another_user_is_refused_at_a_port_until_it_is_added() {
    let (Some(_), Some(engine)) = (prepared::static_program(), Engine::of(Release::Installed)) else {
        return;
    };
    let scene = scene();
    let sandbox = &scene.sandbox;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let blocks = Chapter::read().blocks("toml");
    let printed = blocks.iter().find_map(|block| block.split_once("[[listener]]")).expect("a listener").1;
    let listener = named(&scene, &format!("[[listener]]{printed}")).replace("8127", &port.to_string());
    let owner = Owner::serve(&scene, &listener);
    let index = format!("/registry/{}acme-hello/", sandbox.index().replace("https://", ""));
    let get = |uid: u32| {
        let request = format!(
            "import http.client as http; it = http.HTTPConnection('127.0.0.1', {port}); it.request('GET', '{index}'); \
             it = it.getresponse(); print(it.status, it.read().decode())"
        );
        let flags = ["--network", "host", "--user", &uid.to_string()];
        let run = engine.run(&[flags.as_slice(), &[engine.base(), "python3", "-c", &request]].concat());
        sandbox.hear(run.stdout.as_bytes());
        run.stdout
    };
    for uid in [0, OWNER] {
        let answer = get(uid);
        assert!(answer.starts_with("200 ") && answer.contains("acme_hello-"), "{uid}: {answer}");
    }
    let answer = get(4711);
    assert!(answer.starts_with("403 "), "{answer}");
    assert!(
        answer.contains("add to the [[listener]] at ") && answer.contains(": peers = [4711]"),
        "{answer}"
    );
    owner.reload(&format!("{listener}peers = [4711]\n"));
    let answer = get(4711);
    assert!(answer.starts_with("200 ") && answer.contains("acme_hello-"), "{answer}");
    assert!(get(4712).starts_with("403 "));
    assert!(owner.log().contains("\"uid\":4711"), "{}", owner.log());
}

#[test]
fn a_socket_that_the_configuration_adds_is_good_for_a_build() {
    let (Some(_), Some(engine)) = (prepared::static_program(), Engine::of(Release::Installed)) else {
        return;
    };
    let scene = scene();
    let socket: PathBuf = scene.sandbox.path("run/more.sock");
    let granted = repository(&scene.sandbox, "private");
    let listener =
        format!("[[listener]]\nagent = \"{}\"\nrepositories = [\"{granted}\"]\n", socket.display());
    let owner = Owner::serve(&scene, &listener);
    engine.valetkey();
    let text = Chapter::read().dockerfile(engine.base());
    let directory = project(&scene, &text);
    let script = format!("docker build --tag added --network none --ssh valetkey={} .", socket.display());
    let built = built(&run(engine.shell(&scene.sandbox, &script).current_dir(directory), PATIENCE), "added");
    built.assert_success();
    assert!(built.log.contains("hello from a private index"), "{}", built.log);
    let log = owner.log();
    assert!(log.contains(&format!("\"listener\":\"{}\"", socket.display())), "{log}");
}

/// An ordinary user, who needs no name.
const OWNER: u32 = 4242;
const AS_OWNER: &str = "setpriv --reuid 4242 --regid 4242 --clear-groups";
