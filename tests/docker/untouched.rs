//! What is nobody's private registry passes through a build's proxy untouched: git, public packages and plain downloads,
//! from a host that the grant does not cover. The step speaks with that host itself, end to end.

use std::path::Path;
use std::process::Command;

use super::engine::{Engine, PATIENCE, Release, assert_success};
use super::machine::{Machine, PYTHON};
use super::prepared;
use super::process::run;
use super::scene::{step, told_once};
use super::stand_in::{Authorization, Options, StandIn};

/// A public host, with a Python package, a file, and a git repository as any server has it: as files.
pub(crate) fn public_host() -> StandIn {
    let mut options = Options { metadata: None, ..Options::default() };
    options.names.push(PUBLIC.to_owned());
    let public = StandIn::start(options);
    public.open_to_all();
    public
}

/// The flags with which a step has a network, and finds that host by its name.
pub(crate) fn on_the_network(flags: Vec<String>) -> Vec<String> {
    let mut flags: Vec<String> =
        flags.into_iter().filter(|word| word != "--network" && word != "none").collect();
    flags.extend(["--network", "host", "--add-host"].map(str::to_owned));
    flags.push(format!("{PUBLIC}:127.0.0.1"));
    flags
}

#[test]
fn git_curl_and_public_packages_reach_their_own_hosts_in_a_build() {
    let (Some(engine), Some(machine)) = (Engine::of(Release::Installed), Machine::new()) else { return };
    let public = public_host();
    if engine.tools().is_none() || !publish_git(&public) {
        return;
    }
    engine.valetkey();
    public.add_package("pub", "lic", "everybodys", "1.0", &[]);
    public.add_raw("/pub/file.txt", "text/plain", "<file> for everybody\n");
    let _daemon = machine.serve();
    let flags = on_the_network(machine.flags(&["europe-west1/acme/private"]));
    let origin = format!("https://{PUBLIC}:{}", public.port());
    let tools = "PATH=/tools/usr/bin:$PATH LD_LIBRARY_PATH=$(echo /tools/usr/lib/*-linux-gnu) \
                 GIT_EXEC_PATH=/tools/usr/lib/git-core";
    // Behind `exec`, each client is told to trust that host's own authority and no other.
    let commands = [
        format!(
            "{tools} GIT_SSL_CAINFO=/public.pem GIT_CURL_VERBOSE=1 git clone {origin}/git/acme.git /clone"
        ),
        format!("{tools} curl -v --fail --cacert /public.pem {origin}/pub/file.txt"),
        format!(
            "PIP_CERT=/public.pem REQUESTS_CA_BUNDLE=/public.pem pip install --no-cache-dir \
             --break-system-packages --index-url {origin}/pub/lic/simple/ everybodys"
        ),
    ];
    let steps = commands.map(|command| {
        step(&format!("valetkey exec -- env {command}"))
            .replace("RUN ", "RUN --mount=from=tools-of-debian,target=/tools ")
    });
    // As a user has it: the environment names that authority, and git reads from both hosts in one step.
    let own = format!(
        "sh -c '{tools} git ls-remote {origin}/git/acme.git && pip download --no-deps --index-url https://{PYTHON}/acme/private/simple/ acme-hello'"
    );
    let text = format!(
        "FROM {}\nCOPY public.pem /\n{}ENV GIT_SSL_CAINFO=/public.pem\n{}RUN cat /clone/README\n",
        engine.base(),
        steps.concat(),
        step(&format!("valetkey exec -- {own}"))
            .replace("RUN ", "RUN --mount=from=tools-of-debian,target=/tools ")
    );
    let built = machine.scene.build(engine, &text, &[("public.pem", public.ca_pem().as_bytes())], &flags);
    assert_eq!(told_once(&built, "readme"), "in a public repository");
    assert_eq!(told_once(&built, "file"), "for everybody");
    assert!(built.log.contains("Successfully installed everybodys-1.0"), "{}", built.log);
    // By the proxy, as the environment says, and not past it: both clients say so.
    let tunnels = built.log.matches(&format!("CONNECT {PUBLIC}:{} HTTP/1.1", public.port())).count();
    assert!(tunnels >= 2, "{}", built.log);
    let requests = public.registry_requests();
    assert!(requests.iter().any(|request| request.path.ends_with("/info/refs")), "{requests:#?}");
    assert!(requests.iter().all(|request| request.authorization == Authorization::None), "{requests:#?}");
    let requests = machine.scene.sandbox.google.registry_requests();
    assert!(
        requests
            .iter()
            .all(|request| request.path.contains("acme-hello") || request.path.contains("/downloads/"))
    );
}

/// One commit, as `git clone` reads it from a server that knows nothing of git. False where this machine has no git.
fn publish_git(public: &StandIn) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.args(words).current_dir(directory.path()).env("HOME", directory.path());
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "dev")
                .env(format!("GIT_{role}_EMAIL"), "dev@acme.example");
        }
        assert_success(&run(&mut command, PATIENCE));
    };
    if Command::new("git").arg("--version").output().is_err() {
        prepared::skip("there is no git");
        return false;
    }
    git(&["init", "--quiet", "work"]);
    std::fs::write(directory.path().join("work/README"), "<readme> in a public repository\n").unwrap();
    git(&["-C", "work", "add", "README"]);
    git(&["-C", "work", "commit", "--quiet", "--message", "Begin"]);
    git(&["clone", "--quiet", "--bare", "work", "acme.git"]);
    git(&["-C", "acme.git", "update-server-info"]);
    publish(public, &directory.path().join("acme.git"), "/git/acme.git");
    true
}

fn publish(public: &StandIn, directory: &Path, at: &str) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let at = format!("{at}/{}", entry.file_name().display());
        if entry.path().is_dir() {
            publish(public, &entry.path(), &at);
        } else {
            public.add_raw(&at, "text/plain", std::fs::read(entry.path()).unwrap());
        }
    }
}

/// A host that is no registry of Google's.
pub(crate) const PUBLIC: &str = "files.public.example";
