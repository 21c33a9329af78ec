//! Pages that no two parsers read alike, through the real daemon, and then read by the parsers of the real clients: pip's
//! of today and of html5lib's time, poetry's, pdm's, and Python's own. Each sees the same links, and all lead through us.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::client::{Client, Identity, assert_success, run};
use super::harness::Sandbox;
use super::served::Served;
use super::stand_in::Fault;

/// What each parser sees on each page.
type Seen = BTreeMap<String, BTreeMap<String, Vec<String>>>;

#[test]
fn every_parser_sees_the_same_links_and_all_lead_through_us() {
    let clients: Vec<Client> = PARSERS.iter().filter_map(|name| Client::find(name)).collect();
    if clients.is_empty() {
        return;
    }
    let sandbox = Sandbox::new();
    let port = Served::open(&sandbox, "read", "");
    let index = port.index();
    let directory = sandbox.path("pages");
    fs::create_dir(&directory).unwrap();
    let mut random = StdRng::seed_from_u64(27);
    let (mut given, mut anchors) = (0, 0);
    for number in 0..PAGES {
        let page: String = (0..random.gen_range(1..30))
            .map(|_| {
                let links_only = random.gen_bool(0.4);
                PIECES[random.gen_range(0..if links_only { LINKS } else { PIECES.len() })]
            })
            .collect();
        let path = format!("/acme/private/simple/page-{number}/");
        let headers = vec![("content-type", "text/html; charset=utf-8".to_owned())];
        sandbox.google.registry_fault(&path, Fault::Page { headers, body: page.clone().into_bytes() });
        // One that can be read in two ways ends in a broken connection: no client takes it for a page.
        if let Some(body) = get(&format!("{index}page-{number}/")) {
            anchors += String::from_utf8_lossy(&body).matches("<a href").count();
            fs::write(directory.join(format!("{number:04}")), body).unwrap();
            given += 1;
        }
    }
    assert!(given > PAGES * 9 / 10 && anchors > PAGES, "{given} pages, {anchors} links");
    let mut parsers: Seen = BTreeMap::new();
    for (client, name) in clients.iter().zip(PARSERS) {
        let mut command = client.command(&sandbox, Identity::User, "python");
        command.arg(SCRIPT).arg(&directory).arg(format!("{index}page/"));
        let seen = run(&sandbox, &mut command);
        assert_success(&seen);
        let seen: Seen = serde_json::from_str(&seen.stdout).unwrap();
        parsers.extend(seen.into_iter().map(|(parser, pages)| (format!("{parser} of {name}"), pages)));
    }
    assert!(parsers.len() > 2 * clients.len() - 1, "{:?}", parsers.keys());
    let (first, expected) = parsers.first_key_value().unwrap();
    let ours = ["registry", "index"]
        .map(|place| index.split_once("/index/").unwrap().0.to_owned() + "/" + place + "/");
    for (page, links) in expected {
        for link in links {
            let through_us = ours.iter().any(|place| link.starts_with(place.as_str()));
            assert!(through_us || link.starts_with(ELSEWHERE), "{link} on page {page}");
        }
    }
    for (parser, pages) in &parsers {
        for (page, links) in pages {
            // pip writes a link in its own way.
            let plain = |links: &[String]| links.iter().map(|link| plain(link)).collect::<Vec<_>>();
            let page_text = || fs::read_to_string(directory.join(page)).unwrap();
            assert_eq!(plain(links), plain(&expected[page]), "{parser} and {first} on {}", page_text());
        }
    }
}

/// A link with every escape decoded, as it is compared.
fn plain(link: &str) -> String {
    let (mut decoded, mut rest) = (Vec::new(), link.as_bytes());
    while let Some((byte, behind)) = rest.split_first() {
        let digits =
            behind.get(..2).filter(|_| *byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The whole body of a page, or nothing where it breaks off.
fn get(url: &str) -> Option<Vec<u8>> {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    let request =
        format!("GET /{path} HTTP/1.0\r\nhost: {host}\r\naccept: text/html\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    assert!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{head}");
    let body = answer.split_off(end);
    // Of a page that breaks off, the last line is missing.
    body.ends_with(b"</html>\n").then_some(body)
}

/// Where browsers and others part ways.
const PIECES: [&str; 60] = [
    "<a href=\"../../page/one-1.0.tar.gz\">one</a>",
    "<a href='two-1.0-py3-none-any.whl#sha256=00'>two</a>",
    "<a href=three-1.0.tar.gz>three</a>",
    "<A HREF=\"https://elsewhere.example/four-1.0.tar.gz\" data-yanked>four</A>",
    "<a href=\"five[1];x=1/five-1.0.tar.gz?q=[a]&amp;b=1\" data-requires-python=\"&gt;=3\">five</a>",
    "<a data-x='>' href=\"six%2B1-1.0.tar.gz\">six</a>",
    "<a href=\"/acme/private/page/seven-1.0.tar.gz\" href=\"https://evil.example/\">seven</a>",
    "<a href=\"http://plain.example/eight-1.0.tar.gz\">eight</a>",
    "<a name=x>no link</a>",
    "<a href=\"nine&period;1.0&#46;tar.gz",
    "<a href=",
    "<a ",
    "<base href=\"f/\">",
    "<base href='https://elsewhere.example/'>",
    "<title>",
    "</title>",
    "<textarea>",
    "</textarea>",
    "<noscript>",
    "</noscript>",
    "<iframe>",
    "</iframe>",
    "<noframes>",
    "</noframes>",
    "<noembed>",
    "</noembed>",
    "<xmp>",
    "</xmp>",
    "<style>",
    "</style>",
    "<script>",
    "</script>",
    "<!--",
    "-->",
    "--!>",
    "<!-->",
    "<!--->",
    "<![CDATA[",
    "]]>",
    "<svg>",
    "</svg>",
    "<math>",
    "</math>",
    "<template>",
    "</template>",
    "<table><tr>",
    "</table>",
    "<?xml",
    "<!x",
    "</",
    "<",
    ">",
    "\"",
    "'",
    "&lt;a href=x&gt;",
    "&",
    "\0",
    "\u{2028}é",
    "\r\n",
    "text ",
];
/// So many of them are links, at the beginning.
const LINKS: usize = 10;
const PAGES: usize = 1_500;
const ELSEWHERE: &str = "https://elsewhere.example/";
/// The environments whose parsers are asked.
const PARSERS: [&str; 5] = ["pip-newest", "pip-22.3.1", "pip-20.3.4", "poetry", "pdm"];
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/pages.py");
