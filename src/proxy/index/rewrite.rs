//! A page on its way through us: chunks in, chunks out, whatever it is written in.
//!
//! What comes is read, and what goes is written by us: no two clients can read two different pages out of it. Nothing waits for the end of a page, and no page is held in memory. A page that breaks off or breaks its own
//! rules is a fault, upon which the answer is to be broken off too: half a page must never look like a whole one.

use thiserror::Error;

use super::html::HtmlRewriter;
use super::json::JsonRewriter;
use super::links::Links;
use super::negotiate::Format;
use crate::error::{Fault, Kind};

/// Why a page cannot be passed on.
#[derive(Debug, Error)]
pub enum RewriteFault {
    /// HTML that can be read in two ways, or a tag without an end.
    #[error("the registry's page is broken HTML")]
    Html(#[source] lol_html::errors::RewritingError),
    /// No JSON, or an object that can be read in two ways.
    #[error("the registry's page is broken JSON")]
    Json(#[source] serde_json::Error),
    /// No tag could be seen in it.
    #[error("the registry's page is written in UTF-16, and the pages of an index are written in UTF-8")]
    Encoding,
    /// JSON of another shape than a page's, or a file without a URL.
    #[error("the registry's page is no object of the Simple API")]
    Shape,
    /// It ended too early.
    #[error("the registry's page breaks off")]
    BrokenOff,
    /// Longer than any index's page, or one value in it is.
    #[error(
        "the registry's page is larger than {LARGEST_PAGE} bytes, or one value in it larger than {LARGEST_VALUE}"
    )]
    TooLarge,
    /// It was fed after it had failed.
    #[error("the registry's page was given up before")]
    GivenUp,
}

impl Fault for RewriteFault {
    fn kind(&self) -> Kind {
        Kind::Upstream
    }
}

/// Rewrites the links of one page as it passes.
#[derive(Debug)]
pub struct Rewriter {
    page: Page,
    seen: usize,
    given: usize,
}

#[derive(Debug)]
enum Page {
    Html(Box<HtmlRewriter>),
    Json(Box<JsonRewriter>),
    Broken,
}

impl Rewriter {
    #[must_use]
    pub fn new(format: Format, links: Links) -> Self {
        let page = match format {
            Format::Html => Page::Html(Box::new(HtmlRewriter::new(links))),
            Format::Json => Page::Json(Box::new(JsonRewriter::new(links))),
        };
        Self { page, seen: 0, given: 0 }
    }

    /// Takes the next chunk of the registry's page and gives what of ours is ready, perhaps nothing yet.
    ///
    /// # Errors
    /// When the page is broken or too large; all that was given before stands.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Vec<u8>, RewriteFault> {
        self.seen = self.seen.saturating_add(chunk.len());
        let output = match &mut self.page {
            _ if self.seen > LARGEST_PAGE => Err(RewriteFault::TooLarge),
            Page::Html(page) => page.feed(chunk),
            Page::Json(page) => page.feed(chunk),
            Page::Broken => Err(RewriteFault::GivenUp),
        };
        self.given = self.given.saturating_add(output.as_ref().map_or(0, Vec::len));
        let output = output.and_then(|given| {
            // A short link may have become a long one.
            if self.given > LARGEST_PAGE { Err(RewriteFault::TooLarge) } else { Ok(given) }
        });
        if output.is_err() {
            self.page = Page::Broken;
        }
        output
    }

    /// Gives what is left at the end of the page.
    ///
    /// # Errors
    /// When it is not whole.
    pub fn finish(self) -> Result<Vec<u8>, RewriteFault> {
        match self.page {
            Page::Html(page) => page.finish(),
            Page::Json(page) => page.finish(),
            Page::Broken => Err(RewriteFault::GivenUp),
        }
    }
}

/// A project with a hundred thousand files has a page of some 60 MiB.
const LARGEST_PAGE: usize = 128 << 20;
/// A tag in HTML, a file's object or a member other than an array in JSON: what has to be held as a whole.
pub(super) const LARGEST_VALUE: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    fn rewriter(format: Format) -> Rewriter {
        Rewriter::new(format, Links::of_public(&Url::parse("https://public.example/simple/hello/").unwrap()))
    }

    #[test]
    fn a_page_is_given_up_once_and_for_all() {
        let mut page = rewriter(Format::Json);
        assert!(matches!(page.feed(b"<html>"), Err(RewriteFault::Shape)));
        assert!(matches!(page.feed(b"{}"), Err(RewriteFault::GivenUp)));
        assert!(matches!(page.finish(), Err(RewriteFault::GivenUp)));
        // Two ways to read it: the library would panic if it were asked again.
        let mut page = rewriter(Format::Html);
        assert!(matches!(page.feed(b"<select><xmp><script>x</script></select>"), Err(RewriteFault::Html(_))));
        assert!(matches!(page.feed(b"x"), Err(RewriteFault::GivenUp)));
    }

    #[test]
    fn a_page_without_an_end_is_given_up() {
        let mut page = rewriter(Format::Html);
        let chunk = vec![b' '; 1 << 20];
        let fed = (0..=LARGEST_PAGE >> 20).take_while(|_| page.feed(&chunk).is_ok()).count();
        assert_eq!(fed, LARGEST_PAGE >> 20);
        assert!(matches!(page.feed(b""), Err(RewriteFault::TooLarge | RewriteFault::GivenUp)));
    }

    #[test]
    fn a_page_may_wait_between_two_chunks() {
        fn is_send<T: Send>(_: &T) {}
        is_send(&rewriter(Format::Html));
    }
}
