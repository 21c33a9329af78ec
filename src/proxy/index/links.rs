//! Where the links of a page lead after we have passed it on.
//!
//! A link to the registry of the page, or to another host that the grant admits, comes back through us; any other
//! https link stays what it is, as an absolute one, and the client follows it by itself, without a token. Links that are
//! neither are taken away. Percent-encoding, queries and fragments (the hashes) are kept; what stands unencoded in a path
//! and is no character of one (a bracket, a percent sign of its own) is encoded, as clients do, so that everybody asks for
//! the same.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use url::{Position, Url};

/// Whether the grant lets a link come back through us that leads to another origin than its page's.
pub type Admits = Arc<dyn Fn(&Url) -> bool + Send + Sync>;

/// What stands before `registry/HOST/…` in a link of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount(String);

/// The links of one page.
#[derive(Clone)]
pub struct Links {
    /// What relative links are relative to: the page's own address, or what its `<base>` says.
    base: Url,
    reach: Reach,
}

#[derive(Clone)]
enum Reach {
    /// A page of a repository: its links come back through us.
    Registry { page: Url, mount: Mount, admits: Admits },
    /// A page of the public index: its links stay outside.
    Outside,
}

impl Mount {
    /// Links that begin with a slash: for an index at the root of its origin.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Relative links, for the page that was asked for as `path` (`/simple/NAME/`, without a query). They hold behind
    /// whatever prefix others put before us.
    #[must_use]
    pub fn relative(path: &str) -> Self {
        match path.matches('/').count().saturating_sub(1) {
            0 => Self("./".to_owned()),
            climbs => Self("../".repeat(climbs)),
        }
    }

    /// Absolute links, for an index whose origin is known (`http://127.0.0.1:3128`).
    #[must_use]
    pub fn absolute(origin: &Url) -> Self {
        Self(format!("{}/", origin[..Position::AfterPort].trim_end_matches('/')))
    }
}

impl Links {
    /// The links of the page at `page`: the address that answered, behind redirects.
    #[must_use]
    pub fn of_registry(page: &Url, mount: Mount, admits: Admits) -> Self {
        Self { base: page.clone(), reach: Reach::Registry { page: page.clone(), mount, admits } }
    }

    /// The links of a page of the public index become absolute and lead there.
    #[must_use]
    pub fn of_public(page: &Url) -> Self {
        Self { base: page.clone(), reach: Reach::Outside }
    }

    /// What a page's `<base href>` says. One that is no URL changes nothing.
    pub fn rebase(&mut self, reference: &str) {
        if reference.len() <= LONGEST
            && let Ok(base) = self.base.join(reference)
        {
            self.base = base;
        }
    }

    /// The link that stands in the place of `reference`. None: it leads nowhere that a client of ours may go.
    #[must_use]
    pub fn rewrite(&self, reference: &str) -> Option<String> {
        if reference.len() > LONGEST {
            return None;
        }
        let mut url = self.base.join(reference).ok().filter(|url| url.scheme() == "https")?;
        if let Some(path) = encoded(url.path()) {
            url.set_path(&path);
        }
        match &self.reach {
            Reach::Registry { page, mount, admits } if url.origin() == page.origin() || admits(&url) => {
                Some(through(&url, page, mount))
            }
            Reach::Registry { .. } | Reach::Outside => Some(url.into()),
        }
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// Another page of the same index stays in the index; all else is the registry's. A user name in the link is dropped.
fn through(url: &Url, page: &Url, mount: &Mount) -> String {
    let place = if is_page_of_same_index(url, page) { "index" } else { "registry" };
    let host = &url[Position::BeforeHost..Position::AfterPort];
    format!("{}{place}/{host}{}", mount.0, &url[Position::BeforePath..])
}

/// Whether `url` is `/PROJECT/REPOSITORY/simple/` or a page right below it, and `page` is one of the same repository.
fn is_page_of_same_index(url: &Url, page: &Url) -> bool {
    let root = |path: &str| {
        let end = path.match_indices('/').nth(3)?.0;
        path[..end].ends_with("/simple").then_some(end + 1)
    };
    let (path, other) = (url.path(), page.path());
    match (root(path), root(other)) {
        (Some(end), Some(other_end)) if path[..end] == other[..other_end] => {
            let below = &path[end..];
            url.origin() == page.origin()
                && (below.is_empty() || below.find('/').is_some_and(|at| at + 1 == below.len()))
        }
        _ => false,
    }
}

/// The path with everything encoded that RFC 3986 does not have in one, where there is such a thing.
fn encoded(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let is_escape =
        |at: usize| bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    let fits = |at: usize, byte: u8| match byte {
        b'%' => is_escape(at),
        _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&byte),
    };
    if bytes.iter().enumerate().all(|(at, byte)| fits(at, *byte)) {
        return None;
    }
    let mut written = String::with_capacity(path.len() + 8);
    for (at, byte) in bytes.iter().enumerate() {
        if fits(at, *byte) {
            written.push(char::from(*byte));
        } else {
            let _ = write!(written, "%{byte:02X}");
        }
    }
    Some(written)
}

/// No link that anybody follows is longer.
const LONGEST: usize = 8192;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: &str = "https://europe-python.pkg.dev/acme/private/simple/hello/";

    fn links(mount: Mount) -> Links {
        let admits: Admits = Arc::new(|url| url.host_str() == Some("files.example"));
        Links::of_registry(&Url::parse(PAGE).unwrap(), mount, admits)
    }

    fn rewrite(reference: &str) -> Option<String> {
        links(Mount::root()).rewrite(reference)
    }

    #[test]
    fn links_to_the_registry_come_back_through_us() {
        let file = "/registry/europe-python.pkg.dev/acme/private/hello/hello-1.0.whl#sha256=00ff";
        for reference in [
            "../../hello/hello-1.0.whl#sha256=00ff",
            "/acme/private/hello/hello-1.0.whl#sha256=00ff",
            "//europe-python.pkg.dev/acme/private/hello/hello-1.0.whl#sha256=00ff",
            "https://europe-python.pkg.dev/acme/private/hello/hello-1.0.whl#sha256=00ff",
            "https://EUROPE-python.pkg.dev:443/acme/private/hello/hello-1.0.whl#sha256=00ff",
            "https://user:word@europe-python.pkg.dev/acme/private/hello/hello-1.0.whl#sha256=00ff",
            " ../../hello/hello-1.0.whl#sha256=00ff\n",
        ] {
            assert_eq!(rewrite(reference).as_deref(), Some(file), "{reference}");
        }
        assert_eq!(
            rewrite("https://files.example:8443/x?y=1").as_deref(),
            Some("/registry/files.example:8443/x?y=1")
        );
    }

    #[test]
    fn other_origins_are_kept_only_over_https() {
        for reference in ["https://elsewhere.example/x.whl#sha256=00", "https://europe-python.pkg.dev:8443/x"]
        {
            assert_eq!(rewrite(reference).as_deref(), Some(reference));
        }
        for reference in [
            "http://elsewhere.example/x.whl",
            "http://europe-python.pkg.dev/x",
            "javascript:x()",
            "data:,x",
            "file:///etc/passwd",
            "ftp://elsewhere.example/",
            "mailto:a@b.test",
            "https://",
            "https://a b/",
            "git+https://elsewhere.example/x",
            "//A\u{ae}",
            "https://ELSEWHERE\u{ae}.example/x",
        ] {
            assert_eq!(rewrite(reference), None, "{reference}");
        }
        assert_eq!(rewrite(&format!("/{}", "a".repeat(LONGEST))), None);
    }

    #[test]
    fn encoding_query_and_fragment_are_kept() {
        for rest in
            ["a%2Fb%20c+d.whl", "a.whl?x=1&y=%26#sha256=AbC0", "a.whl#egg=x&subdirectory=y", "%E2%82%AC"]
        {
            let link = rewrite(&format!("/p/r/{rest}"));
            assert_eq!(link, Some(format!("/registry/europe-python.pkg.dev/p/r/{rest}")));
        }
    }

    #[test]
    fn what_no_path_has_is_encoded_once() {
        for (path, written) in [
            ("a[b]/c.whl", "a%5Bb%5D/c.whl"),
            ("a|b^c`.whl", "a%7Cb%5Ec%60.whl"),
            ("100%.whl", "100%25.whl"),
            ("%zz%4", "%25zz%254"),
            ("dir;x=1/a.whl;y=[2]?q=[3]#egg=a[b]", "dir;x=1/a.whl;y=%5B2%5D?q=[3]#egg=a[b]"),
            ("%5B%25é", "%5B%25%C3%A9"),
        ] {
            let link = rewrite(&format!("/p/r/{path}"));
            assert_eq!(link, Some(format!("/registry/europe-python.pkg.dev/p/r/{written}")));
        }
        let page = Url::parse("https://public.example/simple/hello/").unwrap();
        let outside = Links::of_public(&page).rewrite("a[b].whl");
        assert_eq!(outside.as_deref(), Some("https://public.example/simple/hello/a%5Bb%5D.whl"));
    }

    #[test]
    fn pages_of_the_same_index_stay_in_the_index() {
        for (reference, place) in [
            ("../other/", "index/europe-python.pkg.dev/acme/private/simple/other/"),
            ("..", "index/europe-python.pkg.dev/acme/private/simple/"),
            ("other.whl", "registry/europe-python.pkg.dev/acme/private/simple/hello/other.whl"),
            ("files/", "registry/europe-python.pkg.dev/acme/private/simple/hello/files/"),
            ("/acme/other/simple/x/", "registry/europe-python.pkg.dev/acme/other/simple/x/"),
            ("/acme/private/", "registry/europe-python.pkg.dev/acme/private/"),
            ("/", "registry/europe-python.pkg.dev/"),
        ] {
            assert_eq!(rewrite(reference), Some(format!("/{place}")), "{reference}");
        }
    }

    #[test]
    fn mounts_lead_to_the_same_place() {
        let origin = Url::parse("http://127.0.0.1:3128/ignored?x").unwrap();
        let here = origin.join("/simple/hello/").unwrap();
        for mount in [Mount::root(), Mount::relative("/simple/hello/"), Mount::absolute(&origin)] {
            let link = links(mount).rewrite("../../hello/a.whl").unwrap();
            let expected = "http://127.0.0.1:3128/registry/europe-python.pkg.dev/acme/private/hello/a.whl";
            assert_eq!(here.join(&link).unwrap().as_str(), expected);
        }
        let behind = Url::parse("https://ci.example/prefix/simple/hello").unwrap();
        let link = links(Mount::relative("/simple/hello")).rewrite("../../a.whl").unwrap();
        let expected = "https://ci.example/prefix/registry/europe-python.pkg.dev/acme/private/a.whl";
        assert_eq!(behind.join(&link).unwrap().as_str(), expected);
        assert_eq!(Mount::relative("/x").0, "./");
    }

    #[test]
    fn a_base_moves_relative_links() {
        let mut links = links(Mount::root());
        links.rebase("/acme/private/files/");
        assert_eq!(
            links.rewrite("a.whl").as_deref(),
            Some("/registry/europe-python.pkg.dev/acme/private/files/a.whl")
        );
        links.rebase("http://europe-python.pkg.dev/");
        assert_eq!(links.rewrite("a.whl"), None);
    }

    #[test]
    fn links_of_the_public_index_stay_outside() {
        let page = Url::parse("https://public.example/simple/hello/").unwrap();
        let links = Links::of_public(&page);
        for (reference, expected) in [
            ("../../packages/a.whl#sha256=0", Some("https://public.example/packages/a.whl#sha256=0")),
            ("https://files.example/a.whl", Some("https://files.example/a.whl")),
            ("http://files.example/a.whl", None),
        ] {
            assert_eq!(links.rewrite(reference).as_deref(), expected);
        }
    }

    proptest! {
        /// Whatever a page says, a link is below one of our two places, or an https link to an origin of no registry.
        #[test]
        fn a_link_is_ours_or_https_elsewhere(reference in "\\PC{0,60}|[a-z./:@?#%\\\\-]{0,40}|(https?:|//|/\\\\|\\.\\./)[a-z./:@-]{0,30}") {
            if let Some(link) = rewrite(&reference) {
                let ours = link.starts_with("/registry/europe-python.pkg.dev/")
                    || link.starts_with("/registry/files.example")
                    || link.starts_with("/index/europe-python.pkg.dev/acme/private/simple/");
                let outside = Url::parse(&link).is_ok_and(|url| {
                    url.scheme() == "https" && url.origin() != Url::parse(PAGE).unwrap().origin()
                });
                prop_assert!(ours || outside, "{reference:?} → {link}");
                prop_assert!(link.is_ascii() && !link.contains(['"', '<', '>', ' ', '\n']), "{link}");
            }
        }
    }
}
