//! On Google's machines a step that has a network reaches the metadata server itself, and no socket of ours is between
//! them. What keeps it from there is measured here, with a server at that very address: in a network of this test's own,
//! since a real one must be neither asked nor hidden.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::engine::{Engine, PATIENCE, Release};
use super::harness::Sandbox;
use super::prepared;
use super::process::run;
use super::readme::{Chapter, scene};
use super::scene::{repository, step, told_once};

const TOKEN: &str = "not-a-token-but-what-a-machine-would-give";
const INSIDE: &str = "VALETKEY_TEST_AT_GOOGLE";

#[test]
fn a_step_with_a_network_gets_the_machine_s_token_and_the_printed_remedies_keep_it_away() {
    if !prepared::is_root() || prepared::static_program().is_none() {
        return;
    }
    if prepared::find("installed/dockerd").is_none() {
        return;
    }
    if Command::new("iptables").arg("--version").output().is_err() {
        return prepared::skip("there is no iptables");
    }
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "metadata::at_google", "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .process_group(0);
    let run = run(&mut command, PATIENCE * 2);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("1 passed"), "{run:?}");
}

/// The server is beyond a link, as on such a machine: what containers send there is forwarded.
const NETWORK: &str = "\
    ip link set lo up
    ip link add vkgoogle type veth peer name vkbeyond
    ip link set vkbeyond netns $1
    ip address add 192.0.2.1/24 dev vkgoogle; ip link set vkgoogle up
    nsenter --target $1 --net sh -ec 'ip link set lo up; ip address add 192.0.2.2/24 dev vkbeyond
        ip address add 169.254.169.254/32 dev lo; ip link set vkbeyond up; ip route add default via 192.0.2.1'
    ip route add 169.254.169.254/32 via 192.0.2.2
    echo 1 >/proc/sys/net/ipv4/ip_forward";

/// A metadata server that gives a token; ends with the value.
fn serve(log: &Path) -> Child {
    let mut server = Command::new("unshare")
        .args(["--net", "python3", "-c", include_str!("steps/metadata.py")])
        .arg(log)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Its network is there once it is another one than ours.
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    let number = server.id().to_string();
    Sandbox::wait_until("it has a network", || network(&number) != network("self"));
    let made = run(Command::new("sh").args(["-ec", NETWORK, "sh", &number]), PATIENCE);
    assert_eq!(made.code, Some(0), "{made:?}");
    server.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let mut said = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "ready\n");
    server
}

/// What runs in that network.
#[test]
#[ignore = "started by the other one, in a network of its own"]
fn at_google() {
    assert!(std::env::var_os(INSIDE).is_some());
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("asked");
    let asked = || fs::read_to_string(&log).unwrap_or_default().lines().count();
    let mut server = serve(&log);
    let engine = Engine::of(Release::Installed).unwrap();
    engine.valetkey();
    let scene = scene();
    // `docker args` says so, once, and what to do.
    let said = run(
        &mut engine.shell(
            &scene.sandbox,
            &format!("valetkey docker args {}", repository(&scene.sandbox, "private")),
        ),
        PATIENCE,
    );
    assert_eq!(said.stderr.matches("Google's metadata server").count(), 1, "{said:?}");
    for remedy in ["--network=none", "keep containers from 169.254.169.254"] {
        assert!(said.stderr.contains(remedy), "{said:?}");
    }
    assert_eq!(asked(), 0, "it takes nothing there");
    let flags: Vec<String> = said.stdout.split_whitespace().map(str::to_owned).collect();
    let inside = step("valetkey exec -- python3 /ask.py");
    let text = format!("FROM {}\nCOPY ask.py /\n{inside}", engine.base());
    let context = [("ask.py", &include_bytes!("steps/ask_metadata.py")[..])];
    let build = |more: &[&str]| {
        let before = asked();
        let more = more.iter().chain(&["--no-cache"]).map(|flag| (*flag).to_owned());
        let built = engine.build(&text, &context, &flags.iter().cloned().chain(more).collect::<Vec<_>>());
        built.assert_success();
        let came = told_once(&built, "token").contains(TOKEN);
        assert_eq!(came, asked() > before, "{}", built.log);
        came
    };
    assert!(build(&[]), "a step with a network gets it");
    assert!(!build(&["--network=none"]), "one without does not");
    let firewall = |act: &str| {
        let rule = Chapter::read().command("iptables -I DOCKER-USER");
        // This engine, which shares a machine with others, keeps no chain of its own there.
        let rule = rule.replace("-I DOCKER-USER", &format!("{act} FORWARD"));
        let run = run(Command::new("sh").args(["-c", &rule]), PATIENCE);
        assert_eq!(run.code, Some(0), "{run:?}");
    };
    firewall("-I");
    assert!(!build(&[]), "behind the firewall's rule it does not");
    firewall("-D");
    assert!(build(&[]), "and it was the rule");
    // It ends by itself.
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
}
