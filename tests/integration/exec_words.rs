//! What `valetkey exec` says to the person who runs it: the daemon's own words alone, and whose request they are about.

use super::exec::{exec, real_path, said, shell, url};
use super::harness::Sandbox;
use super::registry_daemon::{FORGED, REFUSED, RegistryDaemon};
use super::stand_in::Fault;

#[test]
fn a_registry_cannot_speak_as_valetkey() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let page = url(&daemon, FORGED);
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "curl", "-sSi", &page]));
    // The client has it as it came, without what is between us and the daemon.
    assert!(run.stdout.contains("HTTP/1.1 403"), "{run:?}");
    assert!(
        run.stdout.contains("as if it were valetkey") && !run.stdout.contains("valetkey-mark"),
        "{run:?}"
    );
    assert_eq!(said(&run), "");
}

/// By the real daemon, which takes out of a registry's answer what is its own to say.
#[test]
fn the_daemon_marks_its_own_words_and_no_registry_s() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    let host = format!("localhost:{}", sandbox.google.port());
    let document = r#"{"type":"urn:valetkey:problem:refused","status":403,"title":"not granted","detail":"your grant is over","hint":"run `valetkey docker args --write us/evil/all`"}"#;
    let fault = || Fault::Status {
        code: 403,
        retry_after: None,
        body: document.to_owned(),
        content_type: "application/problem+json".to_owned(),
    };
    let exec = |words: &[&str]| {
        let mut command = sandbox.valetkey();
        command.env("PATH", real_path(&sandbox)).env("SSL_CERT_FILE", sandbox.path("ca.pem"));
        sandbox.run(command.args(["exec"]).args(words))
    };
    sandbox.google.registry_fault_always("/acme/private/simple/", fault());
    let page = format!("https://{host}/acme/private/simple/acme-hello/");
    let run = exec(&["--", "curl", "-sSi", &page]);
    assert!(run.stdout.contains("your grant is over"), "{run:?}");
    assert_eq!(said(&run), "", "the registry's words");
    let index = format!("https://{host}/acme/private/simple/");
    let run = exec(&["--index", &index, "--", "sh", "-c", "curl -sS ${PIP_INDEX_URL}acme-hello/"]);
    assert!(run.stdout.contains("your grant is over"), "{run:?}");
    assert!(!run.stderr.contains("grant is over") && !run.stderr.contains("evil"), "{run:?}");
    // Its own are shown.
    sandbox.google.clear_registry_faults();
    let run = exec(&["--", "curl", "-sSi", "-X", "TRACE", &page]);
    assert!(run.stderr.contains("TRACE requests are not passed on"), "{run:?}");
    assert!(!run.stdout.contains("valetkey-mark"), "{run:?}");
}

#[test]
fn a_refusal_says_which_process_asked_and_none_of_its_secrets() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let page = url(&daemon, REFUSED);
    // What a stranger's package does behind an installer's back, under a name that is a sentence.
    let get = format!("curl -sS -o /dev/null -u me:hunter2 -H 'X-Key: hunter2' {page}");
    sandbox.write("home/setup.sh", &get);
    sandbox.write("home/a; valetkey: run `valetkey docker args us/evil/all`", &get);
    let run = shell(&sandbox, &daemon, "sh ./setup.sh hunter2; true");
    let all = said(&run);
    let line = all.trim_end();
    assert!(line.starts_with("valetkey: curl, started by "), "{run:?}");
    assert!(line.contains("sh ./setup.sh, started by "), "{run:?}");
    assert!(
        line.contains(&format!(" asked for {page}: 403 Forbidden: acme/other is not granted here; add to")),
        "{run:?}"
    );
    assert!(line.ends_with("(only if you know why that process asks for it)"), "{run:?}");
    assert!(!run.stderr.contains("hunter2"), "{run:?}");
    let run = shell(&sandbox, &daemon, "sh './a; valetkey: run `valetkey docker args us/evil/all`'; true");
    assert!(!run.stderr.contains("run `valetkey docker args us/evil"), "{run:?}");
    assert!(run.stderr.contains("curl, started by "), "{run:?}");
    assert_eq!(said(&run).lines().count(), 1, "{run:?}");
}

#[test]
fn what_a_stranger_chose_is_cut_short() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let page = format!("http://${{HTTPS_PROXY#http://}}/registry/nowhere.test/{}", "x".repeat(4000));
    let run = shell(&sandbox, &daemon, &format!("curl -sS -o /dev/null {page}"));
    assert!(run.stderr.contains("curl, started by ") && run.stderr.contains("404 Not Found"), "{run:?}");
    assert!(said(&run).len() < 600, "{run:?}");
}
