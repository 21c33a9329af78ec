//! The directory of the socket when it is not what it should be. `serve` refuses; a helper says what is wrong and
//! answers by itself, since whoever prepared that directory must not be able to keep it from answering.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};

use super::assert_given;
use super::harness::{Run, Sandbox};

/// Both views of the same fault.
fn assert_unsafe(sandbox: &Sandbox, word: &str) {
    let serve = sandbox.run(sandbox.valetkey().arg("serve"));
    assert_eq!((serve.code, serve.stdout.as_str()), (Some(3), ""), "{serve:?}");
    assert!(serve.stderr.starts_with("error: ") && serve.stderr.contains(word), "{serve:?}");
    assert!(serve.stderr.contains("\nhint: "), "{serve:?}");
    let helper = sandbox.run(&mut sandbox.get());
    assert_given(&helper);
    assert_eq!(helper.stderr.lines().count(), 1, "{helper:?}");
    assert!(helper.stderr.starts_with("valetkey: warning: ") && helper.stderr.contains(word), "{helper:?}");
}

fn signed_in() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    sandbox
}

#[test]
fn a_directory_that_others_can_reach_is_refused() {
    let sandbox = signed_in();
    fs::create_dir(sandbox.runtime()).unwrap();
    for mode in [0o777, 0o750, 0o701] {
        fs::set_permissions(sandbox.runtime(), fs::Permissions::from_mode(mode)).unwrap();
        assert_unsafe(&sandbox, &format!("has mode {mode:04o}"));
    }
}

#[test]
fn a_link_is_refused() {
    let sandbox = signed_in();
    fs::DirBuilder::new().mode(0o700).create(sandbox.path("real")).unwrap();
    symlink(sandbox.path("real"), sandbox.runtime()).unwrap();
    assert_unsafe(&sandbox, "is a symbolic link");
}

#[test]
fn a_file_in_its_place_is_refused() {
    let sandbox = signed_in();
    sandbox.write("run/valetkey", "");
    assert_unsafe(&sandbox, "is not a directory");
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let sandbox = signed_in();
    fs::DirBuilder::new().mode(0o700).create(sandbox.runtime()).unwrap();
    if chown(sandbox.runtime(), Some(65_534), None).is_err() {
        assert!(!super::harness::is_ci(), "CI runs this as root");
        println!("skipped: giving a directory away needs root");
        return;
    }
    assert_unsafe(&sandbox, "belongs to uid 65534");
}

#[test]
fn a_runtime_directory_of_another_user_or_none_is_passed_over() {
    let sandbox = signed_in();
    let mut without = sandbox.get();
    without.env_remove("XDG_RUNTIME_DIR").env("VALETKEY_AUTO_START", "false");
    assert_given(&sandbox.run(&mut without));
    let mut missing = sandbox.get();
    missing.env("XDG_RUNTIME_DIR", sandbox.path("missing")).env("VALETKEY_AUTO_START", "false");
    assert_given(&sandbox.run(&mut missing));
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_replaced() {
    let sandbox = signed_in();
    let long = sandbox.path(&format!("run/{}", "x".repeat(120)));
    fs::DirBuilder::new().mode(0o700).create(&long).unwrap();
    let ask = || sandbox.run(sandbox.get().env("XDG_RUNTIME_DIR", &long));
    let first = assert_given(&ask());
    assert_eq!(assert_given(&ask()), first, "a daemon answers at the other place");
    let stop = sandbox.run(sandbox.valetkey().arg("stop").env("XDG_RUNTIME_DIR", &long));
    assert_eq!(stop.code, Some(0), "{stop:?}");
}

/// Runs a script with a file system of its own in the place of the runtime directory.
fn with_own_file_system(sandbox: &Sandbox, options: &str, script: &str) -> Option<Run> {
    let run = sandbox.path("run").display().to_string();
    let script = format!("mount -t tmpfs -o {options},mode=700 tmpfs {run} || exit 77\n{script}");
    let mut command = sandbox.command("/usr/bin/unshare");
    let path = format!("{}:/usr/sbin:/sbin:/bin:/usr/bin", sandbox.path("bin").display());
    // The machine's gcloud is behind a sign-in that decides first.
    command.args(["--mount", "/bin/sh", "-c", &script]).env("PATH", path);
    let outcome = sandbox.run(&mut command);
    if outcome.code == Some(77) || outcome.stderr.contains("unshare failed") {
        assert!(!super::harness::is_ci(), "CI can mount: {outcome:?}");
        println!("skipped: a file system of one's own needs root");
        return None;
    }
    Some(outcome)
}

#[test]
fn a_full_disk_costs_the_daemon_and_not_the_answer() {
    let sandbox = signed_in();
    let script = format!(
        "cat /dev/zero > {0}/full 2>/dev/null; valetkey serve; echo serve=$? >&2; keyring get {1} oauth2accesstoken",
        sandbox.path("run").display(),
        sandbox.index()
    );
    let Some(run) = with_own_file_system(&sandbox, "size=8k,nr_inodes=3", &script) else { return };
    assert_given(&run);
    assert!(run.stderr.contains("error: ") && run.stderr.contains("serve=3"), "{run:?}");
    assert!(run.stderr.contains("valetkey: warning: "), "{run:?}");
}

#[test]
fn a_read_only_file_system_costs_the_daemon_and_not_the_answer() {
    let sandbox = signed_in();
    let script =
        format!("valetkey serve; echo serve=$? >&2; keyring get {} oauth2accesstoken", sandbox.index());
    let Some(run) = with_own_file_system(&sandbox, "ro", &script) else { return };
    assert_given(&run);
    assert!(run.stderr.contains("error: cannot create ") && run.stderr.contains("serve=3"), "{run:?}");
}

#[test]
fn a_disk_that_fills_up_under_the_daemon_costs_log_lines_only() {
    let sandbox = signed_in();
    let home = sandbox.path("home/.local").display().to_string();
    fs::create_dir_all(&home).unwrap();
    let ask = format!("keyring get {} oauth2accesstoken", sandbox.index());
    let script = format!(
        "mount -t tmpfs -o size=16k,mode=700 tmpfs {home} || exit 77\n\
         {ask} >/dev/null && cat /dev/zero > {home}/full 2>/dev/null; for i in 1 2 3; do {ask} >/dev/null || exit 5; done\n\
         {ask}; valetkey status --json >&2; valetkey stop"
    );
    let Some(run) = with_own_file_system(&sandbox, "size=1m", &script) else { return };
    assert!(run.stdout.starts_with("ya29."), "{run:?}");
    assert!(run.stderr.contains("\"started_by\": \"helper\""), "{run:?}");
}

#[test]
fn a_full_disk_opens_no_way_around_a_refusal() {
    let sandbox = signed_in();
    let (insecure, bare) =
        (sandbox.index().replace("https", "http"), format!("localhost:{}", sandbox.google.port()));
    // Beside the sign-ins there is room, or not even there.
    for (state, word) in [
        ("", "was refused to this program just now"),
        ("XDG_STATE_HOME=/proc/1", "cannot be remembered here"),
    ] {
        let script = format!(
            "mkdir -m 700 {0}/valetkey; for i in 1 2 3 4 5 6 7 8; do true > {0}/$i; done 2>/dev/null\n\
             export A=1 {state}; keyring get {insecure} oauth2accesstoken; keyring get {bare} oauth2accesstoken",
            sandbox.path("run").display(),
        );
        let Some(run) = with_own_file_system(&sandbox, "size=64k,nr_inodes=6", &script) else { return };
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
        assert!(run.stderr.contains(word), "{run:?}");
    }
}

/// The note in the lock chooses an identity, so that in a directory of somebody else's it must count for nothing.
#[test]
fn a_note_that_another_user_could_have_planted_is_not_read() {
    let sandbox = signed_in();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let note = serde_json::json!({
        "pid": 1, "version": "x", "boot": boot.trim(),
        "source": {"kind": "metadata", "host": sandbox.google.metadata_address()},
    });
    sandbox.write("run/valetkey/daemon.lock", &note.to_string());
    fs::set_permissions(sandbox.runtime(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_unsafe(&sandbox, "has mode 0755");
    assert!(sandbox.google.metadata_requests().is_empty());
    // In a private directory it is the daemon's word.
    fs::set_permissions(sandbox.runtime(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_given(&sandbox.run(&mut sandbox.get()));
    assert!(!sandbox.google.metadata_requests().is_empty());
    let status = sandbox.run(sandbox.valetkey().arg("status")).stdout;
    assert!(status.contains("1. metadata server at"), "{status}");
    let doctor = sandbox.run(sandbox.valetkey().arg("doctor")).stdout;
    assert!(doctor.contains("a daemon that was killed had been given the identity"), "{doctor}");
}

#[test]
fn a_named_pipe_in_the_place_of_a_file_hangs_nobody() {
    for below in
        ["run/valetkey/daemon.lock", "home/.config/valetkey/config.toml", "run/valetkey/valetkey.sock"]
    {
        let sandbox = signed_in();
        let path = sandbox.path(below);
        let _ = fs::remove_file(&path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        let run = sandbox.run(&mut sandbox.get());
        assert!(run.took.as_secs() < 10, "{below}: {run:?}");
        assert_eq!(run.code == Some(0), below != "home/.config/valetkey/config.toml", "{below}: {run:?}");
        let _ = fs::remove_file(&path);
    }
}

#[test]
fn bare_hosts_are_refused_where_a_refusal_could_not_be_remembered() {
    let sandbox = signed_in();
    fs::create_dir(sandbox.runtime()).unwrap();
    fs::set_permissions(sandbox.runtime(), fs::Permissions::from_mode(0o777)).unwrap();
    let bare = format!("localhost:{}", sandbox.google.port());
    super::assert_refused(
        &sandbox.run(&mut sandbox.keyring(["get", &bare, "oauth2accesstoken"])),
        "no token for",
    );
}
