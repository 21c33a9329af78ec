//! `valetkey docker image` at the command line: what it refuses, and what it says. Engines load it in `tests/docker`.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::harness::{Run, Sandbox, VALETKEY};

/// The smallest program that has all that is looked at: one loaded segment of nothing, on this machine.
fn program(sandbox: &Sandbox, machine: u16) -> PathBuf {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([2_u16, machine].map(u16::to_le_bytes).concat());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend([0_u64, 64, 0].map(u64::to_le_bytes).concat());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend([64_u16, 56, 1, 64, 0, 0].map(u16::to_le_bytes).concat());
    bytes.extend([1_u32, 4].map(u32::to_le_bytes).concat());
    bytes.extend([0_u64; 6].map(u64::to_le_bytes).concat());
    let path = sandbox.path("program");
    fs::write(&path, bytes).unwrap();
    path
}

fn image(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    sandbox.run(sandbox.valetkey().args(["docker", "image"]).args(arguments))
}

#[track_caller]
fn assert_refuses(run: &Run, code: i32, words: &[&str]) {
    assert_eq!((run.code, run.stdout.as_str()), (Some(code), ""), "{run:?}");
    for word in words {
        assert!(run.stderr.contains(word), "{word:?} is not in {run:?}");
    }
}

#[test]
fn an_image_is_made_for_the_machine_of_the_program() {
    let sandbox = Sandbox::new();
    for (machine, architecture, other) in [(62, "amd64", "arm64"), (183, "arm64", "amd64")] {
        let program = program(&sandbox, machine).display().to_string();
        let platform = format!("linux/{architecture}");
        for arguments in [vec!["--binary", &program], vec!["--binary", &program, "--platform", &platform]] {
            let output = sandbox.valetkey().args(["docker", "image"]).args(arguments).output().unwrap();
            assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(&format!("\"architecture\":\"{architecture}\"")), "{text}");
        }
        let other = format!("linux/{other}");
        let wrong = image(&sandbox, &["--binary", &program, "--platform", &other]);
        assert_refuses(&wrong, 2, &[&format!("is for {platform}, not for {other}"), "--binary"]);
    }
}

#[test]
fn a_program_that_is_not_static_is_refused_with_what_to_do() {
    let sandbox = Sandbox::new();
    // The build under test is an ordinary one.
    assert_refuses(
        &image(&sandbox, &[]),
        1,
        &["is not static: it needs the loader /lib", "packaging/build-static"],
    );
}

#[test]
fn what_is_no_program_is_refused() {
    let sandbox = Sandbox::new();
    let script = sandbox.script("script", "#!/bin/sh\n").display().to_string();
    assert_refuses(
        &image(&sandbox, &["--binary", &script]),
        2,
        &["is not a Linux program", "it is no ELF file"],
    );
    let directory = sandbox.path("").display().to_string();
    assert_refuses(&image(&sandbox, &["--binary", &directory]), 3, &["cannot read", "it is a directory"]);
    assert_refuses(&image(&sandbox, &["--binary", "/no/such/file"]), 3, &["cannot read /no/such/file"]);
    // Not a file that ends, nor one that begins.
    for endless in ["/dev/zero", &fifo(&sandbox)] {
        assert_refuses(&image(&sandbox, &["--binary", endless]), 3, &["it is not a regular file"]);
    }
    assert_refuses(&image(&sandbox, &["--platform", "linux/s390x"]), 2, &["linux/amd64 or linux/arm64"]);
}

fn fifo(sandbox: &Sandbox) -> String {
    let path = sandbox.path("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path.display().to_string()
}

#[test]
fn a_terminal_gets_no_image() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command("/usr/bin/script");
    command.args([
        "-qec",
        &format!("{VALETKEY} docker image 2>{}", sandbox.path("stderr").display()),
        "/dev/null",
    ]);
    let run = sandbox.run(command.stdin(Stdio::null()));
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{run:?}");
    let said = fs::read_to_string(sandbox.path("stderr")).unwrap();
    assert!(said.contains("not for a terminal") && said.contains("| docker load"), "{said}");
}

#[test]
fn a_full_disk_is_a_failure() {
    let sandbox = Sandbox::new();
    let program = program(&sandbox, 62);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = sandbox.valetkey();
    command.args(["docker", "image", "--binary"]).arg(program).stdout(full).stderr(Stdio::piped());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("cannot write the image"), "{said}");
}
