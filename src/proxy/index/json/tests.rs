//! Pages of every shape, whole and cut, and what no page may say.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use url::Url;

use super::super::links::Mount;
use super::*;

const PAGE: &str = "https://europe-python.pkg.dev/acme/private/simple/hello/";

fn in_chunks(page: &[u8], size: usize) -> Result<Vec<u8>, RewriteFault> {
    let links = Links::of_registry(&Url::parse(PAGE).unwrap(), Mount::root(), Arc::new(|_| false));
    let mut rewriter = JsonRewriter::new(links);
    let mut output = Vec::new();
    for chunk in page.chunks(size) {
        output.extend(rewriter.feed(chunk)?);
    }
    output.extend(rewriter.finish()?);
    Ok(output)
}

fn rewritten(page: &str) -> String {
    String::from_utf8(in_chunks(page.as_bytes(), 1 << 16).unwrap()).unwrap()
}

/// Every field of PEP 691, 592, 658, 700, 708, 714 and 740, and some that nobody knows yet.
const FULL: &str = r#"{"meta":{"api-version":"1.4","_last-serial":99999999999999999999,"tracks":["https://x.example/"]},
    "name":"hello","versions":["1.0","2.0"],"files":[{"filename":"hello-1.0.whl","hashes":{"sha256":"00ff"},
    "core-metadata":{"sha256":"11"},"dist-info-metadata":{"sha256":"11"},"requires-python":">=3.9","size":1.50,
    "upload-time":"2026-01-01T00:00:00.000000Z","yanked":"a \"reason\"","gpg-sig":true,"provenance":null,"z":1,"a":2,
    "url" : "..\/..\/hello\/hello-1.0.whl#sha256=00ff"},{"url":"https://elsewhere.example/\u00e9","filename":"x"}],
    "alternate-locations":[],"new":[[{"url":"kept"}],{"files":[{"url":"kept"}]}],"project-status":{"status":"active"}}"#;

#[test]
fn only_the_urls_of_files_change() {
    let whole = rewritten(FULL);
    let compact =
        |text: &str| text.replace("\n        ", "").replace("\n    ", "").replace("\"url\" : ", "\"url\":");
    let expected = compact(FULL)
        .replace(
            r#""..\/..\/hello\/hello-1.0.whl#sha256=00ff""#,
            "\"/registry/europe-python.pkg.dev/acme/private/hello/hello-1.0.whl#sha256=00ff\"",
        )
        .replace("elsewhere.example/\\u00e9", "elsewhere.example/%C3%A9");
    assert_eq!(compact(&whole), expected);
}

#[test]
fn a_page_is_the_same_however_it_is_cut() {
    let whole = rewritten(FULL);
    for size in 1..FULL.len() {
        assert_eq!(in_chunks(FULL.as_bytes(), size).unwrap(), whole.as_bytes(), "in chunks of {size}");
    }
}

#[test]
fn files_that_lead_nowhere_are_left_out() {
    let good = "{\"url\":\"https://elsewhere.example/a\"}";
    let bad = "{\"url\":\"javascript:x\"}";
    for (files, left) in [
        (vec![bad, good, bad, good], format!("{good},{good}")),
        (vec![good, bad], good.to_owned()),
        (vec![bad, bad], String::new()),
        (vec![], String::new()),
    ] {
        let page = format!("{{\"files\":[{}]}}", files.join(" , "));
        assert_eq!(rewritten(&page), format!("{{\"files\":[{left}]}}"));
    }
}

#[test]
fn a_name_of_a_member_is_what_it_means() {
    let page = rewritten(r#"{"f\u0069les":[{"\u0075rl":"/x"}]}"#);
    assert_eq!(page, r#"{"files":[{"url":"/registry/europe-python.pkg.dev/x"}]}"#);
}

#[test]
fn a_file_is_given_as_soon_as_it_has_come() {
    let links = Links::of_public(&Url::parse(PAGE).unwrap());
    let mut rewriter = JsonRewriter::new(links);
    let first = rewriter.feed(br#"{"files":[{"url":"https://elsewhere.example/a"},{"ur"#).unwrap();
    assert_eq!(first, br#"{"files":[{"url":"https://elsewhere.example/a"}"#);
}

#[test]
fn broken_pages_are_faults() {
    for page in [
        "",
        " ",
        "{",
        "[]",
        "null",
        "\"x\"",
        "{\"files\":[",
        "{\"files\":[{\"url\":\"a\"}",
        "{\"files\":[]",
        "{}}",
        "{} x",
        "{\"files\":[{}]}",
        "{\"files\":[{\"url\":1}]}",
        "{\"files\":[{\"url\":\"a\",\"url\":\"b\"}]}",
        "{\"files\":[1]}",
        "{\"files\":[{\"url\":\"a\"},]}",
        "{,}",
        "{\"a\":1,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":tru}",
        "{\"a\":[1,,2]}",
        "{\"a\":[1 2]}",
        "{a:1}",
        "<html></html>",
        "\u{feff}\u{feff}{}",
        "\u{feff}",
        "{\"files\":{\"url\":\"a\"}}",
        "{\"files\":null}",
        // Python would take the last of two, and others the first or none.
        "{\"a\":1,\"a\":2}",
        "{\"files\":[],\"f\\u0069les\":[]}",
        "{\"files\":[{\"url\":\"a\",\"\\u0075rl\":\"b\"}]}",
        "{\"files\":[{\"url\":\"a\",\"filename\":\"b\",\"filename\":\"c\"}]}",
        "{\"files\":[{\"url\":\"a\",\"hashes\":{\"sha256\":\"b\",\"sha256\":\"c\"}}]}",
        "{\"meta\":{\"x\":[{\"y\":{\"z\":1,\"z\":1}}]}}",
        "{\"files\":[{\"url\":\"a\",\"size\":NaN}]}",
    ] {
        assert!(in_chunks(page.as_bytes(), 3).is_err(), "{page}");
    }
    assert_eq!(rewritten(" { \"a\" : 1 , \"b\" : [ 1 , 2 ] } \n"), "{\"a\":1,\"b\":[1,2]}");
}

/// Python's `json` and serde stumble over it; a browser would not.
#[test]
fn a_mark_before_the_page_is_left_out() {
    let marked = format!("\u{feff}{FULL}");
    for size in [1, 2, 3, 4, usize::MAX] {
        assert_eq!(in_chunks(marked.as_bytes(), size).unwrap(), rewritten(FULL).as_bytes(), "{size}");
    }
}

#[test]
fn a_value_without_an_end_is_a_fault_and_not_kept() {
    let page = format!("{{\"a\":\"{}", "x".repeat(4 * LARGEST_VALUE));
    assert!(matches!(in_chunks(page.as_bytes(), 1 << 14), Err(RewriteFault::TooLarge)));
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    assert!(in_chunks(deep.as_bytes(), 1 << 14).is_err());
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z\"\\\\]{0,5}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn all_but_the_urls_is_kept(
        members in proptest::collection::btree_map("[a-z]{1,5}", anything(), 0..4),
        files in proptest::collection::vec(anything(), 0..5),
        pretty in any::<bool>(),
        size in 1_usize..200,
    ) {
        let files_with = |link: &dyn Fn(usize) -> String| -> Value {
            files.iter().enumerate().map(|(at, extra)| json!({"url": link(at), "extra": extra})).collect()
        };
        let page = |link: &dyn Fn(usize) -> String| {
            let mut page: serde_json::Map<String, Value> = members.clone().into_iter().collect();
            page.insert("files".to_owned(), files_with(link));
            Value::Object(page)
        };
        let before = page(&|at| format!("/{at}.whl#sha256={at}"));
        let text = if pretty { serde_json::to_string_pretty(&before).unwrap() } else { before.to_string() };
        let after: Value = serde_json::from_slice(&in_chunks(text.as_bytes(), size).unwrap()).unwrap();
        prop_assert_eq!(after, page(&|at| format!("/registry/europe-python.pkg.dev/{at}.whl#sha256={at}")));
    }

    #[test]
    fn any_bytes_never_panic(
        page in "[{}\\[\\]\",: a1\\\\]{0,60}|\\{\"files\":\\[[{}\\[\\]\",: url]{0,40}", size in 1_usize..20
    ) {
        let _ = in_chunks(page.as_bytes(), size);
    }
}
