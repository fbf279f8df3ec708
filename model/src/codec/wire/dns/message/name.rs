//! Names in a message: labels, pointers to where names stand, and names that are drawn.

use super::{Dialect, Message, Names, State, TARGETS_MAX};
use crate::wire::names::dns::{SERVICE_MAX, WORDS};

impl Message {
    /// Whether a label can begin with `b`, with `room` bytes behind it: a length, the end, or a pointer.
    pub(super) fn label_may_be(&self, b: u8, room: u16) -> bool {
        let n = u16::from(b);
        match b {
            0 => self.fit(&self.fields[1..], room, self.is_root),
            1..=63 => match (self.name_left.checked_sub(1 + n), room.checked_sub(n)) {
                (Some(name_left), Some(left)) => {
                    let may_follow = self.names == Names::Literal || !self.is_drawn;
                    may_follow && self.name_fits(name_left, left)
                }
                _ => false,
            },
            0xc0.. => {
                let can_point = |t: &(u16, u8)| t.0 >> 8 == n & 0x3f && u16::from(t.1) <= self.name_left;
                room >= 1 && self.targets().iter().any(can_point) && self.fit(&self.fields[1..], room - 1, false)
            }
            _ => false,
        }
    }

    /// A label at `at` begins with `b`.
    pub(super) fn label(&mut self, at: u16, b: u8) {
        match b {
            0 => self.end_of_name(at + 1, 0),
            1..=63 => {
                self.start(at);
                self.name_left -= 1 + u16::from(b);
                self.state = if self.names == Names::Drawn { State::Opening(b) } else { State::InLabel(b) };
                self.is_root = false;
            }
            _ => (self.is_root, self.state) = (false, State::Pointer(b)),
        }
    }

    /// What a pointer of these bytes points at, if it can be that.
    pub(super) fn target(&self, high: u8, low: u8) -> Option<&(u16, u8)> {
        let to = u16::from_be_bytes([high & 0x3f, low]);
        self.targets().iter().find(|t| t.0 == to && u16::from(t.1) <= self.name_left)
    }

    /// The name ends at `end` with what another has, `more` bytes of it: its labels can be pointed at.
    pub(super) fn end_of_name(&mut self, end: u16, more: u16) {
        for i in 0..usize::from(self.starts_len) {
            let (start, place) = (self.starts[i], usize::from(self.targets_len));
            if place < TARGETS_MAX && start < 0x4000 {
                self.targets[place] = (start, (end - start + more) as u8);
                self.targets_len += 1;
            }
        }
        self.end_of_field();
    }

    pub(super) fn start(&mut self, at: u16) {
        if let Some(place) = self.starts.get_mut(usize::from(self.starts_len)) {
            *place = at;
            self.starts_len += 1;
        }
    }

    /// Bytes of the label under way that can be of a name in text, where one is.
    pub(in super::super::super) fn label_of_text(&self) -> Option<u16> {
        match self.state {
            State::Opening(n) | State::InText(n) if !self.repeats() => Some(u16::from(n)),
            _ => None,
        }
    }

    /// Whether a label has such bytes: of hosts and services, where people choose also spaces and UTF-8 (RFC 6763, section 4.1).
    pub(super) fn label_holds(&self, b: u8) -> bool {
        match (self.dialect, self.names) {
            (_, Names::Drawn) => b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'),
            (Dialect::Unicast, _) => b.is_ascii_graphic(),
            (Dialect::Link | Dialect::Multicast, _) => b >= b' ' && b != 0x7f,
        }
    }

    /// Whether a drawn name of `n` bytes more can begin here, with `room` bytes behind its first.
    pub(super) fn name_may_be_drawn(&self, n: u8, room: u16) -> bool {
        let len = u16::from(n);
        match (self.name_left.checked_sub(1 + len), room.checked_sub(len)) {
            (Some(name_left), Some(left)) if self.names == Names::Drawn => {
                // The end, or a pointer, comes next.
                let fits = |n: u16| left >= n && self.fit(&self.fields[1..], left - n, false);
                n > 0 && !self.is_drawn && (name_left > 0 && fits(1) || fits(2) && self.points(name_left))
            }
            (Some(name_left), Some(left)) => n > 0 && self.name_fits(name_left, left),
            _ => false,
        }
    }
}

/// Whether a label of `n` bytes that begins with `b` is a service's.
pub(super) fn is_service(n: u8, b: u8) -> bool {
    b == b'_' && (2..=SERVICE_MAX).contains(&usize::from(n))
}

/// The words of `n` bytes, as bits.
pub(super) fn words_of(n: u8) -> u16 {
    let is_one = |word: &&[u8]| word.len() == usize::from(n);
    WORDS.iter().enumerate().filter(|(_, word)| is_one(word)).map(|(i, _)| 1 << i).sum()
}

/// Those of `words` that have `b` in front of their last `n - 1` bytes.
pub(super) fn words_with(n: u8, words: u16, b: u8) -> u16 {
    let has = |word: &[u8]| word[word.len() - usize::from(n)].eq_ignore_ascii_case(&b);
    (0..WORDS.len()).filter(|i| words >> i & 1 == 1 && has(WORDS[*i])).map(|i| 1 << i).sum()
}

const _: () = assert!(WORDS.len() <= 16);
