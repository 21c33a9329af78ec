//! Which form of a page a client accepts, and which one came.
//!
//! The registry chooses the form, we pass it on as it is: so what is asked of it are exactly the forms that the client
//! accepts and that we can rewrite. pip before 22.2 accepts `text/html` only; newer ones, uv, poetry and pdm prefer JSON
//! and accept HTML (PEP 691).

use thiserror::Error;

use crate::error::{Fault, Kind, printable};

/// What a page is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Html,
    Json,
}

/// The forms that a client accepts, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// A quality in thousandths for each of [`FORMS`].
    qualities: [u16; FORMS.len()],
}

/// Why there is no form to answer in.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NegotiationFault {
    /// The client wants none of ours. HTTP has a status of its own for it: see [`NegotiationFault::STATUS`].
    #[error("the index has no page in the form that the client accepts")]
    NotAcceptable,
    /// The registry answered with something that is no page: a sign-in form, a proxy's greeting, a newer version.
    #[error("the registry's page is of the type `{0}`")]
    NotAPage(String),
}

impl NegotiationFault {
    /// The status of [`Self::NotAcceptable`], which is no failure of any other kind.
    pub const STATUS: u16 = 406;
}

impl Fault for NegotiationFault {
    fn kind(&self) -> Kind {
        match self {
            Self::NotAcceptable => Kind::Usage,
            Self::NotAPage(_) => Kind::Upstream,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotAcceptable => Some(format!("accept one of {}", FORMS.map(|form| form.0).join(", "))),
            Self::NotAPage(_) => None,
        }
    }
}

impl Accept {
    /// Reads an `Accept` header (several of them joined by a comma). A client without one is as old as `text/html`,
    /// and one that accepts anything is better served with that too.
    ///
    /// # Errors
    /// When it admits none of the forms.
    pub fn parse(header: Option<&str>) -> Result<Self, NegotiationFault> {
        let header = header.map(str::trim).filter(|header| !header.is_empty()).unwrap_or(LEGACY);
        let ranges: Vec<Range<'_>> = header.split(',').take(MOST_RANGES).filter_map(Range::parse).collect();
        let qualities = FORMS.map(|(media_type, _)| quality(&ranges, media_type));
        if qualities == [0; FORMS.len()] {
            return Err(NegotiationFault::NotAcceptable);
        }
        Ok(Self { qualities })
    }

    /// The `Accept` header to send to the registry.
    #[must_use]
    pub fn header(&self) -> String {
        let mut parts = Vec::new();
        for ((media_type, _), quality) in FORMS.iter().zip(self.qualities) {
            match quality {
                0 => {}
                1000 => parts.push((*media_type).to_owned()),
                quality => {
                    let digits = format!("{quality:03}");
                    parts.push(format!("{media_type};q=0.{}", digits.trim_end_matches('0')));
                }
            }
        }
        parts.join(", ")
    }

    /// What the registry's `Content-Type` says that its page is, and the `Content-Type` of ours: the same form, unless
    /// the client knows HTML by its other name only, and in UTF-8, whatever the registry's is written in.
    ///
    /// # Errors
    /// When it is no page of version 1, or one that the client does not accept.
    pub fn admit(&self, content_type: Option<&str>) -> Result<(Format, String), NegotiationFault> {
        let content_type = content_type.unwrap_or_default();
        let (essence, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
        let essence = essence.trim();
        let not_a_page =
            |what: &str| Err(NegotiationFault::NotAPage(printable(what).chars().take(80).collect()));
        let Some((own, format)) = FORMS.iter().find(|form| form.0.eq_ignore_ascii_case(essence)) else {
            return not_a_page(essence);
        };
        if is_unlike_ascii(parameters) {
            return not_a_page(content_type);
        }
        let accepted =
            || FORMS.iter().zip(self.qualities).filter(|(form, quality)| form.1 == *format && *quality > 0);
        let same = accepted().find(|(form, _)| form.0 == *own);
        let ((media_type, _), _) =
            same.or_else(|| accepted().next()).ok_or(NegotiationFault::NotAcceptable)?;
        let charset = if *format == Format::Html { "; charset=utf-8" } else { "" };
        Ok((*format, format!("{media_type}{charset}")))
    }
}

/// Whether a page's `charset` is one in which no tag could be seen.
fn is_unlike_ascii(parameters: &str) -> bool {
    let mut pairs = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let charset = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    charset.is_some_and(|(_, value)| {
        let value = value.trim().trim_matches('"').to_ascii_lowercase();
        UNLIKE_ASCII.iter().any(|beginning| value.starts_with(beginning))
    })
}

/// One element of an `Accept` header.
struct Range<'a> {
    media_type: &'a str,
    quality: u16,
}

impl<'a> Range<'a> {
    /// Parameters other than `q` do not tell our forms apart. A broken element says nothing.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().filter(|media_type| media_type.contains('/'))?;
        let quality = parts
            .filter_map(|parameter| parameter.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("q"))
            .map_or(Some(1000), |(_, value)| thousandths(value.trim()))?;
        Some(Self { media_type, quality })
    }

    /// How exactly it names a media type, if it does.
    fn precision(&self, media_type: &str) -> Option<u8> {
        if self.media_type.eq_ignore_ascii_case(media_type) || self.is_latest(media_type) {
            return Some(2);
        }
        match self.media_type.strip_suffix("/*") {
            Some("*") => Some(0),
            Some(family) => media_type
                .split_once('/')
                .is_some_and(|(ours, _)| ours.eq_ignore_ascii_case(family))
                .then_some(1),
            None => None,
        }
    }

    /// PEP 691's `latest` is version 1.
    fn is_latest(&self, media_type: &str) -> bool {
        let latest =
            |version: &str| self.media_type.eq_ignore_ascii_case(&media_type.replace(version, "latest"));
        media_type.contains("v1") && latest("v1")
    }
}

/// The most exact range decides (RFC 9110, 12.5.1). What only a wildcard admits counts half, unless it is the form
/// that everybody can read.
fn quality(ranges: &[Range<'_>], media_type: &str) -> u16 {
    let exact = |range: &Range<'_>| range.precision(media_type).map(|precision| (precision, range.quality));
    match ranges.iter().filter_map(exact).max() {
        None => 0,
        Some((0 | 1, quality)) if media_type != LEGACY => quality.div_ceil(2),
        Some((_, quality)) => quality,
    }
}

/// `0.25` as 250; None where it is no quality.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part: u16 = format!("{part:0<3}").parse().ok()?;
    match (whole, part) {
        ("0", part) => Some(part),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

/// The forms of version 1, the one that is given to whoever accepts anything last.
const FORMS: [(&str, Format); 3] = [
    ("application/vnd.pypi.simple.v1+json", Format::Json),
    ("application/vnd.pypi.simple.v1+html", Format::Html),
    (LEGACY, Format::Html),
];
const LEGACY: &str = "text/html";
/// How the names of such encodings begin.
const UNLIKE_ASCII: [&str; 8] =
    ["utf-16", "utf16", "utf-32", "utf32", "utf-7", "ucs-", "iso-2022", "iso-10646"];
const MOST_RANGES: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const JSON: &str = "application/vnd.pypi.simple.v1+json";
    const HTML: &str = "application/vnd.pypi.simple.v1+html";

    fn header(accept: &str) -> String {
        Accept::parse(Some(accept)).map_or_else(|_| "406".to_owned(), |accept| accept.header())
    }

    /// The headers are those that the programs of today send, word for word.
    #[test]
    fn real_clients_get_the_forms_that_they_accept() {
        let all = format!("{JSON}, {HTML};q=0.1, text/html;q=0.01");
        for (client, accept, asked) in [
            ("pip", &*format!("{JSON}, {HTML}; q=0.1, text/html; q=0.01"), &*all),
            ("pip before 22.2", "text/html", "text/html"),
            ("uv", &format!("{JSON}, {HTML};q=0.2, text/html;q=0.01"), &all.replace("q=0.1,", "q=0.2,")),
            ("poetry", &format!("{JSON}, */*;q=0.1"), &format!("{JSON}, {HTML};q=0.05, text/html;q=0.1")),
            ("curl", "*/*", &format!("{JSON};q=0.5, {HTML};q=0.5, text/html")),
        ] {
            assert_eq!(header(accept), asked, "{client}");
        }
        assert_eq!(Accept::parse(None).unwrap().header(), "text/html");
    }

    #[test]
    fn the_most_exact_range_decides() {
        for (accept, asked) in [
            ("text/*;q=0.4, */*;q=0", "text/html;q=0.4"),
            ("*/*, application/*;q=0", "text/html"),
            ("TEXT/HTML ; Q=1.000", "text/html"),
            ("application/vnd.pypi.simple.latest+json", JSON),
            ("text/html;level=1;q=0.5", "text/html;q=0.5"),
            ("text/html, text/html;q=0", "text/html"),
            ("nonsense,,;q=1, text/html", "text/html"),
        ] {
            assert_eq!(header(accept), asked, "{accept}");
        }
    }

    #[test]
    fn a_client_that_accepts_none_of_the_forms_is_told_so() {
        for accept in [
            "application/json",
            "application/vnd.pypi.simple.v2+json",
            "text/html;q=0",
            "text/html;q=2",
            "text/html;q=-1",
            "*",
            "image/*",
        ] {
            assert_eq!(header(accept), "406", "{accept}");
        }
    }

    #[test]
    fn a_page_goes_on_in_the_form_it_came_in_and_in_utf_8() {
        let pip = Accept::parse(Some(&format!("{JSON}, {HTML};q=0.1, text/html;q=0.01"))).unwrap();
        let admitted = |format, text: &str| Ok((format, text.to_owned()));
        let (legacy, html) = ("text/html; charset=utf-8", format!("{HTML}; charset=utf-8"));
        for (content_type, format, ours) in [
            ("text/html; charset=utf-8", Format::Html, legacy),
            ("Text/HTML;charset=Latin-1;x=y", Format::Html, legacy),
            (HTML, Format::Html, &*html),
            (JSON, Format::Json, JSON),
            (&format!("{JSON}; charset=utf-8"), Format::Json, JSON),
        ] {
            assert_eq!(pip.admit(Some(content_type)), admitted(format, ours));
        }
        let old = Accept::parse(None).unwrap();
        let latin = format!("{HTML};charset=latin-1");
        assert_eq!(old.admit(Some(&latin)), admitted(Format::Html, legacy));
        for charset in ["utf-16", "\"UTF-16LE\"", "utf-7", "ISO-2022-JP"] {
            let fault = old.admit(Some(&format!("text/html; charset={charset}")));
            assert!(matches!(fault, Err(NegotiationFault::NotAPage(_))), "{charset}");
        }
        assert_eq!(old.admit(Some(JSON)), Err(NegotiationFault::NotAcceptable));
        for content_type in [None, Some(""), Some("application/json"), Some("text/plain"), Some("text/htmlx")]
        {
            assert!(
                matches!(pip.admit(content_type), Err(NegotiationFault::NotAPage(_))),
                "{content_type:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_and_what_is_asked_reads_the_same(accept in "[a-z0-9/*+.;=, q-]{0,60}|\\PC{0,40}") {
            if let Ok(accept) = Accept::parse(Some(&accept)) {
                prop_assert_eq!(Accept::parse(Some(&accept.header())), Ok(accept.clone()));
            }
        }
    }
}
