//! What a step may try that means harm, and what is no harm to anybody else.

use std::time::Duration;

use valetkey::carrier::agent::{Limits, wire};
use valetkey::carrier::frame::{LARGEST_REQUEST, Status, StreamId};

use super::in_time;
use super::outside::{Outside, assert_given, channel};
use super::raw::{Raw, named, request};
use super::streams::ask;

#[tokio::test]
async fn guessed_foreign_and_finished_names_answer_alike() {
    let mut outside = Outside::start();
    outside.listen("other.sock", &[("other.sock", 1000), ("container.sock", 0)]);
    let mut owner = Raw::connect(&outside.path("other.sock")).await;
    assert_eq!(owner.exchange(request(7), b"echo\nsecret").await.1, b"secret");
    let mut closing = request(8);
    owner.exchange(closing, b"hang\n").await;
    closing.close = true;
    closing.open = false;
    assert_eq!(owner.exchange(closing, b"").await.0.status, Status::Ok);

    let ask = |stream: u8| {
        let mut probe = request(stream);
        (probe.open, probe.offset) = (false, 11);
        wire::sign_request(&probe, b"x")
    };
    // Another listener, another uid on the same listener, a name that never was, one that is over.
    let mut answers = Vec::new();
    for (socket, stream) in [("build.sock", 7), ("container.sock", 7), ("other.sock", 9), ("other.sock", 8)] {
        let mut raw = Raw::connect(&outside.path(socket)).await;
        answers.push(raw.ask(&ask(stream)).await.unwrap());
    }
    assert!(answers.windows(2).all(|two| two[0] == two[1]), "{answers:?}");
    assert_eq!(wire::parse_answer(&answers[0].1, 0).unwrap().0.status, Status::Unknown);
    // To open a name that another one uses makes a stream of one's own.
    let mut foreign = Raw::connect(&outside.path("container.sock")).await;
    assert_eq!(foreign.exchange(request(7), b"echo\nmine").await.1, b"mine");
    assert_eq!(owner.exchange(request(7), b"").await.1, b"secret");
}

#[tokio::test]
async fn a_thousand_streams_of_one_peer_are_refused_beyond_its_limit_and_others_go_on() {
    let mut outside = Outside::start();
    outside.listen("other.sock", &[("other.sock", 1000)]);
    let mut raw = Raw::connect(&outside.socket()).await;
    let mut statuses = Vec::new();
    for number in 0..1000_u16 {
        let mut name = [0; 16];
        name[..2].copy_from_slice(&number.to_be_bytes());
        let mut hog = named(StreamId::new(name));
        hog.wait = Duration::ZERO;
        statuses.push(raw.exchange(hog, b"hang\n").await.0.status);
    }
    let opened = statuses.iter().filter(|status| **status == Status::Ok).count();
    assert_eq!(opened, Limits::default().streams_of_peer);
    assert!(statuses[opened..].iter().all(|status| *status == Status::Full));
    let answer = ask(&channel(&outside.path("other.sock")), "give 3000000\n").await.unwrap();
    assert_given(&answer, 3_000_000);
}

/// The clock stands still but for what is waited for.
#[tokio::test(start_paused = true)]
async fn idle_streams_are_dropped_and_busy_ones_are_not() {
    let (idle, hold) = (Duration::from_secs(1), Duration::from_millis(100));
    let outside = Outside::with(Limits { idle, hold, ..Limits::default() });
    let mut raw = Raw::connect(&outside.socket()).await;
    raw.exchange(request(1), b"hang\n").await;
    // Longer than the idle time, and never silent.
    assert_given(&ask(&channel(&outside.socket()), "later 2500 10\n").await.unwrap(), 10);
    assert_eq!(outside.budget.streams(), 0);
    // New ones all the time do not keep an idle one alive.
    raw.exchange(request(2), b"hang\n").await;
    let crowd = async {
        while outside.budget.streams() > 0 {
            ask(&channel(&outside.socket()), "later 10 1\n").await.unwrap();
        }
    };
    in_time("the idle one is dropped", crowd).await;
    let mut late = request(1);
    late.open = false;
    assert_eq!(raw.exchange(late, b"").await.0.status, Status::Unknown);
}

#[tokio::test]
async fn what_is_no_exchange_is_refused_and_the_connection_goes_on() {
    let outside = Outside::start();
    let mut raw = Raw::connect(&outside.socket()).await;
    let refused = |answer: Option<(u8, Vec<u8>)>| assert_eq!(answer, Some((wire::FAILURE, Vec::new())));
    let message = |kind: u8, body: &[u8]| {
        let length = u32::try_from(1 + body.len()).unwrap().to_be_bytes();
        [length.as_slice(), &[kind], body].concat()
    };
    // Every other message there is, extensions, adding and removing keys, locking.
    for kind in (0..=255_u8).filter(|kind| ![wire::REQUEST_IDENTITIES, wire::SIGN_REQUEST].contains(kind)) {
        refused(raw.ask(&message(kind, b"\0\0\0\x05query")).await);
    }
    refused(raw.ask(&message(wire::REQUEST_IDENTITIES, b"x")).await);
    for length in [0, 3, 50, wire::SIGN_HEAD, 4000] {
        refused(raw.ask(&message(wire::SIGN_REQUEST, &vec![0; length])).await);
    }
    // Ours in all but the key, or the magic.
    let good = wire::sign_request(&request(1), b"hang\n");
    for place in [9, 40, 70] {
        let mut bad = good.clone();
        bad[place] ^= 1;
        refused(raw.ask(&bad).await);
    }
    // Longer than a request may be, but whole.
    refused(raw.ask(&message(wire::SIGN_REQUEST, &vec![0; 3 << 20])).await);
    let mut long = request(1);
    long.wait = Duration::ZERO;
    let (reply, _) = raw.exchange(long, &vec![0; LARGEST_REQUEST + 1]).await;
    assert_eq!(reply.status, Status::Malformed);
    assert_eq!(outside.budget.streams(), 0);
    // A version to come.
    let mut newer = good.clone();
    newer[5 + wire::SIGN_HEAD - 40] = 9;
    let (kind, answer) = raw.ask(&newer).await.unwrap();
    assert_eq!(kind, wire::SIGN_ANSWER);
    assert_eq!(wire::parse_answer(&answer, 0).unwrap().0.status, Status::Version);
    // And all is well.
    assert_eq!(raw.exchange(request(1), b"echo\nabc").await.1, b"abc");
    let (kind, list) = raw.ask(&wire::identities_request()).await.unwrap();
    assert!(kind == wire::IDENTITIES_ANSWER && wire::lists_us(&list));
}

#[tokio::test]
async fn lengths_that_cannot_be_end_the_connection() {
    let outside = Outside::start();
    for head in [[0, 0, 0, 0, 13], [0xff, 0xff, 0xff, 0xff, 13], [1, 0, 0, 2, 11]] {
        let mut raw = Raw::connect(&outside.socket()).await;
        raw.send(&head).await;
        assert_eq!(in_time("the end", raw.receive()).await, None, "{head:?}");
    }
}

/// Bytes that the application does not read stay with the one who sends them.
#[tokio::test]
async fn what_nobody_reads_is_not_taken() {
    let outside = Outside::start();
    let mut taken = 0;
    for stream in 0..100 {
        let mut raw = Raw::connect(&outside.socket()).await;
        let mut flood = request(stream);
        flood.wait = Duration::ZERO;
        let mut bytes = b"later 60000 1\n".to_vec();
        bytes.resize(1 << 20, b'x');
        taken += raw.exchange(flood, &bytes).await.0.accepted;
    }
    assert!(taken < 8 << 20, "{taken} bytes");
    assert!(outside.budget.pooled() <= Limits::default().pool);
}
