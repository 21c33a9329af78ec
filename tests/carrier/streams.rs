//! Streams that go as they should, through all that may lie in between.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use valetkey::carrier::agent::find::{find, mounted};
use valetkey::carrier::agent::{AgentChannel, Limits, exchange_once};
use valetkey::environment::Environment;

use super::between::{Between, Who};
use super::outside::{Outside, assert_given, channel, pattern};
use super::{in_time, wait_until};

/// Asks and reads to the end.
pub(crate) async fn ask(channel: &AgentChannel, line: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = channel.open().unwrap();
    stream.write_all(line.as_bytes()).await?;
    let mut answer = Vec::new();
    in_time(line, stream.read_to_end(&mut answer)).await?;
    Ok(answer)
}

/// One thread, so that the application is always done before its answer is looked at.
#[tokio::test]
async fn a_question_and_its_answer_are_one_round_trip() {
    let outside = Outside::start();
    let between = Between::start(Who::Buildkit, &outside.socket(), None).await;
    let answer = ask(&channel(between.path()), "give 3000\n").await.unwrap();
    assert_given(&answer, 3000);
    assert_eq!(between.messages(), 1);
    // It closed in that exchange.
    assert_eq!((outside.server().streams(), outside.budget.streams()), (0, 0));
}

#[tokio::test]
async fn a_stream_takes_over_the_connection_of_the_one_before() {
    let outside = Outside::start();
    for who in [Who::Buildkit, Who::Buildah] {
        let between = Between::start(who, &outside.socket(), None).await;
        let channel = channel(between.path());
        for _ in 0..10 {
            assert_given(&ask(&channel, "give 3000\n").await.unwrap(), 3000);
        }
        assert_eq!((between.connections(), between.messages()), (1, 10));
        // What comes late is held for, as on a connection that nobody has used.
        assert_given(&ask(&channel, "later 300 3000\n").await.unwrap(), 3000);
        assert!(between.connections() == 1 && between.messages() < 14, "{} messages", between.messages());
    }
}

#[test]
fn a_connection_outlives_the_runtime_that_it_was_opened_in() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime();
    let (outside, between) = world.block_on(async {
        let outside = Outside::start();
        let between = Between::start(Who::Buildkit, &outside.socket(), None).await;
        (outside, between)
    });
    let channel = channel(between.path());
    let done = std::sync::Arc::new(tokio::sync::Notify::new());
    let told = std::sync::Arc::clone(&done);
    let asking = std::thread::spawn(move || {
        for _ in 0..2 {
            runtime().block_on(async {
                assert_given(&ask(&channel, "give 3000\n").await.unwrap(), 3000);
                // Until the stream has left it.
                tokio::time::sleep(Duration::from_millis(50)).await;
            });
        }
        told.notify_one();
    });
    world.block_on(in_time("both", done.notified()));
    asking.join().unwrap();
    assert_eq!((between.connections(), between.messages()), (1, 2));
    drop(outside);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_without_a_runtime_gets_its_answer() {
    let outside = Outside::start();
    let between = Between::start(Who::Buildah, &outside.socket(), Some(Duration::from_millis(100))).await;
    for line in ["give 3000\n", "later 300 3000\n", "give 500000\n"] {
        let path = between.path().to_owned();
        let until = Instant::now() + Duration::from_secs(30);
        let answer = tokio::task::spawn_blocking(move || exchange_once(&path, line.as_bytes(), until));
        let length = line.split_whitespace().last().unwrap().parse().unwrap();
        assert_given(&answer.await.unwrap().unwrap(), length);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_answer_arrives_whole_and_in_large_frames() {
    let outside = Outside::start();
    let between = Between::start(Who::Buildkit, &outside.socket(), None).await;
    let answer = ask(&channel(between.path()), "give 50000000\n").await.unwrap();
    assert_given(&answer, 50_000_000);
    // With full frames of a mebibyte they would be fifty.
    assert!(between.messages() < 200, "{} messages", between.messages());
    wait_until("all is let go of", || outside.budget.pooled() == 0).await;
    wait_until("the stream is closed", || outside.budget.streams() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_request_arrives_whole_and_its_end_too() {
    let outside = Outside::start();
    for who in [Who::Buildkit, Who::Buildah] {
        let between = Between::start(who, &outside.socket(), Some(Duration::from_millis(150))).await;
        let mut stream = channel(between.path()).open().unwrap();
        stream.write_all(b"count\n").await.unwrap();
        in_time("the upload", stream.write_all(pattern(0, 9_000_000))).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        in_time("the answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "9000000");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_flow_at_once_and_close_one_by_one() {
    let outside = Outside::start();
    let between = Between::start(Who::Buildah, &outside.socket(), Some(Duration::from_millis(150))).await;
    let stream = channel(between.path()).open().unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writing = tokio::spawn(async move {
        writer.write_all(b"echo\n").await.unwrap();
        writer.write_all(pattern(0, 5_000_000)).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut answer = Vec::new();
    in_time("the echo", reader.read_to_end(&mut answer)).await.unwrap();
    writing.await.unwrap();
    assert_given(&answer, 5_000_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_clients_at_once_all_get_theirs() {
    let outside = Outside::start();
    for who in [Who::Buildkit, Who::Buildah] {
        let between = Between::start(who, &outside.socket(), Some(Duration::from_millis(500))).await;
        let mut tasks = JoinSet::new();
        for number in 0..40 {
            let channel = channel(between.path());
            tasks.spawn(async move {
                let length = 1000 + number * 20_011;
                let answer = ask(&channel, &format!("later {} {length}\n", number * 7)).await.unwrap();
                assert_given(&answer, length);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    }
}

/// Each of more than may be at once waits for its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crowds_beyond_the_limit_are_served_one_after_the_other() {
    let outside = Outside::with(Limits { streams_of_peer: 5, ..Limits::default() });
    let mut tasks = JoinSet::new();
    for _ in 0..40 {
        let channel = channel(&outside.socket());
        tasks.spawn(async move { assert_given(&ask(&channel, "later 20 100000\n").await.unwrap(), 100_000) });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_stay_within_the_budget_and_lose_nothing() {
    let outside = Outside::start();
    let channel = channel(&outside.socket());
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = channel.open().unwrap();
        stream.write_all(b"give 2000000\n").await.unwrap();
        slow.push(stream);
    }
    let first = slow.iter_mut().map(|stream| async move { stream.read_u8().await.unwrap() });
    for byte in first {
        assert_eq!(in_time("the first byte", byte).await, 0);
    }
    // Who does read goes on meanwhile.
    assert_given(&ask(&channel, "give 1000000\n").await.unwrap(), 1_000_000);
    let pooled = outside.budget.pooled();
    assert!(pooled <= Limits::default().pool, "{pooled} bytes");
    for mut stream in slow {
        let mut rest = vec![0];
        in_time("the rest", stream.read_to_end(&mut rest)).await.unwrap();
        assert_given(&rest, 2_000_000);
    }
    wait_until("all is let go of", || outside.budget.pooled() == 0).await;
}

/// With buildah's own two seconds: an answer that takes longer is asked for in pieces that fit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_cut_that_asks_in_time() {
    let outside = Outside::start();
    let between = Between::start(Who::Buildah, &outside.socket(), Some(Duration::from_secs(2))).await;
    let answer = ask(&channel(between.path()), "later 4000 100\n").await.unwrap();
    assert_given(&answer, 100);
    assert_eq!(between.cuts(), 0);
    assert!(between.messages() < 12, "{} messages", between.messages());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_socket_is_found_among_others() {
    let outside = Outside::start();
    let top = tempfile::tempdir().unwrap();
    let find = |named: Option<&std::path::Path>| {
        let environment: Environment = named.map(|path| ("SSH_AUTH_SOCK", path)).into_iter().collect();
        let mounts = top.path().to_owned();
        async move {
            let finding = tokio::task::spawn_blocking(move || {
                let late = std::time::Instant::now() + std::time::Duration::from_secs(60);
                find(&environment, mounted(&mounts), late)
            });
            finding.await.unwrap().unwrap()
        }
    };
    assert!(find(None).await.is_none());
    // A builder's own socket makes no build: there an agent that hangs is left alone.
    std::fs::write(top.path().join("buildkitd.sock"), "").unwrap();
    let hanging = tokio::net::UnixListener::bind(top.path().join("agent")).unwrap();
    assert!(find(Some(&top.path().join("agent"))).await.is_none());
    drop(hanging);
    // One that hangs, one that is no socket, one that is gone, and ours behind all of them.
    let silent = tokio::net::UnixListener::bind(top.path().join("ssh_agent.2")).unwrap();
    std::fs::write(top.path().join("ssh_agent.3"), "").unwrap();
    std::fs::write(top.path().join("other"), "").unwrap();
    std::os::unix::fs::symlink(outside.socket(), top.path().join("ssh_agent.10")).unwrap();
    assert_eq!(find(Some(&top.path().join("nowhere"))).await, Some(top.path().join("ssh_agent.10")));
    assert_eq!(find(Some(&outside.socket())).await, Some(outside.socket()));
    drop(silent);
}
