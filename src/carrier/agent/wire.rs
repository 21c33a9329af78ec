//! The messages of the SSH agent protocol, as far as we speak it: the list of identities, and Sign requests with
//! their answers. Both ends, no I/O but reading a message from a reader.
//!
//! The public key is a point on the curve that was made from the hash of a sentence. So it is a real key to every
//! program that looks at it, the same everywhere and for ever, and nobody knows its private half: should it ever
//! get into a file of authorised keys, it opens nothing.
//!
//! A length that a message states is checked before anything is allocated or read for it.

use std::ops::Range;

use crate::carrier::frame::{
    FrameFault, LARGEST_REPLY, LARGEST_REQUEST, REPLY_HEAD, REQUEST_HEAD, Reply, Request,
};

/// A message begins with its length and its type. The length counts the type.
pub const MESSAGE_HEAD: usize = 5;

/// Reads the head of a message: how long it is behind its type, and the type.
#[must_use]
pub fn message_head(head: [u8; MESSAGE_HEAD]) -> Option<(usize, u8)> {
    let [a, b, c, d, kind] = head;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    Some((length.checked_sub(1)?, kind))
}

/// The message that says no, whatever was asked.
#[must_use]
pub fn failure() -> [u8; MESSAGE_HEAD] {
    [0, 0, 0, 1, FAILURE]
}

/// The question for the list of identities.
#[must_use]
pub fn identities_request() -> [u8; MESSAGE_HEAD] {
    [0, 0, 0, 1, REQUEST_IDENTITIES]
}

/// The list that holds our one identity.
#[must_use]
pub fn identities_answer() -> Vec<u8> {
    let mut body = vec![IDENTITIES_ANSWER];
    body.extend_from_slice(&1_u32.to_be_bytes());
    put_string(&mut body, &KEY);
    put_string(&mut body, COMMENT);
    let mut message = Vec::with_capacity(4 + body.len());
    put_string(&mut message, &body);
    message
}

/// Whether a list of identities, without its type, holds ours.
#[must_use]
pub fn lists_us(list: &[u8]) -> bool {
    fn search(list: &[u8]) -> Option<bool> {
        let (count, mut rest) = list.split_first_chunk()?;
        for _ in 0..u32::from_be_bytes(*count) {
            let (key, behind) = take_string(rest)?;
            if key == KEY {
                return Some(true);
            }
            (_, rest) = take_string(behind)?;
        }
        Some(false)
    }
    search(list).unwrap_or(false)
}

/// A Sign request that carries a frame with `bytes`.
#[must_use]
pub fn sign_request(request: &Request, bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(MESSAGE_HEAD + SIGN_HEAD + bytes.len() + SIGN_TAIL);
    let length = 1 + SIGN_HEAD + bytes.len() + SIGN_TAIL;
    message.extend_from_slice(&length_of(length));
    message.push(SIGN_REQUEST);
    put_string(&mut message, &KEY);
    message.extend_from_slice(&length_of(REQUEST_HEAD + bytes.len()));
    message.extend_from_slice(&request.head());
    message.extend_from_slice(bytes);
    // The flags of a Sign request, which those between us zero.
    message.extend_from_slice(&[0; SIGN_TAIL]);
    message
}

/// A Sign request for our key, up to the bytes of the frame in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sign {
    pub frame: Result<Request, FrameFault>,
    /// So many bytes belong to the frame.
    pub carried: usize,
    /// So many come behind it and mean nothing.
    pub trailing: usize,
}

impl Sign {
    /// Reads the beginning of a Sign request that is `length` bytes long behind its type. `None` where it is not
    /// for our key, or its data is not ours: it is to be refused, as an agent refuses to use a key.
    #[must_use]
    pub fn parse(head: &[u8; SIGN_HEAD], length: usize) -> Option<Self> {
        let (key, rest) = take_string(head)?;
        if key != KEY {
            return None;
        }
        let (data, frame) = rest.split_first_chunk()?;
        let data = usize::try_from(u32::from_be_bytes(*data)).ok()?;
        let carried = data.checked_sub(REQUEST_HEAD)?;
        let trailing = length.checked_sub(SIGN_HEAD)?.checked_sub(carried)?;
        let frame = Request::parse_head(frame.first_chunk()?, carried);
        (frame != Err(FrameFault::Foreign)).then_some(Self { frame, carried, trailing })
    }
}

/// The answer to a Sign request, up to the `carried` bytes of the frame in it.
#[must_use]
pub fn sign_answer(reply: &Reply, carried: usize) -> Vec<u8> {
    let blob = REPLY_HEAD + carried;
    let signature = 4 + ALGORITHM.len() + 4 + blob;
    let mut message = Vec::with_capacity(MESSAGE_HEAD + ANSWER_HEAD);
    message.extend_from_slice(&length_of(1 + 4 + signature));
    message.push(SIGN_ANSWER);
    message.extend_from_slice(&length_of(signature));
    put_string(&mut message, ALGORITHM);
    message.extend_from_slice(&length_of(blob));
    message.extend_from_slice(&reply.head());
    message
}

/// Reads the answer to a Sign request, without its type: the reply, and where in the answer its bytes are.
///
/// # Errors
/// When it is not an answer of ours, or brings more than `want` bytes.
pub fn parse_answer(answer: &[u8], want: usize) -> Result<(Reply, Range<usize>), FrameFault> {
    let foreign = FrameFault::Foreign;
    let (signature, _) = take_string(answer).ok_or(foreign)?;
    let (_algorithm, rest) = take_string(signature).ok_or(foreign)?;
    let (blob, _) = take_string(rest).ok_or(foreign)?;
    let (reply, bytes) = Reply::parse(blob)?;
    if bytes.len() > want {
        return Err(FrameFault::Malformed("it brings more than was asked for"));
    }
    let begin = 4 + signature.len() - rest.len() + 4 + REPLY_HEAD;
    Ok((reply, begin..begin + bytes.len()))
}

fn put_string(message: &mut Vec<u8>, bytes: &[u8]) {
    message.extend_from_slice(&length_of(bytes.len()));
    message.extend_from_slice(bytes);
}

fn take_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// Nothing that we write comes near four gigabytes.
fn length_of(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

pub const FAILURE: u8 = 5;
pub const REQUEST_IDENTITIES: u8 = 11;
pub const IDENTITIES_ANSWER: u8 = 12;
pub const SIGN_REQUEST: u8 = 13;
pub const SIGN_ANSWER: u8 = 14;

/// The longest message that is read rather than skipped, behind its type.
pub const LARGEST_MESSAGE: usize = LARGEST_REQUEST + SLACK;
/// The longest answer that a client takes, behind its type.
pub const LARGEST_ANSWER: usize = LARGEST_REPLY + SLACK;
/// The longest message that anybody sends: those between us take no longer one either.
pub const LONGEST_MESSAGE: usize = 16 << 20;
const SLACK: usize = 1 << 10;

/// What stands in a Sign request between its type and the bytes of the frame: the key, the length of the data, and
/// the frame's head.
pub const SIGN_HEAD: usize = 4 + KEY.len() + 4 + REQUEST_HEAD;
const SIGN_TAIL: usize = 4;
const ANSWER_HEAD: usize = 4 + 4 + ALGORITHM.len() + 4 + REPLY_HEAD;

/// The blob of the public key: the algorithm's name, then the SHA-256 of `valetkey agent carrier 0`, which is a
/// point on the curve (RFC 8032 section 5.1.3 decodes it).
pub const KEY: [u8; 51] = *b"\0\0\0\x0bssh-ed25519\0\0\0\x20\
    \xef\xcd\x71\xb1\xfb\xb6\x21\x8f\x42\xf3\x82\x05\x53\x28\x7c\x7d\
    \x30\x87\x67\x69\x50\xbd\x2d\x22\xbe\xf1\xed\x0b\xdb\xc3\xb0\x36";
/// What `ssh-add -l` shows behind the key.
pub const COMMENT: &[u8] = b"valetkey";
const ALGORITHM: &[u8] = b"ssh-ed25519";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::carrier::frame::{Status, StreamId};

    fn request() -> Request {
        Request {
            stream: StreamId::new([3; 16]),
            open: true,
            finish: false,
            close: false,
            fresh: true,
            wait: Duration::from_millis(20),
            want: 99,
            offset: 5,
            acknowledged: 6,
        }
    }

    #[test]
    fn key_is_the_hash_of_a_sentence() {
        let hash = ring::digest::digest(&ring::digest::SHA256, b"valetkey agent carrier 0");
        assert_eq!(&KEY[19..], hash.as_ref());
    }

    #[test]
    fn own_list_is_recognised_and_others_are_not() {
        let list = identities_answer();
        let (length, kind) = message_head(*list.first_chunk().unwrap()).unwrap();
        assert_eq!((length, kind), (list.len() - 5, IDENTITIES_ANSWER));
        assert!(lists_us(&list[5..]));
        assert!(!lists_us(&list[5..60]));
        assert!(!lists_us(&[0, 0, 0, 0]));
        let mut other = list.clone();
        other[40] ^= 1;
        assert!(!lists_us(&other[5..]));
        // Ours may stand behind others; a count that lies ends with the list.
        let two = [&[0, 0, 0, 2], &other[9..], &list[9..]].concat();
        assert!(lists_us(&two));
        assert!(!lists_us(&[&[0xff; 4], &other[9..]].concat()));
    }

    #[test]
    fn sign_request_is_read_up_to_its_bytes() {
        let message = sign_request(&request(), b"GET /");
        let (length, kind) = message_head(*message.first_chunk().unwrap()).unwrap();
        assert_eq!((length, kind), (message.len() - 5, SIGN_REQUEST));
        let head: &[u8; SIGN_HEAD] = message[5..].first_chunk().unwrap();
        let sign = Sign::parse(head, length).unwrap();
        assert_eq!(sign, Sign { frame: Ok(request()), carried: 5, trailing: 4 });
        // Without its flags it is one still; with less than it promises it is none.
        assert_eq!(Sign::parse(head, length - 4).unwrap().trailing, 0);
        assert_eq!(Sign::parse(head, length - 5), None);
        let mut other_key = *head;
        other_key[20] ^= 1;
        assert_eq!(Sign::parse(&other_key, length), None);
        let mut other_data = *head;
        other_data[SIGN_HEAD - REQUEST_HEAD] ^= 1;
        assert_eq!(Sign::parse(&other_data, length), None);
    }

    #[test]
    fn answer_is_read_back() {
        let reply = Reply { status: Status::Ok, end: true, more: false, offset: 7, accepted: 8 };
        let message = [sign_answer(&reply, 3).as_slice(), b"abc"].concat();
        let (length, kind) = message_head(*message.first_chunk().unwrap()).unwrap();
        assert_eq!((length, kind), (message.len() - 5, SIGN_ANSWER));
        let (read, place) = parse_answer(&message[5..], 3).unwrap();
        assert_eq!((read, &message[5..][place]), (reply, b"abc".as_slice()));
        assert!(matches!(parse_answer(&message[5..], 2), Err(FrameFault::Malformed(_))));
        assert_eq!(parse_answer(&message[5..30], 3), Err(FrameFault::Foreign));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(bytes: Vec<u8>, length: usize, want: u16) {
            let _ = lists_us(&bytes);
            if let Ok((_, place)) = parse_answer(&bytes, want.into()) {
                prop_assert!(bytes.get(place).is_some());
            }
            if let Some(head) = bytes.first_chunk() {
                let _ = Sign::parse(head, length);
            }
        }

        #[test]
        fn a_head_of_ours_with_other_lengths_is_safe(data: u32, length: usize) {
            let message = sign_request(&request(), b"");
            let mut head: [u8; SIGN_HEAD] = *message[5..].first_chunk().unwrap();
            head[4 + KEY.len()..][..4].copy_from_slice(&data.to_be_bytes());
            if let Some(sign) = Sign::parse(&head, length) {
                prop_assert_eq!(Some(length), sign.carried.checked_add(SIGN_HEAD + sign.trailing));
            }
        }
    }
}
