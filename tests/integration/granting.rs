//! What a grant that is narrower than the owner's lets through: the daemon in this process, with a socket of its own.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use valetkey::ask::{Access, NamedSource};
use valetkey::broker::Broker;
use valetkey::carrier::unix::bind;
use valetkey::client::fallback::sources;
use valetkey::config::listeners::Terms as Written;
use valetkey::config::policy::Policy;
use valetkey::config::{Config, EndpointUrls, ExtraRegistry, Format};
use valetkey::daemon::audit::Log;
use valetkey::daemon::post::{Carrier, Post, Purpose};
use valetkey::daemon::terms::{Admitted, Terms};
use valetkey::daemon::{Bound, Daemon, Lasting, Loaded, Socket, StartedBy, run};
use valetkey::environment::Environment;
use valetkey::grant::{Grant, Origin, Pattern, ProxyGrant, Repositories};
use valetkey::paths::Paths;
use valetkey::registry::Hosts;

use super::harness::Sandbox;

/// A daemon with one socket. Ends with the value.
struct Served<'a> {
    sandbox: &'a Sandbox,
    socket: PathBuf,
    daemon: Arc<Daemon>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl<'a> Served<'a> {
    /// Serves the repositories listed, of the stand-in's registry where they have no slash at the start.
    fn start(sandbox: &'a Sandbox, access: Access, repositories: &[&str]) -> Self {
        let port = sandbox.google.port();
        let extra = |host: String, format| ExtraRegistry { host, format };
        let config = Config {
            registries: vec![
                extra(format!("localhost:{port}"), Format::Python),
                extra(format!("docker.localhost:{port}"), Format::Docker),
            ],
            extra_ca: Some(sandbox.path("ca.pem")),
            endpoints: EndpointUrls { token: Some(sandbox.google.token_uri()), ..EndpointUrls::default() },
            ..Config::default()
        };
        let hosts = Hosts::new(&config.registries);
        let patterns = repositories.iter().map(|name| {
            let text = if name.contains("//") {
                (*name).to_owned()
            } else {
                format!("https://localhost:{port}/{name}")
            };
            Pattern::parse(&text, &hosts).unwrap()
        });
        let proxy = ProxyGrant::new(access, Repositories::Listed(patterns.collect()), Origin::Build(None));
        let grant = Grant { proxy: Some(proxy), ..Grant::nothing() };
        let socket = sandbox.path("run/narrow.sock");
        let terms = Terms { grant, admitted: Admitted::owner() };
        let served = Post::new(socket.display().to_string(), Carrier::Unix, Purpose::Build, terms);
        let bound = Bound { socket: Socket::Unix(bind(&socket).unwrap()), post: served, own: None };
        let key = NamedSource::File { path: sandbox.service_account() };
        let nowhere = sandbox.path("none");
        let reload = Box::new(move || {
            let environment = Environment::default();
            let paths = Paths { configuration: None, state: None, runtime: nowhere.clone(), gcloud: None };
            let sources = sources(&config, &environment, &paths, Some(key.clone()));
            let clock = sources.world.clock;
            let broker = Broker::new(Hosts::new(&config.registries), sources, clock, Arc::default());
            let (build, policy) = (Written::default(), Policy::default());
            Ok(Loaded {
                broker,
                redirect_hosts: Vec::new(),
                build,
                extra: Vec::new(),
                index: None,
                policy,
                lasting: Lasting::default(),
            })
        });
        let (log, guard) = Log::to_file(&sandbox.path("narrow.log")).unwrap();
        let daemon = Daemon::new(reload, log, StartedBy::Helper, None, None).unwrap();
        let daemon = Arc::new(daemon);
        daemon.serve(bound);
        let serving = Arc::clone(&daemon);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(run(serving));
            drop(guard);
        });
        Self { sandbox, socket, daemon, thread: Some(thread) }
    }

    fn ask(&self, method: &str, target: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        self.sandbox.hear(&reply);
        let reply = String::from_utf8_lossy(&reply).into_owned();
        (
            reply.split(' ').nth(1).unwrap().parse().unwrap(),
            reply.split_once("\r\n\r\n").unwrap().1.to_owned(),
        )
    }

    /// Asks for a path of the stand-in's registry.
    fn pass(&self, method: &str, path: &str) -> (u16, String) {
        self.ask(method, &format!("/registry/localhost:{}{path}", self.sandbox.google.port()))
    }

    fn docker(&self, method: &str, path: &str) -> (u16, String) {
        self.ask(method, &format!("/registry/docker.localhost:{}{path}", self.sandbox.google.port()))
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        self.daemon.stop();
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        self.sandbox.hear(&std::fs::read(self.sandbox.path("narrow.log")).unwrap_or_default());
        assert!(matches!(ended, Some(Ok(()))) || std::thread::panicking());
    }
}

const PAGE: &str = "/acme/private/simple/acme-hello/";

#[test]
fn a_listed_repository_is_served_and_every_other_is_refused_with_the_line_to_add() {
    let sandbox = Sandbox::new();
    let port = sandbox.google.port();
    for (project, name) in [("acme", "private-too"), ("acme", "other"), ("acme-too", "private")] {
        sandbox.google.add_package(project, name, "secret", "1.0.0", &[]);
    }
    let served = Served::start(&sandbox, Access::Read, &["acme/private"]);
    assert_eq!(served.pass("GET", PAGE).0, 200);
    assert_eq!(served.pass("HEAD", PAGE).0, 200);
    let asked = sandbox.google.registry_requests().len();
    for repository in ["acme/private-too", "acme/other", "acme-too/private", "acme/PRIVATE", "acme/privat"] {
        let (status, body) = served.pass("GET", &format!("/{repository}/simple/secret/"));
        assert_eq!(status, 403, "{repository}: {body}");
        let line = format!(
            "[build] repositories = [\\\"https://localhost:{port}/acme/private\\\", \\\"https://localhost:{port}/{repository}\\\"]"
        );
        assert!(body.contains(&line), "{body}");
    }
    for path in [
        "/artifacts-downloads/namespaces/acme/repositories/other/downloads/x",
        "/acme/private",
        "/acme/private/",
    ] {
        let methods: &[&str] =
            if path.starts_with("/artifacts") { &["GET"] } else { &["POST", "PUT", "DELETE"] };
        for method in methods {
            assert_eq!(served.pass(method, path).0, 403, "{method} {path}");
        }
    }
    assert_eq!(sandbox.google.registry_requests().len(), asked, "nothing of it reached the registry");
}

#[test]
fn none_listed_is_none() {
    let sandbox = Sandbox::new();
    let served = Served::start(&sandbox, Access::Write, &[]);
    for method in ["GET", "HEAD", "POST"] {
        assert_eq!(served.pass(method, PAGE).0, 403, "{method}");
    }
    assert_eq!(served.docker("GET", "/v2/").0, 403);
    assert!(sandbox.google.registry_requests().is_empty() && sandbox.google.token_requests().is_empty());
}

#[test]
fn a_proxy_grant_gives_no_credential_and_no_control() {
    let sandbox = Sandbox::new();
    let served = Served::start(&sandbox, Access::Write, &["acme/private"]);
    for (method, path) in [
        ("POST", "/v1/credential"),
        ("GET", "/v1/status"),
        ("POST", "/v1/stop"),
        ("POST", "/v1/reload"),
        ("GET", "/metrics"),
        ("GET", "/health/live"),
    ] {
        assert_eq!(served.ask(method, path).0, 404, "{method} {path}");
    }
    assert!(served.daemon.is_ready());
}

#[test]
fn reading_is_done_with_a_token_that_reads() {
    let sandbox = Sandbox::new();
    let served = Served::start(&sandbox, Access::Write, &["acme/private"]);
    assert_eq!(served.pass("GET", PAGE).0, 200);
    // No form, says the registry; but it has let the token in.
    assert_eq!(served.pass("POST", "/acme/private/").0, 400);
    let scopes: Vec<_> =
        sandbox.google.token_requests().into_iter().filter_map(|request| request.scope).collect();
    assert_eq!(scopes.len(), 2, "{scopes:?}");
    assert!(
        scopes[0].ends_with("cloud-platform.read-only") && scopes[1].ends_with("cloud-platform"),
        "{scopes:?}"
    );
}

#[test]
fn a_docker_client_hears_that_it_needs_no_token_and_mounts_from_nowhere_else() {
    let sandbox = Sandbox::new();
    let port = sandbox.google.port();
    let granted = format!("https://docker.localhost:{port}/acme/images");
    let served = Served::start(&sandbox, Access::Write, &[&granted]);
    assert_eq!(served.docker("GET", "/v2/"), (200, "{}".to_owned()));
    assert_eq!(served.docker("POST", "/v2/").0, 403);
    for path in
        ["/v2/token?service=x&scope=repository:acme/images/app:pull", "/v2/_catalog", "/v2/acme/images/app"]
    {
        assert_eq!(served.docker("GET", path).0, 403, "{path}");
    }
    let uploads = "/v2/acme/images/app/blobs/uploads/?mount=sha256:00&from=";
    for from in
        ["acme/other/app", "acme/images-too/app", "acme/images/../other/app", "acme%2Fother%2Fapp", "", "x"]
    {
        assert_eq!(served.docker("POST", &format!("{uploads}{from}")).0, 403, "{from}");
    }
    assert_eq!(served.docker("POST", &format!("{uploads}acme/images/app&%66rom=acme/other/app")).0, 403);
    assert!(sandbox.google.registry_requests().is_empty(), "{:?}", sandbox.google.registry_requests());
}
