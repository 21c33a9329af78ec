//! The tools that work on a project: pdm, pipenv and build. Each makes environments of its own and installs into
//! them, in processes that it starts.

use std::path::PathBuf;
use std::process::Command;

use super::client::{Client, Identity, assert_success, path, run};
use super::harness::Sandbox;

/// A source tree that only a front end which reached the private index can build.
pub(crate) fn source_tree(sandbox: &Sandbox) -> PathBuf {
    sandbox.write("home/app/acme_app.py", "NAME = \"app\"\n");
    let text = "[build-system]\nrequires = [\"acme-build-backend\"]\nbuild-backend = \"acme_build_backend\"\n\n\
        [project]\nname = \"acme-app\"\nversion = \"0.1.0\"\n";
    let file = sandbox.write("home/app/pyproject.toml", text);
    file.parent().expect("a directory").to_owned()
}

/// A tool's own programs come behind ours on PATH, and nothing else does.
fn command(client: &Client, sandbox: &Sandbox, identity: Identity, program: &str) -> Command {
    let mut command = client.command(sandbox, identity, program);
    let programs = client.program("");
    command.env("PATH", path([&sandbox.path("bin"), &programs])).env("NO_COLOR", "1");
    command
}

pub(crate) fn pdm_install(client: &Client, sandbox: &Sandbox, identity: Identity, index: &str) -> Command {
    let text = format!(
        "[project]\nname = \"acme-app\"\nversion = \"0.1.0\"\nrequires-python = \">=3.9\"\n\
        dependencies = [\"acme-hello\"]\n\n[tool.pdm]\ndistribution = false\n\n\
        [[tool.pdm.source]]\nname = \"pypi\"\nurl = \"{index}\"\n"
    );
    let file = sandbox.write("home/app/pyproject.toml", &text);
    let mut pdm = pdm(client, sandbox, identity);
    pdm.arg("install").current_dir(file.parent().expect("a directory"));
    pdm
}

pub(crate) fn pdm(client: &Client, sandbox: &Sandbox, identity: Identity) -> Command {
    let mut pdm = command(client, sandbox, identity, "pdm");
    pdm.env("PDM_CHECK_UPDATE", "0");
    pdm
}

fn pdm_installs(index: fn(&Sandbox) -> String) {
    let Some(client) = Client::find("pdm") else { return };
    for identity in Identity::BOTH {
        let sandbox = Sandbox::new();
        assert_success(&run(&sandbox, &mut pdm_install(&client, &sandbox, identity, &index(&sandbox))));
        assert_greeting(&sandbox, "home/app/.venv/bin/python");
        assert_eq!(sandbox.google.token_requests().len(), 1, "{identity:?}");
    }
}

#[track_caller]
fn assert_greeting(sandbox: &Sandbox, python: &str) {
    let mut command = sandbox.command(sandbox.path(python));
    let run = sandbox.run(command.args(["-c", "import acme_hello; print(acme_hello.MESSAGE)"]));
    assert_eq!(run.stdout, "hello from a private index\n", "{run:?}");
}

#[test]
fn pdm_newest_installs_with_a_username() {
    pdm_installs(Sandbox::index_with_user);
}

#[test]
fn pdm_newest_installs_without_a_username() {
    pdm_installs(Sandbox::index);
}

/// pipenv starts pip many times, and each asks `keyring`: the daemon asks Google once.
fn pipenv_installs(index: fn(&Sandbox) -> String) {
    let Some(client) = Client::find("pipenv") else { return };
    let sandbox = Sandbox::new();
    let text = format!(
        "[[source]]\nname = \"private\"\nurl = \"{}\"\nverify_ssl = true\n\n[packages]\nacme-hello = \"*\"\n",
        index(&sandbox)
    );
    let file = sandbox.write("home/app/Pipfile", &text);
    let mut pipenv = command(&client, &sandbox, Identity::User, "pipenv");
    pipenv
        .arg("install")
        .env("PIP_KEYRING_PROVIDER", "subprocess")
        .env("PIPENV_VENV_IN_PROJECT", "1")
        .env("PIPENV_NOSPIN", "1")
        .env("PIPENV_YES", "1")
        .current_dir(file.parent().expect("a directory"));
    assert_success(&run(&sandbox, &mut pipenv));
    assert_greeting(&sandbox, "home/app/.venv/bin/python");
    assert_eq!(sandbox.google.token_requests().len(), 1);
}

#[test]
fn pipenv_newest_installs_with_a_username() {
    pipenv_installs(Sandbox::index_with_user);
}

#[test]
fn pipenv_newest_installs_without_a_username() {
    pipenv_installs(Sandbox::index);
}

/// A wheel whose build requirement is private. build starts pip in an environment that it has just made; what
/// reaches that pip is the environment's variables.
fn builds(index: fn(&Sandbox) -> String, provider: Option<&str>) {
    let Some(client) = Client::find("build") else { return };
    for identity in Identity::BOTH {
        let sandbox = Sandbox::new();
        let tree = source_tree(&sandbox);
        let mut build = command(&client, &sandbox, identity, "python");
        build.args(["-m", "build", "--wheel"]).arg(&tree).env("PIP_INDEX_URL", index(&sandbox));
        if let Some(provider) = provider {
            build.env("PIP_KEYRING_PROVIDER", provider);
        }
        assert_success(&run(&sandbox, &mut build));
        assert!(tree.join("dist/acme_app-0.1.0-py3-none-any.whl").exists());
        assert_eq!(sandbox.google.token_requests().len(), 1, "{identity:?}");
    }
}

#[test]
fn build_newest_reaches_a_private_requirement_with_a_username() {
    builds(Sandbox::index_with_user, Some("subprocess"));
}

#[test]
fn build_newest_reaches_a_private_requirement_without_a_username() {
    builds(Sandbox::index, Some("subprocess"));
}

/// It chooses the provider itself where it finds a `keyring` on PATH.
#[test]
fn build_newest_needs_no_setting_where_keyring_is_on_path() {
    builds(Sandbox::index, None);
}
