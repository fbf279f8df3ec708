//! What one side of a connection has sent so far, in numbers that wrap.

use std::collections::VecDeque;

use wiremamba_model::packet::Timestamp;

/// Missing ranges that are remembered; a side with more of them keeps its holes.
const HOLES_MAX: usize = 256;
/// Timestamps that are remembered. An echo of an older one is not judged.
const CLOCKS_MAX: usize = 1024;
/// How far `a` is ahead of `b`.
pub(super) fn ahead(a: u32, b: u32) -> i64 {
    i64::from(a.wrapping_sub(b).cast_signed())
}

/// One side, from the point of view of someone who watches.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// Behind the last number sent; `None` before its first segment.
    pub(super) next: Option<u32>,
    /// Numbers from the first to `next`.
    sent: i64,
    /// Highest number that the other side acknowledged before this one was seen.
    pub(super) acked_unseen: Option<u32>,
    /// Highest number that this side acknowledged.
    pub(super) ack: Option<u32>,
    /// Number of its SYN.
    pub(super) syn: Option<u32>,
    pub(super) syn_acked: bool,
    /// Number of its FIN.
    pub(super) fin: Option<u32>,
    pub(super) fin_acked: bool,
    /// When it sent a RST.
    pub(super) reset: Option<Timestamp>,
    /// Whether its SYN permitted SACK.
    pub(super) sack_permitted: bool,
    /// Shift count of its SYN; `None` where the SYN has none.
    pub(super) scale: Option<u8>,
    /// Whether options of its SYN were not captured.
    pub(super) syn_cut: bool,
    /// Whether a timestamp may not have been captured.
    pub(super) clocks_missing: bool,
    holes: Vec<(u32, u32)>,
    holes_lost: bool,
    clock: Option<u32>,
    clocks: VecDeque<u32>,
    clocks_evicted: bool,
}

impl Side {
    /// Whether `seq` is nowhere near what was sent: `window` ahead of it, or before its beginning.
    pub(super) fn jumps(&self, seq: u32, window: i64) -> bool {
        let Some(next) = self.next else { return false };
        let from_next = ahead(seq, next);
        // Who watches from the middle may see what is older than the first segment again.
        let before = if self.syn.is_some() { 0 } else { window };
        from_next > window || -from_next > self.sent + before
    }

    /// Whether a segment at `seq` is out of order or sent again, so that what it says may be old.
    pub(super) fn is_old(&self, seq: u32) -> bool {
        self.next.is_some_and(|next| ahead(seq, next) < 0)
    }

    /// Takes in the numbers from `seq` to `end`.
    pub(super) fn sends(&mut self, seq: u32, end: u32) {
        let Some(next) = self.next else {
            let next = self.acked_unseen.filter(|acked| ahead(*acked, end) > 0).unwrap_or(end);
            self.next = Some(next);
            self.sent = ahead(next, seq).max(0);
            return;
        };
        if ahead(seq, next) > 0 {
            // Who joins at a keep-alive sees a number that is one too low (RFC 9293, section 3.8.4).
            let is_keep_alive = self.syn.is_none() && self.sent == 0 && ahead(seq, next) == 1;
            if is_keep_alive {
                // nothing is missing
            } else if self.holes.len() < HOLES_MAX {
                self.holes.push((next, seq));
            } else {
                self.holes_lost = true;
            }
        } else {
            self.fill(seq, end);
        }
        self.reaches(end);
    }

    /// Counts everything before `end` as sent.
    pub(super) fn reaches(&mut self, end: u32) {
        if let Some(next) = self.next
            && ahead(end, next) > 0
        {
            self.sent += ahead(end, next);
            self.next = Some(end);
        }
    }

    fn fill(&mut self, seq: u32, end: u32) {
        let mut pieces = Vec::new();
        for &(from, to) in &self.holes {
            let (left, right) = (ahead(seq, from), ahead(to, end));
            if ahead(end, from) <= 0 || ahead(to, seq) <= 0 {
                pieces.push((from, to));
                continue;
            }
            pieces.extend((left > 0).then_some((from, seq)));
            pieces.extend((right > 0).then_some((end, to)));
        }
        if pieces.len() > HOLES_MAX {
            pieces.truncate(HOLES_MAX);
            self.holes_lost = true;
        }
        self.holes = pieces;
    }

    /// Whether numbers were left out and never came.
    pub(super) fn has_holes(&self) -> bool {
        self.holes_lost || !self.holes.is_empty()
    }

    /// Whether a timestamp is before the last one.
    pub(super) fn turns_back(&self, clock: u32) -> bool {
        self.clock.is_some_and(|last| ahead(clock, last) < 0)
    }

    /// Takes in a timestamp.
    pub(super) fn ticks(&mut self, clock: u32) {
        if self.clocks.back() != Some(&clock) {
            if self.clocks.len() == CLOCKS_MAX {
                self.clocks.pop_front();
                self.clocks_evicted = true;
            }
            self.clocks.push_back(clock);
        }
        if self.clock.is_none_or(|last| ahead(clock, last) > 0) {
            self.clock = Some(clock);
        }
    }

    /// Whether an echo is of a timestamp that this side has not sent. Echoes of what was before the first segment seen,
    /// or longer ago than is remembered, are taken as they are.
    pub(super) fn never_sent(&self, echo: u32) -> bool {
        let Some(oldest) = self.clocks.iter().copied().reduce(|a, b| if ahead(b, a) < 0 { b } else { a }) else {
            return false;
        };
        let is_before = ahead(echo, oldest) < 0 && (self.syn.is_none() || self.clocks_evicted);
        !self.clocks_missing && !is_before && !self.clocks.iter().rev().any(|c| *c == echo)
    }
}
