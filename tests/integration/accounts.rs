//! Several accounts: which one is for which registry, how one is named, what stands in the way, and what systemd
//! hands to a service. Whatever is wrong with the one that decides, no other is taken.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::harness::{ADC, Sandbox};
use super::login::{DEVELOPER, LIST, STATE, SignIn, alone, logins, publish, sign_in, sign_in_as, status};
use super::stand_in::{CLOUD_PLATFORM, Consent, READ_ONLY};
use super::{assert_given, assert_refused};

const ONE: &str = "one@acme.example";
const TWO: &str = "two@acme.example";
const THREE: &str = "three@acme.example";

/// A sandbox with these accounts signed in, in this order, and gcloud's file with another identity.
fn with_accounts(accounts: &[&str], rules: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let rules = rules.replace("PORT", &sandbox.google.port().to_string());
    sandbox.configure_login(&rules);
    for account in accounts {
        sign_in_as(&sandbox, &Consent::given().by(account), &[]);
    }
    sandbox.write(ADC, &sandbox.google.authorized_user("gcloud@acme.example"));
    sandbox
}

fn get(sandbox: &Sandbox, project: &str) -> Command {
    sandbox.keyring(["get", &sandbox.google.index_url(project, "private"), "oauth2accesstoken"])
}

fn bare(sandbox: &Sandbox) -> Command {
    sandbox.keyring(["get", &format!("localhost:{}", sandbox.google.port()), "oauth2accesstoken"])
}

/// Whose token a command gives.
fn given_to(sandbox: &Sandbox, command: &mut Command) -> String {
    assert_given(&sandbox.run(command));
    sandbox.google.token_requests().pop().unwrap().identity.unwrap()
}

#[test]
fn the_first_rule_that_matches_says_which_account() {
    let rules = "[[account]]\naccount = \"two@acme.example\"\nregistry = \"localhost:PORT\"\nproject = \"acme\"\n\
                 [[account]]\naccount = \"one@acme.example\"\nproject = \"acme\"\n\
                 [[account]]\naccount = \"THREE@acme.example\"\nproject = \"beta\"\n\
                 [[account]]\naccount = \"one@acme.example\"\nregistry = \"elsewhere.test\"\n";
    for daemon in [false, true] {
        let sandbox = with_accounts(&[ONE, TWO, THREE], rules);
        let _daemon = daemon.then(|| sandbox.serve());
        let whose = |mut command: Command| given_to(&sandbox, alone(&mut command));
        assert_eq!(whose(get(&sandbox, "acme")), TWO, "by host and project");
        assert_eq!(whose(get(&sandbox, "beta")), THREE, "by project, however it is capitalised");
        assert_eq!(whose(get(&sandbox, "gamma")), ONE, "no rule, the default");
        // Nobody's rule counts for a token that is for no registry.
        let mut token = sandbox.valetkey();
        let run = sandbox.run(alone(token.args(["token", "--write"])));
        assert!(run.stderr.contains("the login of one@acme.example may read"), "{run:?}");
    }
}

#[test]
fn a_rule_for_a_host_counts_for_all_of_it() {
    let rules = "[[account]]\naccount = \"two@acme.example\"\nregistry = \"LOCALHOST:PORT\"\n";
    let sandbox = with_accounts(&[ONE, TWO], rules);
    for command in [&mut get(&sandbox, "acme"), &mut get(&sandbox, "beta"), &mut bare(&sandbox)] {
        assert_eq!(given_to(&sandbox, alone(command)), TWO);
    }
    // Two alone may publish, and no rule says that two publishes with one's login.
    assert_refused(&sandbox.run(alone(&mut publish(&sandbox))), "login --write --account two@acme.example");
    sign_in_as(&sandbox, &Consent::given().by(TWO), &["--write"]);
    assert_eq!(given_to(&sandbox, alone(&mut publish(&sandbox))), TWO);
    let scopes: Vec<_> =
        sandbox.google.token_requests().into_iter().filter_map(|request| request.scope).collect();
    assert_eq!(scopes, [READ_ONLY, READ_ONLY, READ_ONLY, CLOUD_PLATFORM]);
}

#[test]
fn an_account_that_never_signed_in_is_an_error_and_no_step_to_another() {
    let rules = "[[account]]\naccount = \"nobody@acme.example\"\nproject = \"acme\"\n";
    for daemon in [false, true] {
        let sandbox = with_accounts(&[ONE], rules);
        let _daemon = daemon.then(|| sandbox.serve());
        let run = sandbox.run(alone(&mut get(&sandbox, "acme")));
        assert_refused(&run, "no login of nobody@acme.example is stored");
        assert!(run.stderr.contains("run `valetkey login --account nobody@acme.example`"), "{run:?}");
        // What pip asks for next, which no rule matches.
        assert_refused(&sandbox.run(alone(&mut bare(&sandbox))), "was refused to this program just now");
        let doctor = sandbox.run(sandbox.valetkey().arg("doctor"));
        let note =
            "note login    the configuration names nobody@acme.example for a registry, and nobody signed in";
        assert!(doctor.stdout.contains(note), "{doctor:?}");
        let others =
            sandbox.google.token_requests().into_iter().filter(|it| it.identity.as_deref() != Some(ONE));
        assert_eq!(others.count(), 0);
    }
    // Without a refusal the bare host is the default's.
    let sandbox = with_accounts(&[ONE], rules);
    assert_eq!(given_to(&sandbox, alone(&mut bare(&sandbox))), ONE);
}

#[test]
fn an_account_can_be_named() {
    let rules = "[[account]]\naccount = \"one@acme.example\"\nproject = \"acme\"\n";
    for daemon in [false, true] {
        let sandbox = with_accounts(&[ONE, TWO], rules);
        let _daemon = daemon.then(|| sandbox.serve());
        let named = |account: &str| {
            let mut command = get(&sandbox, "acme");
            sandbox.run(alone(command.env("VALETKEY_CREDENTIAL", account)))
        };
        assert_given(&named(TWO));
        assert_eq!(sandbox.google.token_requests().pop().unwrap().identity.as_deref(), Some(TWO));
        assert_refused(&named("nobody@acme.example"), "no login of nobody@acme.example is stored");
        let mut token = sandbox.valetkey();
        let run = sandbox.run(alone(token.args(["token", "--format", "json", "--credential", ONE])));
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(sandbox.google.token_requests().pop().unwrap().identity.as_deref(), Some(ONE));
        let mut token = sandbox.valetkey();
        let run = sandbox.run(alone(token.args(["token", "--credential", "nobody@acme.example"])));
        assert_eq!((run.code, run.stdout.as_str()), (Some(3), ""), "{run:?}");
        assert!(run.stderr.contains("hint: run `valetkey login --account nobody@acme.example`\n"), "{run:?}");
    }
    // A daemon may be given one, for whoever names none.
    let sandbox = with_accounts(&[ONE, TWO], "");
    let _daemon = sandbox.serve_with(sandbox.valetkey().env("VALETKEY_CREDENTIAL", TWO));
    assert_eq!(given_to(&sandbox, &mut get(&sandbox, "beta")), TWO);
}

#[test]
fn status_lists_all_accounts_and_the_default_moves_on() {
    let sandbox = with_accounts(&[ONE, TWO], "");
    sign_in_as(&sandbox, &Consent::given().by(TWO), &["--write"]);
    let shown = status(&sandbox);
    for line in [
        "login      one@acme.example (default) reads, in a file, signed in ",
        "login      two@acme.example reads, in a file, signed in ",
        "login      two@acme.example reads and publishes, in a file, signed in ",
        "not used yet\n           scopes: openid, userinfo.email, cloud-platform.read-only, cloud-platform\n",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(!shown.contains("ago ago"), "{shown}");
    let json = logins(&sandbox);
    assert_eq!(json.len(), 3);
    for (login, (account, default, access)) in
        json.iter().zip([(ONE, true, "read"), (TWO, false, "read"), (TWO, false, "write")])
    {
        assert_eq!((&login["account"], &login["default"]), (&account.into(), &default.into()));
        assert_eq!((&login["access"], &login["vault"]), (&access.into(), &"file".into()));
        assert_eq!((&login["adopted"], &login["ends"]), (&false.into(), &serde_json::Value::Null));
        assert!(login["client_id"].as_str().unwrap().ends_with(".apps.googleusercontent.com"));
    }
    assert_eq!(given_to(&sandbox, alone(&mut get(&sandbox, "acme"))), ONE);
    assert!(status(&sandbox).contains("last used "));
    let run = sandbox.run(sandbox.valetkey().args(["logout", "--account", ONE]));
    assert!(run.stdout.starts_with("signed out one@acme.example"), "{run:?}");
    assert!(status(&sandbox).contains("two@acme.example (default) reads"));
    assert_eq!(given_to(&sandbox, alone(&mut get(&sandbox, "acme"))), TWO);
}

#[test]
fn a_wrong_configuration_is_named_with_its_line() {
    let sandbox = Sandbox::new();
    let account = "account = \"a@acme.example\"";
    for (more, line, word) in [
        (format!("[[account]]\n{account}\n"), 12, "needs a `registry`, a `project`, or both"),
        ("[[account]]\nregistry = \"a.test\"\n".to_owned(), 12, "missing field `account`"),
        (format!("[[account]]\n{account}\nregistry = \"https://a.test/\"\n"), 12, "not a host or host:port"),
        (format!("[[account]]\n{account}\nproject = \"\"\n"), 12, "not the name of a project"),
        ("[[account]]\naccount = \" \"\nproject = \"x\"\n".to_owned(), 12, "not the e-mail address"),
        (format!("[[account]]\n{account}\nproject = \"x\"\nhost = \"a.test\"\n"), 15, "unknown field `host`"),
        ("[[registry]]\nhost = \"Upper.test\"\n".to_owned(), 13, "not a lower-case host"),
    ] {
        sandbox.configure_login(&more);
        for arguments in [&["login"][..], &["logout"], &["vault"], &["status"], &["token"]] {
            let run = sandbox.run(sandbox.valetkey().args(arguments));
            assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{run:?}");
            assert!(run.stderr.contains(&format!("config.toml:{line}: ")), "{run:?}");
            assert!(run.stderr.contains(word) && run.stderr.lines().count() == 2, "{run:?}");
        }
    }
    for (text, word) in [
        (
            "vault = \"safe\"\n",
            "config.toml:1: unknown variant `safe`, expected one of `auto`, `keychain`, `file`",
        ),
        (
            "[endpoints]\nauthorization = \"http://evil.test/auth\"\n",
            "config.toml:2: \"http://evil.test/auth\" is neither https nor http on this machine",
        ),
        ("[endpoints]\nauthorization = \"http://localhost.evil.test/\"\n", "config.toml:2: "),
        ("[endpoints]\nauthorization = \"http://localhost@evil.test/\"\n", "config.toml:2: "),
        ("[endpoints]\nauthorization = \"file:///etc/passwd\"\n", "config.toml:2: "),
        ("[endpoints]\nauthorization = \"javascript:alert(1)\"\n", "config.toml:2: "),
        ("[endpoints]\nrevocation = \"http://localhost/revoke\"\n", "config.toml:2: "),
        ("[oauth]\nclient_secret = \"hunter22\"\n", "config.toml:1: missing field `client_id`"),
        ("[oauth]\nclient_id = \"x\"\nsecret = \"hunter22\"\n", "config.toml:3: unknown field `secret`"),
    ] {
        sandbox.write("home/.config/valetkey/config.toml", text);
        let run = sandbox.run(sandbox.valetkey().arg("login"));
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{text}: {run:?}");
        assert!(run.stderr.contains(word) && !run.stderr.contains("hunter22"), "{text}: {run:?}");
    }
}

/// What a helper says and a daemon's answer, neither of which is another identity.
fn assert_in_the_way(sandbox: &Sandbox, word: &str) {
    let before = sandbox.google.token_requests().len();
    let run = sandbox.run(alone(&mut sandbox.get()));
    assert_refused(&run, word);
    let daemon = sandbox.serve();
    assert_refused(&sandbox.run(&mut sandbox.get()), word);
    drop(daemon);
    assert_eq!(sandbox.google.token_requests().len(), before, "{word}: another identity was asked");
}

fn put_in_place(path: &Path, what: &str) {
    let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
    match what {
        "directory" => fs::create_dir(path).unwrap(),
        "pipe" => {
            use rustix::fs::{CWD, FileType, Mode, mknodat};
            mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        }
        "loop" => std::os::unix::fs::symlink(path.file_name().unwrap(), path).unwrap(),
        text => fs::write(path, text).unwrap(),
    }
}

#[test]
fn a_damaged_list_is_an_error_and_no_step_to_another_identity() {
    let sandbox = with_accounts(&[ONE], "");
    let list = sandbox.path(LIST);
    let good = fs::read_to_string(&list).unwrap();
    let cases = [
        ("default = \n".to_owned(), "accounts.toml:1: "),
        (good.replace("access = \"read\"", "access = \"all\""), "unknown variant `all`"),
        (format!("colour = \"red\"\n{good}"), "accounts.toml:1: unknown field `colour`"),
        (good.replace("created = \"2", "created = \"x"), "is not an RFC 3339 time"),
        (format!("{good}\0"), "accounts.toml:"),
        (" ".repeat(2 << 20), "it is too large"),
        ("directory".to_owned(), "it is a directory"),
        ("pipe".to_owned(), "it is not a regular file"),
        ("loop".to_owned(), "cannot read"),
    ];
    for (what, word) in &cases {
        put_in_place(&list, what);
        assert_in_the_way(&sandbox, word);
        // Whoever wants to sign in or out hears of it before a person is asked for anything.
        for arguments in [&["login", "--no-browser"][..], &["logout"], &["vault"], &["status"]] {
            let run = sandbox.run(sandbox.valetkey().args(arguments));
            assert_eq!((run.code, run.stdout.as_str()), (Some(3), ""), "{word}: {run:?}");
            assert!(run.stderr.contains(word) && !run.stderr.contains("http://"), "{word}: {run:?}");
        }
        let run = sandbox.run(sandbox.valetkey().arg("doctor"));
        assert!(run.code == Some(3) && run.stdout.contains("FAIL login "), "{word}: {run:?}");
    }
    put_in_place(&list, &good);
    assert_eq!(given_to(&sandbox, alone(&mut sandbox.get())), ONE);
}

#[test]
fn a_secret_that_is_gone_is_an_error_and_no_step_to_another_identity() {
    let sandbox = with_accounts(&[ONE], "");
    fs::remove_dir_all(sandbox.path(&format!("{STATE}/logins"))).unwrap();
    assert_in_the_way(&sandbox, "valetkey login --account one@acme.example");
    assert!(status(&sandbox).contains("one@acme.example (default) reads"));
    sign_in_as(&sandbox, &Consent::given().by(ONE), &[]);
    assert_eq!(given_to(&sandbox, alone(&mut sandbox.get())), ONE);
}

/// A service's own directory of credentials.
fn handed_over(sandbox: &Sandbox, text: &str) -> std::path::PathBuf {
    sandbox.write("credentials/valetkey", text).parent().unwrap().to_owned()
}

#[test]
fn what_systemd_hands_to_a_service_comes_before_its_login() {
    let sandbox = with_accounts(&[ONE], "");
    let key = sandbox.google.service_account_key("service@acme.iam.gserviceaccount.com");
    let user = sandbox.google.authorized_user("service@acme.example");
    for (text, identity) in [(key, "service@acme.iam.gserviceaccount.com"), (user, "service@acme.example")] {
        let directory = handed_over(&sandbox, &text);
        let mut daemon = sandbox.serve_with(sandbox.valetkey().env("CREDENTIALS_DIRECTORY", &directory));
        assert_eq!(given_to(&sandbox, &mut sandbox.get()), identity);
        let shown = status(&sandbox);
        assert!(
            shown.contains(&format!("1. systemd credential {}/valetkey\n", directory.display())),
            "{shown}"
        );
        assert!(shown.contains("2. stored login\n"), "{shown}");
        daemon.terminate();
        // A helper within the service, which has no daemon: it starts none, that would have another identity.
        let mut helper = sandbox.get();
        assert_eq!(given_to(&sandbox, helper.env("CREDENTIALS_DIRECTORY", &directory)), identity);
        assert!(!sandbox.socket().exists(), "a daemon was started");
    }
    // One that is wrong is an error; one that is not there is none.
    let directory = handed_over(&sandbox, "{}");
    let mut helper = sandbox.get();
    assert_refused(&sandbox.run(helper.env("CREDENTIALS_DIRECTORY", &directory)), "has no type");
    fs::remove_file(directory.join("valetkey")).unwrap();
    let mut helper = sandbox.get();
    assert_eq!(given_to(&sandbox, alone(helper.env("CREDENTIALS_DIRECTORY", &directory))), ONE);
}

#[test]
fn each_state_directory_has_its_own_logins() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    sign_in(&sandbox, &[]);
    let mut command = sandbox.get();
    command.env("XDG_STATE_HOME", sandbox.path("elsewhere"));
    assert_refused(&sandbox.run(alone(&mut command)), "no login is stored");
    let mut command = sandbox.valetkey();
    command.args(["login", "--no-browser"]).env("XDG_STATE_HOME", sandbox.path("elsewhere"));
    let waiting = SignIn::start_with(&mut command);
    let back = sandbox.google.consent(&waiting.url).unwrap();
    assert_eq!(super::login::follow(&back).status, 200);
    assert_eq!(waiting.end(&sandbox).code, Some(0));
    assert!(sandbox.path("elsewhere/valetkey/accounts.toml").exists());
    assert_eq!(logins(&sandbox)[0]["account"], DEVELOPER);
}
