//! Real processes against the stand-in: what a user's machine does, and what goes wrong on it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says where it could not be run"
)]

#[path = "../harness/detour.rs"]
mod detour;
#[path = "../harness/harness.rs"]
mod harness;
#[path = "../harness/registry_daemon.rs"]
mod registry_daemon;
#[path = "../harness/silent.rs"]
mod silent;
#[path = "../stand-in/stand_in.rs"]
mod stand_in;

mod accounts;
mod adopt;
mod carried;
mod command_line;
mod configuration_files;
mod crowds;
mod daemon;
mod delegation;
mod doctor;
mod exec;
mod exec_broken;
mod exec_callers;
mod exec_terminal;
mod exec_ways;
mod exec_words;
mod existence;
mod google_login;
mod granting;
mod identity;
mod image;
mod indexing;
mod inside_exec;
mod key_file;
mod leak_hunt;
mod limits;
mod listeners;
mod login;
mod login_attacks;
mod login_dead;
mod login_strangers;
mod logout;
mod misplaced_key;
mod namespaces;
mod network;
mod openings;
mod pages;
mod passing;
mod passing_on;
mod patience;
mod peers;
mod reach;
mod reload;
mod remedies;
mod silence;
mod slow_sources;
mod socket_directory;
mod stopped;
mod token_endpoint;
mod token_file;
mod trust;
mod upload_url;
mod vault;
mod vault_crash;
mod whose;
mod wrappers;

use harness::Run;

/// What every fault has to look like to the client of a helper: nothing on standard output, one sentence on
/// standard error that holds `word`, the exit code of "no such password", and all that within ten seconds.
#[track_caller]
fn assert_refused(run: &Run, word: &str) {
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(run.stdout, "", "{run:?}");
    assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
    assert!(run.stderr.starts_with("valetkey: "), "{run:?}");
    assert!(run.stderr.contains(word), "{word:?} is not in {run:?}");
    assert!(run.took.as_secs() < 10, "{run:?}");
}

/// A token on one line, and nothing else.
#[track_caller]
fn assert_given(run: &Run) -> String {
    assert_eq!(run.code, Some(0), "{run:?}");
    let token = run.stdout.strip_suffix('\n').unwrap();
    assert!(token.starts_with("ya29.") && !token.contains(char::is_whitespace), "{run:?}");
    token.to_owned()
}
