//! `valetkey status`: who answers, as whom, from which source, until when. Never a secret.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{control, print};
use crate::broker::choice::Candidate;
use crate::client::{Client, fallback};
use crate::environment::Environment;
use crate::error::{Failure, Kind};

pub(super) fn run(environment: Environment, as_json: bool) -> Result<ExitCode, Failure> {
    let client = Client::new(environment, None)?;
    let document = match control::control(&client, "GET", "/v1/status") {
        Ok(reply) => serde_json::from_slice(&reply.body).map_err(|_| {
            Failure::new(Kind::Local, "the daemon's answer is not one that valetkey understands")
        })?,
        Err(failure) if failure.kind == Kind::NotFound => without_daemon(&client)?,
        Err(failure) => return Err(failure),
    };
    print(&if as_json { format!("{document:#}\n") } else { for_people(&document) })?;
    Ok(ExitCode::SUCCESS)
}

/// The same document, made here. Nobody is asked for a token just to show one.
fn without_daemon(client: &Client) -> Result<Value, Failure> {
    let (_, named) = client.locate()?;
    let broker = fallback::broker(&client.config, &client.environment, &client.paths, named);
    let sources = broker.cache().upstream().candidates(None);
    let sources: Vec<_> = sources.iter().map(Candidate::describe).collect();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": 1,
        "daemon": null,
        "sources": sources,
        "tokens": [],
        "listeners": [],
    }))
}

fn for_people(document: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let list = |name: &str| document[name].as_array().cloned().unwrap_or_default();
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = match &document["daemon"] {
        Value::Null => writeln!(out, "daemon     not running (it starts when a helper needs it)"),
        daemon => writeln!(
            out,
            "daemon     {} running since {}, pid {}, started by {}",
            text(&document["version"]),
            text(&daemon["started"]),
            daemon["pid"],
            text(&daemon["started_by"]),
        ),
    };
    for listener in list("listeners") {
        let grants: Vec<_> = listener["grants"].as_array().into_iter().flatten().map(text).collect();
        let _ = writeln!(
            out,
            "listener   {} ({}) for {}",
            text(&listener["address"]),
            grants.join("; "),
            text(&listener["peers"]),
        );
    }
    for (number, source) in list("sources").iter().enumerate() {
        let label = if number == 0 { "sources" } else { "" };
        let _ = writeln!(out, "{label:<10} {}. {}", number + 1, text(source));
    }
    let tokens = list("tokens");
    for token in &tokens {
        let _ = writeln!(
            out,
            "token      {} for {}, {}, until {} [{}]",
            text(&token["access"]),
            text(&token["identity"]),
            text(&token["source"]),
            text(&token["expires"]),
            text(&token["fingerprint"]),
        );
    }
    if tokens.is_empty() {
        let _ = writeln!(out, "token      none in memory; `valetkey doctor` tries the sources");
    }
    out
}
