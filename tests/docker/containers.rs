//! valetkey in running containers that know nothing of it: no C library, another's, and the directory of its socket.

use std::fs;

use super::engine::PATIENCE;
use super::engine::{Engine, Release, assert_success, unique};
use super::harness::Sandbox;
use super::prepared;
use super::process::run;

/// `-v DIRECTORY:/run/credentials -e VALETKEY_SOCKET=…`, as README says it.
fn socket_flags(sandbox: &Sandbox) -> [String; 4] {
    [
        "--volume".to_owned(),
        format!("{}:/run/credentials", sandbox.runtime().display()),
        "--env".to_owned(),
        "VALETKEY_SOCKET=/run/credentials/valetkey.sock".to_owned(),
    ]
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
        let mut arguments = socket_flags(&sandbox).to_vec();
        let entry = ["--network", "none", "--entrypoint", "/keyring", engine.valetkey()];
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
fn a_container_survives_a_restart_of_the_daemon() {
    let (Some(_), Some(engine)) = (prepared::static_program(), Engine::of(Release::Installed)) else {
        return;
    };
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    drop(sandbox.serve());
    let _daemon = sandbox.serve();
    let mut arguments = socket_flags(&sandbox).to_vec();
    arguments.extend(
        ["--network", "none", "--entrypoint", "/keyring", engine.valetkey(), "get"].map(str::to_owned),
    );
    arguments.extend([sandbox.index(), "oauth2accesstoken".to_owned()]);
    assert_success(&engine.run(&arguments));
}

/// Alpine's places without Alpine: busybox and its links, a user database, no loader and no library anywhere.
#[test]
fn the_program_runs_in_alpines_layout() {
    let (Some(program), Some(busybox)) = (prepared::static_program(), prepared::find("installed/busybox"))
    else {
        return;
    };
    let dockerfile = "FROM scratch\n\
        COPY root /\n\
        RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
        COPY --from=valetkey /keyring /usr/bin/keyring\n\
        RUN ! ls /lib64 /lib/ld-* 2>/dev/null && keyring --help | grep '^usage: keyring'\n\
        RUN --mount=from=valetkey,source=/keyring,target=/usr/local/sbin/keyring \
            test \"$(command -v keyring)\" = /usr/local/sbin/keyring && keyring --help >/dev/null\n\
        USER nobody\n\
        RUN env -u HOME keyring --help >/dev/null && id -un | grep '^nobody$'\n";
    drop(program);
    let busybox = fs::read(busybox).unwrap();
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n";
    let context: [(&str, &[u8]); 4] = [
        ("root/bin/busybox", &busybox),
        ("root/etc/passwd", passwd),
        ("root/etc/alpine-release", b"3.20.0\n"),
        ("root/lib/apk/db/installed", b""),
    ];
    for engine in Engine::all() {
        engine.valetkey();
        let directory = super::engine::context_directory(dockerfile, &context);
        // `fs::write` made a file that nobody may run.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory.path().join("root/bin/busybox"), mode).unwrap();
        let mut command = engine.docker(&["build", "--progress=plain", "--tag", &unique("alpine")]);
        let built = run(command.arg(directory.path()), PATIENCE);
        assert_success(&built);
    }
}
