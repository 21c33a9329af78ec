//! Ten seconds are a promise, whatever the answer has to come from: file systems that do not answer, devices without an
//! end, pipes in the place of files, and clients that do not read.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::harness::{ADC, CONFIGURATION, Run, Sandbox, finish};
use super::silent::Silent;
use super::{assert_given, assert_refused};

/// A sandbox with a key file, for which no daemon starts.
fn keyed() -> (Sandbox, Command) {
    let sandbox = Sandbox::new();
    let key = sandbox.service_account();
    let mut command = sandbox.get();
    command.env("GOOGLE_APPLICATION_CREDENTIALS", key);
    (sandbox, command)
}

/// Asks where this directory is silent.
fn ask(sandbox: &Sandbox, directory: &Path, command: &Command) -> Option<Run> {
    fs::create_dir_all(directory).unwrap();
    let silent = Silent::new()?;
    let run = sandbox.run(&mut silent.under(sandbox, directory, command));
    Some(run)
}

/// Either there is an answer all the same, or one sentence; and in time.
#[track_caller]
fn assert_ends(run: &Run) {
    if run.code == Some(0) {
        assert_given(run);
        assert!(run.took < Duration::from_secs(10), "{run:?}");
    } else {
        assert_refused(run, "");
    }
}

#[test]
fn a_directory_that_does_not_answer_is_named_and_nobody_waits_for_it() {
    for (below, word) in [
        ("home", "home"),
        ("home/.config", "home/.config"),
        ("home/.config/valetkey", "home/.config/valetkey/config.toml"),
        ("run", "run"),
        ("run/valetkey", "run/valetkey"),
    ] {
        let (sandbox, command) = keyed();
        let Some(run) = ask(&sandbox, &sandbox.path(below), &command) else { return };
        assert_refused(&run, "");
        let path = sandbox.path(word).display().to_string();
        assert!(run.stderr.contains(&path), "{below}: {run:?}");
    }
}

#[test]
fn a_home_whose_sign_ins_do_not_answer_is_named() {
    for below in ["home/.local/state/valetkey", "home/.config/gcloud"] {
        let sandbox = Sandbox::new();
        let Some(run) = ask(&sandbox, &sandbox.path(below), &sandbox.get()) else { return };
        assert_refused(&run, "");
        let path = sandbox.path(below).display().to_string();
        assert!(run.stderr.contains(&path), "{run:?}");
    }
}

#[test]
fn whatever_a_variable_names_may_be_silent() {
    let silent = |sandbox: &Sandbox| sandbox.path("silent");
    for (name, below) in [
        ("GOOGLE_APPLICATION_CREDENTIALS", "key.json"),
        ("VALETKEY_CREDENTIAL", "key.json"),
        ("CLOUDSDK_CONFIG", ""),
        ("CLOUDSDK_CONFIG", "gcloud"),
        ("VALETKEY_SOCKET", "valetkey.sock"),
        ("SSL_CERT_FILE", "ca.pem"),
        ("SSL_CERT_DIR", ""),
        ("PIP_CERT", "ca.pem"),
        ("PIP_CONFIG_FILE", "pip.conf"),
        ("XDG_RUNTIME_DIR", ""),
        ("XDG_CONFIG_HOME", ""),
        ("XDG_STATE_HOME", ""),
        ("HOME", ""),
    ] {
        let (sandbox, mut command) = keyed();
        if name.starts_with("CLOUDSDK") || name.starts_with("XDG_STATE") {
            command.env_remove("GOOGLE_APPLICATION_CREDENTIALS");
        }
        command.env(name, silent(&sandbox).join(below));
        let Some(run) = ask(&sandbox, &silent(&sandbox), &command) else { return };
        assert_refused(&run, "");
        let path = silent(&sandbox).display().to_string();
        assert!(run.stderr.contains(&path), "{name}: {run:?}");
    }
    // An agent's socket is nothing that the answer has to come from.
    let (sandbox, mut command) = keyed();
    command.env_remove("GOOGLE_APPLICATION_CREDENTIALS").env("SSH_AUTH_SOCK", silent(&sandbox).join("agent"));
    let Some(run) = ask(&sandbox, &silent(&sandbox), &command) else { return };
    assert_ends(&run);
    let (sandbox, mut command) = keyed();
    command.env_remove("XDG_RUNTIME_DIR").env("TMPDIR", silent(&sandbox));
    let Some(run) = ask(&sandbox, &silent(&sandbox), &command) else { return };
    assert_ends(&run);
}

#[test]
fn an_authority_that_does_not_answer_is_named() {
    let (sandbox, command) = keyed();
    let text = fs::read_to_string(sandbox.path(CONFIGURATION)).unwrap();
    let (own, silent) = (sandbox.path("ca.pem"), sandbox.path("silent"));
    let silent_ca = silent.join("ca.pem").display().to_string();
    sandbox.write(CONFIGURATION, &text.replace(&own.display().to_string(), &silent_ca));
    let Some(run) = ask(&sandbox, &silent, &command) else { return };
    assert_refused(&run, &silent_ca);
}

#[test]
fn a_directory_of_the_search_path_that_does_not_answer_is_named() {
    // The next keyring, and gcloud.
    for (service, named) in [("https://example.test/simple/", "keyring"), ("", "gcloud")] {
        let (sandbox, _) = keyed();
        let index = sandbox.index();
        let service = if service.is_empty() { index.as_str() } else { service };
        let silent = sandbox.path("silent");
        let mut command = sandbox.keyring(["get", service, "oauth2accesstoken"]);
        command.env("PATH", format!("{}:{}", sandbox.path("bin").display(), silent.display()));
        let Some(run) = ask(&sandbox, &silent, &command) else { return };
        assert_refused(&run, &silent.join(named).display().to_string());
    }
}

#[test]
fn a_pipe_in_the_place_of_a_file_makes_nobody_wait() {
    for below in [
        "run/valetkey/start.lock",
        "run/valetkey/daemon.lock",
        "run/valetkey/valetkey.sock",
        "home/.local/state/valetkey/daemon.log",
        "home/.local/state/valetkey/accounts.toml",
        CONFIGURATION,
        ADC,
        "ca.pem",
    ] {
        let sandbox = Sandbox::new();
        let is_credential = below == ADC;
        if !is_credential {
            sandbox.sign_in();
        }
        let path = sandbox.path(below);
        let _ = fs::remove_file(&path);
        for directory in ["run/valetkey", "home/.local/state/valetkey", "home/.config/gcloud"] {
            sandbox.write(&format!("{directory}/x"), "");
            rustix::fs::chmod(sandbox.path(directory), rustix::fs::Mode::RWXU).unwrap();
        }
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        // Somebody holds its other end, so that opening it for writing alone would not fail either.
        let _reader = rustix::fs::open(
            &path,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK,
            rustix::fs::Mode::empty(),
        );
        assert_ends(&sandbox.run(&mut sandbox.get()));
    }
}

#[test]
fn certificates_without_an_end_are_refused_and_not_kept_in_memory() {
    let pipe = |sandbox: &Sandbox| {
        let path = sandbox.path("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    };
    let large = |sandbox: &Sandbox| {
        let path = sandbox.path("large");
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        path
    };
    let of = |make: &dyn Fn(&Sandbox) -> PathBuf, name: &str| {
        let (sandbox, mut command) = keyed();
        let path = make(&sandbox);
        let shown = path.display().to_string();
        if name == "extra_ca" {
            let text = fs::read_to_string(sandbox.path(CONFIGURATION)).unwrap();
            let own = sandbox.path("ca.pem").display().to_string();
            sandbox.write(CONFIGURATION, &text.replace(&own, &shown));
        } else {
            command.env(name, &path);
        }
        let run = sandbox.run(&mut command);
        assert_ends(&run);
        // What the configuration trusts by itself may be enough.
        assert!(run.code == Some(0) && name != "extra_ca" || run.stderr.contains(&shown), "{name}: {run:?}");
    };
    for name in ["SSL_CERT_FILE", "extra_ca"] {
        of(&|_| "/dev/zero".into(), name);
        of(&pipe, name);
        of(&large, name);
    }
    let directory = |sandbox: &Sandbox| {
        let path = sandbox.path("certificates");
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path.join("0123abcd.0")).unwrap();
        path
    };
    of(&directory, "SSL_CERT_DIR");
}

/// A pipe that nobody reads, and that is full.
fn full() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let (sandbox, mut command) = keyed();
    let (_reader, writer) = full();
    let start = Instant::now();
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let run = finish(child, start, Duration::from_secs(30));
    assert_refused(&run, "nobody reads standard output");
    // And one that reads nothing at all hears nothing.
    let mut command = sandbox.get();
    let (_reader, writer) = full();
    command.env("GOOGLE_APPLICATION_CREDENTIALS", sandbox.path("missing.json"));
    let start = Instant::now();
    let mut child = command.stdout(writer.try_clone().unwrap()).stderr(writer).spawn().unwrap();
    drop(command);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(12));
}

#[test]
fn the_next_keyring_has_all_the_time_that_it_wants() {
    let sandbox = Sandbox::new();
    sandbox.script("elsewhere/keyring", "#!/bin/sh\nPATH=/bin:/usr/bin\nsleep 11\necho \"late $$ $PPID\"\n");
    let path = format!("{}:{}", sandbox.path("bin").display(), sandbox.path("bin/elsewhere").display());
    let mut command = sandbox.keyring(["get", "foreign", "u"]);
    let mut child = command.env("PATH", path).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let status = child.wait().unwrap();
    let text = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
    // It is the very process that the client started, and its parent is the client.
    assert_eq!((status.code(), text), (Some(0), format!("late {pid} {}\n", std::process::id())));
}

#[test]
fn a_helper_that_is_ended_leaves_nobody_behind() {
    let (sandbox, command) = keyed();
    let Some(silent) = Silent::new() else { return };
    let directory = sandbox.path("home/.config");
    let mut child = silent.under(&sandbox, &directory, &command).spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let below = || fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
    let is_helper =
        || fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap_or_default() == "keyring\n";
    Sandbox::wait_until("the work is done by another", || is_helper() && !below().is_empty());
    let worker = below();
    child.kill().unwrap();
    child.wait().unwrap();
    drop(silent);
    let state = || fs::read_to_string(format!("/proc/{worker}/stat")).unwrap_or_default();
    Sandbox::wait_until("that one ends too", || state().is_empty() || state().contains(") Z "));
}

#[test]
fn a_daemon_serves_everybody_else_while_one_asks_path_does_not_answer() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let Some(silent) = Silent::new() else { return };
    let directory = sandbox.path("silent");
    fs::create_dir(&directory).unwrap();
    let daemon = sandbox.serve_with(&mut silent.under(&sandbox, &directory, &sandbox.valetkey()));
    let stuck = |number: usize| {
        let mut command = sandbox.get();
        command.env("GOOGLE_APPLICATION_CREDENTIALS", directory.join(format!("{number}.json")));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let start = Instant::now();
    let waiting: Vec<_> = (0..8).map(|number| stuck(number % 2)).collect();
    Sandbox::wait_until("they wait in the daemon", || {
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten();
        let states = tasks.filter_map(|task| fs::read_to_string(task.path().join("wchan")).ok());
        states.filter(|place| place.contains("fuse") || place.contains("request_wait")).count() >= 2
    });
    for _ in 0..3 {
        assert_given(&sandbox.run(&mut sandbox.get()));
    }
    for child in waiting {
        assert_refused(&finish(child, start, Duration::from_secs(30)), "does not answer");
    }
    // Nobody is sent after them.
    let run = sandbox.run(sandbox.get().env("GOOGLE_APPLICATION_CREDENTIALS", directory.join("0.json")));
    assert_refused(&run, "does not answer");
    drop(silent);
    drop(daemon);
}
