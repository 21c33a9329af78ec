//! The client's end of one stream, without any I/O: which exchange comes next, and what an answer changes.
//!
//! Up to two exchanges are on their way at once. One alone asks for what stands behind the bytes that have been
//! acknowledged, so that it finds what an earlier one lost; a second one asks for bytes that no reply has carried
//! yet. Bytes that arrive early wait for their turn. A gap that no exchange on its way can fill is asked for again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hyper::body::{Buf, Bytes};

use super::wire;
use crate::carrier::frame::{LARGEST_REPLY, LARGEST_REQUEST, Reply, Request, Status, StreamId};

/// See the module.
#[derive(Debug)]
pub(super) struct Conversation {
    stream: StreamId,
    /// An exchange has succeeded.
    is_open: bool,

    /// What the daemon has not taken yet; its first byte stands at `offset`.
    pending: Vec<u8>,
    offset: u64,
    /// The most bytes in a request at present.
    request_size: usize,
    is_finishing: bool,
    is_finished: bool,

    /// What can be read.
    ready: VecDeque<Bytes>,
    ready_length: usize,
    /// What came before its turn.
    early: BTreeMap<u64, Bytes>,
    /// All before this has arrived; the daemon was told so up to `acknowledged`.
    next: u64,
    acknowledged: u64,
    end: Option<u64>,
    /// The most bytes wanted in a reply at present.
    reply_size: usize,
    /// The daemon has more than it can say in one reply.
    is_bulk: bool,

    under_way: Vec<UnderWay>,
    count: u64,
    /// An exchange was lost: what it asked for may have been sent.
    is_torn: bool,
    /// Where bytes are missing, and the last exchange that may bring them.
    gap: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct UnderWay {
    number: u64,
    carries: usize,
    carries_end: bool,
    want: usize,
}

/// An exchange to be made.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) number: u64,
    pub(super) message: Vec<u8>,
    pub(super) want: usize,
    /// The answer may take so long.
    pub(super) hold: Duration,
}

impl Conversation {
    pub(super) fn new(stream: StreamId) -> Self {
        Self {
            stream,
            is_open: false,
            pending: Vec::new(),
            offset: 0,
            request_size: FIRST_FRAME,
            is_finishing: false,
            is_finished: false,
            ready: VecDeque::new(),
            ready_length: 0,
            early: BTreeMap::new(),
            next: 0,
            acknowledged: 0,
            end: None,
            reply_size: FIRST_FRAME,
            is_bulk: false,
            under_way: Vec::with_capacity(2),
            count: 0,
            is_torn: false,
            gap: None,
        }
    }

    /// Takes bytes to send, as many as there is room for.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        let some = bytes.len().min(MOST_PENDING.saturating_sub(self.pending.len()));
        self.pending.extend_from_slice(&bytes[..some]);
        some
    }

    /// Nothing comes behind what was written.
    pub(super) fn finish(&mut self) {
        self.is_finishing = true;
    }

    pub(super) fn is_finishing(&self) -> bool {
        self.is_finishing
    }

    /// Gives bytes that have arrived.
    pub(super) fn read(&mut self, most: usize) -> Option<Bytes> {
        let front = self.ready.front_mut()?;
        let some = front.split_to(front.len().min(most));
        if front.is_empty() {
            self.ready.pop_front();
        }
        self.ready_length -= some.len();
        Some(some)
    }

    /// Whether all that the daemon has to say has arrived.
    pub(super) fn has_all(&self) -> bool {
        self.end == Some(self.next)
    }

    /// Whether all that the daemon has to say has arrived and been read.
    pub(super) fn is_at_end(&self) -> bool {
        self.ready.is_empty() && self.has_all()
    }

    /// Whether the daemon has to be told that this is over: not where the stream has come to its end there by
    /// itself, and not where it never began.
    pub(super) fn wants_closing(&self) -> bool {
        let is_small = self.next - self.acknowledged <= FEW;
        self.count > 0 && !(self.has_all() && is_small)
    }

    /// Whether there is room now to read ahead.
    pub(super) fn reads_ahead(&self) -> bool {
        self.wanted(false) > 0
    }

    /// After how long the daemon has to hear of what has arrived, if nothing else is said: soon where it still
    /// holds much of it, and now and then while it waits here to be read, lest the stream seem idle.
    pub(super) fn acknowledges_after(&self) -> Option<Duration> {
        if self.has_all() || !self.under_way.is_empty() {
            return None;
        }
        let holds_much = self.next - self.acknowledged > FEW;
        let later = (!self.ready.is_empty()).then_some(KEEP_ALIVE);
        if holds_much { Some(ACKNOWLEDGE) } else { later }
    }

    /// The next exchange. `is_reading` where somebody waits for bytes; `patience` is how long an answer may be held
    /// on the connection that is there for it.
    pub(super) fn next(&mut self, is_reading: bool, patience: Duration) -> Option<Exchange> {
        let is_alone = self.under_way.is_empty();
        let is_sending = self.under_way.iter().any(|other| other.carries > 0 || other.carries_end);
        let has_more = !self.pending.is_empty() || (self.is_finishing && !self.is_finished);
        let carries = if is_sending { 0 } else { self.pending.len().min(self.request_size) };
        let sends = has_more && !is_sending;
        let begins = self.is_open || sends;
        let want = if begins { self.wanted(is_reading) } else { 0 };
        if !sends && want == 0 {
            return None;
        }
        let carries_end = sends && self.is_finishing && carries == self.pending.len();
        let fills_gap = self.gap_to_fill();
        // Whoever carries something may have more to carry in a moment.
        let hold = if sends || !is_alone { SHORT_HOLD } else { LONG_HOLD };
        let hold = if want == 0 { Duration::ZERO } else { hold.min(patience) };
        self.count += 1;
        let under_way = UnderWay { number: self.count, carries, carries_end, want };
        let request = Request {
            stream: self.stream,
            open: !self.is_open,
            finish: carries_end,
            close: false,
            fresh: !is_alone && !self.is_torn && fills_gap.is_none(),
            wait: hold,
            want: u32::try_from(fills_gap.unwrap_or(want).min(want)).unwrap_or(u32::MAX),
            offset: self.offset,
            acknowledged: self.next,
        };
        if want > 0 {
            self.is_torn = false;
        }
        if fills_gap.is_some() {
            self.gap = Some((self.next, self.count));
        }
        self.acknowledged = self.next;
        self.under_way.push(under_way);
        let message = wire::sign_request(&request, self.pending.get(..carries).unwrap_or_default());
        Some(Exchange { number: self.count, message, want, hold })
    }

    /// An exchange that only says what has arrived.
    pub(super) fn acknowledgement(&mut self) -> Exchange {
        self.plain(false)
    }

    /// The last exchange: the daemon may forget the stream.
    pub(super) fn closing(&mut self) -> Exchange {
        self.plain(true)
    }

    /// What an answer brings.
    ///
    /// # Errors
    /// What the daemon says instead.
    pub(super) fn absorb(&mut self, number: u64, reply: &Reply, bytes: Bytes) -> Result<(), Status> {
        let Some(place) = self.under_way.iter().position(|other| other.number == number) else {
            return Ok(());
        };
        let exchange = self.under_way.swap_remove(place);
        if reply.status != Status::Ok {
            return Err(reply.status);
        }
        self.is_open = true;
        self.take_back(&exchange, reply.accepted)?;
        if exchange.want > 0 {
            self.take_in(&exchange, reply, bytes)?;
        }
        Ok(())
    }

    /// An exchange has got no answer. The next ones carry less: it may have been too much for the life of a
    /// connection.
    pub(super) fn lose(&mut self, number: u64) {
        self.under_way.retain(|other| other.number != number);
        self.reply_size = (self.reply_size / 2).max(FIRST_FRAME);
        self.request_size = (self.request_size / 2).max(FIRST_FRAME);
        self.is_torn = true;
        // What it would have told the daemon is to be told again.
        self.acknowledged = 0;
    }

    /// How many bytes to ask for.
    fn wanted(&self, is_reading: bool) -> usize {
        let readers = self.under_way.iter().filter(|other| other.want > 0).count();
        // Two connections are not served alike: while one reply crawls, the other way may bring several.
        let has_room = self.ready_length <= 2 * self.reply_size && self.early.len() < MOST_EARLY;
        let wants = match readers {
            0 => !self.has_all() && (is_reading || (self.is_bulk && has_room)),
            1 => self.gap_to_fill().is_some() || (self.is_bulk && has_room && self.end.is_none()),
            _ => false,
        };
        if wants { self.reply_size } else { 0 }
    }

    /// The length of a gap that nothing on its way will fill.
    fn gap_to_fill(&self) -> Option<usize> {
        let (first, _) = self.early.first_key_value()?;
        let seen = self.gap.filter(|(offset, _)| *offset == self.next).map_or(self.count, |(_, count)| count);
        let is_coming = self.under_way.iter().any(|other| other.want > 0 && other.number <= seen);
        (!is_coming).then(|| usize::try_from(first - self.next).unwrap_or(LARGEST_REPLY))
    }

    fn plain(&mut self, close: bool) -> Exchange {
        self.count += 1;
        let under_way = UnderWay { number: self.count, carries: 0, carries_end: false, want: 0 };
        self.under_way.push(under_way);
        let request = Request {
            stream: self.stream,
            open: false,
            finish: false,
            close,
            fresh: false,
            wait: Duration::ZERO,
            want: 0,
            offset: self.offset,
            acknowledged: self.next,
        };
        self.acknowledged = self.next;
        Exchange {
            number: self.count,
            message: wire::sign_request(&request, b""),
            want: 0,
            hold: Duration::ZERO,
        }
    }

    /// What the daemon has taken need not be kept.
    fn take_back(&mut self, exchange: &UnderWay, accepted: u64) -> Result<(), Status> {
        let written = self.offset + self.pending.len() as u64;
        if accepted > written {
            return Err(Status::Malformed);
        }
        let taken = usize::try_from(accepted.saturating_sub(self.offset)).unwrap_or_default();
        self.pending.drain(..taken);
        self.offset += taken as u64;
        if exchange.carries > 0 {
            self.request_size = if taken == exchange.carries {
                (self.request_size * 2).min(LARGEST_REQUEST)
            } else {
                taken.max(FIRST_FRAME)
            };
        }
        self.is_finished |= exchange.carries_end && self.pending.is_empty();
        Ok(())
    }

    /// Puts what has arrived into its place.
    fn take_in(&mut self, exchange: &UnderWay, reply: &Reply, mut bytes: Bytes) -> Result<(), Status> {
        let length = bytes.len();
        let behind = reply.offset + length as u64;
        if reply.end && *self.end.get_or_insert(behind) != behind {
            return Err(Status::Malformed);
        }
        if length == exchange.want {
            self.reply_size = (self.reply_size * 2).min(LARGEST_REPLY);
        } else if reply.more {
            self.reply_size = length.clamp(FIRST_FRAME, LARGEST_REPLY);
        }
        self.is_bulk = reply.more && !reply.end;
        if reply.offset > self.next {
            if length > 0 {
                self.early.insert(reply.offset, bytes);
            }
            if self.gap.is_none_or(|(offset, _)| offset != self.next) {
                self.gap = Some((self.next, self.count));
            }
            return Ok(());
        }
        let known = usize::try_from(self.next - reply.offset).unwrap_or(usize::MAX);
        if known < length {
            bytes.advance(known);
            self.append(bytes);
        }
        while let Some((offset, mut bytes)) = self.early.pop_first() {
            if offset > self.next {
                self.early.insert(offset, bytes);
                break;
            }
            let known = usize::try_from(self.next - offset).unwrap_or(usize::MAX);
            if known < bytes.len() {
                bytes.advance(known);
                self.append(bytes);
            }
        }
        Ok(())
    }

    fn append(&mut self, bytes: Bytes) {
        self.next += bytes.len() as u64;
        self.ready_length += bytes.len();
        self.ready.push_back(bytes);
    }
}

/// What is asked for until it shows that there is more.
const FIRST_FRAME: usize = 64 << 10;
/// What may be written before the daemon has taken it.
const MOST_PENDING: usize = LARGEST_REQUEST;
/// So many replies may wait for one that is late.
const MOST_EARLY: usize = 4;
/// The daemon does not mind keeping so many bytes of a stream that is over.
const FEW: u64 = 4 << 10;
/// So long after the last bytes came the daemon hears of it, where nothing else is said.
const ACKNOWLEDGE: Duration = Duration::from_millis(200);
/// A third of the time after which the daemon drops an idle stream.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long an answer may be held that is owed.
const LONG_HOLD: Duration = Duration::from_millis(1200);
const SHORT_HOLD: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests;
