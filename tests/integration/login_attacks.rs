//! What others do to a sign-in: web pages, other users, other programs of this user, a server that lies.
//!
//! Each attack comes while a real sign-in waits, with all that the attacker could know, and in the end the right
//! answer still counts: nothing was taken, and nothing was used up.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_reuseaddr, set_socket_reuseport};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
use rustix::process::Signal;

use super::assert_given;
use super::harness::Sandbox;
use super::login::{
    DEVELOPER, LIST, STATE, Seen, SignIn, alone, ask, assert_not_signed_in, fail_to_sign_in, follow, hear,
    led_to, logins, send, sign_in, status,
};
use super::stand_in::{Consent, Fault, IdentityLie};

/// A sign-in that waits, and the address with the right answer.
pub(super) struct Waiting {
    pub(super) sandbox: Sandbox,
    pub(super) it: SignIn,
    pub(super) back: String,
}

impl Waiting {
    pub(super) fn new() -> Self {
        let sandbox = Sandbox::new();
        sandbox.configure_login("");
        let it = SignIn::start(&sandbox, &["--no-browser"]);
        let back = sandbox.google.consent(&it.url).unwrap();
        Self { sandbox, it, back }
    }

    /// The path and query of the right answer.
    pub(super) fn target(&self) -> String {
        self.back[self.back.find("/callback").unwrap()..].to_owned()
    }

    /// Path and query with a wrong state, a right code.
    pub(super) fn other_state(&self) -> String {
        self.back.replace(&self.it.parameter("state"), &"A".repeat(43))
    }

    /// The right answer still counts, once.
    pub(super) fn still_signs_in(self) -> Sandbox {
        let Self { sandbox, mut it, back } = self;
        assert!(it.is_waiting() && sandbox.google.token_requests().is_empty(), "something was taken");
        let page = follow(&back);
        let run = it.end(&sandbox);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert!(page.status == 200 && page.body.contains("<h1>Signed in</h1>"), "{page:?}");
        assert_eq!(sandbox.google.token_requests().len(), 1);
        sandbox
    }
}

/// What a request says of itself.
type Headers<'a> = &'a [(&'a str, &'a str)];

/// Nothing on a page helps whoever reads it later.
#[track_caller]
fn assert_quiet(seen: &Seen) {
    let head = &seen.head;
    assert!(head.contains("\r\ncache-control: no-store"), "{head}");
    assert!(head.contains("\r\nreferrer-policy: no-referrer"), "{head}");
    assert!(head.contains("default-src 'none'") && head.contains("frame-ancestors 'none'"), "{head}");
    assert!(head.contains("\r\nx-content-type-options: nosniff"), "{head}");
    assert!(!head.contains("access-control-"), "{head}");
}

#[test]
fn only_a_navigation_of_a_browser_is_an_answer() {
    let waiting = Waiting::new();
    let refused: [(&str, Headers, u16); 17] = [
        ("POST", &[], 405),
        ("HEAD", &[], 405),
        ("OPTIONS", &[], 405),
        ("PUT", &[], 405),
        ("DELETE", &[], 405),
        ("POST", &[("Origin", "https://evil.test")], 403),
        ("OPTIONS", &[("Origin", "https://evil.test"), ("Access-Control-Request-Method", "GET")], 403),
        (
            "OPTIONS",
            &[("Origin", "https://evil.test"), ("Access-Control-Request-Private-Network", "true")],
            403,
        ),
        ("GET", &[("Origin", "https://evil.test")], 403),
        ("GET", &[("Origin", "null")], 403),
        ("GET", &[("Sec-Fetch-Mode", "no-cors")], 403),
        ("GET", &[("Sec-Fetch-Mode", "cors")], 403),
        ("GET", &[("Sec-Fetch-Mode", "websocket")], 403),
        ("GET", &[("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")], 403),
        ("GET", &[("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "object")], 403),
        ("GET", &[("Sec-Fetch-Dest", "script")], 403),
        ("GET", &[("Sec-Fetch-Dest", "image")], 403),
    ];
    for (method, headers, status) in refused {
        let seen = ask(method, &waiting.back, headers);
        assert_eq!((seen.status, seen.is_plain()), (status, true), "{method} {headers:?}");
        assert_quiet(&seen);
        assert_eq!(status == 405, seen.head.contains("\r\nallow: get"), "{}", seen.head);
    }
    // What a browser says of the navigation that is meant.
    let real =
        [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")];
    let seen = ask("GET", &waiting.other_state(), &real);
    assert!(seen.status == 400 && seen.body.contains("<h1>An older sign-in</h1>"), "{seen:?}");
    waiting.still_signs_in();
}

#[test]
fn a_name_that_leads_here_is_not_ours() {
    let waiting = Waiting::new();
    let (port, target) = (waiting.it.port(), waiting.target());
    let own = format!("127.0.0.1:{port}");
    let hosts = [
        format!("attacker.test:{port}"),
        "attacker.test".to_owned(),
        format!("localhost:{port}"),
        "127.0.0.1".to_owned(),
        format!("127.0.0.1:{}", port ^ 1),
        format!("127.0.0.1:0{port}"),
        format!("127.0.0.1.:{port}"),
        format!("127.1:{port}"),
        format!("2130706433:{port}"),
        format!("[::1]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("user@{own}"),
        format!("{own}.attacker.test"),
        String::new(),
    ];
    for host in &hosts {
        let seen = ask("GET", &waiting.back, &[("Host", host)]);
        assert_eq!((seen.status, seen.is_plain()), (400, true), "{host}: {seen:?}");
    }
    let requests = [
        format!("GET {target} HTTP/1.1\r\nHost: {own}\r\nHost: attacker.test\r\n\r\n"),
        format!("GET {target} HTTP/1.1\r\nHost: {own}\r\nHost: {own}\r\n\r\n"),
        format!("GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n"),
        format!("GET {target} HTTP/1.0\r\n\r\n"),
        format!("GET http://attacker.test{target} HTTP/1.1\r\nHost: {own}\r\n\r\n"),
        format!("GET http://{own}{target} HTTP/1.1\r\nHost: {own}\r\n\r\n"),
        format!("GET http://{own}{target} HTTP/1.1\r\nHost: attacker.test\r\n\r\n"),
        format!("CONNECT {own} HTTP/1.1\r\nHost: {own}\r\n\r\n"),
    ];
    for request in requests {
        assert_eq!(send(port, request.as_bytes()).status, 400, "{request}");
    }
    waiting.still_signs_in();
}

#[test]
fn there_is_one_path() {
    let waiting = Waiting::new();
    let query = waiting.target().split_once('?').unwrap().1.to_owned();
    let origin = format!("http://127.0.0.1:{}", waiting.it.port());
    for path in [
        "/",
        "/favicon.ico",
        "/callback/",
        "//callback",
        "/Callback",
        "/%63allback",
        "/callback;x",
        "/callback%3f",
        "/x/../callback",
        "/done",
        "/failed",
        "/.well-known/anything",
    ] {
        let seen = ask("GET", &format!("{origin}{path}?{query}"), &[]);
        assert_eq!((seen.status, seen.is_plain()), (404, true), "{path}");
        assert_quiet(&seen);
    }
    waiting.still_signs_in();
}

#[test]
fn an_answer_with_another_state_changes_nothing() {
    let waiting = Waiting::new();
    let state = waiting.it.parameter("state");
    assert!(state.len() >= 22, "128 bits: {state}");
    let changed = |new: &str| waiting.back.replace(&state, new);
    let mut flipped = state.clone();
    flipped.replace_range(0..1, if state.starts_with('A') { "B" } else { "A" });
    for address in [
        waiting.other_state(),
        changed(""),
        changed(&state[..42]),
        changed(&format!("{state}A")),
        changed(&flipped),
        changed(&state.to_lowercase()),
        waiting.other_state().replace("code=", "error="),
    ] {
        let seen = ask("GET", &address, &[]);
        assert_eq!(seen.status, 400, "{seen:?}");
        assert!(seen.body.contains("<h1>An older sign-in</h1>"), "{seen:?}");
        assert!(!seen.body.contains("stand-in") && !seen.body.contains(&state), "{seen:?}");
        assert_quiet(&seen);
    }
    waiting.still_signs_in();
}

#[test]
fn an_answer_that_says_things_twice_is_none() {
    let waiting = Waiting::new();
    let state = waiting.it.parameter("state");
    let many = "&x=1".repeat(1000);
    for address in [
        format!("{}&code=another", waiting.back),
        format!("{}&state={state}", waiting.back),
        format!("{}&state=another", waiting.back),
        format!("{}&error=access_denied", waiting.back),
        format!("{}?state={state}", waiting.it.redirect()),
        format!("{}?code=4%2Fabc", waiting.it.redirect()),
        format!("{}?state={state}&code=", waiting.it.redirect()),
        format!("{}?code=4%2Fabc{many}", waiting.it.redirect()),
        waiting.it.redirect(),
    ] {
        let seen = ask("GET", &address, &[]);
        assert_eq!(seen.status, 400, "{seen:?}");
        assert!(seen.body.contains("<h1>Nothing to see here</h1>"), "{seen:?}");
        assert!(!seen.body.contains("4/abc") && !seen.body.contains(&state), "{seen:?}");
    }
    waiting.still_signs_in();
}

#[test]
fn a_thousand_parameters_around_the_right_answer_do_not_hide_it() {
    let Waiting { sandbox, it, back } = Waiting::new();
    let page = follow(&format!("{back}{}", "&x=1".repeat(1000)));
    assert!(page.body.contains("<h1>Signed in</h1>"), "{page:?}");
    assert_eq!(it.end(&sandbox).code, Some(0));
}

#[test]
fn a_megabyte_is_refused_and_costs_nothing() {
    let waiting = Waiting::new();
    let (port, target) = (waiting.it.port(), waiting.target());
    let huge = "x".repeat(1 << 20);
    for request in [
        format!("GET {target}&x={huge} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"),
        format!("GET {target} HTTP/1.1\r\nX: {huge}\r\nHost: 127.0.0.1:{port}\r\n\r\n"),
        format!("GET {target} HTTP/1.1\r\n{}Host: 127.0.0.1:{port}\r\n\r\n", "X: y\r\n".repeat(1000)),
        format!("{huge}\r\n\r\n"),
    ] {
        let seen = send(port, request.as_bytes());
        // A reset may overtake the answer.
        assert!(matches!(seen.status, 0 | 400 | 414 | 431), "{}", seen.head);
    }
    waiting.still_signs_in();
}

#[test]
fn what_is_no_http_costs_nothing() {
    let waiting = Waiting::new();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", waiting.it.port())).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_ne!(hear(stream).status, 200);
    }
    waiting.still_signs_in();
}

#[test]
fn a_code_is_good_once_and_then_nobody_listens() {
    let waiting = Waiting::new();
    let (port, back) = (waiting.it.port(), waiting.back.clone());
    let sandbox = waiting.still_signs_in();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the port is still open");
    assert_given(&sandbox.run(alone(&mut sandbox.get())));
    let exchanges = sandbox.google.token_requests();
    let exchanges = exchanges.iter().filter(|request| request.grant_type == "authorization_code");
    assert_eq!(exchanges.count(), 1, "{back}");
}

#[test]
fn a_second_tab_with_the_same_address_is_shown_the_same_page() {
    let Waiting { sandbox, it, back } = Waiting::new();
    // The outcome takes its time, so that all of them wait for it.
    sandbox.google.token_faults(vec![Fault::Delay(Duration::from_millis(400))]);
    let (port, target) = (it.port(), back[back.find("/callback").unwrap()..].to_owned());
    let request = format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    let tabs: Vec<_> = (0..3)
        .map(|_| {
            let mut tab = TcpStream::connect(("127.0.0.1", port)).unwrap();
            tab.write_all(request.as_bytes()).unwrap();
            tab
        })
        .collect();
    let answers: Vec<_> = tabs.into_iter().map(hear).collect();
    for answer in &answers {
        assert_eq!((answer.status, answer.is_plain()), (303, true), "{answer:?}");
        assert!(!answer.head.contains("code=") && !answer.head.contains("state="), "{answer:?}");
        assert_quiet(answer);
    }
    for answer in &answers {
        let page = ask("GET", &led_to(&back, answer), &[]);
        assert!(page.status == 200 && page.body.contains("<h1>Signed in</h1>"), "{page:?}");
        assert!(page.body.contains("<strong>developer@acme.example</strong>"), "{page:?}");
        assert!(page.body.contains("<title>Signed in · valetkey</title>"), "{page:?}");
        assert_quiet(&page);
    }
    assert_eq!(it.end(&sandbox).code, Some(0));
    assert_eq!(sandbox.google.token_requests().len(), 1);
}

#[test]
fn a_tab_that_is_closed_early_does_not_hold_the_end() {
    let Waiting { sandbox, it, back } = Waiting::new();
    sandbox.google.token_faults(vec![Fault::Delay(Duration::from_millis(200))]);
    let (port, target) = (it.port(), back[back.find("/callback").unwrap()..].to_owned());
    let mut tab = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tab.write_all(format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").as_bytes()).unwrap();
    Sandbox::wait_until("the code is exchanged", || !sandbox.google.token_requests().is_empty());
    drop(tab);
    assert_eq!(it.end(&sandbox).code, Some(0));
    assert_eq!(logins(&sandbox).len(), 1);
}

/// Somebody has the person sign in to the attacker's account: a code that was asked for elsewhere, with the right
/// state, which `ps` shows.
#[test]
fn a_code_that_another_asked_for_is_worth_nothing_here() {
    let Waiting { sandbox, it, .. } = Waiting::new();
    let challenge = it.parameter("code_challenge");
    let url = it.url.replace(&challenge, &"B".repeat(43));
    let back = sandbox.google.consent_as(&url, &Consent::given().by("attacker@evil.example")).unwrap();
    let page = follow(&back);
    let run = it.end(&sandbox);
    assert_not_signed_in(&page, &run);
    assert_eq!(run.code, Some(3), "{run:?}");
    let request = sandbox.google.token_requests().pop().unwrap();
    assert_eq!((request.status, request.with_verifier), (400, true), "PKCE refuses it");
    assert!(logins(&sandbox).is_empty());
}

#[test]
fn a_code_of_another_sign_in_is_worth_nothing_here() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    for pasted in [false, true] {
        let [mut one, two] = [(); 2].map(|()| SignIn::start(&sandbox, &["--no-browser"]));
        let other =
            sandbox.google.consent_as(&two.url, &Consent::given().by("attacker@evil.example")).unwrap();
        let swapped = other
            .replace(&two.parameter("state"), &one.parameter("state"))
            .replace(&two.redirect(), &one.redirect());
        if pasted {
            one.paste(&swapped);
        } else {
            assert!(follow(&swapped).body.contains("<h1>Not signed in</h1>"));
        }
        let run = one.end(&sandbox);
        assert_eq!((run.code, run.stdout.as_str()), (Some(3), ""), "{run:?}");
        two.signal(Signal::TERM);
        two.end(&sandbox);
    }
    assert!(logins(&sandbox).is_empty());
}

#[test]
fn a_program_with_ipv6_sockets_only_is_heard() {
    let Waiting { sandbox, it, back } = Waiting::new();
    let through_six = |address: &str| {
        let target = &address[address.find('/').unwrap() + 2..];
        let target = &target[target.find('/').unwrap()..];
        let Ok(mut stream) = TcpStream::connect(format!("[::ffff:127.0.0.1]:{}", it.port())) else {
            println!("skipped: this kernel has no IPv6");
            return None;
        };
        let own = format!("127.0.0.1:{}", it.port());
        let request = format!("GET {target} HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        Some(hear(stream))
    };
    let Some(answer) = through_six(&back) else {
        it.signal(Signal::TERM);
        it.end(&sandbox);
        return;
    };
    let page = through_six(&led_to(&back, &answer)).unwrap();
    assert!(page.body.contains("<h1>Signed in</h1>"), "{page:?}");
    assert_eq!(it.end(&sandbox).code, Some(0));
}

#[test]
fn nobody_else_gets_the_port() {
    let waiting = Waiting::new();
    let port = waiting.it.port();
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
        assert!(TcpListener::bind((address, port)).is_err(), "{address}");
        for (reuse_address, reuse_port) in [(false, true), (true, false), (true, true)] {
            let other = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            set_socket_reuseaddr(&other, reuse_address).unwrap();
            set_socket_reuseport(&other, reuse_port).unwrap();
            let taken = bind(&other, &SocketAddrV4::new(address, port)).and_then(|()| listen(&other, 8));
            assert!(taken.is_err(), "{address} {reuse_address} {reuse_port}");
        }
    }
    waiting.still_signs_in();
}

#[test]
fn silent_and_slow_connections_do_not_keep_the_answer_out() {
    let waiting = Waiting::new();
    let port = waiting.it.port();
    let held: Vec<_> = (0..200)
        .map(|number| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            if number % 2 == 1 {
                let _ = stream.write_all(b"GET /callback?code=x HTTP/1.1\r\nHost: ");
            }
            stream
        })
        .collect();
    waiting.still_signs_in();
    drop(held);
}

#[test]
fn who_goes_away_in_the_middle_leaves_nothing() {
    for (signal, pasted) in
        [(Signal::INT, false), (Signal::TERM, false), (Signal::KILL, true), (Signal::HUP, false)]
    {
        let Waiting { sandbox, mut it, back } = Waiting::new();
        let port = it.port();
        if pasted {
            // In the middle of the exchange.
            sandbox.google.token_fault_always(Some(Fault::Hang));
            it.paste(&back);
            Sandbox::wait_until("the exchange", || !sandbox.google.token_requests().is_empty());
        }
        it.signal(signal);
        let run = it.end(&sandbox);
        assert_eq!((run.code, run.stdout.as_str()), (None, ""), "{run:?}");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the port is still open");
        assert!(!sandbox.path(LIST).exists());
        let left = std::fs::read_dir(sandbox.path(&format!("{STATE}/logins")));
        assert_eq!(left.into_iter().flatten().count(), 0, "{signal:?}");
        sandbox.google.token_fault_always(None);
        sign_in(&sandbox, &[]);
    }
}

#[test]
fn an_identity_that_is_not_vouched_for_is_not_shown() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let lies = [
        IdentityLie::Audience("another.apps.googleusercontent.com".to_owned()),
        IdentityLie::Issuer("https://accounts.google.com.evil.test".to_owned()),
        IdentityLie::Unverified,
        IdentityLie::Email("ceo@acme.example\u{1b}[2J\u{1b}]0;owned\u{7}".to_owned()),
        IdentityLie::Email("ceo@acme.example\nsigned in as root".to_owned()),
        IdentityLie::Email("ceo@acme.example\u{202e}".to_owned()),
        IdentityLie::Email("$(id)@acme.example".to_owned()),
        IdentityLie::Email("<script>@acme.example".to_owned()),
        IdentityLie::Email(String::new()),
        IdentityLie::Email(format!("{}@acme.example", "x".repeat(4096))),
        IdentityLie::Absent,
        IdentityLie::Garbage,
        IdentityLie::Undecodable,
    ];
    let count = lies.len();
    for lie in lies.clone() {
        sandbox.google.lie_about_identity(lie.clone());
        let run = sign_in(&sandbox, &[]);
        assert!(run.stdout.starts_with("signed in as unknown-"), "{lie:?}: {run:?}");
        assert!(!run.stdout.contains(['@', '\u{1b}', '\u{7}']), "{lie:?}: {run:?}");
    }
    let kept = logins(&sandbox);
    assert_eq!(kept.len(), count);
    assert!(kept.iter().all(|login| login["account"].as_str().unwrap().starts_with("unknown-")), "{kept:?}");
    let text = status(&sandbox);
    assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']) && !text.contains("ceo@"), "{text}");
    // It reads all the same.
    assert_given(&sandbox.run(&mut sandbox.get()));
    for lie in lies {
        sandbox.google.lie_about_identity(lie.clone());
        let (page, run) = fail_to_sign_in(&sandbox, &Consent::given(), &["--account", DEVELOPER]);
        assert_eq!(run.code, Some(1), "{lie:?}: {run:?}");
        assert!(run.stderr.contains("does not vouch for who signed in"), "{lie:?}: {run:?}");
        assert!(!run.stderr.contains(['\u{1b}', '\u{7}']) && !page.body.contains("<script>"), "{lie:?}");
    }
    assert_eq!(logins(&sandbox).len(), count);
    // A clock that is hours off makes nobody unknown.
    sandbox.google.lie_about_identity(IdentityLie::Expired);
    assert!(sign_in(&sandbox, &[]).stdout.starts_with("signed in as developer@acme.example"));
}

/// All at once, with everything logged: nothing that a child or a neighbour sees holds a secret, and nothing does
/// that is left behind.
#[test]
fn no_secret_is_seen_by_anybody() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    // A browser that shows what `ps` shows of its parent, and what it was given itself.
    let script = "#!/bin/bash\n{ tr '\\0' ' ' < /proc/$PPID/cmdline; tr '\\0' '\\n' < /proc/self/environ; \
                  echo \"$@\"; for fd in /proc/self/fd/*; do readlink \"$fd\"; done; } > \"$HOME/seen\" 2>&1\n\
                  mv \"$HOME/seen\" \"$HOME/shown\"\n";
    let browser = sandbox.script("browser", script);
    let daemon = sandbox.serve_with(sandbox.valetkey().env("VALETKEY_LOG", "debug"));
    let mut command = sandbox.valetkey();
    command.args(["login", "--write"]).env("BROWSER", browser).env("VALETKEY_LOG", "debug");
    command.env("PATH", format!("{}:/usr/bin:/bin", sandbox.path("bin").display()));
    let it = SignIn::start_with(&mut command);
    let shown = sandbox.path("home/shown");
    Sandbox::wait_until("the browser is open", || shown.exists());
    let seen = std::fs::read_to_string(&shown).unwrap();
    let back = sandbox.google.consent(&it.url).unwrap();
    let url = it.url.clone();
    let page = follow(&back);
    assert_eq!(it.end(&sandbox).code, Some(0));
    sandbox.hear(page.body.as_bytes());
    sandbox.hear(page.head.as_bytes());
    sandbox.hear(seen.as_bytes());
    assert!(seen.contains(&url) && seen.contains("login --write"), "{seen}");
    // The address is all that the browser is told, and no door of ours is left open to it.
    assert_eq!(seen.matches("code_challenge=").count(), 1, "{seen}");
    assert!(!seen.contains("socket:"), "{seen}");
    // Rotation, a dead login and a logout, all told at length.
    sandbox.google.rotate_refresh_tokens(true);
    for command in [&mut sandbox.get(), alone(&mut sandbox.get()).env("XDG_RUNTIME_DIR", sandbox.path("tmp"))]
    {
        assert_given(&sandbox.run(command.env("VALETKEY_LOG", "debug")));
    }
    sandbox.google.token_faults(vec![Fault::status(500)]);
    sandbox.run(sandbox.valetkey().arg("doctor").env("VALETKEY_LOG", "debug"));
    sandbox.google.end_logins(DEVELOPER, super::stand_in::Death::Revoked);
    sandbox.run(sandbox.valetkey().arg("reload"));
    sandbox.run(&mut sandbox.get());
    for arguments in [&["status"][..], &["status", "--json"], &["vault"], &["logout"]] {
        let mut command = sandbox.valetkey();
        let run = sandbox.run(command.args(arguments).env("VALETKEY_LOG", "debug").stdin(Stdio::null()));
        sandbox.hear(run.stdout.as_bytes());
    }
    assert!(daemon.log().contains("is dead"), "{}", daemon.log());
    // The hunt at the end looks at all that was said and left.
}
