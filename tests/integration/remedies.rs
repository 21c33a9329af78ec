//! Refusals at the listeners for builds and containers: each names what would have to be changed, where that stands.

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use super::harness::{CONFIGURATION, Run, Sandbox};
use super::listeners::{
    NOBODY, agent, build, is_root, message, on_stream, opened, page, question, repository, unix, with_file,
    with_package,
};

fn args(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    sandbox.run(sandbox.valetkey().args(["docker", "args"]).args(arguments))
}

/// Where the last `[[listener]]` of the configuration stands.
fn place(sandbox: &Sandbox) -> String {
    let path = sandbox.path(CONFIGURATION);
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().take_while(|line| *line != "[[listener]]").count() + 1;
    format!("{}:{line}", path.display())
}

#[test]
fn two_builds_have_what_each_was_opened_for_and_a_refusal_names_the_command() {
    let sandbox = with_package();
    sandbox.sign_in();
    let names = ["acme/private", "acme/other"];
    let sockets = names.map(|name| opened(&args(&sandbox, &[&repository(&sandbox, name)])));
    for (socket, own, other) in [(&sockets[0], names[0], names[1]), (&sockets[1], names[1], names[0])] {
        assert_eq!(agent(socket, "GET", &page(&sandbox, own), "").0, 200);
        let (status, body) = agent(socket, "GET", &page(&sandbox, other), "");
        let line = format!("`valetkey docker args {}`", repository(&sandbox, other));
        assert!(status == 403 && body.contains(&line) && !body.contains("[build]"), "{status} {body}");
        let upload = format!("/registry/localhost:{}/{own}/", sandbox.google.port());
        let (status, body) = agent(socket, "POST", &upload, "");
        assert!(status == 403 && body.contains("valetkey docker args --write"), "{status} {body}");
    }
}

#[test]
fn a_refusal_at_a_listener_names_its_line_in_the_configuration() {
    let sandbox = with_package();
    sandbox.sign_in();
    let (http, ssh) = (sandbox.path("run/http.sock"), sandbox.path("run/ssh.sock"));
    let granted = repository(&sandbox, "acme/private");
    let listener = |kind: &str, path: &std::path::Path, tokens: &str| {
        format!("\n[[listener]]\n{kind} = \"{}\"\nrepositories = [\"{granted}\"]\n{tokens}\n", path.display())
    };
    sandbox.configure(&listener("unix", &http, "tokens = true"));
    let place_of_http = place(&sandbox);
    sandbox.configure(&listener("agent", &ssh, ""));
    let place_of_ssh = place(&sandbox);
    assert_eq!(place_of_http, place_of_ssh);
    sandbox.configure(&(listener("unix", &http, "tokens = true") + &listener("agent", &ssh, "")));
    let _daemon = sandbox.serve();
    let (status, body) = unix(&http, "GET", &page(&sandbox, "acme/other"), "");
    // One line, with what is granted already.
    let line = format!("repositories = [\\\"{granted}\\\", \\\"{}\\\"]", repository(&sandbox, "acme/other"));
    let wanted = format!("[[listener]] at {place_of_http}: {line}");
    assert!(status == 403 && body.contains(&wanted), "{wanted}: {status} {body}");
    let (status, body) = unix(&http, "POST", "/v1/credential", &question(&sandbox, "read"));
    let wanted = format!("[[listener]] at {place_of_http}: unnarrowed = true");
    assert!(status == 403 && body.contains(&wanted), "{status} {body}");
    let (status, body) = agent(&ssh, "GET", &page(&sandbox, "acme/other"), "");
    assert_eq!(status, 403);
    assert!(body.contains(&line) && !body.contains(&place_of_http) && !body.contains("[build]"), "{body}");
    let (_, body) = agent(&build(&sandbox), "GET", &page(&sandbox, "acme/other"), "");
    assert!(body.contains("[build] repositories"), "{body}");
    // Before a command is started that would find nothing granted.
    sandbox.configure(&format!("\n[[listener]]\nunix = \"{}\"\n", http.display()));
    assert_eq!(sandbox.run(sandbox.valetkey().arg("reload")).code, Some(0));
    let run = sandbox.run(sandbox.valetkey().args(["exec", "--", "true"]).env("VALETKEY_SOCKET", &http));
    assert!(run.code == Some(1) && run.stderr.contains(&format!("at {}: ", place(&sandbox))), "{run:?}");
}

#[test]
fn tokens_that_cannot_be_narrowed_enter_a_build_where_the_command_says_so() {
    let sandbox = with_package();
    sandbox.sign_in();
    let granted = repository(&sandbox, "acme/private");
    let ask = |socket: &std::path::Path| agent(socket, "POST", "/v1/credential", &question(&sandbox, "read"));
    let (status, body) = ask(&opened(&args(&sandbox, &[&granted, "--tokens"])));
    assert!(status == 403 && body.contains("docker args --tokens --unnarrowed"), "{status} {body}");
    let socket = opened(&args(&sandbox, &[&granted, "--tokens", "--unnarrowed"]));
    assert_eq!(ask(&socket).0, 200);
    // What is open is opened again with all that was asked for.
    sandbox.make_room();
    let _daemon = sandbox.serve();
    assert_eq!(ask(&socket).0, 200);
    let run = args(&sandbox, &[&granted, "--unnarrowed"]);
    assert!(run.code == Some(2) && run.stderr.contains("--tokens"), "{run:?}");
}

#[test]
fn a_policy_keeps_a_build_from_what_is_beyond_it_and_says_so_at_once() {
    let sandbox = with_package();
    sandbox.sign_in();
    let granted = repository(&sandbox, "acme/private");
    let under = |policy: &str, flags: &str| {
        let script =
            format!("VALETKEY_AUTO_START=true valetkey docker args {granted} {flags}; valetkey stop");
        with_file(&sandbox, "/etc/valetkey", "policy.toml", policy, &script)
    };
    for (policy, flags, word) in [
        ("repositories = []", "", "allows no build to use"),
        ("access = \"read\"", "--write", "read and not write"),
        ("tokens = false", "--tokens", "no token into a build"),
        ("access = \"read\"", "--tokens --unnarrowed", "could write"),
    ] {
        let Some(run) = under(policy, flags) else { return };
        assert!(run.stdout.starts_with("--valetkey-docker-args-failed--the-policy-of"), "{run:?}");
        assert!(run.stderr.contains(word), "{policy} {flags}: {run:?}");
        assert!(run.stderr.contains("/etc/valetkey/policy.toml"), "{run:?}");
    }
    let allowed = under("access = \"read\"", "--tokens").unwrap();
    assert!(allowed.stdout.contains("--ssh valetkey="), "{allowed:?}");
}

/// A process in a network of its own, with one cable to this machine. Ends with the value.
struct Elsewhere {
    holder: Child,
    device: String,
    here: String,
}

impl Elsewhere {
    fn new(sandbox: &Sandbox) -> Self {
        let system = |arguments: &[&str]| {
            let path = "/usr/sbin:/sbin:/usr/bin:/bin";
            let run = sandbox.run(sandbox.command("/usr/bin/env").args(arguments).env("PATH", path));
            assert_eq!(run.code, Some(0), "{arguments:?}: {run:?}");
        };
        let mut holder = sandbox.command("/usr/bin/unshare");
        holder.args(["--net", "sh", "-c", "echo; read line"]).env("PATH", "/usr/bin:/bin");
        let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let _ = std::io::Read::read(holder.stdout.as_mut().unwrap(), &mut [0]);
        let pid = holder.id();
        // An address of a network for documentation, and one that no other test has.
        let number = pid % 63 * 4;
        let (here, there) = (format!("192.0.2.{}", number + 1), format!("192.0.2.{}", number + 2));
        let device = format!("vk{pid}");
        system(&[
            "ip",
            "link",
            "add",
            &device,
            "type",
            "veth",
            "peer",
            "name",
            "far",
            "netns",
            &pid.to_string(),
        ]);
        system(&["ip", "address", "add", &format!("{here}/30"), "dev", &device]);
        system(&["ip", "link", "set", &device, "up"]);
        let inside = format!("--net=/proc/{pid}/ns/net");
        system(&["nsenter", &inside, "ip", "address", "add", &format!("{there}/30"), "dev", "far"]);
        system(&["nsenter", &inside, "ip", "link", "set", "far", "up"]);
        Self { holder, device, here }
    }

    fn ask(&self, sandbox: &Sandbox, url: &str) -> Run {
        let inside = format!("--net=/proc/{}/ns/net", self.holder.id());
        let mut command = sandbox.command("/usr/bin/nsenter");
        command.args([&inside, "curl", "-s", "-m", "20", "-w", "%{http_code}", url]);
        sandbox.run(command.env("PATH", "/usr/bin:/bin"))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let mut command = std::process::Command::new("/usr/sbin/ip");
        let _ = command.args(["link", "delete", &self.device]).status();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn beyond_loopback_everyone_is_served_or_nobody_and_never_a_token() {
    if !is_root("beyond_loopback_everyone_is_served_or_nobody_and_never_a_token") {
        return;
    }
    let sandbox = with_package();
    sandbox.sign_in();
    let elsewhere = Elsewhere::new(&sandbox);
    let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let granted = repository(&sandbox, "acme/private");
    let configure = |address: &str, more: &str| {
        sandbox.configure(&format!(
            "[[listener]]\ntcp = \"{address}:{port}\"\nrepositories = [\"{granted}\"]\n{more}"
        ));
    };
    for (more, word) in [
        ("", "beyond_loopback = true"),
        ("beyond_loopback = true\n", "peers = [\"anyone\"]"),
        ("beyond_loopback = true\npeers = [\"subuid\", 0]\n", "peers = [\"anyone\"]"),
        ("beyond_loopback = true\npeers = [\"anyone\"]\ntokens = true\n", "in clear"),
    ] {
        configure("0.0.0.0", more);
        let run = sandbox.run(sandbox.valetkey().arg("serve"));
        assert!(run.code == Some(2) && run.stderr.contains(word), "{more}: {run:?}");
    }
    let url = format!("http://{}:{port}{}", elsewhere.here, page(&sandbox, "acme/private"));
    for address in ["0.0.0.0", &elsewhere.here] {
        configure(address, "beyond_loopback = true\npeers = [\"anyone\"]\n");
        let mut daemon = sandbox.serve();
        let run = elsewhere.ask(&sandbox, &url);
        assert!(run.stdout.ends_with("200"), "{run:?}");
        let other = elsewhere.ask(&sandbox, &url.replace("/private/", "/other/"));
        assert!(other.stdout.ends_with("403") && other.stdout.contains(&place(&sandbox)), "{other:?}");
        let token = elsewhere.ask(&sandbox, &format!("http://{}:{port}/v1/credential", elsewhere.here));
        assert!(token.stdout.ends_with("404"), "{token:?}");
        daemon.terminate();
    }
}

#[test]
fn a_port_of_this_machine_does_not_serve_whom_the_kernel_does_not_name() {
    if !is_root("a_port_of_this_machine_does_not_serve_whom_the_kernel_does_not_name") {
        return;
    }
    let sandbox = with_package();
    sandbox.sign_in();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let granted = repository(&sandbox, "acme/private");
    let configure = |more: &str| {
        sandbox.configure(&format!(
            "[[listener]]\ntcp = \"127.0.0.1:{port}\"\nrepositories = [\"{granted}\"]\n{more}"
        ));
    };
    configure("");
    let _daemon = sandbox.serve();
    let url = format!("http://127.0.0.1:{port}{}", page(&sandbox, "acme/private"));
    let ask = |uid: u32| {
        let mut command = sandbox.command("/usr/bin/curl");
        command.args(["-s", "-m", "20", "-w", "%{http_code}", &url]).env("HOME", "/").current_dir("/");
        sandbox.run(command.uid(uid).gid(uid)).stdout
    };
    assert!(ask(0).ends_with("200"));
    let refused = ask(NOBODY);
    let line = format!("[[listener]] at {}: peers = [65534]", place(&sandbox));
    assert!(refused.ends_with("403") && refused.contains(&line), "{refused}");
    configure("peers = [65534]\n");
    assert_eq!(sandbox.run(sandbox.valetkey().arg("reload")).code, Some(0));
    assert!(ask(NOBODY).ends_with("200"));
    assert!(ask(NOBODY - 1).ends_with("403"));
    let host = format!("host: 127.0.0.1:{port}\r\n");
    let ours = message("GET", &page(&sandbox, "acme/private"), &host, "");
    assert_eq!(on_stream(TcpStream::connect(("127.0.0.1", port)).unwrap(), &ours).0, 200);
}

#[test]
fn another_user_is_served_by_an_agent_listener_once_listed() {
    if !is_root("another_user_is_served_by_an_agent_listener_once_listed") {
        return;
    }
    let sandbox = with_package();
    let key = sandbox.service_account();
    let socket = sandbox.path("agent.sock");
    let program = sandbox.copy(super::harness::VALETKEY, "bin/copy");
    for below in ["", "bin"] {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(sandbox.path(below), open).unwrap();
    }
    let configure = |peers: &str| {
        let socket = socket.display();
        sandbox.configure(&format!("[[listener]]\nagent = \"{socket}\"\ntokens = true\n{peers}\n"));
    };
    configure("");
    let mut command = sandbox.valetkey();
    let _daemon = sandbox.serve_with(command.env("GOOGLE_APPLICATION_CREDENTIALS", key));
    let ask = |uid: u32| {
        let mut command = sandbox.command(&program);
        command
            .arg("token")
            .env("SSH_AUTH_SOCK", &socket)
            .env("HOME", "/")
            .env("XDG_RUNTIME_DIR", "/nowhere");
        sandbox.run(command.uid(uid).gid(uid).current_dir("/"))
    };
    let run = ask(NOBODY);
    let line = format!("add to the [[listener]] at {}: peers = [65534]", place(&sandbox));
    assert!(run.code == Some(1) && run.stdout.is_empty() && run.stderr.contains(&line), "{run:?}");
    configure("peers = [65534]");
    assert_eq!(sandbox.run(sandbox.valetkey().arg("reload")).code, Some(0));
    super::assert_given(&ask(NOBODY));
    assert_eq!(ask(NOBODY - 1).code, Some(1));
}
