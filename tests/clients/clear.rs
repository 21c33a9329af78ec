//! pip with an index by plain http: whatever stands between it and us, no token travels in clear.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use super::client::{Client, Identity, path, run};
use super::harness::{Sandbox, VALETKEY};

/// A registry that speaks plain http, wants a password, and keeps every head that it sees.
fn registry() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, heads) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&heads);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                let lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
                seen.lock().unwrap().push(head.join("\n"));
                let answer = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic realm=x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                (&stream).write_all(answer.as_bytes())
            });
        }
    });
    (port, heads)
}

#[test]
fn a_wrapper_without_exec_gets_nothing_for_plain_http() {
    for name in ["pip-23.1", "pip-26.1.2", "pip-newest"] {
        let Some(client) = Client::find(name) else { return };
        for wrapper in ["", "setsid -w ", "sh -c '\"$@\"; exit $?' sh "] {
            let sandbox = Sandbox::new();
            let (port, heads) = registry();
            sandbox.configure(&format!("[[registry]]\nhost = \"localhost:{port}\"\n"));
            let script = format!(
                "#!/bin/sh\necho \"$@\" >>\"$0.calls\"\n{wrapper}{VALETKEY} keyring \"$@\"\nexit $?\n"
            );
            sandbox.script("keyring", &script);
            let index = format!("http://oauth2accesstoken@localhost:{port}/acme/private/simple/");
            let mut pip = client.pip_install(&sandbox, Identity::User, &index);
            let search = [sandbox.path("bin"), "/usr/bin".into(), "/bin".into()];
            pip.args(["--no-input", "acme-hello"]).env("PATH", path(search));
            let run = run(&sandbox, &mut pip);
            assert_ne!(run.code, Some(0), "{run:?}");
            let calls = std::fs::read_to_string(sandbox.path("bin/keyring.calls")).unwrap();
            assert!(calls.contains("get http://") && calls.contains("get localhost:"), "{name}: {calls}");
            assert!(
                sandbox.google.token_requests().is_empty(),
                "{name} {wrapper}: a token was made: {calls}"
            );
            for head in heads.lock().unwrap().iter() {
                // The name with an empty password is what pip tries by itself.
                let sent = head.lines().find(|line| line.to_lowercase().starts_with("authorization:"));
                let harmless = sent.is_none_or(|line| line.ends_with(" b2F1dGgyYWNjZXNzdG9rZW46"));
                assert!(harmless, "{name} {wrapper}: {head}");
            }
        }
    }
}
