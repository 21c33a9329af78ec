//! Web pages that attack, and what is left in the browser when all is well.

use serde_json::json;

use super::attacker::Site;
use super::browser::{Browser, Opened};
use super::harness::Sandbox;
use super::leaks::{assert_page_is_clean, assert_requests_are_clean};
use super::login::{ACCOUNT, Login, assert_signed_in};
use super::node::Machine;
use super::oidc::{Oidc, Terms};
use super::person::Verdict;

fn scene(rules: Option<&str>) -> Option<(Sandbox, Oidc, Browser)> {
    let machine = Machine::find()?;
    let sandbox = Sandbox::new();
    let oidc = Oidc::start(&machine, &sandbox, Terms::default());
    oidc.configure(&sandbox);
    let browser = Browser::resolving(&machine, &sandbox, rules);
    Some((sandbox, oidc, browser))
}

/// A page of another origin fetches, posts, frames and loads the callback, even with the state, which it cannot
/// know: only a navigation may bring an answer.
#[test]
fn a_page_of_another_origin_can_neither_answer_nor_read() {
    let Some((sandbox, oidc, browser)) = scene(Some(REBOUND)) else { return };
    let site = Site::start();
    let login = Login::start(&sandbox, &[]);
    for (tab, host) in [("address", "127.0.0.1"), ("name", "attacker.test")] {
        assert_eq!(browser.open(tab, &site.url(host)), Opened::Status(200));
        for state in ["guessed".to_owned(), login.state()] {
            let target = format!("{}?code=forged&state={state}", login.redirect());
            let outcome = browser.run(tab, ATTACKS, &json!({"target": target}));
            let read: Vec<_> =
                outcome.as_array().into_iter().flatten().filter(|it| it["readable"] == true).collect();
            assert!(read.is_empty(), "{outcome}");
            assert_eq!(outcome.as_array().map(Vec::len), Some(8), "an attack was not made: {outcome}");
        }
    }
    let reached = browser.requests().iter().filter(|request| is_callback(request, &login)).count();
    assert!(reached >= 16, "the attacks did not reach it: {reached}");
    assert_eq!(oidc.exchanges(), 0, "{:?}", oidc.requests());

    // And a form, which takes the tab along: with the guess, since with the state it would be an answer.
    let post = browser.run(
        "address",
        FORM,
        &json!({"target": login.redirect(), "code": "forged", "state": "guessed"}),
    );
    assert!(post.is_null());
    await_post(&browser, &login);
    login.completes(&oidc, &browser);
}

/// A form posted with the very state is no answer either.
#[test]
fn a_posted_form_is_no_answer() {
    let Some((sandbox, oidc, browser)) = scene(None) else { return };
    let site = Site::start();
    let login = Login::start(&sandbox, &[]);
    browser.open("evil", &site.url("127.0.0.1"));
    let form = json!({"target": login.redirect(), "code": "forged", "state": login.state()});
    browser.run("evil", FORM, &form);
    let status = await_post(&browser, &login);
    assert!((400..500).contains(&status), "{status}");
    login.completes(&oidc, &browser);
}

/// The attacker's name leads to 127.0.0.1 now, so that its pages and the callback are of one origin.
#[test]
fn a_rebound_name_is_refused() {
    let Some((sandbox, oidc, browser)) = scene(Some(REBOUND)) else { return };
    let login = Login::start(&sandbox, &[]);
    let origin = format!("http://attacker.test:{}", login.port());
    let answer = format!("/callback?code=forged&state={}", login.state());
    for path in ["/", "/done", &answer] {
        match browser.open("rebound", &format!("{origin}{path}")) {
            Opened::Status(status) => assert!((400..500).contains(&status), "{path}: {status}"),
            Opened::Failed(_) => {}
        }
    }
    let read = browser.run("rebound", SAME_ORIGIN, &json!({"target": format!("{origin}{answer}")}));
    assert!(read.as_u64().is_none_or(|status| (400..500).contains(&status)), "{read}");
    let sent = browser.requests();
    assert!(sent.iter().any(|request| request["url"].as_str().is_some_and(|url| url.starts_with(&origin))));
    login.completes(&oidc, &browser);
}

#[test]
fn nothing_of_the_answer_is_left_in_the_tab() {
    let Some((sandbox, oidc, browser)) = scene(None) else { return };
    let site = Site::start();
    let login = Login::start(&sandbox, &[]);
    let (state, redirect, own) = (login.state(), login.redirect(), format!("http://{}/", login.host()));
    let page = login.click_through(&browser, "one", ACCOUNT, Verdict::Allow);
    assert_eq!(page.url, format!("{own}done"));
    assert_signed_in(&login.end(), ACCOUNT);
    assert_page_is_clean(&oidc, &state, &browser.read("one"));

    // The page asks for nothing.
    let requests = browser.requests();
    let asked: Vec<&str> = requests.iter().filter_map(|request| request["url"].as_str()).collect();
    let done = asked.iter().position(|url| *url == page.url).expect("the last page");
    let after: Vec<_> = asked[done + 1..].iter().filter(|url| !url.ends_with("/favicon.ico")).collect();
    assert!(after.is_empty(), "{after:?}");
    let kept = browser.run("one", KEPT, &json!(null));
    assert_eq!(kept, json!({"cookies": "", "local": 0, "session": 0}));

    // Nor does it tell the next site where the person came from.
    browser.run("one", LEAVE, &json!({"target": site.url("localhost")}));
    browser.wait_for("one", "localhost");
    let head = site.heads().first().cloned().expect("a visit");
    assert!(!head.contains("referer:"), "{head}");
    let page = browser.read("one");
    assert_eq!(page.referrer, "");

    // The way back leads past the code.
    let history = browser.history("one");
    assert!(history.contains("/done") && !history.contains("code="), "{history}");
    let codes: Vec<String> =
        oidc.secrets().into_iter().filter(|secret| history.contains(secret.as_str())).collect();
    assert!(codes.is_empty(), "{history}");
    for _ in 0..3 {
        let page = browser.back("one");
        assert!(!page.url.contains("code=") && !page.url.contains(&redirect), "{page:?}");
        assert!(oidc.secrets().iter().all(|secret| !page.source.contains(secret.as_str())), "{page:?}");
    }
    assert_requests_are_clean(&oidc, &browser, &redirect);
}

fn is_callback(request: &serde_json::Value, login: &Login<'_>) -> bool {
    request["url"].as_str().is_some_and(|url| url.starts_with(&login.redirect()))
}

/// Waits until a form that took its tab along was answered; with what status.
#[track_caller]
fn await_post(browser: &Browser, login: &Login<'_>) -> u64 {
    let mut status = None;
    Sandbox::wait_until("the form was answered", || {
        let sent = browser.requests();
        let mut navigations = sent.iter().filter(|request| is_callback(request, login)).filter(|request| {
            request["method"] == "POST" && request["headers"]["sec-fetch-mode"] == "navigate"
        });
        status = navigations.find_map(|request| request["status"].as_u64());
        status.is_some()
    });
    status.expect("a status")
}

/// Each tries to bring an answer without the person; which could read what came back?
const ATTACKS: &str = "async ({ target }) => {
    const fetched = (options) =>
        fetch(target, options).then(
            (response) => ({ options, readable: response.type !== 'opaque' && response.type !== 'opaqueredirect' }),
            () => ({ options, readable: false }),
        );
    const loaded = (element, attribute) =>
        new Promise((done) => {
            element.onload = element.onerror = () => {
                let readable = false;
                try {
                    readable = element.contentDocument?.body?.innerText.length > 0;
                } catch {}
                done({ options: element.tagName, readable: Boolean(readable) });
            };
            element[attribute] = target;
            document.body.append(element);
        });
    const form = 'application/x-www-form-urlencoded';
    const body = target.split('?')[1];
    return Promise.all([
        fetched({ mode: 'no-cors', credentials: 'include' }),
        fetched({ mode: 'no-cors', credentials: 'omit' }),
        fetched({ mode: 'cors', credentials: 'include' }),
        fetched({ mode: 'cors', credentials: 'omit' }),
        fetched({ mode: 'no-cors', method: 'POST', credentials: 'include', headers: { 'content-type': form }, body }),
        fetched({ mode: 'cors', method: 'POST', headers: { 'content-type': 'application/json' }, body }),
        loaded(document.createElement('img'), 'src'),
        loaded(document.createElement('iframe'), 'src'),
    ]);
}";
const FORM: &str = "({ target, code, state }) => {
    const form = document.createElement('form');
    Object.assign(form, { method: 'post', action: target });
    for (const [name, value] of Object.entries({ code, state })) {
        const input = document.createElement('input');
        Object.assign(input, { type: 'hidden', name, value });
        form.append(input);
    }
    document.body.append(form);
    setTimeout(() => form.submit(), 0);
}";
const SAME_ORIGIN: &str = "({ target }) => fetch(target).then((response) => response.status, () => null)";
const KEPT: &str =
    "() => ({ cookies: document.cookie, local: localStorage.length, session: sessionStorage.length })";
const LEAVE: &str = "({ target }) => void setTimeout(() => { location.href = target; }, 0)";
const REBOUND: &str = "MAP attacker.test 127.0.0.1";
