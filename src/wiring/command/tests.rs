use super::*;

fn command(words: &[&str]) -> Command {
    Command::new(words.iter().map(|word| (*word).to_owned()))
}

#[test]
fn requirements_files_are_found_in_a_command() {
    for (words, files) in [
        (
            &["pip", "install", "-r", "a.txt", "-rb", "--requirement=c", "--requirem", "d e"][..],
            &["a.txt", "b", "c", "d e"][..],
        ),
        (&["sh", "-c", "cd x && pip install -Ur 'a b.txt'; pip check"], &["a b.txt"]),
        (&["uv", "pip", "sync", "a.txt"], &["a.txt"]),
        (&["uv", "pip", "compile", "-c", "c", "--overrides=o", "-b", "b", "a.in"], &["c", "o", "b", "a.in"]),
        (&["uv", "run", "--with-requirements", "w", "x"], &["w"]),
        (&["pip", "install", "-r", "https://x.test/r"], &["https://x.test/r"]),
        (&["pip", "install", "-r", "-"], &["-"]),
        (&["pip-compile"], &["requirements.in"]),
        (&["pip", "install", "-r"], &[]),
        (&["pip", "install", "acme"], &[]),
    ] {
        assert_eq!(command(words).requirements_files(), files, "{words:?}");
    }
}

#[test]
fn a_program_is_known_by_any_of_its_names() {
    assert!(command(&["/venv/bin/pip3.12", "install"]).runs("pip"));
    assert!(command(&["python", "-m", "pip", "install"]).runs("pip"));
    assert!(command(&["bash", "-ec", "x=1; (uv sync)"]).runs("uv"));
    assert!(!command(&["uvicorn", "poetry.py"]).runs("uv"));
    assert!(command(&["make"]).may_run("poetry") && !command(&["uv", "sync"]).may_run("poetry"));
}

#[test]
fn where_it_works_is_seen() {
    let directories = |words: &[&str]| {
        let found = command(words).directories();
        found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(directories(&["sh", "-c", "cd a&&uv sync --project=b"]), [".", "a", "b"]);
    assert_eq!(directories(&["poetry", "-C", "c", "install"]), [".", "c"]);
    assert_eq!(directories(&["pip", "install", "-p", "d"]), ["."]);
}

#[test]
fn options_of_the_command_itself_are_seen_and_their_values_not_shown() {
    for (words, wanted) in [
        (&["pip", "install", "--extra-index", "https://u:p@x.test"][..], &["`--extra-index-url`"][..]),
        (&["uv", "add", "--index=x=https://x.test", "acme"], &["`--index`"]),
        (&["pip", "install", "-ihttps://x.test", "-f", "links"], &["`--index-url`", "`--find-links`"]),
        (&["sh", "-c", "PIP_EXTRA_INDEX_URL=https://x.test pip install acme"], &["`PIP_EXTRA_INDEX_URL`"]),
        (&["pip", "install", "--force-reinstall", "-v", "acme"], &[]),
        (&["curl", "-f", "-i", "https://x.test"], &[]),
    ] {
        assert_eq!(command(words).detours(), wanted, "{words:?}");
    }
}

#[test]
fn what_writes_a_lock_file_is_seen() {
    for (words, wanted) in [
        (&["uv", "lock"][..], Some("uv lock")),
        (&["uv", "--quiet", "add", "acme"], Some("uv add")),
        (&["sh", "-c", "cd x; uv sync && pip list"], Some("uv sync")),
        (&["uv", "pip", "compile", "a.in"], Some("uv pip compile")),
        (&["python", "-m", "pipenv", "install"], Some("pipenv install")),
        (&["pdm", "lock"], Some("pdm lock")),
        (&["pip-compile"], Some("pip-compile")),
        (&["pip", "lock", "."], Some("pip lock")),
        (&["uv", "pip", "install", "acme"], None),
        (&["uv", "sync", "--frozen"], None),
        (&["uv", "pip", "sync", "a.txt"], None),
        (&["pip", "install", "lock"], None),
        (&["poetry", "lock"], None),
    ] {
        assert_eq!(command(words).locks().as_deref(), wanted, "{words:?}");
    }
}
