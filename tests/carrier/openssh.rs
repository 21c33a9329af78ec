//! The real OpenSSH, pointed at our socket: it sees a well-behaved agent with one key that signs nothing.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use base64::Engine;
use tempfile::TempDir;
use valetkey::carrier::agent::wire;

use super::outside::{Outside, assert_given, channel};
use super::streams::ask;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_add_lists_one_key_with_our_name() {
    let Some(ssh) = OpenSsh::find() else { return };
    let outside = Outside::start();
    let list = ssh.run(outside.socket(), "ssh-add", &["-l"]).await;
    let text = String::from_utf8(list.stdout).unwrap();
    assert!(list.status.success() && text.lines().count() == 1, "{text}");
    assert!(text.starts_with("256 SHA256:") && text.ends_with(" valetkey (ED25519)\n"), "{text}");
    let list = ssh.run(outside.socket(), "ssh-add", &["-L"]).await;
    assert_eq!(String::from_utf8(list.stdout).unwrap(), public_key());
    // It takes no key, gives none up, and does not lock.
    let key = ssh.key("user");
    let add = ssh.run(outside.socket(), "ssh-add", &[key.to_str().unwrap()]).await;
    let remove = ssh.run(outside.socket(), "ssh-add", &["-D"]).await;
    assert!(!add.status.success() && !remove.status.success());
    assert_eq!(outside.budget.streams(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_keygen_gets_no_signature() {
    let Some(ssh) = OpenSsh::find() else { return };
    let outside = Outside::start();
    let key = ssh.top.path().join("valetkey.pub");
    fs::write(&key, public_key()).unwrap();
    let file = ssh.top.path().join("file");
    fs::write(&file, "something").unwrap();
    let (key, file) = (key.to_str().unwrap(), file.to_str().unwrap());
    let sign = ssh.run(outside.socket(), "ssh-keygen", &["-Y", "sign", "-n", "file", "-f", key, file]).await;
    let text = String::from_utf8(sign.stderr).unwrap();
    assert!(!sign.status.success() && text.contains("agent refused operation"), "{text}");
    assert!(!ssh.top.path().join("file.sig").exists());
}

/// Though the server would take our key: it signs nothing, and ssh goes on to the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_is_refused_and_logs_in_with_another_key() {
    let Some(ssh) = OpenSsh::find() else { return };
    let outside = Outside::start();
    let server = ssh.serve();
    let key = ssh.key("user");
    let alone = ssh.run(outside.socket(), "ssh", &server.login(&["true"])).await;
    let text = String::from_utf8(alone.stderr).unwrap();
    assert!(!alone.status.success() && text.contains("agent refused operation"), "{text}");
    let login = server.login(&["-i", key.to_str().unwrap(), "echo", "hello"]);
    let both = ssh.run(outside.socket(), "ssh", &login).await;
    assert_eq!(String::from_utf8(both.stdout).unwrap(), "hello\n");
    assert!(String::from_utf8(both.stderr).unwrap().contains("agent refused operation"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_go_through_a_forwarded_agent() {
    let Some(ssh) = OpenSsh::find() else { return };
    let outside = Outside::start();
    let server = ssh.serve();
    let key = ssh.key("user");
    let forward = format!("ForwardAgent={}", outside.socket().display());
    let script = "echo $SSH_AUTH_SOCK; exec cat";
    let login = server.login(&["-i", key.to_str().unwrap(), "-o", &forward, script]);
    // Without an agent of its own, ssh forwards none either, whatever the option says.
    let mut session = ssh.command(outside.socket(), "ssh", &login);
    let mut session =
        session.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut path = String::new();
    BufReader::new(session.stdout.take().unwrap()).read_line(&mut path).unwrap();
    let answer = ask(&channel(Path::new(path.trim())), "give 5000000\n").await;
    drop(session.stdin.take());
    session.wait().unwrap();
    assert_given(&answer.unwrap(), 5_000_000);
}

/// OpenSSH's programs, and a place for their files.
struct OpenSsh {
    top: TempDir,
}

impl OpenSsh {
    fn find() -> Option<Self> {
        let is_there = |program: &str| {
            ["/usr/bin", "/usr/sbin", "/bin"].iter().any(|place| Path::new(place).join(program).exists())
        };
        if !["ssh", "ssh-add", "ssh-keygen", "sshd"].into_iter().all(is_there) {
            assert!(!is_ci(), "OpenSSH's client and server are not installed");
            println!("not run: OpenSSH's client and server are not installed");
            return None;
        }
        let this = Self { top: tempfile::Builder::new().prefix("vk").tempdir().unwrap() };
        this.key("host");
        let key = fs::read_to_string(this.key("user").with_extension("pub")).unwrap();
        fs::write(this.top.path().join("authorized_keys"), public_key() + &key).unwrap();
        Some(this)
    }

    /// A key pair, made once.
    fn key(&self, name: &str) -> PathBuf {
        let path = self.top.path().join(name);
        if !path.exists() {
            let mut command =
                self.command("/nowhere".into(), "ssh-keygen", &["-q", "-t", "ed25519", "-N", ""]);
            assert!(command.arg("-f").arg(&path).status().unwrap().success());
        }
        path
    }

    fn command(&self, agent: PathBuf, program: &str, arguments: &[impl AsRef<str>]) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin")
            .env("HOME", self.top.path())
            .env("SSH_AUTH_SOCK", agent)
            .args(arguments.iter().map(AsRef::as_ref))
            .stdin(Stdio::null());
        command
    }

    async fn run(&self, agent: PathBuf, program: &str, arguments: &[impl AsRef<str>]) -> Output {
        let mut command = self.command(agent, program, arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// A server on the loopback interface that lets this user in.
    fn serve(&self) -> Sshd {
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
            fs::set_permissions("/run/sshd", fs::Permissions::from_mode(0o755)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let top = self.top.path().display();
        let text = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {top}/host\nAuthorizedKeysFile {top}/authorized_keys\n\
             StrictModes no\nPidFile none\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        );
        let config = self.top.path().join("sshd_config");
        fs::write(&config, text).unwrap();
        let mut command = self.command("/nowhere".into(), "/usr/sbin/sshd", &["-D", "-e", "-f"]);
        let mut child = command.arg(&config).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut lines = log.lines().map_while(Result::ok);
        assert!(lines.by_ref().any(|line| line.contains("Server listening")), "sshd does not listen");
        // Whoever logs has to be heard, or it stops.
        std::thread::spawn(move || lines.for_each(drop));
        Sshd { child, port }
    }
}

struct Sshd {
    child: Child,
    port: u16,
}

impl Sshd {
    fn login(&self, more: &[&str]) -> Vec<String> {
        let port = self.port.to_string();
        let mut all: Vec<&str> = vec!["-F", "none", "-p", &port];
        for option in
            ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "ConnectTimeout=20"]
        {
            all.extend(["-o", option]);
        }
        // Options come before the host, and what is to be run behind it.
        let options = more.iter().rposition(|word| word.contains('=')).map_or(0, |last| last + 1);
        let options =
            more.iter().position(|word| *word == "-i").map_or(options, |place| options.max(place + 2));
        all.extend(&more[..options]);
        all.push("127.0.0.1");
        all.extend(&more[options..]);
        all.into_iter().map(str::to_owned).collect()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As `ssh-add -L` prints it.
fn public_key() -> String {
    let key = base64::engine::general_purpose::STANDARD.encode(wire::KEY);
    format!("ssh-ed25519 {key} valetkey\n")
}

#[allow(clippy::disallowed_methods, reason = "a test may look at its own environment")]
fn is_ci() -> bool {
    std::env::var_os("CI").is_some()
}
