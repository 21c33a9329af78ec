//! Other processes of this machine, and forged answers. After each attack the login still waits, and works.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
use serde_json::json;

use super::browser::{Browser, Opened};
use super::harness::Sandbox;
use super::leaks::assert_nothing_leaked;
use super::login::{ACCOUNT, Login, accounts, assert_nothing_is_kept, assert_signed_in};
use super::node::Machine;
use super::oidc::{CLIENT_ID, Oidc, Terms};
use super::person::{Verdict, click_through};
use super::wire::{Answer, connect, exchange, get};

fn scene() -> Option<(Sandbox, Oidc, Browser)> {
    let machine = Machine::find()?;
    let sandbox = Sandbox::new();
    let oidc = Oidc::start(&machine, &sandbox, Terms::default());
    oidc.configure(&sandbox);
    let browser = Browser::start(&machine, &sandbox);
    Some((sandbox, oidc, browser))
}

/// A refusal: no page, no redirect, nothing that helps.
#[track_caller]
fn assert_refused(answer: &Answer, what: &str) {
    assert!(answer.status == 0 || (400..500).contains(&answer.status), "{what}: {}", answer.text);
    assert_eq!(answer.header("location"), None, "{what}");
    assert_eq!(answer.header("access-control-allow-origin"), None, "{what}");
}

#[test]
fn only_the_exact_host_is_answered() {
    let Some((sandbox, oidc, browser)) = scene() else { return };
    let login = Login::start(&sandbox, &[]);
    let port = login.port();
    let target = format!("/callback?code=forged&state={}", login.state());
    for host in [
        "attacker.test".to_owned(),
        format!("attacker.test:{port}"),
        format!("localhost:{port}"),
        format!("127.0.0.1.attacker.test:{port}"),
        format!("127.0.0.1:{port}.attacker.test"),
        format!("127.1:{port}"),
        format!("[::1]:{port}"),
        "127.0.0.1".to_owned(),
        "127.0.0.1:80".to_owned(),
        String::new(),
    ] {
        assert_refused(&get(port, &host, &target).expect("a connection"), &host);
    }
    let host = login.host();
    for (what, head) in [
        ("none", String::new()),
        ("two", format!("host: {host}\r\nhost: attacker.test\r\n")),
        ("two the other way", format!("host: attacker.test\r\nhost: {host}\r\n")),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\n{head}connection: close\r\n\r\n");
        assert_refused(&exchange(port, request.as_bytes()).expect("a connection"), what);
    }
    login.completes(&oidc, &browser);
}

#[test]
fn a_code_with_a_wrong_state_is_not_taken() {
    let Some((sandbox, oidc, browser)) = scene() else { return };
    let login = Login::start(&sandbox, &[]);
    let state = login.state();
    let shorter = &state[..state.len() - 1];
    for query in [
        "code=forged&state=guessed".to_owned(),
        "code=forged&state=".to_owned(),
        "code=forged".to_owned(),
        format!("code=forged&state={shorter}"),
        format!("code=forged&state={state}x"),
        format!("code=forged&state={state}%00"),
        format!("code=forged&state={state}&state=other"),
        format!("code=forged&state=other&state={state}"),
        format!("code=forged&code=forged&state={state}"),
        format!("code=forged&error=access_denied&state={state}"),
        format!("code=&state={state}"),
        format!("state={state}"),
        format!("code=forged#state={state}"),
        "error=access_denied".to_owned(),
        "error=access_denied&state=guessed".to_owned(),
        String::new(),
    ] {
        let answer = get(login.port(), &login.host(), &format!("/callback?{query}")).expect("a connection");
        assert_refused(&answer, &query);
        assert!(!answer.text.contains("forged") && !answer.text.contains(&state), "{}", answer.text);
    }
    login.completes(&oidc, &browser);
}

#[test]
fn only_get_on_the_exact_path_is_an_answer() {
    let Some((sandbox, oidc, browser)) = scene() else { return };
    let login = Login::start(&sandbox, &[]);
    let (port, host) = (login.port(), login.host());
    let query = format!("code=forged&state={}", login.state());
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"] {
        let request = format!(
            "{method} /callback?{query} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{query}",
            query.len()
        );
        assert_refused(&exchange(port, request.as_bytes()).expect("a connection"), method);
    }
    for path in [
        "/",
        "/callback/",
        "//callback",
        "/x/../callback",
        "/CALLBACK",
        "/%63allback",
        "/callback;x",
        "/done",
        "/failed",
    ] {
        assert_refused(&get(port, &host, &format!("{path}?{query}")).expect("a connection"), path);
    }
    login.completes(&oidc, &browser);
}

#[test]
fn a_callback_of_a_mebibyte_is_refused() {
    let Some((sandbox, oidc, browser)) = scene() else { return };
    let login = Login::start(&sandbox, &[]);
    let (port, host, state) = (login.port(), login.host(), login.state());
    let much = "A".repeat(1 << 20);
    for (what, request) in [
        ("address", format!("GET /callback?state={state}&code={much} HTTP/1.1\r\nhost: {host}\r\n\r\n")),
        (
            "header",
            format!("GET /callback?state={state}&code=a HTTP/1.1\r\nhost: {host}\r\nx: {much}\r\n\r\n"),
        ),
        ("no end", format!("GET /{much}")),
        (
            "body",
            format!(
                "POST /callback?state={state}&code=a HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{much}",
                much.len()
            ),
        ),
    ] {
        assert_refused(&exchange(port, request.as_bytes()).expect("a connection"), what);
    }
    login.completes(&oidc, &browser);
}

/// Nobody can bind the port beside it, and it is bound on loopback alone.
#[test]
fn no_process_can_share_the_port() {
    let Some((sandbox, oidc, browser)) = scene() else { return };
    let login = Login::start(&sandbox, &[]);
    let port = login.port();
    for address in
        [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))]
    {
        assert!(TcpListener::bind(address).is_err(), "{address}");
        let greedy = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        sockopt::set_socket_reuseaddr(&greedy, true).expect("an option");
        sockopt::set_socket_reuseport(&greedy, true).expect("an option");
        let taken = bind(&greedy, &address).and_then(|()| listen(&greedy, 1));
        assert!(taken.is_err(), "{address} with SO_REUSEPORT");
    }
    // An IPv6 socket for everything may stand beside it; what it must not get is what goes to 127.0.0.1.
    let beside = TcpListener::bind((Ipv6Addr::LOCALHOST, port));
    let target = "/callback?code=forged&state=guessed";
    assert_eq!(get(port, &login.host(), target).expect("an answer").status, 400);
    drop(beside);

    let listening = format!("0100007F:{port:04X} 00000000:0000 0A");
    let table = fs::read_to_string("/proc/net/tcp").expect("a table")
        + &fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    let lines: Vec<_> = table
        .lines()
        .filter(|line| line.contains(&format!(":{port:04X} ")) && line.contains(" 0A "))
        .collect();
    assert!(matches!(lines.as_slice(), [line] if line.contains(&listening)), "{lines:?}");
    login.completes(&oidc, &browser);
}

#[test]
fn connections_that_say_nothing_do_not_keep_the_browser_out() {
    let Some((sandbox, oidc, browser)) = scene() else { return };
    let login = Login::start(&sandbox, &[]);
    let mut idle = Vec::new();
    for number in 0..40 {
        let mut stream = connect(login.port()).expect("a connection");
        if number % 2 == 0 {
            stream.write_all(b"GET /callback?code=").expect("a beginning");
        }
        idle.push(stream);
    }
    login.completes(&oidc, &browser);
}

/// The same answer, many times at once: an exchange of a code that was used revokes what it gave (RFC 6749 4.1.2).
#[test]
fn a_replayed_code_is_exchanged_once() {
    let Some((sandbox, oidc, browser)) = scene() else { return };
    let login = Login::start(&sandbox, &[]);
    let (port, host) = (login.port(), login.host());
    browser.hold("one", &login.redirect());
    assert_eq!(browser.open("one", login.url.as_str()), Opened::Status(200));
    click_through(&browser, "one", ACCOUNT, Verdict::Allow);
    let held = browser.held("one");
    let target = held.strip_prefix(&format!("http://{host}")).expect("an address there");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            // Some come when nobody is there any more.
            scope.spawn(|| get(port, &host, target));
        }
    });
    let run = login.end();
    assert_signed_in(&run, ACCOUNT);
    assert!(get(port, &host, target).is_err(), "it still listens");
    assert_eq!(oidc.exchanges(), 1, "{:?}", oidc.requests());
    let token = sandbox.run(sandbox.valetkey().arg("token"));
    assert_eq!(token.code, Some(0), "{token:?}");
    sandbox.stop();
    assert_nothing_leaked(&sandbox, &oidc, &[&run.stdout, &run.stderr, &token.stderr]);
}

/// An attacker who has seen the address, and so the state, brings a good code of their own account.
#[test]
fn a_code_of_another_sign_in_is_worth_nothing_even_with_the_right_state() {
    let Some((sandbox, oidc, browser)) = scene() else { return };
    let theirs = Login::start(&sandbox, &["--no-browser"]);
    browser.hold("theirs", &theirs.redirect());
    browser.open("theirs", theirs.url.as_str());
    click_through(&browser, "theirs", "mallory@evil.example", Verdict::Allow);
    let held = browser.held("theirs").replace(&theirs.state(), "STATE");
    theirs.kill();

    let login = Login::start(&sandbox, &[]);
    let (_, query) = held.split_once('?').expect("a query");
    let target = format!("/callback?{}", query.replace("STATE", &login.state()));
    let answer = get(login.port(), &login.host(), &target).expect("an answer");
    assert!(answer.header("location").is_none_or(|to| to.ends_with("/failed")), "{}", answer.text);
    let run = login.end();
    assert!(run.code != Some(0) && run.stdout.is_empty(), "{run:?}");
    assert_nothing_is_kept(&sandbox);
    assert_nothing_leaked(&sandbox, &oidc, &[&run.stdout, &run.stderr]);
}

/// The answer says who it is for; nobody but the token endpoint is believed.
#[test]
fn what_a_callback_says_of_the_account_is_not_believed() {
    let Some((sandbox, _oidc, browser)) = scene() else { return };
    let login = Login::start(&sandbox, &[]);
    browser.hold("one", &login.redirect());
    browser.open("one", login.url.as_str());
    click_through(&browser, "one", ACCOUNT, Verdict::Allow);
    let forged = "e30.eyJlbWFpbCI6ImZvcmdlZEBldmlsLmV4YW1wbGUiLCJlbWFpbF92ZXJpZmllZCI6dHJ1ZX0.e30";
    let held = browser.held("one");
    let target = held.strip_prefix(&format!("http://{}", login.host())).expect("an address there");
    let more = format!("&id_token={forged}&email={FORGED}&login_hint={FORGED}&authuser=1&hd=evil.example");
    get(login.port(), &login.host(), &format!("{target}{more}")).expect("an answer");
    let run = login.end();
    assert_signed_in(&run, ACCOUNT);
    assert!(!accounts(&sandbox).contains("forged"), "{}", accounts(&sandbox));
}

/// An identity token that is not meant for this client, that the server did not make, or whose e-mail it does not
/// vouch for.
#[test]
fn a_forged_e_mail_is_never_shown_or_kept() {
    let Some((sandbox, oidc, browser)) = scene() else { return };
    for (number, claims) in [
        json!({"email": FORGED, "aud": "another-client.apps.googleusercontent.com"}),
        json!({"email": FORGED, "aud": CLIENT_ID, "email_verified": false}),
        json!({"email": FORGED, "email_verified": true, "iss": "https://evil.example"}),
        json!({"email": "forged@evil.example\n[[login]]\naccount = \"x\"", "iss": oidc.endpoint("issuer")}),
    ]
    .into_iter()
    .enumerate()
    {
        oidc.forge(&claims);
        // An account that somebody named is not met by a forged one either.
        for (tab, arguments) in [("free", &[][..]), ("named", &["--account", FORGED][..])] {
            let login = Login::start(&sandbox, arguments);
            let page = login.click_through(&browser, &format!("{tab}-{number}"), ACCOUNT, Verdict::Allow);
            let run = login.end();
            assert!(tab == "free" || run.code != Some(0), "{claims}: {run:?}");
            assert!(
                !run.stdout.contains("forged") && !accounts(&sandbox).contains("forged"),
                "{claims}: {run:?}"
            );
            assert!(tab == "named" || !page.text.contains("forged"), "{claims}: {page:?}");
        }
    }
}

const FORGED: &str = "forged@evil.example";
