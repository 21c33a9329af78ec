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
        (&["pipx", "install", "--pip-args=--extra-index-url https://x.test", "x"], &["`--extra-index-url`"]),
        (&["pipx", "install", "--pip-args", "-i https://x.test", "x"], &["`--index-url`"]),
        (&["pip-compile", "--pip-args=--no-index"], &["`--no-index`"]),
        (&["valetkey", "exec", "--index", "--", "uv", "sync", "--index", "x"], &["`--index`"]),
        (&["sh", "-c", "/usr/bin/valetkey exec --index -- uv sync; valetkey doctor; pip list"], &[]),
        (
            &["python", "-m", "piptools", "compile", "--extra-index-url", "https://x.test"],
            &["`--extra-index-url`"],
        ),
        (&["pipenv", "install", "--pypi-mirror=https://u:p@x.test"], &["`--pypi-mirror`"]),
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
        (&["sh", "-c", "pip install uv && uv lock"], Some("uv lock")),
        (&["sh", "-c", "pip install pdm==2.2; cd x; pdm lock"], Some("pdm lock")),
        (&["sh", "-c", "uv sync --frozen && uv lock"], Some("uv lock")),
        (&["python3", "-m", "piptools", "compile"], Some("piptools compile")),
        (&["uv", "version", "--bump", "patch"], Some("uv version")),
        (&["uv", "run", "black", "--check", "."], Some("uv run")),
        (&["uv", "run", "--frozen", "black"], None),
        (&["uv", "--frozen", "run", "black"], None),
        (&["sh", "-c", "pip install uv && uv pip install acme"], None),
        (&["python3", "-m", "piptools", "sync"], None),
        (&["uv", "pip", "install", "acme"], None),
        (&["uv", "sync", "--frozen"], None),
        (&["uv", "pip", "sync", "a.txt"], None),
        (&["pip", "install", "lock"], None),
        (&["poetry", "lock"], None),
    ] {
        assert_eq!(command(words).locks().as_deref(), wanted, "{words:?}");
    }
}

#[test]
fn scripts_are_known_by_their_end_by_uvs_flag_and_by_being_called() {
    let scripts = |words: &[&str]| command(words).scripts().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(scripts(&["uv", "run", "a.py", "-v"]), ["a.py"]);
    assert_eq!(scripts(&["uv", "run", "--script", "a"]), ["a"]);
    assert_eq!(scripts(&["uv", "run", "-s", "sub/a", "./b"]), ["sub/a"]);
    assert_eq!(scripts(&["./a", "./b"]), ["./a"]);
    assert_eq!(scripts(&["pip", "install", "a"]), [""; 0]);
}
