use proptest::prelude::*;

use super::*;

fn detours(text: &str) -> Vec<(usize, String)> {
    read(text.as_bytes(), |name| (name == "OPTION").then(|| "--extra-index-url".to_owned())).detours
}

#[test]
fn what_leads_past_the_index_is_found_in_every_form() {
    for (text, line, what) in [
        ("--extra-index-url https://u:p@x.test/", 1, "`--extra-index-url`"),
        ("acme\n  -i https://x.test/", 2, "`--index-url`"),
        ("-fhttps://x.test/", 1, "`--find-links`"),
        ("-f=/x", 1, "`--find-links`"),
        ("--extra https://x.test/", 1, "`--extra-index-url`"),
        ("--ind=https://x.test/", 1, "`--index-url`"),
        ("--find https://x.test/", 1, "`--find-links`"),
        ("--py https://x.test/", 1, "`--pypi-url`"),
        ("--no-i", 1, "`--no-index`"),
        ("--extra-\\\nindex-url https://x.test/", 1, "`--extra-index-url`"),
        ("acme \\\n # c \n--extra-index-url \\\n https://x.test/", 3, "`--extra-index-url`"),
        ("\u{feff}--extra-index-url https://x.test/", 1, "`--extra-index-url`"),
        ("--pre --extra-index-url https://x.test/", 1, "`--extra-index-url`"),
        ("--trusted-host x.test --index-url https://x.test/", 1, "`--index-url`"),
        ("--pre '--extra-index-url' https://x.test/", 1, "`--extra-index-url`"),
        ("--pre \"--ex\"'tra'=https://x.test/", 1, "`--extra-index-url`"),
        ("${OPTION} https://x.test/", 1, "`--extra-index-url`"),
        ("acme\u{c}--extra-index-url https://x.test/", 2, "`--extra-index-url`"),
        ("acme\r--extra-index-url https://x.test/", 2, "`--extra-index-url`"),
        ("acme --extra-index-url https://x.test/", 1, "`--extra-index-url`"),
        ("acme @ https://u:p@x.test/a.whl", 1, "`acme @ …`"),
        ("acme[x]@https://x.test/a.whl ; python_version > '3'", 1, "`acme @ …`"),
        ("https://x.test/a.whl", 1, "an address"),
        ("git+ssh://git@x.test/a", 1, "an address"),
        ("-e git+https://x.test/a#egg=a", 1, "an address"),
        ("--edit=git+https://x.test/a", 1, "an address"),
        (
            "# -*- coding: utf-7 -*-\nx",
            1,
            "an encoding of \"utf-7\" is not understood here, and what is in it",
        ),
    ] {
        let found = detours(text);
        assert_eq!(found, [(line, what.to_owned())], "{text:?}");
    }
}

#[test]
fn what_is_harmless_is_not_warned_of() {
    for text in [
        "acme-hello==1 --hash=sha256:00\n# --extra-index-url https://x.test/\n  # -i x\n",
        "acme # see https://x.test/\n./local.whl\nfile:///x/a.whl\nacme @ file:///x.whl\n-e .\n--pre\n",
        "--no-binary :all:\n--only-binary=:none:\n--prefer-binary\n--require-hashes\n--trusted-host x.test\n",
        "--e x\n--use-feature x\n${UNSET}\n${lower} $OPTION\n\\\n",
        "# coding: latin-1\nacme; sys_platform == 'linux'",
    ] {
        assert_eq!(detours(text), [], "{text:?}");
    }
}

#[test]
fn other_files_are_found() {
    let text = "-r a.txt\n-cb.txt\n--requirem=c.txt\n--constr 'd e.txt'\n--pre -r f.txt\n--requirement https://x.test/g";
    let nested: Vec<String> =
        read(text.as_bytes(), |_| None).nested.into_iter().map(|(_, file)| file).collect();
    assert_eq!(nested, ["a.txt", "b.txt", "c.txt", "d e.txt", "f.txt", "https://x.test/g"]);
}

#[test]
fn a_mark_says_how_the_bytes_are_read() {
    let text = "--extra-index-url https://x.test/\n";
    let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let wide: Vec<u8> = text.chars().flat_map(|letter| u32::from(letter).to_le_bytes()).collect();
    for (mark, bytes) in [
        (&[0xef, 0xbb, 0xbf][..], text.as_bytes()),
        (&[0xff, 0xfe], &little),
        (&[0xfe, 0xff], &big),
        (&[0xff, 0xfe, 0, 0], &wide),
    ] {
        let found = read(&[mark, bytes].concat(), |_| None).detours;
        assert_eq!(found, [(1, "`--extra-index-url`".to_owned())], "{mark:?}");
    }
}

proptest! {
    /// Wherever an option is broken and however it is shortened, as long as it means one thing.
    #[test]
    fn no_way_of_writing_it_hides_it(
        before in "(--pre |--no-binary :all: |--only-binary=x |--use-feature y ){0,3}",
        letters in 4..17_usize,
        broken in 0..17_usize,
        joint in prop::sample::select(vec![" ", "=", "  "]),
        lines in "(acme==1 ?\n|# c\n|\n){0,4}",
    ) {
        let option: String = "--extra-index-url".chars().take(letters.max(4)).collect();
        let (head, tail) = option.split_at(broken.min(option.len() - 1));
        let option = format!("{head}\\\n{tail}");
        let text = format!("{lines}{before}{option}{joint}https://x.test/simple/\n");
        let found = detours(&text);
        prop_assert_eq!(found.len(), 1, "{:?}", text);
        prop_assert_eq!(found[0].0, lines.matches('\n').count() + 1);
    }

    #[test]
    fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,100}") {
        let _ = read(&bytes, |_| Some("x".to_owned()));
        let _ = read(text.as_bytes(), |_| None);
    }
}
