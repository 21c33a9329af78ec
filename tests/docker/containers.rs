//! valetkey in running containers that know nothing of it: no C library, another's, and the directory of its socket.

use super::buildah::Buildah;
use super::engine::{Engine, PATIENCE, Release, assert_success, unique};
use super::harness::Sandbox;
use super::prepared;
use super::process::run;
use super::scene::repository;

/// `--volume DIRECTORY:…`, never the socket itself, and where it is; and the configuration, since the index of these
/// tests is at a host that only it names.
fn socket_flags(sandbox: &Sandbox) -> Vec<String> {
    let socket = format!("{}:/run/credentials", sandbox.runtime().display());
    let configuration = format!("{}:/etc/valetkey:ro", sandbox.path("home/.config/valetkey").display());
    let socket_variable = "VALETKEY_SOCKET=/run/credentials/valetkey.sock";
    let flags =
        ["--network", "none", "--volume", &socket, "--volume", &configuration, "--env", socket_variable];
    flags.map(str::to_owned).to_vec()
}

#[test]
fn keyring_in_a_container_of_root_gets_its_password_from_roots_daemon() {
    if prepared::static_program().is_none() {
        return;
    }
    for engine in Engine::all() {
        let sandbox = Sandbox::new();
        sandbox.sign_in();
        let daemon = sandbox.serve();
        let index = sandbox.index();
        let mut arguments = socket_flags(&sandbox);
        let entry = ["--entrypoint", "/keyring", engine.valetkey()];
        arguments.extend(entry.map(str::to_owned));
        let get = ["get", &index, "oauth2accesstoken"].map(str::to_owned);
        let run = engine.run(&[arguments.clone(), get.to_vec()].concat());
        assert_eq!(run.code, Some(0), "{}: {run:?}", engine.version);
        assert_eq!(sandbox.google.secrets().iter().filter(|secret| **secret == run.stdout.trim()).count(), 1);
        // The kernel says who asked: the container's process by its uid on the host.
        assert!(daemon.log().contains("\"uid\":0"), "{}", daemon.log());

        // Another host, and another user in the container, get nothing.
        let other = ["get", "https://pypi.example/simple/", "oauth2accesstoken"].map(str::to_owned);
        let run = engine.run(&[arguments.clone(), other.to_vec()].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
        let user = ["--user".to_owned(), "4711".to_owned()];
        let run = engine.run(&[user.to_vec(), arguments, get.to_vec()].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
    }
}

/// A mounted directory shows the new socket; a mounted socket would be the old one.
#[test]
fn a_running_container_survives_a_restart_of_the_daemon() {
    let (Some(_), Some(engine)) = (prepared::static_program(), Engine::of(Release::Installed)) else {
        return;
    };
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let name = unique("container");
    let mut start = engine.docker(&["run", "--rm", "--detach", "--name", &name]);
    let program = format!("{}:/usr/local/bin/keyring:ro", prepared::static_program().unwrap().display());
    start.args(socket_flags(&sandbox)).args(["--volume", &program, engine.small(), "sleep", "600"]);
    let daemon = sandbox.serve();
    assert_success(&run(&mut start, PATIENCE));
    let get = || {
        let mut exec =
            engine.docker(&["exec", &name, "keyring", "get", &sandbox.index(), "oauth2accesstoken"]);
        run(&mut exec, PATIENCE)
    };
    assert_success(&get());
    drop(daemon);
    assert_eq!(get().code, Some(1));
    let _daemon = sandbox.serve();
    assert_success(&get());
    assert_success(&run(&mut engine.docker(&["kill", &name]), PATIENCE));
}

/// The directory that is for containers: repositories and no tokens, root and the owner, others once they are named. A
/// remapped root is such another: the kernel says its uid on the host, whatever it is inside.
#[test]
fn the_mounted_directory_serves_root_and_others_once_they_are_named() {
    let (Some(program), Some(engine)) = (prepared::static_program(), Engine::of(Release::Installed)) else {
        return;
    };
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let terms = format!("[build]\nrepositories = [\"{}\"]\n", repository(&sandbox, "private"));
    sandbox.configure(&terms);
    let daemon = sandbox.serve();
    let fetch = |uid: &str| {
        let directory = format!("{}:/run/credentials", sandbox.runtime().join("container").display());
        let program = format!("{}:/usr/bin/valetkey:ro", program.display());
        let index = sandbox.index().replace("https://", "");
        let get = format!(
            "valetkey exec -- sh -c 'wget -q -O - $HTTPS_PROXY/registry/{index}acme-hello/ 2>&1' 2>&1"
        );
        let socket = "VALETKEY_SOCKET=/run/credentials/valetkey.sock";
        let flags = ["--network", "none", "--user", uid, "--volume", &directory, "--volume", &program];
        let command = ["--env", socket, engine.small(), "sh", "-c", &get];
        let run = engine.run(&[flags.as_slice(), &command].concat());
        sandbox.hear(run.stdout.as_bytes());
        run
    };
    let served = |uid: &str| {
        let run = fetch(uid);
        assert_success(&run);
        assert!(run.stdout.contains("acme_hello-"), "{run:?}");
    };
    let refused = |uid: &str, line: &str| {
        let run = fetch(uid);
        assert_ne!(run.code, Some(0), "{run:?}");
        assert!(run.stdout.contains(line), "{line}: {run:?}");
    };
    served("0");
    refused("4711", "[build] peers = [4711]");
    refused("100000", "[build] peers = [100000]");
    sandbox.configure(&format!("{terms}peers = [4711, \"100000-165535\"]\n"));
    refused("4711", "[build] peers = [4711]");
    assert_success(&sandbox.run(sandbox.valetkey().arg("reload")));
    for uid in ["0", "4711", "100000", "165535"] {
        served(uid);
    }
    // Another list would lose those who are in it.
    refused("165536", "add 165536 to the `peers` of [build] at ");
    assert!(daemon.log().contains("\"uid\":100000"), "{}", daemon.log());
}

/// Alpine's places without Alpine: busybox and its links, a user database, no loader and no library anywhere.
#[test]
fn the_program_runs_in_alpines_layout() {
    if prepared::static_program().is_none() {
        return;
    }
    let dockerfile = |image: &str, base: &str| {
        format!(
            "FROM {base}\n\
             COPY --from={image} /keyring /usr/bin/keyring\n\
             RUN ! ls /lib64 /lib/ld-* 2>/dev/null && keyring --help | grep '^usage: keyring'\n\
             RUN --mount=from={image},source=/keyring,target=/usr/local/sbin/keyring \
                 test \"$(command -v keyring)\" = /usr/local/sbin/keyring && keyring --help >/dev/null\n\
             USER nobody\n\
             RUN env -u HOME keyring --help >/dev/null && id -un | grep '^nobody$'\n"
        )
    };
    for engine in Engine::all() {
        engine.build(&dockerfile(engine.valetkey(), engine.small()), &[], &[]).assert_success();
    }
    if let Some(buildah) = Buildah::find() {
        buildah.build(&dockerfile(buildah.valetkey(), buildah.small()), &[], &[]).assert_success();
    }
}
