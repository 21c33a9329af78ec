//! `valetkey exec --index` with real clients whose own files name other indexes: what is kept from them, what a person is
//! told of, and what is written down.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use super::client::{Client, assert_success, path, run, site, skip};
use super::exec::exec;
use super::harness::{Run, Sandbox};
use super::registry_daemon::RegistryDaemon;

/// An index that offers nothing and notes who asks.
struct Other {
    url: String,
    asked: Receiver<String>,
}

impl Other {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tell, asked) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = [0; 8192];
                let length = stream.read(&mut head).unwrap_or(0);
                let line =
                    String::from_utf8_lossy(&head[..length]).lines().next().unwrap_or_default().to_owned();
                let _ = tell.send(line);
                let _ = stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.try_iter().collect()
    }
}

/// `valetkey exec --index -- PROGRAM WORDS` in a project of that file.
fn in_project(
    sandbox: &Sandbox,
    daemon: &RegistryDaemon,
    client: &Client,
    files: &[(&str, &str)],
    flags: &[&'static str],
    words: &[&str],
) -> Run {
    for (name, text) in files {
        sandbox.write(&format!("home/{name}"), text);
    }
    let mut command = exec(sandbox, daemon, flags.iter().copied(), client.program(words[0]));
    quiet(&mut command, client);
    fs::create_dir_all(sandbox.path("home/app")).unwrap();
    run(sandbox, command.args(&words[1..]).current_dir(sandbox.path("home/app")))
}

fn quiet(command: &mut Command, client: &Client) {
    command
        .env("PATH", path([client.program(""), "/usr/bin".into(), "/bin".into()]))
        .env("NO_COLOR", "1")
        .env("UV_PYTHON_DOWNLOADS", "never")
        .env("UV_NO_CACHE", "1")
        .env("UV_HTTP_RETRIES", "0")
        .env("PDM_CHECK_UPDATE", "0")
        .env("PIPENV_VENV_IN_PROJECT", "1")
        .env("PIPENV_NOSPIN", "1")
        .env("PIPENV_YES", "1")
        .env("POETRY_VIRTUALENVS_IN_PROJECT", "true")
        .env("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring");
}

const PROJECT: &str = "[project]\nname = \"acme-app\"\nversion = \"0.1.0\"\nrequires-python = \">=3.9\"\n\
    dependencies = [\"acme-hello\"]\n";

#[track_caller]
fn assert_merged(daemon: &RegistryDaemon) {
    let seen = daemon.seen();
    assert!(seen.iter().any(|request| request.target == "/simple/acme-hello/"), "{seen:#?}");
}

/// Indexes in uv's files are asked before the one that variables name.
fn uv_asks_no_other(name: &str) {
    let Some(client) = Client::find(name) else { return };
    let other = Other::start();
    let table = format!("[[index]]\nname = \"other\"\nurl = \"{}/simple\"\n", other.url);
    let tool = table.replace("[[index]]", "[[tool.uv.index]]");
    let links = format!(
        "find-links = [\"{}/links\"]\nextra-index-url = [\"{}/extra\"]\nlink-mode = \"copy\"\n",
        other.url, other.url
    );
    for files in [
        vec![("app/pyproject.toml", format!("{PROJECT}{tool}"))],
        vec![("app/pyproject.toml", format!("{PROJECT}[tool.uv]\n{links}"))],
        vec![("app/pyproject.toml", PROJECT.to_owned()), ("app/uv.toml", links.clone() + &table)],
        vec![("app/pyproject.toml", PROJECT.to_owned()), (".config/uv/uv.toml", links.clone() + &table)],
        vec![("app/pyproject.toml", PROJECT.to_owned()), ("uv.toml", table.clone())],
    ] {
        let sandbox = Sandbox::new();
        let daemon = RegistryDaemon::start(&sandbox);
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let locked = in_project(&sandbox, &daemon, &client, &files, &["--index"], &["uv", "lock"]);
        assert_success(&locked);
        assert_eq!(other.asked(), [""; 0], "{files:?}");
        assert_merged(&daemon);
        assert!(locked.stderr.contains(" is not heeded: under --index"), "{}", locked.stderr);
        // The way there is one of this run.
        let lock = fs::read_to_string(sandbox.path("home/app/uv.lock")).unwrap();
        assert!(!lock.contains("127.0.0.1") && !lock.contains("/dev/shm"), "{lock}");
        let told = locked.stderr.find("what `uv lock` writes down").unwrap();
        assert!(locked.stderr[told..].contains("plain `valetkey exec`"), "{}", locked.stderr);
        assert!(locked.stderr.find("Resolved").is_none_or(|resolved| told < resolved), "{}", locked.stderr);
    }
}

#[test]
fn uv_newest_asks_no_index_of_its_files() {
    uv_asks_no_other("uv-newest");
}

#[test]
fn uv_2025_11_asks_no_index_of_its_files() {
    uv_asks_no_other("uv-2025-11");
}

/// Wherever a script goes.
#[test]
fn uv_asks_no_index_of_a_project_that_a_script_goes_to() {
    let Some(client) = Client::find("uv-newest") else { return };
    let other = Other::start();
    let text = format!("{PROJECT}[[tool.uv.index]]\nname = \"other\"\nurl = \"{}/simple\"\n", other.url);
    let uv = client.program("uv").display().to_string();
    for (script, own) in [("cd sub && UV lock", ""), ("./lock.sh", "#!/bin/sh\ncd sub\nUV lock\n")] {
        let sandbox = Sandbox::new();
        let daemon = RegistryDaemon::start(&sandbox);
        sandbox.write("home/sub/pyproject.toml", &text);
        let file = sandbox.write("home/lock.sh", &own.replace("UV", &uv));
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = exec(&sandbox, &daemon, ["--index"], "sh");
        quiet(&mut command, &client);
        assert_success(&run(&sandbox, command.args(["-c", &script.replace("UV", &uv)])));
        assert_eq!(other.asked(), [""; 0], "{script}");
        assert_merged(&daemon);
    }
}

/// What the same files say of other things stays in force.
#[test]
fn uvs_other_settings_stay() {
    let Some(client) = Client::find("uv-newest") else { return };
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let text = format!(
        "{PROJECT}[tool.uv]\nconstraint-dependencies = [\"acme-hello<0\"]\noffline = true\nindex-url = \"https://x.test/\"\n"
    );
    let run = in_project(
        &sandbox,
        &daemon,
        &client,
        &[("app/pyproject.toml", &text)],
        &["--index"],
        &["uv", "lock"],
    );
    assert_ne!(run.code, Some(0), "{run:?}");
    assert!(daemon.seen().is_empty(), "offline: {:?}", daemon.seen());
}

/// A proxy in uv's file wins over the variables.
#[test]
fn a_proxy_in_uvs_file_leads_nothing_past_the_run() {
    let Some(client) = Client::find("uv-newest") else { return };
    let other = Other::start();
    for file in ["app/uv.toml", ".config/uv/uv.toml"] {
        let sandbox = Sandbox::new();
        let daemon = RegistryDaemon::start(&sandbox);
        let text = format!("https-proxy = \"{}\"\nno-proxy = [\"localhost\", \"x.test\"]\n", other.url);
        let words = ["uv", "pip", "install", "acme-hello", "--target", "site", "--index-url"];
        let (index, python) = (sandbox.index(), client.program("python"));
        let words: Vec<&str> =
            words.into_iter().chain([index.as_str(), "--python", python.to_str().unwrap()]).collect();
        let run = in_project(&sandbox, &daemon, &client, &[(file, &text)], &[], &words);
        assert_success(&run);
        assert_eq!(other.asked(), [""; 0]);
        assert!(daemon.seen().iter().any(|request| request.target.contains(".whl")));
        // What is not granted goes by uv's own proxy, and by that of nobody else.
        let words = [
            "uv",
            "pip",
            "install",
            "acme-public",
            "--target",
            "site",
            "--index-url",
            "https://public.test/simple",
        ];
        let run = in_project(
            &sandbox,
            &daemon,
            &client,
            &[(file, &text)],
            &[],
            &[&words[..], &["--python", python.to_str().unwrap()]].concat(),
        );
        assert_ne!(run.code, Some(0));
        let asked = other.asked();
        assert!(!asked.is_empty(), "{run:?}");
        assert!(asked.iter().all(|line| line.starts_with("CONNECT public.test:443")), "{asked:?}");
    }
}

/// Where nothing keeps a client from another index, that is said with file and line, before it begins.
#[test]
fn pdm_poetry_and_pipenv_are_warned_of() {
    let pdm = format!(
        "{PROJECT}[tool.pdm]\ndistribution = false\n[[tool.pdm.source]]\nname = \"other\"\nurl = \"INDEX\"\n"
    );
    let poetry = format!(
        "{PROJECT}[tool.poetry]\npackage-mode = false\n[[tool.poetry.source]]\nname = \"other\"\nurl = \"INDEX\"\n"
    );
    let pipfile = "[[source]]\nname = \"other\"\nurl = \"INDEX\"\nverify_ssl = true\n\n[packages]\nacme-hello = \"*\"\n";
    for (name, file, text, words, told) in [
        (
            "pdm",
            "pyproject.toml",
            pdm.as_str(),
            &["pdm", "lock"][..],
            "pyproject.toml:8: `[[tool.pdm.source]]` \"other\" leads past",
        ),
        (
            "poetry",
            "pyproject.toml",
            &poetry,
            &["poetry", "lock"],
            "pyproject.toml:8: `[[tool.poetry.source]]` \"other\" leads past",
        ),
        ("pipenv", "Pipfile", pipfile, &["pipenv", "lock"], "Pipfile:1: `[[source]]` \"other\" leads past"),
    ] {
        let Some(client) = Client::find(name) else { return };
        let sandbox = Sandbox::new();
        let daemon = RegistryDaemon::start(&sandbox);
        let text = text.replace("INDEX", &sandbox.index().replace("https://", "https://u:hunter2@"));
        let run =
            in_project(&sandbox, &daemon, &client, &[(&format!("app/{file}"), &text)], &["--index"], words);
        assert!(run.stderr.contains(told), "{name}: {}", run.stderr);
        let own: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("valetkey: ")).collect();
        assert!(!own.concat().contains("hunter2"), "{own:?}");
    }
}

/// Each of these forms is one that a real pip follows to the other index, and each is warned of.
#[test]
fn every_form_that_pip_heeds_is_warned_of() {
    let Some(client) = Client::find("pip-newest") else { return };
    let other = Other::start();
    let url = &other.url;
    let wheel = format!("{url}/acme_x-1.0-py3-none-any.whl");
    let wide: Vec<u8> = format!("\u{feff}--extra-index-url {url}/simple\nacme-x\n")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let forms: Vec<(&str, Vec<u8>)> = [
        ("the whole option", format!("--extra-index-url {url}/simple\nacme-x\n")),
        ("an equals sign", format!("--index-url={url}/simple\nacme-x\n")),
        ("a short option", format!("-i {url}/simple\nacme-x\n")),
        ("a short option without a blank", format!("-f{url}/links\nacme-x\n")),
        ("an abbreviated option", format!("--extra {url}/simple\nacme-x\n")),
        ("a continued line", format!("--extra-index-url \\\n{url}/simple\nacme-x\n")),
        (
            "an option that is continued in its middle",
            format!("--extra-\\\nindex-url {url}/simple\nacme-x\n"),
        ),
        ("a byte order mark", format!("\u{feff}--extra-index-url {url}/simple\nacme-x\n")),
        ("a second option", format!("--pre --extra-index-url {url}/simple\nacme-x\n")),
        ("a nested file", "-r nested/r.txt\n".to_owned()),
        ("a nested constraint", "-c nested/r.txt\nacme-x\n".to_owned()),
        ("a variable", "--extra-index-url ${OTHER_INDEX}\nacme-x\n".to_owned()),
        ("an option in a variable", "${OTHER_OPTION} ${OTHER_INDEX}\nacme-x\n".to_owned()),
        ("quotes", format!("--pre \"--extra-index-url\" '{url}/simple'\nacme-x\n")),
        ("a form feed", format!("acme-x\u{c}--extra-index-url {url}/simple\n")),
        ("a direct address", format!("acme-x @ {wheel}\n")),
        ("a bare address", format!("{wheel}\n")),
        ("an editable address", format!("-e git+{url}/acme-x.git#egg=acme-x\n")),
    ]
    .into_iter()
    .map(|(what, text)| (what, text.into_bytes()))
    .chain([("UTF-16", wide)])
    .collect();
    for (what, bytes) in forms {
        let sandbox = Sandbox::new();
        let daemon = RegistryDaemon::start(&sandbox);
        fs::create_dir_all(sandbox.path("home/app/nested")).unwrap();
        sandbox.write("home/app/nested/r.txt", &format!("--extra-index-url {url}/simple\nacme-x\n"));
        fs::write(sandbox.path("home/app/r.txt"), bytes).unwrap();
        let mut pip = exec(&sandbox, &daemon, ["--index"], client.program("python"));
        pip.args(["-m", "pip", "install", "--no-input", "--no-cache-dir", "--dry-run", "--target"])
            .arg(site(&sandbox))
            .args(["-r", "r.txt"])
            .env("OTHER_INDEX", format!("{url}/simple"))
            .env("OTHER_OPTION", "--extra-index-url")
            .current_dir(sandbox.path("home/app"));
        let installed = run(&sandbox, &mut pip);
        assert_ne!(
            other.asked(),
            [""; 0],
            "pip does not heed {what}: {}{}",
            installed.stdout,
            installed.stderr
        );
        let warned = installed
            .stderr
            .lines()
            .any(|line| line.starts_with("valetkey: warning: ") && line.contains("r.txt:"));
        assert!(warned, "{what}: {}", installed.stderr);
    }
}

#[test]
fn a_script_of_uvs_that_names_an_index_is_warned_of() {
    let Some(client) = Client::find("uv-newest") else { return };
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let other = Other::start();
    let text = format!(
        "# /// script\n# dependencies = [\"acme-hello\"]\n# [[tool.uv.index]]\n# url = \"{}/simple\"\n# ///\n",
        other.url
    );
    let run =
        in_project(&sandbox, &daemon, &client, &[("app/s.py", &text)], &["--index"], &["uv", "run", "s.py"]);
    assert!(run.stderr.contains("s.py:3: `[[tool.uv.index]]` leads past"), "{}", run.stderr);
}

/// pip-compile's output and others hold no directory of the run, where nothing of the user's made one needed.
#[test]
fn pip_sees_no_directory_of_the_run_where_nobody_named_links() {
    let Some(client) = Client::find("pip-newest") else { return };
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let run = in_project(
        &sandbox,
        &daemon,
        &client,
        &[],
        &["--index"],
        &["python", "-m", "pip", "lock", "acme-hello", "-o", "pylock.toml"],
    );
    assert_success(&run);
    assert!(run.stderr.contains("what `pip lock` writes down"), "{}", run.stderr);
    let lock = fs::read_to_string(sandbox.path("home/app/pylock.toml")).unwrap();
    assert!(!lock.contains("/dev/shm") && !lock.contains("127.0.0.1"), "{lock}");
}

/// npm's file lies in the working directory, and says nothing to anybody else.
#[test]
fn npm_goes_by_its_own_file_and_nobody_else_does() {
    if !Path::new("/usr/bin/npm").exists() {
        return skip("there is no npm");
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let other = Other::start();
    sandbox.write("home/app/package.json", "{}");
    sandbox.write("home/app/.npmrc", &format!("proxy={}\nnoproxy=localhost\n", other.url));
    let mut npm = exec(&sandbox, &daemon, [], "npm");
    let registry = format!("--registry=https://{}/acme/npm/", daemon.host());
    npm.args(["view", "acme-hello", "version", &registry, "--fetch-retries=0", "--no-update-notifier"]);
    let viewed = run(&sandbox, npm.current_dir(sandbox.path("home/app")));
    assert_success(&viewed);
    assert_eq!(viewed.stdout.trim(), "1.2.3");
    assert_eq!(other.asked(), [""; 0]);
    let mut curl = exec(&sandbox, &daemon, [], "curl");
    curl.args(["-sS", "-m", "5", "https://public.invalid/"]);
    run(&sandbox, curl.current_dir(sandbox.path("home/app")));
    assert_eq!(other.asked(), [""; 0]);
}
