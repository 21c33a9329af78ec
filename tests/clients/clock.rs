//! A real daemon whose wall clock is set while it runs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::client::skip;
use super::harness::Sandbox;

/// The daemon's command under libfaketime, and the file by which its clock is set: `+90` is ninety seconds ahead.
pub(super) struct FakeClock {
    pub(super) command: Command,
    pub(super) setting: PathBuf,
}

impl FakeClock {
    pub(super) fn new(sandbox: &Sandbox) -> Option<Self> {
        let Some(library) = libfaketime() else {
            skip("there is no libfaketime: apt-get install libfaketime");
            return None;
        };
        let setting = sandbox.write("faketime", "+0");
        let mut command = sandbox.valetkey();
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &setting)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
        Some(Self { command, setting })
    }
}

/// Where Debian and its kin put it: below a directory named after the architecture.
fn libfaketime() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = vec!["/usr/lib".into(), "/usr/lib64".into()];
    places.extend(fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path()));
    places.iter().map(|place| place.join("faketime/libfaketime.so.1")).find(|path| path.exists())
}

/// A laptop that was suspended, or a clock that was wrong: no dead token is given, and no crowd of calls is made.
#[test]
fn a_clock_that_jumps_an_hour_either_way_costs_one_call() {
    let sandbox = Sandbox::new();
    sandbox.sign_in();
    let Some(FakeClock { mut command, setting }) = FakeClock::new(&sandbox) else { return };
    let _daemon = sandbox.serve_with(&mut command);
    let ask = || {
        let run = sandbox.run(&mut sandbox.get());
        assert_eq!(run.code, Some(0), "{run:?}");
        run.stdout
    };
    let first = ask();
    assert_eq!(ask(), first);
    fs::write(&setting, "+3700").unwrap();
    let second = ask();
    assert_ne!(second, first, "the first token is dead by now");
    assert_eq!(ask(), second);
    fs::write(&setting, "-3700").unwrap();
    let third = ask();
    assert_ne!(third, second, "a clock that was set back says nothing about the second");
    assert_eq!(ask(), third);
    assert_eq!(sandbox.google.token_requests().len(), 3);
}
