//! Projects as they are committed, whose lock files name `https://…pkg.dev`: installed in builds by the tools that wrote
//! them, unchanged, with no network and no token.
//!
//! The lock files in `locked/` were written by the tools themselves, under `valetkey exec`. Packages of the stand-in are
//! the same bytes each time, so that their hashes are true.

use flate2::{Compression, GzBuilder};

use super::engine::{Built, Engine, Release};
use super::machine::{Machine, NPM, PYTHON};
use super::scene::{Scene, step, told_once};
use super::stand_in::Authorization;

/// Where a step finds the tools.
const MOUNT: &str = "--mount=from=tools-of-debian,target=/tools";

macro_rules! project {
    ($($file:literal),*) => {
        [$(($file.split_once('/').unwrap().1, include_bytes!(concat!("locked/", $file)).as_slice())),*]
    };
}

/// `RUN` with the socket, the program and the tools.
fn with_tools(command: &str) -> String {
    step(&format!("valetkey exec -- {command}")).replace("RUN ", &format!("RUN {MOUNT} "))
}

/// What was asked of the registry came with the token of the daemon, and was there.
#[track_caller]
fn assert_carried(scene: &Scene, end: &str) {
    let requests = scene.sandbox.google.registry_requests();
    assert!(requests.iter().any(|request| request.path.ends_with(end)), "{requests:#?}");
    for request in &requests {
        assert_eq!(request.authorization, Authorization::Bearer, "{request:?}");
        assert!(matches!(request.status, 200 | 302), "{request:?}");
    }
    assert_eq!(scene.sandbox.google.token_requests().len(), 1);
}

/// Installs a project of Python's into `.venv`, as root or as another user, and runs what is in it.
fn installs(files: &[(&str, &[u8])], user: &str, install: &str) -> Option<Built> {
    let engine = Engine::of(Release::Installed)?;
    let (machine, _) = (Machine::new()?, engine.tools()?);
    engine.valetkey();
    let _daemon = machine.serve();
    let flags = machine.flags(&["europe-west1/acme/private"]);
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let text = format!(
        "FROM {}\nRUN useradd --create-home dev && mkdir /app && chown dev /app\nUSER {user}\nWORKDIR /app\n\
         COPY {} ./\n{}RUN .venv/bin/python -c \
         'import acme_hello, acme_greeting; print(\"<said>\", acme_greeting.GREETING, acme_hello.MESSAGE)'\n",
        engine.base(),
        names.join(" "),
        with_tools(install)
    );
    let built = machine.scene.build(engine, &text, files, &flags);
    assert_eq!(told_once(&built, "said"), "hello hello from a private index", "{}", built.log);
    assert_carried(&machine.scene, "/acme_hello-1.0.0-py3-none-any.whl");
    Some(built)
}

#[test]
fn poetry_installs_from_its_lock_file_in_a_build() {
    let files = project!("poetry/pyproject.toml", "poetry/poetry.lock");
    let poetry =
        "env PYTHONPATH=/tools/opt/poetry POETRY_VIRTUALENVS_IN_PROJECT=true python3 -m poetry install";
    installs(&files, "root", poetry);
}

#[test]
fn poetry_installs_from_its_lock_file_in_a_build_of_another_user() {
    let files = project!("poetry/pyproject.toml", "poetry/poetry.lock");
    let poetry =
        "env PYTHONPATH=/tools/opt/poetry POETRY_VIRTUALENVS_IN_PROJECT=true python3 -m poetry install";
    installs(&files, "dev", poetry);
}

#[test]
fn pdm_installs_from_its_lock_file_in_a_build() {
    let files = project!("pdm/pyproject.toml", "pdm/pdm.lock");
    installs(&files, "root", "env PYTHONPATH=/tools/opt/pdm PDM_CHECK_UPDATE=0 python3 -m pdm sync");
}

#[test]
fn uv_installs_from_its_lock_file_in_a_build() {
    let files = project!("uv/pyproject.toml", "uv/uv.lock");
    installs(&files, "root", "/tools/opt/uv/bin/uv --no-cache sync --locked --no-python-downloads");
}

#[test]
fn npm_and_curl_read_a_private_registry_in_a_build() {
    let (Some(engine), Some(machine)) = (Engine::of(Release::Installed), Machine::new()) else { return };
    if engine.tools().is_none() {
        return;
    }
    engine.valetkey();
    let google = &machine.scene.sandbox.google;
    let tarball = "/acme/npm/acme-hello/-/acme-hello-1.0.0.tgz";
    google.add_raw(tarball, "application/octet-stream", npm_package());
    let page = format!(
        r#"{{"name":"acme-hello","dist-tags":{{"latest":"1.0.0"}},"versions":{{"1.0.0":{{"name":"acme-hello",
        "version":"1.0.0","dist":{{"tarball":"https://{NPM}{tarball}"}}}}}}}}"#
    );
    google.add_raw("/acme/npm/acme-hello", "application/json", page);
    let _daemon = machine.serve();
    let flags = machine.flags(&["europe-west1/acme/npm", "europe-west1/acme/private"]);
    let files = project!("npm/package.json", "npm/package-lock.json", "npm/.npmrc");
    let npm = "env PATH=/tools/opt/node/bin:$PATH npm ci --no-audit --no-fund --fetch-retries=0";
    let view = "env PATH=/tools/opt/node/bin:$PATH npm view acme-hello version";
    let curl = format!(
        "env LD_LIBRARY_PATH=$(echo /tools/usr/lib/*-linux-gnu) /tools/usr/bin/curl -fsS https://{NPM}/acme/npm/acme-hello \
         https://{PYTHON}/acme/private/simple/acme-greeting/"
    );
    let text = format!(
        "FROM {}\nWORKDIR /app\nCOPY package.json package-lock.json .npmrc ./\n{}{}{}\
         RUN {MOUNT} /tools/opt/node/bin/node -e 'console.log(\"<said>\", require(\"acme-hello\"))'\n",
        engine.base(),
        with_tools(npm),
        with_tools(view),
        with_tools(&curl),
    );
    let built = machine.scene.build(engine, &text, &files, &flags);
    assert_eq!(told_once(&built, "said"), "hello from a private registry", "{}", built.log);
    for line in ["\"dist-tags\":{\"latest\":\"1.0.0\"}", ">acme_greeting-1.0.0-py3-none-any.whl</a>"] {
        assert!(built.log.contains(line), "{line}: {}", built.log);
    }
    assert_carried(&machine.scene, "/acme-hello-1.0.0.tgz");
}

/// The package in `locked/npm/package-lock.json`, as `npm pack` would make it, but for its compression.
fn npm_package() -> Vec<u8> {
    let mut archive = tar::Builder::new(GzBuilder::new().write(Vec::new(), Compression::none()));
    for (name, content) in [
        (
            "package/package.json",
            "{\"name\": \"acme-hello\", \"version\": \"1.0.0\", \"main\": \"hello.js\"}\n",
        ),
        ("package/hello.js", "module.exports = \"hello from a private registry\";\n"),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}
