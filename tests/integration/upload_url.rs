//! The URL that packages are uploaded to, where somebody wanted to install: the two differ by `/simple/` alone, and who
//! mixes them up is told so, and not to sign in again.

use super::harness::Sandbox;
use super::listeners::{agent, opened, question, repository};
use super::login::sign_in;
use super::{assert_given, assert_refused};

/// Where uploads go, as uv and twine name it.
fn upload(sandbox: &Sandbox) -> String {
    sandbox.index().trim_end_matches("simple/").to_owned()
}

#[test]
fn a_reader_whose_index_url_lacks_simple_is_told_what_is_wrong_with_it() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    sign_in(&sandbox, &[]);
    for url in [upload(&sandbox), upload(&sandbox).trim_end_matches('/').to_owned()] {
        for words in
            [&["get", &url, "oauth2accesstoken"][..], &["--mode=creds", "--output=json", "get", &url]]
        {
            let run = sandbox.run(&mut sandbox.keyring(words));
            assert_refused(&run, "is where packages are uploaded");
            assert!(
                run.stderr.contains(&format!("to install from it, write {}", sandbox.index())),
                "{run:?}"
            );
            assert!(run.stderr.contains("to upload: run `valetkey login --write"), "{run:?}");
        }
    }
    assert_given(&sandbox.run(&mut sandbox.get()));
    // Whoever asks to write by a flag knows what it is for.
    let run = sandbox.run(sandbox.valetkey().args(["token", "--write"]));
    assert!(!run.stderr.contains("/simple/") && run.stderr.contains("may read and not publish"), "{run:?}");
}

#[test]
fn an_upload_goes_on_as_before_with_an_identity_that_may_write() {
    let sandbox = Sandbox::new();
    let key = sandbox.service_account();
    for url in [upload(&sandbox), upload(&sandbox).trim_end_matches('/').to_owned()] {
        let mut ask = sandbox.keyring(["get", &url, "oauth2accesstoken"]);
        assert_given(&sandbox.run(ask.env("GOOGLE_APPLICATION_CREDENTIALS", &key)));
        let scope = sandbox.google.token_requests().last().and_then(|request| request.scope.clone());
        assert_eq!(scope.as_deref(), Some("https://www.googleapis.com/auth/cloud-platform"));
    }
}

#[test]
fn a_socket_that_only_reads_tells_it_too() {
    let sandbox = Sandbox::new();
    let key = sandbox.service_account();
    let mut args = sandbox.valetkey();
    args.args(["docker", "args", "--tokens", &repository(&sandbox, "acme/private")]);
    let socket = opened(&sandbox.run(args.env("GOOGLE_APPLICATION_CREDENTIALS", key)));
    let ask = format!(r#"{{"url":"{}"}}"#, upload(&sandbox));
    let (status, body) = agent(&socket, "POST", "/v1/credential", &ask);
    assert!(
        status == 403 && body.contains(&format!("to install from it, write {}", sandbox.index())),
        "{body}"
    );
    let (status, body) = agent(&socket, "POST", "/v1/credential", &question(&sandbox, "write"));
    assert!(status == 403 && !body.contains("to install"), "{body}");
}
