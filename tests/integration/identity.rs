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
    format!("#!/bin/sh\necho \"$@\" >> \"$HOME/gcloud.calls\"\necho '{answer}'\n")
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
    assert_eq!(sandbox.log().matches("\"verdict\":\"given\"").count(), 3);
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
