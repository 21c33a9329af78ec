//! What is not ours goes to the next `keyring` on PATH: unchanged, once, and never to ourselves.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use super::assert_refused;
use super::harness::{Sandbox, VALETKEY, finish};

/// A keyring that tells what it was called with.
const OTHER: &str = "#!/bin/sh\nprintf '%s|' other \"$@\"\n[ \"$1\" = set ] && while IFS= read -r line; do echo \"<$line>\"; done\nexit 7\n";

fn sandbox_with_other() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    sandbox.script("elsewhere/keyring", OTHER);
    let path = format!("{}:{}", sandbox.path("bin").display(), sandbox.path("bin/elsewhere").display());
    (sandbox, path)
}

#[test]
fn arguments_and_exit_code_pass_unchanged() {
    let (sandbox, path) = sandbox_with_other();
    for (arguments, expected) in [
        (vec!["get", "foreign", "a user"], "other|get|foreign|a user|"),
        (
            vec!["--mode=creds", "--output=json", "get", "foreign"],
            "other|--mode=creds|--output=json|get|foreign|",
        ),
        (vec!["-b", "x.Y", "get", "s", "u"], "other|-b|x.Y|get|s|u|"),
        (vec!["del", "foreign", "u"], "other|del|foreign|u|"),
    ] {
        let run = sandbox.run(sandbox.keyring(&arguments).env("PATH", &path));
        assert_eq!((run.code, run.stdout.as_str()), (Some(7), expected), "{run:?}");
    }
}

#[test]
fn standard_input_passes_unchanged() {
    let (sandbox, path) = sandbox_with_other();
    let file = sandbox.write("home/password", "hunter2\n");
    let mut command = sandbox.keyring(["set", "foreign", "u"]);
    command
        .env("PATH", &path)
        .stdin(fs::File::open(file).unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let start = std::time::Instant::now();
    let run = finish(command.spawn().unwrap(), start, std::time::Duration::from_secs(10));
    assert_eq!(run.stdout, "other|set|foreign|u|<hunter2>\n");
}

#[test]
fn another_user_of_our_host_is_the_other_keyrings() {
    let (sandbox, path) = sandbox_with_other();
    let run = sandbox.run(sandbox.keyring(["get", &sandbox.index(), "_json_key"]).env("PATH", &path));
    assert_eq!(run.code, Some(7));
    // Our own, and the insecure way to our own, are not.
    let insecure = sandbox.index().replace("https://", "http://");
    let mut command = sandbox.keyring(["get", &insecure, "oauth2accesstoken"]);
    assert_refused(&sandbox.run(command.env("PATH", &path)), "is not https");
}

#[test]
fn copies_and_links_of_ourselves_are_skipped_and_the_one_in_between_is_found() {
    let sandbox = Sandbox::new();
    for directory in ["one", "two", "three", "four"] {
        fs::create_dir(sandbox.path(directory)).unwrap();
    }
    sandbox.copy(VALETKEY, "one/keyring");
    symlink(VALETKEY, sandbox.path("two/keyring")).unwrap();
    sandbox.copy(sandbox.script("other", OTHER), "three/keyring");
    sandbox.copy(VALETKEY, "four/keyring");
    let directories = ["one", "two", "three", "four"].map(|name| sandbox.path(name).display().to_string());
    for caller in ["one", "two", "four"] {
        let mut command = sandbox.command(sandbox.path(caller).join("keyring"));
        command.args(["get", "foreign", "u"]).env("PATH", directories.join(":"));
        let run = sandbox.run(&mut command);
        assert_eq!((run.code, run.stdout.as_str()), (Some(7), "other|get|foreign|u|"), "{caller}");
    }
    // With nobody in between, it ends.
    let mut command = sandbox.command(sandbox.path("one/keyring"));
    command
        .args(["get", "foreign", "u"])
        .env("PATH", [&directories[0], &directories[3]].map(String::as_str).join(":"));
    let run = sandbox.run(&mut command);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(1), "", ""));
}

#[test]
fn it_happens_once() {
    let sandbox = Sandbox::new();
    // A wrapper that calls us again would make a loop.
    sandbox.script("loop/keyring", &format!("#!/bin/sh\necho again >&2\nexec {VALETKEY} keyring \"$@\"\n"));
    let path = format!("{}:{}", sandbox.path("bin").display(), sandbox.path("bin/loop").display());
    let run = sandbox.run(sandbox.keyring(["get", "foreign", "u"]).env("PATH", path));
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(1), "", "again\n"));
}

#[test]
fn a_keyring_in_the_working_directory_is_never_run() {
    let sandbox = Sandbox::new();
    sandbox.script("planted/keyring", "#!/bin/sh\necho planted\n");
    for path in ["", ".", "relative", ":", "./", "planted"] {
        let mut command = sandbox.keyring(["get", "foreign", "u"]);
        command.env("PATH", path).current_dir(sandbox.path("bin/planted"));
        let run = sandbox.run(&mut command);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{path:?}");
    }
}

#[test]
fn the_next_keyring_starts_with_what_we_were_started_with() {
    let sandbox = Sandbox::new();
    sandbox.script("elsewhere/keyring", "#!/bin/sh\numask\nulimit -c\n");
    let path = format!("{}:{}", sandbox.path("bin").display(), sandbox.path("bin/elsewhere").display());
    let mut command = sandbox.command("/bin/sh");
    command.args(["-c", "umask 0027; umask; ulimit -c; keyring get foreign u"]).env("PATH", path);
    let run = sandbox.run(&mut command);
    let lines: Vec<_> = run.stdout.lines().collect();
    assert_eq!(lines[..2], lines[2..], "{run:?}");
}

#[test]
fn a_wrong_configuration_keeps_nobody_from_other_keyrings() {
    let (sandbox, path) = sandbox_with_other();
    sandbox.configure("colour = \"red\"\n");
    let run = sandbox.run(sandbox.keyring(["get", "https://example.test/simple/", "u"]).env("PATH", path));
    assert_eq!(run.code, Some(7), "{run:?}");
}
