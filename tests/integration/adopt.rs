//! Where the OAuth client comes from, and what happens without one: gcloud's sign-in is taken over, by `--adopt` or
//! after gcloud was asked to sign in.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::harness::{ADC, Run, Sandbox, finish};
use super::login::{DEVELOPER, LIST, alone, client_file, logins, publish, sign_in, sign_in_as, status};
use super::stand_in::{Consent, Death, Fault};
use super::{assert_given, assert_refused};

/// The configuration without an OAuth client.
fn without_client(sandbox: &Sandbox) {
    let path = "home/.config/valetkey/config.toml";
    let text = fs::read_to_string(sandbox.path(path)).unwrap();
    let kept: Vec<_> = text.lines().filter(|it| !it.starts_with("client_") && *it != "[oauth]").collect();
    sandbox.write(path, &(kept.join("\n") + "\n"));
}

/// A machine on which gcloud signed a developer in, and nobody configured a client.
fn with_gcloud() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    without_client(&sandbox);
    sandbox.sign_in();
    sandbox
}

fn login(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    sandbox.run(sandbox.valetkey().arg("login").args(arguments))
}

fn gcloud_client(sandbox: &Sandbox) -> String {
    let file: serde_json::Value = serde_json::from_slice(&fs::read(sandbox.path(ADC)).unwrap()).unwrap();
    file["client_id"].as_str().unwrap().to_owned()
}

fn refresh_token(sandbox: &Sandbox) -> String {
    let file: serde_json::Value = serde_json::from_slice(&fs::read(sandbox.path(ADC)).unwrap()).unwrap();
    file["refresh_token"].as_str().unwrap().to_owned()
}

#[test]
fn gclouds_sign_in_is_taken_over_and_its_file_stays() {
    let sandbox = with_gcloud();
    let client = gcloud_client(&sandbox);
    let file = fs::read(sandbox.path(ADC)).unwrap();
    let run = login(&sandbox, &["--adopt"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let said = "signed in as developer@acme.example to read and publish; kept in a file";
    assert!(
        run.stdout.starts_with(said) && run.stdout.contains("it goes on using gcloud's OAuth client"),
        "{run:?}"
    );
    assert_eq!(fs::read(sandbox.path(ADC)).unwrap(), file);
    let stored = &logins(&sandbox)[0];
    assert_eq!((&stored["adopted"], &stored["client_id"]), (&true.into(), &client.clone().into()));
    assert_given(&sandbox.run(alone(&mut sandbox.get())));
    assert_given(&sandbox.run(alone(&mut publish(&sandbox))));
    let requests = sandbox.google.token_requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert_eq!((request.scope, request.client_id.as_ref()), (None, Some(&client)));
    }
    // It does not hang on the file any more.
    fs::remove_file(sandbox.path(ADC)).unwrap();
    assert_given(&sandbox.run(alone(&mut sandbox.get())));
    assert!(sandbox.google.authorizations().is_empty(), "no consent was started as another product");
}

#[test]
fn the_file_is_removed_where_that_is_wanted() {
    let sandbox = with_gcloud();
    let run = login(&sandbox, &["--adopt", "--move"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(!sandbox.path(ADC).exists());
    assert_given(&sandbox.run(alone(&mut sandbox.get())));
    let run = login(&sandbox, &["--move"]);
    assert_eq!(run.code, Some(2), "{run:?}");
}

#[test]
fn a_token_that_gcloud_still_uses_is_not_revoked() {
    let sandbox = with_gcloud();
    let token = refresh_token(&sandbox);
    login(&sandbox, &["--adopt"]);
    let run = sandbox.run(sandbox.valetkey().arg("logout"));
    assert_eq!(run.stdout, "signed out developer@acme.example; the sign-in is forgotten\n");
    let why =
        "not revoked: gcloud uses it, too; run `gcloud auth application-default revoke` to end it for both";
    assert!(run.code == Some(0) && run.stderr.contains(why), "{run:?}");
    assert!(sandbox.google.is_alive(&token) && sandbox.google.revocations().is_empty());
    login(&sandbox, &["--adopt", "--move"]);
    let run = sandbox.run(sandbox.valetkey().arg("logout"));
    assert_eq!(run.stdout, "signed out developer@acme.example; the sign-in is revoked and forgotten\n");
    assert!(!sandbox.google.is_alive(&token));
    // gcloud has signed in anew: that is another token, and stays.
    sandbox.sign_in();
    let first = refresh_token(&sandbox);
    login(&sandbox, &["--adopt"]);
    sandbox.sign_in();
    let second = refresh_token(&sandbox);
    assert!(sandbox.run(sandbox.valetkey().arg("logout")).stdout.contains("revoked and forgotten"));
    assert!(!sandbox.google.is_alive(&first) && sandbox.google.is_alive(&second));
}

#[test]
fn what_cannot_be_taken_over_is_told() {
    let sandbox = with_gcloud();
    let refused = |code: i32, word: &str, hint: &str| {
        let run = login(&sandbox, &["--adopt", "--move"]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(code), ""), "{run:?}");
        assert!(run.stderr.starts_with("error: ") && run.stderr.contains(word), "{word}: {run:?}");
        assert!(run.stderr.contains(&format!("hint: {hint}")), "{hint}: {run:?}");
        assert!(logins(&sandbox).is_empty(), "{word}");
    };
    let again = "sign in again with `gcloud auth application-default login`";
    sandbox.google.end_logins(DEVELOPER, Death::Revoked);
    refused(3, "Google refused the application default credentials: invalid_grant", again);
    sandbox.google.restore_logins(DEVELOPER);
    let narrow = r#"{"access_token":"ya29.narrow-and-long","expires_in":3599,"scope":"openid"}"#;
    sandbox.google.token_faults(vec![Fault::Body { status: 200, text: narrow.to_owned() }]);
    refused(
        1,
        "gcloud's sign-in has not the permission https://www.googleapis.com/auth/cloud-platform",
        "run `gcloud auth application-default login` again",
    );
    sandbox.google.token_faults(vec![
        Fault::status(500),
        Fault::status(500),
        Fault::status(500),
        Fault::status(500),
    ]);
    refused(3, "status 500", "try again");
    assert!(sandbox.path(ADC).exists(), "what was not taken over stays");
    sandbox.write(ADC, &sandbox.google.service_account_key("builder@acme.iam.gserviceaccount.com"));
    refused(
        1,
        "there is no sign-in of gcloud's to take over",
        "run `gcloud auth application-default login` first",
    );
    sandbox.write(ADC, "{");
    refused(3, "is not valid JSON", "");
    fs::remove_file(sandbox.path(ADC)).unwrap();
    refused(1, "there is no sign-in of gcloud's to take over: there is no /", "run `gcloud auth");
}

#[test]
fn a_dead_login_that_was_taken_over_is_mended_by_gcloud() {
    let sandbox = with_gcloud();
    login(&sandbox, &["--adopt"]);
    sandbox.google.end_logins(DEVELOPER, Death::Revoked);
    let run = sandbox.run(alone(&mut sandbox.get()));
    assert_refused(&run, "is dead");
    assert!(
        run.stderr.contains("run `gcloud auth application-default login`, then `valetkey login --adopt`"),
        "{run:?}"
    );
    // gcloud's file has a new sign-in, and is not stepped to: a login that is there decides.
    sandbox.sign_in();
    assert_refused(&sandbox.run(alone(&mut sandbox.get())), "is dead");
    assert_eq!(login(&sandbox, &["--adopt"]).code, Some(0));
    assert_given(&sandbox.run(alone(&mut sandbox.get())));
    assert!(!status(&sandbox).contains("DEAD"));
}

#[test]
fn a_daemon_goes_on_with_what_was_taken_over() {
    let sandbox = with_gcloud();
    let _daemon = sandbox.serve();
    let first = assert_given(&sandbox.run(&mut sandbox.get()));
    assert_eq!(login(&sandbox, &["--adopt", "--move"]).code, Some(0));
    let second = assert_given(&sandbox.run(&mut sandbox.get()));
    assert_ne!(second, first, "the token is the login's");
    let shown = status(&sandbox);
    assert!(shown.contains("token      read for developer@acme.example, stored login, until"), "{shown}");
}

#[test]
fn a_desktop_clients_file_signs_in_and_its_client_is_remembered() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    without_client(&sandbox);
    let client = sandbox.google.desktop_client();
    client_file(&sandbox, "client.json", &client);
    sign_in(&sandbox, &["--client-id-file", "client.json"]);
    fs::remove_file(sandbox.path("home/client.json")).unwrap();
    sign_in_as(&sandbox, &Consent::given().by("other@acme.example"), &["--account", "other@acme.example"]);
    sign_in(&sandbox, &["--write", "--account", DEVELOPER]);
    let used: Vec<_> = sandbox.google.authorizations().into_iter().map(|it| it.client_id.unwrap()).collect();
    assert_eq!(used, [client.id.clone(), client.id.clone(), client.id.clone()]);
    // The account's own comes before another's.
    let second = sandbox.google.desktop_client();
    client_file(&sandbox, "client.json", &second);
    let other = Consent::given().by("other@acme.example");
    sign_in_as(&sandbox, &other, &["--client-id-file", "client.json", "--account", "other@acme.example"]);
    sign_in_as(&sandbox, &other, &["--write", "--account", "OTHER@acme.example"]);
    assert_eq!(sandbox.google.authorizations().pop().unwrap().client_id, Some(second.id));
    // One whose secret is gone is passed over; the hunt has to see no secret in the home.
    sign_in(&sandbox, &[]);
    assert_eq!(sandbox.google.authorizations().pop().unwrap().client_id, Some(client.id));
    fs::remove_file(sandbox.path("home/client.json")).unwrap();
}

#[test]
fn a_clients_file_that_is_none_is_told_without_quoting_it() {
    let sandbox = Sandbox::new();
    let client = sandbox.configure_login("");
    let web = sandbox.google.web_client(&["https://site.example/back"]);
    let pipe = sandbox.path("home/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    sandbox.write("home/garbage.json", "GOCSPX-hunter22");
    sandbox.write("home/half.json", &client.file[..client.file.len() / 2]);
    sandbox.write("home/web.json", &web.file);
    let foreign = client.file.replace(&sandbox.google.token_uri(), "https://evil.test/token");
    sandbox.write("home/foreign.json", &foreign);
    sandbox.write("home/nameless.json", &client.file.replace("\"client_id\"", "\"client_no\""));
    sandbox.write("home/user.json", &sandbox.google.authorized_user(DEVELOPER));
    sandbox.write("home/large.json", &" ".repeat(1 << 20));
    for (file, word) in [
        ("missing.json", "cannot be read: No such file"),
        (".", "cannot be read: it is a directory"),
        ("pipe", "cannot be read: it is not a regular file"),
        ("large.json", "cannot be read: it is too large"),
        ("garbage.json", "is not valid JSON (line 1)"),
        ("half.json", "is not valid JSON (line 1)"),
        ("web.json", "is of a web application"),
        ("foreign.json", "names a token endpoint that is not Google's"),
        ("nameless.json", "has no client_id"),
        ("user.json", "is not that of an OAuth client"),
    ] {
        let run = login(&sandbox, &["--client-id-file", file]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{run:?}");
        assert!(run.stderr.starts_with(&format!("error: the client file {file} {word}")), "{run:?}");
        assert!(run.stderr.contains("\nhint: ") && !run.stderr.contains("GOCSPX"), "{run:?}");
    }
    assert!(sandbox.google.authorizations().is_empty());
}

#[test]
fn without_a_client_and_gcloud_six_lines_say_how_to_make_one() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    without_client(&sandbox);
    let run = login(&sandbox, &[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(3), ""), "{run:?}");
    assert!(run.stderr.starts_with("error: there is no OAuth client to sign in with\nhint: "), "{run:?}");
    assert!(run.stderr.lines().count() <= 6, "{run:?}");
    assert!(run.stderr.lines().all(|line| line.len() <= 120 || line.contains("config.toml")), "{run:?}");
    let own = sandbox.path("home/.config/valetkey/config.toml").display().to_string();
    for word in ["Desktop app", "--client-id-file FILE", "/etc/valetkey/config.toml", &own, "[oauth]"] {
        assert!(run.stderr.contains(word), "{word}: {run:?}");
    }
    assert!(sandbox.google.authorizations().is_empty());
}

/// A gcloud that signs in where a person is at the terminal, and tells how it was called.
const GCLOUD: &str = "#!/bin/sh\necho \"$@\" >> \"$HOME/called\"\n[ -t 0 ] && [ -t 2 ] || exit 9\n\
                      [ -e \"$HOME/fails\" ] && exit 1\n\
                      read -r line < \"$HOME/prepared\"\n\
                      echo \"$line\" > \"$HOME/.config/gcloud/application_default_credentials.json\"\n";

#[test]
fn where_nobody_can_be_asked_gcloud_is_only_named() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    without_client(&sandbox);
    sandbox.script("gcloud", GCLOUD);
    let run = login(&sandbox, &[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(3), ""), "{run:?}");
    assert!(
        run.stderr
            .contains("hint: run `gcloud auth application-default login` and then `valetkey login --adopt`"),
        "{run:?}"
    );
    assert!(!sandbox.path("home/called").exists());
    sandbox.sign_in();
    let run = login(&sandbox, &[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(3), ""), "{run:?}");
    assert!(
        run.stderr.contains("hint: run `valetkey login --adopt` to take over gcloud's sign-in"),
        "{run:?}"
    );
    assert!(logins(&sandbox).is_empty());
}

/// Runs `valetkey login` at a terminal of its own, and types.
fn at_a_terminal(sandbox: &Sandbox, arguments: &str, typed: &str) -> Run {
    let mut command = sandbox.command("/usr/bin/script");
    let line = format!("{} login {arguments}", sandbox.path("bin/valetkey").display());
    command.args(["-q", "-e", "-c", &line, "/dev/null"]).env("SHELL", "/bin/sh").env("TERM", "dumb");
    let start = Instant::now();
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(typed.as_bytes()).unwrap();
    let run = finish(child, start, Duration::from_secs(30));
    drop(stdin);
    sandbox.hear(run.stdout.as_bytes());
    run
}

#[test]
fn a_person_at_a_terminal_is_asked_and_gclouds_result_is_taken_over() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    without_client(&sandbox);
    sandbox.script("gcloud", GCLOUD);
    let file = sandbox.google.authorized_user(DEVELOPER).replace('\n', "");
    sandbox.write("home/prepared", &(file + "\n"));
    fs::create_dir_all(sandbox.path("home/.config/gcloud")).unwrap();
    let called = || fs::read_to_string(sandbox.path("home/called")).unwrap_or_default();
    // No, and the end of the input.
    for typed in ["n\n", "what?\n", "\u{4}"] {
        let run = at_a_terminal(&sandbox, "", typed);
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(
            run.stdout.contains("shall it sign in, and valetkey") && run.stdout.contains("[Y/n]"),
            "{run:?}"
        );
        assert!(run.stdout.contains("there is no OAuth client to sign in with"), "{run:?}");
        assert_eq!(called(), "", "{typed:?}");
    }
    sandbox.write("home/fails", "");
    let run = at_a_terminal(&sandbox, "", "YES\n");
    assert!(run.code == Some(1) && run.stdout.contains("gcloud did not sign in"), "{run:?}");
    fs::remove_file(sandbox.path("home/fails")).unwrap();
    // Somebody else than was wanted.
    let run = at_a_terminal(&sandbox, "--account other@acme.example", "y\n");
    assert!(
        run.code == Some(1) && run.stdout.contains("developer@acme.example signed in, and --account"),
        "{run:?}"
    );
    assert!(logins(&sandbox).is_empty());
    fs::remove_file(sandbox.path(ADC)).unwrap();
    let run = at_a_terminal(&sandbox, "--no-browser", "\n");
    assert!(run.code == Some(0) && run.stdout.contains("signed in as developer@acme.example"), "{run:?}");
    let login = "auth application-default login\n";
    assert_eq!(called(), format!("{login}{login}auth application-default login --no-launch-browser\n"));
    assert_eq!(logins(&sandbox)[0]["adopted"], true);
    assert!(fs::read_to_string(sandbox.path(LIST)).unwrap().contains("adopted = true"));
    assert_given(&sandbox.run(alone(&mut sandbox.get())));
    // What was prepared holds gcloud's secret on purpose.
    fs::remove_file(sandbox.path("home/prepared")).unwrap();
}
