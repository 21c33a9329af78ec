//! Credential files that are not what they should be.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::harness::{ADC, Sandbox};
use super::{assert_given, assert_refused};

fn ask(sandbox: &Sandbox, file: &str) -> super::Run {
    sandbox.run(sandbox.get().env("GOOGLE_APPLICATION_CREDENTIALS", file))
}

/// Writes a key with one change and asks with it.
fn asked_with(change: impl Fn(String) -> String, word: &str) {
    let sandbox = Sandbox::new();
    let key = sandbox.google.service_account_key("builder@acme.iam.gserviceaccount.com");
    sandbox.write("home/key.json", &change(key));
    assert_refused(&ask(&sandbox, "key.json"), word);
    assert!(sandbox.google.token_requests().is_empty());
}

#[test]
fn a_missing_file_is_an_error_and_no_step_to_another_identity() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let run = ask(&sandbox, "missing.json");
    assert_refused(&run, "cannot read the credential file");
    assert!(run.stderr.contains("missing.json"), "{run:?}");
    assert!(sandbox.google.token_requests().is_empty());
}

#[test]
fn a_directory_is_no_file() {
    let sandbox = Sandbox::new();
    assert_refused(&ask(&sandbox, "/"), "it is a directory");
}

#[test]
fn a_named_pipe_does_not_hang() {
    let sandbox = Sandbox::new();
    let pipe = sandbox.path("home/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    assert_refused(&ask(&sandbox, "pipe"), "not a regular file");
}

#[test]
fn an_unreadable_file_is_told() {
    let sandbox = Sandbox::new();
    let key = sandbox.service_account();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&key).is_ok() {
        // root reads everything; what it cannot read is what is not there, which another test covers. A loop of
        // links is unreadable to everybody.
        fs::remove_file(&key).unwrap();
        std::os::unix::fs::symlink("key.json", &key).unwrap();
    }
    assert_refused(&ask(&sandbox, "key.json"), "cannot read the credential file");
}

#[test]
fn an_empty_file_is_told() {
    asked_with(|_| String::new(), "is empty");
}

#[test]
fn truncated_json_is_told_without_quoting_it() {
    asked_with(|key| key[..key.len() / 2].to_owned(), "is not valid JSON (line ");
}

#[test]
fn json_that_is_no_object_is_told() {
    asked_with(|_| "[1, 2]".to_owned(), "is not valid JSON");
}

#[test]
fn a_file_without_a_type_is_told() {
    asked_with(|key| key.replace("\"type\"", "\"kind\""), "has no type");
}

#[test]
fn an_unknown_type_is_told() {
    asked_with(|key| key.replace("service_account", "api_key"), "no Google credential");
}

#[test]
fn types_of_a_later_day_are_named() {
    for kind in [
        "external_account",
        "impersonated_service_account",
        "external_account_authorized_user",
        "gdch_service_account",
    ] {
        let change = |key: String| key.replace("\"service_account\"", &format!("\"{kind}\""));
        asked_with(change, "not supported yet");
    }
}

#[test]
fn a_missing_key_is_told() {
    asked_with(|key| key.replace("\"private_key\"", "\"public_key\""), "has no private_key");
}

#[test]
fn a_key_that_is_no_key_is_told() {
    asked_with(
        |key| {
            let mut key: serde_json::Value = serde_json::from_str(&key).unwrap();
            key["private_key"] = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".into();
            key.to_string()
        },
        "not an RSA key in PKCS #8 PEM",
    );
}

#[test]
fn an_assertion_is_signed_for_google_only() {
    for elsewhere in [
        "https://evil.test/token",
        "http://oauth2.googleapis.com/token",
        "https://oauth2.googleapis.com.evil.test/token",
        "https://oauth2.googleapis.com@evil.test/token",
        "not a url",
        "https://[",
        "\u{1b}]0;",
    ] {
        asked_with(
            |key| {
                let mut key: serde_json::Value = serde_json::from_str(&key).unwrap();
                key["token_uri"] = elsewhere.into();
                key.to_string()
            },
            "which is not Google's",
        );
    }
}

#[test]
fn a_file_that_gcloud_wrote_and_that_is_broken_ends_the_ask() {
    let sandbox = Sandbox::new();
    sandbox.write(ADC, "{");
    sandbox.script("gcloud", "#!/bin/sh\necho no >&2; exit 9\n");
    assert_refused(&sandbox.run(&mut sandbox.get()), "is not valid JSON");
}

#[test]
fn a_new_sign_in_counts_without_a_restart() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let first = assert_given(&sandbox.run(&mut sandbox.get()));
    sandbox.write(ADC, &sandbox.google.authorized_user("other@acme.example"));
    // The daemon looks at the file again once a second.
    Sandbox::wait_until("another identity", || assert_given(&sandbox.run(&mut sandbox.get())) != first);
}
