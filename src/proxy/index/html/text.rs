//! Text as it stands in HTML, both ways: character references are resolved as HTML says, and whatever is written is
//! written so that no parser can read anything else into it.

use std::fmt::Write as _;

/// Resolves the character references in the value of an attribute, as HTML has them there: numbers, and every name
/// that stands for a character of ASCII. Any other is kept as the text that it is: a link with one leads nowhere,
/// rather than elsewhere.
pub(super) fn unescape(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        // An ampersand that begins no reference is one.
        let (character, length) = number(rest).or_else(|| named(rest)).unwrap_or(('&', 0));
        plain.push(character);
        rest = &rest[length..];
    }
    plain.push_str(rest);
    plain
}

/// `#46;` or `#x2e;`, and how long it is. The semicolon may be missing.
fn number(text: &str) -> Option<(char, usize)> {
    let behind = text.strip_prefix('#')?;
    let (digits, radix) = match behind.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (behind, 10),
    };
    let length = digits.find(|digit: char| !digit.is_digit(radix)).unwrap_or(digits.len());
    let number = u32::from_str_radix(&digits[..length], radix).ok().filter(|number| *number != 0)?;
    let semicolon = usize::from(digits[length..].starts_with(';'));
    Some((char::from_u32(number)?, text.len() - digits.len() + length + semicolon))
}

/// `amp;`, and how long it is. Without its semicolon, one of the oldest names counts unless a name or a query goes on.
fn named(text: &str) -> Option<(char, usize)> {
    let length = text.find(|next: char| !next.is_ascii_alphabetic()).unwrap_or(text.len());
    let (name, behind) = text.split_at(length);
    if behind.starts_with(';') {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        return found.map(|(_, character)| (*character, length + 1));
    }
    if behind.starts_with(|next: char| next == '=' || next.is_ascii_alphanumeric()) {
        return None;
    }
    OLDEST.iter().find(|(known, _)| *known == name).map(|(_, character)| (*character, length))
}

/// Writes text that reads the same within quotes and between tags, whoever reads it. Control characters are left out:
/// no two parsers agree on them.
pub(super) fn escape(text: &str, output: &mut String) {
    for character in text.chars() {
        match character {
            '&' => output.push_str("&amp;"),
            '<' => output.push_str("&lt;"),
            '>' => output.push_str("&gt;"),
            '"' => output.push_str("&quot;"),
            '\'' => output.push_str("&#39;"),
            '\t' | '\n' => {
                let _ = write!(output, "&#{};", u32::from(character));
            }
            control if control.is_control() => {}
            plain => output.push(plain),
        }
    }
}

/// Decodes the escapes of a URL, each once.
pub(super) fn decode(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (mut decoded, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = digit(behind.first()).zip(digit(behind.get(1))).filter(|_| byte == b'%');
        match escaped.and_then(|(high, low)| u8::try_from(high << 4 | low).ok()) {
            Some(escaped) => {
                decoded.push(escaped);
                rest = &behind[2..];
            }
            None => {
                decoded.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Every name that HTML has for a character of ASCII that is no letter.
const NAMES: [(&str, char); 57] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("AMP", '&'),
    ("LT", '<'),
    ("GT", '>'),
    ("QUOT", '"'),
    ("Tab", '\t'),
    ("NewLine", '\n'),
    ("excl", '!'),
    ("num", '#'),
    ("dollar", '$'),
    ("percnt", '%'),
    ("lpar", '('),
    ("rpar", ')'),
    ("ast", '*'),
    ("midast", '*'),
    ("plus", '+'),
    ("comma", ','),
    ("period", '.'),
    ("sol", '/'),
    ("colon", ':'),
    ("semi", ';'),
    ("equals", '='),
    ("quest", '?'),
    ("commat", '@'),
    ("lsqb", '['),
    ("lbrack", '['),
    ("bsol", '\\'),
    ("rsqb", ']'),
    ("rbrack", ']'),
    ("Hat", '^'),
    ("lowbar", '_'),
    ("UnderBar", '_'),
    ("grave", '`'),
    ("DiacriticalGrave", '`'),
    ("lcub", '{'),
    ("lbrace", '{'),
    ("verbar", '|'),
    ("vert", '|'),
    ("VerticalLine", '|'),
    ("rcub", '}'),
    ("rbrace", '}'),
    // What index servers write besides.
    ("nbsp", '\u{a0}'),
    ("ensp", '\u{2002}'),
    ("emsp", '\u{2003}'),
    ("hyphen", '\u{2010}'),
    ("dash", '\u{2010}'),
    ("ndash", '\u{2013}'),
    ("mdash", '\u{2014}'),
    ("lsquo", '\u{2018}'),
    ("rsquo", '\u{2019}'),
    ("ldquo", '\u{201c}'),
    ("rdquo", '\u{201d}'),
    ("hellip", '\u{2026}'),
];
/// They count without their semicolon.
const OLDEST: [(&str, char); 9] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("AMP", '&'),
    ("LT", '<'),
    ("GT", '>'),
    ("QUOT", '"'),
    ("nbsp", '\u{a0}'),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_resolved_as_html_has_them_in_attributes() {
        for (value, plain) in [
            ("a&amp;b&lt;&gt;&quot;&apos;", "a&b<>\"'"),
            ("&#46;&#x2E;&#X2f;&#46", "../."),
            ("&period;&sol;&lpar;&lowbar;", "./(_"),
            ("a?x=1&y=2&amp=3&ampx&amp", "a?x=1&y=2&amp=3&ampx&"),
            ("&gt;=3.9 &lt3 &lt;3 &lt ", ">=3.9 &lt3 <3 < "),
            ("&#0;&#x110000;&#xD800;&unknown;&;&#;&#x;&", "&#0;&#x110000;&#xD800;&unknown;&;&#;&#x;&"),
            ("é&é;&#233;", "é&é;é"),
        ] {
            assert_eq!(unescape(value), plain, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(text in "\\PC{0,40}|[&#;<>\"'a-z0-9]{0,40}") {
            let mut written = String::new();
            escape(&text, &mut written);
            prop_assert!(!written.contains(['<', '>', '"', '\'', '\n']), "{written}");
            prop_assert_eq!(unescape(&written), text);
        }

        #[test]
        fn any_value_is_read(value in "(&|#|x|;|[a-f0-9]|é){0,30}") {
            unescape(&value);
        }
    }
}
