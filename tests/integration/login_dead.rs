//! Logins that end: why, what a helper says of it, what `status` and `doctor` show, and how a new sign-in mends it.
//! And logins that must not end: a network that fails, a server that changes refresh tokens, a disk that is full.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::harness::{Run, Sandbox, finish, is_ci};
use super::login::{DEVELOPER, LIST, STATE, alone, logins, publish, sign_in, status};
use super::stand_in::{Death, Fault, OAuthClient};
use super::{assert_given, assert_refused};

/// A developer who is signed in, and a browser that leaves a mark if anybody opens it.
fn signed_in(arguments: &[&str]) -> (Sandbox, OAuthClient) {
    let sandbox = Sandbox::new();
    let client = sandbox.configure_login("");
    sandbox.script("browser", "#!/bin/sh\necho opened > \"$HOME/opened\"\n");
    sign_in(&sandbox, arguments);
    (sandbox, client)
}

/// A helper as a desktop's pip starts it, without a daemon.
fn helper(sandbox: &Sandbox) -> Run {
    let mut command = sandbox.get();
    command.env("BROWSER", sandbox.path("bin/browser")).env("DISPLAY", ":0");
    sandbox.run(alone(&mut command))
}

/// One sentence with the reason and the one command, and the same wherever a person looks.
#[track_caller]
fn assert_dead(sandbox: &Sandbox, reason: &str, remedy: &str) {
    let run = helper(sandbox);
    assert_refused(&run, &format!("the login of developer@acme.example is dead: {reason}; {remedy}"));
    assert!(run.stderr.matches('`').count() <= 2, "more than one command: {run:?}");
    assert!(!sandbox.path("home/opened").exists(), "a browser was opened");
    assert!(
        status(sandbox).contains(&format!("           DEAD: {reason}; {remedy}\n")),
        "{}",
        status(sandbox)
    );
    let problem = logins(sandbox)[0]["problem"].clone();
    assert_eq!((problem["text"].as_str(), problem["remedy"].as_str()), (Some(reason), Some(remedy)));
    assert!(problem["since"].as_str().unwrap().ends_with('Z'), "{problem}");
}

/// The file in which a login's health is kept.
fn health_file(sandbox: &Sandbox) -> PathBuf {
    let files = fs::read_dir(sandbox.path(&format!("{STATE}/health"))).unwrap().flatten();
    let mut files =
        files.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "json"));
    files.next().unwrap()
}

const AGAIN: &str = "sign in again with `valetkey login --account developer@acme.example`";

#[test]
fn each_death_is_told_with_its_reason_and_its_remedy() {
    let (sandbox, client) = signed_in(&[]);
    assert_given(&helper(&sandbox));
    let revoked = "it was revoked, or the account's password was changed";
    let fresh = "the organisation wants a fresh sign-in";
    let trust = format!("ask the administrator to trust the client {}", client.id);
    let policy = "an administrator of the organisation does not allow this OAuth client";
    for (death, reason, remedy) in [
        (Death::Revoked, revoked, AGAIN),
        (Death::PasswordChanged, revoked, AGAIN),
        (Death::Unused, revoked, AGAIN),
        (Death::TestingEnded, revoked, AGAIN),
        (Death::InvalidRapt, fresh, AGAIN),
        (Death::RaptRequired, fresh, AGAIN),
        (Death::AdminPolicy, policy, &trust),
    ] {
        sandbox.google.end_logins(DEVELOPER, death);
        assert_dead(&sandbox, reason, remedy);
        sandbox.google.restore_logins(DEVELOPER);
    }
    sandbox.google.token_faults(vec![Fault::oauth_error("invalid_scope", "{invalid=[x]}")]);
    assert_dead(&sandbox, "the scope that is needed was not granted", AGAIN);
    // What is alive again is not shown as dead any more.
    assert_given(&helper(&sandbox));
    assert!(!status(&sandbox).contains("DEAD") && logins(&sandbox)[0]["problem"].is_null());
}

#[test]
fn the_calendar_tells_what_google_does_not() {
    let (sandbox, _) = signed_in(&[]);
    assert_given(&helper(&sandbox));
    let health = health_file(&sandbox);
    let long_ago = r#"{"refreshed":"2020-01-01T00:00:00Z","problem":null,"rotates":false}"#;
    fs::write(&health, long_ago).unwrap();
    sandbox.google.end_logins(DEVELOPER, Death::Unused);
    assert_dead(&sandbox, "nobody used it for six months", AGAIN);
    // Never used, and made long ago.
    fs::remove_file(&health).unwrap();
    let list = fs::read_to_string(sandbox.path(LIST)).unwrap();
    let created = list.lines().find(|line| line.starts_with("created = ")).unwrap().to_owned();
    sandbox.write(LIST, &list.replace(&created, "created = \"2020-01-01T00:00:00Z\""));
    assert_dead(&sandbox, "nobody used it for six months", AGAIN);
    sandbox.write(LIST, &list.replace(&created, &format!("{created}\nends = \"2020-01-08T00:00:00Z\"")));
    let testing = "it was made with a client in testing mode, whose sign-ins end after seven days";
    assert_dead(&sandbox, testing, AGAIN);
    assert!(status(&sandbox).contains("           is over, as all sign-ins with a client in testing mode"));
    // Health that makes no sense is as good as none.
    fs::write(&health, "{").unwrap();
    assert_dead(&sandbox, testing, AGAIN);
}

#[test]
fn a_client_that_is_gone_or_closed_to_outsiders_is_told() {
    let (sandbox, client) = signed_in(&[]);
    let command = "`valetkey login --account developer@acme.example --client-id-file FILE`";
    sandbox.google.restrict_to_organisation(&client.id);
    let internal = "its OAuth client serves only accounts of the organisation that made it";
    assert_dead(&sandbox, internal, &format!("use a client of your own organisation: {command}"));
    sandbox.google.delete_client(&client.id);
    let gone = format!("its OAuth client {} was deleted or changed", client.id);
    assert_dead(&sandbox, &gone, &format!("get a new client file and run {command}"));
}

#[test]
fn a_dead_login_that_publishes_is_mended_by_one_that_does() {
    let (sandbox, _) = signed_in(&["--write"]);
    sandbox.google.end_logins(DEVELOPER, Death::Revoked);
    let run = sandbox.run(alone(&mut publish(&sandbox)));
    assert_refused(&run, "sign in again with `valetkey login --write --account developer@acme.example`");
}

#[test]
fn doctor_finds_the_dead_login_and_goes_on() {
    let (sandbox, _) = signed_in(&[]);
    sign_in(&sandbox, &["--write"]);
    let run = sandbox.run(sandbox.valetkey().arg("doctor"));
    assert_eq!(run.stdout.matches("ok   login    developer@acme.example reads").count(), 2, "{run:?}");
    sandbox.google.end_logins(DEVELOPER, Death::InvalidRapt);
    let run = sandbox.run(sandbox.valetkey().arg("doctor"));
    assert_eq!(run.code, Some(3), "{run:?}");
    let found =
        "FAIL login    the login of developer@acme.example is dead: the organisation wants a fresh sign-in\n";
    assert_eq!(run.stdout.matches(found).count(), 2, "{run:?}");
    for command in [AGAIN, &AGAIN.replace("login --", "login --write --")] {
        assert!(run.stdout.contains(&format!("→ {command}\n")), "{run:?}");
    }
    assert!(run.stdout.contains("ok   network"), "it goes on: {run:?}");
}

#[test]
fn a_daemon_says_that_a_login_is_dead_and_goes_on_with_a_new_one() {
    let (sandbox, _) = signed_in(&[]);
    let daemon = sandbox.serve();
    sandbox.google.end_logins(DEVELOPER, Death::Revoked);
    for _ in 0..2 {
        let mut command = sandbox.get();
        let run = sandbox.run(command.env("BROWSER", sandbox.path("bin/browser")).env("DISPLAY", ":0"));
        assert_refused(&run, AGAIN);
    }
    assert!(!sandbox.path("home/opened").exists());
    assert!(status(&sandbox).contains("DEAD: it was revoked"), "{}", status(&sandbox));
    Sandbox::wait_until("it is logged", || {
        let log = daemon.log();
        log.contains("no token")
            && log.contains(AGAIN)
            && log.matches("\"verdict\":\"the login of").count() == 2
    });
    sign_in(&sandbox, &[]);
    assert_given(&sandbox.run(&mut sandbox.get()));
    assert!(!status(&sandbox).contains("DEAD"), "{}", status(&sandbox));
}

#[test]
fn a_network_that_fails_is_no_death() {
    let (sandbox, _) = signed_in(&[]);
    for fault in
        [Fault::status(500), Fault::CloseAtOnce, Fault::HalfBody, Fault::not_json(), Fault::status(404)]
    {
        sandbox.google.token_fault_always(Some(fault.clone()));
        let run = helper(&sandbox);
        assert_refused(&run, "");
        assert!(!run.stderr.contains("dead") && !run.stderr.contains("valetkey login"), "{run:?}");
        assert!(!status(&sandbox).contains("DEAD"), "{fault:?}");
    }
    sandbox.google.token_fault_always(Some(Fault::oauth_error("server_error", "x")));
    assert_refused(&helper(&sandbox), "Google refused the login of developer@acme.example: server_error (x)");
    assert!(logins(&sandbox)[0]["problem"].is_null());
    sandbox.google.token_fault_always(None);
    // No network at all: a proxy that is not there.
    let run = sandbox.run(alone(&mut sandbox.get()).env("HTTPS_PROXY", "http://127.0.0.1:9"));
    assert_refused(&run, "cannot reach");
    assert!(logins(&sandbox)[0]["problem"].is_null());
    // A death that was seen stays seen while the network is gone.
    sandbox.google.end_logins(DEVELOPER, Death::Revoked);
    assert_refused(&helper(&sandbox), "is dead");
    let since = logins(&sandbox)[0]["problem"]["since"].clone();
    sandbox.google.token_fault_always(Some(Fault::status(500)));
    assert_refused(&helper(&sandbox), "status 500");
    assert_eq!(logins(&sandbox)[0]["problem"]["since"], since);
    sandbox.google.token_fault_always(None);
    sandbox.google.restore_logins(DEVELOPER);
    assert_given(&helper(&sandbox));
}

/// The command under libfaketime, and the file by which its clock is set.
fn with_fake_clock(sandbox: &Sandbox) -> Option<(Command, PathBuf)> {
    let places = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let library = places.map(|place| place.join("faketime/libfaketime.so.1")).find(|path| path.exists());
    let Some(library) = library else {
        assert!(!is_ci(), "CI has libfaketime");
        println!("skipped: there is no libfaketime");
        return None;
    };
    let setting = sandbox.write("faketime", "+0");
    let mut command = sandbox.valetkey();
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", &setting)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
    Some((command, setting))
}

#[test]
fn a_token_that_is_still_good_is_given_while_its_login_is_dead() {
    let (sandbox, _) = signed_in(&[]);
    let Some((mut command, setting)) = with_fake_clock(&sandbox) else { return };
    let _daemon = sandbox.serve_with(&mut command);
    let token = assert_given(&sandbox.run(&mut sandbox.get()));
    sandbox.google.end_logins(DEVELOPER, Death::Revoked);
    // Half of its life is over: a new one is asked for, in vain.
    fs::write(&setting, "+2700").unwrap();
    let before = sandbox.google.token_requests().len();
    assert_eq!(assert_given(&sandbox.run(&mut sandbox.get())), token);
    assert_eq!(sandbox.google.token_requests().len(), before + 1);
    assert!(status(&sandbox).contains("DEAD: it was revoked"), "{}", status(&sandbox));
    fs::write(&setting, "+3700").unwrap();
    Sandbox::wait_until("it is over", || sandbox.run(&mut sandbox.get()).code == Some(1));
    sign_in(&sandbox, &[]);
    assert_ne!(assert_given(&sandbox.run(&mut sandbox.get())), token);
}

/// Starts all of them at once and waits for each.
fn crowd(sandbox: &Sandbox, commands: Vec<Command>) {
    let start = Instant::now();
    let children: Vec<_> = commands
        .into_iter()
        .map(|mut command| command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in children {
        let run = finish(child, start, Duration::from_secs(30));
        sandbox.hear(run.stderr.as_bytes());
        assert_given(&run);
    }
}

/// The second use of a refresh token ends the login, there as with many real servers.
#[test]
fn a_server_that_changes_refresh_tokens_never_sees_one_twice() {
    let (sandbox, _) = signed_in(&[]);
    sign_in(&sandbox, &["--write"]);
    sandbox.google.rotate_refresh_tokens(true);
    let daemon = sandbox.serve();
    // Helpers that find no daemon refresh by themselves, beside the one that is there.
    let elsewhere = |mut command: Command| {
        alone(command.env("XDG_RUNTIME_DIR", sandbox.path("tmp")));
        command
    };
    for _ in 0..3 {
        assert_eq!(sandbox.run(sandbox.valetkey().arg("reload")).code, Some(0));
        let mut commands: Vec<_> = (0..3).map(|_| elsewhere(sandbox.get())).collect();
        commands.extend([sandbox.get(), sandbox.get(), publish(&sandbox), elsewhere(publish(&sandbox))]);
        crowd(&sandbox, commands);
    }
    drop(daemon);
    assert_given(&helper(&sandbox));
    let refreshes = sandbox.google.token_requests();
    let refreshes: Vec<_> =
        refreshes.iter().filter(|request| request.grant_type == "refresh_token").collect();
    assert!(refreshes.len() > 12, "only {} refreshes", refreshes.len());
    assert!(refreshes.iter().all(|request| request.status == 200), "{refreshes:?}");
}

/// Runs a script with a small file system of its own in the place of the state directory, which holds what was
/// there before.
fn with_small_state(sandbox: &Sandbox, script: &str) -> Option<Run> {
    let state = sandbox.path(STATE).display().to_string();
    let script = format!(
        "S={state}; cp -a $S $S.old && mount -t tmpfs -o size=256k,mode=700 tmpfs $S || exit 77\n\
         cp -a $S.old/. $S/; fill() {{ cat /dev/zero > $S/full 2>/dev/null; }}\n\
         ask() {{ keyring get {} oauth2accesstoken; }}\n{script}\n\
         rm -rf $S.old; cp -a $S $S.old; umount $S; rm -rf $S; mv $S.old $S",
        sandbox.index()
    );
    let mut command = sandbox.command("/usr/bin/unshare");
    let path = format!("{}:/usr/sbin:/sbin:/bin:/usr/bin", sandbox.path("bin").display());
    command.args(["--mount", "/bin/sh", "-c", &script]).env("PATH", path);
    let outcome = sandbox.run(alone(&mut command));
    if outcome.code == Some(77) || outcome.stderr.contains("unshare failed") {
        assert!(!is_ci(), "CI can mount: {outcome:?}");
        println!("skipped: a file system of one's own needs root");
        return None;
    }
    Some(outcome)
}

#[test]
fn a_full_disk_costs_no_login_that_does_not_change() {
    let (sandbox, _) = signed_in(&[]);
    assert_given(&helper(&sandbox));
    let Some(run) =
        with_small_state(&sandbox, "fill; ask; ask >/dev/null || echo failed >&2; valetkey status >&2")
    else {
        return;
    };
    assert!(run.stdout.starts_with("ya29."), "{run:?}");
    assert!(!run.stderr.contains("DEAD") && !run.stderr.contains("failed"), "{run:?}");
}

#[test]
fn a_read_only_disk_costs_no_login_that_does_not_change() {
    let (sandbox, _) = signed_in(&[]);
    assert_given(&helper(&sandbox));
    let script = "mount -o remount,ro $S; ask; ask >/dev/null || echo failed >&2; mount -o remount,rw $S";
    let Some(run) = with_small_state(&sandbox, script) else { return };
    assert!(run.stdout.starts_with("ya29.") && run.stderr.is_empty(), "{run:?}");
}

/// There is no room for the new refresh token: the old one is not used up, and the login lives on.
#[test]
fn a_full_or_read_only_disk_costs_no_login_whose_tokens_change() {
    for used_before in [true, false] {
        let (sandbox, _) = signed_in(&[]);
        sandbox.google.rotate_refresh_tokens(true);
        if used_before {
            assert_given(&helper(&sandbox));
        }
        let script = "fill; ask; ask; rm $S/full; ask\n\
                      mount -o remount,ro $S; ask; mount -o remount,rw $S; ask >/dev/null";
        let Some(run) = with_small_state(&sandbox, script) else { return };
        assert_eq!(run.stdout.lines().count(), 1, "{run:?}");
        assert_eq!(run.stderr.lines().count(), 3, "{run:?}");
        assert!(!run.stderr.contains("dead") && !run.stderr.contains("lost"), "{run:?}");
        assert_given(&helper(&sandbox));
        let requests = sandbox.google.token_requests();
        assert!(requests.iter().all(|request| request.status == 200), "{requests:?}");
    }
}

#[test]
fn a_full_or_read_only_disk_is_found_before_a_person_is_asked() {
    let (sandbox, _) = signed_in(&[]);
    let script = "login() { valetkey login --no-browser </dev/null && echo kept; }\n\
                  fill; login; rm $S/full; mount -o remount,ro $S; login; mount -o remount,rw $S; ask >/dev/null";
    let Some(run) = with_small_state(&sandbox, script) else { return };
    assert_eq!(run.stdout, "", "{run:?}");
    assert_eq!(run.stderr.matches("error: cannot write ").count(), 2, "{run:?}");
    assert!(!run.stderr.contains("http://"), "somebody was sent to a browser: {run:?}");
    assert_given(&helper(&sandbox));
}
