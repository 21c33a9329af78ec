//! The rig itself: an engine goes when its test process goes, however that ends.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::engine::{Engine, PATIENCE, Release};
use super::prepared;

/// Not a test: an engine, and then nothing, until somebody kills this process.
#[test]
#[ignore = "started by an_engine_ends_with_its_test_process"]
fn an_engine_and_a_long_wait() {
    let engine = Engine::of(Release::Installed).unwrap();
    let mut sleeper = engine.docker(&["run", "--detach", engine.base(), "sleep", "600"]);
    assert!(sleeper.status().unwrap().success());
    fs::write(std::env::var_os("VALETKEY_TEST_READY").unwrap(), "").unwrap();
    std::thread::sleep(PATIENCE * 2);
}

#[test]
fn an_engine_ends_with_its_test_process() {
    if !prepared::is_root()
        || prepared::find("installed/dockerd").is_none()
        || prepared::static_program().is_none()
    {
        return;
    }
    let note = tempfile::tempdir().unwrap();
    let ready = note.path().join("ready");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "rig::an_engine_and_a_long_wait", "--nocapture"])
        .env("VALETKEY_TEST_READY", &ready)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let process = child.id();
    let left = |text: &str| leftovers(process).into_iter().filter(|it| it.contains(text)).count();
    let give_up = Instant::now() + PATIENCE;
    while !ready.exists() {
        if let Some(status) = child.try_wait().unwrap() {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("{status}: {said}");
        }
        assert!(Instant::now() < give_up, "no engine");
        std::thread::sleep(Duration::from_millis(20));
    }
    for there in
        ["process dockerd", "process containerd", "process containerd-shim", "mount", "file", "bridge"]
    {
        assert!(left(there) > 0, "{there} is not seen: {:?}", leftovers(process));
    }
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    let give_up = Instant::now() + PATIENCE;
    while !leftovers(process).is_empty() {
        assert!(Instant::now() < give_up, "still there: {:?}", leftovers(process));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What there is of the engines of a process: other processes, mounts, files, and the bridge.
fn leftovers(process: u32) -> Vec<String> {
    let marks = [format!("vk-engine-{process}-"), format!("run-{process}-")];
    let is_ours = |text: &str| marks.iter().any(|mark| text.contains(mark));
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if is_ours(&command) {
            let name = command.split(' ').next().unwrap_or_default();
            left.push(format!("process {}", Path::new(name).file_name().unwrap_or_default().display()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    left.extend(mounts.lines().filter(|line| is_ours(line)).map(|line| format!("mount {line}")));
    for directory in [std::env::temp_dir(), prepared::directory()] {
        let names =
            fs::read_dir(directory).unwrap().flatten().map(|entry| entry.file_name().display().to_string());
        left.extend(names.filter(|name| is_ours(name)).map(|name| format!("file {name}")));
    }
    let bridge = format!("vk{process}b0");
    if Path::new("/sys/class/net").join(&bridge).exists() {
        left.push(format!("bridge {bridge}"));
    }
    left
}
