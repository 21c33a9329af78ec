//! A token that dies while pip works: it expires, or somebody revokes it. pip asks again, and must not be given the
//! dead one.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::client::{Client, Identity, assert_success, run};
use super::clock::FakeClock;
use super::harness::{Run, Sandbox};
use super::stand_in::{Authorization, Fault, RegistryRequest};

/// Where pip meets its dead token.
#[derive(Clone, Copy)]
enum At {
    /// The page of a second package.
    Page,
    File,
}

impl At {
    fn path(self) -> &'static str {
        match self {
            Self::Page => "/acme/private/simple/acme-greeting/",
            Self::File => "/acme/private/acme-hello/",
        }
    }

    /// Does `act` once, when pip comes there with the token that it was given.
    fn first(self, sandbox: &Sandbox, act: impl Fn() -> Option<Fault> + Send + 'static) {
        let done = AtomicBool::new(false);
        sandbox.google.on_registry_request(Box::new(move |request: &RegistryRequest| {
            let is_there = request.path.starts_with(self.path());
            let has_token = request.authorization != Authorization::None;
            (is_there && has_token && !done.swap(true, Ordering::SeqCst)).then(&act).flatten()
        }));
    }

    /// pip met its dead token there, and went on with another.
    fn assert_recovered(self, client: &Client, sandbox: &Sandbox) {
        client.assert_installed(sandbox);
        let requests = sandbox.google.registry_requests();
        let refused =
            requests.iter().filter(|it| it.path.starts_with(self.path()) && it.status == 401).count();
        assert_eq!(refused, 1, "{requests:#?}");
        assert_eq!(sandbox.google.token_requests().len(), 2);
    }
}

fn revoked(client: &Client, sandbox: &Sandbox, index: &str, at: At) -> Run {
    let google = sandbox.google.control();
    at.first(sandbox, move || {
        google.revoke_access_tokens();
        None
    });
    let mut pip = client.pip_install(sandbox, Identity::ServiceAccount, index);
    run(sandbox, pip.arg("acme-hello"))
}

fn survives_revocation_without_a_daemon(client: &str, index: fn(&Sandbox) -> String, at: At) {
    let Some(client) = Client::find(client) else { return };
    let sandbox = Sandbox::new();
    assert_success(&revoked(&client, &sandbox, &index(&sandbox), at));
    at.assert_recovered(&client, &sandbox);
}

/// The daemon holds a token that looks good for most of an hour. That the same pip asks again, a minute and a half
/// later, is how it learns better; its clock is set forward in the place of waiting.
fn survives_revocation_through_the_daemon(client: &str, index: fn(&Sandbox) -> String) {
    let Some(client) = Client::find(client) else { return };
    let sandbox = Sandbox::new();
    let google = sandbox.google.control();
    let Some(FakeClock { mut command, setting }) = FakeClock::new(&sandbox) else { return };
    let mut pip = client.pip_install(&sandbox, Identity::User, &index(&sandbox));
    let daemon = sandbox.serve_with(&mut command);
    At::File.first(&sandbox, move || {
        google.revoke_access_tokens();
        fs::write(&setting, "+90").expect("a file");
        None
    });
    assert_success(&run(&sandbox, pip.arg("acme-hello")));
    At::File.assert_recovered(&client, &sandbox);
    let given = || daemon.log().lines().filter(|line| line.contains("\"verdict\":\"given\"")).count();
    Sandbox::wait_until("the daemon has given two", || given() == 2);
}

fn survives_expiry(client: &str, index: fn(&Sandbox) -> String, identity: Identity, at: At) {
    let Some(client) = Client::find(client) else { return };
    let sandbox = Sandbox::new();
    sandbox.google.set_token_lifetime(LIFETIME);
    let google = sandbox.google.control();
    at.first(&sandbox, move || {
        google.set_token_lifetime(Duration::from_secs(3599));
        Some(Fault::Delay(LIFETIME))
    });
    let mut pip = client.pip_install(&sandbox, identity, &index(&sandbox));
    assert_success(&run(&sandbox, pip.arg("acme-hello")));
    at.assert_recovered(&client, &sandbox);
}

#[test]
fn pip_23_0_1_survives_a_token_revoked_between_two_pages() {
    survives_revocation_without_a_daemon("pip-23.0.1", Sandbox::index_with_user, At::Page);
}

/// To it a file is no part of the index, so that it has no username there, and calls nobody.
#[test]
fn pip_23_0_1_prompts_where_a_file_refuses_its_token() {
    let Some(client) = Client::find("pip-23.0.1") else { return };
    let sandbox = Sandbox::new();
    let run = revoked(&client, &sandbox, &sandbox.index_with_user(), At::File);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stdout.contains("User for localhost"), "{run:?}");
    assert_eq!(sandbox.google.token_requests().len(), 1);
}

#[test]
fn pip_23_1_survives_a_revoked_token() {
    survives_revocation_without_a_daemon("pip-23.1", Sandbox::index_with_user, At::File);
}

#[test]
fn pip_26_1_2_survives_a_revoked_token() {
    survives_revocation_without_a_daemon("pip-26.1.2", Sandbox::index_with_user, At::File);
}

#[test]
fn pip_newest_survives_a_revoked_token() {
    survives_revocation_without_a_daemon("pip-newest", Sandbox::index, At::File);
}

#[test]
fn pip_25_3_survives_a_revoked_token_that_the_daemon_holds() {
    survives_revocation_through_the_daemon("pip-25.3", Sandbox::index_with_user);
}

#[test]
fn pip_newest_survives_a_revoked_token_that_the_daemon_holds() {
    survives_revocation_through_the_daemon("pip-newest", Sandbox::index);
}

#[test]
fn pip_23_0_1_survives_a_token_that_expires_between_two_pages() {
    survives_expiry("pip-23.0.1", Sandbox::index_with_user, Identity::ServiceAccount, At::Page);
}

#[test]
fn pip_newest_survives_an_expired_token() {
    survives_expiry("pip-newest", Sandbox::index, Identity::ServiceAccount, At::File);
}

#[test]
fn pip_newest_survives_an_expired_token_that_the_daemon_holds() {
    survives_expiry("pip-newest", Sandbox::index, Identity::User, At::File);
}

/// Long enough for pip to come for the first file on a busy machine.
const LIFETIME: Duration = Duration::from_secs(8);
