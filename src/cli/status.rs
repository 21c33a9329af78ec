//! `valetkey status`: who answers, as whom, from which source, until when. Never a secret.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{control, print};
use crate::ask::NamedSource;
use crate::broker::choice::Candidate;
use crate::client::{Client, fallback};
use crate::clock::{Clock, between, in_words, parse_rfc3339, rfc3339};
use crate::environment::Environment;
use crate::error::{Failure, Kind, printable};
use crate::google::accounts::health::Health;
use crate::google::accounts::{Accounts, Login};

pub(super) fn run(environment: Environment, as_json: bool) -> Result<ExitCode, Failure> {
    let client = Client::new(environment, None)?;
    let (_, named) = client.locate()?;
    let mut document = match control::control(&client, "GET", "/v1/status") {
        Ok(reply) => serde_json::from_slice(&reply.body).map_err(|_| {
            Failure::new(Kind::Local, "the daemon's answer is not one that valetkey understands")
        })?,
        Err(failure) if failure.kind == Kind::NotFound => without_daemon(),
        Err(failure) => return Err(failure),
    };
    // What this shell names decides for what is asked from it, whoever answers; and so does its home, where the
    // daemon has another and was given no identity.
    let elsewhere = || {
        document["daemon"]["gcloud_directory"] != json!(client.paths.gcloud)
            || document["daemon"]["state_directory"] != json!(client.paths.state)
    };
    if document["daemon"].is_null() || named.is_some() || (client.left_behind().is_none() && elsewhere()) {
        document["sources"] = sources(&client, named.or_else(|| client.left_behind()));
    }
    document["logins"] = logins(&client)?;
    print(&if as_json { format!("{document:#}\n") } else { for_people(&document) })?;
    Ok(ExitCode::SUCCESS)
}

/// The same document, made here. Nobody is asked for a token just to show one.
fn without_daemon() -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": 1,
        "daemon": null,
        "sources": [],
        "tokens": [],
        "listeners": [],
    })
}

/// Where an ask from this shell would look, in order.
fn sources(client: &Client, named: Option<NamedSource>) -> Value {
    let sources = fallback::sources(&client.config, &client.environment, &client.paths, named);
    sources.candidates(None).iter().map(Candidate::describe).collect()
}

/// The stored logins of this home, and how they fare. Nobody is asked.
fn logins(client: &Client) -> Result<Value, Failure> {
    let Some(state) = &client.paths.state else { return Ok(json!([])) };
    let accounts = Accounts::load(state)?;
    let default = accounts.default_account();
    let one = |login: &Login| {
        let health = Health::load(state, &login.entry());
        json!({
            "account": login.account,
            "default": default == Some(login.account.as_str()),
            "access": login.access.word(),
            "scopes": login.scopes,
            "vault": login.vault.word(),
            "client_id": login.client_id,
            "adopted": login.adopted,
            "created": rfc3339(login.created),
            "ends": login.ends.map(rfc3339),
            "refreshed": health.refreshed,
            "problem": health.problem,
        })
    };
    Ok(accounts.logins.iter().map(one).collect())
}

/// A login in two lines at most: what it is, and what is wrong with it.
fn login_for_people(login: &Value) -> String {
    let now = Clock::system().now();
    let ago = |member: &str| {
        let time = login[member].as_str().and_then(parse_rfc3339)?;
        Some(format!("{} ago", in_words(between(time, now))))
    };
    let text = |member: &str| printable(login[member].as_str().unwrap_or("-"));
    let default = if login["default"] == true { " (default)" } else { "" };
    let access = if login["access"] == "write" { "reads and publishes" } else { "reads" };
    let place = match login["vault"].as_str() {
        Some("keychain") => "in the keychain",
        _ => "in a file",
    };
    let mut out = format!(
        "login      {}{default} {access}, {place}, signed in {}, {}\n",
        text("account"),
        ago("created").unwrap_or_default(),
        ago("refreshed").map_or_else(|| "not used yet".to_owned(), |ago| format!("last used {ago}")),
    );
    let names = |scope: &Value| scope.as_str().map(|it| printable(it.rsplit('/').next().unwrap_or(it)));
    let scopes: Vec<_> = login["scopes"].as_array().into_iter().flatten().filter_map(names).collect();
    out += &format!("           scopes: {}\n", scopes.join(", "));
    if let Some(ends) = login["ends"].as_str().and_then(parse_rfc3339) {
        let left = between(now, ends);
        let when = if left.is_zero() { "is over".to_owned() } else { format!("ends in {}", in_words(left)) };
        out += &format!(
            "           {when}, as all sign-ins with a client in testing mode do after seven days\n"
        );
    }
    if let Some(problem) = login["problem"].as_object() {
        let word = |member: &str| printable(problem.get(member).and_then(Value::as_str).unwrap_or_default());
        out += &format!("           DEAD: {}; {}\n", word("text"), word("remedy"));
    }
    out
}

fn for_people(document: &Value) -> String {
    let text = |value: &Value| printable(value.as_str().unwrap_or("-"));
    let list = |name: &str| document[name].as_array().cloned().unwrap_or_default();
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = match &document["daemon"] {
        Value::Null => writeln!(out, "daemon     not running (a helper starts it for a user's sign-in)"),
        daemon => writeln!(
            out,
            "daemon     {} running since {}, pid {}, started by {}",
            text(&document["version"]),
            text(&daemon["started"]),
            daemon["pid"],
            text(&daemon["started_by"]),
        ),
    };
    for (label, member) in [("proxy", "proxy"), ("trusted", "certificates")] {
        if let Some(value) = document["daemon"][member].as_str() {
            let _ = writeln!(out, "{label:<10} {}", printable(value));
        }
    }
    for listener in list("listeners") {
        let grants: Vec<_> = listener["grants"].as_array().into_iter().flatten().map(text).collect();
        let _ = writeln!(
            out,
            "listener   {} ({}) for {}",
            text(&listener["address"]),
            grants.join("; "),
            text(&listener["peers"]),
        );
        let repositories: Vec<_> =
            listener["repositories"].as_array().into_iter().flatten().map(text).collect();
        if !repositories.is_empty() {
            let _ = writeln!(out, "           repositories: {}", repositories.join(", "));
        } else if listener["repositories"].is_array() {
            let _ = writeln!(out, "           repositories: none listed");
        }
        if let Some(source) = listener["source"].as_str() {
            let _ = writeln!(out, "           source: {}", printable(source));
        }
        if let Some(until) = listener["until"].as_str() {
            let _ = writeln!(out, "           until {}", printable(until));
        }
    }
    out.extend(list("logins").iter().map(login_for_people));
    for (number, source) in list("sources").iter().enumerate() {
        let label = if number == 0 { "sources" } else { "" };
        let _ = writeln!(out, "{label:<10} {}. {}", number + 1, text(source));
    }
    let tokens = list("tokens");
    for token in &tokens {
        let _ = writeln!(
            out,
            "token      {}{}, {}, until {} [{}]",
            text(&token["access"]),
            token["identity"]
                .as_str()
                .map(|identity| format!(" for {}", printable(identity)))
                .unwrap_or_default(),
            text(&token["source"]),
            text(&token["expires"]),
            text(&token["fingerprint"]),
        );
    }
    for reason in tokens.iter().flat_map(|token| token["passed_over"].as_array().into_iter().flatten()) {
        let _ = writeln!(out, "not taken  {}", text(reason));
    }
    if tokens.is_empty() {
        let _ = writeln!(out, "token      none in memory; `valetkey doctor` tries the sources");
    }
    out
}
