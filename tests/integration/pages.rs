//! Pages of a registry that are slightly off: compressed though nobody asked, with a mark before them, with links that
//! only some parsers see or only some servers can follow.

use std::io::Write;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Value, json};

use super::harness::Sandbox;
use super::indexing::{JSON, PAGE, call, followed, get, index, links};
use super::passing::{Answer, lines, setting};
use super::stand_in::Fault;

const HTML: &str = "text/html; charset=utf-8";

/// A page in the registry's place.
fn page(content_type: &str, encoding: Option<&str>, body: impl Into<Vec<u8>>) -> Fault {
    let encoding = encoding.map(|encoding| ("content-encoding", encoding.to_owned()));
    let headers = [("content-type", content_type.to_owned())].into_iter().chain(encoding).collect();
    Fault::Page { headers, body: body.into() }
}

fn gzip(page: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    packer.write_all(page).unwrap();
    packer.finish().unwrap()
}

fn files_of(answer: &Answer) -> Vec<String> {
    let content: Value = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"));
    content["files"].as_array().unwrap().iter().map(|file| file["url"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_page_that_comes_compressed_is_unpacked() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    let html = b"<html><body><a href=\"../../acme-hello/a-1.0.tar.gz\">a</a></body></html>";
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(html).unwrap();
    let merged = format!("/merged{}", index(&sandbox, PAGE).strip_prefix("/index").unwrap());
    for (encoding, body) in [
        ("gzip", gzip(html)),
        ("x-gzip", gzip(html)),
        ("identity, GZIP", gzip(html)),
        ("deflate", zlib.finish().unwrap()),
    ] {
        for path in [index(&sandbox, PAGE), merged.clone()] {
            sandbox.google.registry_fault(PAGE, page(HTML, Some(encoding), body.clone()));
            let answer = get(&sandbox, &path);
            assert_eq!((answer.status, answer.whole), (200, true), "{encoding}: {answer:?}");
            assert_eq!((answer.header("content-encoding"), answer.header("content-length")), (None, None));
            let file = followed(&path, &links(&answer)[0]);
            assert!(
                file.starts_with("/registry/") && file.ends_with("/acme/private/acme-hello/a-1.0.tar.gz"),
                "{file}"
            );
        }
    }
    let text =
        json!({"files": [{"url": "../../acme-hello/a-1.0.tar.gz", "filename": "a-1.0.tar.gz"}]}).to_string();
    sandbox.google.registry_fault(PAGE, page(JSON, Some("gzip"), gzip(text.as_bytes())));
    let answer = call(&sandbox, "GET", &index(&sandbox, PAGE), JSON);
    assert_eq!(files_of(&answer).len(), 1, "{answer:?}");
    assert_eq!(sandbox.google.registry_requests()[0].header("accept-encoding"), Some("identity"));
}

#[test]
fn a_page_in_another_encoding_or_in_none_that_it_names_is_refused_with_a_sentence() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    let html = b"<a href=a>a</a>".as_slice();
    for (encoding, body, said) in [
        ("br", html.to_vec(), "\"br\""),
        ("zstd", html.to_vec(), "\"zstd\""),
        ("gzip, gzip", gzip(&gzip(html)), "\"gzip, gzip\""),
        ("gzip", html.to_vec(), "which it is not"),
        ("gzip", Vec::new(), "which it is not"),
        ("deflate", gzip(html), "which it is not"),
    ] {
        sandbox.google.registry_fault(PAGE, page(HTML, Some(encoding), body));
        let answer = get(&sandbox, &index(&sandbox, PAGE));
        assert_eq!(answer.status, 502, "{encoding}: {answer:?}");
        assert!(answer.problem()["detail"].as_str().unwrap().contains(said), "{encoding}: {answer:?}");
    }
}

/// A hundred kilobytes that are a gigabyte: white space, tags, links, and values without an end.
#[test]
fn a_page_that_unpacks_to_more_than_any_page_is_broken_off_and_hurts_nobody() {
    let sandbox = Sandbox::new();
    let daemon = setting(&sandbox);
    let path = index(&sandbox, PAGE);
    let mut ways = 0;
    for (content_type, piece) in [
        (HTML, " "),
        (HTML, "<a href=x>"),
        (HTML, "<a x="),
        (HTML, "x"),
        (JSON, " "),
        (JSON, "{\"files\":[["),
    ] {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        let block = piece.repeat((1 << 20) / piece.len());
        for _ in 0..160 {
            packer.write_all(block.as_bytes()).unwrap();
        }
        sandbox.google.registry_fault(PAGE, page(content_type, Some("gzip"), packer.finish().unwrap()));
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept: {JSON}, text/html\r\n\r\n"
        );
        let reply = super::passing::exchange(&sandbox, request.as_bytes());
        assert!(reply.is_empty() || !Answer::read(&reply, false).whole, "{piece}");
        ways += 1;
    }
    let told = lines(&daemon, ways);
    assert!(told.iter().all(|line| line["verdict"] == "broken off"), "{told:?}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 100 << 10, "{peak} kB");
}

#[test]
fn json_with_a_mark_before_it_is_a_page_as_any() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    let text = json!({"meta": {"api-version": "1.1"}, "files": [{"url": "../../acme-hello/a-1.0.tar.gz"}]})
        .to_string();
    sandbox.google.registry_fault(PAGE, page(JSON, None, format!("\u{feff}{text}")));
    let answer = call(&sandbox, "GET", &index(&sandbox, PAGE), JSON);
    assert!(answer.whole && answer.body.starts_with(b"{"), "{answer:?}");
    assert_eq!(files_of(&answer).len(), 1);
    // And HTML with one.
    sandbox.google.registry_fault(PAGE, page(HTML, None, "\u{feff}<!DOCTYPE html><a href=x>x</a>"));
    let answer = get(&sandbox, &index(&sandbox, PAGE));
    assert!(answer.whole && answer.body.starts_with(b"<!DOCTYPE html>"), "{answer:?}");
    assert_eq!(links(&answer).len(), 1);
}

#[test]
fn a_page_in_an_encoding_without_visible_tags_is_never_an_empty_one() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    let wide: Vec<u8> = "\u{feff}<a href=x>x</a>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    sandbox.google.registry_fault(PAGE, page("text/html; charset=utf-16", None, wide.clone()));
    let answer = get(&sandbox, &index(&sandbox, PAGE));
    assert_eq!(answer.status, 502, "{answer:?}");
    sandbox.google.registry_fault(PAGE, page("text/html", None, wide));
    let request = format!("GET {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", index(&sandbox, PAGE));
    let reply = super::passing::exchange(&sandbox, request.as_bytes());
    assert!(reply.is_empty() || !Answer::read(&reply, false).whole);
}

/// As the page writes them, and as pip asks for what the page writes.
#[test]
fn links_with_parameters_brackets_and_lone_percent_signs_lead_to_their_files() {
    let sandbox = Sandbox::new();
    let _daemon = setting(&sandbox);
    let path = index(&sandbox, PAGE);
    for (written, by_pip, asked) in [
        ("dir;x=1/a-1.0.tar.gz", "dir%3Bx%3D1/a-1.0.tar.gz", "dir;x=1/a-1.0.tar.gz"),
        ("a-1.0.tar.gz;x=1", "a-1.0.tar.gz%3Bx%3D1", "a-1.0.tar.gz;x=1"),
        ("a[b]/a-1.0.tar.gz", "a%5Bb%5D/a-1.0.tar.gz", "a%5Bb%5D/a-1.0.tar.gz"),
        ("a|b^c/a-1.0.tar.gz", "a%7Cb%5Ec/a-1.0.tar.gz", "a%7Cb%5Ec/a-1.0.tar.gz"),
        ("100%/a-1.0.tar.gz", "100%25/a-1.0.tar.gz", "100%25/a-1.0.tar.gz"),
    ] {
        let html = format!("<a href=\"/acme/private/{written}\">a</a>");
        let text = json!({"files": [{"url": format!("/acme/private/{written}")}]}).to_string();
        let mut seen = Vec::new();
        for (content_type, body) in [(HTML, html), (JSON, text)] {
            sandbox.google.registry_fault(PAGE, page(content_type, None, body));
            let answer = call(&sandbox, "GET", &path, content_type.split(';').next().unwrap());
            seen.push(if content_type == HTML {
                links(&answer)[0].clone()
            } else {
                files_of(&answer)[0].clone()
            });
        }
        assert_eq!(seen[0], seen[1], "{written}");
        let file = followed(&path, &seen[0]);
        assert!(file.ends_with(&format!("/acme/private/{asked}")), "{file}");
        let escaped = file.replace(asked, by_pip);
        for file in [file, escaped] {
            sandbox.google.registry_fault("/acme/private/", page("text/plain", None, "the file"));
            let answer = get(&sandbox, &file);
            assert_eq!((answer.status, answer.text().as_str()), (200, "the file"), "{file}");
            let sent = sandbox.google.registry_requests().pop().unwrap().target;
            assert!(file.ends_with(&sent), "{sent} for {file}");
        }
    }
}

/// The one who reads the first of two and the one who reads the last are not told two things.
#[test]
fn json_that_says_a_thing_twice_is_no_page() {
    let sandbox = Sandbox::new();
    let daemon = setting(&sandbox);
    let pages = [
        r#"{"files": [], "files": [{"url": "https://evil.example/a-1.0.tar.gz"}]}"#,
        r#"{"files": [{"url": "a", "url": "https://evil.example/a"}]}"#,
        r#"{"files": [{"url": "a", "hashes": {"sha256": "00", "sha256": "11"}}]}"#,
        r#"{"files": {"url": "https://evil.example/a"}}"#,
    ];
    for text in pages {
        sandbox.google.registry_fault(PAGE, page(JSON, None, text));
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept: {JSON}\r\n\r\n",
            index(&sandbox, PAGE)
        );
        let reply = super::passing::exchange(&sandbox, request.as_bytes());
        assert!(reply.is_empty() || !Answer::read(&reply, false).whole, "{text}");
    }
    assert!(lines(&daemon, pages.len()).iter().all(|line| line["verdict"] == "broken off"));
}
