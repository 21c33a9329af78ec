//! An index URL whose `/simple/` somebody forgot: what pip then prints.

use super::client::{Client, Identity, run};
use super::harness::Sandbox;

#[test]
fn pip_25_3_prints_what_is_wrong_with_an_index_url_without_simple() {
    let Some(client) = Client::find("pip-25.3") else { return };
    let sandbox = Sandbox::new();
    let socket = sandbox.path("run/reader.sock");
    sandbox.configure(&format!(
        "[[listener]]\nunix = \"{}\"\nrepositories = [\"https://localhost:{}/acme/private\"]\n\
         tokens = true\nunnarrowed = true\n",
        socket.display(),
        sandbox.google.port()
    ));
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let url = sandbox.index_with_user().replace("/simple/", "/");
    let mut pip = client.pip_install(&sandbox, Identity::User, &url);
    let run = run(&sandbox, pip.arg("acme-hello").env("VALETKEY_SOCKET", &socket));
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("is where packages are uploaded"), "{run:?}");
    assert!(run.stderr.contains(&format!("to install from it, write {}", sandbox.index())), "{run:?}");

    let mut pip = client.pip_install(&sandbox, Identity::User, &sandbox.index_with_user());
    let run = super::client::run(&sandbox, pip.arg("acme-hello").env("VALETKEY_SOCKET", &socket));
    assert_eq!(run.code, Some(0), "{run:?}");
}
