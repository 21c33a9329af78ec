//! Rewrites the links of a JSON page (PEP 691) as it passes.
//!
//! serde reads every value; what is held at a time is one file's object, or one member that is no array. Only the
//! `url` of each file is another one. Every other value passes byte for byte, so whatever a later PEP adds
//! (`core-metadata`, `size`, `upload-time`, `versions`, `provenance`) is kept, in its order. A file whose link leads
//! nowhere that a client of ours may go is left out.
//!
//! Objects are written anew, and one that names a member twice is a fault, wherever it is: some clients would take the
//! first, and some the last. A mark of UTF-8 before the page, which some of them stumble over, is left out.

mod distinct;

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Deserializer;

use super::links::Links;
use super::rewrite::{LARGEST_VALUE, RewriteFault};
use distinct::{Distinct, Members};

/// One JSON page on its way.
#[derive(Debug)]
pub struct JsonRewriter {
    links: Links,
    /// What has come and has not been read.
    input: Vec<u8>,
    /// Whether a mark before the page has been looked for.
    begun: bool,
    expected: Expected,
    /// The members of the page so far.
    names: HashSet<String>,
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

impl JsonRewriter {
    #[must_use]
    pub fn new(links: Links) -> Self {
        Self {
            links,
            input: Vec::new(),
            begun: false,
            expected: Expected::Object,
            names: HashSet::new(),
            worthwhile: 0,
        }
    }

    /// Gives what is ready of the page. After a fault it must not be fed again.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Result<Vec<u8>, RewriteFault> {
        self.input.extend_from_slice(chunk);
        if !self.begun {
            if self.input.len() < MARK.len() && MARK.starts_with(&self.input) {
                return Ok(Vec::new());
            }
            self.begun = true;
            if self.input.starts_with(MARK) {
                self.input.drain(..MARK.len());
            }
        }
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
    fn step(&mut self, at: usize, output: &mut Vec<u8>) -> Result<Step, RewriteFault> {
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
                    serde_json::to_writer(&mut *output, &name).map_err(RewriteFault::Json)?;
                    let files = name == "files";
                    if self.names.len() == MOST_MEMBERS || !self.names.insert(name) {
                        return Err(RewriteFault::Shape);
                    }
                    Ok(Step::Read(length, Expected::Colon { files }))
                }
            },
            (Expected::Member { files: false }, _) => match value::<Distinct>(input)? {
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
            return Ok(value::<Distinct>(input)?.map(|(_, length)| {
                output.extend_from_slice(comma);
                output.extend_from_slice(&input[..length]);
                (length, true)
            }));
        }
        let Some((file, length)) = value::<Members<'_>>(input)? else {
            return Ok(None);
        };
        let url = file.get("url").ok_or(RewriteFault::Shape)?;
        let url: String = serde_json::from_str(url).map_err(RewriteFault::Json)?;
        let Some(link) = self.links.rewrite(&url) else {
            return Ok(Some((length, false)));
        };
        output.extend_from_slice(comma);
        file.write_with("url", &link, output).map_err(RewriteFault::Json)?;
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
/// A page has a dozen.
const MOST_MEMBERS: usize = 256;
/// U+FEFF in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
mod tests;
