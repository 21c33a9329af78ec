//! What is let into a build when it is asked for: uploads by `docker args --write`, and tokens by `--tokens`.

use ring::digest::{SHA256, digest};

use super::engine::{Engine, Release};
use super::prepared;
use super::scene::{PROGRAM, SOCKET, Scene, args, repository, step, told_once};

/// Says which token came, and not the token. The host of these tests is not one of Google's, so `keyring` has to be told
/// that it is a registry.
fn asks(scene: &Scene) -> String {
    format!(
        "RUN mkdir -p /etc/valetkey && printf '[[registry]]\\nhost = \"{}\"\\n' >/etc/valetkey/config.toml\n\
         RUN {SOCKET} {} echo '<token>' $(keyring get {} oauth2accesstoken | sha256sum)\n",
        scene.host(),
        PROGRAM.replace("=/valetkey", "=/keyring").replace("bin/valetkey", "bin/keyring"),
        scene.sandbox.index()
    )
}

fn is_given(scene: &Scene, told: &str) -> bool {
    scene.sandbox.google.secrets().iter().any(|secret| {
        let hash = digest(&SHA256, format!("{secret}\n").as_bytes());
        let hex: Vec<_> = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        told.starts_with(&hex.concat())
    })
}

/// A file that no single frame holds.
#[test]
fn a_build_that_may_write_publishes_and_gets_no_token() {
    let (Some(_), Some(engine)) = (prepared::static_program(), Engine::of(Release::Installed)) else {
        return;
    };
    let (scene, reading) = Scene::without_network();
    engine.valetkey();
    let mut writing = args(&scene.sandbox, &["--write", &repository(&scene.sandbox, "private")]);
    writing.extend(["--network".to_owned(), "none".to_owned()]);
    let upload = step(&format!("valetkey exec -- python3 /upload.py {}", scene.sandbox.index()));
    let text = format!("FROM {}\nCOPY upload.py /\n{upload}{}", engine.base(), asks(&scene));
    let context = [("upload.py", &include_bytes!("steps/upload.py")[..])];
    let refused = engine.build(&text, &context, &reading);
    assert_ne!(refused.code, Some(0), "{}", refused.log);
    assert_eq!(told_once(&refused, "upload").trim(), "403");
    let stored = || scene.sandbox.google.file("acme", "private", "acme-built", "acme_built-1.0.0.tar.gz");
    assert!(stored().is_none());
    let built = scene.build(engine, &text, &context, &writing);
    assert_eq!(told_once(&built, "upload").trim(), "200");
    assert_eq!(stored().map(|content| content.len()), Some(3 << 20));
    assert!(!is_given(&scene, told_once(&built, "token")), "{}", built.log);
    assert!(built.log.contains("this socket gives no tokens"), "{}", built.log);
}

/// A key can be narrowed to reading; a user's sign-in cannot, and then no token leaves.
#[test]
fn a_build_that_asked_for_tokens_gets_one_that_reads() {
    let (Some(_), Some(engine)) = (prepared::static_program(), Engine::of(Release::Installed)) else {
        return;
    };
    let scene = super::readme::scene();
    engine.valetkey();
    let text = format!("FROM {}\n{}", engine.small(), asks(&scene));
    let granted = repository(&scene.sandbox, "private");
    let flags = args(&scene.sandbox, &["--tokens", &granted]);
    let refused = engine.build(&text, &[], &flags);
    assert!(!is_given(&scene, told_once(&refused, "token")), "{}", refused.log);
    assert!(refused.log.contains("no token leaves this socket"), "{}", refused.log);
    scene.sandbox.stop();

    let key = scene.sandbox.service_account();
    let mut command = scene.sandbox.valetkey();
    let _daemon = scene.sandbox.serve_with(command.env("GOOGLE_APPLICATION_CREDENTIALS", key));
    let flags = args(&scene.sandbox, &["--tokens", &granted]);
    let built = scene.build(engine, &text, &[], &[flags, vec!["--no-cache".to_owned()]].concat());
    assert!(is_given(&scene, told_once(&built, "token")), "{}", built.log);
    let scopes: Vec<_> =
        scene.sandbox.google.token_requests().into_iter().filter_map(|it| it.scope).collect();
    assert!(scopes.last().is_some_and(|scope| scope.ends_with("cloud-platform.read-only")), "{scopes:?}");
}
