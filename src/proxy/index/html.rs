//! Reads the files of an HTML page (PEP 503) as it comes, and writes a page of our own that has nothing else on it.
//!
//! Parsers disagree about pages: pip's finds links in a `<title>`, a `<noscript>` or behind a comment that a browser's
//! does not. So no byte of the registry's page goes on. `lol_html` reads it as a browser would, and what is written has
//! one plain `<a>` for each of its links, with the attributes that are for installers (PEP 503, 592, 658, 714, 740:
//! `data-…`), and the `pypi:` words of its head (PEP 629, 708, 792): every parser there is reads the same out of it.
//!
//! A `<base>` holds for the links behind it: HTML wants it before the first one.

mod text;

use std::sync::{Arc, Mutex, PoisonError};

use lol_html::html_content::Element;
use lol_html::send::{HtmlRewriter as Tags, Settings};
use lol_html::{HandlerTypes, MemorySettings, element};

use super::links::Links;
use super::rewrite::RewriteFault;
use text::{escape, unescape};

/// One HTML page on its way.
#[derive(Debug)]
pub struct HtmlRewriter {
    tags: Tags<'static, fn(&[u8])>,
    page: Arc<Mutex<Page>>,
    /// The first bytes, which say whether this can be read at all.
    beginning: Vec<u8>,
}

/// What is being written.
#[derive(Debug)]
struct Page {
    links: Links,
    /// Of several `<base>`, the first counts.
    based: bool,
    part: Part,
    /// What has been written and not yet been taken.
    output: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Body,
}

impl HtmlRewriter {
    #[must_use]
    pub fn new(links: Links) -> Self {
        let page = Page { links, based: false, part: Part::Head, output: BEGINNING.to_owned() };
        let page = Arc::new(Mutex::new(page));
        let [base, meta, anchor] = [Arc::clone(&page), Arc::clone(&page), Arc::clone(&page)];
        let memory = MemorySettings::new().with_max_allowed_memory_usage(MOST_MEMORY);
        let settings = Settings::new_send()
            .with_memory_settings(memory)
            .append_element_content_handler(element!("base[href]", move |element| {
                locked(&base).rebase(element);
                Ok(())
            }))
            .append_element_content_handler(element!("meta[name][content]", move |element| {
                locked(&meta).describe(element);
                Ok(())
            }))
            .append_element_content_handler(element!("a[href]", move |element| {
                locked(&anchor).link(element);
                Ok(())
            }));
        let nowhere: fn(&[u8]) = |_| {};
        Self { tags: Tags::new(settings, nowhere), page, beginning: Vec::new() }
    }

    /// Gives what is ready of the page. After a fault it must not be fed again.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Result<Vec<u8>, RewriteFault> {
        let missing = LONGEST_MARK - self.beginning.len();
        self.beginning.extend_from_slice(&chunk[..chunk.len().min(missing)]);
        // In UTF-16 there are no tags to be seen, and a page without files would be a wrong answer.
        if UTF_16.iter().any(|mark| self.beginning.starts_with(mark)) {
            return Err(RewriteFault::Encoding);
        }
        self.tags.write(chunk).map_err(RewriteFault::Html)?;
        Ok(self.take())
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, RewriteFault> {
        let Self { tags, page, .. } = self;
        tags.end().map_err(RewriteFault::Html)?;
        let mut page = locked(&page);
        page.open_body();
        page.output.push_str(END);
        Ok(std::mem::take(&mut page.output).into_bytes())
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut locked(&self.page).output).into_bytes()
    }
}

fn locked(page: &Mutex<Page>) -> std::sync::MutexGuard<'_, Page> {
    page.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Page {
    fn rebase<H: HandlerTypes>(&mut self, element: &Element<'_, '_, H>) {
        if let Some(reference) = first(element, "href").filter(|_| !self.based) {
            self.based = true;
            self.links.rebase(&reference);
        }
    }

    /// Keeps a word about the page that is for installers.
    fn describe<H: HandlerTypes>(&mut self, element: &Element<'_, '_, H>) {
        let name = first(element, "name").map(|name| name.trim().to_ascii_lowercase());
        let Some(known) = WORDS.into_iter().find(|known| name.as_deref() == Some(known)) else { return };
        if self.part == Part::Head
            && let Some(content) = first(element, "content")
        {
            self.output.push_str("<meta name=\"");
            self.output.push_str(known);
            self.output.push_str("\" content=\"");
            escape(&content, &mut self.output);
            self.output.push_str("\">\n");
        }
    }

    /// Writes the link of an `<a>` anew, or nothing where it leads nowhere.
    fn link<H: HandlerTypes>(&mut self, element: &Element<'_, '_, H>) {
        let Some(link) = first(element, "href").and_then(|reference| self.links.rewrite(&reference)) else {
            return;
        };
        self.open_body();
        self.output.push_str("<a href=\"");
        escape(&link, &mut self.output);
        self.output.push('"');
        let mut written: Vec<String> = Vec::new();
        for attribute in element.attributes() {
            let name = attribute.name();
            // Of two of a name, a browser takes the first, and some clients the last: one is left.
            if is_for_installers(&name) && !written.contains(&name) {
                self.output.push_str(&format!(" {name}=\""));
                escape(&unescape(&attribute.value()), &mut self.output);
                self.output.push('"');
                written.push(name);
            }
        }
        self.output.push('>');
        escape(&file_name(&link), &mut self.output);
        self.output.push_str("</a><br>\n");
    }

    fn open_body(&mut self) {
        if self.part == Part::Head {
            self.part = Part::Body;
            self.output.push_str(MIDDLE);
        }
    }
}

/// The first attribute of a name, in plain text.
fn first<H: HandlerTypes>(element: &Element<'_, '_, H>, name: &str) -> Option<String> {
    let attributes = element.attributes().iter();
    let mut named = attributes.filter(|attribute| attribute.name_preserve_case().eq_ignore_ascii_case(name));
    named.next().map(|attribute| unescape(&attribute.value()))
}

fn is_for_installers(attribute: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    attribute.len() <= LONGEST_NAME
        && attribute.strip_prefix("data-").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(plain))
}

/// What stands last in a link's path, as PEP 503 wants the text of its anchor to be.
fn file_name(link: &str) -> String {
    let path = link.split(['?', '#']).next().unwrap_or_default();
    text::decode(path.trim_end_matches('/').rsplit('/').next().unwrap_or_default())
}

const BEGINNING: &str = "<!DOCTYPE html>\n<html>\n<head>\n";
const MIDDLE: &str = "</head>\n<body>\n";
const END: &str = "</body>\n</html>\n";
/// What the head may say to installers: PEP 629, 792 and 708.
const WORDS: [&str; 5] = [
    "pypi:repository-version",
    "pypi:project-status",
    "pypi:project-status-reason",
    "pypi:tracks",
    "pypi:alternate-locations",
];
/// The marks of both orders, and a page in them without a mark: `<` and a zero byte.
const UTF_16: [&[u8]; 4] = [b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<"];
const LONGEST_MARK: usize = 2;
const LONGEST_NAME: usize = 64;
/// Holds one tag, and a word for each element that is open: ten thousand files without a single end tag.
const MOST_MEMORY: usize = 4 << 20;

#[cfg(test)]
mod tests;
