//! `valetkey exec` at a terminal, and as the first process of a container. Python drives the terminal: it is on every
//! machine that needs us, and has one in its library.

use std::io::Write;
use std::process::{Command, Stdio};

use super::exec::wire;
use super::harness::{Run, Sandbox, VALETKEY};
use super::registry_daemon::RegistryDaemon;

/// Runs a program at a terminal of its own. `script` is Python with `expect(text)`, `send(text)`, `end()`.
fn at_terminal(sandbox: &Sandbox, daemon: &RegistryDaemon, words: &[&str], script: &str) -> Run {
    let program = format!("{DRIVER}\nstart({words:?})\n{script}\n");
    let mut command = sandbox.command("/usr/bin/python3");
    wire(&mut command, sandbox, daemon);
    command.args(["-c", &program]).env("TERM", "dumb").env("PS1", "PROMPT ").env("VALETKEY", VALETKEY);
    let run = sandbox.run(&mut command);
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    run
}

pub(super) const DRIVER: &str = r#"
import os, pty, select, signal, sys, time
seen = ""
def start(words):
    global pid, terminal
    pid, terminal = pty.fork()
    if pid == 0:
        # What runs in the background ignores them, and a terminal's programs would inherit that.
        for ignored in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(ignored, signal.SIG_DFL)
        os.execvp(words[0], words)
def expect(text):
    global passed, seen
    limit = time.monotonic() + 15
    while text not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0, limit - time.monotonic()))
        if not ready:
            sys.exit(f"{text!r} did not come; there is {seen!r}")
        try:
            data = os.read(terminal, 4096)
        except OSError:
            data = b""
        if not data:
            sys.exit(f"it ended before {text!r}; there is {seen!r}")
        seen += data.decode()
    end = seen.index(text) + len(text)
    passed, seen = seen[:end], seen[end:]
def send(text):
    os.write(terminal, text.encode())
def foreground(name):
    # The group alone changes before its leader has become that program.
    limit = time.monotonic() + 15
    while True:
        try:
            with open(f"/proc/{os.tcgetpgrp(terminal)}/comm") as file:
                if file.read().strip() == name:
                    return
        except OSError:
            pass
        if time.monotonic() > limit:
            sys.exit(f"{name} does not come to the foreground; there is {seen!r}")
        time.sleep(0.005)
def end():
    global seen
    limit = time.monotonic() + 15
    while True:
        ready, _, _ = select.select([terminal], [], [], max(0, limit - time.monotonic()))
        if not ready:
            sys.exit(f"it does not end; there is {seen!r}")
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        if not data:
            break
        seen += data.decode()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"#;

/// Says what it hears. Once for each ctrl-C: a second one would be ours, passed on beside the terminal's.
const LISTENER: &str = "import os, signal, sys, time
count = [0]
def heard(number, frame):
    count[0] += 1
    os.write(1, f'heard {signal.Signals(number).name} {count[0]}\\n'.encode())
signal.signal(signal.SIGINT, heard)
signal.signal(signal.SIGWINCH, heard)
print('ready', flush=True)
end = time.monotonic() + 10
while time.monotonic() < end:
    if sys.stdin.readline().strip() == 'stop':
        print('total', count[0], flush=True)
        sys.exit(count[0])";

#[test]
fn ctrl_c_and_a_new_size_are_heard_once() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let listener = sandbox.write("home/listener.py", LISTENER);
    let words = [VALETKEY, "exec", "--", "/usr/bin/python3", listener.to_str().unwrap()];
    let script = r"
import fcntl, struct, termios
expect('ready'); send('\x03'); expect('heard SIGINT 1')
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 50, 100, 0, 0)); expect('heard SIGWINCH 2')
send('stop\n'); expect('total 2')
assert end() == 2";
    at_terminal(&sandbox, &daemon, &words, script);
}

#[test]
fn a_shell_inside_has_job_control_of_its_own() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let words = [VALETKEY, "exec", "--", "bash", "--norc", "--noprofile", "-i"];
    let script = r"
expect('PROMPT ')
send('sleep 100\n'); foreground('sleep'); send('\x03'); expect('PROMPT '); foreground('bash')
send('sleep 100\n'); foreground('sleep'); send('\x1a'); expect('Stopped'); expect('PROMPT '); foreground('bash')
send('fg\n'); foreground('sleep'); send('\x03'); expect('PROMPT '); foreground('bash'); send('exit 5\n')
assert end() == 5";
    at_terminal(&sandbox, &daemon, &words, script);
}

#[test]
fn a_shell_outside_can_stop_and_continue_it() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let words = ["bash", "--norc", "--noprofile", "-i"];
    // By the terminal, both at once; and a command that stops itself alone.
    sandbox.write("home/one", "echo begin; sleep 0.5; echo end");
    sandbox.write("home/two", "echo begin; kill -STOP $$; echo woke; exit 4");
    let script = r#"
expect('PROMPT '); send('"$VALETKEY" exec -- sh one\n'); expect('begin'); send('\x1a')
expect('Stopped'); expect('PROMPT '); send('fg\n'); expect('end'); expect('PROMPT ')
send('"$VALETKEY" exec -- sh two\n'); expect('begin'); expect('Stopped')
expect('PROMPT '); send('fg\n'); expect('woke'); expect('PROMPT '); send('echo code-$?\n'); expect('code-4')
expect('PROMPT '); send('exit\n'); end()"#;
    at_terminal(&sandbox, &daemon, &words, script);
}

#[test]
fn it_is_one_of_a_pipeline() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let words = ["bash", "--norc", "--noprofile", "-i"];
    let script = r#"
expect('PROMPT '); send('"$VALETKEY" exec -- echo pip""ed | cat; echo codes-${PIPESTATUS[*]}\n'); expect('piped')
expect('codes-0 0'); send('exit\n'); end()"#;
    at_terminal(&sandbox, &daemon, &words, script);
}

/// A shell in a process namespace of its own, where valetkey is the first process.
fn first_process(sandbox: &Sandbox, daemon: &RegistryDaemon, script: &str) -> Option<Command> {
    let unshare = |command: &mut Command| {
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    };
    let mut probe = Command::new("/usr/bin/unshare");
    unshare(&mut probe);
    if !probe.arg("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        assert!(!super::harness::is_ci(), "CI can make a process namespace");
        println!("skipped: no process namespace can be made");
        return None;
    }
    let mut command = sandbox.command("/usr/bin/unshare");
    wire(&mut command, sandbox, daemon);
    unshare(&mut command);
    command.args([VALETKEY, "exec", "--", "sh", "-c", script]);
    Some(command)
}

#[test]
fn as_the_first_process_it_takes_leave_of_orphans() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    // Each inner shell leaves a child behind, which ends later and is ours then.
    let script = "for i in 1 2 3 4 5; do sh -c 'sleep 0.05 & echo $! >>orphans'; done
        for i in $(seq 200); do
            left=0; for pid in $(cat orphans); do [ -e /proc/$pid ] && left=1; done
            [ $left = 0 ] && break; sleep 0.05
        done
        echo left $left; exit 9";
    let Some(mut command) = first_process(&sandbox, &daemon, script) else { return };
    let run = sandbox.run(&mut command);
    assert_eq!((run.code, run.stdout.as_str()), (Some(9), "left 0\n"), "{run:?}");
}

#[test]
fn as_the_first_process_it_passes_signals_on() {
    let sandbox = Sandbox::new();
    let daemon = RegistryDaemon::start(&sandbox);
    let script = "trap 'echo ended; exit 3' TERM; kill -TERM 1; while :; do sleep 0.02; done";
    let Some(mut command) = first_process(&sandbox, &daemon, script) else { return };
    let run = sandbox.run(&mut command);
    assert_eq!((run.code, run.stdout.as_str()), (Some(3), "ended\n"), "{run:?}");
    let _ = std::io::stdout().flush();
}
