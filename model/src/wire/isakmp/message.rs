//! A message byte by byte: which byte may come next so that the message ends where its datagram does.
//!
//! Whatever was heard so far, some byte can follow, down to the last: before one is taken it is seen whether the payloads can
//! still fill what is left.

use super::association::Association;
use super::chain::{
    AGGRESSIVE, AUTH, CHILD, DELETE1, GENERIC_LEN, HASH1, ID1, INFORMATION, INFORMATIONAL2, KE1, KE2, MAIN, NONCE1,
    NONCE2, NOTIFY1, NOTIFY2, Place, QUICK, SA_INIT, SA1, SA2, SK, SKF, TRANSACTION, VENDOR1, VENDOR2, free_from,
    value_allows,
};

/// Bytes of the header (RFC 2408, section 3.1; RFC 7296, section 3.1).
pub const HEADER_LEN: u16 = 28;
/// Bytes of the number (SPI, or cookie) of each side.
pub const SPI_LEN: u16 = 8;
/// Where in it the kind of the first payload is, the message's number, the length.
pub const HEAD_AT: u16 = 2 * SPI_LEN;
/// See [`HEAD_AT`].
pub const ID_AT: u16 = 20;
/// See [`HEAD_AT`].
pub const LENGTH_AT: u16 = 24;

/// Versions.
const V1: u8 = 0x10;
const V2: u8 = 0x20;
/// Flags: ciphered, of version 1; of version 2 from who began, and an answer.
const CIPHERED: u8 = 1;
const INITIATOR: u8 = 0x08;
const RESPONSE: u8 = 0x20;

/// Fewest bytes behind the header of what is ciphered: a block or two and a hash.
const CIPHERED_MIN: u16 = 24;
/// A block of the ciphers of version 1.
const BLOCK: u16 = 8;
/// What can be the first of the payloads that are ciphered, in version 2: any, or none.
const INNER: std::ops::RangeInclusive<u8> = 33..=48;

/// Who sends what: the first payload, version, exchange, flags; whether the responder's number is known; who sends it, where that
/// matters.
type Head = ([u8; 4], Option<bool>, Option<bool>);

/// See [`Head`]. RFC 2409, section 5; RFC 7296, sections 1.2 to 1.5.
const HEADS: [Head; 25] = [
    ([SA1, V1, MAIN, 0], None, None),
    ([KE1, V1, MAIN, 0], Some(true), None),
    ([ID1, V1, MAIN, CIPHERED], Some(true), None),
    ([SA1, V1, AGGRESSIVE, 0], None, None),
    ([HASH1, V1, AGGRESSIVE, 0], Some(true), None),
    ([HASH1, V1, AGGRESSIVE, CIPHERED], Some(true), None),
    ([NOTIFY1, V1, INFORMATION, 0], None, None),
    ([DELETE1, V1, INFORMATION, 0], Some(true), None),
    ([HASH1, V1, INFORMATION, CIPHERED], Some(true), None),
    ([HASH1, V1, TRANSACTION, CIPHERED], Some(true), None),
    ([HASH1, V1, QUICK, CIPHERED], Some(true), None),
    ([SA2, V2, SA_INIT, INITIATOR], Some(false), Some(false)),
    ([NOTIFY2, V2, SA_INIT, INITIATOR], Some(false), Some(false)),
    ([SA2, V2, SA_INIT, RESPONSE], Some(true), Some(true)),
    ([NOTIFY2, V2, SA_INIT, RESPONSE], None, Some(true)),
    ([SK, V2, AUTH, INITIATOR], Some(true), Some(false)),
    ([SK, V2, AUTH, RESPONSE], Some(true), Some(true)),
    ([SK, V2, CHILD, INITIATOR], Some(true), Some(false)),
    ([SK, V2, CHILD, INITIATOR | RESPONSE], Some(true), Some(false)),
    ([SK, V2, CHILD, 0], Some(true), Some(true)),
    ([SK, V2, CHILD, RESPONSE], Some(true), Some(true)),
    ([SK, V2, INFORMATIONAL2, INITIATOR], Some(true), Some(false)),
    ([SK, V2, INFORMATIONAL2, INITIATOR | RESPONSE], Some(true), Some(false)),
    ([SK, V2, INFORMATIONAL2, 0], Some(true), Some(true)),
    ([SK, V2, INFORMATIONAL2, RESPONSE], Some(true), Some(true)),
];

/// What the next byte is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The header, at this place.
    Header(u16),
    /// What is in front of a payload's value, at this place.
    Generic(u16),
    /// A value, at this place.
    Value(u16),
    /// Bytes to the end of which nothing is asked.
    Ciphered,
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    is_reply: bool,
    len: u16,
    left: u16,
    state: State,
    /// Whether a byte of the number under way is not zero, and whether the responder's number is known.
    is_set: bool,
    is_known: bool,
    head: [u8; 4],
    /// The payload under way: its kind, what follows it, the bytes of its value, the last byte.
    kind: u8,
    next: u8,
    value: u16,
    last: u8,
    is_first: bool,
    association: Association,
    takes_any: bool,
}

impl Message {
    /// A message of `len` bytes, of the flow's responder or its opener.
    pub fn new(is_reply: bool, len: u16) -> Self {
        Self {
            is_reply,
            len,
            left: len,
            state: State::Header(0),
            is_set: false,
            is_known: false,
            head: [0; 4],
            kind: 0,
            next: 0,
            value: 0,
            last: 0,
            is_first: true,
            association: Association::new(false, 0),
            takes_any: false,
        }
    }

    /// The same whose payloads may be any, in any order, and of whom one likes.
    #[must_use]
    pub fn with_any_payload(self) -> Self {
        Self { takes_any: true, ..self }
    }

    /// Fewest bytes of a message that anybody can send: it tells of an error.
    #[must_use]
    pub fn len_min() -> u16 {
        HEADER_LEN + GENERIC_LEN + 8
    }

    /// Whether the message is complete.
    pub fn is_done(&self) -> bool {
        self.left == 0 && matches!(self.state, State::Generic(0) | State::Ciphered)
    }

    /// Where in the header one is.
    pub fn header_at(&self) -> Option<u16> {
        if let State::Header(at) = self.state { Some(at) } else { None }
    }

    /// Whether it is an answer of version 2 that has the number of what it answers (RFC 7296, section 2.2). The first exchange has
    /// none.
    pub fn has_its_number(&self) -> bool {
        self.is_response() && self.head[2] != SA_INIT
    }

    fn is_response(&self) -> bool {
        self.head[1] == V2 && self.head[3] & RESPONSE != 0
    }

    /// So many bytes come of which nothing is asked.
    pub fn free(&self) -> u16 {
        match self.state {
            State::Ciphered => self.left,
            State::Value(at) if self.takes_any => self.value - at,
            State::Value(at) if !self.is_association() && at >= free_from(self.kind) => self.value - at,
            _ => 0,
        }
    }

    /// Takes `n` of them, but not the last.
    pub fn pass(&mut self, n: u16) {
        self.left -= n;
        if let State::Value(at) = &mut self.state {
            *at += n;
        }
    }

    /// Whether this can be the next byte.
    pub fn allows(&self, b: u8) -> bool {
        if self.left == 0 || self.len < HEADER_LEN {
            return false;
        }
        match self.state {
            _ if self.free() > 0 => true,
            State::Header(at) => self.allows_in_header(at, b),
            State::Generic(at) => self.kind != 0 && self.allows_in_front(at, b),
            State::Value(_) if self.is_association() => self.association.allows(b),
            State::Value(at) => value_allows(self.kind, at, self.value, self.last, b),
            State::Ciphered => true,
        }
    }

    fn is_association(&self) -> bool {
        matches!(self.kind, SA1 | SA2) && !self.takes_any
    }

    fn place(&self) -> Place {
        Place { exchange: self.head[2], is_response: self.is_response(), is_first: self.is_first }
    }

    fn is_ciphered(head: [u8; 4]) -> bool {
        head[1] == V1 && head[3] & CIPHERED != 0
    }

    fn allows_in_header(&self, at: u16, b: u8) -> bool {
        match at {
            // Both numbers are those of cookies in version 1.
            7 => self.is_set || b != 0,
            HEAD_AT..ID_AT if self.takes_any => match at - HEAD_AT {
                1 => matches!(b, V1 | V2),
                3 if self.head[1] == V1 => b & !7 == 0,
                3 => b & !(INITIATOR | RESPONSE | 0x10) == 0,
                _ => true,
            },
            HEAD_AT..ID_AT => {
                let at = usize::from(at - HEAD_AT);
                let is_this = |head: &&Head| head.0[..at] == self.head[..at] && head.0[at] == b;
                HEADS.iter().filter(is_this).any(|head| self.can_have(head))
            }
            ID_AT..LENGTH_AT if self.takes_any => true,
            ID_AT..LENGTH_AT => self.allows_in_id(at - ID_AT, b),
            LENGTH_AT.. => b == u32::from(self.len).to_be_bytes()[usize::from(at - LENGTH_AT)],
            _ => true,
        }
    }

    /// Whether a message of this length, of its sender, can begin so.
    fn can_have(&self, (head, is_known, is_reply): &Head) -> bool {
        let room = self.len - HEADER_LEN;
        let is_his =
            is_known.is_none_or(|known| known == self.is_known) && is_reply.is_none_or(|is| is == self.is_reply);
        let place = Place { exchange: head[2], is_response: head[1] == V2 && head[3] & RESPONSE != 0, is_first: true };
        is_his
            && match head[0] {
                _ if Self::is_ciphered(*head) => room >= CIPHERED_MIN && room.is_multiple_of(BLOCK),
                SK => room >= GENERIC_LEN + CIPHERED_MIN,
                kind => place.fits(kind, room),
            }
    }

    /// The message's number: none of phase 1 (RFC 2408, section 3.1) and of the first of version 2, where they count from there.
    fn allows_in_id(&self, at: u16, b: u8) -> bool {
        match (self.head[1], self.head[2]) {
            (V1, MAIN | AGGRESSIVE) | (_, SA_INIT) => b == 0,
            (V1, _) => at < 3 || self.is_set || b != 0,
            (_, AUTH) if at == 3 => b != 0,
            (_, AUTH) => b == 0,
            _ => at > 1 || b == 0,
        }
    }

    /// What is in front of a value: what follows it, flags, the length.
    fn allows_in_front(&self, at: u16, b: u8) -> bool {
        // Bytes of the payload and of all behind it.
        let room = self.left + at;
        let fits = |next: u8, len: u16| match self.kind {
            SK | SKF => len == room,
            _ if self.takes_any && next == 0 => len == room,
            _ if self.takes_any => len >= GENERIC_LEN && len + GENERIC_LEN <= room,
            kind => self.place().length_fits(kind, next, len, room),
        };
        match at {
            0 if self.takes_any => b == 0 || self.kind == SK || self.kind == SKF || room >= 2 * GENERIC_LEN,
            0 if matches!(self.kind, SK | SKF) => b == 0 || INNER.contains(&b),
            0 => self.place().can_follow(self.kind, b) && (GENERIC_LEN..=room).any(|len| fits(b, len)),
            1 => b == 0 || self.takes_any,
            2 => (0..=255).any(|low| fits(self.next, u16::from_be_bytes([b, low]))),
            _ => fits(self.next, u16::from_be_bytes([self.last, b])),
        }
    }

    /// Takes a byte. False where it cannot come.
    pub fn hear(&mut self, b: u8) -> bool {
        let allows = self.allows(b);
        if allows {
            self.take(b);
        }
        allows
    }

    /// Takes a byte that is allowed, or is not asked whether it is.
    pub fn take(&mut self, b: u8) {
        self.left -= 1;
        match self.state {
            State::Header(at) => {
                self.is_set = (self.is_set && !matches!(at, SPI_LEN | ID_AT)) || b != 0;
                if at < HEAD_AT {
                    self.is_known = self.is_set && at >= SPI_LEN;
                } else if at < ID_AT {
                    self.head[usize::from(at - HEAD_AT)] = b;
                }
                self.state = State::Header(at + 1);
                if at + 1 == HEADER_LEN {
                    self.kind = self.head[0];
                    self.state = if Self::is_ciphered(self.head) { State::Ciphered } else { State::Generic(0) };
                }
            }
            State::Generic(0) => {
                self.next = b;
                self.state = State::Generic(1);
            }
            State::Generic(3) => {
                self.value = u16::from_be_bytes([self.last, b]) - GENERIC_LEN;
                self.association = Association::new(self.kind == SA1, self.value);
                self.state = State::Value(0);
                if self.value == 0 {
                    self.end_of_payload();
                }
            }
            State::Generic(at) => self.state = State::Generic(at + 1),
            State::Value(at) => {
                if self.is_association() {
                    self.association.hear(b);
                }
                self.state = State::Value(at + 1);
                if at + 1 == self.value {
                    self.end_of_payload();
                }
            }
            State::Ciphered => {}
        }
        self.last = b;
    }

    fn end_of_payload(&mut self) {
        let is_last = matches!(self.kind, SK | SKF);
        (self.kind, self.is_first) = (if is_last { 0 } else { self.next }, false);
        self.state = State::Generic(0);
    }

    /// A byte that comes next where `drawn` would, of all that are allowed: one that hosts often have there.
    pub(super) fn choice(&self, drawn: u8) -> Option<u8> {
        let all: Vec<u8> = (0..=255).filter(|b| self.allows(*b)).collect();
        let liked: &[u8] = match self.state {
            // 128 or 256 bytes of a key, 32 of a nonce, 20 of a hash.
            State::Generic(2) if matches!(self.kind, KE1 | KE2) => &[0, 1],
            State::Generic(3) if matches!(self.kind, KE1 | KE2) => &[136, 132, 8, 4],
            State::Generic(3) if matches!(self.kind, NONCE1 | NONCE2) => &[36, 20],
            State::Generic(3) if self.kind == NOTIFY2 => &[28, 8],
            State::Generic(3) if matches!(self.kind, VENDOR1 | VENDOR2) => &[20, 24],
            State::Generic(2) => &[0],
            _ => &[],
        };
        let is_liked = |b: &u8| match self.state {
            State::Value(_) if self.is_association() => self.association.liked(*b),
            _ => liked.contains(b),
        };
        let liked: Vec<u8> = all.iter().copied().filter(is_liked).collect();
        let from = if liked.is_empty() { &all } else { &liked };
        from.get(usize::from(drawn) % from.len().max(1)).copied()
    }
}
