//! Programs with a deadline. Engines start children that hold pipes open, so output goes to files, and what takes too
//! long is ended with its whole process group.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::harness::Run;

/// Runs a command to its end; panics with what it said if that does not come in time.
#[track_caller]
pub(crate) fn run(command: &mut Command, patience: Duration) -> Run {
    execute(command.stdin(Stdio::null()), patience, file(), file())
}

/// As [`run`], with the output of another program as its input: `first | second`.
#[track_caller]
pub(crate) fn run_pipe(first: &mut Command, second: &mut Command, patience: Duration) -> Run {
    let mut feeder = first.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a process");
    let run = execute(second.stdin(feeder.stdout.take().expect("a pipe")), patience, file(), file());
    // Nobody reads any more, so it ends.
    let status = feeder.wait().expect("a status");
    assert!(status.success() || run.code != Some(0), "{first:?} failed: {status}");
    run
}

/// As [`run`], with standard error in the place where it came: what a person would have seen.
#[track_caller]
pub(crate) fn run_together(command: &mut Command, patience: Duration) -> Run {
    let both = file();
    let run = execute(command.stdin(Stdio::null()), patience, both.try_clone().expect("a descriptor"), both);
    // They are one file, which was read twice.
    Run { stderr: String::new(), ..run }
}

#[track_caller]
fn execute(command: &mut Command, patience: Duration, mut stdout: File, mut stderr: File) -> Run {
    let start = Instant::now();
    let stream = |file: &File| Stdio::from(file.try_clone().expect("a descriptor"));
    let mut child = command
        .stdout(stream(&stdout))
        .stderr(stream(&stderr))
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let status = loop {
        if let Some(status) = child.try_wait().expect("a status") {
            break status;
        }
        if start.elapsed() > patience {
            end_group(&mut child);
            panic!("{command:?} hangs; it said:\n{}{}", read(&mut stdout), read(&mut stderr));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (stdout, stderr) = (read(&mut stdout), read(&mut stderr));
    Run { code: status.code(), status, stdout, stderr, took: start.elapsed() }
}

fn end_group(child: &mut Child) {
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.wait();
}

fn file() -> File {
    tempfile::tempfile().expect("a file without a name")
}

/// What builds print is shown as it is, whatever it is.
fn read(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("output");
    String::from_utf8_lossy(&bytes).into_owned()
}
