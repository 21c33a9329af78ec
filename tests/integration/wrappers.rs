//! What may stand between a client and us: shells, scripts and other programs, new with each question. What a client was
//! refused stays refused through all of them, and so does what it was given.

use std::process::Command;

use super::harness::{Run, Sandbox, VALETKEY};
use super::{assert_given, assert_refused};

/// Programs that call us, none of which becomes us. What stands for `VALETKEY` is filled in.
const WRAPPERS: [(&str, &str); 13] = [
    ("a shell", "#!/bin/sh\nVALETKEY keyring \"$@\"\nexit $?\n"),
    ("bash", "#!/bin/bash\nanswer=$(VALETKEY keyring \"$@\") || exit $?\necho \"$answer\"\n"),
    ("two shells", "#!/bin/sh\nsh -c 'VALETKEY keyring \"$@\"; exit $?' sh \"$@\"\nexit $?\n"),
    (
        "five shells",
        "#!/bin/sh\nDEEP=x$DEEP; export DEEP\nif [ $DEEP = xxxxx ]; then VALETKEY keyring \"$@\"; else sh \"$0\" \"$@\"; fi\nexit $?\n",
    ),
    ("env", "#!/bin/sh\nenv A=B VALETKEY keyring \"$@\"\nexit $?\n"),
    (
        "a runtime directory of its own",
        "#!/bin/sh\nXDG_RUNTIME_DIR=$(mktemp -d) VALETKEY keyring \"$@\"\nexit $?\n",
    ),
    ("timeout", "#!/bin/sh\ntimeout 60 VALETKEY keyring \"$@\"\nexit $?\n"),
    ("a session of its own", "#!/bin/sh\nsetsid -w VALETKEY keyring \"$@\"\nexit $?\n"),
    ("a group of its own", "#!/bin/bash\nset -m\nVALETKEY keyring \"$@\" &\nwait $!\nexit $?\n"),
    (
        "python",
        "#!/usr/bin/env python3\nimport subprocess, sys\nsys.exit(subprocess.run(['VALETKEY', 'keyring', *sys.argv[1:]]).returncode)\n",
    ),
    (
        "python in a session",
        "#!/usr/bin/env python3\nimport subprocess, sys\nsys.exit(subprocess.run(['VALETKEY', 'keyring', *sys.argv[1:]], start_new_session=True).returncode)\n",
    ),
    ("one that hides the question", "#!/bin/sh\nQ=\"$*\" sh -c 'VALETKEY keyring $Q; exit $?'\nexit $?\n"),
    (
        "one that loses its parent",
        "#!/bin/sh\nf=$(mktemp -u); mkfifo $f\n(VALETKEY keyring \"$@\" >$f 2>&1; echo $? >>$f) >/dev/null 2>&1 &\nanswer=$(cat $f); rm $f\ncase $answer in *ya29.*) echo \"$answer\"; exit 0;; esac\necho \"$answer\" | head -1 >&2\nexit 1\n",
    ),
];

fn wrapped(sandbox: &Sandbox, service: &str) -> Command {
    let mut command = sandbox.command(sandbox.path("bin/keyring"));
    command.args(["get", service, "oauth2accesstoken"]).env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command
}

fn bare(sandbox: &Sandbox) -> String {
    format!("localhost:{}", sandbox.google.port())
}

/// Runs one and says which.
fn run(sandbox: &Sandbox, name: &str, service: &str) -> Run {
    let run = sandbox.run(&mut wrapped(sandbox, service));
    assert!(run.code.is_some(), "{name}: {run:?}");
    run
}

fn put(sandbox: &Sandbox, text: &str) {
    sandbox.script("keyring", &text.replace("VALETKEY", VALETKEY));
}

#[test]
fn a_wrapper_without_exec_gets_nothing_for_plain_http() {
    for (name, text) in WRAPPERS {
        let sandbox = Sandbox::new();
        sandbox.sign_in();
        put(&sandbox, text);
        let insecure = sandbox.index().replace("https://", "http://");
        let refused = run(&sandbox, name, &insecure);
        assert!(refused.code == Some(1) && refused.stderr.contains("is not https"), "{name}: {refused:?}");
        let refused = run(&sandbox, name, &bare(&sandbox));
        assert!(refused.code == Some(1) && !refused.stdout.contains("ya29."), "{name}: {refused:?}");
        assert!(refused.stderr.contains("was refused to this program just now"), "{name}: {refused:?}");
        assert!(sandbox.google.token_requests().is_empty(), "{name}");
        // Its https URL is still served.
        let given = run(&sandbox, name, &sandbox.index());
        assert!(given.stdout.contains("ya29."), "{name}: {given:?}");
    }
}

#[test]
fn without_a_refusal_a_wrapper_gets_the_bare_host() {
    for (name, text) in WRAPPERS {
        let sandbox = Sandbox::new();
        sandbox.sign_in();
        put(&sandbox, text);
        let given = run(&sandbox, name, &bare(&sandbox));
        assert!(given.code == Some(0) && given.stdout.contains("ya29."), "{name}: {given:?}");
    }
}

#[test]
fn one_wrapper_asks_for_the_url_and_another_for_the_host() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let insecure = sandbox.index().replace("https://", "http://");
    put(&sandbox, WRAPPERS[7].1);
    assert_refused(&run(&sandbox, "first", &insecure), "is not https");
    put(&sandbox, WRAPPERS[9].1);
    assert_refused(&run(&sandbox, "second", &bare(&sandbox)), "was refused to this program just now");
}

/// A shell that is told what to do, line by line, as one in another terminal.
fn shell(sandbox: &Sandbox) -> std::process::Child {
    let mut command = sandbox.command("/bin/sh");
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn what_was_running_beside_the_one_that_was_refused_is_given_the_bare_host() {
    use std::io::Write;
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let mut beside = shell(&sandbox);
    // The clock that tells which came first has hundredths.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let insecure = sandbox.index().replace("https://", "http://");
    let mut refused = sandbox.command("/bin/sh");
    refused.args(["-c", &format!("keyring get {insecure} oauth2accesstoken; exit $?")]);
    assert_refused(&sandbox.run(&mut refused), "is not https");
    let question = format!("keyring get {} oauth2accesstoken\n", bare(&sandbox));
    beside.stdin.take().unwrap().write_all(question.as_bytes()).unwrap();
    let given = super::harness::finish(beside, std::time::Instant::now(), std::time::Duration::from_secs(30));
    assert_given(&given);
    // Whoever begins now may be what that one has started.
    let mut begun = sandbox.command("/bin/sh");
    begun.args(["-c", &format!("{question}exit $?")]);
    assert_refused(&sandbox.run(&mut begun), "was refused to this program just now");
}

#[test]
fn the_askers_program_is_behind_the_wrapper() {
    // The daemon is told of one that is always the same, by whatever way the question comes.
    for text in [WRAPPERS[0].1, WRAPPERS[2].1, WRAPPERS[5].1, WRAPPERS[9].1] {
        let sandbox = Sandbox::new();
        sandbox.sign_in();
        put(&sandbox, text);
        let socket = sandbox.path("run/told.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let mut askers = Vec::new();
        for _ in 0..2 {
            let mut command = wrapped(&sandbox, &sandbox.index());
            command.env("VALETKEY_SOCKET", &socket);
            let child = command
                .stderr(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = vec![0; 8192];
            let read = std::io::Read::read(&mut stream, &mut question).unwrap();
            let question = String::from_utf8_lossy(&question[..read]).into_owned();
            let body = question.split_once("\r\n\r\n").unwrap().1.to_owned();
            drop(stream);
            askers.push(serde_json::from_str::<serde_json::Value>(&body).unwrap()["asker"].clone());
            super::harness::finish(child, std::time::Instant::now(), std::time::Duration::from_secs(30));
        }
        let own = format!("{}:", std::process::id());
        assert!(askers[0].as_str().is_some_and(|asker| asker.starts_with(&own)), "{text}: {askers:?}");
        assert_eq!(askers[0], askers[1], "{text}");
    }
}
