//! Pages of an index with ten thousand files, through `/index` and straight from the registry, on kept connections: how
//! long until the first byte of the page, behind the head, is there.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::nginx::{self, Upstream};
use super::proxy::Served;
use super::reader::{Duplex, Place, median, secure, trusting};
use super::sandbox::Sandbox;
use super::table::{Table, Target, Unit};

pub(crate) fn first_bytes(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], rounds: usize) {
    let program = match nginx::find() {
        Ok(program) => program,
        Err(reason) => return missing(table, sandboxes, &reason),
    };
    let upstream = Upstream::start(&program, &sandboxes[0].path("upstream-of-pages"));
    upstream.write("simple/acme-html/index.html", &html());
    upstream.write("simple/acme-json/index.json", &json());
    let trust = trusting(&upstream.certificate);
    for sandbox in sandboxes {
        let served = Served::start(sandbox, &upstream);
        let socket = Place::Unix(sandbox.socket());
        let straight = TcpStream::connect(("127.0.0.1", upstream.port)).expect("a connection");
        let mut lines: [(&str, Box<dyn Duplex>); 2] =
            [("", Box::new(secure(straight, &trust))), ("/index/", socket.connect().expect("a connection"))];
        for format in FORMATS {
            let mut times: [Vec<Page>; 2] = Default::default();
            for round in 0..=rounds {
                // The order is the other one each time.
                for which in [round % 2, 1 - round % 2] {
                    let (prefix, line) = &mut lines[which];
                    let host = if prefix.is_empty() {
                        String::from("/")
                    } else {
                        format!("{prefix}{}/", upstream.host())
                    };
                    let target = format!("{host}acme/private/simple/acme-{format}/");
                    let page = Page::get(line, &target, &upstream.host());
                    if round > 0 {
                        times[which].push(page);
                    }
                }
            }
            let [straight, ours] = times;
            let of = |pages: &[Page], pick: fn(&Page) -> Duration| {
                median(&pages.iter().map(pick).collect::<Vec<_>>()) * 1e3
            };
            let (early, late) = (of(&straight, |page| page.first), of(&ours, |page| page.first));
            let note = format!(
                "{late:.1} against {early:.1} ms; whole page {:.0} against {:.0} ms, {} rounds",
                of(&ours, |page| page.whole),
                of(&straight, |page| page.whole),
                rounds
            );
            let measure = measure(format, sandbox.build.name);
            table.row(measure, TARGET, late - early, Unit::Milliseconds, &note);
        }
        drop(served);
    }
}

fn missing(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], reason: &str) {
    for sandbox in sandboxes {
        for format in FORMATS {
            table.missing(measure(format, sandbox.build.name), TARGET, Unit::Milliseconds, reason);
        }
    }
}

fn measure(format: &str, build: &str) -> String {
    format!("first byte of 10,000 files behind upstream's, {format}, {build}")
}

/// When what of a page was there.
struct Page {
    first: Duration,
    whole: Duration,
}

impl Page {
    fn get(line: &mut Box<dyn Duplex>, target: &str, host: &str) -> Self {
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer x\r\n\
             accept: application/vnd.pypi.simple.v1+json, text/html;q=0.1\r\n\r\n"
        );
        let (mut received, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        let start = Instant::now();
        line.write_all(request.as_bytes()).expect("a request");
        let (mut first, mut body) = (None, None);
        loop {
            let read = line.read(&mut buffer).expect("an answer");
            assert!(read > 0, "{target}: broken off");
            received.extend_from_slice(&buffer[..read]);
            if body.is_none() {
                body = Body::of(&received);
            }
            let Some(body) = &body else { continue };
            assert!(received.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&received));
            if received.len() > body.begin + body.before {
                first.get_or_insert_with(|| start.elapsed());
            }
            if body.is_whole(&received) {
                let whole = start.elapsed();
                let files = received.windows(4).filter(|window| window == b".whl").count();
                assert!(files >= FILES, "{target}: {files} links");
                return Self { first: first.unwrap_or(whole), whole };
            }
        }
    }
}

/// Where the body of an answer is.
struct Body {
    begin: usize,
    /// Bytes of framing before the first one of the page.
    before: usize,
    length: Option<usize>,
}

impl Body {
    fn of(received: &[u8]) -> Option<Self> {
        let begin = received.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&received[..begin]).to_lowercase();
        let length = head.split_once("content-length: ");
        let length = length.and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        // The length of a chunk, in a line of its own.
        Some(Self { begin, before: if length.is_some() { 0 } else { 6 }, length })
    }

    fn is_whole(&self, received: &[u8]) -> bool {
        match self.length {
            Some(length) => received.len() >= self.begin + length,
            None => received.ends_with(b"\r\n0\r\n\r\n"),
        }
    }
}

fn html() -> String {
    let mut page = String::from("<!DOCTYPE html>\n<html><head><title>Links</title></head>\n<body>\n");
    for number in 0..FILES {
        let file = file(number);
        let _ = writeln!(
            page,
            "<a href=\"../../acme-html/{file}#sha256={}\" data-requires-python=\"&gt;=3.9\">{file}</a><br>",
            "0123456789abcdef".repeat(4)
        );
    }
    page + "</body></html>\n"
}

fn json() -> String {
    let files: Vec<_> = (0..FILES)
        .map(|number| {
            let (file, hash) = (file(number), "0123456789abcdef".repeat(4));
            serde_json::json!({
                "filename": file, "url": format!("../../acme-json/{file}"), "hashes": {"sha256": hash},
                "requires-python": ">=3.9", "size": 1000
            })
        })
        .collect();
    serde_json::json!({"meta": {"api-version": "1.1"}, "name": "acme-json", "files": files}).to_string()
}

fn file(number: usize) -> String {
    format!("acme_large-1.{number}.0-py3-none-any.whl")
}

const FORMATS: [&str; 2] = ["html", "json"];
const TARGET: Target = Target::AtMost(20.0);
const FILES: usize = 10_000;
