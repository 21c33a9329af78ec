//! The hunt for leaks at the end of every test: it finds what it should, and lets pass what is there on purpose.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::harness::{Sandbox, VAULT};

fn finds_a_leak(sandbox: &Sandbox, below: &str, text: &str) -> bool {
    let path = sandbox.write(below, text);
    let found = catch_unwind(AssertUnwindSafe(|| sandbox.hunt())).is_err();
    std::fs::remove_file(path).unwrap();
    found
}

#[test]
fn a_refresh_token_may_be_in_the_vault_and_nowhere_else() {
    let sandbox = Sandbox::new();
    let login = sandbox.google.authorized_user("developer@acme.example");
    assert!(!finds_a_leak(&sandbox, &format!("{VAULT}/developer"), &login));
    for below in ["home/.local/state/valetkey/daemon.log", "home/.config/valetkey/note", "tmp/note"] {
        assert!(finds_a_leak(&sandbox, below, &login), "{below}");
    }
}

#[test]
fn a_clients_secret_may_be_in_the_configuration_and_nowhere_else() {
    let mut sandbox = Sandbox::new();
    let client = sandbox.configure_login("");
    sandbox.hunt();
    for below in ["home/.local/state/valetkey/daemon.log", "home/.config/valetkey/note", "tmp/note"] {
        assert!(finds_a_leak(&sandbox, below, &client.file), "{below}");
    }
    sandbox.hear(client.secret.as_bytes());
    assert!(catch_unwind(AssertUnwindSafe(|| sandbox.hunt())).is_err());
    // What was said stays said.
    sandbox.hunts_leaks = false;
}
