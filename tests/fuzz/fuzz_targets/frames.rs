//! Everything that parses bytes from the other side of the agent carrier, on any bytes: no panic, no read beyond
//! the end, and one form of each frame.

#![no_main]

use libfuzzer_sys::fuzz_target;
use valetkey::carrier::agent::wire;
use valetkey::carrier::frame::{Reply, Request};

fuzz_target!(|bytes: &[u8]| {
    if let Ok((request, rest)) = Request::parse(bytes) {
        assert_eq!([request.head().as_slice(), rest].concat(), bytes);
    }
    if let Ok((reply, rest)) = Reply::parse(bytes) {
        assert_eq!([reply.head().as_slice(), rest].concat(), bytes);
    }
    wire::lists_us(bytes);
    if let Ok((_, place)) = wire::parse_answer(bytes, wire::LARGEST_ANSWER) {
        assert!(bytes.get(place).is_some());
    }
    if let Some(head) = bytes.first_chunk()
        && let Some(sign) = wire::Sign::parse(head, bytes.len())
    {
        assert_eq!(wire::SIGN_HEAD + sign.carried + sign.trailing, bytes.len());
    }
});
