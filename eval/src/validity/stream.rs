//! The bytes of one direction of a TCP flow, put in order, and what is read in them.

use wiremamba_model::flow::Direction;

use super::http::{self, FirstLine};
use super::report::{Messages, TlsStreams};
use super::tcp::Tracker;
use super::{dns, tls};

/// Bytes that a direction holds back while earlier ones are missing; both directions of a flow together twice that.
pub(super) const PENDING_BYTES_MAX: usize = 128 << 10;
/// Segments that are held back at most.
const PENDING_SEGMENTS_MAX: usize = 512;
/// Longest method or version that tells what a stream is, in bytes.
const BEGINNING_MAX: usize = 16;

/// What the payload of flows was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Payloads {
    pub(super) tls: TlsStreams,
    pub(super) dns: Messages,
    pub(super) http: Messages,
    pub(super) quic: Messages,
    /// Streams that were read in part only because too much came out of order.
    pub(super) streams_over_limit: u64,
}

/// One direction of a flow.
#[derive(Debug)]
pub(super) struct Stream {
    /// Number of the next byte; `None` before the first.
    next: Option<u32>,
    pending: Vec<(u32, Vec<u8>, bool)>,
    pending_bytes: usize,
    reader: Reader,
    /// Whether nothing more is read: bytes were not captured, or too many were held back.
    is_stopped: bool,
    is_over_limit: bool,
}

/// What a stream is read as.
#[derive(Debug)]
enum Reader {
    /// Not known yet; the bytes so far.
    Undecided(Vec<u8>),
    Tls(tls::Records),
    /// The first line so far, until its end.
    Http(Vec<u8>),
    /// The message so far with its length in front (RFC 1035, section 4.2.2).
    Dns(Vec<u8>),
    /// Nothing that is judged, or judged already.
    Done,
}

impl Stream {
    /// An empty stream; one of DNS messages when the port says so.
    pub(super) fn new(is_dns: bool) -> Self {
        let reader = if is_dns { Reader::Dns(Vec::new()) } else { Reader::Undecided(Vec::new()) };
        Self { next: None, pending: Vec::new(), pending_bytes: 0, reader, is_stopped: false, is_over_limit: false }
    }

    /// Takes in the payload at `seq`. `is_cut` says that the capture has only the beginning of it; `first` is the number
    /// of the first byte of the stream, where it is known.
    pub(super) fn push(&mut self, seq: u32, bytes: &[u8], is_cut: bool, first: Option<u32>, ret: &mut Found) {
        if self.is_stopped || matches!(self.reader, Reader::Done) || (bytes.is_empty() && !is_cut) {
            return;
        }
        if self.next.is_none() && first.is_none() && matches!(self.reader, Reader::Dns(_)) {
            // Only at its beginning does a stream of messages tell where one begins.
            self.reader = Reader::Done;
            return;
        }
        let next = *self.next.get_or_insert(first.unwrap_or(seq));
        if seq.wrapping_sub(next).cast_signed() > 0 {
            self.hold(seq, bytes, is_cut);
            return;
        }
        self.feed(seq, bytes, is_cut, ret);
        while let Some(at) = self.pending.iter().position(|(seq, ..)| self.is_due(*seq)) {
            let (seq, bytes, is_cut) = self.pending.swap_remove(at);
            self.pending_bytes -= bytes.len();
            self.feed(seq, &bytes, is_cut, ret);
        }
    }

    fn is_due(&self, seq: u32) -> bool {
        self.next.is_some_and(|next| seq.wrapping_sub(next).cast_signed() <= 0)
    }

    fn hold(&mut self, seq: u32, bytes: &[u8], is_cut: bool) {
        if self.pending.len() >= PENDING_SEGMENTS_MAX || self.pending_bytes + bytes.len() > PENDING_BYTES_MAX {
            (self.is_stopped, self.is_over_limit) = (true, true);
            (self.pending, self.pending_bytes) = (Vec::new(), 0);
            return;
        }
        self.pending_bytes += bytes.len();
        self.pending.push((seq, bytes.to_vec(), is_cut));
    }

    /// Reads what is new of a segment that begins no later than the next byte.
    fn feed(&mut self, seq: u32, bytes: &[u8], is_cut: bool, ret: &mut Found) {
        let Some(next) = self.next else { return };
        let known = next.wrapping_sub(seq) as usize;
        if self.is_stopped || (known >= bytes.len() && !is_cut) {
            return;
        }
        let new = bytes.get(known..).unwrap_or_default();
        self.next = Some(next.wrapping_add(new.len() as u32));
        self.is_stopped = is_cut;
        self.reader.feed(new, ret);
    }

    /// Judges what is only known at the end. `fin` is the number of the side's FIN.
    pub(super) fn finish(self, fin: Option<u32>, ret: &mut Found) {
        ret.over_limit += u64::from(self.is_over_limit);
        if let Reader::Tls(records) = &self.reader {
            // A sender that closes in the middle of a record has cut it itself.
            let ended_itself = fin.is_some() && fin == self.next;
            ret.tls.streams += 1;
            ret.tls.records += records.records;
            if records.is_bad || (!records.is_whole() && ended_itself) {
                ret.tls.bad += 1;
            } else if !records.is_whole() || self.is_stopped || !self.pending.is_empty() {
                ret.tls.cut += 1;
            } else {
                ret.tls.whole += 1;
            }
        }
    }
}

/// What a flow's streams were.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) tls: TlsStreams,
    pub(super) dns: Messages,
    pub(super) http: Messages,
    pub(super) over_limit: u64,
}

impl Reader {
    fn feed(&mut self, bytes: &[u8], ret: &mut Found) {
        match self {
            Self::Undecided(so_far) => {
                let have = so_far.len();
                so_far.extend_from_slice(&bytes[..bytes.len().min(BEGINNING_MAX - have)]);
                let (is_tls, is_http) = (tls::begins_like(so_far), http::begins_like(so_far));
                let begin = if is_tls == Some(true) {
                    Self::Tls(tls::Records::default())
                } else if is_http == Some(true) {
                    Self::Http(Vec::new())
                } else if is_tls.is_none() || is_http.is_none() {
                    return;
                } else {
                    Self::Done
                };
                // What was looked at to decide is read again: what came before, then all of this segment.
                let before = so_far[..have].to_vec();
                *self = begin;
                self.feed(&before, ret);
                self.feed(bytes, ret);
            }
            Self::Tls(records) => records.feed(bytes),
            Self::Http(line) => {
                let end = bytes.iter().position(|b| *b == b'\n');
                line.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
                if end.is_some() || line.len() > http::LINE_MAX {
                    let found = http::first_line(line);
                    if found != FirstLine::NotHttp {
                        ret.http.count(found == FirstLine::Valid && end.is_some());
                    }
                    *self = Self::Done;
                }
            }
            Self::Dns(message) => feed_dns(message, bytes, &mut ret.dns),
            Self::Done => {}
        }
    }
}

/// Judges the messages that become whole.
fn feed_dns(message: &mut Vec<u8>, mut bytes: &[u8], ret: &mut Messages) {
    while !bytes.is_empty() {
        let need = match *message.as_slice() {
            [a, b, ..] => 2 + usize::from(u16::from_be_bytes([a, b])),
            _ => 2,
        };
        let (new, rest) = bytes.split_at(bytes.len().min(need - message.len()));
        message.extend_from_slice(new);
        bytes = rest;
        if message.len() >= 2 && message.len() == need && (need > 2 || message[..2] == [0, 0]) {
            ret.count(dns::is_message(&message[2..]));
            message.clear();
        }
    }
}

/// The streams of both directions.
#[derive(Debug)]
pub(super) struct Streams([Stream; 2]);

impl Streams {
    pub(super) fn new(is_dns: bool) -> Self {
        Self([Stream::new(is_dns), Stream::new(is_dns)])
    }

    pub(super) fn of(&mut self, direction: Direction) -> &mut Stream {
        &mut self.0[direction as usize]
    }

    pub(super) fn finish(self, tracker: &Tracker, ret: &mut Found) {
        for (direction, stream) in [Direction::Orig, Direction::Resp].into_iter().zip(self.0) {
            stream.finish(tracker.fin(direction), ret);
        }
    }
}
