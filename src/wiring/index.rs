//! The variables that give every installer one index, and what would bring in another beside it.
//!
//! An index beside ours is how a stranger's package of the same name gets in, so extra indexes and link lists are
//! taken away: where a configuration file may name them, an empty value would not do (pip ignores it), and the variable
//! names our own index, or an empty directory, instead.

use std::path::Path;

use crate::wiring::Wiring;

/// What a command needs so that its packages come from one index.
#[must_use]
pub fn index(url: &str, empty_directory: &Path) -> Wiring {
    let mut wiring = Wiring::default();
    for name in INDEX {
        wiring.set(name, url);
    }
    wiring.set("PIP_FIND_LINKS", empty_directory);
    wiring.unset.extend(BESIDE);
    wiring
}

/// The words of a command that may name requirements files: those behind `-r` and `-c`, in the command itself and in
/// what it gives to a shell.
#[must_use]
pub fn requirements_files(words: &[String]) -> Vec<String> {
    let words: Vec<&str> = words.iter().flat_map(|word| word.split_ascii_whitespace()).collect();
    let mut found: Vec<String> = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let file = match *word {
            "-r" | "-c" | "--requirement" | "--requirements" | "--constraint" | "sync" => {
                words.get(at + 1).copied()
            }
            word => ["--requirement=", "--requirements=", "--constraint=", "-r", "-c"]
                .iter()
                .find_map(|flag| word.strip_prefix(flag)),
        };
        let file = file.unwrap_or_default().trim_matches(['\'', '"', ';', ')', '&']);
        if !file.is_empty() && !file.starts_with('-') && !found.iter().any(|own| own == file) {
            found.push(file.to_owned());
        }
    }
    found
}

/// The lines of a requirements file that lead past the index: line number and option. The value is not repeated: there
/// may be a password in it.
#[must_use]
pub fn index_lines(text: &str) -> Vec<(usize, &str)> {
    let option = |line: &'_ str| -> Option<usize> {
        let word = line.split([' ', '\t', '=']).next().unwrap_or_default();
        let short = ["-i", "-f"].iter().any(|flag| word.starts_with(flag));
        let long =
            ["--index-url", "--pypi-url", "--extra-index-url", "--find-links", "--no-index"].contains(&word);
        (short || long).then_some(if short { 2 } else { word.len() })
    };
    let lines = text.lines().map(str::trim_start).enumerate();
    lines.filter_map(|(at, line)| option(line).map(|length| (at + 1, &line[..length]))).collect()
}

/// pip, pipenv, pip-tools; uv of two generations; pdm.
const INDEX: [&str; 6] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIPENV_PYPI_MIRROR",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "PDM_PYPI_URL",
];
/// What has its say beside an index.
const BESIDE: [&str; 5] = ["PIP_NO_INDEX", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_NO_INDEX"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_indexes_are_neutralised() {
        let url = "http://127.0.0.1:1/simple/";
        let wiring = index(url, Path::new("/shm/empty"));
        assert_eq!(wiring.value("PIP_INDEX_URL"), wiring.value("PIP_EXTRA_INDEX_URL"));
        assert_eq!(wiring.value("UV_DEFAULT_INDEX").unwrap(), url);
        assert_eq!(wiring.value("PIP_FIND_LINKS").unwrap(), "/shm/empty");
        assert!(wiring.unset.contains(&"UV_EXTRA_INDEX_URL"));
    }

    #[test]
    fn requirements_files_are_found_in_a_command() {
        let files = |words: &[&str]| {
            requirements_files(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(
            files(&["pip", "install", "-r", "a.txt", "-rb.txt", "--requirement=c.txt"]),
            ["a.txt", "b.txt", "c.txt"]
        );
        assert_eq!(files(&["sh", "-c", "cd x && pip install -r 'a.txt'; pip check"]), ["cd", "a.txt"]);
        assert_eq!(files(&["uv", "pip", "sync", "a.txt"]), ["a.txt"]);
        assert!(files(&["pip", "install", "-r"]).is_empty());
    }

    #[test]
    fn index_lines_are_found_and_their_values_are_not_shown() {
        let text = "acme-hello==1\n--extra-index-url https://u:p@x.test/simple/\n  -i https://x.test/\n-r more.txt\n\
                    --index-url=https://x.test/\n# --find-links x\n--no-binary :all:\n--find-links=/x\n-fhttps://y.test";
        assert_eq!(
            index_lines(text),
            [(2, "--extra-index-url"), (3, "-i"), (5, "--index-url"), (8, "--find-links"), (9, "-f")]
        );
    }
}
