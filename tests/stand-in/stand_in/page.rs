//! The pages of the authorization endpoint: HTML that works without a script, by keyboard, and in the dark.
//!
//! Each says first that it is not Google's.

use hyper::Response;
use hyper::body::Bytes;

use super::authorization::{Refusal, Request};
use super::scope;
use super::server::with_type;

/// Asks the user.
pub(super) fn consent(request: &Request) -> Response<Bytes> {
    let (fixed, optional): (Vec<&String>, Vec<&String>) =
        request.scopes.iter().partition(|scope| !scope::is_optional(scope));
    let fixed = lines(fixed, |scope| format!("<li>{}</li>\n", scope::meaning(scope)));
    let optional = lines(optional, |scope| checkbox(scope));
    let body = format!(
        "<h1>{client} wants access to your account</h1>\n\
         <form method=\"post\">\n\
         {accounts}\
         <fieldset>\n<legend>It would be able to</legend>\n<ul>\n{fixed}</ul>\n{optional}</fieldset>\n\
         <p class=\"buttons\">\n\
         <button name=\"decision\" value=\"allow\" class=\"main\">Allow</button>\n\
         <button name=\"decision\" value=\"cancel\">Cancel</button>\n</p>\n\
         </form>\n\
         <dl>\n<dt>Client</dt><dd>{id}</dd>\n<dt>Then back to</dt><dd>{address}</dd>\n</dl>\n",
        client = escape(request.client_name),
        accounts = accounts(request),
        id = escape(&request.client_id),
        address = escape(&request.redirect_uri),
    );
    page(200, "Sign in", &body)
}

/// Says why it cannot be.
pub(super) fn refusal(refusal: &Refusal) -> Response<Bytes> {
    let body = format!(
        "<h1>Access blocked</h1>\n<p>{}</p>\n<p><strong>Error {}: <code>{}</code></strong></p>\n",
        escape(&refusal.description),
        refusal.status,
        refusal.word,
    );
    page(refusal.status, "Access blocked", &body)
}

fn accounts(request: &Request) -> String {
    if let [only] = request.accounts.as_slice() {
        let only = escape(only);
        return format!(
            "<p>Signed in as <strong>{only}</strong><input type=\"hidden\" name=\"account\" value=\"{only}\"></p>\n"
        );
    }
    let choices = lines(&request.accounts, |email| {
        let checked = if *email == request.account { " checked" } else { "" };
        let email = escape(email);
        format!(
            "<label><input type=\"radio\" name=\"account\" value=\"{email}\" required{checked}>\
             <span>{email}</span></label>\n"
        )
    });
    format!("<fieldset>\n<legend>Choose an account</legend>\n{choices}</fieldset>\n")
}

fn checkbox(scope: &str) -> String {
    let name = scope.rsplit('/').next().unwrap_or(scope);
    format!(
        "<label><input type=\"checkbox\" name=\"scope\" value=\"{}\" checked>\
         <span>{}<small>{}</small></span></label>\n",
        escape(scope),
        scope::meaning(scope),
        escape(name),
    )
}

fn page(status: u16, title: &str, body: &str) -> Response<Bytes> {
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title} · stand-in for Google</title>\n<link rel=\"icon\" href=\"data:,\">\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header role=\"note\"><strong>A stand-in for Google.</strong> \
         This page is not Google's: it comes from a test program on this machine, and the accounts are made up.</header>\n\
         <main>\n{body}</main>\n</body>\n</html>\n"
    );
    with_type(status, "text/html; charset=utf-8", html)
}

fn lines<T>(items: impl IntoIterator<Item = T>, line: impl Fn(T) -> String) -> String {
    items.into_iter().map(line).collect::<Vec<_>>().concat()
}

fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, character| {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
        escaped
    })
}

const STYLE: &str = include_str!("page.css");
