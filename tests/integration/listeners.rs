//! The listeners for builds and containers, and those that the configuration names: what each gives, and to whom.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use valetkey::carrier::agent::exchange_once;

use super::harness::{CONFIGURATION, Run, Sandbox, VALETKEY, is_ci};
use super::login::{LIST, SignIn, assert_not_signed_in, follow, logins};
use super::stand_in::Consent;
use super::{assert_given, assert_refused};

pub(super) const NOBODY: u32 = 65_534;

pub(super) fn container(sandbox: &Sandbox) -> PathBuf {
    sandbox.runtime().join("container/valetkey.sock")
}

pub(super) fn build(sandbox: &Sandbox) -> PathBuf {
    sandbox.runtime().join("build.sock")
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

pub(super) fn message(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

/// A command where the socket for builds is mounted, and no daemon of one's own is.
fn in_step<'a>(sandbox: &Sandbox, command: &'a mut Command) -> &'a mut Command {
    command.env("SSH_AUTH_SOCK", build(sandbox)).env("XDG_RUNTIME_DIR", sandbox.path("tmp"))
}

/// Status and body.
fn split(reply: &[u8]) -> (u16, String) {
    let text = String::from_utf8_lossy(reply).into_owned();
    let status = text.split(' ').nth(1).unwrap_or_else(|| panic!("{text:?}")).parse().unwrap();
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

pub(super) fn on_stream(mut stream: impl Read + Write, message: &str) -> (u16, String) {
    let _ = stream.write_all(message.as_bytes());
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    split(&reply)
}

pub(super) fn unix(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let message = message(method, path, "host: x\r\n", body);
    on_stream(UnixStream::connect(socket).unwrap(), &message)
}

pub(super) fn agent(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String) {
    let message = message(method, path, "host: x\r\n", body);
    let until = Instant::now() + Duration::from_secs(9);
    split(&exchange_once(socket, message.as_bytes(), until).unwrap())
}

pub(super) fn page(sandbox: &Sandbox, repository: &str) -> String {
    format!("/registry/localhost:{}/{repository}/simple/hello/", sandbox.google.port())
}

/// The configuration's word for a repository of the stand-in.
pub(super) fn repository(sandbox: &Sandbox, name: &str) -> String {
    format!("https://localhost:{}/{name}", sandbox.google.port())
}

pub(super) fn question(sandbox: &Sandbox, access: &str) -> String {
    format!(r#"{{"url":"{}","access":"{access}"}}"#, sandbox.index())
}

pub(super) fn with_package() -> Sandbox {
    let sandbox = Sandbox::new();
    for repository in ["private", "other"] {
        sandbox.google.add_package("acme", repository, "hello", "1.0", &[]);
    }
    sandbox
}

pub(super) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || !is_ci(), "CI runs this as root");
    if !root {
        println!("skipped: {test} needs root");
    }
    root
}

#[test]
fn builds_and_containers_have_sockets_that_give_nothing_by_themselves() {
    let sandbox = with_package();
    sandbox.sign_in();
    let _daemon = sandbox.serve();
    assert_eq!((mode(&sandbox.runtime()), mode(&build(&sandbox))), (0o700, 0o600));
    assert_eq!(mode(container(&sandbox).parent().unwrap()), 0o755);
    assert_eq!(mode(&container(&sandbox)), 0o666);
    let path = sandbox.path(CONFIGURATION).display().to_string();
    let line =
        format!("add to {path}: [build] repositories = [\\\"{}\\\"]", repository(&sandbox, "acme/private"));
    for (status, body) in [
        unix(&container(&sandbox), "GET", &page(&sandbox, "acme/private"), ""),
        agent(&build(&sandbox), "GET", &page(&sandbox, "acme/private"), ""),
    ] {
        assert!(status == 403 && body.contains(&line), "{status} {body}");
    }
    for (method, path) in [
        ("POST", "/v1/credential"),
        ("POST", "/v1/listeners"),
        ("GET", "/v1/status"),
        ("POST", "/v1/stop"),
        ("POST", "/v1/reload"),
        ("GET", "/metrics"),
        ("GET", "/health/live"),
    ] {
        let body = question(&sandbox, "read");
        assert_eq!(unix(&container(&sandbox), method, path, &body).0, 404, "{method} {path}");
        assert_eq!(agent(&build(&sandbox), method, path, &body).0, 404, "{method} {path}");
    }
    assert!(sandbox.google.token_requests().is_empty());
    let run = sandbox.run(in_step(&sandbox, &mut sandbox.get()));
    assert_refused(&run, "this socket gives no tokens");
}

#[test]
fn a_listed_repository_is_served_and_reload_counts_at_once() {
    let sandbox = with_package();
    sandbox.sign_in();
    let build_terms = format!("[build]\nrepositories = [\"{}\"]\n", repository(&sandbox, "acme/private"));
    sandbox.configure(&build_terms);
    let _daemon = sandbox.serve();
    assert_eq!(unix(&container(&sandbox), "GET", &page(&sandbox, "acme/private"), "").0, 200);
    assert_eq!(agent(&build(&sandbox), "GET", &page(&sandbox, "acme/private"), "").0, 200);
    assert_eq!(unix(&container(&sandbox), "GET", &page(&sandbox, "acme/other"), "").0, 403);
    let status = sandbox.run(sandbox.valetkey().arg("status"));
    assert!(status.stdout.contains("acme/private"), "{status:?}");
    sandbox.configure("");
    assert_eq!(sandbox.run(sandbox.valetkey().arg("reload")).code, Some(0));
    assert_eq!(unix(&container(&sandbox), "GET", &page(&sandbox, "acme/private"), "").0, 403);
    assert_eq!(agent(&build(&sandbox), "GET", &page(&sandbox, "acme/private"), "").0, 403);
}

#[test]
fn a_grant_that_is_withdrawn_ends_the_download_and_no_other() {
    let sandbox = Sandbox::new();
    sandbox.google.add_large_package("acme", "private", "large", "1.0", 32 << 20);
    sandbox.sign_in();
    sandbox.configure(&format!("[build]\nrepositories = [\"{}\"]\n", repository(&sandbox, "acme/private")));
    let _daemon = sandbox.serve();
    let simple = format!("/registry/localhost:{}/acme/private/simple/large/", sandbox.google.port());
    let (_, listing) = unix(&sandbox.socket(), "GET", &simple, "");
    let link = listing.split("href=\"../../").nth(1).unwrap_or_else(|| panic!("{listing}"));
    let file = link.split(['"', '#']).next().unwrap();
    let path = format!("/registry/localhost:{}/acme/private/{file}", sandbox.google.port());
    let mut downloads = [container(&sandbox), sandbox.socket()].map(|socket| {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(message("GET", &path, "host: x\r\n", "").as_bytes()).unwrap();
        let mut first = [0; 4096];
        stream.read_exact(&mut first).unwrap();
        assert!(first.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&first));
        stream
    });
    sandbox.configure("");
    assert_eq!(sandbox.run(sandbox.valetkey().arg("reload")).code, Some(0));
    let [withdrawn, owners] = downloads.each_mut().map(|stream| {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        rest.len()
    });
    assert!(withdrawn < 32 << 20, "{withdrawn}");
    assert!(owners > (32 << 20) - 4096, "{owners}");
}

#[test]
fn tokens_leave_only_where_somebody_wrote_so_and_no_wider_than_that() {
    let sandbox = Sandbox::new();
    sandbox.configure("[build]\ntokens = true\n");
    let key = sandbox.service_account();
    let mut command = sandbox.valetkey();
    let _daemon = sandbox.serve_with(command.env("GOOGLE_APPLICATION_CREDENTIALS", key));
    for access in [("read", 200), ("write", 403)] {
        let body = question(&sandbox, access.0);
        assert_eq!(unix(&container(&sandbox), "POST", "/v1/credential", &body).0, access.1);
        assert_eq!(agent(&build(&sandbox), "POST", "/v1/credential", &body).0, access.1);
    }
    let scopes: Vec<_> = sandbox.google.token_requests().into_iter().filter_map(|it| it.scope).collect();
    assert!(scopes.iter().all(|scope| scope.ends_with("cloud-platform.read-only")), "{scopes:?}");
    assert_given(&sandbox.run(in_step(&sandbox, &mut sandbox.get())));
    let named = format!(r#"{{"url":"{}","source":{{"kind":"file","path":"/k.json"}}}}"#, sandbox.index());
    assert_eq!(unix(&container(&sandbox), "POST", "/v1/credential", &named).0, 403);
}

#[test]
fn a_token_that_cannot_be_narrowed_stays_unless_the_grant_says_so() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    sandbox.configure("[build]\ntokens = true\n");
    let _daemon = sandbox.serve();
    let body = question(&sandbox, "read");
    let (status, answer) = unix(&container(&sandbox), "POST", "/v1/credential", &body);
    assert!(status == 403 && answer.contains("[build] unnarrowed = true"), "{status} {answer}");
    assert_refused(&sandbox.run(in_step(&sandbox, &mut sandbox.get())), "no token leaves this socket");
    assert_given(&sandbox.run(&mut sandbox.get()));
    sandbox.configure("[build]\ntokens = true\nunnarrowed = true\n");
    assert_eq!(sandbox.run(sandbox.valetkey().arg("reload")).code, Some(0));
    assert_eq!(unix(&container(&sandbox), "POST", "/v1/credential", &body).0, 200);
}

#[test]
fn other_users_are_served_once_they_are_listed() {
    if !is_root("other_users_are_served_once_they_are_listed") {
        return;
    }
    let sandbox = with_package();
    let socket = sandbox.path("shared.sock");
    let key = sandbox.service_account();
    let program = sandbox.copy(VALETKEY, "bin/copy");
    for below in ["", "bin"] {
        fs::set_permissions(sandbox.path(below), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let configure = |peers: &str| {
        let socket = socket.display();
        sandbox.configure(&format!("[[listener]]\nunix = \"{socket}\"\ntokens = true\n{peers}\n"));
    };
    configure("");
    let mut command = sandbox.valetkey();
    let _daemon = sandbox.serve_with(command.env("GOOGLE_APPLICATION_CREDENTIALS", key));
    let ask = || {
        let mut command = sandbox.command(&program);
        command.arg("token").env("VALETKEY_SOCKET", &socket).env("HOME", "/").current_dir("/");
        sandbox.run(command.uid(NOBODY).gid(NOBODY))
    };
    let run = ask();
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
    let line = format!("add to the [[listener]] at {}:", sandbox.path(CONFIGURATION).display());
    assert!(run.stderr.contains(&line) && run.stderr.contains("peers = [65534]"), "{run:?}");
    for peers in ["peers = [65534]", "peers = [\"60000-65534\"]"] {
        configure(peers);
        assert_eq!(sandbox.run(sandbox.valetkey().arg("reload")).code, Some(0));
        assert_given(&ask());
    }
    configure("peers = [\"1-65533\"]");
    assert_eq!(sandbox.run(sandbox.valetkey().arg("reload")).code, Some(0));
    assert_eq!(ask().code, Some(1));
}

#[test]
fn a_port_answers_no_web_page_and_no_proxy() {
    let sandbox = with_package();
    sandbox.sign_in();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let granted = repository(&sandbox, "acme/private");
    sandbox.configure(&format!("[[listener]]\ntcp = \"127.0.0.1:{port}\"\nrepositories = [\"{granted}\"]\n"));
    let _daemon = sandbox.serve();
    let page = page(&sandbox, "acme/private");
    let ask = |path: &str, headers: &str| {
        let message = message("GET", path, headers, "");
        on_stream(TcpStream::connect(("127.0.0.1", port)).unwrap(), &message).0
    };
    let host = format!("host: 127.0.0.1:{port}\r\n");
    assert_eq!(ask(&page, &host), 200);
    assert_eq!(ask("/v1/status", &host), 404);
    for wrong in ["host: evil.test\r\n".to_owned(), format!("host: evil.test:{port}\r\n"), host.repeat(2)] {
        assert!([400, 403].contains(&ask(&page, &wrong)), "{wrong}");
    }
    for header in [
        "origin: http://localhost",
        "sec-fetch-mode: cors",
        "x-forwarded-for: 10.0.0.1",
        "forwarded: for=10.0.0.1",
    ] {
        assert_eq!(ask(&page, &format!("{host}{header}\r\n")), 403, "{header}");
    }
    assert_eq!(ask(&format!("http://127.0.0.1:{port}{page}"), &host), 403);
}

/// A browser that asks beyond loopback does not say that it is one.
#[test]
fn what_a_port_answers_is_no_script_and_no_page() {
    let sandbox = with_package();
    sandbox.sign_in();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let granted = repository(&sandbox, "acme/private");
    sandbox.configure(&format!("[[listener]]\ntcp = \"127.0.0.1:{port}\"\nrepositories = [\"{granted}\"]\n"));
    let _daemon = sandbox.serve();
    for path in [page(&sandbox, "acme/private"), page(&sandbox, "acme/other")] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let host = format!("host: 127.0.0.1:{port}\r\n");
        stream.write_all(message("GET", &path, &host, "").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        for line in [
            "content-security-policy: default-src 'none'; form-action 'none'; frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert_eq!(answer.matches(&format!("{line}\r\n")).count(), 1, "{line}: {answer}");
        }
    }
}

/// The socket that `docker args` printed.
pub(super) fn opened(run: &Run) -> PathBuf {
    assert_eq!(run.code, Some(0), "{run:?}");
    let word = run.stdout.split_whitespace().find_map(|word| word.strip_prefix("valetkey="));
    PathBuf::from(word.unwrap_or_else(|| panic!("{run:?}")))
}

#[test]
fn docker_args_opens_a_socket_that_outlives_the_daemon_and_ends_in_time() {
    let sandbox = with_package();
    sandbox.sign_in();
    let granted = repository(&sandbox, "acme/private");
    let args = |arguments: &[&str]| sandbox.run(sandbox.valetkey().args(["docker", "args"]).args(arguments));
    for (arguments, word) in [
        (&["nonsense"][..], "is not a repository"),
        (&["https://evilpkg.dev/acme/private"], "not a repository"),
        (&[&granted, "--for", "soon"], "is not a duration"),
        (&[&granted, "--for", "0s"], "is not a duration"),
        (&[&granted, "--for", "8d"], "a second to seven days"),
    ] {
        let run = args(arguments);
        assert_ne!(run.code, Some(0), "{run:?}");
        assert!(run.stdout.starts_with("--valetkey-docker-args-failed--"), "{run:?}");
        assert!(run.stderr.contains(word), "{word}: {run:?}");
        assert!(!sandbox.socket().exists(), "nothing is started for it: {run:?}");
    }
    let socket = opened(&args(&[&granted]));
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(agent(&socket, "GET", &page(&sandbox, "acme/private"), "").0, 200);
    let (status, body) = agent(&socket, "GET", &page(&sandbox, "acme/other"), "");
    assert_eq!(status, 403, "{body}");
    let list = sandbox.runtime().join("listeners.json");
    assert_eq!(mode(&list), 0o600);
    sandbox.make_room();
    assert!(!socket.exists());
    let _daemon = sandbox.serve();
    assert_eq!(agent(&socket, "GET", &page(&sandbox, "acme/private"), "").0, 200);
    let short = opened(&args(&[&granted, "--for", "1s"]));
    Sandbox::wait_until("the short one is gone", || !short.exists());
    assert!(socket.exists());
    let name = short.file_name().unwrap().to_str().unwrap();
    Sandbox::wait_until("it is forgotten", || !fs::read_to_string(&list).unwrap().contains(name));
}

#[test]
fn a_daemon_that_served_a_build_does_not_end_when_idle() {
    let start = || {
        let sandbox = with_package();
        sandbox.sign_in();
        let granted = repository(&sandbox, "acme/private");
        sandbox.configure(&format!("[daemon]\nidle = \"1s\"\n[build]\nrepositories = [\"{granted}\"]\n"));
        assert_given(&sandbox.run(&mut sandbox.get()));
        sandbox
    };
    let used = start();
    assert_eq!(agent(&build(&used), "GET", &page(&used, "acme/private"), "").0, 200);
    let unused = start();
    // It began to wait later, so its end says that the other one's time was over as well.
    Sandbox::wait_until("the unused one ends", || !unused.socket().exists());
    assert_eq!(agent(&build(&used), "GET", &page(&used, "acme/private"), "").0, 200);
}

/// Runs a script with a file of its own at a place that tests cannot share.
pub(super) fn with_file(
    sandbox: &Sandbox,
    directory: &str,
    name: &str,
    text: &str,
    script: &str,
) -> Option<Run> {
    let file = sandbox.write("tmp/mounted", text);
    let script = format!(
        "mkdir -p {directory}; mount -t tmpfs -o mode=755,size=1m tmpfs {directory} || exit 77\n\
         cp {} {directory}/{name}; {script}",
        file.display()
    );
    let mut command = sandbox.command("/usr/bin/unshare");
    let path = format!("{}:/usr/sbin:/sbin:/bin:/usr/bin", sandbox.path("bin").display());
    command.args(["--mount", "/bin/sh", "-c", &script]).env("PATH", path);
    let run = sandbox.run(command.env("VALETKEY_AUTO_START", "false"));
    fs::remove_file(file).unwrap();
    if run.code == Some(77) || run.stderr.contains("unshare failed") {
        assert!(!is_ci(), "CI can mount: {run:?}");
        println!("skipped: a file system of one's own needs root");
        return None;
    }
    Some(run)
}

#[test]
fn a_policy_decides_which_sources_there_are_and_whose() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let key = sandbox.service_account();
    let under =
        |policy: &str, script: &str| with_file(&sandbox, "/etc/valetkey", "policy.toml", policy, script);
    let named = format!("valetkey token --credential {}", key.display());
    let Some(run) = under("sources = [\"login\"]", &named) else { return };
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("does not allow the credential file"), "{run:?}");
    let run = under("sources = [\"login\"]", "valetkey token").unwrap();
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("does not allow the application default credentials"), "{run:?}");
    assert!(sandbox.google.token_requests().is_empty());
    let run = under("account_domains = [\"corp.example\"]", &named).unwrap();
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("tokens of builder@acme.iam.gserviceaccount.com"), "{run:?}");
    assert_given(&under("account_domains = [\"acme.iam.gserviceaccount.com\"]", &named).unwrap());
}

#[test]
fn a_policy_names_the_one_client_to_sign_in_with() {
    let sandbox = Sandbox::new();
    let client = sandbox.configure_login("");
    let policy = "oauth_client = \"other.apps.googleusercontent.com\"";
    let script = "valetkey login --no-browser";
    let Some(run) = with_file(&sandbox, "/etc/valetkey", "policy.toml", policy, script) else { return };
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
    assert!(run.stderr.contains(&format!("does not allow the OAuth client {}", client.id)), "{run:?}");
    assert!(!run.stderr.contains("http"), "nobody is sent to a browser: {run:?}");
}

#[test]
fn a_policy_decides_who_may_sign_in() {
    if !is_root("a_policy_decides_who_may_sign_in") {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let policy = sandbox.write("tmp/policy", "account_domains = [\"corp.example\"]");
    let script = format!(
        "mkdir -p /etc/valetkey; mount -t tmpfs -o mode=755 tmpfs /etc/valetkey || exit 77\n\
         cp {} /etc/valetkey/policy.toml; exec {VALETKEY} login --no-browser",
        policy.display()
    );
    let under_policy = |email: &str| {
        let mut command = sandbox.command("/usr/bin/unshare");
        command.args(["--mount", "/bin/sh", "-c", &script]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        let waiting = SignIn::start_with(&mut command);
        let consent = Consent::given().by(email);
        let page = follow(&sandbox.google.consent_as(&waiting.url, &consent).unwrap());
        (page, waiting.end(&sandbox))
    };
    let (page, run) = under_policy("developer@acme.example");
    assert_not_signed_in(&page, &run);
    assert!(run.stderr.contains("tokens of developer@acme.example"), "{run:?}");
    assert!(run.stderr.contains("corp.example"), "{run:?}");
    assert!(logins(&sandbox).is_empty() && !sandbox.path(LIST).exists());
    let (_, run) = under_policy("developer@corp.example");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(logins(&sandbox).len(), 1);
}

#[test]
fn a_mounted_token_is_taken_before_this_machine_s_sign_ins() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let made = sandbox.run(sandbox.valetkey().args(["token", "--format", "json"]));
    let given = sandbox.run(sandbox.valetkey().arg("token"));
    sandbox.stop();
    let ask = format!("keyring get {} oauth2accesstoken", sandbox.index());
    let with = |text: &str| with_file(&sandbox, "/run/secrets", "valetkey", text, &ask);
    let Some(run) = with(&made.stdout) else { return };
    assert_eq!(assert_given(&run), assert_given(&given));
    assert_eq!(sandbox.google.token_requests().len(), 1);
    assert_refused(&with("ya29.what").unwrap(), "does not hold a token");
    let old = r#"{"username":"oauth2accesstoken","password":"x","expires":"2020-01-02T03:04:05Z"}"#;
    assert_refused(&with(old).unwrap(), "has expired");
}
