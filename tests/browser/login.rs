//! A `valetkey login` that waits for its person.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use url::Url;

use super::browser::{Browser, Opened, Page};
use super::harness::{Run, Sandbox};
use super::oidc::Oidc;
use super::person::{Verdict, click_through};

/// The process, from when it has printed its address on. Killed with the value.
pub(crate) struct Login<'a> {
    sandbox: &'a Sandbox,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<JoinHandle<String>>,
    stderr: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    start: Instant,
    /// The authorization URL.
    pub(crate) url: Url,
}

impl<'a> Login<'a> {
    /// Starts it, with a browser of the desktop that only takes notes: see [`Login::notes`].
    #[track_caller]
    pub(crate) fn start(sandbox: &'a Sandbox, arguments: &[&str]) -> Self {
        let opener = sandbox.script("opener", "#!/bin/sh\nprintf '%s\\n' \"$1\" >>\"$HOME/opened\"\n");
        let start = Instant::now();
        let mut child = sandbox
            .valetkey()
            .arg("login")
            .args(arguments)
            .env("BROWSER", format!("{} %s", opener.display()))
            .env("VALETKEY_LOG", "debug")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let stdin = child.stdin.take();
        let mut stdout = child.stdout.take().expect("a pipe");
        let stdout = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stdout.read_to_string(&mut text);
            text
        });
        let pipe = child.stderr.take().expect("a pipe");
        let stderr = Arc::new(Mutex::new(String::new()));
        let heard = Arc::clone(&stderr);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                *heard.lock().unwrap_or_else(PoisonError::into_inner) += &format!("{line}\n");
            }
        });
        let nowhere = Url::parse("http://none.test").expect("an address");
        let mut login = Self {
            sandbox,
            child,
            stdin,
            stdout: Some(stdout),
            stderr,
            reader: Some(reader),
            start,
            url: nowhere,
        };
        login.url = login.await_url();
        login
    }

    /// What the desktop's browser was asked to open, a line each, by all logins of the sandbox.
    pub(crate) fn notes(sandbox: &Sandbox) -> String {
        fs::read_to_string(sandbox.path("home/opened")).unwrap_or_default()
    }

    #[track_caller]
    fn await_url(&mut self) -> Url {
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            let said = self.said();
            // On a line of its own, whole, to be copied from a terminal.
            let addresses = said.lines().filter_map(|line| Url::parse(line).ok());
            if let Some(url) = addresses.into_iter().find(|url| parameter(url, "code_challenge").is_some()) {
                return url;
            }
            let ended = self.child.try_wait().expect("a status");
            assert!(ended.is_none() && Instant::now() < give_up, "no address: {ended:?}\n{said}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn said(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A parameter of the authorization URL.
    #[track_caller]
    pub(crate) fn parameter(&self, name: &str) -> String {
        parameter(&self.url, name).unwrap_or_else(|| panic!("no {name} in {}", self.url))
    }

    pub(crate) fn redirect(&self) -> String {
        self.parameter("redirect_uri")
    }

    pub(crate) fn port(&self) -> u16 {
        Url::parse(&self.redirect()).ok().and_then(|url| url.port()).expect("a port")
    }

    /// `127.0.0.1:PORT`, the only name that it answers to.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    pub(crate) fn state(&self) -> String {
        self.parameter("state")
    }

    /// What a person types or pastes.
    pub(crate) fn paste(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it is open");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).expect("a pipe");
    }

    /// As when the person closes the terminal.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Goes to the authorization URL and through its pages; the page at the end.
    #[track_caller]
    pub(crate) fn click_through(
        &self,
        browser: &Browser,
        tab: &str,
        account: &str,
        verdict: Verdict<'_>,
    ) -> Page {
        assert_eq!(browser.open(tab, self.url.as_str()), Opened::Status(200));
        click_through(browser, tab, account, verdict);
        browser.wait_for(tab, &format!("http://{}/", self.host()))
    }

    /// Waits for the end, which has to come by itself.
    #[track_caller]
    pub(crate) fn end(mut self) -> Run {
        let give_up = Instant::now() + Duration::from_secs(30);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                break status;
            }
            assert!(Instant::now() < give_up, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        };
        let stdout = self.stdout.take().and_then(|reader| reader.join().ok()).expect("its output");
        let _ = self.reader.take().map(JoinHandle::join);
        let run =
            Run { code: status.code(), status, stdout, stderr: self.said(), took: self.start.elapsed() };
        self.sandbox.hear(run.stdout.as_bytes());
        self.sandbox.hear(run.stderr.as_bytes());
        run
    }

    /// Proves that it still waits: a person signs in, and it is done. Nothing but their code was exchanged.
    #[track_caller]
    pub(crate) fn completes(self, oidc: &Oidc, browser: &Browser) -> Run {
        let page = self.click_through(browser, "completes", ACCOUNT, Verdict::Allow);
        assert!(page.url.ends_with("/done"), "{page:?}");
        let run = self.end();
        assert_signed_in(&run, ACCOUNT);
        assert_eq!(oidc.exchanges(), 1, "{:?}", oidc.requests());
        run
    }
}

impl Drop for Login<'_> {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

pub(crate) fn parameter(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

#[track_caller]
pub(crate) fn assert_signed_in(run: &Run, account: &str) {
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains(&format!("signed in as {account}")), "{run:?}");
}

/// The list of logins, which holds no secret. Nothing where nobody signed in.
pub(crate) fn accounts(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.path("home/.local/state/valetkey/accounts.toml")).unwrap_or_default()
}

/// Nobody is signed in, and no secret rests anywhere.
#[track_caller]
pub(crate) fn assert_nothing_is_kept(sandbox: &Sandbox) {
    assert!(!accounts(sandbox).contains('@'), "{}", accounts(sandbox));
    let logins = fs::read_dir(sandbox.path("home/.local/state/valetkey/logins"));
    // A vault may have been tried; what is left of that is no login.
    let left: Vec<_> =
        logins.into_iter().flatten().flatten().filter(|entry| !is_lock(&entry.path())).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn is_lock(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|extension| extension == "lock")
        || path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".lock"))
}

pub(crate) const ACCOUNT: &str = "developer@acme.example";
