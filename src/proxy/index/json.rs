//! Rewrites the links of a JSON page (PEP 691) as it passes.
//!
//! serde reads every value; what is held at a time is one file's object, or one member that is no array. Only the
//! `url` of each file is written anew. Every other value passes byte for byte, so whatever a later PEP adds
//! (`core-metadata`, `size`, `upload-time`, `versions`, `provenance`) is kept, in its order. A file whose link leads
//! nowhere that a client of ours may go is left out.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Deserializer;
use serde_json::value::RawValue;

use super::links::Links;
use super::rewrite::{LARGEST_VALUE, RewriteFault};

/// One JSON page on its way.
#[derive(Debug)]
pub struct JsonRewriter {
    links: Links,
    /// What has come and has not been read.
    input: Vec<u8>,
    expected: Expected,
    /// A value that was not whole is read again only when the input has grown to this size.
    worthwhile: usize,
}

/// What may stand next. `first` is where an end may stand in the place of a comma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Object,
    Name { first: bool },
    Colon { files: bool },
    Member { files: bool },
    CommaOrEnd,
    Element { files: bool, first: bool, given: bool },
    CommaOrEndOfArray { files: bool, given: bool },
    Nothing,
}

/// How far one step came.
enum Step {
    /// So many bytes were read, and this stands next.
    Read(usize, Expected),
    Incomplete,
}

/// The part of a file's object that concerns us.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    url: &'a RawValue,
}

impl JsonRewriter {
    #[must_use]
    pub fn new(links: Links) -> Self {
        Self { links, input: Vec::new(), expected: Expected::Object, worthwhile: 0 }
    }

    /// Gives what is ready of the page. After a fault it must not be fed again.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Result<Vec<u8>, RewriteFault> {
        self.input.extend_from_slice(chunk);
        if self.input.len() < self.worthwhile {
            return Ok(Vec::new());
        }
        self.read()
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>, RewriteFault> {
        let output = self.read()?;
        if self.expected == Expected::Nothing && self.input.is_empty() {
            Ok(output)
        } else {
            Err(RewriteFault::BrokenOff)
        }
    }

    /// Reads on as far as the input reaches.
    fn read(&mut self) -> Result<Vec<u8>, RewriteFault> {
        let mut output = Vec::with_capacity(self.input.len());
        let mut at = 0;
        loop {
            at += self.input[at..].iter().take_while(|byte| is_space(**byte)).count();
            match self.step(at, &mut output)? {
                Step::Read(length, expected) => {
                    at += length;
                    self.expected = expected;
                }
                Step::Incomplete => break,
            }
        }
        self.input.drain(..at);
        let left = self.input.len();
        if left > LARGEST_VALUE {
            return Err(RewriteFault::TooLarge);
        }
        self.worthwhile = if left < OFTEN { 0 } else { left * 2 };
        Ok(output)
    }

    /// Reads one token or one value at `at`, where no space stands.
    fn step(&self, at: usize, output: &mut Vec<u8>) -> Result<Step, RewriteFault> {
        let input = &self.input[at..];
        let Some(next) = input.first() else {
            return Ok(Step::Incomplete);
        };
        let mut mark = |expected| {
            output.push(*next);
            Ok(Step::Read(1, expected))
        };
        match (self.expected, next) {
            (Expected::Object, b'{') => mark(Expected::Name { first: true }),
            (Expected::Name { first: true } | Expected::CommaOrEnd, b'}') => mark(Expected::Nothing),
            (Expected::CommaOrEnd, b',') => mark(Expected::Name { first: false }),
            (Expected::Colon { files }, b':') => mark(Expected::Member { files }),
            (Expected::Member { files }, b'[') => {
                mark(Expected::Element { files, first: true, given: false })
            }
            (Expected::Element { first: true, .. } | Expected::CommaOrEndOfArray { .. }, b']') => {
                mark(Expected::CommaOrEnd)
            }
            // Written only when another element follows: the one between two commas may be left out.
            (Expected::CommaOrEndOfArray { files, given }, b',') => {
                Ok(Step::Read(1, Expected::Element { files, first: false, given }))
            }
            (Expected::Name { .. }, b'"') => match value::<String>(input)? {
                None => Ok(Step::Incomplete),
                Some((name, length)) => {
                    output.extend_from_slice(&input[..length]);
                    Ok(Step::Read(length, Expected::Colon { files: name == "files" }))
                }
            },
            (Expected::Member { .. }, _) => match value::<IgnoredAny>(input)? {
                None => Ok(Step::Incomplete),
                Some((_, length)) => {
                    output.extend_from_slice(&input[..length]);
                    Ok(Step::Read(length, Expected::CommaOrEnd))
                }
            },
            (Expected::Element { files, given, .. }, _) => {
                let Some((length, written)) = self.element(input, files, given, output)? else {
                    return Ok(Step::Incomplete);
                };
                Ok(Step::Read(length, Expected::CommaOrEndOfArray { files, given: given || written }))
            }
            _ => Err(RewriteFault::Shape),
        }
    }

    /// Reads one element of an array: its length, and whether it was given to the client.
    fn element(
        &self,
        input: &[u8],
        is_file: bool,
        comma: bool,
        output: &mut Vec<u8>,
    ) -> Result<Option<(usize, bool)>, RewriteFault> {
        let comma: &[u8] = if comma { b"," } else { b"" };
        if !is_file {
            return Ok(value::<IgnoredAny>(input)?.map(|(_, length)| {
                output.extend_from_slice(comma);
                output.extend_from_slice(&input[..length]);
                (length, true)
            }));
        }
        let Some((file, length)) = value::<File<'_>>(input)? else {
            return Ok(None);
        };
        let url: String = serde_json::from_str(file.url.get()).map_err(RewriteFault::Json)?;
        let Some(link) = self.links.rewrite(&url) else {
            return Ok(Some((length, false)));
        };
        // The value is a part of the input: its address says which.
        let start = file.url.get().as_ptr().addr() - input.as_ptr().addr();
        let end = start + file.url.get().len();
        output.extend_from_slice(comma);
        output.extend_from_slice(&input[..start]);
        serde_json::to_writer(&mut *output, &link).map_err(RewriteFault::Json)?;
        output.extend_from_slice(&input[end..length]);
        Ok(Some((length, true)))
    }
}

/// The value that the input begins with, and its length. None: it is not whole yet, or could go on (a number).
fn value<'a, T: Deserialize<'a>>(input: &'a [u8]) -> Result<Option<(T, usize)>, RewriteFault> {
    let mut values = Deserializer::from_slice(input).into_iter::<T>();
    match values.next() {
        Some(Ok(value)) if values.byte_offset() < input.len() => Ok(Some((value, values.byte_offset()))),
        // serde calls a number wrong that only breaks off at its sign, its point or its exponent.
        Some(Err(error)) if !error.is_eof() && !input.last().copied().is_some_and(is_of_number) => {
            Err(RewriteFault::Json(error))
        }
        _ => Ok(None),
    }
}

/// RFC 8259, section 2.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn is_of_number(byte: u8) -> bool {
    byte.is_ascii_digit() || b"+-.eE".contains(&byte)
}

/// Up to this size, a value that is not whole is tried again with every chunk.
const OFTEN: usize = 32 << 10;

#[cfg(test)]
mod tests {
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
        let compact = |text: &str| text.replace("\n        ", "");
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
        assert_eq!(page, r#"{"f\u0069les":[{"\u0075rl":"/registry/europe-python.pkg.dev/x"}]}"#);
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
            "\u{feff}{}",
        ] {
            assert!(in_chunks(page.as_bytes(), 3).is_err(), "{page}");
        }
        assert_eq!(rewritten(" { \"a\" : 1 , \"b\" : [ 1 , 2 ] } \n"), "{\"a\":1,\"b\":[1,2]}");
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
}
