//! A Python repository shaped like Artifact Registry's.
//!
//! The particulars that trip clients are kept: no listing of all names, relative links that climb two levels, files
//! that redirect to a random address on the same host which wants credentials again, 403 for what does not exist so
//! that names cannot be probed, and an upload address that never redirects.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_RANGE, HeaderName, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE,
};
use hyper::{Method, Response};

use super::control::Control;
use super::fault::{Body, Verdict, judge};
use super::package::{normalize, sha256};
use super::record::{Authorization, RegistryRequest};
use super::scope::{CLOUD_PLATFORM, READ_ONLY};
use super::server::{Call, Closed, json, text, with_type};
use super::state::random_text;

pub(super) async fn answer(control: &Control, call: &Call) -> Result<Response<Body>, Closed> {
    let credential = Credential::of(call);
    let request = RegistryRequest {
        method: call.method.to_string(),
        path: call.path.clone(),
        target: call.target.clone(),
        headers: call.headers.iter().map(told).collect(),
        body: call.body.len(),
        authorization: credential.kind.clone(),
        status: 0,
    };
    let index = {
        let requests = &mut control.state().registry_requests;
        requests.push(request.clone());
        requests.len() - 1
    };
    let fault = control.ask_hook(&request).or_else(|| control.state().take_registry_fault(&call.path));
    let response = match judge(fault).await {
        Verdict::Proceed(tweak) => {
            let answer = page(control, call, credential.token.as_deref());
            tweak.finish(answer.unwrap_or_else(|refusal| refusal))
        }
        Verdict::Answer(response) => response,
        Verdict::Close => return Err(Closed),
    };
    control.state().registry_requests[index].status = response.status().as_u16();
    Ok(response)
}

/// A header for the record.
fn told((name, value): (&HeaderName, &HeaderValue)) -> (String, String) {
    let secret = ["authorization", "cookie", "proxy-authorization"].contains(&name.as_str());
    let value = if secret { String::new() } else { String::from_utf8_lossy(value.as_bytes()).into_owned() };
    (name.as_str().to_owned(), value)
}

/// What a request says it may do.
struct Credential {
    kind: Authorization,
    token: Option<String>,
}

impl Credential {
    fn of(call: &Call) -> Self {
        let none = Self { kind: Authorization::None, token: None };
        let Some((scheme, value)) = call.header("authorization").and_then(|value| value.split_once(' '))
        else {
            return none;
        };
        if scheme.eq_ignore_ascii_case("bearer") {
            return Self { kind: Authorization::Bearer, token: Some(value.trim().to_owned()) };
        }
        let decoded = STANDARD.decode(value.trim()).unwrap_or_default();
        match String::from_utf8_lossy(&decoded).split_once(':') {
            Some((user, password)) if scheme.eq_ignore_ascii_case("basic") => Self {
                kind: Authorization::Basic(user.to_owned()),
                token: (user == "oauth2accesstoken").then(|| password.to_owned()),
            },
            _ => none,
        }
    }
}

/// Both arms are answers; the error is one that ends the matter early.
type Answer = Result<Response<Bytes>, Response<Bytes>>;

fn page(control: &Control, call: &Call, token: Option<&str>) -> Answer {
    let writes = call.method == Method::POST;
    if !writes && call.method != Method::GET && call.method != Method::HEAD {
        return Err(text(405, "method not allowed\n"));
    }
    if !control.state().open_to_all {
        authorize(control, token, writes)?;
    }
    if let Some((kind, content)) = control.state().raw.get(&call.path).filter(|_| !writes) {
        return Ok(with_type(200, kind, content.clone()));
    }
    // The colon of a project of a domain, as pip and twine write it.
    let path = call.path.replacen("%3A", ":", 1).replacen("%3a", ":", 1);
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    if let ["v1", "projects", project, "locations", location, "repositories", repo] = segments.as_slice() {
        return description(control, project, location, repo);
    }
    let (project, repo) = match segments.as_slice() {
        ["artifacts-downloads", "namespaces", project, "repositories", repo, ..] | [project, repo, _, ..] => {
            (*project, *repo)
        }
        _ => return Err(text(404, "404 page not found\n")),
    };
    let repository = format!("{project}/{repo}");
    if !control.state().repositories.contains_key(&repository) {
        return Err(forbidden());
    }
    match segments.as_slice() {
        [_, _, ""] if writes => upload(control, call, project, repo),
        _ if writes => Err(text(405, "method not allowed\n")),
        ["artifacts-downloads", .., "downloads", random] => download(control, call, random),
        [_, _, "simple", name] if !name.is_empty() => Ok(redirect(301, &format!("{}/", call.path))),
        [_, _, "simple", name, ""] if !name.is_empty() => {
            listing(control, call, &repository, &normalize(name))
        }
        [_, _, name, file] if *name != "simple" => file_redirect(control, project, repo, name, file),
        _ => Err(text(404, "404 page not found\n")),
    }
}

fn authorize(control: &Control, token: Option<&str>, writes: bool) -> Result<(), Response<Bytes>> {
    let state = control.state();
    let Some(access_token) = token.and_then(|token| state.valid(token)) else {
        let mut response = text(401, "No valid credential was supplied.\n");
        let challenge = HeaderValue::from_static("Basic realm=\"stand-in\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        return Err(response);
    };
    let has = |wanted: &str| access_token.scopes.iter().any(|scope| scope == wanted);
    let in_scope = has(CLOUD_PLATFORM) || (!writes && has(READ_ONLY));
    if !in_scope {
        return Err(text(403, "Request had insufficient authentication scopes.\n"));
    }
    if state.denied.contains(&access_token.email) {
        return Err(forbidden());
    }
    Ok(())
}

/// `projects.locations.repositories.get` of Artifact Registry's API. All repositories are in [`PLACE`].
fn description(control: &Control, project: &str, location: &str, repo: &str) -> Answer {
    let name = format!("projects/{project}/locations/{location}/repositories/{repo}");
    if location != PLACE || !control.state().repositories.contains_key(&format!("{project}/{repo}")) {
        let error =
            serde_json::json!({"code": 404, "message": format!("{name} not found"), "status": "NOT_FOUND"});
        return Err(json(404, &serde_json::json!({"error": error})));
    }
    Ok(json(200, &serde_json::json!({"name": name, "format": "PYTHON", "mode": "STANDARD_REPOSITORY"})))
}

fn listing(control: &Control, call: &Call, repository: &str, name: &str) -> Answer {
    let state = control.state();
    let files = state.repositories[repository].get(name).ok_or_else(|| text(404, "404 page not found\n"))?;
    if state.serves_json && call.header("accept").is_some_and(|accept| accept.contains(JSON)) {
        let file = |(file, content): (&String, &Bytes)| {
            let url = format!("../../{name}/{file}");
            serde_json::json!({"filename": file, "url": url, "hashes": {"sha256": sha256(content)}, "size": content.len()})
        };
        let files: Vec<_> = files.iter().map(file).collect();
        let page = serde_json::json!({"meta": {"api-version": "1.1"}, "name": name, "files": files});
        return Ok(with_type(200, JSON, page.to_string()));
    }
    let mut links = String::new();
    for (file, content) in files {
        let hash = sha256(content);
        writeln!(links, "<a href=\"../../{name}/{file}#sha256={hash}\">{file}</a><br>")
            .expect("a string takes any text");
    }
    let page = format!(
        "<!DOCTYPE html>\n<html><head><title>Links for {name}</title></head>\n<body>\n<h1>Links for {name}</h1>\n{links}</body></html>\n"
    );
    Ok(with_type(200, "text/html; charset=utf-8", page))
}

fn file_redirect(control: &Control, project: &str, repo: &str, name: &str, file: &str) -> Answer {
    let mut state = control.state();
    let content = state.repositories[&format!("{project}/{repo}")]
        .get(&normalize(name))
        .and_then(|files| files.get(file))
        .cloned()
        .ok_or_else(|| text(404, "404 page not found\n"))?;
    let random = random_text(48);
    let location =
        format!("/artifacts-downloads/namespaces/{project}/repositories/{repo}/downloads/{random}");
    state.downloads.insert(random, content);
    Ok(redirect(302, &location))
}

/// Serves a single range; more than one is answered in full, as RFC 9110 14.2 allows.
fn download(control: &Control, call: &Call, random: &str) -> Answer {
    let content =
        control.state().downloads.get(random).cloned().ok_or_else(|| text(404, "404 page not found\n"))?;
    let mut response = with_type(200, "application/octet-stream", content.clone());
    // The real one does not say so to HEAD.
    if call.method == Method::GET {
        add(&mut response, ACCEPT_RANGES, "bytes");
    }
    let range = call.header(RANGE.as_str()).map(|text| (text, parse_range(text, content.len())));
    match range {
        None | Some((_, Range::Ignored)) => Ok(response),
        Some((_, Range::Unsatisfiable)) => {
            let mut response = text(416, "");
            add(&mut response, CONTENT_RANGE, &format!("bytes */{}", content.len()));
            Err(response)
        }
        Some((_, Range::Part(first, last))) => {
            *response.status_mut() = hyper::StatusCode::PARTIAL_CONTENT;
            *response.body_mut() = content.slice(first..=last);
            let value = format!("bytes {first}-{last}/{}", content.len());
            add(&mut response, CONTENT_RANGE, &value);
            Ok(response)
        }
    }
}

enum Range {
    Ignored,
    Unsatisfiable,
    /// First and last byte, both included.
    Part(usize, usize),
}

fn parse_range(text: &str, length: usize) -> Range {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Range::Ignored;
    };
    match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), _) if first >= length => Range::Unsatisfiable,
        (Ok(first), Ok(last)) if first <= last => Range::Part(first, last.min(length - 1)),
        (Ok(first), Err(_)) if last.is_empty() => Range::Part(first, length - 1),
        (Err(_), Ok(suffix)) if first.is_empty() && suffix > 0 && length > 0 => {
            Range::Part(length.saturating_sub(suffix), length - 1)
        }
        (Err(_), Ok(_)) if first.is_empty() => Range::Unsatisfiable,
        _ => Range::Ignored,
    }
}

/// The form that twine and uv post: fields, and the file as `content`.
fn upload(control: &Control, call: &Call, project: &str, repo: &str) -> Answer {
    let boundary = call
        .header("content-type")
        .filter(|kind| kind.starts_with("multipart/form-data"))
        .and_then(|kind| kind.split_once("boundary="))
        .map(|(_, boundary)| boundary.split(';').next().unwrap_or_default().trim_matches('"'))
        .ok_or_else(|| text(400, "not a multipart form\n"))?;
    let parts = multipart(&call.body, boundary);
    let field = |name: &str| {
        let part = parts.iter().find(|part| part.name == name)?;
        String::from_utf8(part.content.to_vec()).ok()
    };
    let file = parts.iter().find(|part| part.name == "content");
    let (Some(name), Some(file)) = (field("name"), file) else {
        return Err(text(400, "the form has no name or no content\n"));
    };
    if field("sha256_digest").is_some_and(|digest| digest != sha256(&file.content)) {
        return Err(text(400, "sha256_digest does not match the content\n"));
    }
    let filename = file.filename.as_deref().unwrap_or_default();
    if filename.is_empty() || filename.contains('/') {
        return Err(text(400, "the content has no usable file name\n"));
    }
    if control.add_file(project, repo, &name, filename, file.content.clone()) {
        Ok(text(200, ""))
    } else {
        Err(text(400, "Requested entity already exists\n"))
    }
}

struct Part {
    name: String,
    filename: Option<String>,
    content: Bytes,
}

/// Enough of RFC 7578 for well-behaved clients.
fn multipart(body: &Bytes, boundary: &str) -> Vec<Part> {
    let delimiter = format!("\r\n--{boundary}");
    // The first delimiter has no line break of its own before it.
    let mut rest = match find(body, delimiter.trim_start().as_bytes()) {
        Some(start) => body.slice(start + delimiter.len() - 2..),
        None => return Vec::new(),
    };
    let mut parts = Vec::new();
    while rest.starts_with(b"\r\n") {
        let Some(end) = find(&rest, delimiter.as_bytes()) else {
            break;
        };
        if let Some(headers_end) = find(&rest[..end], b"\r\n\r\n") {
            let headers = String::from_utf8_lossy(&rest[..headers_end]);
            parts.push(Part {
                name: parameter(&headers, "name").unwrap_or_default(),
                filename: parameter(&headers, "filename"),
                content: rest.slice((headers_end + 4).min(end)..end),
            });
        }
        rest = rest.slice(end + delimiter.len()..);
    }
    parts
}

fn parameter(headers: &str, name: &str) -> Option<String> {
    let (_, rest) = headers.split_once(&format!("; {name}=\""))?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn redirect(status: u16, location: &str) -> Response<Bytes> {
    let mut response = text(status, "");
    add(&mut response, LOCATION, location);
    response
}

/// Where its repositories are, as the API has it.
const PLACE: &str = "europe";
const JSON: &str = "application/vnd.pypi.simple.v1+json";

fn forbidden() -> Response<Bytes> {
    text(403, "The caller does not have permission, or the resource does not exist.\n")
}

fn add(response: &mut Response<Bytes>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
