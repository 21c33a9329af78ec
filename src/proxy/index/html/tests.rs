//! Pages as servers write them, and pages that no two parsers agree about: what goes on has one reading.

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

/// What stands between the head and the end of the page that is made of this one.
fn body_of(page: &str) -> String {
    let written = rewritten(page);
    let (_, rest) = written.split_once(MIDDLE).unwrap();
    rest.strip_suffix(END).unwrap().to_owned()
}

/// The links of the page that is made of this one.
fn links_of(page: &str) -> Vec<String> {
    links_on(&rewritten(page))
}

fn links_on(written: &str) -> Vec<String> {
    written.split("<a href=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

const FILES: &str = "/registry/europe-python.pkg.dev/acme/private/";

#[test]
fn a_page_is_written_anew_with_all_that_is_for_installers() {
    let page = "<!DOCTYPE html>\n<HTML><head><META Name=\"pypi:repository-version\" content=\"1.1\">\
        <meta name=generator content=x><meta name=pypi:project-status content=\"archived\">\
        <title>Links &amp; more</title></head>\n<body><!-- <a href=\"x\"> --><h1>Links</h1>\n\
        <a data-yanked=\"a &quot;reason&quot;\nor two\" href=\"../../hello/hello-1.0%2Bcu1.whl#sha256=00ff\" \
        data-requires-python='&gt;=3.9' data-core-metadata=\"sha256=11\" onclick=x data-dist-info-metadata=\"sha256=11\" \
        data-gpg-sig=true data-provenance=\"https://europe-python.pkg.dev/x\" DATA-NEW data-new=2 rel=internal class=c>\
        <b>hello</b></a><br/>\n<a name=\"x\">no link</a></body></HTML>\n";
    let expected = "<!DOCTYPE html>\n<html>\n<head>\n<meta name=\"pypi:repository-version\" content=\"1.1\">\n\
        <meta name=\"pypi:project-status\" content=\"archived\">\n</head>\n<body>\n\
        <a href=\"/registry/europe-python.pkg.dev/acme/private/hello/hello-1.0%2Bcu1.whl#sha256=00ff\" \
        data-yanked=\"a &quot;reason&quot;&#10;or two\" data-requires-python=\"&gt;=3.9\" \
        data-core-metadata=\"sha256=11\" data-dist-info-metadata=\"sha256=11\" data-gpg-sig=\"true\" \
        data-provenance=\"https://europe-python.pkg.dev/x\" data-new=\"\">hello-1.0+cu1.whl</a><br>\n\
        </body>\n</html>\n";
    assert_eq!(rewritten(page), expected);
    assert_eq!(rewritten(""), format!("{BEGINNING}{MIDDLE}{END}"));
}

#[test]
fn a_page_is_the_same_however_it_is_cut() {
    let page = "<base href='/acme/private/f/'><p title='<a href=y>'>é<a\thref = a.whl?x=1&amp;y#sha256=0 >a</A\n>\
                <script>'<a href=x>'</script><a href=\"b.whl\" x>b</a>";
    let whole = rewritten(page);
    assert_eq!(links_on(&whole), [format!("{FILES}f/a.whl?x=1&amp;y#sha256=0"), format!("{FILES}f/b.whl")]);
    for size in 1..page.len() {
        assert_eq!(in_chunks(page.as_bytes(), size).unwrap(), whole.as_bytes(), "in chunks of {size}");
    }
}

#[test]
fn a_link_is_given_as_soon_as_its_tag_has_come() {
    let mut rewriter = HtmlRewriter::new(links());
    let first = rewriter.feed(b"<html>").unwrap();
    assert_eq!(first, BEGINNING.as_bytes());
    let next = rewriter.feed(b"<body><a href=\"a.whl\">").unwrap();
    assert!(next.ends_with(b"hello/a.whl\">a.whl</a><br>\n"), "{}", String::from_utf8_lossy(&next));
}

/// Where a browser sees text, and another parser tags.
#[test]
fn what_a_browser_does_not_see_as_a_link_is_on_no_page() {
    let hidden = "<a href=\"hidden.whl\">hidden</a>";
    for page in [
        format!("<title>{hidden}</title>"),
        format!("<textarea>{hidden}</textarea>"),
        format!("<noscript>{hidden}</noscript>"),
        format!("<iframe>{hidden}</iframe>"),
        format!("<noembed>{hidden}</noembed>"),
        format!("<noframes>{hidden}</noframes>"),
        format!("<xmp>{hidden}</xmp>"),
        format!("<style>{hidden}</style>"),
        format!("<script>{hidden}</script>"),
        format!("<script><!--<script>{hidden}</script>{hidden}--></script>"),
        format!("<!-- {hidden} -->"),
        format!("<!-- > {hidden} -->"),
        format!("<!-- --!x {hidden} -->"),
        format!("<svg><![CDATA[ {hidden} ]]></svg>"),
        format!("<!-- {hidden}"),
    ] {
        let seen = format!("{page}<a href=\"seen.whl\">seen</a>");
        let (links, unclosed) = (links_of(&seen), page.ends_with("</a>"));
        assert_eq!(links.is_empty(), unclosed, "{seen}");
        assert!(
            links.iter().all(|link| *link == format!("{FILES}simple/hello/seen.whl")),
            "{seen}: {links:?}"
        );
        assert!(!rewritten(&seen).contains("hidden"), "{seen}");
    }
    assert_eq!(body_of("<plaintext><a href=x>"), "");
}

#[test]
fn character_references_are_resolved_and_written_again() {
    for (reference, link) in [
        ("a.whl?x=1&amp;y=2", "a.whl?x=1&amp;y=2"),
        ("a.whl?x=1&y=2", "a.whl?x=1&amp;y=2"),
        ("&#46;&#x2E;&#x2f;other&#x2f;", "../other/"),
        ("&#x68;ttps&colon;//elsewhere.example/", "https://elsewhere.example/"),
        ("a&quot;b&period;c", "a%22b.c"),
        ("a&circ;b;&#0;&#x110000;&", "a&amp;circ;b;&amp;#0;&amp;#x110000;&amp;"),
        ("a[b];x=1/c", "a%5Bb%5D;x=1/c"),
    ] {
        let page = links_of(&format!("<a href=\"{reference}\">x</a>"));
        let expected = match link {
            "../other/" => "/index/europe-python.pkg.dev/acme/private/simple/other/".to_owned(),
            link if link.starts_with("https:") => link.to_owned(),
            link => format!("{FILES}simple/hello/{link}"),
        };
        assert_eq!(page, [expected], "{reference}");
    }
}

#[test]
fn what_leads_nowhere_is_left_out_and_of_two_links_the_first_counts() {
    for page in [
        "<a href=\"javascript:x\" id=1>x</a>",
        "<a id=1 href=http://europe-python.pkg.dev/x>x</a>",
        "<a href>x</a>",
    ] {
        let left = body_of(page);
        // Nothing at all is the page itself.
        assert!(left.is_empty() || page == "<a href>x</a>", "{left}");
    }
    let links = links_of("<a href=\"a\" HREF=\"https://evil.example/\" href=c>x</a>");
    assert_eq!(links, [format!("{FILES}simple/hello/a")]);
}

#[test]
fn of_several_bases_the_first_counts_and_none_goes_on() {
    let page = "<base target=x><BASE href='../../f/'/><base href='https://evil.example/'><a href=a>";
    assert_eq!(links_of(page), [format!("{FILES}f/a")]);
    assert!(!rewritten(page).to_ascii_lowercase().contains("<base"));
    // Within SVG it is one all the same.
    let page = "<svg><base href='f/'></svg><title><a href=x></title><a href=a>";
    assert_eq!(links_of(page), [format!("{FILES}simple/hello/f/a")]);
}

#[test]
fn what_is_written_is_utf_8_whatever_comes() {
    let page =
        b"\xef\xbb\xbf<p id=\"\xe9\">\xe9\xff<a href=\"a\" data-yanked=\"caf\xe9\" title=\"\xe9\">\xe9</a>";
    let output = String::from_utf8(in_chunks(page, 5).unwrap()).unwrap();
    assert!(
        output.contains(&format!("<a href=\"{FILES}simple/hello/a\" data-yanked=\"caf\u{fffd}\">a</a>")),
        "{output}"
    );
}

/// No tag can be seen in it, and a page without files would say that there are none.
#[test]
fn a_page_in_utf_16_is_a_fault() {
    let wide = |mark: &str| format!("{mark}<a href=x>").encode_utf16().collect::<Vec<_>>();
    for mark in ["\u{feff}", ""] {
        let little: Vec<u8> = wide(mark).into_iter().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = wide(mark).into_iter().flat_map(u16::to_be_bytes).collect();
        for page in [little, big] {
            for size in [1, 2, 100] {
                assert!(matches!(in_chunks(&page, size), Err(RewriteFault::Encoding)), "{page:x?}");
            }
        }
    }
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

/// Whether a page has nothing on it but what stands in the few forms that we write: the sets of links that any two
/// parsers see on it are one.
fn is_plain(page: &str) -> bool {
    let value = |text: &str| !text.contains(['<', '>', '"', '\'', '\n', '\r', '\0']);
    let Some((head, body)) = page.strip_prefix(BEGINNING).and_then(|rest| rest.split_once(MIDDLE)) else {
        return false;
    };
    let Some(body) = body.strip_suffix(END) else { return false };
    head.lines().all(|line| line.starts_with("<meta name=\"pypi:") && line.matches(['<', '>']).count() == 2)
        && body.split_terminator('\n').all(|line| {
            let Some((tag, text)) = line
                .strip_prefix("<a href=\"")
                .and_then(|rest| rest.strip_suffix("</a><br>"))
                .and_then(|rest| rest.split_once("\">"))
            else {
                return false;
            };
            let mut attributes = tag.split("\" ");
            attributes.next().is_some_and(value)
                && attributes.all(|it| {
                    it.split_once("=\"").is_some_and(|(name, it)| is_for_installers(name) && value(it))
                })
                && value(text)
        })
}

/// What parsers differ about, joined at random.
fn pieces() -> impl Strategy<Value = Vec<&'static str>> {
    let piece = proptest::sample::select(vec![
        "<a",
        "<base",
        " href=",
        "\"",
        "'",
        ">",
        "</a>",
        "<!--",
        "-->",
        "--!>",
        "<!-->",
        "<script>",
        "</script>",
        "<svg>",
        "<select>",
        "<title>",
        "<![CDATA[",
        "]]>",
        "&",
        "&#",
        ";",
        "x",
        "\0",
        "/",
        "https://evil.example/",
        "../",
        "<template>",
        "<math>",
        "<",
        "é",
        "<a href=\"../x\">",
        "<a href=y>",
        "<base href='z/'>",
        "</title>",
        "</svg>",
        "<textarea>",
        "</textarea>",
        "<noscript>",
        "</noscript>",
        "<iframe>",
        "</iframe>",
        "<style>",
        "</style>",
        "<plaintext>",
        "<?",
        "<!",
        "</",
        "=",
        " data-yanked=",
        "<a href=y data-x='&quot;>",
        "<meta name=pypi:tracks content=",
        "\r",
        "\n",
        "&lt;",
        "&lt",
        "\u{2028}",
        "[1]",
        ";x=1",
    ]);
    proptest::collection::vec(piece, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_comes_the_page_has_plain_links_through_us_and_nothing_else(pieces in pieces(), size in 1_usize..20) {
        let page = pieces.concat();
        let cut = in_chunks(page.as_bytes(), size);
        let whole = in_chunks(page.as_bytes(), usize::MAX);
        prop_assert_eq!(cut.is_ok(), whole.is_ok());
        if let (Ok(cut), Ok(whole)) = (cut, whole) {
            prop_assert_eq!(&cut, &whole);
            let whole = String::from_utf8(whole).unwrap();
            prop_assert!(is_plain(&whole), "{page}\n{whole}");
            for link in links_on(&whole) {
                let ours = ["/registry/europe-python.pkg.dev/", "/index/europe-python.pkg.dev/", "https://evil.example/"];
                prop_assert!(ours.iter().any(|ours| link.starts_with(ours)), "{link} of {page}");
            }
        }
    }

    #[test]
    fn any_bytes_never_panic(page in proptest::collection::vec(any::<u8>(), 0..400), size in 1_usize..50) {
        let _ = in_chunks(&page, size);
    }
}
