//! How long a payload, or a TLS record, may be.

use super::super::application::Application;
use super::super::habits::said::Said;
use super::super::side::{FIN, PSH, RST, SYN, Side};
use super::super::vocab::{Proto, Tok};
use super::super::walk::{Seq, options_len};
use super::Strict;
use super::mask::Mask;
use super::outlook::Urge;

/// Ranges of payload lengths.
pub(super) type Lengths = [(u32, u32); 3];
/// No length.
const NONE: (u32, u32) = (1, 0);
/// No payload.
const SILENCE: Lengths = [(0, 0), NONE, NONE];
/// Longest payload that is said in two tokens, as a first one is.
const LEN_HI_MAX: u32 = 0x7ff;
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

    /// Payload lengths of the packet under way, where the first token of the length has so many tokens left. What is pushed has a
    /// payload (RFC 9293, section 3.9.1.2), if there can be one.
    pub(super) fn lengths(&self, tokens_left: usize) -> Lengths {
        let flags = self.walk.current.flags;
        let lengths = self.lengths_with(flags, tokens_left);
        let said = lengths.map(|(from, to)| (from.max(1), to));
        let is_pushed = flags & PSH != 0 && said.iter().any(|(from, to)| from <= to);
        if is_pushed { said } else { lengths }
    }

    /// Whether a segment with these flags may have a payload.
    pub(super) fn may_say(&self, flags: u8, tokens_left: usize) -> bool {
        self.lengths_with(flags, tokens_left).iter().any(|(from, to)| from <= to && *to > 0)
    }

    fn lengths_with(&self, flags: u8, tokens_left: usize) -> Lengths {
        let c = &self.walk.current;
        let ip = if c.action.v6 || self.is_either && c.action.proto != Proto::Icmp { 40 } else { 20 };
        match c.action.proto {
            Proto::Udp => {
                let most = self.mtu - ip - 8;
                match self.messages(tokens_left, most) {
                    Some([one, more]) => [one, more, NONE],
                    None => [(0, most), NONE, NONE],
                }
            }
            Proto::Icmp => {
                let is_error = !matches!((c.action.v6, c.action.icmp[0]), (false, 0 | 8) | (true, 128 | 129));
                let quoted = if c.action.v6 { 48 } else { 28 };
                [
                    (if is_error { 4 + quoted } else { 4 }, self.mtu.min(if is_error { 576 } else { 1500 }) - ip - 4),
                    NONE,
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
                let next = side.next_for(flags);
                let longest = self.said().map_or(u32::MAX, |said| u32::from(said.longest));
                let room = match c.seq {
                    Seq::Next => self.room(next).min(longest),
                    Seq::Keep => 1,
                    // These have a byte at least; a prompt may be in the wrong already.
                    Seq::Hole(n) => self.room(next + i64::from(n)).min(longest).max(1),
                    Seq::Re(at) => self.room(at).min(longest).max(1),
                };
                if self.talks.must_wait(&self.walk) || c.seq == Seq::Next && self.awaits_hello() {
                    return SILENCE;
                }
                let lengths = tcp_lengths(side, flags, c.seq, most.min(room));
                let is_first = c.seq == Seq::Next && side.len_max == 0;
                // Where the plan's MTU is smaller than that of the captures, or segments were merged there, any will do.
                let can_be = |first: &[u16; 2]| is_first && u32::from(first[0]) <= most.min(LEN_HI_MAX);
                let first = self.said().map(|said| said.first).filter(can_be);
                if c.seq == Seq::Next && lengths[0].1 > 0 && self.exchanges.is_framed(&self.walk) {
                    let [one, more] = self.messages(tokens_left, lengths[0].1).unwrap_or([NONE; 2]);
                    let messages = [(0, 0), one, more].map(|(from, to)| (from, to.min(lengths[0].1)));
                    let usual = within(messages, first);
                    return if usual == SILENCE { messages } else { usual };
                }
                match self.talks.begins_as(&self.walk).filter(|_| c.seq == Seq::Next) {
                    Some(application) => {
                        within(first_lengths(&lengths, application, flags, usize::from(!c.action.from_orig)), first)
                    }
                    None => match lengths {
                        // Who has to close says the record that is under way to its end first, in as long segments as can be said.
                        [(0, most), ..] if most > 0 && side.framed && self.urge(tokens_left) > Urge::None => {
                            let most = most.min(LEN_HI_MAX);
                            [(most, most), NONE, NONE]
                        }
                        lengths => within(lengths, first),
                    },
                }
            }
        }
    }

    /// Lengths of the message under way, if it has to be one: it is said to its end, in at most two tokens a byte.
    fn messages(&self, tokens_left: usize, most: u32) -> Option<[(u32, u32); 2]> {
        let told = (tokens_left.saturating_sub(4) / 2).min(most as usize) as u32;
        self.exchanges.lengths(&self.walk, told, most)
    }

    /// Whether the sender is a client of TLS whose hello was not answered yet, where the servers of its label speak.
    fn awaits_hello(&self) -> bool {
        let (side, peer) = self.walk.sides();
        let has_asked = self.walk.current.action.from_orig && side.framed && side.len_max > 0 && side.record_left == 0;
        let server = || self.habits.as_ref()?.said(self.slot()?.port, 1);
        has_asked && peer.len_max == 0 && server().is_some_and(|said| said.longest > 0)
    }

    /// What the sender of the packet under way says in all, as far as it was seen of its label.
    pub(super) fn said(&self) -> Option<Said> {
        let port = self.slot()?.port;
        self.habits.as_ref()?.said(port, usize::from(!self.walk.current.action.from_orig))
    }

    /// Bytes that a stream may have from `at` on: those that were seen of its label.
    fn told(&self, at: i64) -> u32 {
        self.said().map_or(u32::MAX, |said| u32::try_from((said.bytes as i64 + 1 - at).max(0)).unwrap_or(u32::MAX))
    }

    /// Bytes that the sender may send from `at` on: what the other side has a window for (RFC 9293, section 3.8.6), where that is
    /// known, and as far as was seen of its label.
    pub(super) fn room(&self, at: i64) -> u32 {
        let window = self.walk.sides().1.edge.map_or(0xffff, |edge| (edge - at).clamp(0, 0xffff) as u32);
        // A record that was begun may end.
        window.min(self.told(at).max(self.walk.sides().0.record_left.into()))
    }

    /// Lengths of a TLS record that begins here: it ends with the segment, leaves room for another, or goes on, as far as that
    /// goes with what was told of the flow and seen of its label.
    pub(super) fn records(&self) -> [(u32, u32); 2] {
        let c = &self.walk.current;
        let after = u32::from(c.left) - 5;
        let end = c.action.stream_at + i64::from(c.action.len);
        let on = self.told(end).min(self.packets_to_close().saturating_mul(self.mtu));
        [if after > 6 { (1, after - 6) } else { NONE }, (after, RECORD_MAX.min(after.saturating_add(on)))]
    }
}

/// Those of `lengths` that lie in a range, and 0 where that is one of them; all of them where neither is there.
fn within(lengths: Lengths, range: Option<[u16; 2]>) -> Lengths {
    let Some([least, most]) = range else { return lengths };
    let silence = holds(&lengths, 0).then_some((0, 0));
    let said = lengths.into_iter().map(|(from, to)| (from.max(least.into()).max(1), to.min(most.into())));
    let mut ret = [NONE; 3];
    ret.iter_mut()
        .zip(silence.into_iter().chain(said.filter(|(from, to)| from <= to)))
        .for_each(|(to, from)| *to = from);
    if ret[0] == NONE { lengths } else { ret }
}

/// Those of `lengths` that a side's first segment with payload has.
fn first_lengths(lengths: &Lengths, application: Application, flags: u8, side: usize) -> Lengths {
    let (least, most) = application.first_length(side);
    // Records go on in other segments.
    let is_last = application == Application::Tls && flags & FIN != 0;
    let said = if is_last { NONE } else { (lengths[0].0.max(least), lengths[0].1.min(most)) };
    [if holds(lengths, 0) { (0, 0) } else { NONE }, said, NONE]
}

/// Payload lengths of a segment, up to `most`.
fn tcp_lengths(side: &Side, flags: u8, seq: Seq, most: u32) -> Lengths {
    if flags & (SYN | RST) != 0 {
        return SILENCE;
    }
    let framed = |left: u32, least: u32| {
        // A record header is not cut by a segment's end.
        [(least, left.min(most)), (left + 6, most), NONE]
    };
    match seq {
        Seq::Keep => [(0, 1), NONE, NONE],
        Seq::Re(at) if Some(at) == side.fin => SILENCE,
        Seq::Re(at) => {
            // What was left out is sent from where it begins, and not behind bytes that are repeated.
            let end = side.holes.iter().map(|hole| hole.0).find(|begin| *begin > at).unwrap_or(side.data_end());
            [(1, most.min((end - at).clamp(1, 0xffff) as u32)), NONE, NONE]
        }
        Seq::Hole(_) if !side.framed => [(1, most), NONE, NONE],
        Seq::Hole(n) => framed(u32::from(side.record_left.saturating_sub(n)), 1),
        Seq::Next if side.fin.is_some() => SILENCE,
        Seq::Next if !side.framed => [(0, most), NONE, NONE],
        Seq::Next if flags & FIN != 0 => SILENCE,
        Seq::Next => framed(u32::from(side.record_left), 0),
    }
}
