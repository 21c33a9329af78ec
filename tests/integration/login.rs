//! `valetkey login` and what comes of it, with the stand-in as Google and the test as the browser.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::harness::{Run, Sandbox, finish};
use super::stand_in::{CLOUD_PLATFORM, Consent, Fault, OAuthClient, Outcome, READ_ONLY, USERINFO_EMAIL};
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
        Self::start_with(sandbox.valetkey().arg("login").args(arguments))
    }

    pub(super) fn start_with(command: &mut Command) -> Self {
        let start = Instant::now();
        command.stdin(Stdio::piped());
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

    /// A parameter of the address.
    pub(super) fn parameter(&self, name: &str) -> String {
        let url = url::Url::parse(&self.url).unwrap();
        url.query_pairs().find(|(known, _)| known == name).unwrap().1.into_owned()
    }

    /// Where the browser is sent back to.
    pub(super) fn redirect(&self) -> String {
        self.parameter("redirect_uri")
    }

    pub(super) fn port(&self) -> u16 {
        url::Url::parse(&self.redirect()).unwrap().port().unwrap()
    }

    /// Pastes a line.
    pub(super) fn paste(&mut self, line: impl AsRef<[u8]>) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(&[line.as_ref(), b"\n"].concat()).unwrap();
        stdin.flush().unwrap();
    }

    /// Nobody can paste any more.
    pub(super) fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    pub(super) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(super) fn is_waiting(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(super) fn end(self, sandbox: &Sandbox) -> Run {
        let (state, mut run) =
            (self.parameter("state"), finish(self.child, self.start, Duration::from_secs(30)));
        run.stderr = self.said.join().unwrap();
        let said = run.stderr.replace(&self.url, "") + &run.stdout;
        assert!(!said.contains(&state), "the state is told: {run:?}");
        sandbox.hear(said.as_bytes());
        run
    }
}

/// An HTTP answer: status, headers and body as one text.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Seen {
    /// Whether it is no page: at most the words for its status.
    pub(super) fn is_plain(&self) -> bool {
        let words = self.body.starts_with(&self.status.to_string()) && self.body.lines().count() == 1;
        self.head.contains("content-type: text/plain") && (words || self.body.is_empty())
    }
}

/// Asks a port on this machine as a browser would, with these headers in the place of the usual ones.
pub(super) fn ask(method: &str, address: &str, headers: &[(&str, &str)]) -> Seen {
    let url = url::Url::parse(address).unwrap();
    let authority = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let target = &address[address.find(&authority).unwrap() + authority.len()..];
    let mut request = format!("{method} {target} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request += &format!("Host: {authority}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    send(url.port().unwrap(), (request + "\r\n").as_bytes())
}

/// Sends these very bytes to a port on this machine. Status 0 is no answer.
pub(super) fn send(port: u16, request: &[u8]) -> Seen {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    // Whoever does not want to hear all of it may hang up.
    let _ = stream.write_all(request);
    hear(stream)
}

/// The answer on a connection.
pub(super) fn hear(mut stream: TcpStream) -> Seen {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Seen { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Where an answer leads to.
pub(super) fn led_to(address: &str, answer: &Seen) -> String {
    let to = answer.head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap().trim();
    url::Url::parse(address).unwrap().join(to).unwrap().into()
}

/// Follows an answer to the page that it leads to, as a browser does at a redirect.
pub(super) fn follow(address: &str) -> Seen {
    let answer = ask("GET", address, &[]);
    if answer.status == 303 { ask("GET", &led_to(address, &answer), &[]) } else { answer }
}

/// Signs in and allows everything.
pub(super) fn sign_in(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    sign_in_as(sandbox, &Consent::given(), arguments)
}

pub(super) fn sign_in_as(sandbox: &Sandbox, consent: &Consent, arguments: &[&str]) -> Run {
    let waiting = SignIn::start(sandbox, &[&["--no-browser"], arguments].concat());
    let back = sandbox.google.consent_as(&waiting.url, consent).unwrap();
    let page = follow(&back);
    let run = waiting.end(sandbox);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(page.status == 200 && page.body.contains("<h1>Signed in</h1>"), "{page:?}");
    run
}

/// Signs in, and it comes to nothing: the page and the end.
pub(super) fn fail_to_sign_in(sandbox: &Sandbox, consent: &Consent, arguments: &[&str]) -> (Seen, Run) {
    let waiting = SignIn::start(sandbox, &[&["--no-browser"], arguments].concat());
    let page = follow(&sandbox.google.consent_as(&waiting.url, consent).unwrap());
    let run = waiting.end(sandbox);
    assert_not_signed_in(&page, &run);
    (page, run)
}

#[track_caller]
pub(super) fn assert_not_signed_in(page: &Seen, run: &Run) {
    assert_eq!(run.stdout, "", "{run:?}");
    assert!(run.stderr.contains("\nerror: ") && run.stderr.contains("\nhint: "), "{run:?}");
    assert!(page.status == 200 && page.body.contains("<h1>Not signed in</h1>"), "{page:?}");
}

/// The logins that `status` tells.
pub(super) fn logins(sandbox: &Sandbox) -> Vec<Value> {
    let run = sandbox.run(sandbox.valetkey().args(["status", "--json"]));
    let status: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"));
    status["logins"].as_array().unwrap().clone()
}

pub(super) fn status(sandbox: &Sandbox) -> String {
    sandbox.run(sandbox.valetkey().arg("status")).stdout
}

/// Asks for the right to publish.
pub(super) fn publish(sandbox: &Sandbox) -> Command {
    sandbox.keyring(["get", &sandbox.index().replace("/simple/", "/"), "oauth2accesstoken"])
}

/// A file as Google's console gives it, in the sandbox's home.
pub(super) fn client_file(sandbox: &Sandbox, name: &str, client: &OAuthClient) -> String {
    // The hunt finds a client's secret wherever a program may have left it; the home itself is the person's.
    sandbox.write(&format!("home/{name}"), &client.file).display().to_string()
}

pub(super) const STATE: &str = "home/.local/state/valetkey";
pub(super) const LIST: &str = "home/.local/state/valetkey/accounts.toml";
pub(super) const DEVELOPER: &str = "developer@acme.example";

fn mode(sandbox: &Sandbox, below: &str) -> u32 {
    sandbox.path(below).metadata().unwrap().permissions().mode() & 0o7777
}

/// Without a daemon: each ask is a refresh.
pub(super) fn alone(command: &mut Command) -> &mut Command {
    command.env("VALETKEY_AUTO_START", "false")
}

#[test]
fn a_sign_in_gives_tokens_that_read_until_it_is_signed_out() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let run = sign_in(&sandbox, &[]);
    assert!(run.stdout.starts_with("signed in as developer@acme.example to read; kept in a file"), "{run:?}");
    assert_given(&sandbox.run(&mut sandbox.get()));
    let requests = sandbox.google.token_requests();
    assert_eq!(requests.last().unwrap().scope.as_deref(), Some(READ_ONLY));
    let status = status(&sandbox);
    assert!(status.contains("login      developer@acme.example (default) reads, in a file"), "{status}");
    let list = fs::read_to_string(sandbox.path(LIST)).unwrap();
    assert!(list.contains(USERINFO_EMAIL) && list.contains(READ_ONLY), "{list}");
    let run = sandbox.run(sandbox.valetkey().arg("logout"));
    assert_eq!(
        run.stdout, "signed out developer@acme.example; the sign-in is revoked and forgotten\n",
        "{run:?}"
    );
    assert_eq!(sandbox.google.revocations().len(), 1);
    assert_refused(&sandbox.run(&mut sandbox.get()), "valetkey login");
}

#[test]
fn a_sign_in_is_asked_for_with_everything_that_google_wants() {
    let sandbox = Sandbox::new();
    let client = sandbox.configure_login("");
    sign_in(&sandbox, &["--account", DEVELOPER]);
    let asked = sandbox.google.authorizations().pop().unwrap();
    assert_eq!(asked.client_id, Some(client.id));
    assert_eq!(asked.scope, Some(format!("openid email {READ_ONLY}")));
    assert_eq!((asked.access_type.as_deref(), asked.prompt.as_deref()), (Some("offline"), Some("consent")));
    assert_eq!(asked.login_hint.as_deref(), Some(DEVELOPER));
    assert!(asked.with_state && asked.with_challenge, "{asked:?}");
    let exchanged = sandbox.google.token_requests().pop().unwrap();
    assert!(exchanged.with_verifier && exchanged.redirect_uri == asked.redirect_uri, "{exchanged:?}");
}

#[test]
fn what_is_left_on_the_disk_is_private_and_the_list_holds_no_secret() {
    let sandbox = Sandbox::new();
    let client = sandbox.configure_login("");
    // Whoever is careless with the umask is so with everything but this.
    let mut command = sandbox.command("/bin/sh");
    let script = "umask 000; exec valetkey login --no-browser";
    let waiting = SignIn::start_with(command.args(["-c", script]));
    assert_eq!(follow(&sandbox.google.consent(&waiting.url).unwrap()).status, 200);
    assert_eq!(waiting.end(&sandbox).code, Some(0));
    assert_given(&sandbox.run(alone(&mut sandbox.get())));
    for below in ["", "/logins", "/health"] {
        assert_eq!(mode(&sandbox, &format!("{STATE}{below}")), 0o700, "{below}");
    }
    let mut files = 0;
    for directory in ["", "/logins", "/health"] {
        for entry in fs::read_dir(sandbox.path(&format!("{STATE}{directory}"))).unwrap().flatten() {
            if entry.file_type().unwrap().is_file() {
                files += 1;
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
            }
        }
    }
    assert!(files >= 4, "only {files} files");
    let list = fs::read_to_string(sandbox.path(LIST)).unwrap();
    let secrets = sandbox.google.secrets();
    assert!(secrets.iter().all(|secret| !list.contains(secret)) && !list.contains(&client.secret), "{list}");
}

#[test]
fn reading_never_uses_the_login_that_publishes() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    // The client tells which of the two refresh tokens was used.
    let [reader, writer] = [sandbox.google.desktop_client(), sandbox.google.desktop_client()];
    let files = [client_file(&sandbox, "r.json", &reader), client_file(&sandbox, "w.json", &writer)];
    sign_in(&sandbox, &["--write", "--client-id-file", &files[1]]);
    let run = sandbox.run(&mut sandbox.get());
    assert_given(&run);
    let used = || {
        let request = sandbox.google.token_requests().pop().unwrap();
        (request.client_id.unwrap(), request.scope.unwrap_or_default())
    };
    assert_eq!(used(), (writer.id.clone(), READ_ONLY.to_owned()), "all there is, narrowed");
    sign_in(&sandbox, &["--client-id-file", &files[0]]);
    assert_eq!(logins(&sandbox).len(), 2);
    assert_given(&sandbox.run(&mut sandbox.get()));
    assert_eq!(used(), (reader.id, READ_ONLY.to_owned()));
    assert_given(&sandbox.run(&mut publish(&sandbox)));
    assert_eq!(used(), (writer.id, CLOUD_PLATFORM.to_owned()));
    let status = status(&sandbox);
    assert!(status.contains("reads and publishes, in a file"), "{status}");
}

#[test]
fn publishing_with_a_login_that_reads_ends_with_the_command() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    sandbox.sign_in();
    sign_in(&sandbox, &[]);
    for daemon in ["false", "true"] {
        let run = sandbox.run(publish(&sandbox).env("VALETKEY_AUTO_START", daemon));
        assert_refused(&run, "the login of developer@acme.example may read and not publish");
        assert!(run.stderr.contains("`valetkey login --write --account developer@acme.example`"), "{run:?}");
    }
    // gcloud's file could have published: nobody was stepped to.
    assert_eq!(sandbox.google.token_requests().len(), 1);
}

#[test]
fn a_running_daemon_knows_a_new_login_at_once_and_forgets_it_at_logout() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let daemon = sandbox.serve();
    assert_refused(&sandbox.run(&mut sandbox.get()), "no Google credential found");
    let identity = || {
        assert_given(&sandbox.run(&mut sandbox.get()));
        sandbox.google.token_requests().pop().unwrap().identity.unwrap()
    };
    sign_in(&sandbox, &[]);
    assert_eq!(identity(), DEVELOPER);
    assert!(sandbox.run(sandbox.valetkey().arg("logout")).stdout.contains("revoked and forgotten"));
    assert_refused(&sandbox.run(&mut sandbox.get()), "no login is stored");
    // The same with an identity that comes later in the order.
    sandbox.write(super::harness::ADC, &sandbox.google.authorized_user("gcloud@acme.example"));
    sandbox.run(sandbox.valetkey().arg("reload"));
    assert_eq!(identity(), "gcloud@acme.example");
    sign_in(&sandbox, &[]);
    assert_eq!(identity(), DEVELOPER);
    assert!(sandbox.run(sandbox.valetkey().arg("logout")).stdout.contains("revoked and forgotten"));
    assert_eq!(identity(), "gcloud@acme.example");
    assert!(
        daemon.log().contains(r#""verdict":"given","identity":"developer@acme.example""#),
        "{}",
        daemon.log()
    );
}

#[test]
fn a_daemon_that_is_told_nothing_sees_the_new_login_by_itself() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    sandbox.write(super::harness::ADC, &sandbox.google.authorized_user("gcloud@acme.example"));
    let _daemon = sandbox.serve();
    let first = assert_given(&sandbox.run(&mut sandbox.get()));
    // Another runtime directory: the sign-in finds no daemon to tell.
    let mut command = sandbox.valetkey();
    command.args(["login", "--no-browser"]).env("XDG_RUNTIME_DIR", sandbox.path("tmp"));
    let waiting = SignIn::start_with(&mut command);
    assert_eq!(follow(&sandbox.google.consent(&waiting.url).unwrap()).status, 200);
    assert_eq!(waiting.end(&sandbox).code, Some(0));
    Sandbox::wait_until("another identity", || assert_given(&sandbox.run(&mut sandbox.get())) != first);
    assert_eq!(sandbox.google.token_requests().pop().unwrap().identity.as_deref(), Some(DEVELOPER));
}

#[test]
fn a_helper_starts_a_daemon_for_a_stored_login() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    sign_in(&sandbox, &[]);
    assert!(!sandbox.socket().exists());
    let token = assert_given(&sandbox.run(&mut sandbox.get()));
    let status = status(&sandbox);
    assert!(status.contains("started by helper") && status.contains("1. stored login\n"), "{status}");
    assert_eq!(assert_given(&sandbox.run(&mut sandbox.get())), token, "the daemon keeps it");
}

#[test]
fn a_helper_with_another_home_never_gets_this_homes_login() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    sign_in(&sandbox, &[]);
    let _daemon = sandbox.serve();
    assert_given(&sandbox.run(&mut sandbox.get()));
    let elsewhere = |credential: Option<&str>| {
        let mut command = sandbox.get();
        command.env("HOME", sandbox.path("other")).env("XDG_CONFIG_HOME", sandbox.path("home/.config"));
        sandbox.run(command.envs(credential.map(|account| ("VALETKEY_CREDENTIAL", account))))
    };
    assert_refused(&elsewhere(None), "no login is stored");
    assert_refused(&elsewhere(Some(DEVELOPER)), "no login of developer@acme.example is stored");
    assert_given(&sandbox.run(sandbox.get().env("VALETKEY_CREDENTIAL", DEVELOPER)));
    // And the other way round.
    let reload = || assert_eq!(sandbox.run(sandbox.valetkey().arg("reload")).code, Some(0));
    fs::create_dir_all(sandbox.path("other/.local")).unwrap();
    fs::rename(sandbox.path("home/.local/state"), sandbox.path("other/.local/state")).unwrap();
    reload();
    assert_given(&elsewhere(Some(DEVELOPER)));
    let run = sandbox.run(sandbox.get().env("VALETKEY_CREDENTIAL", DEVELOPER));
    fs::rename(sandbox.path("other/.local/state"), sandbox.path("home/.local/state")).unwrap();
    assert_refused(&run, "no login of developer@acme.example is stored");
}

#[test]
fn a_no_on_the_page_is_told_and_nothing_is_kept() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let (page, run) = fail_to_sign_in(&sandbox, &Consent::denied(), &[]);
    assert!(
        page.body.contains("<p>The sign-in was refused: somebody chose not to allow it.</p>"),
        "{page:?}"
    );
    assert!(page.body.contains("Nothing was kept"), "{page:?}");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(logins(&sandbox).is_empty() && sandbox.google.token_requests().is_empty());
    assert!(!sandbox.path(LIST).exists());
    assert_eq!(sandbox.google.authorizations()[0].outcome, Outcome::Denied);
}

#[test]
fn a_box_that_is_not_ticked_is_told_by_its_name() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    for (scope, arguments) in [(READ_ONLY, &[][..]), (CLOUD_PLATFORM, &["--write"][..])] {
        let (page, run) = fail_to_sign_in(&sandbox, &Consent::given().without(scope), arguments);
        assert!(page.body.contains(&format!("without the permission {scope}.</p>")), "{page:?}");
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains("tick every box"), "{run:?}");
    }
    assert!(logins(&sandbox).is_empty());
    // Whoever may publish and not read, reads with what he has.
    sign_in_as(&sandbox, &Consent::given().without(READ_ONLY), &["--write"]);
    assert_given(&sandbox.run(&mut sandbox.get()));
    assert_eq!(sandbox.google.token_requests().pop().unwrap().scope, None);
}

#[test]
fn a_sign_in_without_a_refresh_token_is_none() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let waiting = SignIn::start(&sandbox, &["--no-browser"]);
    let online = waiting.url.replace("access_type=offline", "access_type=online");
    let page = follow(&sandbox.google.consent(&online).unwrap());
    let run = waiting.end(&sandbox);
    assert_not_signed_in(&page, &run);
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(page.body.contains("gave no refresh token"), "{page:?}");
    assert!(logins(&sandbox).is_empty());
}

#[test]
fn a_client_in_testing_mode_gives_a_login_with_an_end() {
    let sandbox = Sandbox::new();
    let client = sandbox.configure_login("");
    sandbox.google.put_in_testing(&client.id);
    sign_in(&sandbox, &[]);
    let ends = logins(&sandbox)[0]["ends"].as_str().unwrap().to_owned();
    assert!(ends.ends_with('Z'), "{ends}");
    let status = status(&sandbox);
    assert!(status.contains("ends in 6 days, as all sign-ins with a client in testing mode do"), "{status}");
}

#[test]
fn a_code_is_exchanged_once_however_the_endpoint_fails() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    for (fault, word) in [
        (Fault::status(500), "status 500"),
        (Fault::CloseAtOnce, "<p>localhost:"),
        (Fault::HalfBody, "broke off"),
        (Fault::not_json(), "not a token"),
        (
            Fault::oauth_error("invalid_grant", "Bad \u{1b}[2J \u{202e}Request <b>"),
            "Bad  [2J  Request &lt;b&gt;",
        ),
    ] {
        let before = sandbox.google.token_requests().len();
        sandbox.google.token_faults(vec![fault]);
        let (page, run) = fail_to_sign_in(&sandbox, &Consent::given(), &[]);
        assert!(page.body.contains(word), "{word}: {page:?}");
        assert_eq!(run.code, Some(3), "{run:?}");
        assert!(!run.stderr.contains(['\u{1b}', '\u{202e}']), "{run:?}");
        assert_eq!(sandbox.google.token_requests().len(), before + 1, "{word}");
    }
    assert!(logins(&sandbox).is_empty());
}

#[test]
fn another_account_than_the_named_one_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let other = Consent::given().by("other@acme.example");
    let (page, run) = fail_to_sign_in(&sandbox, &other, &["--account", DEVELOPER]);
    assert!(
        page.body.contains("<p>other@acme.example signed in, and --account names developer@"),
        "{page:?}"
    );
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(logins(&sandbox).is_empty());
    sign_in_as(&sandbox, &other, &["--account", "OTHER@acme.example"]);
    assert_eq!(logins(&sandbox)[0]["account"], "other@acme.example");
}

#[test]
fn a_pasted_address_finishes_the_sign_in() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let mut waiting = SignIn::start(&sandbox, &["--no-browser"]);
    let back = sandbox.google.consent(&waiting.url).unwrap();
    waiting.paste(format!("\n   \n \t {back} \r"));
    let run = waiting.end(&sandbox);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("Paste that address here:\n"), "{run:?}");
    assert!(!run.stderr.contains("try again"), "blanks are no answer: {run:?}");
    assert_given(&sandbox.run(&mut sandbox.get()));
}

#[test]
fn what_is_pasted_by_mistake_is_told_and_the_right_address_still_counts() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let other = SignIn::start(&sandbox, &["--no-browser"]);
    let stale = sandbox.google.consent(&other.url).unwrap();
    other.signal(rustix::process::Signal::TERM);
    other.end(&sandbox);
    let mut waiting = SignIn::start(&sandbox, &["--no-browser"]);
    let back = sandbox.google.consent(&waiting.url).unwrap();
    waiting.paste(&stale);
    waiting.paste("what is this \u{1b}[2J");
    waiting.paste([0xff, 0xfe]);
    waiting.paste("x".repeat(1 << 20));
    waiting.paste(waiting.url.clone());
    waiting.paste(back.replace("/callback", "/done"));
    waiting.paste(back.replace("code=", "kode="));
    waiting.paste(&back);
    let run = waiting.end(&sandbox);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.stderr.matches("belongs to another sign-in; try again").count(), 1, "{run:?}");
    assert_eq!(run.stderr.matches("not the address that the browser ended at").count(), 6, "{run:?}");
    assert!(!run.stderr.contains('\u{1b}') && !run.stderr.contains("xxxx"), "{run:?}");
    assert_eq!(sandbox.google.token_requests().len(), 1);
}

#[test]
fn the_end_of_the_input_leaves_the_browser() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let mut waiting = SignIn::start(&sandbox, &["--no-browser"]);
    waiting.paste("nothing");
    waiting.close_input();
    assert_eq!(follow(&sandbox.google.consent(&waiting.url).unwrap()).status, 200);
    assert_eq!(waiting.end(&sandbox).code, Some(0));
}

#[test]
fn a_browser_is_started_with_the_address_and_as_the_person_would_start_it() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let script = "#!/bin/sh\n{ echo $#; echo \"$1\"; umask; export -p; } > \"$HOME/new\"\n\
                  /bin/mv \"$HOME/new\" \"$HOME/opened\"\n";
    let browser = sandbox.script("browser", script);
    let mut command = sandbox.command("/bin/sh");
    command
        .args(["-c", "umask 027; exec valetkey login"])
        .env("BROWSER", &browser)
        .env("VALETKEY_LOG", "debug");
    let waiting = SignIn::start_with(&mut command);
    let opened = sandbox.path("home/opened");
    Sandbox::wait_until("the browser is open", || opened.exists());
    let seen = fs::read_to_string(opened).unwrap();
    let mut lines = seen.lines();
    assert_eq!(lines.next(), Some("1"), "{seen}");
    assert_eq!(lines.next(), Some(waiting.url.as_str()));
    assert_eq!(lines.next(), Some("0027"), "a browser saves files: {seen}");
    sandbox.hear(seen.as_bytes());
    assert_eq!(follow(&sandbox.google.consent(&waiting.url).unwrap()).status, 200);
    let run = waiting.end(&sandbox);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.starts_with("Your browser has been asked to open"), "{run:?}");
    assert!(!run.stderr.contains("Paste"), "{run:?}");
}

#[test]
fn where_no_browser_starts_an_answer_can_be_pasted() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let mut command = sandbox.valetkey();
    let mut waiting = SignIn::start_with(command.arg("login").env("BROWSER", sandbox.path("bin/none")));
    let back = sandbox.google.consent(&waiting.url).unwrap();
    waiting.paste(&back);
    let run = waiting.end(&sandbox);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.starts_with("valetkey: no browser could be started\nOpen this address"), "{run:?}");
    // And where there is no desktop at all.
    let mut waiting = SignIn::start(&sandbox, &[]);
    let back = sandbox.google.consent(&waiting.url).unwrap();
    waiting.paste(&back);
    let run = waiting.end(&sandbox);
    assert!(run.code == Some(0) && run.stderr.starts_with("valetkey: there is no desktop here\n"), "{run:?}");
}

#[test]
fn two_sign_ins_at_once_are_both_kept() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let accounts = ["one@acme.example", "two@acme.example", "three@acme.example"];
    let waiting: Vec<_> = accounts.iter().map(|_| SignIn::start(&sandbox, &["--no-browser"])).collect();
    let backs: Vec<_> = accounts
        .iter()
        .zip(&waiting)
        .map(|(email, it)| sandbox.google.consent_as(&it.url, &Consent::given().by(email)).unwrap())
        .collect();
    let tabs: Vec<_> = backs.into_iter().map(|back| std::thread::spawn(move || follow(&back))).collect();
    for tab in tabs {
        assert!(tab.join().unwrap().body.contains("<h1>Signed in</h1>"));
    }
    for it in waiting {
        assert_eq!(it.end(&sandbox).code, Some(0));
    }
    let mut kept: Vec<_> =
        logins(&sandbox).iter().map(|it| it["account"].as_str().unwrap().to_owned()).collect();
    kept.sort();
    assert_eq!(kept, ["one@acme.example", "three@acme.example", "two@acme.example"]);
    for account in accounts {
        assert_given(&sandbox.run(sandbox.get().env("VALETKEY_CREDENTIAL", account)));
    }
}

#[test]
fn signing_in_again_takes_the_place_of_the_older_login() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    sign_in(&sandbox, &[]);
    sandbox.google.end_logins(DEVELOPER, super::stand_in::Death::Revoked);
    assert_refused(&sandbox.run(alone(&mut sandbox.get())), "is dead");
    sign_in(&sandbox, &[]);
    assert_eq!(logins(&sandbox).len(), 1);
    assert!(logins(&sandbox)[0]["problem"].is_null(), "the older one's death is not the new one's");
    assert_given(&sandbox.run(alone(&mut sandbox.get())));
}

#[test]
fn the_vault_is_shown_and_what_is_there_already_stays() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let vault = |arguments: &[&str]| sandbox.run(sandbox.valetkey().arg("vault").args(arguments));
    let run = vault(&[]);
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (Some(0), "", "valetkey: no login is stored\n")
    );
    sign_in(&sandbox, &[]);
    sign_in(&sandbox, &["--write"]);
    let shown = "developer@acme.example (read): file\ndeveloper@acme.example (write): file\n";
    assert_eq!(vault(&[]).stdout, shown);
    let run = vault(&["file"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    assert!(run.stderr.starts_with("valetkey: nothing to move"), "{run:?}");
    assert_eq!(vault(&[]).stdout, shown);
    assert_given(&sandbox.run(&mut publish(&sandbox)));
}
