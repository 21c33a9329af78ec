use super::*;

fn read_for(name: &str, text: &str, client: &str) -> Vec<Detour> {
    read(name, text, &Command::new([client.to_owned()]))
}

#[test]
fn what_a_client_reads_in_a_project_is_found_for_that_client_alone() {
    let text = "[project]\ndependencies = [\n  \"a\",\n  \"b @ https://u:p@x.test/b.whl\",\n]\n\
        [[tool.uv.index]]\nname = \"other\"\nurl = \"https://u:p@x.test/\"\n\
        [tool.uv.sources]\nc = { index = \"other\" }\nd = { path = \"x\" }\ne = [{ git = \"https://x.test\" }]\n\
        [[tool.poetry.source]]\nname = \"p\"\nurl = \"https://x.test/\"\n\
        [tool.poetry.dependencies]\nf = \"*\"\ng = { source = \"p\", version = \"1\" }\n\
        [[tool.pdm.source]]\nname = \"q\"\nurl = \"https://x.test/\"\n\
        [tool.hatch.envs.default.env-vars]\nPIP_INDEX_URL = \"https://x.test/\"\n\
        [tool.uv]\nfind-links = [\"https://x.test/\"]\npip.index-url = \"https://x.test/\"\n";
    for (client, wanted) in [
        ("pip", vec![(4, "`b @ …`")]),
        (
            "uv",
            vec![
                (4, "`b @ …`"),
                (10, "`[tool.uv.sources]` `c = { index = … }`"),
                (12, "`[tool.uv.sources]` `e = { git = … }`"),
            ],
        ),
        (
            "poetry",
            vec![(4, "`b @ …`"), (13, "`[[tool.poetry.source]]` \"p\""), (18, "`g = { source = … }`")],
        ),
        ("pdm", vec![(4, "`b @ …`"), (19, "`[[tool.pdm.source]]` \"q\"")]),
        ("hatch", vec![(4, "`b @ …`"), (23, "`PIP_INDEX_URL`")]),
    ] {
        let found = read_for("pyproject.toml", text, client);
        let found: Vec<_> = found.iter().map(|(line, what)| (*line, what.as_str())).collect();
        assert_eq!(found, wanted, "{client}");
    }
    assert_eq!(read_for("pyproject.toml", text, "make").len(), 7);
    let make = Command::new(["make".to_owned()]);
    let found: Vec<_> = unheeded("pyproject.toml", text, &make).into_iter().map(|(line, _)| line).collect();
    assert_eq!(found, [6, 25, 26]);
    let own = "# x\n[[index]]\nname = \"a\"\n[pip]\nextra-index-url = [\"https://x.test\"]\n";
    let wanted = [(2, "`[[index]]` \"a\"".to_owned()), (5, "`extra-index-url`".to_owned())];
    assert_eq!(unheeded("uv.toml", own, &make), wanted);
    assert_eq!(unheeded("uv.toml", own, &Command::new(["pip".to_owned()])), []);
    let found = read_for("--config-file", "index-url = \"https://x.test\"\n[[index]]\nname = \"a\"\n", "uv");
    assert_eq!(found, [(1, "`index-url`".to_owned()), (2, "`[[tool.uv.index]]` \"a\"".to_owned())]);
}

#[test]
fn other_files_are_read_as_their_clients_do() {
    for (name, text, client, wanted) in [
        (
            "Pipfile",
            "[[source]]\nurl = \"https://x.test/\"\nname = \"x\"\n[packages]\na = \"*\"\nb = {index = \"x\"}\n\
             c = {file = \"./c.whl\"}\nd = {file = \"https://x.test/d.whl\"}",
            "pipenv",
            &[(1, "`[[source]]` \"x\""), (6, "`b = { index = … }`"), (8, "`d = { file = … }`")][..],
        ),
        (
            "Pipfile.lock",
            r#"{"_meta": {"sources": [{"url": "https://x.test/"}]}}"#,
            "pipenv",
            &[(1, "`sources`")],
        ),
        (
            "setup.cfg",
            "[easy_install]\nindex-url = https://x.test\n[options]\ninstall_requires =\n  a\n  b @ https://x.test/b\n\
             dependency_links =\n  https://x.test/\n",
            "pip",
            &[(2, "`index_url`"), (6, "`b @ …`"), (8, "`dependency_links`")],
        ),
        (
            "tox.ini",
            "[testenv]\nsetenv =\n  PIP_EXTRA_INDEX_URL = https://x.test\ndeps =\n  a\n  --find-links=x\n# --find-links\n",
            "tox",
            &[(3, "`PIP_EXTRA_INDEX_URL`"), (6, "`--find-links`")],
        ),
        (".env", "A=b\nexport PIP_INDEX_URL=x\n", "pipenv", &[(2, "`PIP_INDEX_URL`")]),
        ("pylock.toml", "[[packages]]\nname = \"a\"\nindex = \"https://x.test\"\n", "pip", &[(3, "`index`")]),
    ] {
        let found = read_for(name, text, client);
        let found: Vec<_> = found.iter().map(|(line, what)| (*line, what.as_str())).collect();
        assert_eq!(found, wanted, "{name}");
    }
    let lock = "[[package]]\nname = \"a\"\nsource = { registry = \"https://x.test/simple\" }\n";
    assert_eq!(read_for("uv.lock", lock, "uv"), []);
    let frozen = Command::new(["uv", "sync", "--frozen"].map(str::to_owned));
    assert_eq!(read("uv.lock", lock, &frozen), [(3, "`registry`".to_owned())]);
    let text = "#!/usr/bin/env -S uv run\n# /// script\n# dependencies = [\"a @ https://x.test/a\"]\n\
                # [[tool.uv.index]]\n# url = \"https://x.test\"\n# ///\n# [[tool.uv.index]]\n";
    assert_eq!(script(text), [(3, "`a @ …`".to_owned()), (4, "`[[tool.uv.index]]`".to_owned())]);
    assert_eq!(read_for("Pipfile", "[[source]\nurl = 1 [", "pipenv"), []);
}

#[test]
fn toxs_settings_in_toml_are_read_as_those_in_its_own_form() {
    let own = "env_list = [\"a\"]\n[env_run_base]\nset_env = { PIP_EXTRA_INDEX_URL = \"https://u:p@x.test\" }\n\
        install_command = [\"pip\", \"install\", \"--extra-index-url\", \"https://x.test\", \"{packages}\"]\n";
    let wanted = [(3, "`PIP_EXTRA_INDEX_URL`".to_owned()), (4, "`--extra-index-url`".to_owned())];
    assert_eq!(read_for("tox.toml", own, "tox"), wanted);
    let project = "[tool.tox]\nlegacy_tox_ini = \"\"\"\n[testenv]\ninstall_command = pip install -f https://x.test\n\"\"\"\n\
        [tool.tox.env_run_base.set_env]\nUV_INDEX = \"https://x.test\"\n";
    let wanted = [(2, "`--find-links`".to_owned()), (7, "`UV_INDEX`".to_owned())];
    assert_eq!(read_for("pyproject.toml", project, "tox"), wanted);
    assert_eq!(read_for("pyproject.toml", project, "pip"), []);
    assert_eq!(read_for("tox.toml", "description = \"runs --no-indexes\"\n", "tox"), []);
}
