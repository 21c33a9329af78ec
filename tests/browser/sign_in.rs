//! What a person may do in the browser, and what becomes of it.

use std::collections::BTreeSet;

use url::Url;

use super::attacker::Site;
use super::browser::{Browser, Opened};
use super::harness::Sandbox;
use super::leaks::{assert_nothing_leaked, assert_profile_is_clean};
use super::login::{ACCOUNT, Login, accounts, assert_nothing_is_kept, assert_signed_in, parameter};
use super::node::Machine;
use super::oidc::{CLIENT_ID, Oidc, Terms, random};
use super::person::{Verdict, answer, click_through, sign_in};
use super::stand_in::{CLOUD_PLATFORM, READ_ONLY};
use super::wire::{get, post_form};

/// What every test here begins with.
fn scene(terms: Terms) -> Option<(Sandbox, Oidc, Browser)> {
    let machine = Machine::find()?;
    let sandbox = Sandbox::new();
    let oidc = Oidc::start(&machine, &sandbox, terms);
    oidc.configure(&sandbox);
    let browser = Browser::start(&machine, &sandbox);
    Some((sandbox, oidc, browser))
}

#[test]
fn who_allows_is_signed_in() {
    let Some((sandbox, oidc, browser)) = scene(Terms::default()) else { return };
    let login = Login::start(&sandbox, &[]);
    let (url, state) = (login.url.clone(), login.state());
    Sandbox::wait_until("the desktop's browser was asked", || !Login::notes(&sandbox).is_empty());
    assert_eq!(Login::notes(&sandbox).trim(), url.as_str());

    assert!(url.as_str().starts_with(oidc.endpoint("authorization")));
    let expected = [
        ("client_id", CLIENT_ID),
        ("response_type", "code"),
        ("scope", &format!("openid email {READ_ONLY}")),
        ("code_challenge_method", "S256"),
        ("access_type", "offline"),
    ];
    for (name, value) in expected {
        assert_eq!(login.parameter(name), value);
    }
    assert!(login.parameter("prompt").split(' ').any(|word| word == "consent"));
    assert!(state.len() >= 22, "fewer than 128 bits: {state}");
    assert_eq!(login.redirect(), format!("http://127.0.0.1:{}/callback", login.port()));

    let page = login.click_through(&browser, "one", ACCOUNT, Verdict::Allow);
    assert!(page.url.ends_with("/done") && page.text.contains(ACCOUNT), "{page:?}");
    let run = login.end();
    assert_signed_in(&run, ACCOUNT);
    assert!(accounts(&sandbox).contains(ACCOUNT), "{}", accounts(&sandbox));

    let token = sandbox.run(sandbox.valetkey().arg("token"));
    assert_eq!(token.code, Some(0), "{token:?}");
    let secrets = oidc.secrets();
    assert!(secrets.contains(token.stdout.trim()), "not a token of this server");
    sandbox.stop();
    assert_nothing_leaked(&sandbox, &oidc, &[&run.stdout, &run.stderr, &token.stderr, &sandbox.log()]);

    let codes: BTreeSet<String> = browser
        .requests()
        .iter()
        .filter_map(|request| Url::parse(request["url"].as_str()?).ok())
        .filter_map(|url| parameter(&url, "code"))
        .collect();
    assert_eq!(codes.len(), 1, "the browser carried one code");
    assert_profile_is_clean(&secrets.difference(&codes).cloned().collect(), &browser.quit());
}

#[test]
fn a_login_survives_rotation_of_its_refresh_token() {
    let Some((sandbox, oidc, browser)) = scene(Terms { rotate: true, ..Terms::default() }) else { return };
    Login::start(&sandbox, &[]).completes(&oidc, &browser);
    let mut tokens = BTreeSet::new();
    for _ in 0..3 {
        let run = sandbox.run(sandbox.valetkey().arg("token"));
        assert_eq!(run.code, Some(0), "{run:?}");
        tokens.insert(run.stdout);
        // So that the next one has to refresh, with what the last refresh brought.
        sandbox.stop();
    }
    assert_eq!(tokens.len(), 3, "a token came from a cache: nothing was proved");
    let requests = oidc.requests();
    assert!(requests.iter().all(|request| request["error"].is_null()), "{requests:?}");
    assert_nothing_leaked(&sandbox, &oidc, &[&sandbox.log()]);
}

#[test]
fn to_publish_both_scopes_are_asked_for_and_needed() {
    let Some((sandbox, _oidc, browser)) = scene(Terms::default()) else { return };
    let login = Login::start(&sandbox, &["--write"]);
    assert!(login.parameter("scope").split(' ').any(|scope| scope == CLOUD_PLATFORM), "{}", login.url);
    let page = login.click_through(&browser, "one", ACCOUNT, Verdict::AllowBut(CLOUD_PLATFORM));
    assert!(page.url.ends_with("/failed"), "{page:?}");
    assert_ne!(login.end().code, Some(0));
    assert_nothing_is_kept(&sandbox);

    let login = Login::start(&sandbox, &["--write"]);
    let page = login.click_through(&browser, "two", ACCOUNT, Verdict::Allow);
    assert!(page.url.ends_with("/done"), "{page:?}");
    assert_signed_in(&login.end(), ACCOUNT);
}

#[test]
fn who_denies_is_told_so_and_nothing_is_kept() {
    let Some((sandbox, oidc, browser)) = scene(Terms::default()) else { return };
    let login = Login::start(&sandbox, &[]);
    let page = login.click_through(&browser, "one", ACCOUNT, Verdict::Deny);
    assert!(page.url.ends_with("/failed"), "{page:?}");
    assert!(!page.text.contains("Signed in"), "{page:?}");
    let run = login.end();
    assert_eq!((run.code, &*run.stdout), (Some(1), ""), "{run:?}");
    assert!(run.stderr.contains("error:") && run.stderr.contains("hint:"), "{run:?}");
    assert_eq!(oidc.exchanges(), 0);
    assert_nothing_is_kept(&sandbox);
}

#[test]
fn a_scope_left_unticked_is_named_and_nothing_is_kept() {
    let Some((sandbox, oidc, browser)) = scene(Terms::default()) else { return };
    let login = Login::start(&sandbox, &[]);
    let page = login.click_through(&browser, "one", ACCOUNT, Verdict::AllowBut(READ_ONLY));
    assert!(page.url.ends_with("/failed"), "{page:?}");
    assert!(page.text.contains("cloud-platform.read-only"), "{page:?}");
    let run = login.end();
    assert!(matches!(run.code, Some(1 | 3)), "{run:?}");
    assert!(run.stderr.contains("cloud-platform.read-only") && run.stdout.is_empty(), "{run:?}");
    assert_nothing_is_kept(&sandbox);
    assert_nothing_leaked(&sandbox, &oidc, &[&run.stdout, &run.stderr]);
}

#[test]
fn a_tab_with_another_state_gets_an_explanation_and_changes_nothing() {
    let Some((sandbox, oidc, browser)) = scene(Terms::default()) else { return };
    let login = Login::start(&sandbox, &[]);
    let opened = browser.open("stray", &format!("{}?code=stray&state={}", login.redirect(), random()));
    assert_eq!(opened, Opened::Status(400));
    let page = browser.read("stray");
    assert!(page.text.len() > 20 && !page.text.contains("stray"), "{page:?}");
    login.completes(&oidc, &browser);
}

/// Both tabs stand at the consent page; the person allows in both.
#[test]
fn the_same_address_completed_in_two_tabs_signs_in_once() {
    let Some((sandbox, oidc, browser)) = scene(Terms::default()) else { return };
    let login = Login::start(&sandbox, &[]);
    for tab in ["one", "two"] {
        assert_eq!(browser.open(tab, login.url.as_str()), Opened::Status(200));
        sign_in(&browser, tab, ACCOUNT);
    }
    answer(&browser, "one", Verdict::Allow);
    let page = browser.wait_for("one", &login.host());
    assert!(page.url.ends_with("/done"), "{page:?}");
    assert_signed_in(&login.end(), ACCOUNT);

    // Nobody is there any more to hear of the second one.
    answer(&browser, "two", Verdict::Allow);
    browser.wait_for("two", "chrome-error://");
    assert_eq!(oidc.exchanges(), 1);
    assert_eq!(sandbox.run(sandbox.valetkey().arg("token")).code, Some(0));
}

/// A page that was left open is completed after its own login ended. Somebody else has that port by then.
#[test]
fn a_stale_tab_helps_nobody() {
    let Some((sandbox, oidc, browser)) = scene(Terms::default()) else { return };
    let old = Login::start(&sandbox, &[]);
    let (port, redirect, state) = (old.port(), old.redirect(), old.state());
    assert_eq!(browser.open("stale", old.url.as_str()), Opened::Status(200));
    sign_in(&browser, "stale", ACCOUNT);
    old.kill();

    let login = Login::start(&sandbox, &[]);
    let thief = Site::squat(port);
    answer(&browser, "stale", Verdict::Allow);
    browser.wait_for("stale", &redirect);
    let heads = thief.heads();
    let target = heads[0].split(' ').nth(1).expect("a target");
    let stolen = Url::parse(&redirect).and_then(|base| base.join(target)).expect("an address");
    let code = parameter(&stolen, "code").expect("a code");

    // Neither the waiting login takes it, nor does the server without the verifier.
    let answer =
        get(login.port(), &login.host(), &format!("/callback?code={code}&state={state}")).expect("an answer");
    assert_eq!(answer.status, 400, "{}", answer.text);
    let page = login.click_through(&browser, "fresh", ACCOUNT, Verdict::Allow);
    assert!(page.url.ends_with("/done"), "{page:?}");
    assert_signed_in(&login.end(), ACCOUNT);
    assert_eq!(oidc.exchanges(), 1);
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("code_verifier", &(random() + &random())),
        ("redirect_uri", &redirect),
        ("client_id", CLIENT_ID),
        ("client_secret", oidc.client_secret()),
    ];
    assert_eq!(post_form(oidc.endpoint("token"), &oidc.authority.pem, &form).0, 400);
}

#[test]
fn two_logins_at_once_do_not_mix() {
    let Some((sandbox, _oidc, browser)) = scene(Terms::default()) else { return };
    let first = Login::start(&sandbox, &[]);
    let second = Login::start(&sandbox, &[]);
    assert_ne!((first.port(), first.state()), (second.port(), second.state()));

    // The answer to one, brought to the other.
    let crossed = format!("/callback?code={}&state={}", random(), first.state());
    assert_eq!(get(second.port(), &second.host(), &crossed).expect("an answer").status, 400);

    let page = second.click_through(&browser, "two", "second@acme.example", Verdict::Allow);
    assert!(page.url.ends_with("/done"), "{page:?}");
    let page = first.click_through(&browser, "one", "first@acme.example", Verdict::Allow);
    assert!(page.url.ends_with("/done"), "{page:?}");
    assert_signed_in(&second.end(), "second@acme.example");
    assert_signed_in(&first.end(), "first@acme.example");
    let accounts = accounts(&sandbox);
    assert!(accounts.contains("first@") && accounts.contains("second@"), "{accounts}");
}

#[test]
fn an_address_pasted_from_another_machine_signs_in() {
    let Some((sandbox, oidc, browser)) = scene(Terms::default()) else { return };
    let mut login = Login::start(&sandbox, &["--no-browser"]);
    let pasted = authorize_elsewhere(&login, &browser, "elsewhere", ACCOUNT);
    login.paste(&pasted);
    let run = login.end();
    assert_signed_in(&run, ACCOUNT);
    assert_eq!(Login::notes(&sandbox), "", "a browser was opened");
    assert_nothing_leaked(&sandbox, &oidc, &[&run.stdout, &run.stderr]);
}

/// Whoever is made to paste an attacker's address would push packages with the attacker's account.
#[test]
fn a_pasted_address_with_another_accounts_code_is_refused() {
    let Some((sandbox, oidc, browser)) = scene(Terms::default()) else { return };
    let theirs = Login::start(&sandbox, &["--no-browser"]);
    let mut login = Login::start(&sandbox, &["--no-browser"]);
    let foreign = authorize_elsewhere(&theirs, &browser, "theirs", "mallory@evil.example");
    theirs.kill();
    login.paste(&foreign);
    // As the attacker would mend it: the right port.
    login.paste(&foreign.replace(&format!(":{}/", port_of(&foreign)), &format!(":{}/", login.port())));
    login.paste("4/0a-code-and-nothing-else");
    let own = authorize_elsewhere(&login, &browser, "own", ACCOUNT);
    login.paste(&own);
    assert_signed_in(&login.end(), ACCOUNT);
    assert_eq!(oidc.exchanges(), 1, "{:?}", oidc.requests());
    assert!(!accounts(&sandbox).contains("mallory"));
}

#[test]
fn another_account_than_the_named_one_is_refused() {
    let Some((sandbox, _oidc, browser)) = scene(Terms::default()) else { return };
    let login = Login::start(&sandbox, &["--account", ACCOUNT]);
    assert_eq!(login.parameter("login_hint"), ACCOUNT);
    let page = login.click_through(&browser, "one", "mallory@evil.example", Verdict::Allow);
    assert!(page.url.ends_with("/failed"), "{page:?}");
    let run = login.end();
    assert!(run.code != Some(0) && run.stdout.is_empty(), "{run:?}");
    assert_nothing_is_kept(&sandbox);
}

#[test]
fn logout_revokes_what_login_got() {
    let Some((sandbox, oidc, browser)) = scene(Terms::default()) else { return };
    Login::start(&sandbox, &[]).completes(&oidc, &browser);
    let run = sandbox.run(sandbox.valetkey().arg("logout"));
    assert_eq!(run.code, Some(0), "{run:?}");
    let requests = oidc.requests();
    let revocations: Vec<_> = requests.iter().filter(|request| request["path"] == "/revoke").collect();
    assert_eq!(revocations.len(), 1, "{requests:?}");
    assert!(revocations[0]["error"].is_null());
    assert_nothing_is_kept(&sandbox);
}

/// The stand-in is what the other tests sign in with: its page has to work in a browser.
#[test]
fn the_stand_ins_page_signs_in_too() {
    let Some(machine) = Machine::find() else { return };
    let sandbox = Sandbox::new();
    sandbox.google.add_account("second@acme.example");
    sandbox.configure_login("");
    let browser = Browser::start(&machine, &sandbox);
    let login = Login::start(&sandbox, &[]);
    let page = login.click_through(&browser, "one", "second@acme.example", Verdict::Allow);
    assert!(page.url.ends_with("/done"), "{page:?}");
    assert_signed_in(&login.end(), "second@acme.example");

    let login = Login::start(&sandbox, &[]);
    let page = login.click_through(&browser, "two", ACCOUNT, Verdict::Deny);
    assert!(page.url.ends_with("/failed"), "{page:?}");
    assert_eq!(login.end().code, Some(1));
    assert!(!accounts(&sandbox).contains(ACCOUNT));
}

/// Signs in where 127.0.0.1 is another machine; the address that the browser could not show.
#[track_caller]
fn authorize_elsewhere(login: &Login<'_>, browser: &Browser, tab: &str, account: &str) -> String {
    browser.hold(tab, &login.redirect());
    assert_eq!(browser.open(tab, login.url.as_str()), Opened::Status(200));
    click_through(browser, tab, account, Verdict::Allow);
    browser.held(tab)
}

fn port_of(address: &str) -> u16 {
    Url::parse(address).ok().and_then(|url| url.port()).expect("a port")
}
