//! The metadata server of a virtual machine, with the tree that clients were seen to ask for.
//!
//! Like the real one it trusts whoever can reach it, except for two signs of a confused deputy: a request without
//! `Metadata-Flavor: Google` (but for `/`, which clients ping) and one that was forwarded. It repeats its token
//! until little of it is left.

use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{HeaderName, HeaderValue, LOCATION};
use hyper::{Method, Response};
use serde_json::{Value, json};

use super::control::Control;
use super::fault::{Body, Verdict, judge};
use super::identity;
use super::record::MetadataRequest;
use super::scope::{CLOUD_PLATFORM, USERINFO_EMAIL};
use super::server::{Call, Closed, with_type};
use super::state::VM;

pub(super) async fn answer(control: &Control, call: &Call) -> Result<Response<Body>, Closed> {
    let (index, fault) = {
        let mut state = control.state();
        state.metadata_requests.push(MetadataRequest { path: call.target.clone(), status: 0 });
        let faults = &mut state.metadata_faults;
        let fault = if call.path.ends_with("/token") { faults.take() } else { faults.always.clone() };
        (state.metadata_requests.len() - 1, fault)
    };
    let mut response = match judge(fault).await {
        Verdict::Proceed(tweak) => tweak.finish(page(control, call)),
        Verdict::Answer(response) => response,
        Verdict::Close => return Err(Closed),
    };
    for (name, value) in HEADERS {
        let (name, value) = (HeaderName::from_static(name), HeaderValue::from_static(value));
        response.headers_mut().insert(name, value);
    }
    control.state().metadata_requests[index].status = response.status().as_u16();
    Ok(response)
}

fn page(control: &Control, call: &Call) -> Response<Bytes> {
    if call.method != Method::GET {
        return text(405, "method not allowed\n");
    }
    if call.header("x-forwarded-for").is_some() {
        return text(403, "forwarded requests are not served\n");
    }
    if call.path == "/" {
        return text(200, "computeMetadata/\n");
    }
    if call.header("metadata-flavor") != Some("Google") {
        return text(403, "missing Metadata-Flavor:Google header\n");
    }
    let recursive =
        call.query.first("recursive").is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1");
    let Some(path) = call.path.strip_prefix("/computeMetadata") else {
        return not_found();
    };
    if let Some(rest) = path.strip_prefix("/v1/instance/service-accounts/")
        && !rest.is_empty()
    {
        return account(control, call, rest, recursive);
    }
    match path {
        ""
        | "/v1"
        | "/v1/instance"
        | "/v1/project"
        | "/v1/universe"
        | "/v1/instance/service-accounts"
        | "/v1/instance/attributes" => with_slash(call),
        "/" => text(200, "v1/\n"),
        "/v1/" => directory(
            recursive,
            "instance/\nproject/\nuniverse/\n",
            || json!({"instance": instance(), "project": project(), "universe": universe()}),
        ),
        "/v1/instance/" => {
            directory(recursive, "attributes/\nhostname\nid\nname\nservice-accounts/\nzone\n", instance)
        }
        "/v1/instance/attributes/" => directory(recursive, "", || json!({})),
        "/v1/instance/hostname" => text(200, "stand-in.c.acme.internal"),
        "/v1/instance/id" => text(200, "1000000000000000001"),
        "/v1/instance/name" => text(200, "stand-in"),
        "/v1/instance/zone" => text(200, ZONE),
        "/v1/instance/service-accounts/" => directory(recursive, format!("default/\n{VM}/\n"), accounts),
        "/v1/project/" => directory(recursive, "numeric-project-id\nproject-id\n", project),
        "/v1/project/project-id" => text(200, "acme"),
        "/v1/project/numeric-project-id" => text(200, "100000000001"),
        "/v1/universe/" => directory(recursive, "universe-domain\n", universe),
        "/v1/universe/universe-domain" => text(200, "googleapis.com"),
        _ => not_found(),
    }
}

fn account(control: &Control, call: &Call, rest: &str, recursive: bool) -> Response<Bytes> {
    let (name, leaf) = match rest.split_once('/') {
        Some((name, leaf)) => (name, Some(leaf)),
        None => (rest, None),
    };
    if name != "default" && name.replace("%40", "@") != VM {
        return not_found();
    }
    match leaf {
        None => with_slash(call),
        Some("") => directory(recursive, "aliases\nemail\nidentity\nscopes\ntoken\n", account_json),
        Some("aliases") => text(200, "default\n"),
        Some("email") => text(200, VM),
        Some("scopes") => text(200, format!("{CLOUD_PLATFORM}\n{USERINFO_EMAIL}\n")),
        Some("token") => token(control, call),
        Some("identity") => match call.query.first("audience") {
            Some(audience) if !audience.is_empty() => {
                let token = identity::token(VM, audience);
                control.state().keep_secret(&token);
                text(200, token)
            }
            _ => text(400, "non-empty audience parameter required\n"),
        },
        Some(_) => not_found(),
    }
}

/// Honours `scopes` as Cloud Run does: the instance's `cloud-platform` covers every scope of Google's.
fn token(control: &Control, call: &Call) -> Response<Bytes> {
    let scopes: Vec<String> = match call.query.first("scopes") {
        Some(scopes) if !scopes.is_empty() => scopes.split(',').map(str::to_owned).collect(),
        _ => vec![CLOUD_PLATFORM.to_owned(), USERINFO_EMAIL.to_owned()],
    };
    if !scopes.iter().all(|scope| scope.starts_with(SCOPE_PREFIX) || scope == "openid" || scope == "email") {
        return text(400, "invalid scope\n");
    }
    let mut state = control.state();
    let kept = state.metadata_tokens.get(&scopes).and_then(|token| {
        let remaining = state.access_tokens[token].remaining();
        (!state.metadata_fickle && remaining >= KEPT_UNTIL).then(|| (token.clone(), remaining.as_secs()))
    });
    let (token, expires_in) = kept.unwrap_or_else(|| {
        let issued = state.issue(VM, scopes.clone(), None);
        state.metadata_tokens.insert(scopes, issued.0.clone());
        issued
    });
    let body = json!({"access_token": token, "expires_in": expires_in, "token_type": "Bearer"});
    with_type(200, "application/json", body.to_string())
}

fn directory(recursive: bool, listing: impl Into<Bytes>, content: impl FnOnce() -> Value) -> Response<Bytes> {
    if recursive { with_type(200, "application/json", content().to_string()) } else { text(200, listing) }
}

fn with_slash(call: &Call) -> Response<Bytes> {
    let host = call.header("host").unwrap_or("metadata.google.internal");
    let query = call.target.strip_prefix(&call.path).unwrap_or_default();
    let location = format!("http://{host}{}/{query}", call.path);
    let mut response = text(301, format!("{}/\n", call.path));
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn instance() -> Value {
    json!({
        "attributes": {}, "hostname": "stand-in.c.acme.internal", "id": 1_000_000_000_000_000_001_u64,
        "name": "stand-in", "serviceAccounts": accounts(), "zone": ZONE,
    })
}

fn project() -> Value {
    json!({"numericProjectId": 100_000_000_001_u64, "projectId": "acme"})
}

fn universe() -> Value {
    json!({"universeDomain": "googleapis.com"})
}

fn accounts() -> Value {
    json!({"default": account_json(), VM: account_json()})
}

fn account_json() -> Value {
    json!({"aliases": ["default"], "email": VM, "scopes": [CLOUD_PLATFORM, USERINFO_EMAIL]})
}

fn not_found() -> Response<Bytes> {
    text(404, "not found\n")
}

fn text(status: u16, body: impl Into<Bytes>) -> Response<Bytes> {
    with_type(status, "application/text", body)
}

const HEADERS: [(&str, &str); 4] = [
    ("metadata-flavor", "Google"),
    ("server", "Metadata Server for VM"),
    ("x-xss-protection", "0"),
    ("x-frame-options", "SAMEORIGIN"),
];
const KEPT_UNTIL: Duration = Duration::from_secs(300);
const SCOPE_PREFIX: &str = "https://www.googleapis.com/auth/";
const ZONE: &str = "projects/100000000001/zones/europe-west1-b";
