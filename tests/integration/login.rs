//! `valetkey login` and what comes of it, with the stand-in as Google and the test as the browser.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::harness::{Run, Sandbox, finish};
use super::stand_in::{READ_ONLY, USERINFO_EMAIL};
use super::{assert_given, assert_refused};

/// A `valetkey login` that waits for its browser.
pub(super) struct SignIn {
    child: Child,
    /// The address that the browser is to open.
    pub(super) url: String,
    /// What it said before that, and says after it.
    said: std::thread::JoinHandle<String>,
    start: Instant,
}

impl SignIn {
    pub(super) fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        let start = Instant::now();
        let mut command = sandbox.valetkey();
        command.arg("login").args(arguments).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut before = String::new();
        let url = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended before it gave an address: {before}");
            if line.starts_with("http") {
                break line.trim().to_owned();
            }
            before += &line;
        };
        let said = std::thread::spawn(move || {
            let mut rest = String::new();
            stderr.read_to_string(&mut rest).unwrap();
            before + &rest
        });
        Self { child, url, said, start }
    }

    /// Pastes a line.
    pub(super) fn paste(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// Waits for its end.
    pub(super) fn end(self, sandbox: &Sandbox) -> Run {
        let mut run = finish(self.child, self.start, Duration::from_secs(30));
        run.stderr = self.said.join().unwrap();
        sandbox.hear(run.stderr.replace(&self.url, "").as_bytes());
        sandbox.hear(run.stdout.as_bytes());
        run
    }
}

/// An HTTP answer: status, headers and body as one text.
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

/// Asks a port on this machine as a browser would, with these headers in the place of the usual ones.
pub(super) fn ask(method: &str, address: &str, headers: &[(&str, &str)]) -> Seen {
    let url = url::Url::parse(address).unwrap();
    let authority = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let mut stream = TcpStream::connect(&authority).unwrap();
    let target = &address[address.find(&authority).unwrap() + authority.len()..];
    let mut request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request += &format!("Host: {authority}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    stream.write_all((request + "\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Seen { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Follows an answer to the page that it leads to, as a browser does at a redirect.
pub(super) fn follow(address: &str) -> Seen {
    let answer = ask("GET", address, &[]);
    if answer.status != 303 {
        return answer;
    }
    let to = answer.head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap().trim();
    let url = url::Url::parse(address).unwrap().join(to).unwrap();
    ask("GET", url.as_str(), &[])
}

/// Signs in and allows everything.
pub(super) fn sign_in(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    let waiting = SignIn::start(sandbox, arguments);
    let back = sandbox.google.consent(&waiting.url).unwrap();
    let page = follow(&back);
    assert_eq!(page.status, 200, "{}", page.body);
    let run = waiting.end(sandbox);
    assert_eq!(run.code, Some(0), "{run:?}");
    run
}

#[test]
fn a_sign_in_gives_tokens_that_read_until_it_is_signed_out() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let run = sign_in(&sandbox, &["--no-browser"]);
    assert!(run.stdout.starts_with("signed in as developer@acme.example to read"), "{run:?}");
    assert_given(&sandbox.run(&mut sandbox.get()));
    let requests = sandbox.google.token_requests();
    assert_eq!(requests.last().unwrap().scope.as_deref(), Some(READ_ONLY));
    let status = sandbox.run(sandbox.valetkey().arg("status"));
    assert!(
        status.stdout.contains("login      developer@acme.example (default) reads, in a file"),
        "{status:?}"
    );
    let list = std::fs::read_to_string(sandbox.path("home/.local/state/valetkey/accounts.toml")).unwrap();
    assert!(list.contains(USERINFO_EMAIL) && list.contains(READ_ONLY), "{list}");
    let run = sandbox.run(sandbox.valetkey().arg("logout"));
    assert_eq!(
        run.stdout, "signed out developer@acme.example; the sign-in is revoked and forgotten\n",
        "{run:?}"
    );
    assert_eq!(sandbox.google.revocations().len(), 1);
    assert_refused(&sandbox.run(&mut sandbox.get()), "valetkey login");
}
