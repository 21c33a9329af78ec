//! The helper as a process: streams, environment, arguments, exit codes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use super::harness::{Sandbox, VALETKEY};
use super::{assert_given, assert_refused};

#[test]
fn a_sign_in_starts_a_daemon_that_answers_from_then_on() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let first = assert_given(&sandbox.run(&mut sandbox.get()));
    assert_eq!(assert_given(&sandbox.run(&mut sandbox.get())), first);
    assert_eq!(sandbox.google.token_requests().len(), 1);
    assert!(sandbox.socket().exists());
}

#[test]
fn a_service_account_starts_no_daemon() {
    let sandbox = Sandbox::new();
    let key = sandbox.service_account();
    assert_given(&sandbox.run(sandbox.get().env("GOOGLE_APPLICATION_CREDENTIALS", key)));
    assert!(!sandbox.socket().exists());
}

#[test]
fn each_dialect_gets_its_answer_to_the_byte() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let (url, user) = (sandbox.index(), "oauth2accesstoken");
    let bare = format!("localhost:{}", sandbox.google.port());
    let token = assert_given(&sandbox.run(&mut sandbox.get()));
    let plain = format!("{token}\n");
    let lines = format!("{user}\n{token}\n");
    let json = format!("{{\"username\": \"{user}\", \"password\": \"{token}\"}}\n");
    let with_user = sandbox.index_with_user();
    let table: &[(&[&str], &String)] = &[
        (&["get", &url, user], &plain),
        (&["get", &bare, user], &plain),
        (&["--mode=creds", "--output=json", "get", &url], &json),
        (&["--mode=creds", "--output=json", "get", &bare, user], &json),
        (&["get", &url, "--mode", "creds"], &lines),
        (&["--mode=creds", "get", &with_user, ""], &lines),
    ];
    for (arguments, expected) in table {
        let run = sandbox.run(&mut sandbox.keyring(*arguments));
        assert_eq!((run.code, &run.stdout, run.stderr.as_str()), (Some(0), *expected, ""), "{arguments:?}");
        // The same face under its long name.
        let mut long = sandbox.valetkey();
        long.arg("keyring").args(*arguments);
        assert_eq!(&sandbox.run(&mut long).stdout, *expected, "{arguments:?}");
    }
}

#[test]
fn a_foreign_service_ends_at_once_and_in_silence() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    for service in ["python-poetry-check", "https://example.test/simple/", "poetry-repository-acme", ""] {
        let run = sandbox.run(&mut sandbox.keyring(["get", service, "user"]));
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(1), "", ""), "{service}");
    }
    assert!(!sandbox.socket().exists());
}

#[test]
fn another_username_gets_one_line_and_no_token() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    for name in ["__token__", "_json_key", "a\u{1b}[2Jb", "ya29.a-token-in-the-wrong-place"] {
        let run = sandbox.run(&mut sandbox.keyring(["get", &sandbox.index(), name]));
        assert!(!run.stderr.contains('\u{1b}') && !run.stderr.contains("ya29"), "{run:?}");
        assert_refused(
            &sandbox.run(&mut sandbox.keyring(["get", &sandbox.index(), name])),
            "no password for user",
        );
    }
    assert!(sandbox.google.token_requests().is_empty());
}

#[test]
fn storing_and_deleting_are_refused_in_one_line() {
    let sandbox = Sandbox::new();
    for operation in ["set", "del"] {
        let mut command = sandbox.keyring([operation, &sandbox.index(), "oauth2accesstoken"]);
        assert_refused(&sandbox.run(&mut command), "stores no passwords");
    }
}

#[test]
fn wrong_usage_ends_with_two_and_the_real_programs_words() {
    let sandbox = Sandbox::new();
    let run = sandbox.run(&mut sandbox.keyring(["get"]));
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert!(run.stderr.starts_with("usage: keyring "), "{run:?}");
    assert!(run.stderr.ends_with("keyring: error: get requires service and username\n"), "{run:?}");
    let run = sandbox.run(sandbox.valetkey().arg("--bogus"));
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
}

#[test]
fn a_token_is_never_sent_in_clear_not_even_by_way_of_the_bare_host() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let insecure = sandbox.index().replace("https://", "http://");
    assert_refused(
        &sandbox.run(&mut sandbox.keyring(["get", &insecure, "oauth2accesstoken"])),
        "is not https",
    );
    // pip's next question, from the same pip.
    let bare = format!("localhost:{}", sandbox.google.port());
    let mut command = sandbox.keyring(["get", &bare, "oauth2accesstoken"]);
    assert_refused(&sandbox.run(&mut command), "was refused to this program just now");
    assert!(sandbox.google.token_requests().is_empty());
    // Its https URL is still served.
    assert_given(&sandbox.run(&mut sandbox.get()));
}

#[test]
fn a_closed_or_full_standard_output_is_an_error_and_no_panic() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = sandbox.get();
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("valetkey: cannot write to standard output"), "{stderr}");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = sandbox.get().stdout(full).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1));
    // No descriptor at all.
    let mut command = sandbox.command("/bin/sh");
    command.args(["-c", &format!("keyring get {} oauth2accesstoken >&- 2>&-", sandbox.index())]);
    assert_eq!(sandbox.run(&mut command).stdout, "");
}

#[test]
fn a_started_daemon_holds_nothing_of_its_parents_open() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    // `run` reads both pipes to their end: it would wait for a daemon that held one. A descriptor that a careless
    // parent left open is the harder case.
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = sandbox.command("/bin/sh");
    let question = format!("exec 9>&0; exec keyring get {} oauth2accesstoken </dev/null", sandbox.index());
    command.args(["-c", &question]).stdin(writer);
    assert_given(&sandbox.run(&mut command));
    drop(command);
    assert!(sandbox.socket().exists(), "the daemon runs");
    let end = std::thread::spawn(move || std::io::Read::read_to_end(&mut reader, &mut Vec::new()));
    Sandbox::wait_until("the parent's pipe ends", || end.is_finished());
    let note = std::fs::read_to_string(sandbox.path("run/valetkey/daemon.lock")).unwrap();
    let pid = serde_json::from_str::<serde_json::Value>(&note).unwrap()["pid"].to_string();
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(!environment.contains("GOOGLE_") && environment.contains("HOME="), "{environment}");
}

#[test]
fn a_helper_needs_neither_home_nor_path() {
    let sandbox = Sandbox::new();
    let key = sandbox.service_account();
    let mut command = sandbox.get();
    let configuration = sandbox.path("home/.config");
    command.env("GOOGLE_APPLICATION_CREDENTIALS", key).env_remove("HOME").env_remove("PATH");
    command.env("XDG_CONFIG_HOME", configuration);
    assert_given(&sandbox.run(&mut command));
    // And with nothing at all it says so.
    let mut command = sandbox.get();
    command.env_clear();
    let run = sandbox.run(&mut command);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
}

#[test]
fn arguments_that_are_no_text_are_nobodys_service() {
    let sandbox = Sandbox::new();
    let odd = OsString::from_vec(b"https://\xff\xfe/".to_vec());
    let run = sandbox.run(&mut sandbox.keyring([OsString::from("get"), odd.clone(), "u".into()]));
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(1), "", ""));
    let run = sandbox.run(&mut sandbox.keyring([OsString::from("get"), sandbox.index().into(), odd.clone()]));
    assert_refused(&run, "no password for user");
    let run = sandbox.run(&mut sandbox.keyring([odd]));
    assert_eq!(run.code, Some(2));
}

#[test]
fn a_credential_path_that_is_no_text_is_told() {
    let sandbox = Sandbox::new();
    let odd = OsString::from_vec(b"/tmp/\xff.json".to_vec());
    let run = sandbox.run(sandbox.get().env("GOOGLE_APPLICATION_CREDENTIALS", odd));
    assert_refused(&run, "cannot read the credential file");
}

#[test]
fn an_empty_first_argument_is_survived() {
    let sandbox = Sandbox::new();
    let run = sandbox.run(sandbox.command(VALETKEY).arg0(""));
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{run:?}");
}

#[test]
fn a_wrong_configuration_names_key_file_and_line() {
    let sandbox = Sandbox::new();
    sandbox.configure("[daemon]\nidel = \"1h\"\n");
    let run = sandbox.run(&mut sandbox.get());
    assert_refused(&run, "config.toml:7: unknown field `idel`");
    let run = sandbox.run(sandbox.valetkey().arg("status"));
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
}

#[test]
fn a_configuration_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    let file = sandbox.path("home/.config/valetkey/config.toml");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_refused(&sandbox.run(&mut sandbox.get()), "can be written by other users");
}

#[test]
fn tokens_come_in_three_forms() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let form = |form: &str| sandbox.run(sandbox.valetkey().args(["token", "--format", form])).stdout;
    let raw = form("raw");
    let token = raw.trim_end();
    assert!(token.starts_with("ya29."));
    assert_eq!(form("header"), format!("Authorization: Bearer {token}\n"));
    let json: serde_json::Value = serde_json::from_str(&form("json")).unwrap();
    assert_eq!(
        (json["username"].as_str(), json["password"].as_str()),
        (Some("oauth2accesstoken"), Some(token))
    );
    assert!(json["expires"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn commands_without_a_daemon_say_so() {
    let sandbox = Sandbox::new();
    for command in ["stop", "reload"] {
        let run = sandbox.run(sandbox.valetkey().arg(command));
        assert_eq!((run.code, run.stderr.as_str()), (Some(1), "error: no daemon is running\n"));
    }
    let run = sandbox.run(sandbox.valetkey().args(["status", "--json"]));
    let status: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(status["daemon"].is_null() && status["tokens"].as_array().unwrap().is_empty());
}

#[test]
fn completions_and_manual_pages_are_made() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        let run = sandbox.run(sandbox.valetkey().args(["completions", shell]));
        assert!(run.code == Some(0) && run.stdout.contains("valetkey"), "{shell}");
    }
    let run = sandbox.run(sandbox.valetkey().arg("man").arg(sandbox.path("tmp")));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(sandbox.path("tmp/valetkey.1").exists() && sandbox.path("tmp/valetkey-token.1").exists());
}

#[test]
fn doctor_tries_every_step_and_names_the_one_that_fails() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let url = format!("{}acme-hello/", sandbox.index());
    let doctor = || sandbox.run(sandbox.valetkey().args(["doctor", &url]));
    let well = doctor();
    assert_eq!(well.code, Some(0), "{well:?}");
    for step in ["config", "socket", "daemon", "source", "network", "clock", "keyring", "pip", "request"] {
        assert!(well.stdout.contains(&format!(" {step}")), "{step} is not in {well:?}");
    }
    sandbox.google.deny("developer@acme.example");
    let denied = doctor();
    assert_eq!(denied.code, Some(3));
    assert!(
        denied.stdout.contains("FAIL request") && denied.stdout.contains("roles/artifactregistry.reader")
    );
    sandbox.google.revoke_refresh_tokens();
    let dead = doctor();
    assert!(dead.stdout.contains("FAIL source") && dead.stdout.contains("invalid_grant"), "{dead:?}");
    let foreign = sandbox.run(sandbox.valetkey().args(["doctor", "https://example.test/"]));
    assert!(
        foreign.stdout.contains("FAIL request") && foreign.stdout.contains("not a registry"),
        "{foreign:?}"
    );
}

#[test]
fn the_other_words_of_the_real_program_are_answered() {
    let sandbox = Sandbox::new();
    let ask = |arguments: &[&str]| sandbox.run(&mut sandbox.keyring(arguments));
    let run = ask(&["--list-backends"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "valetkey.Keyring (priority: 9)\n"));
    let run = ask(&["diagnose"]);
    let home = sandbox.path("home").display().to_string();
    let expected = format!(
        "config path: {home}/.config/valetkey/config.toml\ndata root: {home}/.local/state/valetkey\n"
    );
    assert_eq!((run.code, run.stdout), (Some(0), expected));
    let run = ask(&["--help"]);
    assert!(
        run.code == Some(0) && run.stdout.starts_with("usage: keyring ") && run.stderr.is_empty(),
        "{run:?}"
    );
    assert_refused(&ask(&["--disable"]), "PIP_KEYRING_PROVIDER=disabled");
    assert_refused(&ask(&["--print-completion", "bash"]), "valetkey completions SHELL");
    assert_refused(&ask(&["-b", "some.Backend", "get", "s", "u"]), "no other backends");
}

#[test]
fn no_file_in_the_working_directory_adds_a_host() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let text = "[[registry]]\nhost = \"packages.evil.example\"\n";
    for below in ["config.toml", "valetkey/config.toml", ".config/valetkey/config.toml"] {
        sandbox.write(&format!("tmp/checkout/{below}"), text);
    }
    for (name, value) in
        [("HOME", "."), ("HOME", ""), ("XDG_CONFIG_HOME", "."), ("XDG_CONFIG_HOME", ".config")]
    {
        let mut keyring =
            sandbox.keyring(["get", "https://packages.evil.example/simple/", "oauth2accesstoken"]);
        let run = sandbox.run(keyring.current_dir(sandbox.path("tmp/checkout")).env(name, value));
        // Nobody's, and so in silence.
        assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(1), "", ""), "{name}={value}");
    }
}
