//! Hosts that are none of ours and cannot be reached from where a command runs: a step without network, a name server
//! that does not answer, a proxy that is not there. Each in namespaces of its own.

use std::fs;

use super::exec::wire;
use super::harness::{Run, Sandbox, is_ci};
use super::registry_daemon::RegistryDaemon;

/// What is connected to the machine that a command runs on.
enum Network {
    /// Loopback.
    None,
    /// A neighbour who never says a word.
    Silent,
}

/// Runs a script under `exec` in a network of its own, where `ask HOST` is one request to it that says what the client
/// says. A name server at 127.0.0.1 counts questions; it knows that there is no name that begins with `nowhere`, and says
/// nothing of any other. `None` where that takes more than this machine gives.
fn run(network: &Network, variables: &[(&str, &str)], script: &str) -> Option<(Run, usize)> {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    sandbox.write("home/resolv.conf", "nameserver 127.0.0.1\n");
    sandbox.write("home/hosts", "127.0.0.1 localhost near.test\n192.0.2.9 far-listed.test\n");
    let script = format!(
        "ask() {{ curl -sS -o /dev/null --max-time 60 https://$1/ 2>&1; }}\n{script}"
    );
    sandbox.write("home/script", &script);
    let links = match network {
        Network::None => "",
        Network::Silent => {
            "ip link add v0 type veth peer name v1; ip address add 192.0.2.1/24 dev v0; ip link set v0 up; \
             ip link set v1 up; ip route add default via 192.0.2.2;"
        }
    };
    let outside = format!(
        "set -e; ip link set lo up; {links} \
         mount --bind resolv.conf /etc/resolv.conf; mount --bind hosts /etc/hosts; \
         python3 server.py & server=$!; while ! [ -e ready ]; do sleep 0.01; done; \
         set +e; valetkey exec -- sh script; code=$?; kill $server; exit $code"
    );
    sandbox.write(
        "home/server.py",
        "import socket\n\
         server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         server.bind(('127.0.0.1', 53))\n\
         open('ready', 'w').close()\n\
         while True:\n\
         \x20   question, asker = server.recvfrom(4096)\n\
         \x20   open('questions', 'a').write('x')\n\
         \x20   if question[13:20] == b'nowhere':\n\
         \x20       end = question.index(b'\\0', 12) + 5\n\
         \x20       server.sendto(question[:2] + b'\\x81\\x83\\0\\1' + b'\\0' * 6 + question[12:end], asker)\n",
    );
    let mut command = sandbox.command("/usr/bin/unshare");
    command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", &outside]);
    wire(&mut command, &sandbox, &daemon);
    command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", sandbox.path("bin").display()));
    command.envs(variables.iter().copied());
    let run = sandbox.run(&mut command);
    if run.stderr.contains("unshare failed") || run.stderr.contains("Operation not permitted") {
        assert!(!is_ci(), "CI can make a network: {run:?}");
        println!("skipped: a network of one's own needs root");
        return None;
    }
    let questions = fs::read_to_string(sandbox.path("home/questions")).unwrap_or_default().len();
    Some((run, questions))
}

/// How often the person was told this.
fn told(run: &Run, text: &str) -> usize {
    run.stderr.lines().filter(|line| line.starts_with("valetkey: ") && line.contains(text)).count()
}

#[test]
fn a_step_without_network_is_told_so_at_once_and_no_name_is_looked_up() {
    let script = "ask files.test; ask files.test; ask other.test:8443; ask 192.0.2.7; ask '[2001:db8::1]'";
    let Some((run, questions)) = run(&Network::None, &[], script) else { return };
    assert_eq!(questions, 0, "{run:?}");
    for host in ["files.test:443", "other.test:8443", "192.0.2.7:443", "[2001:db8::1]:443"] {
        let sentence = format!("cannot reach {host}: there is no network here, only loopback; give this step");
        assert_eq!(told(&run, &sentence), 1, "{host}: {run:?}");
    }
    // The client hears the same from the proxy, with the status.
    assert_eq!(run.stdout.matches("502").count(), 5, "{run:?}");
}

#[test]
fn what_a_step_without_network_has_on_loopback_is_reached() {
    let listen = "import socket; server = socket.create_server(('127.0.0.1', 8443))\n\
                  open('listening', 'w').close()\nwhile True: server.accept()[0].close()\n";
    let script = format!(
        "export NO_PROXY= no_proxy=; python3 -c \"{listen}\" & server=$!; while ! [ -e listening ]; do sleep 0.01; done; \
         ask near.test:8443; ask localhost:8443; ask 127.0.0.1:8443; kill $server"
    );
    let Some((run, _)) = run(&Network::None, &[], &script) else { return };
    assert_eq!(told(&run, "cannot reach"), 0, "{run:?}");
    // The connection stood, and was closed there.
    assert!(run.stdout.lines().count() >= 3 && !run.stdout.contains("502"), "{run:?}");
}

#[test]
fn a_proxy_that_a_step_without_network_cannot_reach_is_named_without_its_password() {
    let proxy = [("HTTPS_PROXY", "http://me:hunter2@corp.test:3128")];
    let Some((run, questions)) = run(&Network::None, &proxy, "ask files.test") else { return };
    assert_eq!(questions, 0, "{run:?}");
    assert_eq!(told(&run, "cannot reach files.test:443 by the proxy corp.test:3128: there is no network"), 1, "{run:?}");
    assert!(!run.stderr.contains("hunter2") && !run.stdout.contains("hunter2"), "{run:?}");
}

#[test]
fn a_proxy_that_is_not_there_is_named() {
    let proxy = [("HTTPS_PROXY", "http://me:hunter2@127.0.0.1:9")];
    let Some((run, _)) = run(&Network::None, &proxy, "ask files.test; ask files.test") else { return };
    let sentence = "cannot reach files.test:443: the proxy 127.0.0.1:9: ";
    assert!(told(&run, sentence) == 1 && run.stderr.contains("refused"), "{run:?}");
    assert!(!run.stderr.contains("hunter2"), "{run:?}");
}

#[test]
fn a_name_server_that_does_not_answer_is_named_and_waited_for_once() {
    let script = "ask files.test; ask files.test; ask files.test";
    let Some((run, questions)) = run(&Network::Silent, &[], script) else { return };
    let sentence = "cannot reach files.test:443: no name server of /etc/resolv.conf answers; check the network";
    assert_eq!(told(&run, sentence), 1, "{run:?}");
    // The C library asks twice for each of two kinds of address, and later tries do not ask again.
    assert!((1..=4).contains(&questions), "{questions}: {run:?}");
}

#[test]
fn a_name_that_does_not_exist_is_told_as_that() {
    let script = "ask nowhere.test; ask nowhere.test:8443";
    let Some((run, questions)) = run(&Network::Silent, &[], script) else { return };
    for host in ["nowhere.test:443", "nowhere.test:8443"] {
        let sentence = format!("cannot reach {host}: failed to lookup address information: Name or service not known");
        assert_eq!(told(&run, &sentence), 1, "{run:?}");
    }
    assert!(questions >= 2, "{run:?}");
}

#[test]
fn pip_shows_the_reason_that_the_proxy_gives() {
    let script = "python3 - <<'END'\n\
        import http.client\n\
        import os\n\
        port = int(os.environ['HTTPS_PROXY'].rsplit(':', 1)[1])\n\
        connection = http.client.HTTPSConnection('127.0.0.1', port)\n\
        connection.set_tunnel('files.test', 443)\n\
        try:\n    connection.request('GET', '/')\n\
        except OSError as error:\n    print(error)\nEND\n";
    let Some((run, _)) = run(&Network::None, &[], script) else { return };
    // What Python's own client says is all that pip shows.
    let said = "Tunnel connection failed: 502 cannot reach files.test:443: there is no network here";
    assert!(run.stdout.contains(said), "{run:?}");
}
