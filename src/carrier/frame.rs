//! The frames of the agent carrier: what stands in the data of a Sign request, and in the signature that answers
//! it. Pure: bytes in, values out.
//!
//! A request belongs to one byte stream and may open it, carry bytes up, ask for bytes down, and close, all at
//! once; the reply says what was taken and brings what there is. Both name offsets, so that the same exchange can
//! be repeated without harm whenever a connection breaks between the two.
//!
//! ```text
//! request  magic 8 | version 1 | flags 1 | wait, milliseconds 2 | most bytes wanted 4 | stream 16 | offset 8 | acknowledged 8 | bytes …
//! reply    magic 8 | version 1 | status 1 | flags 1 | 0 | offset 8 | accepted 8 | bytes …
//! ```
//!
//! Numbers are big-endian. Magic and version stay where they are in every version to come. The magic cannot begin
//! anything that SSH signs: an authentication request begins with the length of a session id, which these four
//! letters would make two gigabytes, and a file signature with `SSHSIG`.
//!
//! No length is believed: parsing allocates nothing, and what a frame carries is what is left of it.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::error::{Fault, Kind};

/// The name of a stream, chosen at random by the client. Whoever knows it can read the stream, so nothing prints
/// it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamId([u8; 16]);

impl StreamId {
    #[must_use]
    pub fn new(random: [u8; 16]) -> Self {
        Self(random)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamId(…)")
    }
}

/// One request, without the bytes that it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub stream: StreamId,
    /// Makes the stream if it is not there. Repeating it changes nothing.
    pub open: bool,
    /// No bytes come behind the ones that this request carries.
    pub finish: bool,
    /// The client wants nothing more of this stream.
    pub close: bool,
    /// Wanted are bytes that no reply has carried yet; without it, those behind `acknowledged`.
    pub fresh: bool,
    /// How long the reply may be held while there is nothing to send. Whole milliseconds.
    pub wait: Duration,
    /// The most bytes wanted in the reply.
    pub want: u32,
    /// Where the bytes of this request stand in what the client sends.
    pub offset: u64,
    /// The client has everything that stands before this.
    pub acknowledged: u64,
}

impl Request {
    /// The frame up to its bytes.
    #[must_use]
    pub fn head(&self) -> [u8; REQUEST_HEAD] {
        let flags = flag(self.open, OPEN)
            | flag(self.finish, FINISH)
            | flag(self.close, CLOSE)
            | flag(self.fresh, FRESH);
        let wait = u16::try_from(self.wait.as_millis()).unwrap_or(u16::MAX);
        let mut head = [0; REQUEST_HEAD];
        let mut writer = Writer(&mut head);
        writer.put(MAGIC);
        writer.put(&[VERSION, flags]);
        writer.put(&wait.to_be_bytes());
        writer.put(&self.want.to_be_bytes());
        writer.put(&self.stream.0);
        writer.put(&self.offset.to_be_bytes());
        writer.put(&self.acknowledged.to_be_bytes());
        head
    }

    /// Reads the head of a frame behind which `carried` bytes follow.
    ///
    /// # Errors
    /// When the frame is not ours, of another version, or does not make sense.
    pub fn parse_head(head: &[u8; REQUEST_HEAD], carried: usize) -> Result<Self, FrameFault> {
        let mut reader = Reader::new(head)?;
        let [flags] = reader.take()?;
        let patience = Duration::from_millis(u16::from_be_bytes(reader.take()?).into());
        let want = u32::from_be_bytes(reader.take()?);
        let stream = StreamId(reader.take()?);
        let offset = u64::from_be_bytes(reader.take()?);
        let acknowledged = u64::from_be_bytes(reader.take()?);
        if flags & !(OPEN | FINISH | CLOSE | FRESH) != 0 {
            return Err(FrameFault::Malformed("an unknown flag"));
        }
        if carried > LARGEST_REQUEST {
            return Err(FrameFault::Malformed("more bytes than a request may carry"));
        }
        if offset.checked_add(carried as u64).is_none() {
            return Err(FrameFault::Malformed("an offset without end"));
        }
        Ok(Self {
            stream,
            open: flags & OPEN != 0,
            finish: flags & FINISH != 0,
            close: flags & CLOSE != 0,
            fresh: flags & FRESH != 0,
            wait: patience,
            want,
            offset,
            acknowledged,
        })
    }

    /// Reads a whole frame: the request and its bytes.
    ///
    /// # Errors
    /// As [`Self::parse_head`], or when it is too short.
    pub fn parse(frame: &[u8]) -> Result<(Self, &[u8]), FrameFault> {
        let (head, bytes) = frame.split_first_chunk().ok_or_else(|| too_short(frame))?;
        Ok((Self::parse_head(head, bytes.len())?, bytes))
    }
}

/// What the daemon says about a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// There is no such stream: it never was, it is over, or it is somebody else's. The answer is the same.
    Unknown,
    /// There are as many streams as may be. A moment later there may be room.
    Full,
    /// The daemon is ending and opens no streams.
    Ending,
    /// The frame is of a version that this daemon does not speak. The reply's own version is the daemon's.
    Version,
    /// The frame does not make sense.
    Malformed,
}

/// One reply, without the bytes that it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    pub status: Status,
    /// The bytes of this reply are the last ones.
    pub end: bool,
    /// More bytes are there already.
    pub more: bool,
    /// Where the bytes of this reply stand in what the daemon sends.
    pub offset: u64,
    /// How much of what the client sent has been taken, from the beginning of the stream.
    pub accepted: u64,
}

impl Reply {
    /// A reply that says no, and why.
    #[must_use]
    pub fn refusal(status: Status) -> Self {
        Self { status, end: false, more: false, offset: 0, accepted: 0 }
    }

    /// The frame up to its bytes.
    #[must_use]
    pub fn head(&self) -> [u8; REPLY_HEAD] {
        let mut head = [0; REPLY_HEAD];
        let mut writer = Writer(&mut head);
        writer.put(MAGIC);
        writer.put(&[VERSION, self.status.code(), flag(self.end, END) | flag(self.more, MORE), 0]);
        writer.put(&self.offset.to_be_bytes());
        writer.put(&self.accepted.to_be_bytes());
        head
    }

    /// Reads the head of a frame behind which `carried` bytes follow.
    ///
    /// # Errors
    /// When the frame is not ours, of another version, or does not make sense.
    pub fn parse_head(head: &[u8; REPLY_HEAD], carried: usize) -> Result<Self, FrameFault> {
        let mut reader = Reader::new(head)?;
        let [code, flags, spare] = reader.take()?;
        let status = Status::of(code).ok_or(FrameFault::Malformed("an unknown status"))?;
        let offset = u64::from_be_bytes(reader.take()?);
        let accepted = u64::from_be_bytes(reader.take()?);
        if flags & !(END | MORE) != 0 || spare != 0 {
            return Err(FrameFault::Malformed("an unknown flag"));
        }
        if offset.checked_add(carried as u64).is_none() {
            return Err(FrameFault::Malformed("an offset without end"));
        }
        Ok(Self { status, end: flags & END != 0, more: flags & MORE != 0, offset, accepted })
    }

    /// Reads a whole frame: the reply and its bytes.
    ///
    /// # Errors
    /// As [`Self::parse_head`], or when it is too short.
    pub fn parse(frame: &[u8]) -> Result<(Self, &[u8]), FrameFault> {
        let (head, bytes) = frame.split_first_chunk().ok_or_else(|| too_short(frame))?;
        Ok((Self::parse_head(head, bytes.len())?, bytes))
    }
}

impl Status {
    fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Unknown => 1,
            Self::Full => 2,
            Self::Ending => 3,
            Self::Version => 4,
            Self::Malformed => 5,
        }
    }

    fn of(code: u8) -> Option<Self> {
        let all = [Self::Ok, Self::Unknown, Self::Full, Self::Ending, Self::Version, Self::Malformed];
        all.into_iter().find(|status| status.code() == code)
    }
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameFault {
    /// They do not begin with the magic: something else is asked to be signed, or something else has signed.
    #[error("these bytes are no frame of valetkey's")]
    Foreign,
    /// The other side is older or newer. Remedy: run the same version of valetkey on both sides.
    #[error("the other side speaks version {0} of the agent carrier and this one version {VERSION}")]
    Version(u8),
    /// The other side is broken, or not valetkey.
    #[error("a frame of the agent carrier is broken: {0}")]
    Malformed(&'static str),
}

impl Fault for FrameFault {
    fn kind(&self) -> Kind {
        Kind::Unreachable
    }

    fn hint(&self) -> Option<String> {
        let text = "use the same version of valetkey inside and outside of the container";
        matches!(self, Self::Version(_)).then(|| text.to_owned())
    }
}

/// Whether a frame that is cut short was ours at all.
fn too_short(frame: &[u8]) -> FrameFault {
    if frame.starts_with(MAGIC) { FrameFault::Malformed("it is too short") } else { FrameFault::Foreign }
}

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// Puts fields into a head one after the other.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn put(&mut self, field: &[u8]) {
        let (place, rest) = std::mem::take(&mut self.0).split_at_mut(field.len());
        place.copy_from_slice(field);
        self.0 = rest;
    }
}

/// Takes fields out of a head one after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Begins behind magic and version, which are what they have to be.
    fn new(head: &'a [u8]) -> Result<Self, FrameFault> {
        let rest = head.strip_prefix(MAGIC).ok_or(FrameFault::Foreign)?;
        let mut reader = Self(rest);
        match reader.take()? {
            [VERSION] => Ok(reader),
            [other] => Err(FrameFault::Version(other)),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], FrameFault> {
        let (field, rest) = self.0.split_first_chunk().ok_or(FrameFault::Malformed("it is too short"))?;
        self.0 = rest;
        Ok(*field)
    }
}

/// The length of a request's frame without its bytes.
pub const REQUEST_HEAD: usize = 48;
/// The length of a reply's frame without its bytes.
pub const REPLY_HEAD: usize = 28;
/// The most bytes that one request carries.
pub const LARGEST_REQUEST: usize = 1 << 20;
/// The most bytes that one reply carries.
pub const LARGEST_REPLY: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"valetkey";
const VERSION: u8 = 1;

const OPEN: u8 = 1;
const FINISH: u8 = 2;
const CLOSE: u8 = 4;
const FRESH: u8 = 8;

const END: u8 = 1;
const MORE: u8 = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests() -> impl Strategy<Value = Request> {
        let flags = any::<[bool; 4]>();
        let numbers = (any::<[u8; 16]>(), any::<u16>(), any::<u32>(), 0..=u64::MAX >> 1, any::<u64>());
        (flags, numbers).prop_map(|([open, finish, close, fresh], (id, wait, want, offset, acknowledged))| {
            let wait = Duration::from_millis(wait.into());
            Request { stream: StreamId(id), open, finish, close, fresh, wait, want, offset, acknowledged }
        })
    }

    fn replies() -> impl Strategy<Value = Reply> {
        let numbers = (0..=5_u8, any::<bool>(), any::<bool>(), 0..=u64::MAX >> 1, any::<u64>());
        numbers.prop_map(|(code, end, more, offset, accepted)| Reply {
            status: Status::of(code).unwrap(),
            end,
            more,
            offset,
            accepted,
        })
    }

    proptest! {
        #[test]
        fn request_round_trips(request in requests(), bytes: Vec<u8>) {
            let frame = [request.head().as_slice(), &bytes].concat();
            prop_assert_eq!(Request::parse(&frame), Ok((request, bytes.as_slice())));
        }

        #[test]
        fn reply_round_trips(reply in replies(), bytes: Vec<u8>) {
            let frame = [reply.head().as_slice(), &bytes].concat();
            prop_assert_eq!(Reply::parse(&frame), Ok((reply, bytes.as_slice())));
        }

        /// What parses is written the same way again: there is one form of each frame.
        #[test]
        fn any_bytes_are_a_frame_or_a_fault(mut bytes: Vec<u8>, ours: bool) {
            if ours && bytes.len() > 9 {
                bytes[..8].copy_from_slice(MAGIC);
                bytes[8] = VERSION;
            }
            if let Ok((request, rest)) = Request::parse(&bytes) {
                prop_assert_eq!([request.head().as_slice(), rest].concat(), bytes.clone());
            }
            if let Ok((reply, rest)) = Reply::parse(&bytes) {
                prop_assert_eq!([reply.head().as_slice(), rest].concat(), bytes);
            }
        }
    }

    #[test]
    fn what_ssh_signs_is_foreign() {
        // RFC 4252 section 7: the session id as a string, then message 50.
        for session_id in [20_u32, 32, 64] {
            let mut data = session_id.to_be_bytes().to_vec();
            data.resize(4 + session_id as usize, 7);
            data.extend_from_slice(b"\x32\0\0\0\x04user\0\0\0\x0essh-connection");
            data.resize(200, 7);
            assert_eq!(Request::parse(&data), Err(FrameFault::Foreign));
        }
        assert_eq!(Request::parse(&[b"SSHSIG".as_slice(), &[0; 100]].concat()), Err(FrameFault::Foreign));
        assert_eq!(Request::parse(b""), Err(FrameFault::Foreign));
    }

    #[test]
    fn versions_flags_and_offsets_are_checked() {
        let request = Request {
            stream: StreamId([7; 16]),
            open: true,
            finish: false,
            close: false,
            fresh: false,
            wait: Duration::ZERO,
            want: 1,
            offset: u64::MAX - 1,
            acknowledged: 0,
        };
        let head = request.head();
        assert!(Request::parse_head(&head, 1).is_ok());
        assert!(matches!(Request::parse_head(&head, 2), Err(FrameFault::Malformed(_))));
        assert!(matches!(Request::parse_head(&head, usize::MAX), Err(FrameFault::Malformed(_))));
        let mut other = head;
        other[8] = 2;
        assert_eq!(Request::parse_head(&other, 0), Err(FrameFault::Version(2)));
        other = head;
        other[9] = 0x80;
        assert!(matches!(Request::parse_head(&other, 0), Err(FrameFault::Malformed(_))));
        assert!(matches!(Request::parse(&head[..40]), Err(FrameFault::Malformed(_))));
        assert_eq!(format!("{:?}", request.stream), "StreamId(…)");
    }
}
