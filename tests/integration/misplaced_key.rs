//! A key where its path is wanted, as people really put it into a variable, a flag, a file or a question to the daemon:
//! it is known for what it is, and no part of it is said anywhere.

use std::ffi::OsStr;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::harness::{CONFIGURATION, Run, Sandbox};
use super::listeners::{message, on_stream, page, repository, unix};
use super::{assert_given, assert_refused};

const SENTENCE: &str = "this holds a key, not the path of one: write it to a file of mode 0600";

/// A key that works, in the forms in which it comes out of a CI's settings.
fn keys(sandbox: &Sandbox) -> Vec<String> {
    let key = sandbox.google.service_account_key("builder@acme.iam.gserviceaccount.com");
    let value: serde_json::Value = serde_json::from_str(&key).unwrap();
    let pretty = serde_json::to_string_pretty(&value).unwrap();
    let pem = value["private_key"].as_str().unwrap().to_owned();
    let lines = STANDARD.encode(&pretty);
    let lines: Vec<&str> =
        lines.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
    vec![
        value.to_string(),
        STANDARD.encode(&key),
        STANDARD.encode(&pretty),
        URL_SAFE_NO_PAD.encode(&key),
        lines.join("\n"),
        STANDARD.encode(STANDARD.encode(&key)),
        value.to_string().replace('"', ""),
        pretty,
        pem,
    ]
}

/// Nothing that was said holds a piece of the key, nor of its base64, that would be enough to know it again.
#[track_caller]
fn assert_untold(key: &str, said: &str) {
    let pieces = [key.to_owned(), STANDARD.encode(key), key.replace('\n', "\\n"), key.replace('"', "\\\"")];
    for piece in pieces.iter().flat_map(|form| form.as_bytes().windows(20).step_by(5)) {
        let piece = String::from_utf8_lossy(piece);
        // What every file of the kind holds is no part of this one.
        let common =
            ["googleapis", "gserviceaccount", "acme", "-----", "ocalhost", "https:", "_x509_", "/token"];
        if !common.iter().any(|word| piece.contains(word)) {
            let at = said.find(&*piece).map(|at| said[..at].rsplit('\n').next().unwrap_or_default());
            assert_eq!(at, None, "{piece:?} was said");
        }
    }
}

/// Runs, and looks at all that came of it.
#[track_caller]
fn untold(sandbox: &Sandbox, key: &str, command: &mut Command) -> Run {
    let run = sandbox.run(command);
    assert_untold(key, &format!("{}\n{}\n{}", run.stdout, run.stderr, sandbox.log()));
    run
}

#[test]
fn a_key_in_a_variable_is_named_and_not_shown_by_any_command() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let repository = repository(&sandbox, "acme/private");
    let index = sandbox.index();
    for (number, key) in keys(&sandbox).iter().enumerate() {
        let names = [
            "VALETKEY_CREDENTIAL",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "VALETKEY_SOCKET",
            "CLOUDSDK_CONFIG",
            "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE",
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE",
            "CLOUDSDK_CORE_ACCOUNT",
        ];
        for name in names.iter().take(if number == 0 { names.len() } else { 3 }) {
            let run = untold(&sandbox, key, sandbox.get().env(name, key));
            assert_refused(&run, &format!("{name}: {SENTENCE}"));
            for (words, code) in [
                (vec!["token"], Some(2)),
                (vec!["status"], Some(2)),
                (vec!["status", "--json"], Some(2)),
                (vec!["docker", "args", &repository], Some(2)),
                (vec!["exec", "--", "true"], None),
                (vec!["doctor", &index], None),
                (vec!["serve"], Some(2)),
            ] {
                // It serves a socket, and looks for none.
                if words == ["serve"] && *name == "VALETKEY_SOCKET" || words[0] == "doctor" && number > 1 {
                    continue;
                }
                let run = untold(&sandbox, key, sandbox.valetkey().args(&words).env(name, key));
                assert!(code.is_none_or(|code| run.code == Some(code)), "{name} {words:?}: {run:?}");
                assert_ne!(run.code, Some(0), "{name} {words:?}: {run:?}");
                let said = format!("{}{}", run.stdout, run.stderr);
                assert!(said.contains(SENTENCE) && said.contains(name), "{name} {words:?}: {said}");
            }
        }
    }
    assert!(sandbox.google.token_requests().is_empty());
}

#[test]
fn a_variable_that_does_not_decide_may_hold_anything() {
    let sandbox = Sandbox::new();
    let file = sandbox.service_account();
    let key = &keys(&sandbox)[0];
    let mut get = sandbox.get();
    get.env("VALETKEY_CREDENTIAL", file).env("GOOGLE_APPLICATION_CREDENTIALS", key);
    assert_given(&untold(&sandbox, key, &mut get));
}

#[test]
fn a_key_in_a_variable_of_another_program_is_not_shown() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let index = sandbox.index();
    for key in keys(&sandbox).iter().take(2) {
        for name in [
            "PIP_KEYRING_PROVIDER",
            "UV_KEYRING_PROVIDER",
            "PYTHON_KEYRING_BACKEND",
            "SSL_CERT_FILE",
            "REQUESTS_CA_BUNDLE",
            "PIP_CERT",
            "NODE_EXTRA_CA_CERTS",
            "HTTPS_PROXY",
            "PIP_INDEX_URL",
            "PIP_CONFIG_FILE",
            "UV_CONFIG_FILE",
            "PIP_REQUIREMENT",
            "PIP_CONSTRAINT",
            "UV_CONSTRAINT",
        ] {
            untold(&sandbox, key, sandbox.get().env(name, key));
            let through = ["exec", "--index", &index, "--", "true"];
            for words in [&["env"][..], &["status"], &["doctor", &index], &["exec", "--", "true"], &through] {
                untold(&sandbox, key, sandbox.valetkey().args(words).env(name, key));
            }
        }
    }
}

#[test]
fn a_key_in_a_word_of_the_command_line_is_not_shown() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    for key in keys(&sandbox) {
        let key = key.as_str();
        let flag = format!("--credential={key}");
        let mode = format!("--mode={key}");
        for words in [
            &["token", &format!("--output={key}")][..],
            &["token", &flag],
            &["doctor", &flag],
            &["login", &format!("--client-id-file={key}")],
            &["docker", "image", &format!("--binary={key}")],
        ] {
            let run = untold(&sandbox, key, sandbox.valetkey().args(words));
            let said = format!("{}{}", run.stdout, run.stderr);
            assert!(run.code != Some(0) && said.contains(SENTENCE), "{words:?}: {run:?}");
        }
        for words in [
            &[key][..],
            &["token", "--output", key],
            &["token", key],
            &["token", "--format", key],
            &["exec", "--port", key, "--", "true"],
            &["exec", "--index", key, "--", "true"],
            &["exec", "--", key],
            &["docker", "args", key],
            &["docker", "args", "--for", key, "us/acme/private"],
            &["docker", key],
            &["vault", key],
            &["doctor", key],
            &["status", &flag],
            &["logout", "--account", key],
            &["completions", key],
        ] {
            let run = untold(&sandbox, key, sandbox.valetkey().args(words));
            assert!(run.code != Some(0), "{words:?}: {run:?}");
        }
        for words in [
            &[key][..],
            &[&mode, "get", "x"],
            &["get", key, "oauth2accesstoken"],
            &["get", "x", key],
            &[key, key, key],
        ] {
            untold(&sandbox, key, &mut sandbox.keyring(words));
        }
    }
}

#[test]
fn a_key_in_a_setting_is_told_with_its_line_and_not_shown() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let config = std::fs::read_to_string(sandbox.path(CONFIGURATION)).unwrap();
    for key in keys(&sandbox).into_iter().step_by(3) {
        let quoted = toml::Value::String(key.clone()).to_string();
        for line in [
            format!("extra_ca = {quoted}"),
            format!("log = {quoted}"),
            format!("vault = {quoted}"),
            format!("redirect_hosts = [{quoted}]"),
            format!("{quoted} = 1"),
            format!("[daemon]\nidle = {quoted}"),
            format!("[daemon]\nauto_start = {quoted}"),
            format!("[endpoints]\nauthorization = {quoted}"),
            format!("[[registry]]\nhost = {quoted}"),
            format!("[[registry]]\nhost = \"a.test\"\nformat = {quoted}"),
            format!("[build]\nrepositories = [{quoted}]"),
            format!("[build]\npeers = [{quoted}]"),
            format!("[build]\naccess = {quoted}"),
            format!("[index]\nrepositories = [{quoted}]"),
            format!("[index]\nrepositories = [\"us/a/b\"]\nprivate = [{quoted}]"),
            format!("[index]\nrepositories = [\"us/a/b\"]\npublic = {quoted}"),
            format!("[[listener]]\nunix = {quoted}"),
            format!("[[listener]]\ntcp = {quoted}"),
            format!("[[account]]\naccount = \"a@b.test\"\nregistry = {quoted}"),
            format!("[[account]]\naccount = {quoted}\nproject = \"p\""),
            key.clone(),
        ] {
            sandbox.write(CONFIGURATION, &line);
            let run = untold(&sandbox, &key, sandbox.valetkey().arg("token"));
            // The name of an account, or of a project, may be odd.
            let free = line.contains("account = ") || line.contains("private = ");
            assert!(run.code == Some(2) || free, "{line}: {run:?}");
            untold(&sandbox, &key, &mut sandbox.get());
        }
        for name in ["VALETKEY_IDLE", "VALETKEY_LOG", "VALETKEY_AUTO_START"] {
            sandbox.write(CONFIGURATION, &config);
            let run = untold(&sandbox, &key, sandbox.valetkey().arg("token").env(name, &key));
            assert!(run.code == Some(2) && run.stderr.contains(name), "{run:?}");
        }
        for name in [
            "XDG_RUNTIME_DIR",
            "TMPDIR",
            "HOME",
            "XDG_CONFIG_HOME",
            "SSH_AUTH_SOCK",
            "SSL_CERT_FILE",
            "HTTPS_PROXY",
        ] {
            for words in [&["status"][..], &["token"], &["doctor"]] {
                let mut command = sandbox.valetkey();
                untold(
                    &sandbox,
                    &key,
                    command.args(words).env(name, &key).env("VALETKEY_AUTO_START", "false"),
                );
            }
        }
    }
}

#[test]
fn a_daemon_that_is_told_a_key_in_the_place_of_its_path_keeps_and_shows_none_of_it() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    sandbox.google.add_package("acme", "private", "hello", "1.0", &[]);
    let daemon = sandbox.serve();
    let (socket, granted, index) = (sandbox.socket(), repository(&sandbox, "acme/private"), sandbox.index());
    for key in keys(&sandbox) {
        for source in [
            serde_json::json!({"kind": "file", "path": key}),
            serde_json::json!({"kind": "gcloud-directory", "path": key}),
            serde_json::json!({"kind": "gcloud", "variables": {"CLOUDSDK_CORE_ACCOUNT": key}}),
            serde_json::json!({"kind": "metadata", "host": key}),
            serde_json::json!({"kind": "login", "account": key}),
        ] {
            let ask = serde_json::json!({"url": index, "source": source}).to_string();
            let whose = serde_json::json!({"source": source});
            let wish =
                serde_json::json!({"repositories": [granted], "seconds": 60, "whose": whose}).to_string();
            let header = format!("host: x\r\nvaletkey-whose: {whose}\r\n");
            let request = message("GET", &page(&sandbox, "acme/private"), &header, "");
            let stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            for (status, body) in [
                unix(&socket, "POST", "/v1/credential", &ask),
                unix(&socket, "POST", "/v1/listeners", &wish),
                on_stream(stream, &request),
            ] {
                // A head has an end, and a key may be longer than all of it.
                assert!((status == 400 && body.contains(SENTENCE)) || status == 431, "{status} {body}");
                assert_untold(&key, &body);
            }
        }
        for body in [
            serde_json::json!({"url": [key]}).to_string(),
            serde_json::json!({"url": index, "access": key}).to_string(),
            serde_json::json!({"url": index, "source": key}).to_string(),
            serde_json::json!({"url": index, "source": {"kind": key}}).to_string(),
            serde_json::json!({"url": index, "deadline_ms": key}).to_string(),
            serde_json::json!({"repositories": [key], "seconds": 60}).to_string(),
            serde_json::json!({"repositories": [granted], "seconds": key}).to_string(),
            serde_json::json!({"repositories": [granted], "seconds": 60, key.as_str(): 1}).to_string(),
            key.clone(),
        ] {
            for path in ["/v1/credential", "/v1/listeners"] {
                let (status, body) = unix(&socket, "POST", path, &body);
                assert_ne!(status, 200, "{body}");
                assert_untold(&key, &body);
            }
        }
        let (_, status) = unix(&socket, "GET", "/v1/status", "");
        assert_untold(&key, &status);
        assert_untold(&key, &daemon.log());
        let kept = std::fs::read_to_string(sandbox.runtime().join("listeners.json")).unwrap_or_default();
        assert_untold(&key, &kept);
    }
}

#[test]
fn a_password_in_a_url_is_not_shown() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let secret = "hunter2-hunter2";
    let url = format!("https://dev:{secret}@localhost:{}/acme/private", sandbox.google.port());
    let proxy = format!("http://dev:{secret}@127.0.0.1:9");
    let text = "x".repeat(200);
    for words in [
        &["docker", "args", &url][..],
        &["exec", "--index", &url, "--", "true"],
        &["doctor", &url],
        &["token", &url],
        &["docker", "args", &text],
        &["token", &text],
        &["token", "--format", &text],
        &["exec", "--index", &text, "--", "true"],
    ] {
        let run = sandbox.run(sandbox.valetkey().args(words).env("HTTPS_PROXY", &proxy));
        let said = format!("{}{}{}", run.stdout, run.stderr, sandbox.log());
        assert!(!said.contains(secret) && !said.contains(&text[..81]), "{words:?}: {said}");
    }
    for words in
        [&["get", &url, "dev"][..], &["get", &url, "oauth2accesstoken"], &["get", &text, &text], &[&text]]
    {
        let run = sandbox.run(sandbox.keyring(words).env("HTTPS_PROXY", &proxy));
        let said = format!("{}{}", run.stderr, sandbox.log());
        assert!(!said.contains(secret) && !said.contains(&text[..81]), "{words:?}: {said}");
    }
    let _daemon = sandbox.serve_with(sandbox.valetkey().env("HTTPS_PROXY", &proxy));
    let run = sandbox.run(sandbox.valetkey().args(["status", "--json"]));
    assert!(run.code == Some(0) && !run.stdout.contains(secret), "{run:?}");
}

#[test]
fn a_path_that_is_missing_is_shown_with_its_first_eighty_characters() {
    let sandbox = Sandbox::new();
    let path = format!("/none/{}", "ab/".repeat(80));
    for (name, word) in
        [("VALETKEY_CREDENTIAL", "cannot read the credential file"), ("VALETKEY_SOCKET", "is longer than")]
    {
        let run = sandbox.run(sandbox.get().env(name, OsStr::new(&path)));
        assert_refused(&run, word);
        assert!(run.stderr.contains(&path[..80]) && !run.stderr.contains(&path[..81]), "{run:?}");
    }
}

#[test]
fn of_whatever_was_named_no_more_than_eighty_characters_are_shown() {
    let sandbox = Sandbox::new();
    let words: Vec<_> = (100..140).map(|number| format!("w{number}")).collect();
    let (name, path) = (words.join("-"), format!("/{}", words.join("/")));
    let account = format!("{name}@acme.example");
    let configured = sandbox.write(&format!("home{path}/valetkey/config.toml"), "nonsense = 1\n");
    let configured = configured.parent().unwrap().parent().unwrap().to_str().unwrap().to_owned();
    let index = sandbox.index();
    for (variable, value, arguments) in [
        ("VALETKEY_CREDENTIAL", account.as_str(), &["token"][..]),
        ("GCE_METADATA_HOST", &name, &["token"]),
        ("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", &path, &["token"]),
        ("XDG_CONFIG_HOME", &configured, &["status"]),
        ("X", &path, &["docker", "image", "--binary", &path]),
        ("X", &name, &["docker", "image", "--platform", &name]),
        ("X", &name, &["logout", "--account", &account]),
        ("SSL_CERT_FILE", &path, &["doctor", &index]),
    ] {
        let run = sandbox.run(sandbox.valetkey().args(arguments).env(variable, value));
        assert_ne!(run.code, Some(0), "{arguments:?} {run:?}");
        let said = format!("{}{}", run.stdout, run.stderr);
        for start in 0..value.len() - 80 {
            assert!(!said.contains(&value[start..start + 81]), "{variable} {arguments:?} {said}");
        }
    }
}
