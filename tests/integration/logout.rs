//! `valetkey logout`: revoked at Google, then forgotten; and forgotten all the same where Google cannot be told.

use std::fs;

use super::harness::{Run, Sandbox};
use super::login::{DEVELOPER, LIST, STATE, alone, logins, sign_in, sign_in_as};
use super::stand_in::{Consent, Death, Fault, RevokedToken};
use super::{assert_given, assert_refused};

fn logout(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    sandbox.run(sandbox.valetkey().arg("logout").args(arguments))
}

fn signed_in() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    sign_in(&sandbox, &[]);
    sandbox
}

/// Nothing of any login is left.
#[track_caller]
fn assert_forgotten(sandbox: &Sandbox) {
    assert!(logins(sandbox).is_empty());
    for directory in ["logins", "health"] {
        let files =
            fs::read_dir(sandbox.path(&format!("{STATE}/{directory}"))).into_iter().flatten().flatten();
        let left: Vec<_> =
            files.map(|it| it.path()).filter(|it| it.extension().is_none_or(|it| it != "lock")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let list = fs::read_to_string(sandbox.path(LIST)).unwrap();
    assert!(!list.contains("acme.example"), "{list}");
    assert_refused(&sandbox.run(alone(&mut sandbox.get())), "no login is stored");
}

/// The refresh tokens that were given out so far.
fn refresh_tokens(sandbox: &Sandbox) -> Vec<String> {
    sandbox.google.secrets().into_iter().filter(|secret| secret.starts_with("1//")).collect()
}

#[test]
fn both_logins_of_an_account_are_revoked_whether_or_not_google_ends_both_at_once() {
    for spreads in [false, true] {
        let sandbox = signed_in();
        sandbox.google.spread_revocations(spreads);
        sign_in(&sandbox, &["--write"]);
        let token = assert_given(&sandbox.run(alone(&mut sandbox.get())));
        let run = logout(&sandbox, &[]);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
        assert_eq!(run.stdout, "signed out developer@acme.example; the sign-in is revoked and forgotten\n");
        let revocations = sandbox.google.revocations();
        assert_eq!(revocations.len(), 2);
        assert!(
            revocations.iter().all(|it| it.token == RevokedToken::Refresh && !it.in_url),
            "{revocations:?}"
        );
        let tokens = refresh_tokens(&sandbox);
        assert!(tokens.len() == 2 && tokens.iter().all(|token| !sandbox.google.is_alive(token)));
        assert!(!token.is_empty());
        assert_forgotten(&sandbox);
    }
}

#[test]
fn one_that_is_dead_already_is_as_good() {
    let sandbox = signed_in();
    sandbox.google.end_logins(DEVELOPER, Death::Revoked);
    assert_refused(&sandbox.run(alone(&mut sandbox.get())), "is dead");
    let run = logout(&sandbox, &["--account", "Developer@acme.example"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert_forgotten(&sandbox);
}

#[test]
fn where_google_cannot_be_told_it_is_forgotten_and_said() {
    let at_google = "https://myaccount.google.com/connections";
    for (fault, word) in [
        (Fault::status(503), "the revocation endpoint answered with status 503"),
        (Fault::CloseAtOnce, "broke off"),
        (Fault::oauth_error("invalid_request", "x"), "status 400"),
    ] {
        let sandbox = signed_in();
        sandbox.google.revocation_faults(vec![fault]);
        let run = logout(&sandbox, &[]);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(run.stdout, "signed out developer@acme.example; the sign-in is forgotten\n");
        assert!(run.stderr.starts_with("valetkey: warning: not revoked: "), "{run:?}");
        assert!(run.stderr.contains(word) && run.stderr.contains(at_google), "{run:?}");
        assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
        assert!(sandbox.google.is_alive(&refresh_tokens(&sandbox)[0]));
        assert_forgotten(&sandbox);
    }
    let sandbox = signed_in();
    let mut command = sandbox.valetkey();
    let run = sandbox.run(command.arg("logout").env("HTTPS_PROXY", "http://127.0.0.1:9"));
    assert!(run.code == Some(0) && run.stderr.contains("not revoked: cannot reach localhost"), "{run:?}");
    assert_forgotten(&sandbox);
}

#[test]
fn another_servers_token_is_sent_to_no_endpoint_that_is_not_named() {
    let sandbox = signed_in();
    let path = sandbox.path("home/.config/valetkey/config.toml");
    let text = fs::read_to_string(&path).unwrap();
    let kept: Vec<_> = text.lines().filter(|line| !line.starts_with("revocation")).collect();
    sandbox.write("home/.config/valetkey/config.toml", &(kept.join("\n") + "\n"));
    let run = logout(&sandbox, &[]);
    assert!(run.code == Some(0) && run.stdout.ends_with("the sign-in is forgotten\n"), "{run:?}");
    assert!(
        run.stderr.contains("no endpoint for that is configured; name it as `endpoints.revocation`"),
        "{run:?}"
    );
    assert!(sandbox.google.revocations().is_empty());
    assert_forgotten(&sandbox);
}

#[test]
fn one_of_several_has_to_be_named() {
    let sandbox = signed_in();
    let run = logout(&sandbox, &["--account", "nobody@acme.example"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
    assert!(run.stderr.contains("error: no login of nobody@acme.example is stored\n"), "{run:?}");
    sign_in_as(&sandbox, &Consent::given().by("other@acme.example"), &[]);
    let run = logout(&sandbox, &[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{run:?}");
    let several =
        "several accounts are signed in: developer@acme.example, other@acme.example\nhint: name one";
    assert!(run.stderr.contains(several), "{run:?}");
    assert!(logins(&sandbox).len() == 2 && sandbox.google.revocations().is_empty());
    let run = logout(&sandbox, &["--account", "other@acme.example"]);
    assert!(run.code == Some(0) && run.stdout.starts_with("signed out other@acme.example"), "{run:?}");
    assert_eq!(logins(&sandbox).len(), 1);
    sign_in_as(&sandbox, &Consent::given().by("other@acme.example"), &[]);
    let run = logout(&sandbox, &["--all"]);
    assert!(run.code == Some(0) && run.stdout.lines().count() == 2, "{run:?}");
    assert_forgotten(&sandbox);
    let run = logout(&sandbox, &["--all"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.starts_with("error: no login is stored"), "{run:?}");
    let run = logout(&sandbox, &["--all", "--account", DEVELOPER]);
    assert_eq!(run.code, Some(2), "{run:?}");
}

#[test]
fn a_secret_that_is_gone_is_forgotten_and_never_called_revoked() {
    let sandbox = signed_in();
    fs::remove_dir_all(sandbox.path(&format!("{STATE}/logins"))).unwrap();
    let run = logout(&sandbox, &[]);
    assert_eq!(run.stdout, "signed out developer@acme.example; the sign-in is forgotten\n", "{run:?}");
    assert!(run.code == Some(0) && run.stderr.contains("not in the vault any more"), "{run:?}");
    assert!(sandbox.google.revocations().is_empty());
    assert_forgotten(&sandbox);
}

#[test]
fn one_that_cannot_be_forgotten_keeps_no_other() {
    let sandbox = signed_in();
    sign_in_as(&sandbox, &Consent::given().by("other@acme.example"), &[]);
    // As if the first rested in a keychain that this machine has not.
    let list = fs::read_to_string(sandbox.path(LIST)).unwrap();
    sandbox.write(LIST, &list.replacen("vault = \"file\"", "vault = \"keychain\"", 1));
    let run = logout(&sandbox, &["--all"]);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stdout.starts_with("signed out other@acme.example; the sign-in is revoked"), "{run:?}");
    assert!(run.stderr.contains("error: ") && run.stderr.contains("keychain"), "{run:?}");
    let left = logins(&sandbox);
    assert!(left.len() == 1 && left[0]["account"] == DEVELOPER, "{left:?}");
}
