//! uv: with a username it asks `keyring` before its first request, without one only where the index is marked with
//! `authenticate = "always"`. It never asks twice in a run, so one token has to do.

use std::process::Command;

use super::client::{Client, Identity, Spy, assert_success, run, site};
use super::harness::Sandbox;

/// `uv pip install acme-hello` from the index that its configuration names.
pub(crate) fn uv_install(
    client: &Client,
    sandbox: &Sandbox,
    identity: Identity,
    index: &str,
    more: &str,
) -> Command {
    let text =
        format!("keyring-provider = \"subprocess\"\n[[index]]\nurl = \"{index}\"\ndefault = true\n{more}\n");
    let configuration = sandbox.write("home/uv.toml", &text);
    let mut command = client.command(sandbox, identity, "uv");
    command
        .args(["--no-cache", "--config-file"])
        .arg(configuration)
        .args(["pip", "install", "acme-hello", "--python"])
        .arg(client.program("python"))
        .arg("--target")
        .arg(site(sandbox))
        .env("UV_PYTHON_DOWNLOADS", "never");
    command
}

fn installs(client: &str, index: fn(&Sandbox) -> String, more: &str) {
    let Some(client) = Client::find(client) else { return };
    for identity in Identity::BOTH {
        let sandbox = Sandbox::new();
        let mut uv = uv_install(&client, &sandbox, identity, &index(&sandbox), more);
        assert_success(&run(&sandbox, &mut uv));
        client.assert_installed(&sandbox);
        assert_eq!(sandbox.google.token_requests().len(), 1, "{identity:?}");
        if more == ALWAYS {
            // Files are redirected out of the index, where uv tries without a credential first.
            let requests = sandbox.google.registry_requests();
            let pages: Vec<_> = requests.iter().filter(|it| it.path.contains("/simple/")).collect();
            assert!(pages.iter().all(|page| page.status == 200), "{pages:#?}");
        }
    }
}

#[test]
fn uv_newest_installs_with_a_username() {
    installs("uv-newest", Sandbox::index_with_user, "");
}

#[test]
fn uv_newest_installs_without_a_username_where_it_always_authenticates() {
    installs("uv-newest", Sandbox::index, ALWAYS);
}

#[test]
fn uv_2025_11_installs_with_a_username() {
    installs("uv-2025-11", Sandbox::index_with_user, "");
}

#[test]
fn uv_2025_11_installs_without_a_username_where_it_always_authenticates() {
    installs("uv-2025-11", Sandbox::index, ALWAYS);
}

/// The two things that its documentation has the user know.
fn fails_without_a_call(client: &str) {
    let Some(client) = Client::find(client) else { return };
    let sandbox = Sandbox::new();
    let spy = Spy::new(&sandbox);
    let mut uv = uv_install(&client, &sandbox, Identity::User, &sandbox.index(), "");
    spy.watch(&sandbox, &mut uv);
    let run = run(&sandbox, &mut uv);
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("(401"), "{run:?}");
    assert_eq!(spy.calls(), [""; 0]);
}

#[test]
fn uv_newest_calls_nobody_without_a_username() {
    fails_without_a_call("uv-newest");
}

#[test]
fn uv_2025_11_calls_nobody_without_a_username() {
    fails_without_a_call("uv-2025-11");
}

#[test]
fn uv_newest_says_403_where_the_index_does() {
    let Some(client) = Client::find("uv-newest") else { return };
    let sandbox = Sandbox::new();
    sandbox.google.deny("builder@acme.iam.gserviceaccount.com");
    let mut uv = uv_install(&client, &sandbox, Identity::ServiceAccount, &sandbox.index_with_user(), "");
    let run = run(&sandbox, &mut uv);
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("403 Forbidden"), "{run:?}");
    assert_eq!(sandbox.google.token_requests().len(), 1);
}

pub(crate) const ALWAYS: &str = "authenticate = \"always\"";
