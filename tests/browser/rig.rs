//! The rig by itself: what the other tests stand on must hold without valetkey.

use std::io::{Read, Write};
use std::net::TcpListener;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use url::Url;

use super::browser::{Browser, Opened};
use super::harness::Sandbox;
use super::node::Machine;
use super::oidc::{CLIENT_ID, Oidc, Terms, random};
use super::person::{Verdict, click_through};
use super::stand_in::READ_ONLY;
use super::wire::post_form;

/// A sign-in of the test's own: one verifier, one state, one listener for the answer.
struct SignIn {
    verifier: String,
    state: String,
    listener: TcpListener,
}

impl SignIn {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Self { verifier: random() + &random(), state: random(), listener }
    }

    fn redirect(&self) -> String {
        format!("http://{}/callback", self.listener.local_addr().expect("an address"))
    }

    fn url(&self, oidc: &Oidc, with_challenge: bool) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.verifier.as_bytes());
        let challenge = URL_SAFE_NO_PAD.encode(digest);
        let mut url = Url::parse(oidc.endpoint("authorization")).expect("an address");
        url.query_pairs_mut().extend_pairs([
            ("client_id", CLIENT_ID),
            ("redirect_uri", &self.redirect()),
            ("response_type", "code"),
            ("scope", &format!("openid email {READ_ONLY}")),
            ("state", &self.state),
            ("access_type", "offline"),
            ("prompt", "consent select_account"),
            ("login_hint", ACCOUNT),
        ]);
        if with_challenge {
            url.query_pairs_mut()
                .append_pair("code_challenge", &challenge)
                .append_pair("code_challenge_method", "S256");
        }
        url.into()
    }

    /// Answers the browser once; the parameters of the callback.
    fn callback(&self) -> Url {
        let (mut stream, _) = self.listener.accept().expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a request");
            request.extend(byte);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").expect("an answer");
        let request = String::from_utf8(request).expect("a request in ASCII");
        let target = request.split(' ').nth(1).expect("a target");
        Url::parse("http://127.0.0.1").and_then(|base| base.join(target)).expect("an address")
    }

    fn exchange(&self, oidc: &Oidc, code: &str, verifier: &str) -> (u16, Value) {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("code_verifier", verifier),
            ("redirect_uri", &self.redirect()),
            ("client_id", CLIENT_ID),
            ("client_secret", oidc.client_secret()),
        ];
        post_form(oidc.endpoint("token"), &oidc.authority.pem, &form)
    }
}

fn parameter(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

#[test]
fn the_rig_signs_in_by_itself() {
    let Some(machine) = Machine::find() else { return };
    let sandbox = Sandbox::new();
    let oidc = Oidc::start(&machine, &sandbox, Terms { rotate: true, ..Terms::default() });
    let browser = Browser::start(&machine, &sandbox);

    let sign_in = SignIn::new();
    assert_eq!(browser.open("one", &sign_in.url(&oidc, true)), Opened::Status(200));
    click_through(&browser, "one", ACCOUNT, Verdict::Allow);
    let callback = sign_in.callback();
    assert_eq!(parameter(&callback, "state").as_deref(), Some(&*sign_in.state));
    assert_eq!(browser.wait_for("one", "/callback").text, "done");
    let code = parameter(&callback, "code").expect("a code");

    let (status, tokens) = sign_in.exchange(&oidc, &code, &sign_in.verifier);
    assert_eq!(status, 200, "{tokens}");
    assert_eq!(tokens["scope"], format!("openid email {READ_ONLY}"));
    let payload = tokens["id_token"].as_str().and_then(|token| token.split('.').nth(1)).expect("a token");
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64")).expect("JSON");
    assert_eq!((&claims["email"], &claims["email_verified"]), (&ACCOUNT.into(), &true.into()));

    // Rotation: the new one works, the old one used again ends everything.
    let refresh = |token: &Value| {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", token.as_str().expect("a refresh token")),
            ("client_id", CLIENT_ID),
            ("client_secret", oidc.client_secret()),
        ];
        post_form(oidc.endpoint("token"), &oidc.authority.pem, &form)
    };
    let (status, second) = refresh(&tokens["refresh_token"]);
    assert_eq!(status, 200, "{second}");
    assert_ne!(second["refresh_token"], tokens["refresh_token"]);
    assert_eq!(refresh(&tokens["refresh_token"]).0, 400);
    assert_eq!(refresh(&second["refresh_token"]).0, 400);

    for secret in
        [&tokens["access_token"], &tokens["refresh_token"], &tokens["id_token"], &second["access_token"]]
    {
        assert!(oidc.secrets().contains(secret.as_str().expect("a token")), "not remembered: {secret}");
    }
    assert!(oidc.secrets().contains(&code) && oidc.secrets().contains(&sign_in.verifier));
}

#[test]
fn the_server_insists_on_pkce() {
    let Some(machine) = Machine::find() else { return };
    let sandbox = Sandbox::new();
    let oidc = Oidc::start(&machine, &sandbox, Terms::default());
    let browser = Browser::start(&machine, &sandbox);

    let without = SignIn::new();
    let refused = std::thread::scope(|scope| {
        let callback = scope.spawn(|| without.callback());
        browser.open("one", &without.url(&oidc, false));
        callback.join().expect("a callback")
    });
    assert_eq!(parameter(&refused, "error").as_deref(), Some("invalid_request"), "{refused}");

    // What a thief of the code can do with it.
    let with = SignIn::new();
    browser.open("two", &with.url(&oidc, true));
    click_through(&browser, "two", ACCOUNT, Verdict::Allow);
    let code = parameter(&with.callback(), "code").expect("a code");
    let (status, body) = with.exchange(&oidc, &code, &(random() + &random()));
    assert_eq!((status, &body["error"]), (400, &"invalid_grant".into()));
}

#[test]
fn the_server_grants_what_was_ticked_and_reports_a_no() {
    let Some(machine) = Machine::find() else { return };
    let sandbox = Sandbox::new();
    let oidc = Oidc::start(&machine, &sandbox, Terms::default());
    let browser = Browser::start(&machine, &sandbox);

    let unticked = SignIn::new();
    browser.open("one", &unticked.url(&oidc, true));
    click_through(&browser, "one", ACCOUNT, Verdict::AllowBut(READ_ONLY));
    let code = parameter(&unticked.callback(), "code").expect("a code");
    let (_, tokens) = unticked.exchange(&oidc, &code, &unticked.verifier);
    assert_eq!(tokens["scope"], "openid email");

    let denied = SignIn::new();
    browser.hold("two", &denied.redirect());
    browser.open("two", &denied.url(&oidc, true));
    click_through(&browser, "two", ACCOUNT, Verdict::Deny);
    let held = Url::parse(&browser.held("two")).expect("an address");
    assert_eq!(parameter(&held, "error").as_deref(), Some("access_denied"));
    assert_eq!(parameter(&held, "state").as_deref(), Some(&*denied.state));
}

const ACCOUNT: &str = "developer@acme.example";
