//! Many connections to one daemon: a thousand that all ask before there is a token, and 256 that ask without pause
//! for one that is there.
//!
//! The load shares the cores with the daemon, so it does as little as it can: one thread, one prepared request, and
//! of an answer it looks at the status and the length.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::process;
use super::sandbox::{INDEX, Sandbox};
use super::stand_in::Fault;
use super::table::{Table, Target, Unit};

/// A thousand askers, a daemon without a token, and an upstream that takes its time: one call has to do for all.
pub(crate) fn crowd(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], rounds: usize) {
    for sandbox in sandboxes {
        let google = sandbox.google;
        google.token_fault_always(Some(Fault::Delay(UPSTREAM)));
        let (mut worst, mut last) = (1_usize, Duration::ZERO);
        for _ in 0..rounds {
            let mut daemon = sandbox.serve();
            let before = google.token_requests().len();
            let start = Instant::now();
            runtime().block_on(all_at_once(&sandbox.socket()));
            last = last.max(start.elapsed());
            let calls = google.token_requests().len() - before;
            if calls.abs_diff(1) > worst.abs_diff(1) {
                worst = calls;
            }
            sandbox.stop();
            let _ = daemon.wait();
        }
        google.token_fault_always(None);
        let measure = format!("upstream calls for {CROWD} cold asks, {}", sandbox.build.name);
        let note = format!("{rounds} fresh daemons; all answered within {} ms", last.as_millis());
        table.row(measure, Target::Exactly(1.0), worst as f64, Unit::Count, &note);
    }
}

/// Three bursts of load on each daemon in turn, and what the daemons are like at rest before and after.
pub(crate) fn load_and_rest(table: &mut Table, sandboxes: &[Sandbox<'_>; 2], length: Duration) {
    let pids = sandboxes.each_ref().map(|sandbox| {
        sandbox.stop();
        let pid = sandbox.first_ask();
        runtime().block_on(one_by_one(&sandbox.socket(), 100));
        pid
    });
    for (sandbox, pid) in sandboxes.iter().zip(pids) {
        process::at_rest(table, sandbox.build.name, pid, "100 asks");
    }
    let mut bursts = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        for (number, sandbox) in sandboxes.iter().enumerate() {
            bursts[number].push(burst(&sandbox.socket(), pids[number], length));
        }
    }
    for (sandbox, mut bursts) in sandboxes.iter().zip(bursts) {
        let name = sandbox.build.name;
        bursts.sort_by(|one, other| one.rate.total_cmp(&other.rate));
        let errors: u64 = bursts.iter().map(|burst| burst.errors).sum();
        let middle = &bursts[1];
        let note = format!(
            "p50 {:.1} ms; {:.0} % of a core in the daemon, {:.0} % in the load",
            middle.p50,
            middle.daemon * 100.0,
            middle.load * 100.0
        );
        let measure = format!("answers on {BUSY} connections, {name}");
        table.row(measure, Target::AtLeast(80_000.0), middle.rate, Unit::PerSecond, &note);
        let note = format!("median of 3 bursts of {:.0} s", length.as_secs_f64());
        table.row(format!("  p99, {name}"), Target::LessThan(8.0), middle.p99, Unit::Milliseconds, &note);
        table.row(
            format!("  errors, {name}"),
            Target::Exactly(0.0),
            errors as f64,
            Unit::Count,
            "in all 3 bursts",
        );
    }
    for (sandbox, pid) in sandboxes.iter().zip(pids) {
        process::at_rest(table, sandbox.build.name, pid, "load");
        sandbox.stop();
    }
}

/// What one burst of load brought: answers a second, latencies in milliseconds, and cores used.
struct Burst {
    rate: f64,
    p50: f64,
    p99: f64,
    errors: u64,
    daemon: f64,
    load: f64,
}

fn burst(socket: &Path, daemon: u32, length: Duration) -> Burst {
    let own = std::process::id();
    runtime().block_on(async {
        let begin = Instant::now() + Duration::from_millis(500);
        let end = begin + length;
        let mut tasks = JoinSet::new();
        for _ in 0..BUSY {
            let line = UnixStream::connect(socket).await.expect("a connection");
            tasks.spawn(ask_without_pause(line, begin, end));
        }
        tokio::time::sleep_until(begin.into()).await;
        let before = (process::processor_time(daemon), process::processor_time(own), Instant::now());
        let (mut times, mut errors) = (Vec::new(), 0);
        while let Some(outcome) = tasks.join_next().await {
            let (some, wrong) = outcome.expect("a connection's record");
            times.extend(some);
            errors += wrong;
        }
        let took = before.2.elapsed().as_secs_f64();
        let share = |pid: u32, before: Duration| {
            process::processor_time(pid).saturating_sub(before).as_secs_f64() / took
        };
        times.sort_unstable();
        let quantile =
            |part: usize| times.get(times.len() * part / 100).map_or(f64::NAN, |it| f64::from(*it) / 1e3);
        Burst {
            rate: times.len() as f64 / took,
            p50: quantile(50),
            p99: quantile(99),
            errors,
            daemon: share(daemon, before.0),
            load: share(own, before.1),
        }
    })
}

/// The times of all answers between `begin` and `end`, in microseconds, and how many went wrong.
async fn ask_without_pause(mut line: UnixStream, begin: Instant, end: Instant) -> (Vec<u32>, u64) {
    let (request, mut buffer) = (request(), vec![0; 8192]);
    let (mut times, mut errors) = (Vec::with_capacity(1 << 12), 0);
    let mut start = Instant::now();
    while start < end {
        let outcome = ask(&mut line, &request, &mut buffer).await;
        let now = Instant::now();
        match outcome {
            Some(200) if start >= begin => {
                times.push(u32::try_from((now - start).as_micros()).unwrap_or(u32::MAX));
            }
            Some(200) => {}
            Some(_) => errors += 1,
            None => return (times, errors + 1),
        }
        start = now;
    }
    (times, errors)
}

async fn all_at_once(socket: &Path) {
    let together = Arc::new(Barrier::new(CROWD));
    let mut tasks = JoinSet::new();
    for _ in 0..CROWD {
        let (socket, together) = (socket.to_owned(), Arc::clone(&together));
        tasks.spawn(async move {
            let mut line = UnixStream::connect(socket).await.expect("a connection");
            together.wait().await;
            ask(&mut line, &request(), &mut vec![0; 8192]).await
        });
    }
    while let Some(status) = tasks.join_next().await {
        assert_eq!(status.expect("an asker"), Some(200), "one of the crowd got no token");
    }
}

async fn one_by_one(socket: &Path, count: usize) {
    for _ in 0..count {
        let mut line = UnixStream::connect(socket).await.expect("a connection");
        assert_eq!(ask(&mut line, &request(), &mut vec![0; 8192]).await, Some(200));
    }
}

/// One question and its answer on a kept connection: the status, or nothing where the connection broke.
async fn ask(line: &mut UnixStream, request: &[u8], buffer: &mut [u8]) -> Option<u16> {
    line.write_all(request).await.ok()?;
    let mut filled = 0;
    loop {
        let read = line.read(buffer.get_mut(filled..)?).await.ok().filter(|read| *read > 0)?;
        filled += read;
        if let Some((status, whole)) = measure_up(&buffer[..filled])
            && filled >= whole
        {
            return (filled == whole).then_some(status);
        }
    }
}

/// The status of an answer and its length with head and body, once the head is there.
fn measure_up(received: &[u8]) -> Option<(u16, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(received).ok()? else { return None };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    let length: usize = std::str::from_utf8(length.value).ok()?.parse().ok()?;
    Some((response.code?, head + length))
}

fn request() -> Vec<u8> {
    let body = format!(r#"{{"url":"{INDEX}"}}"#);
    let length = body.len();
    format!(
        "POST /v1/credential HTTP/1.1\r\nhost: valetkey\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// One thread: the other core is the daemon's.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

const CROWD: usize = 1000;
const BUSY: usize = 256;
const UPSTREAM: Duration = Duration::from_millis(200);
