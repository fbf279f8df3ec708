//! How long a payload, or a TLS record, may be.

use super::super::application::Application;
use super::super::side::{FIN, RST, SYN, Side};
use super::super::vocab::{Proto, Tok};
use super::super::walk::{Seq, options_len};
use super::Strict;
use super::mask::Mask;
use super::outlook::Urge;

/// Ranges of payload lengths; at most three.
pub(super) type Lengths = [(u32, u32); 2];
/// No length.
const NONE: (u32, u32) = (1, 0);
/// Longest TLS record (RFC 8446, section 5.2).
const RECORD_MAX: u32 = 16_640;

fn holds(ranges: &Lengths, n: u32) -> bool {
    ranges.iter().any(|r| r.0 <= n && n <= r.1)
}

impl Strict {
    pub(super) fn length(&self, tokens_left: usize, m: &mut Mask<'_>) {
        let ranges = self.lengths(tokens_left);
        let side = self.walk.sides().0;
        if holds(&ranges, 0) {
            m.allow(Tok::Len0);
        }
        if side.len_max > 0 && holds(&ranges, u32::from(side.len_max)) {
            m.allow(Tok::LenMax);
        }
        if side.len_last > 0 && holds(&ranges, u32::from(side.len_last)) {
            m.allow(Tok::LenSame);
        }
        for high in 0..8u32 {
            let (from, to) = (high << 8, high << 8 | 255);
            if ranges.iter().any(|r| r.0 <= r.1 && r.0 <= to && r.1 >= from) {
                m.allow(Tok::LenHi(high as u8));
            }
        }
    }

    /// Payload lengths of the packet under way, where the first token of the length has so many tokens left.
    pub(super) fn lengths(&self, tokens_left: usize) -> Lengths {
        let c = &self.walk.current;
        let ip = if c.action.v6 || self.is_either && c.action.proto != Proto::Icmp { 40 } else { 20 };
        match c.action.proto {
            Proto::Udp => {
                let most = self.mtu - ip - 8;
                // A message is said to its end, in at most two tokens a byte.
                let told = (tokens_left.saturating_sub(4) / 2).min(most as usize) as u32;
                self.exchanges.lengths(&self.walk, told, most).unwrap_or([(0, most), NONE])
            }
            Proto::Icmp => {
                let is_error = !matches!((c.action.v6, c.action.icmp[0]), (false, 0 | 8) | (true, 128 | 129));
                let quoted = if c.action.v6 { 48 } else { 28 };
                [
                    (if is_error { 4 + quoted } else { 4 }, self.mtu.min(if is_error { 576 } else { 1500 }) - ip - 4),
                    NONE,
                ]
            }
            Proto::Tcp => {
                let options = match &c.options {
                    Some(options) => options_len(options),
                    None => options_len(self.walk.default_options()),
                };
                let most = self.mtu - ip - 20 - options.next_multiple_of(4) as u32;
                let side = self.walk.sides().0;
                let room = match c.seq {
                    Seq::Next => self.room(side.next_for(c.flags)),
                    Seq::Keep => 1,
                    // These have a byte at least; a prompt may be in the wrong already.
                    Seq::Hole(n) => self.room(side.next_for(c.flags) + i64::from(n)).max(1),
                    Seq::Re(at) => self.room(at).max(1),
                };
                if self.talks.must_wait(&self.walk) {
                    return [(0, 0), NONE];
                }
                match (tcp_lengths(side, c.flags, c.seq, most.min(room)), self.talks.begins_as(&self.walk)) {
                    (lengths, Some(application)) if c.seq == Seq::Next => {
                        first_lengths(&lengths, application, c.flags, usize::from(!c.action.from_orig))
                    }
                    // Who has to close says the record that is under way to its end first.
                    ([(0, most), _], None) if most > 0 && side.framed && self.urge(tokens_left) > Urge::None => {
                        [(most, most), NONE]
                    }
                    (lengths, _) => lengths,
                }
            }
        }
    }

    /// Bytes that the sender may send from `at` on: what the other side has a window for (RFC 9293, section 3.8.6), where that is
    /// known.
    pub(super) fn room(&self, at: i64) -> u32 {
        self.walk.sides().1.edge.map_or(0xffff, |edge| (edge - at).clamp(0, 0xffff) as u32)
    }

    /// Lengths of a TLS record that begins here: it ends with the segment, leaves room for another, or goes on.
    pub(super) fn records(&self) -> [(u32, u32); 2] {
        let after = u32::from(self.walk.current.left) - 5;
        [if after > 6 { (1, after - 6) } else { NONE }, (after, RECORD_MAX)]
    }
}

/// Those of `lengths` that a side's first segment with payload has.
fn first_lengths(lengths: &Lengths, application: Application, flags: u8, side: usize) -> Lengths {
    let (least, most) = application.first_length(side);
    // Records go on in other segments.
    let is_last = application == Application::Tls && flags & FIN != 0;
    let said = if is_last { NONE } else { (lengths[0].0.max(least), lengths[0].1.min(most)) };
    [if holds(lengths, 0) { (0, 0) } else { NONE }, said]
}

/// Payload lengths of a segment, up to `most`.
fn tcp_lengths(side: &Side, flags: u8, seq: Seq, most: u32) -> Lengths {
    let nothing = [(0, 0), NONE];
    if flags & (SYN | RST) != 0 {
        return nothing;
    }
    let framed = |left: u32, least: u32| {
        // A record header is not cut by a segment's end.
        [(least, left.min(most)), (left + 6, most)]
    };
    match seq {
        Seq::Keep => [(0, 1), NONE],
        Seq::Re(at) if Some(at) == side.fin => nothing,
        Seq::Re(at) => {
            // What was left out is sent from where it begins, and not behind bytes that are repeated.
            let end = side.holes.iter().map(|hole| hole.0).find(|begin| *begin > at).unwrap_or(side.data_end());
            [(1, most.min((end - at).clamp(1, 0xffff) as u32)), NONE]
        }
        Seq::Hole(_) if !side.framed => [(1, most), NONE],
        Seq::Hole(n) => framed(u32::from(side.record_left.saturating_sub(n)), 1),
        Seq::Next if side.fin.is_some() => nothing,
        Seq::Next if !side.framed => [(0, most), NONE],
        Seq::Next if flags & FIN != 0 => nothing,
        Seq::Next => framed(u32::from(side.record_left), 0),
    }
}
