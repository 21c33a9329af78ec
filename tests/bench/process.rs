//! What the kernel knows of a process: processor time, memory, and how often it was woken; and with that, what a
//! daemon is like at rest.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::table::{Table, Target, Unit};

/// Lifts the soft limit of open files: a thousand connections need more than the usual one.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// The processor time that a process has used, user and system.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    // The name in front may hold blanks and parentheses. Behind it, user and system time are fields 12 and 13.
    let (_, fields) = stat.rsplit_once(')').expect("a stat line");
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // A tick is a hundredth of a second in every Linux's interface, whatever the kernel's own clock does.
    Duration::from_millis(ticks * 10)
}

/// Looks at a daemon that has nothing to do from now on. `after` says what it had to do before.
pub(crate) fn at_rest(table: &mut Table, name: &str, pid: u32, after: &str) {
    // Threads for blocking work end after a second without any.
    sleep(SETTLE);
    let (all, own) = resident(pid);
    let note = format!("{own:.2} of it its own, {} threads", threads(pid));
    table.row(format!("memory after {after}, {name}"), Target::AtMost(8.0), all, Unit::Mebibytes, &note);
    let before = switches(pid);
    sleep(REST);
    let woken = switches(pid).abs_diff(before) as f64;
    let measure = format!("wake-ups in {} s after {after}, {name}", REST.as_secs());
    table.row(measure, Target::Exactly(0.0), woken, Unit::Count, "");
}

/// Resident memory in mebibytes: all of it, and the part that no file stands behind.
fn resident(pid: u32) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let kibibytes = |name| sum(&status, name) as f64 / 1024.0;
    (kibibytes("VmRSS:"), kibibytes("RssAnon:"))
}

/// The most resident memory that a process ever had, in mebibytes.
pub(crate) fn peak(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    sum(&status, "VmHWM:") as f64 / 1024.0
}

/// How often the threads of a process have been switched away from, by their own will or not. Each wake-up ends
/// in one.
fn switches(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    let of = |thread: fs::DirEntry| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        sum(&status, "voluntary_ctxt_switches:") + sum(&status, "nonvoluntary_ctxt_switches:")
    };
    threads.flatten().map(of).sum()
}

/// How many threads a process has.
fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").count()
}

fn sum(status: &str, name: &str) -> u64 {
    let lines = status.lines().filter_map(|line| line.strip_prefix(name));
    lines.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum()
}

const SETTLE: Duration = Duration::from_secs(3);
const REST: Duration = Duration::from_secs(10);
