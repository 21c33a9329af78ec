//! Which headers pass, and which end here.
//!
//! A request loses whatever identifies its sender, since the token is ours; whatever speaks of one connection only (RFC
//! 9110 7.6.1); and whatever could make a server read another address or method than the one that was checked. An
//! answer loses what would make a client send something, keep something, or ask a person for a password.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::secret::Secret;

/// What is passed on of a request's headers.
#[must_use]
pub fn of_request(from: &HeaderMap) -> HeaderMap {
    let named = named_by_connection(from);
    let dropped = |name: &HeaderName| {
        let text = name.as_str();
        is_hop_by_hop(name)
            || named.contains(name)
            || OURS.contains(name)
            || DROPPED.contains(&text)
            || DROPPED_FAMILIES.iter().any(|family| text.starts_with(family))
    };
    keep(from, |name| !dropped(name))
}

/// Takes out of an answer's headers what ends here.
#[must_use]
pub fn of_answer(from: &HeaderMap) -> HeaderMap {
    let named = named_by_connection(from);
    keep(from, |name| {
        let text = name.as_str();
        // What is ours to say, no registry says.
        !is_hop_by_hop(name)
            && !named.contains(name)
            && !NOT_FOR_CLIENTS.contains(&text)
            && !text.starts_with(OUR_FAMILY)
    })
}

/// The one that lets the request in. No log shows it.
#[must_use]
pub fn bearer(token: &Secret) -> Option<HeaderValue> {
    let text = zeroize::Zeroizing::new(format!("Bearer {}", token.expose()));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn keep(from: &HeaderMap, pass: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let passed = from.iter().filter(|(name, _)| pass(name));
    let mut to = HeaderMap::with_capacity(from.len());
    passed.for_each(|(name, value)| {
        to.append(name, value.clone());
    });
    to
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
}

/// What `Connection` says is for this connection only. It cannot take away what tells where a body ends: that is
/// written anew for the next connection in any case.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    names.filter(|name| *name != header::CONTENT_LENGTH).collect()
}

const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The sender's own word on what the daemon says itself. `Expect` has been answered by then.
const OURS: [HeaderName; 4] = [header::AUTHORIZATION, header::COOKIE, header::EXPECT, header::HOST];

const DROPPED: [&str; 7] = [
    "forwarded",
    "via",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-serverless-authorization",
    // A GET that is a PUT to the server.
    "x-method-override",
];

const DROPPED_FAMILIES: [&str; 5] = ["proxy-", OUR_FAMILY, "x-forwarded-", "x-goog-", "x-http-method"];

/// What helper and daemon say to each other.
const OUR_FAMILY: &str = "valetkey-";

const NOT_FOR_CLIENTS: [&str; 7] = [
    "alt-svc",
    "authentication-info",
    "proxy-authentication-info",
    "public-key-pins",
    "set-cookie",
    "strict-transport-security",
    "www-authenticate",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn a_request_loses_identity_and_connection_and_keeps_the_rest() {
        let from = headers(&[
            ("accept", "text/html"),
            ("accept-encoding", "gzip"),
            ("range", "bytes=0-"),
            ("if-none-match", "\"a\""),
            ("if-range", "\"a\""),
            ("content-type", "a/b"),
            ("content-length", "3"),
            ("user-agent", "pip"),
            ("authorization", "Basic eA=="),
            ("cookie", "a=b"),
            ("proxy-authorization", "Basic eA=="),
            ("proxy-anything", "x"),
            ("host", "evil.test"),
            ("connection", "close, X-Private , content-length"),
            ("x-private", "1"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("forwarded", "for=1"),
            ("x-forwarded-for", "1"),
            ("x-forwarded-host", "evil.test"),
            ("x-goog-user-project", "other"),
            ("x-goog-iam-authority-selector", "x"),
            ("x-http-method-override", "PUT"),
            ("x-original-url", "/other"),
        ]);
        let kept = [
            "accept",
            "accept-encoding",
            "range",
            "if-none-match",
            "if-range",
            "content-type",
            "content-length",
            "user-agent",
        ];
        assert_eq!(names(&of_request(&from)), kept);
    }

    #[test]
    fn an_answer_loses_what_is_between_the_registry_and_us() {
        let from = headers(&[
            ("content-type", "text/html"),
            ("content-encoding", "gzip"),
            ("content-length", "3"),
            ("content-range", "bytes 0-2/3"),
            ("etag", "\"a\""),
            ("location", "/x"),
            ("set-cookie", "a=b"),
            ("www-authenticate", "Basic"),
            ("strict-transport-security", "max-age=1"),
            ("alt-svc", "h3"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("valetkey-mark", "x"),
            ("valetkey-version", "9.0.0"),
        ]);
        let kept =
            ["content-type", "content-encoding", "content-length", "content-range", "etag", "location"];
        assert_eq!(names(&of_answer(&from)), kept);
    }

    #[test]
    fn the_token_is_marked_as_what_no_log_shows() {
        let value = bearer(&Secret::new("ya29.a".to_owned())).unwrap();
        assert!(value == "Bearer ya29.a" && !format!("{value:?}").contains("ya29"));
    }
}
