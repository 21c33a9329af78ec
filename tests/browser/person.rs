//! What a person does on the pages of an authorization server: of the certified one, and of the stand-in.

use super::browser::Browser;

/// What the person says on the consent page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict<'a> {
    Allow,
    /// Allow, with the tick before this scope taken away.
    AllowBut(&'a str),
    Deny,
}

/// Goes through the pages in a tab that shows one of them: who the person is, and what they say.
#[track_caller]
pub(crate) fn click_through(browser: &Browser, tab: &str, account: &str, verdict: Verdict<'_>) {
    sign_in(browser, tab, account);
    answer(browser, tab, verdict);
}

/// Up to the verdict and no further.
#[track_caller]
pub(crate) fn sign_in(browser: &Browser, tab: &str, account: &str) {
    if browser.wait_any(tab, &[EMAIL, ALLOW]) == EMAIL {
        browser.fill(tab, EMAIL, account);
        browser.click(tab, "button");
        browser.wait_any(tab, &[ALLOW]);
    }
    // The stand-in asks both on one page.
    let choice = format!("input[type=radio][value=\"{account}\"]");
    if browser.run(tab, "(choice) => document.querySelector(choice) !== null", &choice.clone().into()) == true
    {
        browser.tick(tab, &choice, true);
    }
}

/// The consent page.
#[track_caller]
pub(crate) fn answer(browser: &Browser, tab: &str, verdict: Verdict<'_>) {
    if let Verdict::AllowBut(scope) = verdict {
        browser.tick(tab, &format!("input[type=checkbox][value=\"{scope}\"]"), false);
    }
    browser.click(tab, if verdict == Verdict::Deny { DENY } else { ALLOW });
}

const EMAIL: &str = "input[type=email]";
const ALLOW: &str = "button[value=allow]";
const DENY: &str = "button[value=deny], button[value=cancel]";
