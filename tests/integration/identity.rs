//! Who decides, and what each source gives.

use std::os::unix::fs::symlink;

use super::harness::Sandbox;
use super::stand_in::{Fault, VM};
use super::{assert_given, assert_refused};

/// A gcloud that answers as the real one does.
fn gcloud(token: &str, expiry: &str) -> String {
    let answer = format!(
        r#"{{"configuration": {{"properties": {{"core": {{"account": "dev@acme.example"}}}}}}, "credential": {{"access_token": "{token}", "token_expiry": "{expiry}"}}}}"#
    );
    format!("#!/bin/sh\necho \"$@\" >> \"$HOME/gcloud.calls\"\nprintf '%s\n' '{answer}'\n")
}

const FUTURE: &str = "2100-01-01T00:00:00Z";

#[test]
fn the_scope_is_as_narrow_as_the_url_allows() {
    let sandbox = Sandbox::new();
    let key = sandbox.service_account();
    let upload = sandbox.index().replace("/simple/", "/");
    for url in [sandbox.index(), upload] {
        let mut command = sandbox.keyring(["get", &url, "oauth2accesstoken"]);
        assert_given(&sandbox.run(command.env("GOOGLE_APPLICATION_CREDENTIALS", &key)));
    }
    let scopes: Vec<_> = sandbox.google.token_requests().into_iter().map(|it| it.scope.unwrap()).collect();
    let all = "https://www.googleapis.com/auth/cloud-platform";
    assert_eq!(scopes, [format!("{all}.read-only"), all.to_owned()]);
}

#[test]
fn a_users_refresh_carries_no_scope() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    assert_given(&sandbox.run(&mut sandbox.get()));
    assert_eq!(sandbox.google.token_requests()[0].scope, None);
}

#[test]
fn a_helper_that_names_another_identity_than_the_daemons_gets_its_own() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let key = sandbox.service_account();
    let users = assert_given(&sandbox.run(&mut sandbox.get()));
    let accounts = assert_given(&sandbox.run(sandbox.get().env("GOOGLE_APPLICATION_CREDENTIALS", &key)));
    assert_ne!(users, accounts);
    assert_eq!(assert_given(&sandbox.run(&mut sandbox.get())), users);
    let identities: Vec<_> =
        sandbox.google.token_requests().into_iter().filter_map(|it| it.identity).collect();
    assert_eq!(identities, ["developer@acme.example", "builder@acme.iam.gserviceaccount.com"]);
    // Both were given by the one daemon.
    let given = || sandbox.log().matches("\"verdict\":\"given\"").count();
    Sandbox::wait_until("three lines", || given() == 3);
}

#[test]
fn valetkey_credential_wins_over_googles_variable() {
    let sandbox = Sandbox::new();
    let key = sandbox.service_account();
    let mut command = sandbox.get();
    command.env("GOOGLE_APPLICATION_CREDENTIALS", "missing.json").env("VALETKEY_CREDENTIAL", &key);
    assert_given(&sandbox.run(&mut command));
    let mut command = sandbox.valetkey();
    command.args(["token", "--credential", "missing.json"]).env("VALETKEY_CREDENTIAL", &key);
    let run = sandbox.run(&mut command);
    assert_eq!((run.code, run.stdout.as_str()), (Some(3), ""), "{run:?}");
}

#[test]
fn gcloud_answers_where_there_is_no_file() {
    let sandbox = Sandbox::new();
    let token = sandbox.google.issue_access_token("dev@acme.example", &[]);
    sandbox.script("gcloud", &gcloud(&token, FUTURE));
    assert_eq!(assert_given(&sandbox.run(&mut sandbox.get())), token);
    let calls = std::fs::read_to_string(sandbox.path("home/gcloud.calls")).unwrap();
    assert!(calls.starts_with("config config-helper --format=json("), "{calls}");
}

#[test]
fn gclouds_own_expiry_counts() {
    let sandbox = Sandbox::new();
    let token = sandbox.google.issue_access_token("dev@acme.example", &[]);
    sandbox.script("gcloud", &gcloud(&token, "2020-01-01T00:00:00Z"));
    assert_refused(&sandbox.run(&mut sandbox.get()), "expired already");
    sandbox.script("gcloud", &gcloud(&token, "tomorrow"));
    assert_refused(&sandbox.run(&mut sandbox.get()), "not a time");
}

#[test]
fn a_gcloud_that_hangs_is_ended_with_its_children() {
    let sandbox = Sandbox::new();
    symlink("/bin/sleep", sandbox.path("bin/sleep")).unwrap();
    sandbox.script("gcloud", "#!/bin/sh\necho $$ > \"$HOME/gcloud.pid\"\nsleep 300 &\nsleep 300\n");
    assert_refused(&sandbox.run(&mut sandbox.get()), "gcloud did not answer within");
    let leader: i32 =
        std::fs::read_to_string(sandbox.path("home/gcloud.pid")).unwrap().trim().parse().unwrap();
    let group = rustix::process::Pid::from_raw(leader).unwrap();
    Sandbox::wait_until("the whole group is gone", || {
        rustix::process::test_kill_process_group(group).is_err()
    });
}

#[test]
fn a_gcloud_that_fails_ends_the_ask_with_its_first_line() {
    let sandbox = Sandbox::new();
    sandbox.script(
        "gcloud",
        "#!/bin/sh\nprintf 'ERROR: (gcloud) Reauthentication required.\\nmore\\n' >&2; exit 1\n",
    );
    assert_refused(&sandbox.run(&mut sandbox.get()), "Reauthentication required.");
}

#[test]
fn a_gcloud_without_an_account_is_no_source_and_the_metadata_server_is_next() {
    let sandbox = Sandbox::new();
    sandbox.script(
        "gcloud",
        "#!/bin/sh\necho 'You do not currently have an active account selected.' >&2; exit 1\n",
    );
    assert_refused(&sandbox.run(&mut sandbox.get()), "gcloud is on PATH but has no account");
}

#[test]
fn an_account_that_is_named_for_gcloud_is_asked_of_gcloud() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let mut command = sandbox.get();
    command.env("CLOUDSDK_CORE_ACCOUNT", "other@acme.example");
    assert_refused(&sandbox.run(&mut command), "no gcloud on PATH");
    let token = sandbox.google.issue_access_token("other@acme.example", &[]);
    sandbox.script("gcloud", &gcloud(&token, FUTURE));
    let mut command = sandbox.get();
    command.env("CLOUDSDK_CORE_ACCOUNT", "other@acme.example");
    assert_eq!(assert_given(&sandbox.run(&mut command)), token);
}

#[test]
fn a_moved_gcloud_directory_is_followed() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let file = sandbox.google.authorized_user("moved@acme.example");
    sandbox.write("home/elsewhere/application_default_credentials.json", &file);
    assert_given(&sandbox.run(sandbox.get().env("CLOUDSDK_CONFIG", "elsewhere")));
    assert_eq!(sandbox.google.token_requests()[0].identity.as_deref(), Some("moved@acme.example"));
}

#[test]
fn the_metadata_server_is_asked_for_the_narrow_scope() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.get();
    command.env("GCE_METADATA_HOST", sandbox.google.metadata_address());
    assert_given(&sandbox.run(&mut command));
    let asked = sandbox.google.metadata_requests();
    assert!(
        asked.iter().any(|it| it.path.contains("/token?scopes=") && it.path.contains("read-only")),
        "{asked:?}"
    );
    let mut doctor = sandbox.valetkey();
    doctor.arg("doctor").env("GCE_METADATA_HOST", sandbox.google.metadata_address());
    assert!(sandbox.run(&mut doctor).stdout.contains(VM));
}

#[test]
fn a_metadata_server_that_starts_late_is_waited_for() {
    let sandbox = Sandbox::new();
    sandbox.google.metadata_faults(vec![Fault::status(503), Fault::status(503)]);
    assert_given(&sandbox.run(sandbox.get().env("GCE_METADATA_HOST", sandbox.google.metadata_address())));
}

#[test]
fn a_metadata_server_that_hangs_or_lies_is_told() {
    let sandbox = Sandbox::new();
    let ask = || sandbox.run(sandbox.get().env("GCE_METADATA_HOST", sandbox.google.metadata_address()));
    sandbox.google.metadata_faults(vec![Fault::Hang]);
    assert_refused(&ask(), "did not answer within");
    sandbox.google.metadata_faults(vec![Fault::not_json()]);
    assert_refused(&ask(), "metadata server");
    sandbox.google.metadata_faults(vec![Fault::status(404)]);
    let run = ask();
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
}

#[test]
fn no_credential_at_all_lists_what_was_tried() {
    let sandbox = Sandbox::new();
    let run = sandbox.run(&mut sandbox.get());
    assert_refused(&run, "no Google credential found");
    for place in ["application_default_credentials.json", "no gcloud on PATH", "no metadata server"] {
        assert!(run.stderr.contains(place), "{run:?}");
    }
}

/// A gcloud whose token names the account that it was told to use.
const TELLING: &str = "#!/bin/sh\necho '{\"credential\": {\"access_token\": \"ya29.'\"${CLOUDSDK_CORE_ACCOUNT:-none}\"'\", \"token_expiry\": \"2100-01-01T00:00:00Z\"}}'\n";

#[test]
fn gclouds_account_is_the_askers_and_never_the_daemons() {
    let sandbox = Sandbox::new();
    sandbox.script("gcloud", TELLING);
    let _daemon = sandbox.serve_with(sandbox.valetkey().env("CLOUDSDK_CORE_ACCOUNT", "admin"));
    let ask = |pairs: &[(&str, &str)]| assert_given(&sandbox.run(sandbox.get().envs(pairs.iter().copied())));
    assert_eq!(ask(&[("VALETKEY_CREDENTIAL", "gcloud"), ("CLOUDSDK_CORE_ACCOUNT", "ci")]), "ya29.ci");
    assert_eq!(ask(&[("VALETKEY_CREDENTIAL", "gcloud")]), "ya29.none");
    assert_eq!(ask(&[("CLOUDSDK_CONFIG", "elsewhere")]), "ya29.none");
    // Whoever names nothing gets what the daemon was given.
    assert_eq!(ask(&[]), "ya29.admin");
}

#[test]
fn another_gcloud_configuration_counts_without_a_restart() {
    let sandbox = Sandbox::new();
    let script = "#!/bin/sh\nread account < \"$HOME/account\"\necho '{\"credential\": {\"access_token\": \"ya29.'$account'\", \"token_expiry\": \"2100-01-01T00:00:00Z\"}}'\n";
    sandbox.script("gcloud", script);
    sandbox.write("home/account", "alice\n");
    sandbox.write("home/.config/gcloud/active_config", "work");
    sandbox.write("home/.config/gcloud/configurations/config_work", "alice");
    let _daemon = sandbox.serve();
    assert_eq!(assert_given(&sandbox.run(&mut sandbox.get())), "ya29.alice");
    sandbox.write("home/account", "bob\n");
    sandbox.write("home/.config/gcloud/configurations/config_work", "bob's own");
    Sandbox::wait_until("bob", || assert_given(&sandbox.run(&mut sandbox.get())) == "ya29.bob");
}

#[test]
fn a_helper_with_another_home_gets_the_identity_of_that_home() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let other = sandbox.google.authorized_user("other@acme.example");
    sandbox.write("other/.config/gcloud/application_default_credentials.json", &other);
    let own = assert_given(&sandbox.run(&mut sandbox.get()));
    let configuration = sandbox.path("home/.config");
    let mut command = sandbox.get();
    command.env("HOME", sandbox.path("other")).env("XDG_CONFIG_HOME", configuration);
    assert_ne!(assert_given(&sandbox.run(&mut command)), own);
    let mut status = sandbox.valetkey();
    status.arg("status").env("HOME", sandbox.path("other"));
    let shown = sandbox.run(status.env("XDG_CONFIG_HOME", sandbox.path("home/.config"))).stdout;
    assert!(
        shown.contains("2. application default credentials") && shown.contains("/other/.config"),
        "{shown}"
    );
    let identities: Vec<_> =
        sandbox.google.token_requests().into_iter().filter_map(|it| it.identity).collect();
    assert_eq!(identities, ["developer@acme.example", "other@acme.example"]);
}

#[test]
fn what_cannot_be_a_token_reaches_nobody() {
    let sandbox = Sandbox::new();
    let script = |token: &str, expiry: &str| {
        sandbox.script("gcloud", &gcloud(token, expiry));
        sandbox.run(&mut sandbox.get())
    };
    for token in ["ya29.a\\nb", "ya29.\\u001b[2J", "", "ya29.a b"] {
        assert_refused(&script(token, FUTURE), "cannot be sent in a header");
    }
    // However far away a program says the end is, nobody's token lives that long.
    let json = |run: super::Run| serde_json::from_str::<serde_json::Value>(&run.stdout).unwrap();
    sandbox.script("gcloud", &gcloud("ya29.long", "9999-12-31T23:59:59-12:00"));
    let token = json(sandbox.run(sandbox.valetkey().args(["token", "--format", "json"])));
    assert!(!token["expires"].as_str().unwrap().starts_with("9999"), "{token}");
}

#[test]
fn a_variable_that_decides_and_cannot_be_read_is_an_error() {
    use std::os::unix::ffi::OsStringExt;
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let odd = std::ffi::OsString::from_vec(b"ci\xff".to_vec());
    assert_refused(
        &sandbox.run(sandbox.get().env("CLOUDSDK_CORE_ACCOUNT", odd)),
        "CLOUDSDK_CORE_ACCOUNT is not text",
    );
    let run = sandbox.run(sandbox.get().env("GCE_METADATA_HOST", "user:hunter2@["));
    assert_refused(&run, "GCE_METADATA_HOST is not a host");
    assert!(!run.stderr.contains("hunter2"));
    assert!(sandbox.google.token_requests().is_empty());
}
