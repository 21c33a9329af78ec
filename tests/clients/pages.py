"""What every parser here sees on each page of a directory: one line of JSON, {parser: {page: [link, …]}}.

The parsers are those of the clients in whose environment this runs, and Python's own.
"""

import html.parser
import json
import pathlib
import sys
from urllib.parse import urljoin


def own(content, url):
    found = {"base": None, "links": []}

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            values = dict(attributes)
            if tag == "base" and found["base"] is None:
                found["base"] = values.get("href")
            if tag == "a" and values.get("href") is not None:
                found["links"].append(values["href"])

        handle_startendtag = handle_starttag

    parser = Parser(convert_charrefs=True)
    parser.feed(content.decode())
    parser.close()
    return [urljoin(found["base"] or url, link) for link in found["links"]]


def pip(content, url):
    from pip._internal.index import collector

    if hasattr(collector, "IndexContent"):
        page = collector.IndexContent(content, "text/html", "utf-8", url, cache_link_parsing=False)
    else:
        page = collector.HTMLPage(content, "utf-8", url, cache_link_parsing=False)
    return [link.url for link in collector.parse_links(page)]


def html5lib(content, url):
    from pip._vendor import html5lib

    page = html5lib.parse(content, transport_encoding="utf-8", namespaceHTMLElements=False)
    assert page.find(".//base[@href]") is None
    return [urljoin(url, anchor.get("href")) for anchor in page.iter("a") if anchor.get("href") is not None]


def poetry(content, url):
    from poetry.repositories.parsers.html_page_parser import HTMLPageParser

    parser = HTMLPageParser()
    parser.feed(content.decode())
    assert parser.base_url is None
    return [urljoin(url, anchor["href"]) for anchor in parser.anchors if anchor.get("href") is not None]


def unearth(content, url):
    from unearth.collector import IndexPage, Link, parse_html_page

    page = IndexPage(Link(url), content, "utf-8", "text/html")
    return [link.normalized for link in parse_html_page(page)]


def main(directory, url):
    seen = {}
    for parser in own, pip, html5lib, poetry, unearth:
        try:
            parser(b"<!DOCTYPE html><a href=x>x</a>", url)
        except ImportError:
            continue
        pages = sorted(pathlib.Path(directory).iterdir())
        seen[parser.__name__] = {page.name: parser(page.read_bytes(), url) for page in pages}
    print(json.dumps(seen))


main(*sys.argv[1:])
