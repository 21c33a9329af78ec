//! Where no process or no thread can be had: `ulimit -u`, or a container's limit. Every command ends with a sentence, and
//! none with a trace.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use super::harness::{Run, Sandbox, VALETKEY, is_ci};

/// What a command is called with.
type Words = fn(&Sandbox) -> Vec<String>;

/// A user of whom nobody else on this machine is a process.
const USER: u32 = 54_321;

fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().flatten().for_each(|entry| give(&entry.path()));
    }
}

/// A sandbox that belongs to that user, with the program in it: the way to the one that was built may be closed to him.
fn sandbox() -> Option<Sandbox> {
    if !rustix::process::geteuid().is_root() {
        assert!(!is_ci(), "CI may start processes of another user");
        println!("skipped: nobody but root starts processes of another user");
        return None;
    }
    let sandbox = Sandbox::new();
    for name in ["valetkey", "keyring"] {
        fs::remove_file(sandbox.path(&format!("bin/{name}"))).unwrap();
    }
    sandbox.copy(VALETKEY, "bin/valetkey");
    fs::hard_link(sandbox.path("bin/valetkey"), sandbox.path("bin/keyring")).unwrap();
    Some(sandbox)
}

/// The command as that user, who may have so many processes and threads.
fn limited(sandbox: &Sandbox, most: u32, command: &Command) -> Command {
    give(sandbox.path("").as_path());
    let mut limited = sandbox.command("/bin/sh");
    let text = "keep=$PATH; PATH=/usr/bin:/bin:/usr/sbin:/sbin; user=$1; most=$2; shift 2
        exec setpriv --reuid \"$user\" --regid \"$user\" --clear-groups \
            prlimit --nproc=\"$most:$most\" env PATH=\"$keep\" \"$@\"";
    limited.args(["-c", text, "sh", &USER.to_string(), &most.to_string()]);
    limited.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

#[track_caller]
fn assert_no_trace(run: &Run, what: &str) {
    let said = format!("{}{}", run.stdout, run.stderr);
    for word in ["panicked", "RUST_BACKTRACE", "defect", "thread '"] {
        assert!(!said.contains(word), "{what}: {run:?}");
    }
    // 126 is that of a command that cannot be run.
    assert!(matches!(run.code, Some(0..=3 | 126)), "{what}: {run:?}");
    // Nothing without a word.
    assert!(run.code == Some(0) || !run.stderr.is_empty() || said.contains("FAIL"), "{what}: {run:?}");
}

#[test]
fn a_helper_without_threads_says_what_is_missing() {
    let Some(sandbox) = sandbox() else { return };
    let key = sandbox.service_account();
    let mut get = sandbox.get();
    get.env("GOOGLE_APPLICATION_CREDENTIALS", key);
    for most in 1..=2 {
        let run = sandbox.run(&mut limited(&sandbox, most, &get));
        super::assert_refused(&run, "no thread can be had");
        assert!(run.stderr.contains("ulimit -u"), "{run:?}");
    }
    // One at a time is enough for all of it.
    let run = sandbox.run(&mut limited(&sandbox, 8, &get));
    super::assert_given(&run);
}

#[test]
fn no_command_ends_with_a_trace_where_processes_and_threads_are_few() {
    let commands: [Words; 17] = [
        |it| vec!["keyring".into(), "get".into(), it.index(), "oauth2accesstoken".into()],
        |_| vec!["keyring".into(), "get".into(), "https://example.test/".into()],
        |_| vec!["token".into()],
        |it| vec!["token".into(), "--output".into(), it.path("home/token").display().to_string()],
        |_| vec!["status".into()],
        |it| vec!["doctor".into(), it.index()],
        |_| vec!["serve".into()],
        |_| vec!["stop".into()],
        |_| vec!["reload".into()],
        |_| vec!["exec".into(), "--".into(), "/bin/true".into()],
        |_| vec!["env".into()],
        |_| vec!["login".into(), "--no-browser".into()],
        |_| vec!["login".into(), "--adopt".into()],
        |_| vec!["logout".into(), "--all".into()],
        |_| vec!["vault".into(), "file".into()],
        |_| vec!["vault".into(), "keychain".into()],
        |_| vec!["docker".into(), "args".into(), "us/acme/private".into()],
    ];
    for has_key in [false, true] {
        let Some(sandbox) = sandbox() else { return };
        if has_key {
            sandbox.service_account();
        } else {
            sandbox.sign_in();
        }
        for make in commands {
            let words = make(&sandbox);
            for most in 1..=4 {
                let serves = words[0] == "serve";
                let mut command = sandbox.command(sandbox.path("bin/valetkey"));
                command.args(&words);
                if has_key {
                    command.env("GOOGLE_APPLICATION_CREDENTIALS", sandbox.path("home/key.json"));
                }
                let mut limited = limited(&sandbox, most, &command);
                let what = format!("{words:?} with {most} processes");
                if serves && most > 2 {
                    // It may serve, then.
                    assert_serves_or_says(&sandbox, &mut limited, &what);
                    continue;
                }
                let run = sandbox.run(&mut limited);
                assert_no_trace(&run, &what);
                stop(&sandbox);
            }
        }
    }
}

/// A daemon that was started counts among the user's processes.
fn stop(sandbox: &Sandbox) {
    let note = fs::read_to_string(sandbox.path("run/valetkey/daemon.lock")).unwrap_or_default();
    let pid = serde_json::from_str::<serde_json::Value>(&note).ok().and_then(|note| note["pid"].as_i64());
    if let Some(pid) = pid.and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).unwrap())) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        Sandbox::wait_until("it is gone", || rustix::process::test_kill_process(pid).is_err());
        fs::write(sandbox.path("run/valetkey/daemon.lock"), "").unwrap();
    }
}

fn assert_serves_or_says(sandbox: &Sandbox, command: &mut Command, what: &str) {
    let log = sandbox.path("serve.log");
    let file = fs::File::create(&log).unwrap();
    let mut child = command.stderr(file).spawn().unwrap();
    Sandbox::wait_until("it serves or ends", || {
        sandbox.socket().exists() || child.try_wait().unwrap().is_some()
    });
    let _ = child.kill();
    let status = child.wait().unwrap();
    let said = fs::read_to_string(&log).unwrap();
    assert!(!said.contains("panicked") && !said.contains("defect"), "{what}: {status}: {said}");
    let _ = fs::remove_file(sandbox.socket());
    let _ = chown(sandbox.path("run"), Some(USER), Some(USER));
}
