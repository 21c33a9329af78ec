//! What `valetkey doctor` says of clients that hang, lie or are not there, and of what takes variables or wins over a
//! keyring. The real clients are in `tests/clients/doctor.rs`.

use std::process::Command;

use super::harness::{Run, Sandbox};

fn doctor(sandbox: &Sandbox) -> Command {
    let mut command = sandbox.valetkey();
    command.arg("doctor");
    command
}

#[track_caller]
fn assert_says(run: &Run, words: &[&str]) {
    for word in words {
        assert!(run.stdout.contains(word), "{word:?} is not in {run:?}");
    }
}

/// Each of them in its own way: without a word, with a child that holds its output open, with one that ignores signals,
/// with output that never ends.
#[test]
fn clients_that_hang_cost_their_own_line_and_nothing_else() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    sandbox.script("python3", "#!/bin/sh\nexec /bin/sleep 1000\n");
    sandbox.script("uv", "#!/bin/sh\n/bin/sleep 1000 &\nexit 0\n");
    sandbox.script("poetry", "#!/bin/sh\ntrap '' TERM INT HUP\nwhile :; do /bin/sleep 1000; done\n");
    sandbox.script("pipenv", "#!/bin/sh\nexec /bin/sleep 1000\n");
    let python = sandbox.path("bin/python3");
    sandbox.script("twine", &format!("#!{}\n", python.display()));
    sandbox.script("pdm", &format!("#!{}\n", python.display()));
    let run = sandbox.run(&mut doctor(&sandbox));
    assert_says(&run, &["note pip", "note uv", "note poetry", "note twine", "does not answer within 20 s"]);
    assert_says(&run, &[" source ", " network ", " keyring "]);
    assert!(run.stderr.is_empty(), "{run:?}");
    // And none is left behind.
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let home = sandbox.path("home");
    let left: Vec<_> = all
        .filter(|process| {
            std::fs::read(process.join("environ")).is_ok_and(|environment| {
                let wanted = format!("HOME={}\0", home.display());
                environment.windows(wanted.len()).any(|part| part == wanted.as_bytes())
            })
        })
        .filter_map(|process| std::fs::read_to_string(process.join("cmdline")).ok())
        .filter(|line| line.contains("sleep"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn clients_that_talk_nonsense_are_told_of_and_not_believed() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let secret = "plainly-a-fake-password";
    sandbox.script("python3", &format!("#!/bin/sh\necho '{{\"{secret}\": 1}}'\necho {secret} >&2\n"));
    sandbox
        .script("uv", &format!("#!/bin/sh\necho 'keyring_provider: {secret}'\necho {secret} >&2\nexit 3\n"));
    sandbox
        .script("poetry", &format!("#!/bin/sh\nwhile :; do echo {secret}{secret}{secret} || exit; done\n"));
    let run = sandbox.run(&mut doctor(&sandbox));
    assert_says(&run, &["note pip", "has no pip", "note uv", "note poetry"]);
    assert!(!run.stdout.contains(secret) && !run.stderr.contains(secret), "{run:?}");
}

#[test]
fn what_tox_and_hooks_take_away_is_said() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let quiet = sandbox.run(&mut doctor(&sandbox));
    assert!(!quiet.stdout.contains(" tox ") && !quiet.stdout.contains(" hooks "), "{quiet:?}");
    let run = sandbox.run(doctor(&sandbox).env("TOX_ENV_NAME", "py311"));
    assert_says(&run, &["note tox      this is inside of tox", "pass_env = XDG_RUNTIME_DIR"]);
    sandbox.script("tox", "#!/bin/sh\n");
    let run = sandbox
        .run(doctor(&sandbox).env("CLOUDSDK_CORE_PROJECT", "x").env("UV_KEYRING_PROVIDER", "subprocess"));
    assert_says(&run, &["note tox", "CLOUDSDK_CORE_PROJECT, UV_KEYRING_PROVIDER, XDG_RUNTIME_DIR"]);
    let run = sandbox.run(doctor(&sandbox).env("PRE_COMMIT", "1"));
    assert_says(
        &run,
        &["note hooks    this is inside of pre-commit", "pip config set global.keyring-provider subprocess"],
    );
    let run = sandbox.run(doctor(&sandbox).env("PRE_COMMIT", "1").env("PIP_KEYRING_PROVIDER", "subprocess"));
    assert!(!run.stdout.contains(" hooks "), "{run:?}");
    sandbox.script("pre-commit", "#!/bin/sh\n");
    let run = sandbox.run(doctor(&sandbox).env("PIP_KEYRING_PROVIDER", "subprocess"));
    assert_says(&run, &["note hooks    pre-commit installs hooks wherever git is started"]);
}

#[test]
fn a_netrc_that_wins_over_the_keyring_is_said_without_its_secret() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let secret = "plainly-a-fake-password";
    let text = format!(
        "machine elsewhere.example login u password {secret}\nmachine us-python.pkg.dev\n login {secret} password {secret}\n"
    );
    sandbox.write("home/.netrc", &text);
    let run = sandbox.run(&mut doctor(&sandbox));
    assert_says(&run, &["note netrc", "home/.netrc has an entry for us-python.pkg.dev"]);
    assert!(!run.stdout.contains(secret) && !run.stdout.contains("elsewhere"), "{run:?}");
    let other = sandbox.write("home/other", "default login u password p\n");
    let run = sandbox.run(doctor(&sandbox).env("NETRC", other));
    assert!(!run.stdout.contains("netrc"), "{run:?}");
}

/// Files that do not end, and files that nobody writes.
#[test]
fn files_that_are_none_are_passed_over() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    for below in [
        "home/.netrc",
        "home/.config/python_keyring/keyringrc.cfg",
        "home/.local/share/uv/credentials/credentials.toml",
    ] {
        let path = sandbox.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
    }
    let run = sandbox.run(&mut doctor(&sandbox));
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let run = sandbox.run(doctor(&sandbox).env("NETRC", "/dev/zero").env("UV_CREDENTIALS_DIR", "/dev"));
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
}
