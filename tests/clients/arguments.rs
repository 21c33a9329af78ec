//! What clients say to `keyring`, word by word. valetkey is written to these dialects: where one of these fails, a new
//! client speaks another.

use std::process::Command;

use super::client::{Client, Identity, Spy, assert_success, run};
use super::harness::Sandbox;
use super::projects::pdm_install;
use super::uv::{ALWAYS, uv_install};

/// Runs a client that has to succeed, and compares what it said with `expected`, in which `INDEX` is the index.
fn says(name: &str, command: impl Fn(&Client, &Sandbox) -> Command, expected: &str) {
    let Some(client) = Client::find(name) else { return };
    let sandbox = Sandbox::new();
    let spy = Spy::new(&sandbox);
    let mut command = command(&client, &sandbox);
    spy.watch(&sandbox, &mut command);
    assert_success(&run(&sandbox, &mut command));
    let index = sandbox.index();
    let said: Vec<_> = spy.calls().iter().map(|call| call.replace(&index, "INDEX")).collect();
    let user = sandbox.index_with_user();
    let expected = expected.replace("USER@INDEX", &user);
    assert_eq!(said, [expected]);
}

fn pip(client: &Client, sandbox: &Sandbox, index: &str) -> Command {
    let mut pip = client.pip_install(sandbox, Identity::User, index);
    pip.arg("acme-hello");
    pip
}

fn pip_with_username(client: &Client, sandbox: &Sandbox) -> Command {
    pip(client, sandbox, &sandbox.index_with_user())
}

fn pip_without_username(client: &Client, sandbox: &Sandbox) -> Command {
    pip(client, sandbox, &sandbox.index())
}

#[test]
fn pip_before_26_2_asks_for_a_password() {
    for version in ["pip-23.0.1", "pip-23.1", "pip-24.3.1", "pip-25.3", "pip-26.1.2"] {
        says(version, pip_with_username, "<get><INDEX><oauth2accesstoken>");
    }
}

#[test]
fn pip_newest_asks_for_a_credential_in_json() {
    says("pip-newest", pip_without_username, "<--mode=creds><--output=json><get><INDEX>");
    says("pip-newest", pip_with_username, "<--mode=creds><--output=json><get><INDEX><oauth2accesstoken>");
}

#[test]
fn uv_asks_for_a_password_where_it_knows_the_username() {
    for version in ["uv-2025-11", "uv-newest"] {
        let with = |client: &Client, sandbox: &Sandbox| {
            uv_install(client, sandbox, Identity::User, &sandbox.index_with_user(), "")
        };
        says(version, with, "<get><INDEX><oauth2accesstoken>");
    }
}

#[test]
fn uv_asks_for_a_credential_where_it_does_not() {
    for version in ["uv-2025-11", "uv-newest"] {
        let without = |client: &Client, sandbox: &Sandbox| {
            uv_install(client, sandbox, Identity::User, &sandbox.index(), ALWAYS)
        };
        says(version, without, "<get><INDEX><--mode><creds>");
    }
}

/// With an empty word where it knows no username, and with the username in the URL where it does.
#[test]
fn pdm_newest_asks_for_a_credential_in_two_lines() {
    let without =
        |client: &Client, sandbox: &Sandbox| pdm_install(client, sandbox, Identity::User, &sandbox.index());
    says("pdm", without, "<--mode=creds><get><INDEX><>");
    let with = |client: &Client, sandbox: &Sandbox| {
        pdm_install(client, sandbox, Identity::User, &sandbox.index_with_user())
    };
    says("pdm", with, "<--mode=creds><get><USER@INDEX><oauth2accesstoken>");
}
