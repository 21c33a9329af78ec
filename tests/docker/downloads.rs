//! Unchanged clients in builds: pip of several ages with the registry's own name, and what is nobody's registry, which
//! passes through untouched.

use std::path::{Path, PathBuf};

use super::engine::{Building, Built, Engine, PATIENCE, Release};
use super::machine::{Machine, PYTHON};
use super::prepared;
use super::process::{run, run_together};
use super::scene::{Scene, step};

/// A client of those that `tests/prepare-clients` made.
fn client(below: &str) -> Option<PathBuf> {
    let directory = std::env::var_os("VALETKEY_TEST_CLIENTS")
        .map_or_else(|| prepared::root().join("target/clients"), PathBuf::from);
    let path = directory.join(below);
    if path.exists() {
        return Some(path);
    }
    prepared::skip(&format!("there is no {}: run tests/prepare-clients", path.display()));
    None
}

/// pip itself, out of a virtual environment, whatever Python that was made for.
fn pip(name: &str) -> Option<PathBuf> {
    let library = client(&format!("{name}/lib"))?;
    let python = std::fs::read_dir(library).ok()?.flatten().next()?.path();
    Some(python.join("site-packages/pip"))
}

/// A build with more in its context than a test holds in memory.
fn build_with(engine: &Engine, text: &str, files: &[&Path], flags: &[String]) -> Built {
    let Building { mut command, image, directory } = engine.build_command(text, &[], flags);
    for file in files {
        let mut copy = std::process::Command::new("cp");
        let copied = run(copy.arg("-r").arg(file).arg(directory.path()), PATIENCE);
        assert_eq!(copied.code, Some(0), "{copied:?}");
    }
    let run = run_together(&mut command, PATIENCE);
    Built { code: run.code, log: run.stdout, image, took: run.took }
}

fn pip_installs_in_a_build(name: &str) {
    let (Some(pip), Some(engine)) = (pip(name), Engine::of(Release::Installed)) else { return };
    let Some(machine) = Machine::new() else { return };
    engine.valetkey();
    let _daemon = machine.serve();
    let flags = machine.flags(&["europe-west1/acme/private"]);
    let install =
        "valetkey exec -- python3 -m pip install --no-cache-dir --target /installed -r /requirements.txt";
    let text = format!(
        "FROM {}\nRUN printf '%s\\n' '--index-url https://{PYTHON}/acme/private/simple/' acme-hello >/requirements.txt\n\
         COPY pip /client/pip\nENV PYTHONPATH=/client\n{}\
         RUN python3 -m pip --version && PYTHONPATH=/installed python3 -c 'import acme_hello; print(acme_hello.MESSAGE)'\n",
        engine.base(),
        step(install)
    );
    let built = build_with(engine, &text, &[&pip], &flags);
    built.assert_success();
    assert!(built.log.contains("hello from a private index"), "{}", built.log);
    if let Some(version) = name.strip_prefix("pip-").filter(|version| *version != "newest") {
        assert!(built.log.contains(&format!("pip {version} from /client/pip")), "{}", built.log);
    }
    machine.scene.hunt(&built, &engine.export(&built.image), engine.stores());
}

#[test]
fn pip_20_3_4_installs_in_a_build() {
    pip_installs_in_a_build("pip-20.3.4");
}

#[test]
fn pip_newest_installs_in_a_build() {
    pip_installs_in_a_build("pip-newest");
}

/// Another TLS server, which has nothing to do with the grant: the step speaks with it itself, end to end, and trusts it
/// by a certificate of its own.
#[test]
fn public_downloads_pass_through_untouched() {
    let Some(engine) = Engine::of(Release::Installed) else { return };
    let (scene, mut flags) = Scene::new();
    engine.valetkey();
    let public = super::stand_in::StandIn::start(super::stand_in::Options::default());
    flags.extend(["--network".to_owned(), "host".to_owned()]);
    let script = "import os, ssl, sys, urllib.request\n\
        context = ssl.create_default_context(cafile='/public.pem')\n\
        page = urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers={'authorization': 'Bearer ' + sys.argv[2]}), context=context)\n\
        print('public', page.status, 'acme_hello' in page.read().decode(), len(os.environ['HTTPS_PROXY']) > 0)\n";
    let token = public.issue_access_token("someone@public.example", &[super::stand_in::READ_ONLY]);
    let url = public.index_url("acme", "private").replace("localhost", "127.0.0.1") + "acme-hello/";
    let get = step(&format!("valetkey exec -- env NO_PROXY= no_proxy= python3 /get.py {url} {token}"));
    let text = format!("FROM {}\nCOPY get.py public.pem /\n{get}", engine.base());
    let context = [("get.py", script.as_bytes()), ("public.pem", public.ca_pem().as_bytes())]
        .map(|(name, bytes)| (name, bytes.to_vec()));
    let context: Vec<(&str, &[u8])> = context.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let built = engine.build(&text, &context, &flags);
    built.assert_success();
    assert!(built.log.contains("public 200 True True"), "{}", built.log);
    // It came with the step's own header, to that server, and to no other.
    assert_eq!(public.registry_requests().len(), 1);
    assert!(scene.sandbox.google.registry_requests().is_empty());
}
