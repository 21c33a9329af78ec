//! What `valetkey doctor` says of the real clients, beside what these clients then do: each is asked itself, and so its
//! files count as they do for it. No word of a secret that stands in them is repeated.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::client::{Client, Identity, assert_success, path, run, site};
use super::harness::Sandbox;

/// In a pip.conf as people have it.
const SECRET: &str = "plainly-a-fake-password";

/// `valetkey doctor` with these programs on PATH, behind `keyring`.
fn doctor(sandbox: &Sandbox, clients: &[&Client]) -> Command {
    let keyring = sandbox.path("bin");
    let programs: Vec<PathBuf> = clients.iter().map(|client| client.program("")).collect();
    let mut command = sandbox.valetkey();
    command.arg("doctor").env("PATH", path([&[&keyring], &*programs.iter().collect::<Vec<_>>()].concat()));
    command
}

/// The lines of one step, with what to do.
fn about(sandbox: &Sandbox, command: &mut Command, step: &str) -> String {
    let run = run(sandbox, command);
    for secret in [SECRET, "index-url"] {
        assert!(!run.stdout.contains(secret) && !run.stderr.contains(secret), "{run:?}");
    }
    assert_eq!(run.stderr, "", "{run:?}");
    let mut lines = run.stdout.lines().peekable();
    let mut found = String::new();
    while let Some(line) = lines.next() {
        if line.get(5..).is_some_and(|rest| rest.split(' ').next() == Some(step)) {
            found += &format!("{line}\n");
            while let Some(hint) = lines.next_if(|line| line.starts_with("    ")) {
                found += &format!("{hint}\n");
            }
        }
    }
    assert!(!found.is_empty(), "nothing of {step}: {run:?}");
    found
}

/// A section of a file and what it says, the variable, and whether pip then calls valetkey though it may not prompt.
type Way = (Option<(&'static str, &'static str)>, Option<&'static str>, bool);

/// Each way to tell a pip what to ask: doctor says yes where `pip install` then works, and nowhere else.
fn says_what_pip_does(name: &str, with_user: bool) {
    let Some(client) = Client::find(name) else { return };
    let ways: [Way; 8] = [
        (None, Some("subprocess"), true),
        (Some(("global", "subprocess")), None, true),
        (Some(("install", "subprocess")), None, true),
        (Some(("global", "disabled")), None, false),
        (Some(("install", "disabled")), Some("subprocess"), true),
        (Some(("global", "subprocess")), Some("disabled"), false),
        (Some(("global", "import")), None, false),
        (Some(("download", "subprocess")), None, false),
    ];
    for (file, variable, works) in ways {
        let sandbox = Sandbox::new();
        if let Some((section, value)) = file {
            let index = format!("https://{SECRET}:{SECRET}@index.example/simple/");
            let told = format!("keyring_provider = {value}\n");
            let (first, second) = if section == "global" {
                (told, String::new())
            } else {
                (String::new(), format!("[{section}]\n{told}"))
            };
            let text = format!("[global]\nindex-url = {index}\n{first}{second}");
            sandbox.write("home/.config/pip/pip.conf", &text);
        }
        let index = if with_user { sandbox.index_with_user() } else { sandbox.index() };
        let mut install = client.command(&sandbox, Identity::User, "python");
        install
            .args([
                "-m",
                "pip",
                "install",
                "--no-input",
                "--no-cache-dir",
                "--index-url",
                &index,
                "acme-hello",
                "--target",
            ])
            .arg(site(&sandbox))
            .env_remove("PIP_CONFIG_FILE");
        let mut doctor = doctor(&sandbox, &[&client]);
        if let Some(value) = variable {
            install.env("PIP_KEYRING_PROVIDER", value);
            doctor.env("PIP_KEYRING_PROVIDER", value);
        }
        let said = about(&sandbox, &mut doctor, "pip");
        let told = format!("{file:?} {variable:?}: {said}");
        assert_eq!(said.starts_with("ok "), works, "{told}");
        assert_eq!(run(&sandbox, &mut install).code == Some(0), works, "{told}");
        match (file, variable) {
            (Some(("download", _)), _) => assert!(said.contains("--no-input"), "{told}"),
            (Some(_), None) => assert!(said.contains("home/.config/pip/pip.conf"), "{told}"),
            _ => assert!(said.contains("PIP_KEYRING_PROVIDER"), "{told}"),
        }
    }
}

#[test]
fn what_is_said_of_the_newest_pip_is_what_it_does() {
    says_what_pip_does("pip-newest", false);
}

#[test]
fn what_is_said_of_pip_24_3_1_is_what_it_does() {
    says_what_pip_does("pip-24.3.1", true);
}

#[test]
fn what_is_said_of_pip_23_1_is_what_it_does() {
    says_what_pip_does("pip-23.1", true);
}

#[test]
fn older_pips_are_judged_by_what_they_can_do() {
    for (name, said) in [
        ("pip-20.3.4", "only imports Python's keyring"),
        ("pip-22.3.1", "only imports Python's keyring"),
        ("pip-23.0.1", "not under --no-input"),
    ] {
        let Some(client) = Client::find(name) else { return };
        let sandbox = Sandbox::new();
        sandbox.write("home/.config/pip/pip.conf", "[global]\nkeyring-provider = subprocess\n");
        let found = about(&sandbox, &mut doctor(&sandbox, &[&client]), "pip");
        assert!(found.contains(said) && !found.starts_with("ok "), "{name}: {found}");
    }
}

#[test]
fn a_configuration_that_pip_cannot_read_is_said() {
    let Some(client) = Client::find("pip-newest") else { return };
    let sandbox = Sandbox::new();
    sandbox.write(
        "home/.config/pip/pip.conf",
        &format!("[global]\nindex-url = https://{SECRET}@x.test/\n[global]\n"),
    );
    let found = about(&sandbox, &mut doctor(&sandbox, &[&client]), "pip");
    assert!(found.starts_with("FAIL") && found.contains("-m pip config list"), "{found}");
}

/// The active environment comes first, whatever PATH says, and only it can make the whole fail.
#[test]
fn every_pip_is_asked_and_the_active_one_decides() {
    let (Some(newest), Some(old)) = (Client::find("pip-newest"), Client::find("pip-22.3.1")) else { return };
    for (active, other, level) in [(&newest, &old, "ok  "), (&old, &newest, "FAIL")] {
        let sandbox = Sandbox::new();
        sandbox.sign_in();
        let mut command = doctor(&sandbox, &[other, active]);
        command
            .env("VIRTUAL_ENV", active.program("").parent().unwrap())
            .env("PIP_KEYRING_PROVIDER", "subprocess");
        let found = about(&sandbox, &mut command, "pip");
        let lines: Vec<&str> = found.lines().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(lines.len(), 2, "{found}");
        assert!(lines[0].starts_with(level) && !lines[1].starts_with("FAIL"), "{found}");
        let prefix = active.program("").parent().unwrap().display().to_string();
        assert!(lines[0].contains(&prefix) && !lines[1].contains(&prefix), "{found}");
    }
}

/// Where Python finds the packages of a client.
fn packages(client: &Client) -> PathBuf {
    let lib = client.program("").parent().unwrap().join("lib");
    let python = fs::read_dir(lib).unwrap().map(|entry| entry.unwrap().path()).next().unwrap();
    python.join("site-packages")
}

/// As where twine or hatch was installed into a project's environment.
#[test]
fn a_keyring_package_without_a_backend_hides_ours_and_that_is_said() {
    let (Some(pip), Some(twine)) = (Client::find("pip-newest"), Client::find("twine")) else { return };
    let sandbox = Sandbox::new();
    let importing = |command: &mut Command| {
        command.env("PYTHONPATH", packages(&twine));
    };
    let mut install = client_install(&pip, &sandbox);
    importing(&mut install);
    assert_ne!(run(&sandbox, &mut install).code, Some(0));
    let mut command = doctor(&sandbox, &[&pip]);
    importing(&mut command);
    let found = about(&sandbox, &mut command, "pip");
    assert!(
        found.starts_with("FAIL")
            && found.contains("no backend")
            && found.contains("PIP_KEYRING_PROVIDER=subprocess"),
        "{found}"
    );
    // By the remedy that is named it works.
    install.env("PIP_KEYRING_PROVIDER", "subprocess");
    assert_success(&run(&sandbox, &mut install));
    let found = about(&sandbox, command.env("PIP_KEYRING_PROVIDER", "subprocess"), "pip");
    assert!(found.starts_with("ok "), "{found}");
}

fn client_install(pip: &Client, sandbox: &Sandbox) -> Command {
    let mut install = pip.command(sandbox, Identity::User, "python");
    install.args([
        "-m",
        "pip",
        "install",
        "--no-cache-dir",
        "acme-hello",
        "--index-url",
        &sandbox.index_with_user(),
        "--target",
    ]);
    install.arg(site(sandbox));
    install
}

#[test]
fn what_switches_pythons_keyring_off_is_named() {
    let Some(twine) = Client::find("twine") else { return };
    let sandbox = Sandbox::new();
    let said = |command: &mut Command, step: &str| about(&sandbox, command, step);
    let found = said(&mut doctor(&sandbox, &[&twine]), "twine");
    assert!(
        found.starts_with("note") && found.contains("no backend") && found.contains("valetkey token --write"),
        "{found}"
    );
    let found = said(doctor(&sandbox, &[&twine]).env("TWINE_PASSWORD", SECRET), "twine");
    assert!(found.starts_with("ok "), "{found}");

    let mut command = doctor(&sandbox, &[&twine]);
    command.env("PYTHON_KEYRING_BACKEND", "");
    let found = said(&mut command, "keyring");
    assert!(found.contains("FAIL keyring  PYTHON_KEYRING_BACKEND is set to nothing"), "{found}");
    assert!(said(&mut command, "twine").contains("fails with ValueError"));
    let null = "keyring.backends.null.Keyring";
    let found = said(doctor(&sandbox, &[&twine]).env("PYTHON_KEYRING_BACKEND", null), "keyring");
    assert!(found.contains("note keyring  PYTHON_KEYRING_BACKEND switches"), "{found}");

    // As the real program writes it.
    let mut keyring = twine.command(&sandbox, Identity::User, "keyring");
    assert_success(&run(&sandbox, keyring.arg("--disable")));
    let mut command = doctor(&sandbox, &[&twine]);
    let found = said(&mut command, "keyring");
    let file = sandbox.path("home/.config/python_keyring/keyringrc.cfg");
    assert!(found.contains(&format!("remove {}", file.display())), "{found}");
    assert!(said(&mut command, "twine").contains("switched off"));
    fs::remove_file(file).unwrap();
    assert!(!said(&mut command, "keyring").contains("switches"));
}

#[test]
fn uv_is_asked_for_what_its_files_and_variables_come_to() {
    for name in ["uv-newest", "uv-2025-11"] {
        let Some(client) = Client::find(name) else { return };
        let sandbox = Sandbox::new();
        let said = |command: &mut Command| about(&sandbox, command, "uv");
        let found = said(&mut doctor(&sandbox, &[&client]));
        assert!(found.starts_with("note uv       is told to ask no keyring"), "{found}");
        let found = said(doctor(&sandbox, &[&client]).env("UV_KEYRING_PROVIDER", "subprocess"));
        assert!(found.starts_with("ok "), "{found}");
        let index = format!(
            "[[tool.uv.index]]\nname = \"x\"\nurl = \"https://{SECRET}:{SECRET}@index.example/simple/\"\n"
        );
        let project = "[project]\nname = \"app\"\nversion = \"1\"\nrequires-python = \">=3.9\"\n";
        sandbox.write(
            "home/pyproject.toml",
            &format!("{project}[tool.uv]\nkeyring-provider = \"subprocess\"\n{index}"),
        );
        assert!(said(&mut doctor(&sandbox, &[&client])).starts_with("ok "));
        let found = said(doctor(&sandbox, &[&client]).env("UV_KEYRING_PROVIDER", "disabled"));
        assert!(found.starts_with("note"), "{found}");
        fs::remove_file(sandbox.path("home/pyproject.toml")).unwrap();
        sandbox.write("home/.config/uv/uv.toml", "keyring-provider = \"subprocess\"\n");
        assert!(said(&mut doctor(&sandbox, &[&client])).starts_with("ok "));
    }
}

#[test]
fn a_sign_in_of_uvs_own_that_wins_over_the_keyring_is_named() {
    let Some(client) = Client::find("uv-newest") else { return };
    let sandbox = Sandbox::new();
    let uv = |words: &[&str]| {
        let mut uv = client.command(&sandbox, Identity::User, "uv");
        let done = run(&sandbox, uv.args(words));
        assert_success(&done);
    };
    let service = "https://us-python.pkg.dev/acme/private/simple/";
    uv(&["auth", "login", service, "--username", "oauth2accesstoken", "--password", SECRET]);
    uv(&["auth", "login", "https://elsewhere.example", "--token", SECRET]);
    let file = sandbox.path("home/.local/share/uv/credentials/credentials.toml");
    let found = about(&sandbox, &mut doctor(&sandbox, &[&client]), "uv");
    assert!(
        found.contains("note uv       https://us-python.pkg.dev/acme/private has a sign-in of uv's own"),
        "{found}"
    );
    assert!(!found.contains("elsewhere"), "{found}");
    let yesterday = SystemTime::now() - Duration::from_secs(26 * 3600);
    fs::File::options().write(true).open(&file).unwrap().set_modified(yesterday).unwrap();
    let found = about(&sandbox, &mut doctor(&sandbox, &[&client]), "uv");
    assert!(found.contains("FAIL uv       https://us-python.pkg.dev/acme/private"), "{found}");
    let hint = found.lines().find_map(|line| line.split("run `uv ").nth(1)).unwrap().trim_end_matches('`');
    // The remedy, to the letter; uv asks for the user as well.
    let words: Vec<&str> = hint.split(' ').chain(["--username", "oauth2accesstoken"]).collect();
    uv(&words);
    let found = about(&sandbox, &mut doctor(&sandbox, &[&client]), "uv");
    assert!(!found.contains("sign-in of uv's own"), "{found}");
}

#[test]
fn poetry_pdm_and_pipenv_are_asked_in_their_own_environments() {
    let (Some(poetry), Some(pdm), Some(pipenv)) =
        (Client::find("poetry"), Client::find("pdm"), Client::find("pipenv"))
    else {
        return;
    };
    let sandbox = Sandbox::new();
    let found = about(&sandbox, &mut doctor(&sandbox, &[&poetry]), "poetry");
    assert!(found.contains("note poetry   imports Python's keyring, which has no backend"), "{found}");
    sandbox.write("home/poetry.toml", "[keyring]\nenabled = false\n");
    sandbox.write("home/pyproject.toml", "[project]\nname = \"app\"\nversion = \"1\"\n");
    let found = about(&sandbox, &mut doctor(&sandbox, &[&poetry]), "poetry");
    assert!(found.contains("is told by keyring.enabled"), "{found}");

    let found = about(&sandbox, &mut doctor(&sandbox, &[&pdm]), "pdm");
    assert!(found.starts_with("ok   pdm      calls it"), "{found}");
    let mut command = doctor(&sandbox, &[&pdm]);
    let found = about(&sandbox, command.env("PYTHONPATH", packages(&poetry)), "pdm");
    assert!(found.starts_with("note") && found.contains("does not call valetkey"), "{found}");

    let found = about(&sandbox, &mut doctor(&sandbox, &[&pipenv]), "pipenv");
    assert!(found.starts_with("note pipenv   is not told"), "{found}");
    sandbox.write("home/.config/pip/pip.conf", "[global]\nkeyring-provider = subprocess\n");
    let found = about(&sandbox, &mut doctor(&sandbox, &[&pipenv]), "pipenv");
    assert!(found.starts_with("ok "), "{found}");
    let found =
        about(&sandbox, doctor(&sandbox, &[&pipenv]).env("PIPENV_KEYRING_PROVIDER", "disabled"), "pipenv");
    assert!(found.starts_with("note"), "{found}");
}

#[test]
fn build_is_judged_by_the_variable_alone() {
    let Some(build) = Client::find("build") else { return };
    let sandbox = Sandbox::new();
    sandbox.write("home/.config/pip/pip.conf", "[global]\nkeyring-provider = disabled\n");
    assert!(about(&sandbox, &mut doctor(&sandbox, &[&build]), "build").starts_with("ok "));
    let found = about(&sandbox, doctor(&sandbox, &[&build]).env("PIP_KEYRING_PROVIDER", "import"), "build");
    assert!(found.starts_with("note"), "{found}");
}

/// A project's directory is a stranger's: nothing that lies in it is run by a question.
#[test]
fn nothing_in_the_working_directory_is_run() {
    let clients: Vec<Client> = ["pip-newest", "poetry", "pdm", "pipenv", "twine", "uv-newest"]
        .iter()
        .filter_map(|name| Client::find(name))
        .collect();
    let sandbox = Sandbox::new();
    let trap = "open('/proc/self/cwd/sprung', 'w').write('x')\nopen(__import__('os').environ['HOME'] + '/sprung', 'w')\n";
    for name in [
        "json.py",
        "keyring.py",
        "sysconfig.py",
        "importlib.py",
        "pip.py",
        "sitecustomize.py",
        "usercustomize.py",
    ] {
        sandbox.write(&format!("home/app/{name}"), trap);
        sandbox.write(&format!("home/app/.pdm-plugins/{name}"), trap);
    }
    for name in ["python", "python3", "pip", "uv", "poetry", "keyring"] {
        sandbox.write(&format!("home/app/{name}"), "#!/bin/sh\ntouch \"$HOME/sprung\"\n");
    }
    let mut command = doctor(&sandbox, &clients.iter().collect::<Vec<_>>());
    let found = about(&sandbox, command.current_dir(sandbox.path("home/app")), "pip");
    assert!(!found.is_empty() && !Path::new(&sandbox.path("home/sprung")).exists());
    assert!(!sandbox.path("home/app/sprung").exists());
}
