//! pip, from the first version that can call a `keyring` program to the newest, and two that cannot.

use super::client::{Client, Identity, Spy, assert_success, run};
use super::harness::{Run, Sandbox};

/// Two packages, one index: one call of `keyring`, whoever the user is.
fn installs(client: &str, index: fn(&Sandbox) -> String) {
    let Some(client) = Client::find(client) else { return };
    for identity in Identity::BOTH {
        let sandbox = Sandbox::new();
        let mut pip = client.pip_install(&sandbox, identity, &index(&sandbox));
        assert_success(&run(&sandbox, pip.arg("acme-hello")));
        client.assert_installed(&sandbox);
        assert_eq!(sandbox.google.token_requests().len(), 1, "{identity:?}");
    }
}

/// pip cannot install, `keyring` was not called, and this is what pip says.
fn fails_without_a_call(client: &str, index: fn(&Sandbox) -> String, no_input: bool) -> Option<Run> {
    let client = Client::find(client)?;
    let sandbox = Sandbox::new();
    let spy = Spy::new(&sandbox);
    let mut pip = client.pip_install(&sandbox, Identity::User, &index(&sandbox));
    spy.watch(&sandbox, &mut pip);
    if no_input {
        pip.arg("--no-input");
    }
    let run = run(&sandbox, pip.arg("acme-hello"));
    assert_ne!(run.code, Some(0), "{run:?}");
    assert_eq!(spy.calls(), [""; 0]);
    assert!(sandbox.google.registry_requests().iter().all(|request| request.status == 401));
    assert!(!sandbox.google.registry_requests().is_empty());
    Some(run)
}

#[track_caller]
fn assert_prompt(run: &Run, prompt: &str) {
    assert!(run.stdout.contains(prompt), "{run:?}");
}

#[track_caller]
fn assert_refusal(run: &Run) {
    assert!(run.stderr.contains("No matching distribution found for acme-hello"), "{run:?}");
}

macro_rules! pip_installs {
    ($($name:ident: $client:literal, $index:path;)*) => {
        $(#[test]
        fn $name() {
            installs($client, $index);
        })*
    };
}

pip_installs! {
    pip_23_0_1_installs_with_a_username: "pip-23.0.1", Sandbox::index_with_user;
    pip_23_1_installs_with_a_username: "pip-23.1", Sandbox::index_with_user;
    pip_24_3_1_installs_with_a_username: "pip-24.3.1", Sandbox::index_with_user;
    pip_25_3_installs_with_a_username: "pip-25.3", Sandbox::index_with_user;
    pip_26_1_2_installs_with_a_username: "pip-26.1.2", Sandbox::index_with_user;
    pip_newest_installs_with_a_username: "pip-newest", Sandbox::index_with_user;
    pip_newest_installs_without_a_username: "pip-newest", Sandbox::index;
}

/// Before 26.2 pip does not call a program without a username, and asks the user for one.
macro_rules! pip_asks_for_a_username {
    ($($name:ident: $client:literal;)*) => {
        $(#[test]
        fn $name() {
            let Some(run) = fails_without_a_call($client, Sandbox::index, false) else { return };
            assert_prompt(&run, "User for localhost");
            let Some(run) = fails_without_a_call($client, Sandbox::index, true) else { return };
            assert_refusal(&run);
        })*
    };
}

pip_asks_for_a_username! {
    pip_23_0_1_without_a_username_prompts_and_calls_nobody: "pip-23.0.1";
    pip_23_1_without_a_username_prompts_and_calls_nobody: "pip-23.1";
    pip_24_3_1_without_a_username_prompts_and_calls_nobody: "pip-24.3.1";
    pip_25_3_without_a_username_prompts_and_calls_nobody: "pip-25.3";
    pip_26_1_2_without_a_username_prompts_and_calls_nobody: "pip-26.1.2";
    // These have no way to call a program at all.
    pip_20_3_4_without_a_username_prompts_and_calls_nobody: "pip-20.3.4";
    pip_22_3_1_without_a_username_prompts_and_calls_nobody: "pip-22.3.1";
}

/// Before 23.0 pip knows the `keyring` module only. This one asks its user for a name, even though it has one.
#[test]
fn pip_20_3_4_has_no_way_to_call_keyring() {
    let Some(run) = fails_without_a_call("pip-20.3.4", Sandbox::index_with_user, false) else { return };
    assert_prompt(&run, "User for localhost");
    let Some(run) = fails_without_a_call("pip-20.3.4", Sandbox::index_with_user, true) else { return };
    assert_refusal(&run);
}

/// This one takes the name with an empty password for all there is, and says that it is not correct.
#[test]
fn pip_22_3_1_has_no_way_to_call_keyring() {
    let Some(run) = fails_without_a_call("pip-22.3.1", Sandbox::index_with_user, false) else { return };
    assert!(run.stderr.contains("401 Error, Credentials not correct"), "{run:?}");
    let Some(run) = fails_without_a_call("pip-22.3.1", Sandbox::index_with_user, true) else { return };
    assert_refusal(&run);
}

/// It has no `--keyring-provider`, and asks a keyring only where it might ask the user too.
#[test]
fn pip_23_0_1_calls_nobody_where_it_may_not_prompt() {
    let Some(run) = fails_without_a_call("pip-23.0.1", Sandbox::index_with_user, true) else { return };
    assert_refusal(&run);
}

fn asks_without_a_prompt(client: &str) {
    let Some(client) = Client::find(client) else { return };
    let sandbox = Sandbox::new();
    let mut pip = client.pip_install(&sandbox, Identity::User, &sandbox.index_with_user());
    assert_success(&run(&sandbox, pip.args(["--no-input", "acme-hello"])));
    client.assert_installed(&sandbox);
}

#[test]
fn pip_23_1_installs_where_it_may_not_prompt() {
    asks_without_a_prompt("pip-23.1");
}

#[test]
fn pip_newest_installs_where_it_may_not_prompt() {
    asks_without_a_prompt("pip-newest");
}

/// Two requirements, and what one of them requires, in one run: one call.
#[test]
fn pip_newest_calls_keyring_once_for_two_packages_of_one_index() {
    let Some(client) = Client::find("pip-newest") else { return };
    let sandbox = Sandbox::new();
    sandbox.google.add_package("acme", "private", "acme-tools", "2.0.0", &[]);
    let spy = Spy::new(&sandbox);
    let mut pip = client.pip_install(&sandbox, Identity::ServiceAccount, &sandbox.index());
    spy.watch(&sandbox, &mut pip);
    assert_success(&run(&sandbox, pip.args(["acme-hello", "acme-tools"])));
    client.assert_installed(&sandbox);
    assert_eq!(spy.calls().len(), 1);
    assert_eq!(sandbox.google.token_requests().len(), 1);
}

/// A caller who is known and not allowed: pip says so if it is asked to be very verbose, else that nothing was found. It
/// does not ask for a second token, which would not help.
fn says_403(client: &str, index: fn(&Sandbox) -> String) {
    let Some(client) = Client::find(client) else { return };
    let sandbox = Sandbox::new();
    sandbox.google.deny("builder@acme.iam.gserviceaccount.com");
    let mut pip = client.pip_install(&sandbox, Identity::ServiceAccount, &index(&sandbox));
    let run = run(&sandbox, pip.args(["-vv", "acme-hello"]));
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("403 Client Error"), "{run:?}");
    assert_refusal(&run);
    assert_eq!(sandbox.google.token_requests().len(), 1);
}

#[test]
fn pip_23_0_1_says_403_where_the_index_does() {
    says_403("pip-23.0.1", Sandbox::index_with_user);
}

#[test]
fn pip_newest_says_403_where_the_index_does() {
    says_403("pip-newest", Sandbox::index);
}

/// A local source tree whose build backend is private: the provider reaches pip's isolated build through the
/// environment, and through nothing else.
fn builds(client: &str, index: fn(&Sandbox) -> String) {
    let Some(client) = Client::find(client) else { return };
    let sandbox = Sandbox::new();
    let tree = super::projects::source_tree(&sandbox);
    let mut pip = client.pip_install(&sandbox, Identity::User, &index(&sandbox));
    assert_success(&run(&sandbox, pip.arg(tree)));
    assert!(super::client::site(&sandbox).join("acme_app.py").exists());
    assert!(sandbox.google.registry_requests().iter().any(|it| it.path.contains("acme-build-backend")));
}

#[test]
fn pip_23_1_reaches_a_private_build_requirement() {
    builds("pip-23.1", Sandbox::index_with_user);
}

#[test]
fn pip_25_3_reaches_a_private_build_requirement() {
    builds("pip-25.3", Sandbox::index_with_user);
}

#[test]
fn pip_newest_reaches_a_private_build_requirement() {
    builds("pip-newest", Sandbox::index);
}
