//! What both sides of a flow have done so far: the state that decisions are relative to.

use std::collections::VecDeque;

use super::action::{Opt, Segment};
use super::vocab::BOUNDS;

/// Holes of a stream that are remembered; the oldest is forgotten beyond.
const HOLES_MAX: usize = 4;
/// Bytes of a message that later ones can repeat.
pub(super) const MESSAGE_MAX: usize = 512;

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;

/// One side of a flow.
#[derive(Debug, Clone)]
pub(super) struct Side {
    /// Whether it has sent anything.
    pub(super) has_sent: bool,
    /// Last time to live, DSCP and ECN, don't fragment, and whether identifications are 0.
    pub(super) ttl: u8,
    pub(super) tos: u8,
    pub(super) df: bool,
    pub(super) id_zero: bool,
    /// Next sequence number.
    pub(super) next: i64,
    /// Last acknowledgement number.
    pub(super) acked: i64,
    /// Where segments began and ended, the latest last.
    pub(super) bounds: VecDeque<i64>,
    /// What was left out and not sent since, in order.
    pub(super) holes: Vec<(i64, i64)>,
    /// Whether it has sent SYN, and the sequence number of its FIN.
    pub(super) syn: bool,
    pub(super) fin: Option<i64>,
    /// Last window.
    pub(super) window: u16,
    /// Window scale of its SYN (RFC 7323, section 2.2).
    pub(super) scale: Option<u8>,
    /// How far into the other side's stream its windows have reached; `None` where its SYN was not seen.
    pub(super) edge: Option<i64>,
    /// Whether its last segment had timestamps, and whether its SYN permitted SACK.
    pub(super) ts: bool,
    pub(super) sack: bool,
    /// Longest and last payload.
    pub(super) len_max: u16,
    pub(super) len_last: u16,
    /// Bytes left of the TLS record; whether the stream is one of records throughout.
    pub(super) record_left: u16,
    pub(super) framed: bool,
    /// Bytes kept of its last message.
    pub(super) message_len: u16,
    /// Whether its last payload was pushed.
    pub(super) pushed: bool,
}

impl Side {
    /// A side that has not sent anything.
    pub(super) const fn blank() -> Self {
        Self {
            has_sent: false,
            ttl: 64,
            tos: 0,
            df: true,
            id_zero: false,
            next: 0,
            acked: 0,
            bounds: VecDeque::new(),
            holes: Vec::new(),
            syn: false,
            fin: None,
            window: 0,
            scale: None,
            edge: None,
            ts: false,
            sack: false,
            len_max: 0,
            len_last: 0,
            record_left: 0,
            framed: false,
            message_len: 0,
            pushed: false,
        }
    }

    /// The next sequence number of a segment with `flags`: a flow that is seen from its middle begins at 1.
    pub(super) fn next_for(&self, flags: u8) -> i64 {
        if flags & SYN == 0 { self.next.max(1) } else { self.next }
    }

    /// Where the stream ends, as far as it was sent: before the FIN.
    pub(super) fn data_end(&self) -> i64 {
        self.fin.unwrap_or(self.next)
    }

    /// The first sequence number that has not arrived, as far as is known.
    pub(super) fn contiguous(&self) -> i64 {
        self.holes.first().map_or(self.next, |h| h.0)
    }

    /// The segment bound `k` back.
    pub(super) fn bound(&self, k: u8) -> Option<i64> {
        let at = self.bounds.len().checked_sub(1 + usize::from(k))?;
        Some(self.bounds[at])
    }

    fn push_bound(&mut self, at: i64) {
        if self.bounds.contains(&at) {
            return;
        }
        if self.bounds.len() == BOUNDS {
            self.bounds.pop_front();
        }
        self.bounds.push_back(at);
    }

    /// What has arrived beyond `ack`, the latest first, as SACK reports it (RFC 2018, section 4).
    pub(super) fn sack_blocks(&self, ack: i64) -> ([(i64, i64); 4], u8) {
        let (mut blocks, mut n) = ([(0, 0); 4], 0);
        let mut end = self.next;
        for &(from, to) in self.holes.iter().rev() {
            if to < end && to > ack && n < 4 {
                blocks[n] = (to, end);
                n += 1;
            }
            end = from;
        }
        (blocks, n as u8)
    }

    /// Takes a segment with `len` bytes of payload into account.
    pub(super) fn send(&mut self, s: &Segment, len: u16) {
        let data_at = s.seq + i64::from(s.flags & SYN != 0);
        let end = data_at + i64::from(len) + i64::from(s.flags & FIN != 0);
        if s.hole > 0 {
            if self.holes.len() == HOLES_MAX {
                self.holes.remove(0);
            }
            self.holes.push((self.next, s.seq));
            self.push_bound(self.next);
            self.next = s.seq;
        }
        if end > s.seq {
            self.push_bound(s.seq);
            if end < self.next {
                self.push_bound(end);
            }
            if !self.holes.is_empty() {
                self.fill(s.seq, end);
            }
        }
        self.next = self.next.max(end);
        if s.flags & FIN != 0 {
            self.fin = Some(end - 1);
        }
        if s.flags & SYN != 0 {
            self.syn = true;
            self.sack = s.options.contains(&Opt::SackOk);
            let scale = |option: &Opt| if let Opt::Ws(n) = option { Some((*n).min(14)) } else { None };
            self.scale = s.options.iter().find_map(scale);
        }
        if s.flags & ACK != 0 {
            self.acked = s.ack;
        }
    }

    /// Takes the window of a segment into account that it has sent; `peer_scale` is the other side's. The window of a SYN is
    /// not scaled, others are where both sides said so.
    pub(super) fn open_window(&mut self, s: &Segment, peer_scale: Option<u8>) {
        let scale = match (s.flags & SYN, self.scale, peer_scale) {
            (0, Some(scale), Some(_)) => scale,
            _ => 0,
        };
        // Nobody sends before the first SYN was answered, and that answer is acknowledged with a window of its own.
        if self.syn && s.flags & (ACK | RST) == ACK {
            self.edge = self.edge.max(Some(s.ack + (i64::from(s.window) << scale)));
        }
    }

    /// The other side has acknowledged up to `ack`: what it has is no hole, even where the capture has one.
    pub(super) fn acknowledge(&mut self, ack: i64) {
        if !self.has_sent {
            self.next = self.next.max(1);
        }
        self.holes.retain(|h| h.1 > ack);
    }

    fn fill(&mut self, from: i64, to: i64) {
        let mut ret = Vec::with_capacity(HOLES_MAX + 1);
        for &(a, b) in &self.holes {
            ret.extend((a < from.min(b)).then_some((a, from.min(b))));
            ret.extend((to.max(a) < b).then_some((to.max(a), b)));
        }
        ret.truncate(HOLES_MAX);
        self.holes = ret;
    }
}
