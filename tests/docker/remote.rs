//! A builder on another machine: ssh carries the socket there as an agent, and the build there carries it on. The other
//! machine is this one, behind a real sshd.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::engine::{Engine, PATIENCE, assert_success, unique};
use super::harness::Sandbox;
use super::prepared;
use super::process::{run, run_together};
use super::readme::{Chapter, built, project, scene, terms};

/// A server on the loopback interface that lets this user in, and `ssh HOST` on PATH that leads to it.
struct Sshd {
    child: Child,
}

impl Sshd {
    /// `None` says why on standard error.
    fn serve(sandbox: &Sandbox, variables: &str) -> Option<Self> {
        for program in ["/usr/bin/ssh", "/usr/bin/ssh-keygen", "/usr/sbin/sshd"] {
            if !Path::new(program).exists() {
                prepared::skip(&format!("there is no {program}: OpenSSH is not installed"));
                return None;
            }
        }
        let home = sandbox.path("home/ssh");
        fs::create_dir_all(&home).unwrap();
        for key in ["host", "user"] {
            let mut command = Command::new("/usr/bin/ssh-keygen");
            command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(home.join(key));
            assert_success(&run(&mut command, PATIENCE));
        }
        fs::create_dir_all("/run/sshd").unwrap();
        fs::set_permissions("/run/sshd", fs::Permissions::from_mode(0o755)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let home = home.display();
        let server = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {home}/host\nAuthorizedKeysFile {home}/user.pub\n\
             StrictModes no\nPidFile none\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             SetEnv {variables}\n"
        );
        let server = sandbox.write("home/ssh/sshd_config", &server);
        let client = format!(
            "Host HOST\nHostName 127.0.0.1\nPort {port}\nIdentityFile {home}/user\nStrictHostKeyChecking no\n\
             UserKnownHostsFile /dev/null\nBatchMode yes\nLogLevel ERROR\n"
        );
        let client = sandbox.write("home/ssh/config", &client);
        sandbox.script("ssh", &format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", client.display()));
        let mut command = Command::new("/usr/sbin/sshd");
        let mut child = command.args(["-D", "-e", "-f"]).arg(server).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.by_ref().any(|line| line.contains("Server listening")), "sshd does not listen");
        // Whoever logs has to be heard, or it stops.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child })
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_build_on_another_machine_runs_as_printed() {
    let (Some(_), Some(engine)) = (prepared::static_program(), Engine::all().pop()) else {
        return;
    };
    let chapter = Chapter::read();
    let scene = scene();
    let sandbox = &scene.sandbox;
    let variables = engine.variables().map(|(name, value)| format!("{name}={value}"));
    let Some(_sshd) = Sshd::serve(sandbox, &variables.join(" ")) else { return };
    sandbox.configure(&terms(&scene));
    let daemon = scene.serve();
    engine.valetkey();
    let directory = project(&scene, &chapter.dockerfile(engine.base()));
    let image = unique("remote");
    // What is printed for here, and what for there: single quotes, since the path is another one there.
    let (login, flags) =
        (chapter.row("another machine over SSH"), chapter.second("another machine over SSH"));
    let there = format!(
        "cd {} && {} build --tag {image} --network none {flags} . && echo '<agent>' $SSH_AUTH_SOCK",
        directory.display(),
        engine.client().display()
    );
    sandbox.write("home/there.sh", &there);
    let script = format!("{login} \"$(cat {})\"", sandbox.path("home/there.sh").display());
    let run = run_together(&mut engine.shell(sandbox, &script), PATIENCE);
    let built = built(&run, &image);
    built.assert_success();
    assert!(built.log.contains("hello from a private index"), "{}", built.log);
    let carried = super::scene::told_once(&built, "agent");
    assert!(!carried.starts_with(&sandbox.path("").display().to_string()), "it is ssh's own: {carried}");
    scene.hunt(&built, &engine.export(&image), engine.stores());
    // Who asked, as far as the daemon can know, is the ssh that carried it.
    assert!(daemon.log().contains("/ssh\""), "{}", daemon.log());
}
