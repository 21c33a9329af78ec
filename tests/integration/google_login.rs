//! The stand-in's own login, asked by a plain client: the tests of `valetkey login` trust it, so it is held to what
//! Google does.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use url::Url;
use url::form_urlencoded::Serializer;

use super::stand_in::{
    CLOUD_PLATFORM, Consent, Death, Fault, IdentityLie, OAuthClient, Options, Outcome, READ_ONLY,
    RevokedToken, StandIn, USERINFO_EMAIL,
};

/// Parameters to put in the place of others.
type Changes<'a> = &'a [(&'a str, &'a str)];

/// A program that signs its user in.
struct App {
    google: StandIn,
    client: OAuthClient,
}

impl App {
    fn new() -> Self {
        let google = StandIn::start(Options::default());
        let client = google.desktop_client();
        Self { google, client }
    }

    /// The address for the browser, with some parameters changed and those that are empty left out.
    fn url(&self, changes: Changes) -> String {
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, VERIFIER.as_bytes()));
        let mut parameters = vec![
            ("client_id", self.client.id.as_str()),
            ("redirect_uri", BACK),
            ("response_type", "code"),
            ("scope", "openid email https://www.googleapis.com/auth/cloud-platform.read-only"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("state", "opaque"),
            ("access_type", "offline"),
            ("prompt", "consent"),
        ];
        for (name, value) in changes {
            parameters.retain(|(known, _)| known != name);
            parameters.push((name, value));
        }
        parameters.retain(|(_, value)| !value.is_empty());
        Url::parse_with_params(&self.google.authorization_endpoint(), parameters).unwrap().into()
    }

    fn code(&self) -> String {
        parameter(&self.google.consent(&self.url(&[])).unwrap(), "code").unwrap()
    }

    fn exchange(&self, code: &str, changes: Changes) -> (u16, Value) {
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("client_id", self.client.id.as_str()),
            ("client_secret", self.client.secret.as_str()),
            ("code", code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", BACK),
        ];
        for (name, value) in changes {
            form.retain(|(known, _)| known != name);
            form.push((name, value));
        }
        form.retain(|(_, value)| !value.is_empty());
        self.post("/token", &form)
    }

    fn login(&self) -> Value {
        let (status, answer) = self.exchange(&self.code(), &[]);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    fn refresh(&self, refresh_token: &str, scope: Option<&str>) -> (u16, Value) {
        let mut form = vec![
            ("grant_type", "refresh_token"),
            ("client_id", self.client.id.as_str()),
            ("client_secret", self.client.secret.as_str()),
            ("refresh_token", refresh_token),
        ];
        form.extend(scope.map(|scope| ("scope", scope)));
        self.post("/token", &form)
    }

    fn post(&self, path: &str, form: &[(&str, &str)]) -> (u16, Value) {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.google.ca_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", self.google.port())).unwrap();
        let body = Serializer::new(String::new()).extend_pairs(form).finish();
        let reply = ask(rustls::StreamOwned::new(tls, stream), "POST", path, &body);
        (reply.status, serde_json::from_str(&reply.body).unwrap_or_default())
    }
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

/// What a browser does with an address of the sign-in page.
fn browse(method: &str, url: &str, body: &str) -> Reply {
    let url = Url::parse(url).unwrap();
    let address = (url.host_str().unwrap(), url.port().unwrap());
    let target = format!("{}?{}", url.path(), url.query().unwrap());
    ask(TcpStream::connect(address).unwrap(), method, &target, body)
}

fn ask(mut stream: impl Read + Write, method: &str, target: &str, body: &str) -> Reply {
    let request = format!(
        "{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    // Half a body ends without TLS's goodbye.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

fn parameter(url: &str, name: &str) -> Option<String> {
    let url = Url::parse(url).unwrap();
    url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

/// The claims of an identity token.
fn claims(answer: &Value) -> Value {
    let token = answer["id_token"].as_str().unwrap();
    assert_eq!(token.split('.').count(), 3);
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

#[test]
fn a_browser_is_shown_a_page_and_sent_back_with_a_code_that_is_a_login() {
    let app = App::new();
    app.google.add_account("one@acme.example");
    app.google.add_account("two@acme.example");
    let url = app.url(&[("login_hint", "two@acme.example")]);
    let page = browse("GET", &url, "");
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(page.body.contains("stand-in for Google") && page.body.contains("value=\"one@acme.example\""));
    assert!(page.body.contains("value=\"two@acme.example\" required checked"), "{}", page.body);

    let form = format!("account=two%40acme.example&scope={READ_ONLY}&decision=allow");
    let reply = browse("POST", &url, &form);
    assert_eq!(reply.status, 303, "{}", reply.body);
    let location = reply.head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    assert!(location.starts_with(&format!("{BACK}?")), "{location}");
    let scope = format!("openid {USERINFO_EMAIL} {READ_ONLY}");
    let expected = [("state", "opaque"), ("scope", scope.as_str()), ("authuser", "1"), ("prompt", "consent")];
    for (name, value) in expected {
        assert_eq!(parameter(location, name).as_deref(), Some(value), "{location}");
    }

    let code = parameter(location, "code").unwrap();
    let (status, answer) = app.exchange(&code, &[]);
    assert_eq!(status, 200, "{answer}");
    assert_eq!((&answer["scope"], &answer["expires_in"]), (&scope.as_str().into(), &3599.into()));
    assert_eq!(answer["refresh_token_expires_in"], Value::Null);
    let claims = claims(&answer);
    assert_eq!(
        (&claims["iss"], &claims["aud"]),
        (&"https://accounts.google.com".into(), &app.client.id.clone().into())
    );
    assert_eq!((&claims["email"], &claims["email_verified"]), (&"two@acme.example".into(), &true.into()));

    let seen = app.google.authorizations();
    assert_eq!(seen.len(), 1);
    let scopes = ["openid", USERINFO_EMAIL, READ_ONLY].map(str::to_owned).to_vec();
    assert_eq!(seen[0].outcome, Outcome::Allowed { email: "two@acme.example".to_owned(), scopes });
    assert!(seen[0].with_state && seen[0].with_challenge);
    let request = app.google.token_requests().pop().unwrap();
    assert!(request.with_verifier && request.status == 200);
    assert_eq!(request.identity.as_deref(), Some("two@acme.example"));
    let secrets = app.google.secrets();
    let tail = code.rsplit('/').next().unwrap();
    for secret in ["access_token", "refresh_token", "id_token"].map(|name| answer[name].as_str().unwrap()) {
        assert!(secrets.iter().any(|known| known == secret));
    }
    assert!([code.as_str(), tail, VERIFIER].iter().all(|secret| secrets.iter().any(|known| known == secret)));
}

#[test]
fn what_is_wrong_with_a_request_is_a_page_and_nobody_is_sent_back() {
    let app = App::new();
    let site = app.google.web_client(&["https://site.example/back"]);
    let deleted = app.google.desktop_client();
    app.google.delete_client(&deleted.id);
    let internal = app.google.desktop_client();
    app.google.restrict_to_organisation(&internal.id);
    let cases: [(Changes, &str); 15] = [
        (&[("client_id", "nobody")], "invalid_client"),
        (&[("client_id", "")], "invalid_request"),
        (&[("client_id", &deleted.id)], "deleted_client"),
        (&[("client_id", &internal.id)], "org_internal"),
        (&[("client_id", &site.id)], "redirect_uri_mismatch"),
        (&[("redirect_uri", "")], "invalid_request"),
        (&[("redirect_uri", "https://127.0.0.1:4000/")], "redirect_uri_mismatch"),
        (&[("redirect_uri", "http://127.0.0.1.acme.example:4000/")], "redirect_uri_mismatch"),
        (&[("redirect_uri", "http://localhost@acme.example:4000/")], "redirect_uri_mismatch"),
        (&[("response_type", "token")], "unsupported_response_type"),
        (&[("scope", "openid https://www.googleapis.com/auth/everything")], "invalid_scope"),
        (&[("scope", "")], "invalid_request"),
        (&[("code_challenge_method", "plain")], "invalid_request"),
        (&[("code_challenge", VERIFIER)], "invalid_request"),
        (&[("code_challenge", "")], "invalid_request"),
    ];
    for (changes, word) in cases {
        let url = app.url(changes);
        assert_eq!(app.google.consent(&url), Err(word.to_owned()), "{url}");
        for method in ["GET", "POST"] {
            let page = browse(method, &url, "decision=allow");
            assert!(matches!(page.status, 400 | 401 | 403), "{word}: {}", page.status);
            assert!(page.body.contains(word) && !page.head.contains("location"), "{word}: {}", page.body);
        }
    }
    app.google.end_logins("developer@acme.example", Death::AdminPolicy);
    assert_eq!(app.google.consent(&app.url(&[])), Err("admin_policy_enforced".to_owned()));
    for address in ["http://localhost:4000/", "http://[::1]:4000/a", "http://127.0.0.1:4000"] {
        let consent = Consent::given().by("other@acme.example");
        app.google.restore_logins("developer@acme.example");
        app.google.consent_as(&app.url(&[("redirect_uri", address)]), &consent).unwrap();
    }
    assert!(app.client.file.contains("{\"installed\":{") && site.file.contains("{\"web\":{"));
}

#[test]
fn markup_in_a_parameter_stays_text() {
    let app = App::new();
    let page = browse("GET", &app.url(&[("redirect_uri", "http://localhost:1/\"><script>")]), "");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("<dd>http://localhost:1/&quot;&gt;&lt;script&gt;</dd>"), "{}", page.body);
}

#[test]
fn denial_comes_back_as_an_error_with_the_state() {
    let app = App::new();
    let back = app.google.consent_as(&app.url(&[]), &Consent::denied()).unwrap();
    assert_eq!(parameter(&back, "error").as_deref(), Some("access_denied"));
    assert_eq!(parameter(&back, "state").as_deref(), Some("opaque"));
    assert_eq!(parameter(&back, "code"), None);
    assert_eq!(app.google.authorizations().pop().unwrap().outcome, Outcome::Denied);
}

#[test]
fn an_unticked_scope_is_not_granted() {
    let app = App::new();
    let both = format!("openid email {READ_ONLY} {CLOUD_PLATFORM}");
    let url = app.url(&[("scope", &both)]);
    let back = app.google.consent_as(&url, &Consent::given().without(CLOUD_PLATFORM)).unwrap();
    let (_, answer) = app.exchange(&parameter(&back, "code").unwrap(), &[]);
    assert_eq!(answer["scope"], format!("openid {USERINFO_EMAIL} {READ_ONLY}"));
    let refresh_token = answer["refresh_token"].as_str().unwrap();
    assert_eq!(app.refresh(refresh_token, Some(READ_ONLY)).1["scope"], READ_ONLY);
    let (status, refusal) = app.refresh(refresh_token, Some(CLOUD_PLATFORM));
    assert_eq!((status, &refusal["error"]), (400, &"invalid_scope".into()));
}

#[test]
fn a_code_is_good_once_for_its_own_client_verifier_and_address() {
    let app = App::new();
    let other = app.google.desktop_client();
    let cases: [(Changes, u16, &str); 8] = [
        (&[("code_verifier", "")], 400, "invalid_grant"),
        (&[("code_verifier", "another-verifier-another-verifier-another-v")], 400, "invalid_grant"),
        (&[("redirect_uri", "http://127.0.0.1:4001/callback")], 400, "redirect_uri_mismatch"),
        (&[("client_id", &other.id), ("client_secret", &other.secret)], 400, "invalid_grant"),
        (&[("client_secret", &other.secret)], 401, "invalid_client"),
        (&[("client_secret", "")], 400, "invalid_request"),
        (&[("client_id", "nobody")], 401, "invalid_client"),
        (&[("code", "4/0Amade-up")], 400, "invalid_grant"),
    ];
    for (changes, status, word) in cases {
        let (was, refusal) = app.exchange(&app.code(), changes);
        assert_eq!((was, &refusal["error"]), (status, &word.into()), "{changes:?}");
    }
    app.google.set_code_lifetime(Duration::ZERO);
    assert_eq!(app.exchange(&app.code(), &[]).1["error"], "invalid_grant");
}

#[test]
fn a_replayed_code_takes_down_what_came_of_it() {
    let app = App::new();
    let code = app.code();
    let (_, answer) = app.exchange(&code, &[]);
    let refresh_token = answer["refresh_token"].as_str().unwrap();
    assert_eq!(app.refresh(refresh_token, None).0, 200);
    assert_eq!(app.exchange(&code, &[]).1["error"], "invalid_grant");
    assert_eq!(app.refresh(refresh_token, None).1["error"], "invalid_grant");
    assert!(!app.google.is_alive(refresh_token));
}

#[test]
fn a_refresh_token_comes_offline_and_with_the_first_consent_or_a_new_one() {
    let app = App::new();
    let lasts = |changes: Changes| {
        let back = app.google.consent(&app.url(changes)).unwrap();
        app.exchange(&parameter(&back, "code").unwrap(), &[]).1["refresh_token"].is_string()
    };
    assert!(!lasts(&[("access_type", "")]));
    assert!(!lasts(&[("prompt", "")]), "it was not the first");
    assert!(lasts(&[("prompt", "consent select_account")]));
}

#[test]
fn a_rotated_refresh_token_is_good_once_and_its_second_use_ends_the_login() {
    let app = App::new();
    app.google.rotate_refresh_tokens(true);
    let first = app.login()["refresh_token"].as_str().unwrap().to_owned();
    let second = app.refresh(&first, None).1["refresh_token"].as_str().unwrap().to_owned();
    assert!(app.google.secrets().contains(&second) && !app.google.is_alive(&first));
    let third = app.refresh(&second, None).1["refresh_token"].as_str().unwrap().to_owned();
    assert_eq!(app.refresh(&first, None).1["error"], "invalid_grant");
    assert_eq!(app.refresh(&third, None).1["error"], "invalid_grant");
}

#[test]
fn a_login_is_refused_to_another_client_and_to_a_deleted_one() {
    let mut app = App::new();
    let refresh_token = app.login()["refresh_token"].as_str().unwrap().to_owned();
    let own = std::mem::replace(&mut app.client, app.google.desktop_client());
    let (status, refusal) = app.refresh(&refresh_token, None);
    assert_eq!((status, &refusal["error"]), (401, &"unauthorized_client".into()));
    app.client = own;
    assert_eq!(app.refresh(&refresh_token, None).0, 200);
    app.google.delete_client(&app.client.id);
    let (status, refusal) = app.refresh(&refresh_token, None);
    assert_eq!((status, &refusal["error"]), (401, &"deleted_client".into()));
}

#[test]
fn logins_die_as_google_lets_them_and_a_new_one_is_good() {
    let app = App::new();
    app.google.put_in_testing(&app.client.id);
    let cases = [
        (Death::Revoked, "invalid_grant", Value::Null),
        (Death::PasswordChanged, "invalid_grant", Value::Null),
        (Death::Unused, "invalid_grant", Value::Null),
        (Death::TestingEnded, "invalid_grant", Value::Null),
        (Death::InvalidRapt, "invalid_grant", "invalid_rapt".into()),
        (Death::RaptRequired, "invalid_grant", "rapt_required".into()),
        (Death::AdminPolicy, "admin_policy_enforced", Value::Null),
    ];
    for (death, word, subtype) in cases {
        let answer = app.login();
        assert!(answer["refresh_token_expires_in"].as_u64().unwrap() > 604_700, "{answer}");
        let refresh_token = answer["refresh_token"].as_str().unwrap();
        assert_eq!(app.refresh(refresh_token, None).0, 200);
        app.google.end_logins("nobody@acme.example", death);
        assert_eq!(app.refresh(refresh_token, None).0, 200);
        app.google.end_logins("developer@acme.example", death);
        let (status, refusal) = app.refresh(refresh_token, None);
        assert_eq!((status, &refusal["error"], &refusal["error_subtype"]), (400, &word.into(), &subtype));
        assert_eq!(refusal["error_uri"].is_string(), subtype.is_string());
    }
    app.google.restore_logins("developer@acme.example");
    app.login();
}

#[test]
fn an_identity_token_lies_once() {
    let app = App::new();
    let lie = |lie| {
        app.google.lie_about_identity(lie);
        app.login()
    };
    assert_eq!(claims(&lie(IdentityLie::Audience("x".into())))["aud"], "x");
    assert_eq!(claims(&lie(IdentityLie::Issuer("x".into())))["iss"], "x");
    assert_eq!(claims(&lie(IdentityLie::Unverified))["email_verified"], false);
    assert_eq!(claims(&lie(IdentityLie::Email("a\u{1b}[2J@b".into())))["email"], "a\u{1b}[2J@b");
    assert_eq!(lie(IdentityLie::Absent)["id_token"], Value::Null);
    assert_eq!(lie(IdentityLie::Garbage)["id_token"], "garbage");
    assert_eq!(claims(&app.login())["aud"], app.client.id);
}

#[test]
fn a_revoked_login_is_gone_and_cannot_be_revoked_again() {
    let app = App::new();
    let revoke = |token: &str| app.post("/revoke", &[("token", token)]);
    let [one, two, three] = [(); 3].map(|()| app.login()["refresh_token"].as_str().unwrap().to_owned());
    app.google.revocation_faults(vec![Fault::status(503)]);
    assert_eq!(revoke(&one).0, 503);
    assert!(app.google.is_alive(&one));
    assert_eq!(revoke(&one), (200, serde_json::json!({})));
    let (status, refusal) = revoke(&one);
    assert_eq!((status, &refusal["error"]), (400, &"invalid_token".into()));
    assert_eq!(app.refresh(&one, None).1["error"], "invalid_grant");
    assert_eq!(app.refresh(&two, None).0, 200);
    app.google.spread_revocations(true);
    let access_token = app.refresh(&two, None).1["access_token"].as_str().unwrap().to_owned();
    assert_eq!(revoke(&access_token).0, 200);
    assert!(!app.google.is_alive(&two) && !app.google.is_alive(&three));

    let seen = app.google.revocations();
    assert_eq!(seen.iter().map(|request| request.status).collect::<Vec<_>>(), [503, 200, 400, 200]);
    assert_eq!((seen[0].token, seen[3].token), (RevokedToken::Refresh, RevokedToken::Access));
    assert!(seen.iter().all(|request| request.identity.is_some() && !request.in_url));
}

#[test]
fn half_an_answer_has_spent_the_code() {
    let app = App::new();
    let code = app.code();
    app.google.token_faults(vec![Fault::HalfBody]);
    assert_eq!(app.exchange(&code, &[]).1, Value::Null);
    assert_eq!(app.exchange(&code, &[]).1["error"], "invalid_grant");
}

const BACK: &str = "http://127.0.0.1:4000/callback";
/// 43 characters, the fewest that are allowed.
const VERIFIER: &str = "a-verifier-of-43-characters.as~few_as-may-b";
