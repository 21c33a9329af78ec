//! A file system that does not answer: it is mounted, takes every question, and says nothing. Whoever waits for it in the
//! kernel can be woken by no signal, not even by the one that kills, until the file system is gone.
//!
//! Only the processes of one command see it: they have a mount namespace of their own.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::harness::{Sandbox, is_ci};

/// Answers with the value, and ends whoever waits at its end.
pub(crate) struct Silent {
    device: Option<File>,
    ended: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Silent {
    /// Nothing where this user may not mount one, which is a failure in CI.
    pub(crate) fn new() -> Option<Self> {
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a flag");
        let opened = OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open("/dev/fuse");
        let may = rustix::process::geteuid().is_root();
        let (Ok(device), true) = (opened, may) else {
            assert!(!is_ci(), "CI may mount a file system of its own");
            println!("skipped: no file system can be mounted here");
            return None;
        };
        let ended = Arc::new(AtomicBool::new(false));
        let (own, end) = (device.try_clone().expect("a descriptor"), Arc::clone(&ended));
        let server = Some(std::thread::spawn(move || serve(own, &end)));
        Some(Self { device: Some(device), ended, server })
    }

    /// A command that finds it in the place of this directory.
    pub(crate) fn under(&self, sandbox: &Sandbox, directory: &Path, command: &Command) -> Command {
        let mut inside = sandbox.command("/bin/sh");
        let device = self.device.as_ref().expect("it serves").try_clone().expect("a descriptor");
        inside.args(["-c", MOUNT, "sh"]).arg(directory).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside.stdin(device);
        inside
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        drop(self.device.take());
        let _ = self.server.take().expect("a thread").join();
    }
}

/// Answers that it is there, and nothing else.
fn serve(mut device: File, ended: &AtomicBool) {
    let mut question = vec![0; 1 << 17];
    while !ended.load(Ordering::Relaxed) {
        match device.read(&mut question) {
            Ok(read) if read >= 40 && question[4..8] == INIT.to_ne_bytes() => {
                let mut answer = Vec::new();
                answer.extend_from_slice(&80_u32.to_ne_bytes());
                answer.extend_from_slice(&0_i32.to_ne_bytes());
                answer.extend_from_slice(&question[8..16]);
                // `struct fuse_init_out` of version 7.31: the rest of it may be zero.
                for word in [7_u32, 31, 1 << 16, 0, 0x0009_000c, 1 << 16, 1] {
                    answer.extend_from_slice(&word.to_ne_bytes());
                }
                answer.resize(80, 0);
                device.write_all(&answer).expect("an answer");
            }
            Ok(_) => {}
            // It is not mounted yet, or asks nothing.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::PermissionDenied) => {
                std::thread::sleep(Duration::from_millis(2));
            }
            // It is gone.
            Err(_) => break,
        }
    }
}

const INIT: u32 = 26;
const MOUNT: &str = "at=$1; shift; keep=$PATH; PATH=/usr/bin:/bin:/usr/sbin:/sbin; export keep
exec unshare -m --propagation private sh -c '
    mount -i -t fuse -o fd=0,rootmode=40000,user_id=0,group_id=0,allow_other silent \"$0\" || exit 97
    PATH=$keep; export PATH; unset keep; exec \"$@\" </dev/null' \"$at\" \"$@\"";
