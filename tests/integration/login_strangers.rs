//! Browsers that the sign-in may not hear: another user's, and one of nobody knows whom, as Windows' in WSL is or one
//! outside of a container. They learn what to do, so does the person at the terminal, and neither ends the sign-in. And
//! what the person then does: paste, also while a browser is open here.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::exec_terminal::DRIVER;
use super::harness::{Run, Sandbox, VALETKEY, finish, is_ci};
use super::login::{SignIn, ask, follow, logins};
use super::login_attacks::Waiting;

/// Playing another user needs root.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || !is_ci(), "CI runs this as root");
    if !root {
        println!("skipped: playing another user needs root");
    }
    root
}

/// What a user hears who sends these words to a port.
fn heard_by(uid: u32, sandbox: &Sandbox, port: u16, request: &str) -> String {
    let script = "trap '' PIPE; exec 3<>\"/dev/tcp/127.0.0.1/$1\" || exit 7; printf %s \"$2\" >&3; exec /usr/bin/timeout 9 /bin/cat <&3";
    let mut command = sandbox.command("/bin/bash");
    command.args(["-c", script, "bash", &port.to_string(), request]).current_dir("/");
    if uid != rustix::process::geteuid().as_raw() {
        command.uid(uid).gid(uid);
    }
    let run = sandbox.run(&mut command);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    run.stdout
}

fn request(port: u16, target: &str, more: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{more}\r\n")
}

const TOLD: &str = "came back and was not heard";

#[test]
fn another_users_answer_is_not_heard_and_both_are_told_what_to_do() {
    if !is_root() {
        return;
    }
    for uid in [1_000, 65_534] {
        let mut waiting = Waiting::new();
        let (port, target, wrong) = (waiting.it.port(), waiting.target(), waiting.other_state());
        let state = waiting.it.parameter("state");
        let wrong = &wrong[wrong.find("/callback").unwrap()..];
        let answers: Vec<String> = [&*target, wrong, "/callback", "/callback?error=access_denied", &target]
            .iter()
            .map(|target| heard_by(uid, &waiting.sandbox, port, &request(port, target, "")))
            .collect();
        let page = &answers[0];
        assert!(page.starts_with("HTTP/1.1 403") && page.contains("valetkey login --no-browser"), "{page}");
        assert!(page.contains("address of this tab") && !page.contains(&state), "{page}");
        assert!(page.contains("default-src 'none'") && page.contains("no-store"), "{page}");
        // Nothing says whether it would have been right.
        let undated = |text: &str| {
            text.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n")
        };
        assert!(answers.iter().all(|answer| undated(answer) == undated(page)), "{answers:#?}");
        assert!(waiting.it.is_waiting() && waiting.sandbox.google.token_requests().is_empty());
        // What is no browser of a person hears no more than it would from us.
        for (target, more, status) in [
            ("/done", "", 404),
            ("/", "", 404),
            (&*target, "Origin: https://evil.test\r\n", 403),
            (&*target, "Sec-Fetch-Mode: no-cors\r\n", 403),
        ] {
            let answer = heard_by(uid, &waiting.sandbox, port, &request(port, target, more));
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")) && !answer.contains("<html"),
                "{answer}"
            );
        }
        let rebound = request(port, &target, "").replace("127.0.0.1:", "attacker.test:");
        assert!(heard_by(uid, &waiting.sandbox, port, &rebound).starts_with("HTTP/1.1 400"));
        // The person pastes what that browser shows.
        let Waiting { sandbox, mut it, back } = waiting;
        it.paste(&back);
        let run = it.end(&sandbox);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(run.stderr.matches(TOLD).count(), 1, "told once: {run:?}");
        let said = format!("valetkey: a browser of the user {uid} {TOLD}: this sign-in is root's");
        assert!(run.stderr.contains(&said) && run.stderr.contains("paste the address"), "{run:?}");
    }
}

#[test]
fn another_users_connections_keep_nobody_out_and_end_nothing() {
    if !is_root() {
        return;
    }
    let waiting = Waiting::new();
    let script = "for number in $(seq 200); do exec {fd}<>\"/dev/tcp/127.0.0.1/$1\"; [ $((number % 2)) = 1 ] || \
                  printf 'GET /callback?code=x HTTP/1.1\\r\\nHost: ' >&$fd; done; echo open; exec sleep 60";
    let mut command = Command::new("/bin/bash");
    command
        .args(["-c", script, "bash", &waiting.it.port().to_string()])
        .current_dir("/")
        .uid(1_000)
        .gid(1_000);
    let mut crowd = command.env_clear().env("PATH", "/usr/bin:/bin").stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 5];
    std::io::Read::read_exact(crowd.stdout.as_mut().unwrap(), &mut said).unwrap();
    waiting.still_signs_in();
    crowd.kill().unwrap();
    crowd.wait().unwrap();
}

/// As behind WSL's mirrored network: the connection comes from this machine and stands in no table. Here there is none.
#[test]
fn a_browser_of_nobody_knows_whom_is_told_to_paste() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let script = "/bin/mount -t tmpfs none /proc && exec \"$1\" login --no-browser";
    let mut command = sandbox.command("/usr/bin/unshare");
    command.args(["-m", "--propagation", "private", "/bin/sh", "-c", script, "sh", VALETKEY]);
    let mut it = SignIn::start_with(&mut command);
    let back = sandbox.google.consent(&it.url).unwrap();
    for _ in 0..3 {
        let page = ask("GET", &back, &[]);
        assert!(page.status == 403 && page.body.contains("paste it into the terminal"), "{page:?}");
    }
    assert!(it.is_waiting() && sandbox.google.token_requests().is_empty());
    it.paste(&back);
    let run = it.end(&sandbox);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.stderr.matches(TOLD).count(), 1, "{run:?}");
    assert!(run.stderr.contains("its user cannot be told from here"), "{run:?}");
    assert_eq!(logins(&sandbox).len(), 1);
}

/// Where nothing can be pasted, the remedy is another one.
#[test]
fn who_cannot_paste_is_told_the_other_way() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    let browser = sandbox.script("browser", "#!/bin/sh\n");
    let mut command = sandbox.valetkey();
    let mut it = SignIn::start_with(command.arg("login").env("BROWSER", &browser));
    let back = sandbox.google.consent(&it.url).unwrap();
    // Standard input is no terminal, and nobody said that an answer would come by it.
    it.paste(&back);
    let target = &back[back.find("/callback").unwrap()..];
    let page = heard_by(1_000, &sandbox, it.port(), &request(it.port(), target, ""));
    assert!(page.starts_with("HTTP/1.1 403"), "{page}");
    assert!(it.is_waiting() && sandbox.google.token_requests().is_empty());
    assert_eq!(follow(&back).status, 200);
    let run = it.end(&sandbox);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.stderr.contains(TOLD) && run.stderr.contains("run `valetkey login --no-browser` and paste"),
        "{run:?}"
    );
}

/// Runs Python that drives a terminal, and answers it: what it writes as `url` is consented to.
fn at_terminal(sandbox: &Sandbox, words: &[&str], script: &str) -> Run {
    let asking = "
def consented():
    url = next(line for line in seen.splitlines() if line.startswith('http')).strip()
    with open('new', 'w') as file:
        file.write(url)
    os.rename('new', 'url')
    limit = time.monotonic() + 15
    while not os.path.exists('back'):
        if time.monotonic() > limit:
            sys.exit('nobody consents')
        time.sleep(0.01)
    with open('back') as file:
        return file.read()
";
    let program = format!("{DRIVER}\n{asking}\nstart({words:?})\n{script}\n");
    let home = sandbox.path("home");
    let browser = sandbox.script("browser", "#!/bin/sh\n");
    let mut command = sandbox.command("/usr/bin/python3");
    command.args(["-c", &program]).env("TERM", "dumb").env("PS1", "PROMPT ").env("VALETKEY", VALETKEY);
    command.env("BROWSER", browser).current_dir(&home).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let child = command.spawn().unwrap();
    let url = home.join("url");
    Sandbox::wait_until("the address", || url.exists());
    let back = sandbox.google.consent(&fs::read_to_string(url).unwrap()).unwrap();
    fs::write(home.join("new"), back).unwrap();
    fs::rename(home.join("new"), home.join("back")).unwrap();
    let run = finish(child, start, Duration::from_secs(60));
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    run
}

#[test]
fn an_answer_can_be_pasted_at_a_terminal_while_a_browser_is_open() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    at_terminal(
        &sandbox,
        &[VALETKEY, "login"],
        r"
expect('Your browser has been asked')
expect('paste that address here:')
seen = passed + seen
back = consented()
send('\nls\n')
expect('try again')
send(back.replace('state=', 'state=x') + '\n')
expect('belongs to another sign-in')
send(back + '\n')
expect('signed in as')
assert end() == 0, seen
",
    );
    assert_eq!(logins(&sandbox).len(), 1);
}

#[test]
fn a_browser_that_comes_back_needs_no_paste_at_a_terminal() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    at_terminal(
        &sandbox,
        &[VALETKEY, "login"],
        r"
expect('Your browser has been asked')
expect('paste that address here:')
seen = passed + seen
back = consented()
import urllib.request
assert b'Signed in' in urllib.request.urlopen(back).read()
expect('signed in as')
assert end() == 0, seen
",
    );
}

/// A program that reads from a terminal in its background is stopped.
#[test]
fn in_the_background_a_sign_in_leaves_the_terminal_to_the_shell() {
    let sandbox = Sandbox::new();
    sandbox.configure_login("");
    at_terminal(
        &sandbox,
        &["/bin/bash", "--norc", "--noediting", "-i"],
        r#"
expect('PROMPT ')
send('"$VALETKEY" login &\n')
expect('Your browser has been asked')
expect('paste that address here:')
seen = passed + seen
back = consented()
for word in 'one', 'two', 'three':
    send(f'echo {word}$((1 + 1))\n')
    expect(f'{word}2')
send('jobs\n')
expect('Running')
import urllib.request
assert b'Signed in' in urllib.request.urlopen(back).read()
expect('signed in as')
send('exit\n')
end()
"#,
    );
    assert_eq!(logins(&sandbox).len(), 1);
}

/// Nobody is asked to stop a sign-in that waits: a signal ends it as before.
#[test]
fn a_sign_in_that_refused_somebody_can_be_ended() {
    if !is_root() {
        return;
    }
    let Waiting { sandbox, it, back } = Waiting::new();
    let target = &back[back.find("/callback").unwrap()..];
    heard_by(1_000, &sandbox, it.port(), &request(it.port(), target, ""));
    it.signal(Signal::TERM);
    assert_eq!(it.end(&sandbox).code, None);
    assert!(logins(&sandbox).is_empty());
}
