//! The token endpoint in all its moods, asked by a helper in process (a service account) and by a daemon (a user).

use std::time::Duration;

use serde_json::json;

use super::harness::Sandbox;
use super::stand_in::Fault;
use super::{assert_given, assert_refused};

/// Runs one question in process and one through a daemon, both against the same fault.
fn both_refused(fault: impl Fn() -> Fault, word: &str) {
    for user in [false, true] {
        let sandbox = prepared(user);
        sandbox.google.token_fault_always(Some(fault()));
        assert_refused(&ask(&sandbox, user), word);
    }
}

fn prepared(user: bool) -> Sandbox {
    let sandbox = Sandbox::new();
    if user {
        sandbox.sign_in();
    } else {
        sandbox.service_account();
    }
    sandbox
}

fn ask(sandbox: &Sandbox, user: bool) -> super::Run {
    let mut command = sandbox.get();
    if !user {
        command.env("GOOGLE_APPLICATION_CREDENTIALS", "key.json");
    }
    sandbox.run(&mut command)
}

#[test]
fn connection_refused_is_told() {
    for user in [false, true] {
        let sandbox = prepared(user);
        // A port that was free a moment ago, and that nobody listens on.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let key = sandbox.google.service_account_key("builder@acme.iam.gserviceaccount.com");
        let moved = format!("https://localhost:{port}/token");
        sandbox.write("home/key.json", &key.replace(&format!("{}/token", sandbox.google.origin()), &moved));
        let configuration = format!(
            "[endpoints]\ntoken = \"{moved}\"\n[[registry]]\nhost = \"localhost:{}\"\n",
            sandbox.google.port()
        );
        sandbox.write("home/.config/valetkey/config.toml", &configuration);
        assert_refused(&ask(&sandbox, user), "cannot reach localhost");
    }
}

#[test]
fn a_hanging_endpoint_is_given_up_in_time() {
    both_refused(|| Fault::Hang, "did not answer within");
}

#[test]
fn a_closed_connection_is_told() {
    both_refused(|| Fault::CloseAtOnce, "localhost");
}

#[test]
fn half_a_body_is_told() {
    both_refused(|| Fault::HalfBody, "broke off");
}

#[test]
fn a_gigabyte_of_body_is_cut_off() {
    both_refused(|| Fault::HugeBody(1 << 30), "more than 1048576 bytes");
}

#[test]
fn a_body_that_is_no_json_is_told() {
    both_refused(Fault::not_json, "not a token");
}

#[test]
fn patience_that_google_asks_for_is_told() {
    both_refused(|| Fault::retry_after(429, 3600), "status 429; try again in 3600 s");
}

#[test]
fn a_short_retry_after_is_waited_for() {
    let sandbox = prepared(false);
    sandbox.google.token_faults(vec![Fault::retry_after(429, 1)]);
    assert_given(&ask(&sandbox, false));
}

#[test]
fn three_server_errors_and_then_a_token_give_the_token() {
    for user in [false, true] {
        let sandbox = prepared(user);
        sandbox.google.token_faults(vec![Fault::status(500), Fault::status(500), Fault::status(500)]);
        assert_given(&ask(&sandbox, user));
        assert_eq!(sandbox.google.token_requests().len(), 4);
    }
}

#[test]
fn server_errors_without_end_are_told_after_four_calls() {
    let sandbox = prepared(true);
    sandbox.google.token_fault_always(Some(Fault::status(503)));
    assert_refused(&ask(&sandbox, true), "status 503");
    assert_eq!(sandbox.google.token_requests().len(), 4);
    // Remembered for a moment: a crowd does not become a storm.
    assert_refused(&ask(&sandbox, true), "status 503");
    assert_eq!(sandbox.google.token_requests().len(), 4);
}

#[test]
fn a_dead_sign_in_names_the_command_that_mends_it_and_is_asked_once() {
    let sandbox = prepared(true);
    sandbox.google.revoke_refresh_tokens();
    assert_refused(&ask(&sandbox, true), "invalid_grant");
    assert_refused(&ask(&sandbox, true), "gcloud auth application-default login");
    assert_eq!(sandbox.google.token_requests().len(), 1);
}

#[test]
fn reauthentication_is_told_in_plain_words() {
    let sandbox = prepared(true);
    sandbox.google.token_fault_always(Some(Fault::reauthentication_required()));
    assert_refused(&ask(&sandbox, true), "the organisation wants a fresh sign-in");
}

#[test]
fn a_deleted_key_is_told() {
    let sandbox = prepared(false);
    sandbox.google.token_fault_always(Some(Fault::oauth_error("invalid_grant", "Invalid JWT Signature.")));
    assert_refused(&ask(&sandbox, false), "Invalid JWT Signature.");
}

#[test]
fn control_characters_of_a_refusal_do_not_reach_the_terminal() {
    let sandbox = prepared(true);
    sandbox.google.token_fault_always(Some(Fault::oauth_error("invalid_grant", "a\u{1b}[2Jb\nc")));
    let run = ask(&sandbox, true);
    assert_refused(&run, "a [2Jb c");
}

#[test]
fn a_lifetime_in_a_string_is_a_lifetime() {
    for user in [false, true] {
        let sandbox = prepared(user);
        sandbox.google.token_fault_always(Some(Fault::expires_in(json!("3599"))));
        assert_given(&ask(&sandbox, user));
    }
}

#[test]
fn a_lifetime_of_nothing_is_refused() {
    for value in [json!(0), json!(-5), json!("soon"), json!(null)] {
        let sandbox = prepared(false);
        sandbox.google.token_fault_always(Some(Fault::expires_in(value)));
        assert_refused(&ask(&sandbox, false), "lifetime is missing, zero or unreadable");
    }
    both_refused(Fault::without_expires_in, "lifetime is missing");
}

#[test]
fn a_slow_endpoint_is_waited_for() {
    let sandbox = prepared(true);
    sandbox.google.token_fault_always(Some(Fault::Delay(Duration::from_secs(4))));
    assert_given(&ask(&sandbox, true));
    assert_eq!(sandbox.google.token_requests().len(), 1, "a daemon that works is not taken for a dead one");
}

#[test]
fn a_certificate_of_nobody_is_told() {
    let sandbox = prepared(false);
    let configuration = format!(
        "[endpoints]\ntoken = \"{0}/token\"\n[[registry]]\nhost = \"localhost:{1}\"\n",
        sandbox.google.origin(),
        sandbox.google.port()
    );
    sandbox.write("home/.config/valetkey/config.toml", &configuration);
    assert_refused(&ask(&sandbox, false), "does not trust");
    let mut command = sandbox.get();
    command.env("GOOGLE_APPLICATION_CREDENTIALS", "key.json").env("SSL_CERT_FILE", sandbox.path("ca.pem"));
    assert_given(&sandbox.run(&mut command));
}

#[test]
fn an_endpoint_that_repeats_a_secret_is_not_quoted() {
    let sandbox = prepared(true);
    let file: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(sandbox.path(super::harness::ADC)).unwrap()).unwrap();
    let secret = file["refresh_token"].as_str().unwrap();
    let echo = Fault::OAuthError {
        code: 400,
        error: "invalid_grant".to_owned(),
        subtype: None,
        description: format!("got refresh_token={secret}"),
    };
    sandbox.google.token_fault_always(Some(echo));
    let run = ask(&sandbox, true);
    assert_refused(&run, "invalid_grant");
    assert!(!run.stderr.contains("refresh_token="), "{run:?}");
    sandbox.hunt();
}

#[test]
fn patience_beyond_all_measure_is_no_panic() {
    for seconds in [u64::MAX, i64::MAX.unsigned_abs(), 1 << 40] {
        let sandbox = prepared(true);
        sandbox.google.token_fault_always(Some(Fault::retry_after(429, seconds)));
        assert_refused(&ask(&sandbox, true), "status 429; try again in 3600 s");
        assert_refused(&ask(&sandbox, true), "status 429");
        assert_eq!(sandbox.google.token_requests().len(), 1);
        assert!(!sandbox.log().contains("panicked"), "{}", sandbox.log());
    }
}
