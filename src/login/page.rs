//! What the browser shows: one quiet page that loads nothing, runs nothing and keeps nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use hyper::header::{
    CONNECTION, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use ring::digest;

use crate::http::server::{Reply, reply};
use crate::vault::Vault;

/// What there is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    SignedIn {
        account: String,
        vault: Vault,
    },
    /// Why it did not come to that.
    Failed(String),
    /// A tab of an earlier sign-in.
    OtherAttempt,
    /// Something that is no answer.
    NoAnswer,
    /// A browser of another user, or of nobody knows whom.
    Stranger,
}

/// The page as a reply.
#[must_use]
pub fn page(status: StatusCode, page: &Page) -> Reply {
    let (title, tone, text) = words(page);
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title} · valetkey</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<p class=\"mark {tone}\" aria-hidden=\"true\"></p>\n<h1>{title}</h1>\n{text}</main>\n\
         <footer>valetkey, on this computer</footer>\n</body>\n</html>\n"
    );
    harden(reply(status, "text/html; charset=utf-8", html))
}

/// An answer without a page, for whatever is not a person's browser.
#[must_use]
pub fn plain(status: StatusCode) -> Reply {
    harden(reply(status, "text/plain; charset=utf-8", format!("{status}\n")))
}

fn words(page: &Page) -> (&'static str, &'static str, String) {
    match page {
        Page::SignedIn { account, vault } => {
            let place = match vault {
                Vault::Keychain => "in this computer’s keychain",
                Vault::File => "in a file that only you can read",
            };
            let text = format!(
                "<p>The sign-in of <strong>{}</strong> is kept {place}.</p>\n<p>You may close this tab.</p>\n",
                escape(account)
            );
            ("Signed in", "good", text)
        }
        Page::Failed(reason) => {
            let text = format!(
                "<p>{}.</p>\n<p>Nothing was kept. The terminal says what to do next; you may close this tab.</p>\n",
                escape(&capital(reason.trim_end_matches('.')))
            );
            ("Not signed in", "bad", text)
        }
        Page::OtherAttempt => (
            "An older sign-in",
            "bad",
            "<p>This tab belongs to a sign-in that is over, so its answer was not used.</p>\n\
             <p>Close it, and go on in the newest tab, or run <code>valetkey login</code> again.</p>\n"
                .to_owned(),
        ),
        Page::Stranger => (
            "One more step",
            "bad",
            "<p>This browser is another user’s, or runs on another system, so valetkey did not take its answer from \
             here.</p>\n<p>If you have just signed in: copy the whole address of this tab, and paste it into the terminal in \
             which <code>valetkey login</code> waits. If that takes none, run <code>valetkey login --no-browser</code> \
             there.</p>\n<p>Give the address to nobody else.</p>\n"
                .to_owned(),
        ),
        Page::NoAnswer => (
            "Nothing to see here",
            "bad",
            "<p>valetkey waits here for the answer to a sign-in, and this is none.</p>\n\
             <p>Go on in the tab in which you sign in.</p>\n"
                .to_owned(),
        ),
    }
}

fn harden(mut reply: Reply) -> Reply {
    let hash = STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    let headers = reply.headers_mut();
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    // The port is about to close: no connection outlives its answer.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for name in ["cross-origin-opener-policy", "cross-origin-resource-policy"] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static("same-origin"));
    }
    reply
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Begins a sentence, unless it begins with a name: an address or a host is written as it is.
fn capital(text: &str) -> String {
    if text.split(' ').next().is_some_and(|word| word.contains(['@', '.', ':', '/'])) {
        return text.to_owned();
    }
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1d2125;--soft:#5b6470;--page:#f6f7f9;--card:#fff;--line:#dfe3e8;--good:#1a7f4b;--bad:#b3402f}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a2abb6;--page:#15181c;--card:#1e2227;--line:#31373e;--good:#4cc38a;--bad:#f0806c}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:flex;flex-direction:column;align-items:center;justify-content:center;gap:1.25rem;padding:1.5rem;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{width:100%;max-width:30rem;padding:2rem 2.25rem;background:var(--card);border:1px solid var(--line);border-radius:12px}
h1{margin:0 0 .75rem;font-size:1.4rem;line-height:1.25;font-weight:600}
p{margin:.5rem 0 0;overflow-wrap:anywhere}
.mark{width:2.25rem;height:.3rem;margin:0 0 1.25rem;border-radius:.2rem}
.good{background:var(--good)}.bad{background:var(--bad)}
code{font:.9em ui-monospace,monospace}
footer{color:var(--soft);font-size:.85rem}
@media (max-width:480px){main{padding:1.5rem}}
";

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn what_comes_from_outside_is_text_on_the_page() {
        let reply = page(StatusCode::OK, &Page::Failed("<script>alert(\"&\")</script>".to_owned()));
        let policy = reply.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        let html = String::from_utf8(body.to_vec()).unwrap();
        assert!(
            html.contains("&lt;script&gt;alert(&quot;&amp;&quot;)") && !html.contains("<script"),
            "{html}"
        );
    }
}
