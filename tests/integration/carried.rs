//! What a socket means to `keyring` that was carried to where it runs, and what an SSH agent does that is another's.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use super::harness::{Daemon, Sandbox};
use super::listeners::{build, container, opened};
use super::{assert_given, assert_refused};

/// A daemon that hands out tokens to containers, for a registry that its own configuration names.
fn with_daemon<'a>(sandbox: &'a Sandbox, build: &str) -> Daemon<'a> {
    sandbox.configure(build);
    let key = sandbox.service_account();
    let mut command = sandbox.valetkey();
    sandbox.serve_with(command.env("GOOGLE_APPLICATION_CREDENTIALS", key))
}

/// `keyring` where there is no configuration and no daemon.
fn inside(sandbox: &Sandbox, service: &str, socket: Option<(&str, &Path)>) -> Command {
    let mut command = sandbox.keyring(["get", service, "oauth2accesstoken"]);
    for name in ["HOME", "XDG_RUNTIME_DIR"] {
        command.env(name, sandbox.path("tmp"));
    }
    command.envs(socket);
    command
}

#[test]
fn a_carried_socket_is_asked_about_registries_that_nobody_named_here() {
    let sandbox = Sandbox::new();
    let _daemon = with_daemon(&sandbox, "[build]\ntokens = true\n");
    let (http, ssh) = (container(&sandbox), build(&sandbox));
    let sockets = [("VALETKEY_SOCKET", http.as_path()), ("SSH_AUTH_SOCK", &ssh)];
    let silent = |command: &mut Command| {
        let run = sandbox.run(command);
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(1), "", ""), "{run:?}");
    };
    for socket in sockets {
        assert_given(&sandbox.run(&mut inside(&sandbox, &sandbox.index(), Some(socket))));
        assert_given(&sandbox.run(&mut inside(&sandbox, &sandbox.index_with_user(), Some(socket))));
        silent(&mut inside(&sandbox, "https://other.example/simple/", Some(socket)));
        silent(&mut inside(&sandbox, "a password", Some(socket)));
        let clear = sandbox.index().replace("https://", "http://");
        assert_refused(&sandbox.run(&mut inside(&sandbox, &clear, Some(socket))), "no token for localhost");
    }
    silent(&mut inside(&sandbox, &sandbox.index(), None));
    let nobody = sandbox.path("run/nobody.sock");
    let run = sandbox.run(&mut inside(&sandbox, &sandbox.index(), Some(("VALETKEY_SOCKET", &nobody))));
    assert_refused(&run, "nobody answers");
}

#[test]
fn where_no_token_leaves_the_daemon_the_next_keyring_is_asked() {
    let sandbox = Sandbox::new();
    let _daemon = with_daemon(&sandbox, "");
    let next = sandbox.path("next");
    let script = sandbox.script("next", "#!/bin/sh\necho next \"$@\"\n");
    std::fs::create_dir(next.with_extension("d")).unwrap();
    std::fs::rename(script, next.with_extension("d").join("keyring")).unwrap();
    let path = format!("{}:{}:/bin", sandbox.path("bin").display(), next.with_extension("d").display());
    let socket = container(&sandbox);
    let mut command = inside(&sandbox, &sandbox.index(), Some(("VALETKEY_SOCKET", &socket)));
    let run = sandbox.run(command.env("PATH", path));
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert_eq!(run.stdout, format!("next get {} oauth2accesstoken\n", sandbox.index()));
}

#[test]
fn where_no_token_leaves_the_daemon_a_helper_says_what_to_do() {
    let sandbox = Sandbox::new();
    let _daemon = with_daemon(&sandbox, "");
    let google = "https://us-python.pkg.dev/acme/private/simple/";
    let refused = |socket| {
        let run = sandbox.run(&mut inside(&sandbox, google, Some(socket)));
        assert_refused(&run, "this socket gives no tokens; run the command here as `valetkey exec -- CMD`");
        run.stderr
    };
    let (http, ssh) = (container(&sandbox), build(&sandbox));
    for socket in [("VALETKEY_SOCKET", http.as_path()), ("SSH_AUTH_SOCK", &ssh)] {
        assert!(refused(socket).contains("[build] tokens = true"));
    }
    let mut args = sandbox.valetkey();
    let opened = opened(&sandbox.run(args.args(["docker", "args", "us/acme/private"])));
    assert!(refused(("SSH_AUTH_SOCK", &opened)).contains("`valetkey docker args --tokens`"));
}

/// An agent that says nothing, and how often it was called.
struct Silent(UnixListener);

impl Silent {
    fn listen(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    fn calls(&self) -> usize {
        let calls = std::iter::from_fn(|| self.0.accept().ok());
        calls.map(|(mut stream, _)| stream.read(&mut [0; 64])).count()
    }
}

#[test]
fn the_agent_of_a_shell_is_not_asked_where_our_own_daemon_answers() {
    let sandbox = Sandbox::new();
    let key = sandbox.service_account();
    let path = sandbox.path("run/agent.sock");
    let agent = Silent::listen(&path);
    let get = || sandbox.run(sandbox.get().env("SSH_AUTH_SOCK", &path));
    let mut command = sandbox.valetkey();
    let mut daemon = sandbox.serve_with(command.env("GOOGLE_APPLICATION_CREDENTIALS", key));
    assert_given(&get());
    assert_eq!(agent.calls(), 0);
    // Where nobody answers it might carry one to us. It does not, and that is no error.
    daemon.terminate();
    sandbox.sign_in();
    assert_given(&get());
    assert_eq!(agent.calls(), 1);
    // That has started a daemon.
    assert_given(&get());
    assert_eq!(agent.calls(), 0);
}
