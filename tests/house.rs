//! The house keeps its floors: an arrow (`use crate::…`, or a path in the code) points to a lower floor, or stays
//! within its own module. Reads the source; a new module has to be given a floor here.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The floor of each top-level module.
fn floors() -> BTreeMap<&'static str, u8> {
    [
        ("error", 0),
        ("secret", 0),
        ("clock", 0),
        ("environment", 0),
        ("paths", 0),
        ("durable", 0),
        ("blocking", 0),
        ("process", 0),
        ("sys", 0),
        ("ask", 1),
        ("registry", 1),
        ("grant", 1),
        ("protocol", 1),
        ("config", 2),
        ("http", 2),
        ("carrier", 2),
        ("vault", 2),
        ("google", 3),
        ("broker", 4),
        ("proxy", 5),
        ("daemon", 6),
        ("client", 7),
        ("wiring", 7),
        ("doctor", 8),
        ("login", 8),
        ("exec", 8),
        ("image", 8),
        ("cli", 9),
    ]
    .into()
}

/// An arrow from a module to another, and where it stands.
#[derive(Debug, PartialEq)]
struct Arrow {
    from: String,
    to: String,
    place: String,
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every `crate::X` in a text outside of comments. `use crate::{a, b}` is refused elsewhere: one line, one arrow.
fn arrows(from: &str, name: &str, text: &str) -> Vec<Arrow> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for (at, _) in code.match_indices("crate::") {
            let to: String =
                code[at + 7..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            found.push(Arrow { from: from.into(), to, place: format!("{name}:{}", number + 1) });
        }
    }
    found
}

fn wrong(arrow: &Arrow) -> Option<String> {
    let floors = floors();
    let (from, to) = (floors.get(arrow.from.as_str()), floors.get(arrow.to.as_str()));
    match (from, to) {
        (_, None) => Some(format!("{}: `{}` has no floor", arrow.place, arrow.to)),
        // Two modules of one floor may know each other; on the ground they are one.
        (Some(from), Some(to)) if to > from => Some(format!(
            "{}: {} (floor {from}) points up to {} (floor {to})",
            arrow.place, arrow.from, arrow.to
        )),
        _ => None,
    }
}

#[test]
fn arrows_point_to_lower_floors() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&source, &mut files);
    let (mut count, mut faults) = (0, Vec::new());
    for file in files {
        let below = file.strip_prefix(&source).unwrap();
        let module = below.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if ["lib", "main"].contains(&module) {
            continue;
        }
        assert!(floors().contains_key(module), "{} has no floor", below.display());
        let text = fs::read_to_string(&file).unwrap();
        let found = arrows(module, &below.display().to_string(), &text);
        count += found.len();
        faults.extend(found.iter().filter_map(wrong));
    }
    assert!(count > 100, "only {count} arrows were seen: does this test still read the source?");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn an_arrow_that_points_up_is_seen() {
    let found = arrows(
        "registry",
        "registry.rs",
        "// crate::cli\nuse crate::ask::Access;\nlet x = crate::daemon::y();\n",
    );
    let verdicts: Vec<_> = found.iter().map(|arrow| wrong(arrow).is_some()).collect();
    assert_eq!(verdicts, [false, true]);
}

/// Nothing in the product knows that the sandbox exists.
#[test]
fn no_source_file_mentions_the_sandbox() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("sandbox") && !text.contains("stand-in"), "{}", file.display());
    }
}
