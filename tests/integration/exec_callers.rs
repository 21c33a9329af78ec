//! Whom the forwarder of `valetkey exec` serves: its own user, in root's run whoever its command becomes, and nobody
//! else. Other users and user namespaces are real ones; without root (and outside CI) the tests say so and pass.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::exec::{HELD, Held, exec, said, shell, url, wire};
use super::harness::{Run, Sandbox, VALETKEY, is_ci};
use super::registry_daemon::RegistryDaemon;

const PAGE: &str = "/acme/private/simple/acme-hello/";
const SOMEBODY: u32 = 1234;
const OVERFLOW: u32 = 65_534;

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || !is_ci(), "CI runs this as root");
    if !root {
        println!("skipped: {test} needs root");
    }
    root
}

/// `valetkey exec` behind another program and its arguments.
fn exec_behind(sandbox: &Sandbox, daemon: &RegistryDaemon, before: &[&str], script: &str) -> Command {
    let mut command = sandbox.command(before[0]);
    wire(&mut command, sandbox, daemon);
    command.args(&before[1..]).arg(VALETKEY).args(["exec", "--", "sh", "-c", script]);
    command
}

/// What somebody of that uid, who is no part of the run, gets from its port.
fn ask_as(sandbox: &Sandbox, uid: u32, arguments: &[&str]) -> Run {
    let mut curl = sandbox.command("/usr/bin/curl");
    sandbox.run(curl.arg("-sS").args(arguments).current_dir("/").uid(uid).gid(uid))
}

fn index_of(held: &Held) -> String {
    format!("http://127.0.0.1:{}/simple/acme-hello/", held.port)
}

#[test]
fn another_user_is_refused_with_a_sentence_that_arrives_whole() {
    if !is_root("another_user_is_refused_with_a_sentence_that_arrives_whole") {
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let told = sandbox.path("told");
    let mut command = exec(&sandbox, &daemon, ["--", "sh", "-c", HELD]);
    let held = Held::start_with(&mut command, fs::File::create(&told).unwrap().into());
    let (index, proxy) = (index_of(&held), format!("http://127.0.0.1:{}", held.port));
    let sentence = "this valetkey serves root and what its own command starts; this connection is of uid";
    for uid in [SOMEBODY, OVERFLOW] {
        // A request with a body, too: one that is cut in the middle hears nothing.
        for arguments in [&[index.as_str()][..], &["--data-binary", "@/usr/bin/curl", &index]] {
            let run = ask_as(&sandbox, uid, arguments);
            assert!(run.stdout.starts_with(&format!("{sentence} {uid}")), "{run:?}");
            assert!(run.stdout.contains("run `valetkey exec` as the user who asks"), "{run:?}");
        }
        // A granted host and one that is only passed through.
        let other = format!("https://127.0.0.1:{}{PAGE}", sandbox.google.port());
        for to in [url(&daemon, PAGE), other] {
            let run = ask_as(&sandbox, uid, &["-k", "--noproxy", "", "-x", &proxy, &to]);
            assert!(run.stderr.contains("403"), "{run:?}");
            assert!(!run.stderr.contains("reset"), "{run:?}");
        }
    }
    assert!(daemon.seen().is_empty());
    assert!(ask_as(&sandbox, 0, &[&index]).stdout.contains("Links for acme-hello"));
    drop(held);
    let told = fs::read_to_string(told).unwrap();
    assert_eq!(told.matches(&format!("valetkey: {sentence} ")).count(), 2, "{told}");
}

#[test]
fn a_crowd_of_strangers_keeps_nobody_out() {
    if !is_root("a_crowd_of_strangers_keeps_nobody_out") {
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let held = Held::start(&sandbox, &daemon);
    // More silent connections than the run has room for.
    let script = "import socket, sys, time\n\
        held = [socket.create_connection(('127.0.0.1', int(sys.argv[1]))) for _ in range(600)]\n\
        print('held', flush=True)\nsys.stdin.read()";
    let mut crowd = sandbox.command("/usr/bin/python3");
    crowd.args(["-c", script, &held.port.to_string()]).current_dir("/").uid(SOMEBODY).gid(SOMEBODY);
    let mut crowd = crowd.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut word = [0; 5];
    crowd.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
    assert!(ask_as(&sandbox, 0, &[&index_of(&held)]).stdout.contains("Links for acme-hello"));
    drop(crowd.stdin.take());
    crowd.wait().unwrap();
}

#[test]
fn root_serves_whoever_its_command_becomes() {
    if !is_root("root_serves_whoever_its_command_becomes") {
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let page = url(&daemon, PAGE);
    let other = format!("https://127.0.0.1:{}{PAGE}", sandbox.google.port());
    let get = format!("curl -sS {page}");
    let pass = format!("NO_PROXY= no_proxy= curl -sSk -o /dev/null -w '%{{http_code}}' {other}");
    let out = sandbox.path("tmp/out");
    fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(sandbox.path("tmp"), fs::Permissions::from_mode(0o777)).unwrap();
    for become_somebody in [
        "setpriv --reuid 1234 --regid 1234 --clear-groups",
        "setpriv --ruid 1234 --euid 1234 --clear-groups",
        "setpriv --reuid 65534 --clear-groups",
        "su -s /bin/sh nobody -c",
        "python3 -c 'import os, sys; os.setgid(1234); os.setuid(1234); os.execvp(\"sh\", [\"sh\", \"-c\", sys.argv[1]])'",
    ] {
        let become_somebody = if become_somebody.starts_with("setpriv") {
            format!("{become_somebody} sh -c")
        } else {
            become_somebody.to_owned()
        };
        for umask in ["022", "077"] {
            let script = format!("cd /; umask {umask}; {become_somebody} \"{get}\"");
            let run = shell(&sandbox, &daemon, &script);
            assert!(run.stdout.contains("Links for acme-hello"), "{script}: {run:?}");
            assert_eq!(said(&run), "", "{script}");
        }
        let run = shell(&sandbox, &daemon, &format!("cd /; {become_somebody} \"{pass}\""));
        assert_eq!(run.stdout, "401", "{become_somebody}: {run:?}");
    }
    // One that has left its parents, its session and its terminal.
    let away = format!(
        "cd /; (setsid setpriv --reuid 1234 --regid 1234 --clear-groups sh -c \"{get} > {0}.new; mv {0}.new {0}\" &) ; \
         for i in $(seq 2000); do test -e {0} && exit; sleep 0.01; done",
        out.display()
    );
    let run = shell(&sandbox, &daemon, &away);
    assert!(fs::read_to_string(&out).unwrap_or_default().contains("Links for acme-hello"), "{run:?}");
}

/// apt downloads as `_apt`, which has no way to what is root's.
#[test]
fn the_real_apt_is_served_as_its_own_user() {
    if !is_root("the_real_apt_is_served_as_its_own_user") || !fs::exists("/usr/bin/apt-get").unwrap() {
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    sandbox.write("apt/list", &format!("deb [trusted=yes] {} main main\n", url(&daemon, "/acme/apt")));
    for below in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(sandbox.path("apt").join(below)).unwrap();
    }
    fs::set_permissions(sandbox.path(""), fs::Permissions::from_mode(0o711)).unwrap();
    for below in ["apt/state/lists/partial", "apt/cache/archives/partial"] {
        std::os::unix::fs::chown(sandbox.path(below), Some(apt_uid()), None).unwrap();
    }
    let top = sandbox.path("apt");
    let top = top.display();
    let script = format!(
        "apt-get update -o Dir::Etc::SourceList={top}/list -o Dir::Etc::SourceParts=/dev/null -o Dir::State={top}/state \
         -o Dir::Cache={top}/cache -o APT::Sandbox::User=_apt -o Acquire::https::Proxy=$HTTPS_PROXY \
         -o Acquire::https::CaInfo=$SSL_CERT_FILE -o Acquire::Retries=0; true"
    );
    let mut command = exec(&sandbox, &daemon, ["--", "sh", "-c", &script]);
    let run = sandbox.run(command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
    let seen = daemon.seen();
    assert!(seen.iter().any(|seen| seen.target.contains("/acme/apt/dists/main/InRelease")), "{run:?}");
    assert!(
        !run.stdout.contains("Could not load certificates") && !run.stderr.contains("this valetkey serves"),
        "{run:?}"
    );
}

fn apt_uid() -> u32 {
    let table = fs::read_to_string("/etc/passwd").unwrap();
    let line = table.lines().find(|line| line.starts_with("_apt:")).unwrap();
    line.split(':').nth(2).unwrap().parse().unwrap()
}

/// A program that has given up its rights itself is no longer open to those without the right to look at every process.
#[test]
fn a_process_that_root_may_not_look_at_is_served_only_apart_from_the_hosts_network() {
    if !is_root("a_process_that_root_may_not_look_at_is_served_only_apart_from_the_hosts_network") {
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let script = "import os, sys, urllib.request\n\
        os.setgid(1234); os.setuid(1234)\n\
        try:\n    print(urllib.request.urlopen(sys.argv[1]).read().decode())\n\
        except urllib.error.HTTPError as error:\n    print(error.read().decode())";
    let program = sandbox.write("home/drop.py", script);
    let run = format!("python3 {} http://${{HTTPS_PROXY#http://}}/simple/acme-hello/", program.display());
    let weak = ["setpriv", "--bounding-set", "-sys_ptrace"];
    let here = std::path::Path::new("/proc/sys/net/core/netdev_max_backlog").exists();
    let ran = sandbox.run(&mut exec_behind(&sandbox, &daemon, &weak, &run));
    if here {
        assert!(
            ran.stdout.contains("uid 1234 is one of this command's, but on the host's network"),
            "{ran:?}"
        );
    } else {
        assert!(ran.stdout.contains("Links for acme-hello"), "{ran:?}");
    }
    let apart = [
        "unshare",
        "-n",
        "sh",
        "-c",
        "ip link set lo up && exec setpriv --bounding-set -sys_ptrace \"$@\"",
        "sh",
    ];
    let ran = sandbox.run(&mut exec_behind(&sandbox, &daemon, &apart, &run));
    assert!(ran.stdout.contains("Links for acme-hello"), "{ran:?}");
}

/// As a rootless container is: root and some others have numbers there, and the rest of the machine has none.
#[test]
fn root_of_a_user_namespace_serves_whoever_its_command_becomes_there() {
    if !is_root("root_of_a_user_namespace_serves_whoever_its_command_becomes_there") {
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let script = "import ctypes, os, sys\n\
        made, mapped = os.pipe(), os.pipe()\n\
        child = os.fork()\n\
        if child == 0:\n\
        \x20   assert ctypes.CDLL(None).unshare(0x10000000) == 0\n\
        \x20   os.write(made[1], b'x')\n\
        \x20   os.read(mapped[0], 1)\n\
        \x20   os.execvp(sys.argv[1], sys.argv[1:])\n\
        os.read(made[0], 1)\n\
        for name in 'uid_map', 'gid_map':\n\
        \x20   open(f'/proc/{child}/{name}', 'w').write('0 0 2000')\n\
        os.write(mapped[1], b'x')\n\
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))";
    let program = sandbox.write("home/mapped.py", script);
    let before = ["/usr/bin/python3", program.to_str().unwrap()];
    let become_somebody = format!("setpriv --reuid {SOMEBODY} --regid {SOMEBODY} --clear-groups");
    let page = url(&daemon, PAGE);
    let own = format!("cd /; id -u; {become_somebody} sh -c 'id -u; curl -sS {page}'");
    let run = sandbox.run(&mut exec_behind(&sandbox, &daemon, &before, &own));
    assert!(run.stdout.starts_with("0\n1234\n") && run.stdout.contains("Links for acme-hello"), "{run:?}");
    let script = format!("cd /; exec {become_somebody} sh -c '{HELD}'");
    let held = Held::start_with(&mut exec_behind(&sandbox, &daemon, &before, &script), Stdio::null());
    for (uid, said) in [(SOMEBODY, "this connection is of uid 1234"), (5000, "which may be anybody")] {
        let run = ask_as(&sandbox, uid, &[&index_of(&held)]);
        assert!(run.stdout.contains(said), "{uid}: {run:?}");
    }
}

#[test]
fn a_stranger_of_the_same_uid_as_a_child_of_roots_is_refused() {
    if !is_root("a_stranger_of_the_same_uid_as_a_child_of_roots_is_refused") {
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let script =
        format!("cd /; exec setpriv --reuid {SOMEBODY} --regid {SOMEBODY} --clear-groups sh -c '{HELD}'");
    let held = Held::start_with(&mut exec(&sandbox, &daemon, ["--", "sh", "-c", &script]), Stdio::null());
    let run = ask_as(&sandbox, SOMEBODY, &[&index_of(&held)]);
    assert!(run.stdout.contains(&format!("this connection is of uid {SOMEBODY}")), "{run:?}");
    assert!(daemon.seen().is_empty());
}

#[test]
fn the_certificates_of_roots_run_can_be_read_and_nothing_else_found() {
    if !is_root("the_certificates_of_roots_run_can_be_read_and_nothing_else_found") {
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let with_key = fs::read_to_string(sandbox.path("ca.pem")).unwrap()
        + "-----BEGIN PRIVATE KEY-----\nbm90IGEga2V5\n-----END PRIVATE KEY-----\n";
    let with_key = sandbox.write("home/with-key.pem", &with_key);
    let script = format!("umask 077; {HELD}");
    let mut command = exec(&sandbox, &daemon, ["--", "sh", "-c", &script]);
    let held = Held::start_with(command.env("SSL_CERT_FILE", with_key), Stdio::null());
    let as_somebody = |program: &str| {
        let mut command = sandbox.command("/bin/sh");
        sandbox.run(
            command
                .args(["-c", program])
                .current_dir("/")
                .env("PATH", "/usr/bin:/bin")
                .uid(SOMEBODY)
                .gid(SOMEBODY),
        )
    };
    let place = held.place.display();
    assert_ne!(as_somebody(&format!("ls {place}")).code, Some(0));
    for number in 0..2 {
        let run = as_somebody(&format!("cat {place}/ca-{number}.pem"));
        assert!(
            run.stdout.contains("BEGIN CERTIFICATE") && !run.stdout.contains("PRIVATE"),
            "ca-{number}.pem"
        );
    }
    assert_ne!(as_somebody(&format!("touch {place}/x")).code, Some(0));
}

#[test]
fn the_overflow_uid_of_a_user_namespace_is_believed_of_the_runs_own_processes_alone() {
    if !is_root("the_overflow_uid_of_a_user_namespace_is_believed_of_the_runs_own_processes_alone") {
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let page = url(&daemon, PAGE);
    for before in [&["unshare", "--user"][..], &["unshare", "--user", "--map-user=65534"]] {
        let own = format!("id -u; curl -sS {page}");
        let run = sandbox.run(&mut exec_behind(&sandbox, &daemon, before, &own));
        assert!(run.stdout.starts_with("65534\n") && run.stdout.contains("Links for acme-hello"), "{run:?}");
        let seen = daemon.seen().len();
        let mut command = exec_behind(&sandbox, &daemon, before, HELD);
        let held = Held::start_with(&mut command, Stdio::null());
        for uid in [SOMEBODY, OVERFLOW, 1] {
            let run = ask_as(&sandbox, uid, &[&index_of(&held)]);
            let said = "uid 65534, which may be anybody who has no number in this user namespace";
            assert!(run.stdout.contains(said), "{uid}: {run:?}");
            let proxy = format!("http://127.0.0.1:{}", held.port);
            let run = ask_as(&sandbox, uid, &["-k", "--noproxy", "", "-x", &proxy, &page]);
            assert!(run.stderr.contains("403"), "{uid}: {run:?}");
        }
        assert_eq!(daemon.seen().len(), seen);
    }
    // With a number of its own it is one user, and whoever has none is another.
    let mapped = ["unshare", "--user", "--map-root-user"];
    let mut command = exec_behind(&sandbox, &daemon, &mapped, HELD);
    let held = Held::start_with(&mut command, Stdio::null());
    let run = ask_as(&sandbox, SOMEBODY, &[&index_of(&held)]);
    assert!(run.stdout.contains("which may be anybody"), "{run:?}");
    // The nobody of a machine where everybody has a number is one user like any other.
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    for below in ["", "home", "bin"] {
        fs::set_permissions(sandbox.path(below), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&daemon.socket, fs::Permissions::from_mode(0o666)).unwrap();
    let program = sandbox.copy(VALETKEY, "bin/copy");
    let mut command = sandbox.command(nobody[0]);
    wire(&mut command, &sandbox, &daemon);
    command
        .args(&nobody[1..])
        .arg(program)
        .args(["exec", "--", "sh", "-c", HELD])
        .env("HOME", "/")
        .current_dir("/");
    let held = Held::start_with(&mut command, Stdio::null());
    assert!(ask_as(&sandbox, OVERFLOW, &[&index_of(&held)]).stdout.contains("Links for acme-hello"));
    let run = ask_as(&sandbox, SOMEBODY, &[&index_of(&held)]);
    assert!(
        run.stdout
            .starts_with("this valetkey serves the user who started it; this connection is of uid 1234"),
        "{run:?}"
    );
}

/// A connection that is told why, as far as something comes.
fn hear(port: u16, message: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(8))).unwrap();
    let mut answer = vec![0; 4096];
    let _ = stream.write_all(message.as_bytes());
    let read = stream.read(&mut answer).unwrap_or(0);
    answer.truncate(read);
    (stream, String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn without_descriptors_nobody_is_told_that_he_is_another_user() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let few = ["sh", "-c", "ulimit -n 24; exec \"$@\"", "sh"];
    let told = sandbox.path("told");
    let mut command = exec_behind(&sandbox, &daemon, &few, HELD);
    let held = Held::start_with(&mut command, fs::File::create(&told).unwrap().into());
    let message = format!("GET /simple/acme-hello/ HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n", held.port);
    let mut open = Vec::new();
    let mut heard = Vec::new();
    // Each keeps its connection, until there is no descriptor left to look with.
    while heard.iter().all(|answer: &String| !answer.starts_with("HTTP/1.1 500")) && open.len() < 24 {
        let (stream, answer) = hear(held.port, &message);
        open.push(stream);
        heard.push(answer);
    }
    assert!(heard[0].starts_with("HTTP/1.1 200"), "{heard:?}");
    for answer in &heard {
        // The number may stand in a port or a hash of the page.
        let is_refused = answer.starts_with("HTTP/1.1 403");
        assert!(!answer.contains("this valetkey serves") && !is_refused, "{answer}");
    }
    let said = "cannot see whose connection this is: cannot read /proc/net/tcp";
    let last = heard.last().unwrap();
    assert!(last.contains(said) && last.contains("ulimit -n"), "{heard:?}");
    drop(open);
    Sandbox::wait_until("descriptors come back", || hear(held.port, &message).1.starts_with("HTTP/1.1 200"));
    drop(held);
    assert!(fs::read_to_string(told).unwrap().contains(said));
}

#[test]
fn the_limit_of_open_files_is_raised_for_the_run_and_not_for_its_command() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let few = ["sh", "-c", "ulimit -Sn 40; exec \"$@\"", "sh"];
    let run = sandbox.run(&mut exec_behind(
        &sandbox,
        &daemon,
        &few,
        "ulimit -Sn; grep 'Max open files' /proc/$PPID/limits",
    ));
    let mut words = run.stdout.split_whitespace();
    assert_eq!(words.next(), Some("40"), "{run:?}");
    let numbers: Vec<&str> = words.filter(|word| word.chars().all(|c| c.is_ascii_digit())).collect();
    assert!(numbers.len() == 2 && numbers[0] == numbers[1] && numbers[0] != "40", "{run:?}");
}

#[test]
fn where_proc_is_hidden_that_is_what_is_said() {
    if !is_root("where_proc_is_hidden_that_is_what_is_said") {
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let hidden = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /proc && exec \"$@\"", "sh"];
    let script = "curl -sS http://${HTTPS_PROXY#http://}/simple/acme-hello/";
    let run = sandbox.run(&mut exec_behind(&sandbox, &daemon, &hidden, script));
    assert!(
        run.stdout.contains("cannot read /proc/net/tcp") && run.stdout.contains("mount /proc"),
        "{run:?}"
    );
    assert!(!run.stdout.contains("this valetkey serves"), "{run:?}");
}

/// What the user who started it keeps for himself is not in the way of the others.
#[test]
fn a_private_wgetrc_of_roots_keeps_nobody_from_wget_and_is_read_by_root_alone() {
    if !is_root("a_private_wgetrc_of_roots_keeps_nobody_from_wget_and_is_read_by_root_alone") {
        return;
    }
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    sandbox.write("home/.wgetrc", "header = X-Own: hunter2\n");
    let get = format!("wget -qO /dev/null --tries=1 {}", url(&daemon, PAGE));
    let become_somebody = format!("setpriv --reuid {SOMEBODY} --regid {SOMEBODY} --clear-groups");
    let script = format!(
        "cd /; {get}; echo $?; {become_somebody} {get}; echo $?; {become_somebody} cat $WGETRC | grep -c hunter2; \
         {become_somebody} cat $SYSTEM_WGETRC 2>&1 | grep -c hunter2"
    );
    let run = sandbox.run(&mut exec(&sandbox, &daemon, ["--", "sh", "-c", &script]));
    assert_eq!(run.stdout, "0\n0\n0\n0\n", "{run:?}");
    let with_own: Vec<bool> =
        daemon.seen().iter().map(|request| request.headers.contains_key("x-own")).collect();
    assert_eq!(with_own, [true, false]);
}
