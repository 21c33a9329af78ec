//! Unchanged clients under `valetkey exec`: no credential, no `keyring`, the URL of the registry as it stands in a
//! requirements file. The daemon behind it is the harness's own.

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use super::client::{Client, assert_success, run, site, skip};
use super::harness::Sandbox;
use super::registry_daemon::RegistryDaemon;

/// `valetkey exec FLAGS -- PROGRAM`, in an environment that trusts what the sandbox's authority signs and says so in one
/// variable only, where a person would.
pub(super) fn exec<'a>(
    sandbox: &Sandbox,
    daemon: &RegistryDaemon,
    flags: impl IntoIterator<Item = &'a str>,
    program: impl AsRef<OsStr>,
) -> Command {
    let mut command = sandbox.valetkey();
    command
        .env("VALETKEY_SOCKET", &daemon.socket)
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("SSL_CERT_FILE", sandbox.path("ca.pem"))
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_RETRIES", "0")
        .arg("exec")
        .args(flags)
        .arg("--")
        .arg(program);
    command
}

fn requirements(sandbox: &Sandbox) -> std::path::PathBuf {
    sandbox.write("home/requirements.txt", &format!("--index-url {}\nacme-hello\n", sandbox.index()))
}

/// What the registry was asked for came from the daemon, and none of it from the client itself.
#[track_caller]
fn assert_carried(sandbox: &Sandbox, daemon: &RegistryDaemon) {
    let seen = daemon.seen();
    assert!(seen.iter().any(|request| request.target.contains("/simple/acme-hello/")), "{seen:#?}");
    assert!(seen.iter().any(|request| request.target.contains(".whl")), "{seen:#?}");
    let requests = sandbox.google.registry_requests();
    // pipenv asks for a page that is not there before it asks for the one that is.
    assert!(requests.iter().all(|request| !matches!(request.status, 401 | 403)), "{requests:#?}");
    assert!(sandbox.google.token_requests().is_empty());
}

fn pip_installs(client: &str) {
    let Some(client) = Client::find(client) else { return };
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let mut pip = exec(&sandbox, &daemon, [], client.program("python"));
    pip.args(["-m", "pip", "install", "--no-input", "--no-cache-dir", "--target"]).arg(site(&sandbox));
    assert_success(&run(&sandbox, pip.arg("-r").arg(requirements(&sandbox))));
    client.assert_installed(&sandbox);
    assert_carried(&sandbox, &daemon);
}

macro_rules! pip_installs_with_no_credential {
    ($($name:ident: $client:literal;)*) => {
        $(#[test]
        fn $name() {
            pip_installs($client);
        })*
    };
}

pip_installs_with_no_credential! {
    pip_20_3_4_installs_under_exec: "pip-20.3.4";
    pip_22_3_1_installs_under_exec: "pip-22.3.1";
    pip_23_0_1_installs_under_exec: "pip-23.0.1";
    pip_25_3_installs_under_exec: "pip-25.3";
    pip_newest_installs_under_exec: "pip-newest";
}

/// pip's own configuration names a bundle, which would win over every variable but pip's own.
#[test]
fn a_bundle_in_pips_configuration_is_the_base() {
    let Some(client) = Client::find("pip-newest") else { return };
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let file = sandbox.write("home/.config/pip/pip.conf", "[global]\ncert = ~/../ca.pem\n");
    let mut pip = exec(&sandbox, &daemon, [], client.program("python"));
    pip.args(["-m", "pip", "install", "--no-cache-dir", "--target"]).arg(site(&sandbox));
    pip.env("PIP_CONFIG_FILE", file).env_remove("SSL_CERT_FILE");
    assert_success(&run(&sandbox, pip.arg("-r").arg(requirements(&sandbox))));
    client.assert_installed(&sandbox);
}

fn uv_installs(client: &str) {
    let Some(client) = Client::find(client) else { return };
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let mut uv = exec(&sandbox, &daemon, [], client.program("uv"));
    uv.args(["--no-cache", "pip", "install", "--python"]).arg(client.program("python")).arg("--target");
    uv.arg(site(&sandbox)).env("UV_PYTHON_DOWNLOADS", "never");
    assert_success(&run(&sandbox, uv.arg("-r").arg(requirements(&sandbox))));
    client.assert_installed(&sandbox);
    assert_carried(&sandbox, &daemon);
}

#[test]
fn uv_newest_installs_under_exec() {
    uv_installs("uv-newest");
}

#[test]
fn uv_2025_11_installs_under_exec() {
    uv_installs("uv-2025-11");
}

/// `--index`: no URL in the requirements, and indexes in the environment and in pip's configuration that must not
/// have a say.
fn installs_from_the_one_index(name: &str, words: &[&str]) {
    let Some(client) = Client::find(name) else { return };
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let links = sandbox.path("home/links");
    fs::create_dir(&links).unwrap();
    let other = "[global]\nindex-url = https://nowhere.test/simple/\nextra-index-url = https://nowhere.test/simple/\n";
    let text = format!("{other}find-links = {}\nno-index = false\n", links.display());
    let file = sandbox.write("home/.config/pip/pip.conf", &text);
    let mut command = exec(&sandbox, &daemon, ["--index"], client.program(words[0]));
    command
        .args(&words[1..])
        .arg("--target")
        .arg(site(&sandbox))
        .arg("acme-hello")
        .env("PIP_CONFIG_FILE", file)
        .env("UV_EXTRA_INDEX_URL", "https://nowhere.test/simple/")
        .env("UV_PYTHON_DOWNLOADS", "never");
    let installed = run(&sandbox, &mut command);
    assert_success(&installed);
    assert!(!installed.stdout.contains("nowhere.test"), "{}", installed.stdout);
    assert!(!installed.stdout.contains("home/links"), "{}", installed.stdout);
    client.assert_installed(&sandbox);
    let seen = daemon.seen();
    assert!(seen.iter().any(|request| request.target == "/simple/acme-hello/"), "{seen:#?}");
}

#[test]
fn pip_newest_installs_from_the_one_index() {
    installs_from_the_one_index("pip-newest", &["python", "-m", "pip", "install", "--no-cache-dir"]);
}

#[test]
fn pip_20_3_4_installs_from_the_one_index() {
    installs_from_the_one_index("pip-20.3.4", &["python", "-m", "pip", "install", "--no-cache-dir"]);
}

#[test]
fn uv_newest_installs_from_the_one_index() {
    installs_from_the_one_index("uv-newest", &["uv", "--no-cache", "pip", "install"]);
}

#[test]
fn uv_2025_11_installs_from_the_one_index() {
    installs_from_the_one_index("uv-2025-11", &["uv", "--no-cache", "pip", "install"]);
}

/// The daemon itself: the merged index, and that of one repository, under its own name.
fn installs_from_the_daemon(name: &str, words: &[&str]) {
    let Some(client) = Client::find(name) else { return };
    for merged in [true, false] {
        let sandbox = Sandbox::new();
        sandbox.google.serve_json();
        let repository = sandbox.index();
        if merged {
            sandbox.configure(&format!("[index]\nrepositories = [\"{repository}\"]\n"));
        }
        sandbox.sign_in();
        let _daemon = sandbox.serve();
        let mut command = sandbox.valetkey();
        command
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("PIP_CONFIG_FILE", "/dev/null")
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("PIP_RETRIES", "0")
            .env("UV_PYTHON_DOWNLOADS", "never")
            .args(["exec", "--index"])
            .args((!merged).then_some(&repository))
            .arg("--")
            .arg(client.program(words[0]))
            .args(&words[1..])
            .arg("--target")
            .arg(site(&sandbox))
            .arg("acme-hello");
        assert_success(&run(&sandbox, &mut command));
        client.assert_installed(&sandbox);
        let requests = sandbox.google.registry_requests();
        assert!(requests.iter().any(|request| request.target.contains("/downloads/")), "{requests:#?}");
        assert!(requests.iter().all(|request| !matches!(request.status, 401 | 403)), "{requests:#?}");
    }
}

#[test]
fn pip_newest_installs_from_the_daemons_index() {
    installs_from_the_daemon("pip-newest", &["python", "-m", "pip", "install", "--no-cache-dir"]);
}

#[test]
fn pip_20_3_4_installs_from_the_daemons_index() {
    installs_from_the_daemon("pip-20.3.4", &["python", "-m", "pip", "install", "--no-cache-dir"]);
}

#[test]
fn uv_newest_installs_from_the_daemons_index() {
    installs_from_the_daemon("uv-newest", &["uv", "--no-cache", "pip", "install"]);
}

/// A project of a tool's own, in which its source stands as a URL with no user name.
fn installs_project(name: &str, file: &str, text: &str, commands: &[&[&str]]) {
    let Some(client) = Client::find(name) else { return };
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let file = sandbox.write(&format!("home/app/{file}"), &text.replace("INDEX", &sandbox.index()));
    for words in commands {
        let mut command = exec(&sandbox, &daemon, [], client.program(words[0]));
        command
            .args(&words[1..])
            .env("PATH", super::client::path([client.program(""), "/usr/bin".into(), "/bin".into()]))
            .env("NO_COLOR", "1")
            .env("PDM_CHECK_UPDATE", "0")
            .env("PIPENV_VENV_IN_PROJECT", "1")
            .env("PIPENV_NOSPIN", "1")
            .env("PIPENV_YES", "1")
            .env("POETRY_VIRTUALENVS_IN_PROJECT", "true")
            .env("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
            .current_dir(file.parent().unwrap());
        assert_success(&run(&sandbox, &mut command));
    }
    let mut python = sandbox.command(sandbox.path("home/app/.venv/bin/python"));
    let said = sandbox.run(python.args(["-c", "import acme_hello; print(acme_hello.MESSAGE)"]));
    assert_eq!(said.stdout, "hello from a private index\n", "{said:?}");
    assert_carried(&sandbox, &daemon);
}

#[test]
fn pdm_newest_installs_under_exec() {
    let text = "[project]\nname = \"acme-app\"\nversion = \"0.1.0\"\nrequires-python = \">=3.9\"\n\
        dependencies = [\"acme-hello\"]\n\n[tool.pdm]\ndistribution = false\n\n\
        [[tool.pdm.source]]\nname = \"pypi\"\nurl = \"INDEX\"\n";
    installs_project("pdm", "pyproject.toml", text, &[&["pdm", "install"]]);
}

#[test]
fn pipenv_newest_installs_under_exec() {
    let text = "[[source]]\nname = \"private\"\nurl = \"INDEX\"\nverify_ssl = true\n\n[packages]\nacme-hello = \"*\"\n";
    installs_project("pipenv", "Pipfile", text, &[&["pipenv", "install"]]);
}

#[test]
fn poetry_newest_locks_and_installs_under_exec() {
    let text = "[project]\nname = \"acme-app\"\nversion = \"0.1.0\"\nrequires-python = \">=3.9\"\n\
        dependencies = [\"acme-hello\"]\n\n[tool.poetry]\npackage-mode = false\n\n\
        [[tool.poetry.source]]\nname = \"private\"\nurl = \"INDEX\"\n";
    installs_project("poetry", "pyproject.toml", text, &[&["poetry", "lock"], &["poetry", "sync"]]);
}

/// npm reads the proxy from the environment and adds the run's authority to its own.
#[test]
fn npm_reads_a_private_registry_under_exec() {
    if !std::path::Path::new("/usr/bin/npm").exists() {
        return skip("there is no npm");
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let mut npm = exec(&sandbox, &daemon, [], "npm");
    let registry = format!("--registry=https://{}/acme/npm/", daemon.host());
    npm.args(["view", "acme-hello", "version", &registry, "--fetch-retries=0", "--no-update-notifier"]);
    let viewed = run(&sandbox, &mut npm);
    assert_success(&viewed);
    assert_eq!(viewed.stdout.trim(), "1.2.3");
}

/// An upload: the other direction, with a body.
#[test]
fn uv_publishes_under_exec() {
    let Some(client) = Client::find("uv-newest") else { return };
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    sandbox.google.add_package("acme", "other", "acme-new", "1.0.0", &[]);
    let wheel = sandbox.google.file("acme", "other", "acme-new", WHEEL).unwrap();
    fs::create_dir(sandbox.path("home/dist")).unwrap();
    fs::write(sandbox.path("home/dist").join(WHEEL), wheel).unwrap();
    let mut uv = exec(&sandbox, &daemon, [], client.program("uv"));
    let address = format!("https://{}/acme/private/", daemon.host());
    uv.args(["publish", "--publish-url", &address, "--username", "oauth2accesstoken", "--password", "none"]);
    assert_success(&run(&sandbox, uv.arg(format!("dist/{WHEEL}"))));
    assert!(sandbox.google.file("acme", "private", "acme-new", WHEEL).is_some());
}

const WHEEL: &str = "acme_new-1.0.0-py3-none-any.whl";
