//! Clients at a port of the real daemon, with no credential and nothing in between: the index of one repository, the
//! merged index, and uploads. And at the same index through the SSH agent's socket, as a build has it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use super::client::{Client, Identity, assert_success, run, site, skip};
use super::harness::{Daemon, Sandbox};
use super::stand_in::{Authorization, Fault, Options, StandIn};

/// A daemon with a port at which the private repository is granted.
pub(super) struct Served<'a> {
    sandbox: &'a Sandbox,
    port: u16,
    pub(super) daemon: Daemon<'a>,
}

impl<'a> Served<'a> {
    pub(super) fn open(sandbox: &'a Sandbox, access: &str, more: &str) -> Self {
        let port = Self::configure(sandbox, &sandbox.index().replace("/simple/", ""), access, more);
        Self { sandbox, port, daemon: sandbox.serve() }
    }

    /// The merged index of a repository of Google's, whose names the daemon reaches by a proxy.
    pub(super) fn open_to_google(sandbox: &'a Sandbox, proxy: &str, index: &str) -> Self {
        let port = Self::configure(sandbox, "europe/acme/private", "read", index);
        sandbox.configure_endpoint("artifact_registry = \"https://artifactregistry.googleapis.com\"");
        let daemon = sandbox.serve_with(sandbox.valetkey().env("HTTPS_PROXY", proxy));
        Self { sandbox, port, daemon }
    }

    fn configure(sandbox: &Sandbox, granted: &str, access: &str, more: &str) -> u16 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let terms = format!("repositories = [\"{granted}\"]\naccess = \"{access}\"\n");
        sandbox
            .configure(&format!("[[listener]]\ntcp = \"127.0.0.1:{port}\"\n{terms}[build]\n{terms}{more}"));
        sandbox.sign_in();
        port
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The index of the private repository.
    pub(super) fn index(&self) -> String {
        self.url(&format!("/index/localhost:{}/acme/private/simple/", self.sandbox.google.port()))
    }

    /// The merged index.
    pub(super) fn merged(&self) -> String {
        self.url("/simple/")
    }
}

/// `[index]` of the private repository.
fn merging(sandbox: &Sandbox) -> String {
    format!("[index]\nrepositories = [\"{}\"]\n", sandbox.index())
}

pub(super) fn pip(client: &Client, sandbox: &Sandbox, index: &str) -> Command {
    let mut command = client.command(sandbox, Identity::User, "python");
    command
        .args(["-m", "pip", "install", "--no-input", "--no-cache-dir", "--index-url", index, "--target"])
        .arg(site(sandbox));
    command
}

fn uv(client: &Client, sandbox: &Sandbox, index: &str) -> Command {
    let mut command = client.command(sandbox, Identity::User, "uv");
    command
        .args(["--no-cache", "pip", "install", "--no-config", "--index-url", index, "--python"])
        .arg(client.program("python"))
        .arg("--target")
        .arg(site(sandbox))
        .env("UV_PYTHON_DOWNLOADS", "never");
    command
}

/// Both indexes, as HTML and as JSON, with what the package requires.
fn installs(name: &str, install: fn(&Client, &Sandbox, &str) -> Command) {
    let Some(client) = Client::find(name) else { return };
    for (json, merged) in [(false, false), (false, true), (true, false), (true, true)] {
        let sandbox = Sandbox::new();
        if json {
            sandbox.google.serve_json();
        }
        let port = Served::open(&sandbox, "read", &merging(&sandbox));
        let index = if merged { port.merged() } else { port.index() };
        assert_success(&run(&sandbox, install(&client, &sandbox, &index).arg("acme-hello")));
        client.assert_installed(&sandbox);
        let requests = sandbox.google.registry_requests();
        assert!(requests.iter().any(|request| request.target.contains("/downloads/")), "{requests:#?}");
        assert!(requests.iter().all(|request| !matches!(request.status, 401 | 403)), "{requests:#?}");
    }
}

#[test]
fn pip_newest_installs_at_a_port() {
    installs("pip-newest", pip);
}

#[test]
fn pip_23_0_1_installs_at_a_port() {
    installs("pip-23.0.1", pip);
}

#[test]
fn pip_20_3_4_installs_at_a_port() {
    installs("pip-20.3.4", pip);
}

#[test]
fn uv_newest_installs_at_a_port() {
    installs("uv-newest", uv);
}

/// A project of an organisation with a domain has a colon in its name, which pip escapes in the links of a page, and
/// people in addresses.
fn installs_from_a_project_of_a_domain(name: &str, install: fn(&Client, &Sandbox, &str) -> Command) {
    let Some(client) = Client::find(name) else { return };
    for written in ["acme.example:packages", "acme.example%3Apackages"] {
        let sandbox = Sandbox::new();
        sandbox.google.add_package("acme.example:packages", "private", "acme-new", "1.0.0", &[]);
        let host = format!("localhost:{}", sandbox.google.port());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        sandbox.configure(&format!(
            "[[listener]]\ntcp = \"127.0.0.1:{port}\"\nrepositories = [\"https://{host}/{written}/private\"]\n"
        ));
        sandbox.sign_in();
        let _daemon = sandbox.serve();
        let index = format!("http://127.0.0.1:{port}/index/{host}/{written}/private/simple/");
        assert_success(&run(&sandbox, install(&client, &sandbox, &index).arg("acme-new")));
        let requests = sandbox.google.registry_requests();
        assert!(requests.iter().any(|request| request.target.contains("/downloads/")), "{requests:#?}");
        assert!(requests.iter().all(|request| request.status < 400), "{requests:#?}");
    }
}

#[test]
fn pip_newest_installs_from_a_project_of_a_domain() {
    installs_from_a_project_of_a_domain("pip-newest", pip);
}

#[test]
fn pip_20_3_4_installs_from_a_project_of_a_domain() {
    installs_from_a_project_of_a_domain("pip-20.3.4", pip);
}

#[test]
fn uv_newest_installs_from_a_project_of_a_domain() {
    installs_from_a_project_of_a_domain("uv-newest", uv);
}

/// A project of a tool's own, whose source is the port.
fn installs_project(name: &str, file: &str, text: &str, steps: &[&[&str]]) {
    let Some(client) = Client::find(name) else { return };
    let sandbox = Sandbox::new();
    let port = Served::open(&sandbox, "read", &merging(&sandbox));
    let file = sandbox.write(&format!("home/app/{file}"), &text.replace("INDEX", &port.index()));
    for step in steps {
        let mut command = client.command(&sandbox, Identity::User, step[0]);
        command
            .args(&step[1..])
            .env("PATH", super::client::path([&client.program(""), &"/usr/bin".into(), &"/bin".into()]))
            .env("NO_COLOR", "1")
            .env("PDM_CHECK_UPDATE", "0")
            .env("POETRY_VIRTUALENVS_IN_PROJECT", "true")
            .env("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
            .env("PIPENV_VENV_IN_PROJECT", "1")
            .env("PIPENV_NOSPIN", "1")
            .env("PIPENV_YES", "1")
            .current_dir(file.parent().unwrap());
        assert_success(&run(&sandbox, &mut command));
    }
    let mut command = sandbox.command(sandbox.path("home/app/.venv/bin/python"));
    let run = sandbox.run(command.args(["-c", "import acme_hello; print(acme_hello.MESSAGE)"]));
    assert_eq!(run.stdout, "hello from a private index\n", "{run:?}");
    let log = port.daemon.log();
    assert!(!log.contains("malformed") && !log.contains("the request's target"), "{log}");
}

#[test]
fn pdm_newest_installs_at_a_port() {
    let text = "[project]\nname = \"acme-app\"\nversion = \"0.1.0\"\nrequires-python = \">=3.9\"\n\
        dependencies = [\"acme-hello\"]\n\n[tool.pdm]\ndistribution = false\n\n\
        [[tool.pdm.source]]\nname = \"pypi\"\nurl = \"INDEX\"\n";
    installs_project("pdm", "pyproject.toml", text, &[&["pdm", "install"]]);
}

#[test]
fn pipenv_newest_installs_at_a_port() {
    let text = "[[source]]\nname = \"private\"\nurl = \"INDEX\"\nverify_ssl = true\n\n[packages]\nacme-hello = \"*\"\n";
    installs_project("pipenv", "Pipfile", text, &[&["pipenv", "install"]]);
}

#[test]
fn poetry_newest_installs_at_a_port() {
    let text = "[project]\nname = \"acme-app\"\nversion = \"0.1.0\"\nrequires-python = \">=3.9\"\n\
        dependencies = [\"acme-hello\"]\n\n[tool.poetry]\npackage-mode = false\n\n\
        [[tool.poetry.source]]\nname = \"private\"\nurl = \"INDEX\"\n";
    installs_project("poetry", "pyproject.toml", text, &[&["poetry", "lock"], &["poetry", "sync"]]);
}

/// As in a build: nothing but the agent's socket leads out.
fn installs_through_the_agent(name: &str, merged: bool) {
    let Some(client) = Client::find(name) else { return };
    let sandbox = Sandbox::new();
    let port = Served::open(&sandbox, "read", &merging(&sandbox));
    let repository = sandbox.index();
    let mut command = sandbox.valetkey();
    command
        .env("SSH_AUTH_SOCK", sandbox.runtime().join("build.sock"))
        .env("XDG_RUNTIME_DIR", sandbox.path("tmp"))
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_RETRIES", "0")
        .args(["exec", "--index"])
        .args((!merged).then_some(&repository))
        .arg("--")
        .arg(client.program("python"))
        .args(["-m", "pip", "install", "--no-cache-dir", "acme-hello", "--target"])
        .arg(site(&sandbox));
    assert_success(&run(&sandbox, &mut command));
    client.assert_installed(&sandbox);
    assert!(port.daemon.log().contains("build.sock"), "{}", port.daemon.log());
}

#[test]
fn pip_newest_installs_from_one_repository_through_the_agent() {
    installs_through_the_agent("pip-newest", false);
}

#[test]
fn pip_newest_installs_from_the_merged_index_through_the_agent() {
    installs_through_the_agent("pip-newest", true);
}

/// A registry of another format beside the stand-in's own, in front of a daemon that may write to it.
fn beside(sandbox: &Sandbox, format: &str) -> StandIn {
    let other = StandIn::start(Options::default());
    other.open_to_all();
    fs::write(sandbox.path("ca.pem"), sandbox.google.ca_pem() + &other.ca_pem()).unwrap();
    sandbox
        .configure(&format!("[[registry]]\nhost = \"localhost:{}\"\nformat = \"{format}\"\n", other.port()));
    sandbox.sign_in();
    other
}

fn exec(sandbox: &Sandbox, program: &str) -> Command {
    let mut command = sandbox.valetkey();
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").args(["exec", "--", program]);
    command
}

/// npm names a scoped package with an encoded slash.
#[test]
fn npm_reads_a_scoped_package_under_exec() {
    if !Path::new("/usr/bin/npm").exists() {
        return skip("there is no npm");
    }
    let sandbox = Sandbox::new();
    let other = beside(&sandbox, "npm");
    let _daemon = sandbox.serve();
    let version = r#"{"name":"@acme/hello","version":"1.2.3","dist":{"tarball":"https://x.test/x.tgz"}}"#;
    let text = format!(
        r#"{{"name":"@acme/hello","dist-tags":{{"latest":"1.2.3"}},"versions":{{"1.2.3":{version}}}}}"#
    );
    other.registry_fault_always("/acme/npm/", Fault::Body { status: 200, text });
    let mut npm = exec(&sandbox, "npm");
    let registry = format!("--registry=https://localhost:{}/acme/npm/", other.port());
    npm.args(["view", "@acme/hello", "version", &registry, "--fetch-retries=0", "--no-update-notifier"]);
    let viewed = run(&sandbox, &mut npm);
    assert_success(&viewed);
    assert_eq!(viewed.stdout.trim(), "1.2.3");
    assert_eq!(other.registry_requests().pop().unwrap().target, "/acme/npm/@acme%2fhello");
}

/// Behind `exec` a client believes that it speaks with the registry itself: an upload goes on there.
#[test]
fn the_next_step_of_an_upload_is_at_the_registry_for_whoever_runs_under_exec() {
    if !Path::new("/usr/bin/curl").exists() {
        return skip("there is no curl");
    }
    let sandbox = Sandbox::new();
    let other = beside(&sandbox, "docker");
    let _daemon = sandbox.serve();
    let origin = format!("https://localhost:{}", other.port());
    let session = "/artifacts-uploads/namespaces/acme/repositories/private/uploads/x";
    let step = |method: &str, path: &str, body: &str| {
        let address = format!("{origin}{path}");
        let words = ["-siS", "--max-time", "30", "-X", method, "--data-binary", body, &address];
        let step = run(&sandbox, exec(&sandbox, "curl").args(words));
        assert_success(&step);
        let place = step.stdout.lines().find_map(|line| line.strip_prefix("location: ")).map(str::to_owned);
        (step.stdout, place)
    };
    for location in [format!("{session}?a=1"), format!("{origin}{session}?a=1")] {
        other.registry_fault("/v2/", Fault::Redirect { code: 202, location });
        let (said, place) = step("POST", "/v2/acme/private/app/blobs/uploads/", "");
        assert_eq!(place.as_deref(), Some(&*format!("{session}?a=1")), "{said}");
    }
    other.registry_fault("/artifacts-uploads/", Fault::status(201));
    let (said, _) = step("PUT", &format!("{session}?a=1&digest=sha256:00"), "a piece");
    assert!(said.contains(" 201 "), "{said}");
    let last = other.registry_requests().pop().unwrap();
    assert_eq!((last.body, last.authorization), (7, Authorization::Bearer));
}

/// A wheel that is not in the private repository yet, on the disk.
fn new_wheel(sandbox: &Sandbox) -> std::path::PathBuf {
    sandbox.google.add_package("acme", "other", "acme-new", "1.0.0", &[]);
    let wheel = sandbox.google.file("acme", "other", "acme-new", WHEEL).unwrap();
    fs::create_dir(sandbox.path("home/dist")).unwrap();
    let path = sandbox.path("home/dist").join(WHEEL);
    fs::write(&path, wheel).unwrap();
    path
}

/// What is uploaded below the index can be installed from it; where only reading is granted it is refused.
fn publishes(name: &str, upload: fn(&Client, &Sandbox, &str) -> Command) {
    let Some(client) = Client::find(name) else { return };
    for access in ["read", "write"] {
        let sandbox = Sandbox::new();
        let wheel = new_wheel(&sandbox);
        let port = Served::open(&sandbox, access, "");
        let address = port.index().replace("/simple/", "/");
        let run = run(&sandbox, upload(&client, &sandbox, &address).arg(wheel));
        let stored = sandbox.google.file("acme", "private", "acme-new", WHEEL).is_some();
        assert_eq!(
            (run.code == Some(0), stored),
            (access == "write", access == "write"),
            "{access}: {run:?}"
        );
        if access == "read" {
            assert!(run.stdout.contains("403") || run.stderr.contains("403"), "{run:?}");
            assert!(sandbox.google.registry_requests().is_empty());
        }
    }
}

#[test]
fn twine_newest_publishes_below_the_index() {
    publishes("twine", |client, sandbox, address| {
        let mut twine = client.command(sandbox, Identity::User, "twine");
        twine
            .args(["upload", "--non-interactive", "--disable-progress-bar", "--repository-url", address])
            .args(["--username", "oauth2accesstoken", "--password", "none"])
            .env("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring");
        twine
    });
}

#[test]
fn uv_newest_publishes_below_the_index() {
    publishes("uv-newest", |client, sandbox, address| {
        let mut uv = client.command(sandbox, Identity::User, "uv");
        uv.args(["publish", "--no-config", "--publish-url", address]);
        uv.args(["--username", "oauth2accesstoken", "--password", "none"]);
        uv
    });
}

const WHEEL: &str = "acme_new-1.0.0-py3-none-any.whl";
