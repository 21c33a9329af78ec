//! Sockets that `valetkey docker args` opens: there is always one to be had, none is taken from a build, and what cannot
//! be had is told where a shell loses the exit code.

use std::fs;
use std::path::PathBuf;

use super::harness::{Run, Sandbox, VALETKEY};
use super::listeners::{agent, opened, page, repository, unix, with_package};

fn args(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    sandbox.run(sandbox.valetkey().args(["docker", "args"]).args(arguments))
}

/// Asks for a socket as the command does, and quicker.
fn open(sandbox: &Sandbox) -> Result<PathBuf, String> {
    let granted = repository(sandbox, "acme/private");
    let body = format!(r#"{{"repositories":["{granted}"],"seconds":3600,"one_build":true}}"#);
    let (status, body) = unix(&sandbox.socket(), "POST", "/v1/listeners", &body);
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
    if status == 200 { Ok(answer["address"].as_str().unwrap().into()) } else { Err(body) }
}

fn list(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.runtime().join("listeners.json")).unwrap()
}

fn is_served(sandbox: &Sandbox, socket: &std::path::Path) -> bool {
    socket.exists() && agent(socket, "GET", &page(sandbox, "acme/private"), "").0 == 200
}

#[track_caller]
fn assert_left_to_docker(run: &Run, code: i32, reason: &str) {
    let flag = format!("--valetkey-docker-args-failed--{reason}\n");
    assert_eq!((run.code, run.stdout.as_str()), (Some(code), flag.as_str()), "{run:?}");
}

#[test]
fn the_oldest_socket_that_no_build_has_come_for_gives_way_and_one_in_use_does_not() {
    let sandbox = with_package();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let sockets: Vec<_> = (0..64).map(|_| open(&sandbox).unwrap()).collect();
    // The build that uses the first one is this process, which lives.
    assert!(is_served(&sandbox, &sockets[0]));
    let more: Vec<_> = (0..70).map(|_| open(&sandbox).unwrap()).collect();
    assert!(is_served(&sandbox, &sockets[0]));
    assert!(sockets[1..].iter().all(|socket| !socket.exists()));
    let there: Vec<_> = more.iter().filter(|socket| socket.exists()).collect();
    assert_eq!(there, more[7..].iter().collect::<Vec<_>>());
    assert!(is_served(&sandbox, more.last().unwrap()));
    let (list, status) = (list(&sandbox), unix(&sandbox.socket(), "GET", "/v1/status", "").1);
    for text in [&list, &status] {
        assert_eq!(text.matches("build-").count(), 64, "{text}");
    }
    let run = args(&sandbox, &[&repository(&sandbox, "acme/private")]);
    assert!(is_served(&sandbox, &opened(&run)), "{run:?}");
}

#[test]
fn a_socket_whose_build_is_over_gives_way_before_one_that_waits_for_its_build() {
    let sandbox = with_package();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let sockets: Vec<_> = (0..64).map(|_| open(&sandbox).unwrap()).collect();
    // A process that uses it and ends, as Docker's client does.
    let url = format!("{}hello/", sandbox.index());
    let mut build = sandbox.valetkey();
    build.args(["exec", "--", "curl", "-sS", "--fail", &url]).env("SSH_AUTH_SOCK", &sockets[9]);
    build.env("XDG_RUNTIME_DIR", sandbox.path("tmp")).env("PATH", "/usr/bin:/bin");
    let run = sandbox.run(&mut build);
    assert_eq!(run.code, Some(0), "{run:?}");
    Sandbox::wait_until("it has given way", || {
        open(&sandbox).unwrap();
        !sockets[9].exists()
    });
    assert!(sockets[63].exists());
}

#[test]
fn where_every_socket_has_a_build_the_next_is_refused_with_a_flag_for_docker() {
    let sandbox = with_package();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let sockets: Vec<_> = (0..64).map(|_| open(&sandbox).unwrap()).collect();
    for socket in &sockets {
        assert!(is_served(&sandbox, socket));
    }
    let refused = open(&sandbox).unwrap_err();
    assert!(refused.contains("64 builds are running"), "{refused}");
    let run = args(&sandbox, &[&repository(&sandbox, "acme/private")]);
    assert_left_to_docker(&run, 1, "64-builds-are-running-and-each-has-a-socket-open");
    assert!(run.stderr.contains("wait until one of them has ended"), "{run:?}");
    assert!(sockets.iter().all(|socket| socket.exists()));
    // And there is a way out that works.
    sandbox.stop();
    let _daemon = sandbox.serve();
    assert!(open(&sandbox).is_ok());
    assert_eq!(list(&sandbox).matches("build-").count(), 1);
}

#[test]
fn stop_forgets_the_sockets_of_builds_and_a_crash_does_not() {
    let sandbox = with_package();
    sandbox.sign_in();
    let mut daemon = sandbox.serve();
    let socket = open(&sandbox).unwrap();
    daemon.kill();
    let mut daemon = sandbox.serve();
    assert!(is_served(&sandbox, &socket), "a crash");
    daemon.terminate();
    let mut daemon = sandbox.serve();
    assert!(is_served(&sandbox, &socket), "a restart by a signal");
    // Also one that there is no daemon for any more.
    daemon.kill();
    let run = sandbox.run(sandbox.valetkey().arg("stop"));
    assert!(run.code == Some(1) && run.stderr.contains("no daemon is running"), "{run:?}");
    let daemon = sandbox.serve();
    assert!(!socket.exists());
    let other = open(&sandbox).unwrap();
    drop(sandbox.run(sandbox.valetkey().arg("stop")));
    drop(daemon);
    let _daemon = sandbox.serve();
    assert!(!other.exists() && !list(&sandbox).contains("build-"));
}

#[test]
fn docker_args_starts_no_daemon_for_nonsense_or_where_none_may_be_started() {
    let sandbox = with_package();
    sandbox.sign_in();
    let granted = repository(&sandbox, "acme/private");
    let nothing_runs = || !sandbox.socket().exists() && !sandbox.runtime().join("daemon.lock").exists();
    for (arguments, code, reason) in [
        (&["nonsense"][..], 2, "is-not-a-repository"),
        (&[&granted, "us/acme"], 2, "is-not-a-repository"),
        (&["https://u:pw@evilpkg.dev/a b/c"], 2, "is-not-a-repository"),
        (&["https://evil.test/acme/private"], 2, "is-not-a-repository-of-a-registry-that-valetkey-serves"),
        (&[&granted, "--for", "soon"], 2, "is-not-a-duration-such-as-45s-10m-or-1h"),
        (&[&granted, "--for", "8d"], 2, "a-socket-for-a-build-is-open-for-a-second-to-seven-days"),
        (&[], 2, "its-own-arguments-are-wrong"),
        (&[&granted, "--unnarrowed"], 2, "its-own-arguments-are-wrong"),
    ] {
        let run = args(&sandbox, arguments);
        assert_left_to_docker(&run, code, reason);
        assert!(run.stderr.contains("error:") && nothing_runs(), "{run:?}");
    }
    // Misspelt, it stands in `$(…)` all the same. What goes into `docker load` is another matter.
    for words in [&["docker", "arg", granted.as_str()][..], &["docker", "--write", &granted], &["docker"]] {
        let run = sandbox.run(sandbox.valetkey().args(words));
        assert_left_to_docker(&run, 2, "its-own-arguments-are-wrong");
    }
    let run = sandbox.run(sandbox.valetkey().args(["docker", "image", "--nope"]));
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{run:?}");
    sandbox.configure("[daemon]\nauto_start = false\n");
    assert_left_to_docker(&args(&sandbox, &[&granted]), 1, "no-daemon-is-running-and-auto-start-is-false");
    sandbox.configure("");
    let variable = ("VALETKEY_AUTO_START", "false");
    let run = sandbox.run(sandbox.valetkey().args(["docker", "args", &granted]).envs([variable]));
    assert!(run.code == Some(1) && run.stderr.contains("`valetkey serve`") && nothing_runs(), "{run:?}");
    assert!(is_served(&sandbox, &opened(&args(&sandbox, &[&granted]))));
    // A daemon that runs may be asked whatever the setting says.
    let run = sandbox.run(sandbox.valetkey().args(["docker", "args", &granted]).envs([variable]));
    assert!(is_served(&sandbox, &opened(&run)));
}

/// A person at a terminal reads the sentence, and has no use for the flag.
#[test]
fn a_terminal_gets_no_flag() {
    let sandbox = with_package();
    let mut command = sandbox.command("/usr/bin/script");
    let run = sandbox.run(command.args(["-qec", &format!("{VALETKEY} docker args nonsense"), "/dev/null"]));
    assert!(run.stdout.contains("is not a repository"), "{run:?}");
    assert!(!run.stdout.contains("--valetkey"), "{run:?}");
}

/// In a container a hint names no variable that is not set there.
#[test]
fn where_another_daemon_decides_docker_args_names_what_led_there() {
    let sandbox = with_package();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let socket = open(&sandbox).unwrap();
    let granted = repository(&sandbox, "acme/private");
    let elsewhere = sandbox.path("tmp");
    let by = |name: &str, socket: &std::path::Path| {
        let mut command = sandbox.valetkey();
        command.args(["docker", "args", &granted]).env(name, socket).env("XDG_RUNTIME_DIR", &elsewhere);
        sandbox.run(&mut command)
    };
    let run = by("SSH_AUTH_SOCK", &socket);
    assert!(run.code == Some(1) && run.stderr.contains(&socket.display().to_string()), "{run:?}");
    assert!(run.stderr.contains("run this where the daemon runs"), "{run:?}");
    assert!(!run.stderr.contains("VALETKEY_SOCKET"), "{run:?}");
    let run = by("VALETKEY_SOCKET", &sandbox.socket());
    assert!(run.stderr.contains("unset VALETKEY_SOCKET, or run this where"), "{run:?}");
}
