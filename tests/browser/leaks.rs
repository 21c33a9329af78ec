//! Looks for codes, verifiers and tokens where none belongs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::browser::{Browser, Page};
use super::harness::Sandbox;
use super::oidc::Oidc;

/// Everything that valetkey said into these texts or left on disk, but for the vault, whose purpose it is.
#[track_caller]
pub(crate) fn assert_nothing_leaked(sandbox: &Sandbox, oidc: &Oidc, said: &[&str]) {
    let secrets = oidc.secrets();
    assert!(!secrets.is_empty(), "there is nothing to look for");
    for text in said {
        assert_clean(&secrets, "what was said", text);
    }
    let vault = sandbox.path("home/.local/state/valetkey/logins");
    for below in ["home", "run", "tmp"] {
        for file in files(&sandbox.path(below)) {
            if !file.starts_with(&vault) {
                let bytes = fs::read(&file).unwrap_or_default();
                assert_clean(&secrets, &file.display().to_string(), &String::from_utf8_lossy(&bytes));
            }
        }
    }
}

/// A page as the person, a script in it, and the next site see it.
#[track_caller]
pub(crate) fn assert_page_is_clean(oidc: &Oidc, state: &str, page: &Page) {
    let mut secrets = oidc.secrets();
    secrets.insert(state.to_owned());
    for (place, text) in [
        ("the address", &page.url),
        ("the title", &page.title),
        ("the text", &page.text),
        ("the source", &page.source),
        ("the referrer", &page.referrer),
        ("the window's name", &page.name),
    ] {
        assert_clean(&secrets, place, text);
    }
}

/// No request of the browser carries a secret but the callback itself, and none has it in `Referer`.
#[track_caller]
pub(crate) fn assert_requests_are_clean(oidc: &Oidc, browser: &Browser, redirect: &str) {
    let secrets = oidc.secrets();
    for request in browser.requests() {
        let url = request["url"].as_str().unwrap_or_default();
        if !url.starts_with(redirect) {
            assert_clean(&secrets, "a request's address", url);
        }
        let referer = request["headers"]["referer"].as_str().unwrap_or_default();
        assert_clean(&secrets, "a Referer", referer);
        assert!(!referer.starts_with(redirect), "a Referer names the callback: {request}");
    }
}

/// No token is in the profile of a browser that has ended. The code may be: it is spent, and an address is history.
#[track_caller]
pub(crate) fn assert_profile_is_clean(tokens: &BTreeSet<String>, profile: &Path) {
    let files = files(profile);
    assert!(files.len() > 10, "this is no profile: {files:?}");
    for file in files {
        let bytes = fs::read(&file).unwrap_or_default();
        assert_clean(tokens, &file.display().to_string(), &String::from_utf8_lossy(&bytes));
    }
}

#[track_caller]
fn assert_clean(secrets: &BTreeSet<String>, place: &str, text: &str) {
    for secret in secrets {
        assert!(!text.contains(secret.as_str()), "a secret is in {place}: {}…", &secret[..6]);
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&path)),
            Ok(kind) if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found
}
