//! Rewrites the links of an HTML page (PEP 503) as it passes.
//!
//! `lol_html` finds the tags as a browser would. Only `href` of `<a>` is written anew and that of `<base>` taken away;
//! every other byte, all other attributes among them (PEP 592, 658, 714), passes as it is, whatever it is encoded in.
//!
//! A `<base>` holds for the links behind it: HTML wants it before the first one.

use std::sync::{Arc, Mutex, PoisonError};

use lol_html::html_content::Element;
use lol_html::send::{HtmlRewriter as Tags, Settings};
use lol_html::{HandlerTypes, MemorySettings, OutputSink, element};

use super::links::Links;
use super::rewrite::RewriteFault;

/// One HTML page on its way.
#[derive(Debug)]
pub struct HtmlRewriter {
    tags: Tags<'static, Output>,
    output: Output,
}

impl HtmlRewriter {
    #[must_use]
    pub fn new(links: Links) -> Self {
        let links = Arc::new(Mutex::new(links));
        let base = Arc::clone(&links);
        let mut found = false;
        let memory = MemorySettings::new().with_max_allowed_memory_usage(MOST_MEMORY);
        let settings = Settings::new_send()
            .with_memory_settings(memory)
            .append_element_content_handler(element!("a[href]", move |element| {
                mend(element, &links.lock().unwrap_or_else(PoisonError::into_inner))
            }))
            .append_element_content_handler(element!("base[href]", move |element| {
                // The first one counts. None may keep its address: it would move our links. The element itself stays:
                // within SVG, taking it away would take the end tag of what is around it, and change what is a tag.
                if let Some(reference) = element.get_attribute("href").filter(|_| !found) {
                    found = true;
                    base.lock().unwrap_or_else(PoisonError::into_inner).rebase(&unescape(&reference));
                }
                element.remove_attribute("href");
                Ok(())
            }));
        let output = Output::default();
        Self { tags: Tags::new(settings, output.clone()), output }
    }

    /// Gives what is ready of the page. After a fault it must not be fed again.
    pub(super) fn feed(&mut self, chunk: &[u8]) -> Result<Vec<u8>, RewriteFault> {
        self.tags.write(chunk).map_err(RewriteFault::Html)?;
        Ok(self.output.take())
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, RewriteFault> {
        self.tags.end().map_err(RewriteFault::Html)?;
        Ok(self.output.take())
    }
}

/// What has been written and not yet been taken.
#[derive(Debug, Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl OutputSink for Output {
    fn handle_chunk(&mut self, chunk: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(chunk);
    }
}

/// Writes the link of an `<a>` anew. Of several, the first counts, and some clients take the last: one is left.
fn mend<H: HandlerTypes>(element: &mut Element<'_, '_, H>, links: &Links) -> lol_html::HandlerResult {
    let mut references = element
        .attributes()
        .iter()
        .filter(|attribute| attribute.name_preserve_case().eq_ignore_ascii_case("href"));
    let link = references.next().and_then(|reference| links.rewrite(&unescape(&reference.value())));
    if references.next().is_some() || link.is_none() {
        element.remove_attribute("href");
    }
    if let Some(link) = link {
        element.set_attribute("href", &link.replace('&', "&amp;"))?;
    }
    Ok(())
}

/// Resolves the character references that index servers write into a link. Any other is kept as the text that it
/// is: such a link then leads nowhere, rather than elsewhere.
fn unescape(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let reference = rest.find(';').filter(|end| *end <= LONGEST_REFERENCE).map(|end| &rest[1..end]);
        let resolved = reference.and_then(|text| Some((character(text)?, text.len() + 2)));
        // An ampersand that begins no reference is one.
        let (character, length) = resolved.unwrap_or(('&', 1));
        plain.push(character);
        rest = &rest[length..];
    }
    plain.push_str(rest);
    plain
}

fn character(reference: &str) -> Option<char> {
    match reference {
        "amp" => return Some('&'),
        "lt" => return Some('<'),
        "gt" => return Some('>'),
        "quot" => return Some('"'),
        "apos" => return Some('\''),
        _ => {}
    }
    let number = reference.strip_prefix('#')?;
    let number = match number.strip_prefix(['x', 'X']) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => number.parse(),
    };
    number.ok().filter(|number| *number != 0).and_then(char::from_u32)
}

/// Holds one tag, and a word for each element that is open: ten thousand files without a single end tag.
const MOST_MEMORY: usize = 4 << 20;
/// `&#x0010ffff;`
const LONGEST_REFERENCE: usize = 12;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::super::links::Mount;
    use super::*;

    const PAGE: &str = "https://europe-python.pkg.dev/acme/private/simple/hello/";

    fn links() -> Links {
        Links::of_registry(&Url::parse(PAGE).unwrap(), Mount::root(), Arc::new(|_| false))
    }

    fn in_chunks(page: &[u8], size: usize) -> Result<Vec<u8>, RewriteFault> {
        let mut rewriter = HtmlRewriter::new(links());
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

    #[test]
    fn only_the_link_changes() {
        let page = "<!DOCTYPE html>\n<HTML><head><meta name=\"pypi:repository-version\" content=\"1.1\">\
            <title>Links &amp; more</title></head>\n<body><!-- <a href=\"x\"> -->\n\
            <a data-yanked=\"a &quot;reason&quot;\" href=\"../../hello/hello-1.0.whl#sha256=00ff\" \
            data-requires-python='&gt;=3.9' data-core-metadata=\"sha256=11\" data-dist-info-metadata=\"sha256=11\" \
            data-gpg-sig=true data-provenance=\"https://europe-python.pkg.dev/x\" DATA-NEW>hello-1.0.whl</a><br/>\n\
            <a name=\"x\">no link</a></body></HTML>\n";
        let expected = page.replace(
            "../../hello/hello-1.0.whl",
            "/registry/europe-python.pkg.dev/acme/private/hello/hello-1.0.whl",
        );
        assert_eq!(rewritten(page), expected);
    }

    #[test]
    fn a_page_is_the_same_however_it_is_cut() {
        let page = "<base href='/acme/private/f/'><p title='<a href=y>'>é<a\thref = a.whl?x=1&amp;y#sha256=0 >a</A\n>\
                    <script>'<a href=x>'</script><a href=\"b.whl\" x>b</a>";
        let whole = rewritten(page);
        assert_eq!(
            whole,
            "<base><p title='<a href=y>'>é<a href=\"/registry/europe-python.pkg.dev/acme/private/f/a.whl?x=1&amp;y#sha256=0\">a\
             </A\n><script>'<a href=x>'</script>\
             <a href=\"/registry/europe-python.pkg.dev/acme/private/f/b.whl\" x>b</a>"
        );
        for size in 1..page.len() {
            assert_eq!(in_chunks(page.as_bytes(), size).unwrap(), whole.as_bytes(), "in chunks of {size}");
        }
    }

    #[test]
    fn a_link_is_given_as_soon_as_its_tag_has_come() {
        let mut rewriter = HtmlRewriter::new(links());
        let first = rewriter.feed(b"<html><body><a href=\"a.whl\">a</a>\n<a hre").unwrap();
        assert!(first.ends_with(b"hello/a.whl\">a</a>\n"), "{}", String::from_utf8_lossy(&first));
    }

    #[test]
    fn character_references_are_resolved_and_written_again() {
        for (reference, link) in [
            ("a.whl?x=1&amp;y=2", "a.whl?x=1&amp;y=2"),
            ("a.whl?x=1&y=2", "a.whl?x=1&amp;y=2"),
            ("&#46;&#x2E;&#x2f;other&#x2f;", "../other/"),
            ("&#x68;ttps://elsewhere.example/", "https://elsewhere.example/"),
            ("a&quot;b", "a%22b"),
            ("a&period;b;&#0;&#x110000;&", "a&amp;period;b;&amp;#0;&amp;#x110000;&amp;"),
        ] {
            let page = rewritten(&format!("<a href=\"{reference}\">x</a>"));
            let expected = match link {
                "../other/" => "/index/europe-python.pkg.dev/acme/private/simple/other/".to_owned(),
                link if link.starts_with("https:") => link.to_owned(),
                link => format!("/registry/europe-python.pkg.dev/acme/private/simple/hello/{link}"),
            };
            assert_eq!(page, format!("<a href=\"{expected}\">x</a>"), "{reference}");
        }
    }

    #[test]
    fn what_leads_nowhere_has_no_link_and_of_two_links_one_is_left() {
        for page in
            ["<a href=\"javascript:x\" id=1>x</a>", "<a id=1 href=http://europe-python.pkg.dev/x>x</a>"]
        {
            assert_eq!(rewritten(page), "<a id=1>x</a>");
        }
        let page = rewritten("<a href=\"a\" HREF=\"https://evil.example/\" href=c>x</a>");
        assert_eq!(page, "<a href=\"/registry/europe-python.pkg.dev/acme/private/simple/hello/a\">x</a>");
    }

    #[test]
    fn no_base_keeps_its_address_and_the_first_one_counts() {
        let page =
            rewritten("<base target=x><BASE href='../../f/'/><base href='https://evil.example/'><a href=a>");
        let file = "/registry/europe-python.pkg.dev/acme/private/f/a";
        assert_eq!(page, format!("<base target=x><BASE/><base><a href=\"{file}\">"));
    }

    #[test]
    fn a_base_within_svg_takes_nothing_else_away() {
        let page = rewritten("<svg><base href='f/'></svg><title><a href=x></title><a href=a>");
        let file = "/registry/europe-python.pkg.dev/acme/private/simple/hello/f/a";
        assert_eq!(page, format!("<svg><base></svg><title><a href=x></title><a href=\"{file}\">"));
    }

    #[test]
    fn other_encodings_pass_as_bytes() {
        let page = b"<p id=\"\xe9\">\xe9\xff<a href=\"a\" title=\"\xe9\">\xe9</a>";
        let output = in_chunks(page, 5).unwrap();
        let expected = b"<p id=\"\xe9\">\xe9\xff<a href=\"/registry/europe-python.pkg.dev/acme/private/simple/hello/a\" title=\"\xe9\">\xe9</a>";
        assert_eq!(output, expected, "{}", String::from_utf8_lossy(&output));
    }

    #[test]
    fn elements_without_an_end_do_not_exhaust_the_memory() {
        let page = "<p><a href=a>x".repeat(10_000);
        assert_eq!(rewritten(&page).matches("/registry/").count(), 10_000);
    }

    #[test]
    fn a_tag_without_an_end_is_a_fault_and_not_kept() {
        let page = format!("<a href=\"{}", "a".repeat(2 * MOST_MEMORY));
        assert!(matches!(in_chunks(page.as_bytes(), 1 << 14), Err(RewriteFault::Html(_))));
    }

    /// The links that are on a page, and how many `<base>` it has.
    fn read_again(page: &[u8]) -> Option<(Vec<String>, usize)> {
        let (mut found, mut bases) = (Vec::new(), 0);
        let settings = lol_html::Settings::new()
            .append_element_content_handler(element!("a[href]", |element| {
                let links = element.attributes().iter().filter(|it| it.name() == "href");
                found.extend(links.map(lol_html::html_content::Attribute::value));
                Ok(())
            }))
            .append_element_content_handler(element!("base[href]", |_| {
                bases += 1;
                Ok(())
            }));
        let mut tags = lol_html::HtmlRewriter::new(settings, |_: &[u8]| {});
        tags.write(page).and_then(|()| tags.end()).ok()?;
        Some((found, bases))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn broken_html_never_panics_and_no_link_is_overlooked(
            pieces in proptest::collection::vec(prop_oneof![
                Just("<a"), Just("<base"), Just(" href="), Just("\""), Just("'"), Just(">"), Just("</a>"), Just("<!--"),
                Just("-->"), Just("<script>"), Just("</script>"), Just("<svg>"), Just("<select>"), Just("<title>"),
                Just("<![CDATA["), Just("]]>"), Just("&"), Just("&#"), Just(";"), Just("x"), Just("\0"), Just("/"),
                Just("https://evil.example/"), Just("../"), Just("<template>"), Just("<math>"), Just("<"), Just("é"),
                Just("<a href=\"../x\">"), Just("<a href=y>"), Just("<base href='z/'>"), Just("</title>"), Just("</svg>"),
            ], 0..40),
            size in 1_usize..20,
        ) {
            let page = pieces.concat();
            let cut = in_chunks(page.as_bytes(), size);
            let whole = in_chunks(page.as_bytes(), usize::MAX);
            prop_assert_eq!(cut.is_ok(), whole.is_ok());
            if let (Ok(cut), Ok(whole)) = (cut, whole) {
                prop_assert_eq!(&cut, &whole);
                if let Some((found, bases)) = read_again(&whole) {
                    prop_assert_eq!(bases, 0);
                    for link in found {
                        let ours = ["/registry/europe-python.pkg.dev/", "/index/europe-python.pkg.dev/", "https://evil.example/"];
                        prop_assert!(ours.iter().any(|ours| link.starts_with(ours)), "{link} of {page}");
                    }
                }
            }
        }

        #[test]
        fn any_bytes_never_panic(page in proptest::collection::vec(any::<u8>(), 0..400), size in 1_usize..50) {
            let _ = in_chunks(&page, size);
        }
    }
}
