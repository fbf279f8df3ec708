//! The name service of NetBIOS over UDP (RFC 1002, section 4.2): headers as DNS has them, names in first-level encoding.
//!
//! Three forms are made: a query of a name, a request about a name with one address, and an answer with one record. Byte by byte, as for DNS.

use super::{Source, Sym};

/// Port of the name service.
pub(super) const PORT: u16 = 137;
/// Bytes of a query, of a request, and of an answer without its data.
const QUERY_LEN: u16 = 50;
const REQUEST_LEN: u16 = 68;
const ANSWER_LEN: u16 = 56;
/// A name: its length, its letters, its end. What is literal of it is a pair of letters at least, the kind of name.
const LETTERS: u16 = 32;
/// Letters of a name that is drawn (see [`crate::wire::names::netbios`]).
const DRAWN: u16 = crate::wire::names::netbios::NAME_LEN as u16;
/// Bytes of an address with its flags, and of one of the names of a host (sections 4.2.13 and 4.2.18).
const ADDRESS: u16 = 6;
const NAME: u16 = 18;
/// Bytes of a host's status without names: their count, and statistics.
const STATUS: u16 = 1 + 46;

const NULL: u8 = 0x0a;
const NB: u8 = 0x20;
const NBSTAT: u8 = 0x21;

/// Operations (section 4.2.1.1): query, and those about names.
const QUERY: u8 = 0;
const WAIT: u8 = 7;
const REQUESTS: [u8; 4] = [5, 6, 8, 9];

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    at: u16,
    len: u16,
    is_answer: bool,
    operation: u8,
    /// What the record holds.
    kind: u8,
    /// Bytes of a drawn name that are to come.
    drawn: u8,
}

impl Message {
    /// A message of `len` bytes.
    pub(super) fn new(len: u16) -> Self {
        Self { at: 0, len, is_answer: false, operation: 0, kind: 0, drawn: 0 }
    }

    /// Lengths that messages have: an opener asks for a name, or about its own; a responder tells an address, or how it is.
    pub(super) fn lengths(is_reply: bool, most: u32) -> [(u32, u32); 2] {
        let exactly = |len: u16| (u32::from(len), u32::from(len));
        if is_reply {
            return [exactly(ANSWER_LEN + ADDRESS), (u32::from(ANSWER_LEN + STATUS), most)];
        }
        [exactly(QUERY_LEN), (REQUEST_LEN.into(), most.min(REQUEST_LEN.into()))]
    }

    /// Whether the message is complete.
    pub(super) fn is_done(&self) -> bool {
        self.at == self.len && self.len >= QUERY_LEN
    }

    /// In how many tokens the rest can be said at most: two where a name in text of one byte may come.
    pub(super) fn tokens_most(&self) -> usize {
        usize::from(self.left() + 2u16.saturating_sub(self.at) + self.len.saturating_sub(self.at.max(QUERY_LEN)))
    }

    fn left(&self) -> u16 {
        self.len - self.at
    }

    /// Whether the next byte comes from inside a drawn name.
    pub(super) fn is_inside_name(&self) -> bool {
        self.drawn > 0
    }

    /// Bytes of a name in text that can come, where one is; 0 where none can.
    pub(super) fn text(&self) -> Option<u16> {
        match self.at {
            13 => Some(DRAWN),
            14..45 => Some(0),
            _ => None,
        }
    }

    /// So many bytes come of which nothing is asked.
    pub(super) fn free(&self) -> u16 {
        match self.field() {
            Field::Free(n) => n.min(self.left()),
            _ => 0,
        }
    }

    /// Takes `n` of them, but not the last.
    pub(super) fn pass(&mut self, n: u16) {
        self.at += n;
    }

    fn field(&self) -> Field {
        let data = self.len - ANSWER_LEN.min(self.len);
        match self.at {
            0..2 => Field::Free(2 - self.at),
            2 => Field::Operation,
            3 => Field::Flags,
            5 => Field::Exactly(u8::from(!self.is_answer)),
            7 => Field::Exactly(u8::from(self.is_answer)),
            11 => Field::Exactly(u8::from(!self.is_answer && self.operation != QUERY)),
            4..12 => Field::Exactly(0),
            12 => Field::Exactly(LETTERS as u8),
            13..45 => Field::Letter,
            45 | 46 => Field::Exactly(0),
            47 => Field::Kind,
            48 => Field::Exactly(0),
            49 => Field::Exactly(1),
            50..54 if self.is_answer => Field::Free(54 - self.at),
            54 if self.is_answer => Field::Exactly((data >> 8) as u8),
            55 if self.is_answer => Field::Exactly(data as u8),
            56 if self.is_answer && self.kind == NBSTAT => Field::Names,
            _ if self.is_answer => Field::Free(self.len - self.at),
            // The record repeats the name, by pointer, and has an address.
            50..56 => Field::Exactly([0xc0, 12, 0, NB, 0, 1][usize::from(self.at) - 50]),
            56..60 => Field::Free(60 - self.at),
            60 => Field::Exactly(0),
            61 => Field::Exactly(ADDRESS as u8),
            _ => Field::Free(self.len - self.at),
        }
    }

    /// Whether this can be the next byte.
    pub(super) fn allows(&self, sym: Sym, source: Source) -> bool {
        if self.drawn > 0 {
            return sym == Sym::Text && source == Source::Said;
        }
        let field = if self.at < self.len { self.field() } else { return false };
        match (field, sym) {
            (Field::Free(_), Sym::Known(_) | Sym::Drawn | Sym::Text) => true,
            (Field::Letter, Sym::Known(b)) => matches!(b, b'A'..=b'P'),
            // A name that was drawn in the last message is at the same place there.
            (Field::Letter, Sym::Text) => source != Source::Said || self.at == 13,
            (field, Sym::Known(b)) => self.is_right(field, b),
            _ => false,
        }
    }

    fn is_right(&self, field: Field, b: u8) -> bool {
        let data = self.len.checked_sub(ANSWER_LEN);
        match field {
            Field::Exactly(right) => b == right,
            Field::Operation => {
                let (is_answer, operation) = (b & 0x80 != 0, b >> 3 & 15);
                match (is_answer, operation) {
                    (false, QUERY) => self.len == QUERY_LEN,
                    (false, _) => self.len == REQUEST_LEN && REQUESTS.contains(&operation),
                    (true, QUERY) => data.is_some(),
                    (true, WAIT) => data == Some(2),
                    (true, _) => REQUESTS.contains(&operation) && data == Some(ADDRESS),
                }
            }
            // Two bits are 0; a broadcast is one only in what asks; nothing has gone wrong there yet (section 4.2.1.1).
            Field::Flags => b & 0x60 == 0 && (b & 15 <= 7) && (self.is_answer || b & 15 == 0),
            Field::Kind => match data.filter(|_| self.is_answer) {
                None => b == NB || b == NBSTAT && self.operation == QUERY,
                Some(0) => b == NULL || b == NB,
                Some(n) if self.operation == QUERY => {
                    b == NBSTAT && n >= STATUS || b == NB && n.is_multiple_of(ADDRESS)
                }
                Some(_) => b == NB,
            },
            Field::Names => data.is_some_and(|n| STATUS + NAME * u16::from(b) <= n),
            Field::Free(_) | Field::Letter => false,
        }
    }

    /// Takes the next byte. False where it cannot come.
    pub(super) fn hear(&mut self, sym: Sym, source: Source) -> bool {
        if !self.allows(sym, source) {
            return false;
        }
        match (self.at, sym) {
            (2, Sym::Known(b)) => (self.is_answer, self.operation) = (b & 0x80 != 0, b >> 3 & 15),
            (47, Sym::Known(b)) => self.kind = b,
            (13, Sym::Text) if source == Source::Said => self.drawn = DRAWN as u8,
            _ => {}
        }
        self.drawn = self.drawn.saturating_sub(1);
        self.at += 1;
        true
    }
}

/// What the next byte is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// So many bytes of which nothing is asked.
    Free(u16),
    Exactly(u8),
    Operation,
    Flags,
    Letter,
    Kind,
    /// How many names a host has.
    Names,
}
