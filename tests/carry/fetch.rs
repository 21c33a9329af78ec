//! The container's side.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use valetkey::carrier::agent::{AgentChannel, exchange_once};

use super::bare;
use super::reader::{MIB, Place, SIZE, Way, trusting};

pub(crate) async fn race(carried: &Path, bare: &Path, bytes: u64, rounds: usize) {
    let channel = AgentChannel::at(carried.to_owned());
    fetch(&channel, bytes / 10, Duration::ZERO).await;
    for _ in 0..rounds {
        let ours = rate(bytes, fetch(&channel, bytes, Duration::ZERO)).await;
        let two = rate(bytes, bare::fetch(bare, bytes, 2)).await;
        let one = rate(bytes, bare::fetch(bare, bytes, 1)).await;
        say(&format!("race {ours:.1} {two:.1} {one:.1}"));
    }
}

pub(crate) async fn crowd(carried: &Path, streams: usize, bytes: u64, pause: u64) {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..streams {
        let channel = AgentChannel::at(carried.to_owned());
        tasks.spawn(async move { fetch(&channel, bytes, Duration::from_millis(pause)).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a stream");
    }
    let rate = (bytes * streams as u64) as f64 / MIB / start.elapsed().as_secs_f64();
    say(&format!("crowd {rate:.1}"));
}

pub(crate) fn ask(carried: &Path, count: usize) {
    let request = b"GET /1500 HTTP/1.1\r\nhost: valetkey\r\nconnection: close\r\n\r\n";
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let start = Instant::now();
            let answer = exchange_once(carried, request, start + Duration::from_secs(9)).expect("an answer");
            assert!(answer.len() > 1500 && answer.starts_with(b"HTTP/1.1 200 "), "a wrong answer");
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let at = |part: usize| times[(count * part / 100).min(count - 1)].as_secs_f64() * 1e3;
    say(&format!("ask {:.2} {:.2}", at(50), at(99)));
}

#[expect(clippy::disallowed_methods, reason = "what `exec` says to its command is in the environment")]
pub(crate) fn forward(host: &str, rounds: usize) {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let port = variable("HTTPS_PROXY").rsplit(':').next().and_then(|port| port.parse().ok());
    let bundle = std::fs::read_to_string(variable("SSL_CERT_FILE")).expect("a bundle");
    let through = Place::Forward {
        port: port.expect("the proxy's port"),
        host: host.to_owned(),
        trust: trusting(&bundle),
    };
    let carried = Place::Agent(variable("SSH_AUTH_SOCK").into());
    let carried = Way::new("the carrier", carried, format!("/registry/{host}/acme/private/wheel"));
    let through = Way::new("exec", through, "/acme/private/wheel");
    for round in 0..=rounds {
        let rates = [&carried, &through].map(|way| SIZE as f64 / MIB / way.fetch().as_secs_f64());
        if round > 0 {
            say(&format!("forward {:.1} {:.1}", rates[0], rates[1]));
        }
    }
}

async fn fetch(channel: &AgentChannel, bytes: u64, pause: Duration) {
    let mut stream = channel.open().expect("a stream");
    let request = format!("GET /{bytes} HTTP/1.1\r\nhost: valetkey\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request is sent");
    let (mut buffer, mut received) = (vec![0; 64 << 10], 0);
    loop {
        match stream.read(&mut buffer).await.expect("an answer") {
            0 => break,
            read => received += read as u64,
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    assert!((bytes + 1..bytes + 500).contains(&received), "{received} bytes of {bytes}");
}

async fn rate(bytes: u64, step: impl Future<Output = ()>) -> f64 {
    let start = Instant::now();
    step.await;
    bytes as f64 / MIB / start.elapsed().as_secs_f64()
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
