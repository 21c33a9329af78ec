//! What the client says next, and what answers change.

use super::*;

fn conversation() -> Conversation {
    let mut it = Conversation::new(StreamId::new([1; 16]));
    it.write(b"GET");
    it
}

fn request(exchange: &Exchange) -> Request {
    let head = exchange.message[5..].first_chunk().unwrap();
    wire::Sign::parse(head, exchange.message.len() - 5).unwrap().frame.unwrap()
}

fn reply(offset: u64, accepted: u64, more: bool) -> Reply {
    Reply { status: Status::Ok, end: false, more, offset, accepted }
}

fn next(it: &mut Conversation) -> (Exchange, Request) {
    let exchange = it.next(true, LONG_HOLD).unwrap();
    let request = request(&exchange);
    (exchange, request)
}

fn bytes(length: usize) -> Bytes {
    Bytes::from(vec![7; length])
}

#[test]
fn one_exchange_opens_sends_and_reads_to_the_end() {
    let mut it = conversation();
    let (exchange, first) = next(&mut it);
    assert!(first.open && !first.fresh && first.want > 0 && exchange.hold == SHORT_HOLD);
    assert!(it.next(true, LONG_HOLD).is_none(), "one answer is waited for once");
    it.absorb(exchange.number, &Reply { end: true, ..reply(0, 3, false) }, bytes(5)).unwrap();
    assert_eq!(it.read(99).unwrap().len(), 5);
    assert!(it.is_at_end() && !it.wants_closing());
    assert!(it.next(true, LONG_HOLD).is_none());
}

#[test]
fn nothing_is_asked_before_something_was_said_or_when_nobody_reads() {
    let mut it = Conversation::new(StreamId::new([1; 16]));
    assert!(it.next(true, LONG_HOLD).is_none());
    it.write(b"GET");
    let exchange = it.next(false, LONG_HOLD).unwrap();
    assert_eq!(request(&exchange).want, 0);
    it.absorb(exchange.number, &reply(0, 3, false), Bytes::new()).unwrap();
    assert!(it.next(false, LONG_HOLD).is_none());
    assert_eq!(request(&it.next(true, LONG_HOLD).unwrap()).wait, LONG_HOLD);
}

#[test]
fn lost_exchange_is_repeated_as_it_was() {
    let mut it = conversation();
    let (exchange, first) = next(&mut it);
    it.lose(exchange.number);
    let (_, again) = next(&mut it);
    assert_eq!(again, first);
}

#[test]
fn frames_grow_and_two_are_under_way_in_bulk() {
    let mut it = conversation();
    let (exchange, first) = next(&mut it);
    it.absorb(exchange.number, &reply(0, 3, true), bytes(first.want as usize)).unwrap();
    let (one, first) = next(&mut it);
    assert_eq!((first.want, first.fresh, first.acknowledged), (128 << 10, false, 64 << 10));
    let (two, second) = next(&mut it);
    assert!(second.fresh && it.next(true, LONG_HOLD).is_none());
    assert!(it.read(usize::MAX).is_some());
    // The second answer is quicker, and nothing is lost or given twice.
    it.absorb(two.number, &reply(192 << 10, 3, true), bytes(10)).unwrap();
    assert!(it.read(99).is_none());
    it.absorb(one.number, &reply(64 << 10, 3, true), bytes(128 << 10)).unwrap();
    assert_eq!(it.next, (192 << 10) + 10);
}

#[test]
fn gap_that_nobody_fills_is_asked_for_again() {
    let mut it = conversation();
    let (exchange, first) = next(&mut it);
    it.absorb(exchange.number, &reply(0, 3, true), bytes(first.want as usize)).unwrap();
    it.read(usize::MAX);
    let (one, _) = next(&mut it);
    let (two, _) = next(&mut it);
    // Somebody who is gone has taken 100 bytes; ours come behind them.
    it.absorb(two.number, &reply((64 << 10) + 100, 3, true), bytes(50)).unwrap();
    // The first may still bring them …
    let (_, ahead) = next(&mut it);
    assert!(ahead.fresh);
    it.absorb(one.number, &reply((64 << 10) + 150, 3, true), bytes(50)).unwrap();
    // … and did not.
    let (three, third) = next(&mut it);
    assert_eq!((third.fresh, third.want, third.acknowledged), (false, 100, 64 << 10));
    assert!(it.next(true, LONG_HOLD).is_none());
    it.absorb(three.number, &reply(64 << 10, 3, true), bytes(100)).unwrap();
    assert_eq!(it.next, (64 << 10) + 200);
}

#[test]
fn half_accepted_request_goes_on_where_it_was_left() {
    let mut it = conversation();
    it.finish();
    let (exchange, first) = next(&mut it);
    assert!(first.finish);
    it.absorb(exchange.number, &reply(0, 1, false), Bytes::new()).unwrap();
    let (exchange, second) = next(&mut it);
    assert_eq!((second.offset, second.finish), (1, true));
    it.absorb(exchange.number, &reply(0, 3, false), Bytes::new()).unwrap();
    let (_, third) = next(&mut it);
    assert_eq!((third.offset, third.finish), (3, false));
}

#[test]
fn daemon_hears_of_what_waits_to_be_read() {
    let mut it = conversation();
    let (exchange, _) = next(&mut it);
    assert_eq!(it.acknowledges_after(), None, "an exchange is on its way");
    it.absorb(exchange.number, &reply(0, 3, false), bytes(9000)).unwrap();
    assert_eq!(it.acknowledges_after(), Some(ACKNOWLEDGE));
    let exchange = it.acknowledgement();
    assert_eq!((request(&exchange).acknowledged, request(&exchange).want), (9000, 0));
    it.absorb(exchange.number, &reply(9000, 3, false), Bytes::new()).unwrap();
    assert_eq!(it.acknowledges_after(), Some(KEEP_ALIVE));
    it.read(9000);
    assert_eq!(it.acknowledges_after(), None);
}

#[test]
fn answers_that_cannot_be_are_faults() {
    let mut it = conversation();
    let (exchange, _) = next(&mut it);
    assert_eq!(it.absorb(exchange.number, &reply(0, 4, false), Bytes::new()), Err(Status::Malformed));
    let (exchange, _) = next(&mut it);
    let unknown = Reply::refusal(Status::Unknown);
    assert_eq!(it.absorb(exchange.number, &unknown, Bytes::new()), Err(Status::Unknown));
}
