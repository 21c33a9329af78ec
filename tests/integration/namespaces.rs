//! User namespaces in which this user, or somebody else, has no number: real ones, made by `unshare`. Needs root to play
//! several users; without it (and outside CI) the tests say so and pass.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::assert_given;
use super::harness::{CONFIGURATION, Sandbox, VALETKEY};
use super::listeners::is_root;
use super::login::SignIn;

const SOMEBODY: u32 = 1234;
const ANYBODY: &str = "uid 65534, which may be anybody who has no number in this user namespace";

/// A program of this user in a namespace in which nobody has a number.
fn inside(sandbox: &Sandbox, program: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let mut command = sandbox.command("/usr/bin/unshare");
    command.arg("--user").arg(program.as_ref()).args(arguments);
    command
}

#[test]
fn a_daemon_that_could_not_tell_its_owner_does_not_start_and_helpers_answer_by_themselves() {
    if !is_root("a_daemon_that_could_not_tell_its_owner_does_not_start_and_helpers_answer_by_themselves") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let run = sandbox.run(&mut inside(&sandbox, VALETKEY, &["serve"]));
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(
        run.stderr.contains("could not tell who asks") && run.stderr.contains("--map-current-user"),
        "{run:?}"
    );
    let (index, keyring) = (sandbox.index(), sandbox.path("bin/keyring"));
    let get = ["get", &index, "oauth2accesstoken"];
    assert_given(&sandbox.run(&mut inside(&sandbox, &keyring, &get)));
    assert!(!sandbox.socket().exists());
    // With a number a user is one again.
    let mut command = sandbox.command("/usr/bin/unshare");
    command.args(["--user", "--map-root-user"]).arg(&keyring).args(get);
    assert_given(&sandbox.run(&mut command));
    assert!(sandbox.socket().exists());
}

#[test]
fn a_daemon_whose_user_may_be_anybody_is_not_believed() {
    if !is_root("a_daemon_whose_user_may_be_anybody_is_not_believed") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let (index, keyring) = (sandbox.index(), sandbox.path("bin/keyring"));
    let run = sandbox.run(&mut inside(&sandbox, keyring, &["get", &index, "oauth2accesstoken"]));
    assert_given(&run);
    assert!(run.stderr.contains(&format!("is served by {ANYBODY}")), "{run:?}");
    for arguments in [&["stop"][..], &["exec", "--", "true"]] {
        let run = sandbox.run(&mut inside(&sandbox, VALETKEY, arguments));
        assert!(run.code == Some(3) && run.stderr.contains(&format!("is served by {ANYBODY}")), "{run:?}");
    }
}

#[test]
fn what_belongs_to_others_is_not_taken_for_this_users() {
    if !is_root("what_belongs_to_others_is_not_taken_for_this_users") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let (index, keyring) = (sandbox.index(), sandbox.path("bin/keyring"));
    let get = ["get", &index, "oauth2accesstoken"];
    // From inside, this user's files and everybody's look alike.
    assert_eq!(sandbox.run(&mut inside(&sandbox, VALETKEY, &["status"])).code, Some(0));
    let configuration = sandbox.path(CONFIGURATION);
    fs::set_permissions(&configuration, fs::Permissions::from_mode(0o644)).unwrap();
    chown(&configuration, Some(SOMEBODY), None).unwrap();
    let run = sandbox.run(&mut inside(&sandbox, VALETKEY, &["status"]));
    assert!(run.code == Some(2) && run.stderr.contains(&format!("belongs to {ANYBODY}")), "{run:?}");
    chown(&configuration, Some(0), None).unwrap();

    fs::DirBuilder::new().mode(0o700).create(sandbox.runtime()).unwrap();
    let run = sandbox.run(&mut inside(&sandbox, &keyring, &get));
    assert_given(&run);
    assert!(!run.stderr.contains("belongs to"), "{run:?}");
    chown(sandbox.runtime(), Some(SOMEBODY), None).unwrap();
    let run = sandbox.run(&mut inside(&sandbox, &keyring, &get));
    assert_given(&run);
    assert!(run.stderr.contains(&format!("belongs to {ANYBODY}")), "{run:?}");
    fs::remove_dir(sandbox.runtime()).unwrap();

    for (owner, code) in [(0, Some(0)), (SOMEBODY, Some(1))] {
        let out = sandbox.write("tmp/token", "before");
        chown(&out, Some(owner), None).unwrap();
        let run = sandbox.run(&mut inside(&sandbox, VALETKEY, &["token", "--output", out.to_str().unwrap()]));
        assert_eq!(run.code, code, "{owner}: {run:?}");
        fs::remove_file(out).unwrap();
    }
}

#[test]
fn a_listener_admits_nobody_by_a_number_that_many_have() {
    if !is_root("a_listener_admits_nobody_by_a_number_that_many_have") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let socket = sandbox.path("shared.sock");
    let host = format!("localhost:{}", sandbox.google.port());
    let terms = format!("repositories = [\"https://{host}/acme/private\"]\npeers = [65534]");
    sandbox.configure(&format!(
        "[[listener]]\ntcp = \"127.0.0.1:{port}\"\n{terms}\n[[listener]]\nunix = \"{}\"\n{terms}\n",
        socket.display()
    ));
    fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = sandbox.command("/usr/bin/unshare");
    let _daemon = sandbox.serve_with(command.args(["--user", "--map-root-user", VALETKEY]));
    let page = format!("http://127.0.0.1:{port}/registry/{host}/acme/private/simple/acme-hello/");
    let ask = |uid: u32, arguments: &[&str]| {
        let mut curl = sandbox.command("/usr/bin/curl");
        sandbox
            .run(curl.args(["-sS", "-w", "%{http_code}"]).args(arguments).current_dir("/").uid(uid).gid(uid))
            .stdout
    };
    let by_socket = ["--unix-socket", socket.to_str().unwrap(), &page];
    for uid in [SOMEBODY, 65_534] {
        for arguments in [&[page.as_str()][..], &by_socket] {
            let answer = ask(uid, arguments);
            assert!(answer.ends_with("403") && answer.contains("does not know who asks"), "{uid}: {answer}");
        }
    }
    for arguments in [&[page.as_str()][..], &by_socket] {
        assert!(ask(0, arguments).ends_with("200"), "{}", ask(0, arguments));
    }
}

#[test]
fn a_sign_in_hears_nobody_whose_number_many_have_and_takes_what_is_pasted() {
    if !is_root("a_sign_in_hears_nobody_whose_number_many_have_and_takes_what_is_pasted") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let mut it = SignIn::start_with(&mut inside(&sandbox, VALETKEY, &["login", "--no-browser"]));
    let back = sandbox.google.consent(&it.url).unwrap();
    for uid in [SOMEBODY, 65_534] {
        let mut curl = sandbox.command("/usr/bin/curl");
        curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", &back]);
        let run = sandbox.run(curl.current_dir("/").uid(uid).gid(uid));
        assert_eq!(run.stdout, "403", "{run:?}");
    }
    assert!(it.is_waiting() && sandbox.google.token_requests().is_empty());
    it.paste(&back);
    let run = it.end(&sandbox);
    assert_eq!(run.code, Some(0), "{run:?}");
}
