//! What breaks on the way: connections, exchanges, the daemon itself.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use valetkey::carrier::agent::{AgentFault, Limits, exchange_once};
use valetkey::carrier::frame::{Request, Status};
use valetkey::error::Failure;

use super::between::{Between, Who};
use super::outside::{Outside, assert_given, channel, pattern};
use super::raw::{Raw, request};
use super::streams::ask;
use super::{in_time, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_survive_connections_that_are_cut_in_the_middle() {
    let outside = Outside::start();
    for who in [Who::Buildkit, Who::Buildah] {
        let between = Between::start(who, &outside.socket(), Some(Duration::from_millis(15))).await;
        assert_given(&ask(&channel(between.path()), "give 20000000\n").await.unwrap(), 20_000_000);
        assert_given(&ask(&channel(between.path()), "later 400 5000\n").await.unwrap(), 5000);
        assert!(between.cuts() > 5, "{} cuts", between.cuts());
    }
}

#[tokio::test]
async fn the_same_exchange_twice_changes_nothing() {
    let outside = Outside::start();
    let (mut one, mut two) = (Raw::connect(&outside.socket()).await, Raw::connect(&outside.socket()).await);
    let first = one.exchange(request(1), b"echo\nabc").await;
    assert_eq!(first.1, b"abc");
    assert_eq!(two.exchange(request(1), b"echo\nabc").await, first);
    assert_eq!(first.0.accepted, 8);
    // A part of it again with something new behind it.
    let mut more = request(1);
    (more.offset, more.acknowledged) = (6, 3);
    let second = two.exchange(more, b"bcd").await;
    assert_eq!((second.0.accepted, second.0.offset, second.1.as_slice()), (9, 3, b"d".as_slice()));
    assert_eq!(one.exchange(more, b"bcd").await, second);
    assert_eq!(outside.budget.streams(), 1);
}

#[tokio::test]
async fn bytes_that_come_too_early_are_not_taken() {
    let outside = Outside::start();
    let mut raw = Raw::connect(&outside.socket()).await;
    let mut early = request(1);
    early.wait = Duration::ZERO;
    assert_eq!(raw.exchange(early, b"echo\n").await.0.accepted, 5);
    early.offset = 8;
    assert_eq!(raw.exchange(early, b"def").await.0.accepted, 5);
    early.offset = 5;
    assert_eq!(raw.exchange(early, b"abc").await.0.accepted, 8);
    (early.offset, early.finish, early.wait) = (8, true, Duration::from_secs(1));
    let (reply, bytes) = raw.exchange(early, b"def").await;
    assert!(reply.accepted == 11 && b"abcdef".starts_with(&bytes) && bytes.len() >= 3, "{reply:?} {bytes:?}");
}

/// Two exchanges on two connections, one of which is lost with what it took.
#[tokio::test]
async fn what_a_lost_reply_carried_is_given_again() {
    let outside = Outside::start();
    let (mut one, mut two) = (Raw::connect(&outside.socket()).await, Raw::connect(&outside.socket()).await);
    let mut first = request(1);
    first.want = 1000;
    assert_eq!(one.exchange(first, b"give 5000\n").await.1, pattern(0, 1000));
    let mut fresh = request(1);
    (fresh.offset, fresh.fresh, fresh.want) = (10, true, 1000);
    let (lost, second) = (one.exchange(fresh, b"").await, two.exchange(fresh, b"").await);
    assert_eq!((lost.0.offset, second.0.offset), (1000, 2000));
    let mut again = fresh;
    (again.fresh, again.acknowledged) = (false, 1000);
    assert_eq!(two.exchange(again, b"").await.1, pattern(1000, 1000));
    (again.acknowledged, again.want) = (3000, 9000);
    let (reply, bytes) = two.exchange(again, b"").await;
    assert_eq!((reply.offset, reply.end, bytes.as_slice()), (3000, true, pattern(3000, 2000)));
    // It is over, and the reply that says so can still be repeated.
    assert_eq!(outside.budget.streams(), 0);
    assert!(one.exchange(again, b"").await.0.end);
    // What was acknowledged is gone.
    (again.acknowledged, again.want) = (0, 9000);
    assert_eq!(one.exchange(again, b"").await.0.offset, 3000);
    let mut beyond = again;
    beyond.acknowledged = 5001;
    assert_eq!(one.exchange(beyond, b"").await.0.status, Status::Malformed);
}

/// The clock stands still but for what is waited for.
#[tokio::test(start_paused = true)]
async fn a_reply_is_held_briefly_where_others_wait() {
    let limits = Limits::default();
    let outside = Outside::start();
    let mut raw = Raw::connect(&outside.socket()).await;
    let mut patient = request(1);
    patient.wait = Duration::from_secs(60);
    assert_eq!(held(&mut raw, patient).await, limits.hold.as_millis());
    patient.stream = request(2).stream;
    assert_eq!(held(&mut raw, patient).await, limits.shared_hold.as_millis());
    // One that was closed in the middle leaves nobody better off.
    let mut raw = Raw::connect(&outside.socket()).await;
    let mut closed = request(3);
    closed.wait = Duration::ZERO;
    raw.exchange(closed, b"hang\n").await;
    (closed.open, closed.close, closed.want) = (false, true, 0);
    raw.exchange(closed, b"").await;
    patient.stream = request(4).stream;
    assert_eq!(held(&mut raw, patient).await, limits.shared_hold.as_millis());
}

/// For how many milliseconds a reply was held that has nothing to say.
async fn held(raw: &mut Raw, request: Request) -> u128 {
    let start = tokio::time::Instant::now();
    assert!(raw.exchange(request, b"hang\n").await.1.is_empty());
    start.elapsed().as_millis()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_daemon_ends_a_stream_with_a_sentence_and_the_next_one_works() {
    let mut outside = Outside::start();
    let between = Between::start(Who::Buildkit, &outside.socket(), None).await;
    let channel = channel(between.path());
    let mut stream = channel.open().unwrap();
    stream.write_all(b"echo\nx").await.unwrap();
    assert_eq!(in_time("the echo", stream.read_u8()).await.unwrap(), b'x');
    outside.restart();
    let error = in_time("the end", stream.read_u8()).await.unwrap_err();
    let fault = error.get_ref().unwrap().downcast_ref::<AgentFault>().unwrap().clone();
    assert_eq!(fault, AgentFault::Forgotten(between.path().to_owned()));
    let line = Failure::from(fault).one_line();
    assert!(
        line.ends_with("does not know this stream any more; run this step again: the daemon was restarted")
    );
    assert_given(&ask(&channel, "give 3000\n").await.unwrap(), 3000);
}

/// buildah dials once a step: a new daemon is out of its reach.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_buildah_a_restart_ends_the_step_with_a_sentence() {
    let mut outside = Outside::start();
    let between = Between::start(Who::Buildah, &outside.socket(), None).await;
    assert_given(&ask(&channel(between.path()), "give 3000\n").await.unwrap(), 3000);
    outside.restart();
    let error = ask(&channel(between.path()), "give 3000\n").await.unwrap_err();
    assert!(error.to_string().contains("leads to no daemon any more"), "{error}");
    let path = between.path().to_owned();
    let until = Instant::now() + Duration::from_secs(1);
    let once = tokio::task::spawn_blocking(move || exchange_once(&path, b"give 3000\n", until));
    assert!(matches!(once.await.unwrap(), Err(AgentFault::Gone(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_died_between_two_streams_is_replaced() {
    let mut outside = Outside::start();
    let between = Between::start(Who::Buildkit, &outside.socket(), Some(Duration::from_millis(100))).await;
    let channel = channel(between.path());
    assert_given(&ask(&channel, "give 3000\n").await.unwrap(), 3000);
    // Cut by who is in between, and then by the end of the daemon.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_given(&ask(&channel, "give 3000\n").await.unwrap(), 3000);
    outside.restart();
    assert_given(&ask(&channel, "give 3000\n").await.unwrap(), 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_back_soon_was_never_away() {
    let mut outside = Outside::start();
    outside.kill();
    let channel = channel(&outside.socket());
    let asking = tokio::spawn(async move { ask(&channel, "give 3000\n").await });
    // Long enough for some tries to fail.
    tokio::time::sleep(Duration::from_millis(100)).await;
    outside.restart();
    assert_given(&asking.await.unwrap().unwrap(), 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ending_daemon_opens_nothing_and_finishes_what_it_has() {
    let outside = Outside::start();
    let channel = channel(&outside.socket());
    let mut stream = channel.open().unwrap();
    stream.write_all(b"later 300 3000\n").await.unwrap();
    wait_until("the stream is open", || outside.server().streams() == 1).await;
    outside.server().refuse_new();
    let error = ask(&channel, "give 1\n").await.unwrap_err();
    assert!(error.to_string().ends_with("is ending"), "{error}");
    let mut answer = Vec::new();
    in_time("the answer", stream.read_to_end(&mut answer)).await.unwrap();
    assert_given(&answer, 3000);
}
