//! CoAP over UDP (RFC 7252, section 3): a header of four bytes, a token, options, and perhaps a payload behind 0xff.
//!
//! Byte by byte, as for DNS: before one is taken, it is seen whether what is left of the datagram can still be filled exactly.

use super::{Source, Sym};

/// Port of CoAP.
pub(super) const PORT: u16 = 5683;
/// Bytes of the header, which is all that an empty message has.
const HEADER_LEN: u16 = 4;
/// Longest token.
const TOKEN_MAX: u8 = 8;
/// What stands between options and payload.
const MARKER: u8 = 0xff;

/// Types of messages, as in the first byte (section 3): two that carry something, and the two that answer such a one.
const NON_CONFIRMABLE: u8 = 1;
const ACKNOWLEDGEMENT: u8 = 2;

/// Codes of requests: GET to DELETE, and those of RFC 8132.
const REQUEST_MAX: u8 = 7;
/// Codes of responses (section 12.1.2; RFC 7959, 8132, 8516, 8768, 9175).
const RESPONSES: [u8; 26] = [
    0x41, 0x42, 0x43, 0x44, 0x45, 0x5f, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x88, 0x89, 0x8c, 0x8d, 0x8f, 0x96,
    0x9d, 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5,
];

/// Options: number, and the shortest and longest value (section 5.10; RFC 7641, 7959). Those of later documents are not made: readers
/// from before them call their numbers invalid, and a value of OSCORE has a form of its own.
const OPTIONS: [(u16, u16, u16); 19] = [
    (1, 0, 8),     // If-Match
    (3, 1, 255),   // Uri-Host
    (4, 1, 8),     // ETag
    (5, 0, 0),     // If-None-Match
    (6, 0, 3),     // Observe
    (7, 0, 2),     // Uri-Port
    (8, 1, 255),   // Location-Path
    (11, 1, 255),  // Uri-Path
    (12, 0, 2),    // Content-Format
    (14, 0, 4),    // Max-Age
    (15, 1, 255),  // Uri-Query
    (17, 0, 2),    // Accept
    (20, 1, 255),  // Location-Query
    (23, 0, 3),    // Block2
    (27, 0, 3),    // Block1
    (28, 0, 4),    // Size2
    (35, 1, 1034), // Proxy-Uri
    (39, 1, 255),  // Proxy-Scheme
    (60, 0, 4),    // Size1
];

/// What the next byte is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Version, type, length of the token.
    First,
    Code,
    /// So many bytes of the message's number to come.
    Id(u8),
    /// The same of the token.
    Token(u8),
    /// An option's first byte, or the payload's marker.
    Option,
    /// An option's number goes on: how many bytes do, what the first of two was, and how its length begins.
    Delta(Wide, u8),
    /// Its length goes on.
    Length(Wide),
    /// So many bytes of a value, or of the payload.
    Bytes(u16),
}

/// A number that goes on behind four bits of 13, in one byte, or of 14, in two (section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wide {
    One,
    High,
    /// Behind this byte.
    Low(u8),
}

impl Wide {
    /// The numbers that there are when this byte comes next.
    fn with(self, b: u8) -> (u32, u32) {
        let b = u32::from(b);
        match self {
            Self::One => (13 + b, 13 + b),
            Self::High => (269 + (b << 8), 269 + (b << 8 | 255)),
            Self::Low(high) => {
                let n = 269 + (u32::from(high) << 8 | b);
                (n, n)
            }
        }
    }

    /// Bytes behind the one that comes next.
    fn more(self) -> u16 {
        u16::from(self == Self::High)
    }
}

/// Numbers that four bits stand for, and how they go on.
fn begun(bits: u8) -> Option<(u32, u32, Option<Wide>)> {
    match bits {
        13 => Some((13, 268, Some(Wide::One))),
        14 => Some((269, 269 + 0xffff, Some(Wide::High))),
        15 => None,
        n => Some((n.into(), n.into(), None)),
    }
}

/// Bytes that a number takes behind its four bits.
fn width(wide: Option<Wide>) -> u16 {
    wide.map_or(0, |wide| 1 + wide.more())
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    is_reply: bool,
    is_request: bool,
    /// Bytes to come.
    left: u16,
    state: State,
    /// Type, and length of the token.
    kind: u8,
    token: u8,
    /// Number of the last option.
    option: u16,
    /// Bytes of header and token of the request that is answered; 0 where it is not known.
    echo: u16,
    /// Whether options may be any, as those that nobody knows are passed over (section 5.4.1).
    takes_any: bool,
}

impl Message {
    /// A message of `len` bytes, of the flow's responder or its opener, that answers a request whose token ended at `echo`.
    pub(super) fn new(is_reply: bool, len: u16, echo: u16) -> Self {
        let state = State::First;
        Self { is_reply, is_request: false, left: len, state, kind: 0, token: 0, option: 0, echo, takes_any: false }
    }

    /// The same with options of any number and length: older and newer hosts have others.
    pub(super) fn with_any_option(self) -> Self {
        Self { takes_any: true, ..self }
    }

    /// Where the token ended, of a request; 0 of anything else.
    pub(super) fn question_end(&self) -> u16 {
        if self.is_request { HEADER_LEN + u16::from(self.token) } else { 0 }
    }

    /// Lengths that messages have: an empty one, or one whose token is the request's.
    pub(super) fn lengths(echo: u16, most: u32) -> [(u32, u32); 2] {
        [(HEADER_LEN.into(), HEADER_LEN.into()), (echo.max(HEADER_LEN).into(), most)]
    }

    /// Whether the message is complete.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0 && self.state == State::Option
    }

    /// So many bytes come of which nothing is asked.
    pub(super) fn free(&self) -> u16 {
        if let State::Bytes(n) = self.state { n } else { 0 }
    }

    /// Takes `n` of them, but not the last.
    pub(super) fn pass(&mut self, n: u16) {
        debug_assert!(n < self.free());
        (self.state, self.left) = (State::Bytes(self.free() - n), self.left - n);
    }

    /// Bytes to come.
    pub(super) fn left(&self) -> u16 {
        self.left
    }

    /// Bytes of the request that come next without a break: an acknowledgement, or a reset, has the number of what it answers
    /// (section 4.2), a response the token (section 5.3.1).
    pub(super) fn still_to_repeat(&self) -> u16 {
        match self.state {
            _ if self.echo == 0 => 0,
            State::Id(n) if self.kind >= ACKNOWLEDGEMENT => u16::from(n + self.token),
            State::Token(n) => n.into(),
            _ => 0,
        }
    }

    /// Whether this can be the next byte.
    pub(super) fn allows(&self, sym: Sym, source: Source) -> bool {
        let Some(after) = self.left.checked_sub(1) else { return false };
        let is_any = matches!(sym, Sym::Known(_) | Sym::Drawn | Sym::Text);
        match (self.state, sym) {
            (State::Id(_) | State::Token(_), _) if self.still_to_repeat() > 0 => is_any && source == Source::Peer,
            (State::Id(_) | State::Token(_) | State::Bytes(_), _) => is_any,
            (State::First, Sym::Known(b)) => self.can_begin(b, after),
            (State::Code, Sym::Known(b)) => self.can_be_code(b, after),
            (State::Option, Sym::Known(MARKER)) => after > 0,
            (State::Option, Sym::Known(b)) => match begun(b >> 4) {
                Some((from, to, wide)) => {
                    after.checked_sub(width(wide)).is_some_and(|after| self.number_fits((from, to), b & 15, after))
                }
                None => false,
            },
            (State::Delta(wide, length), Sym::Known(b)) => {
                after.checked_sub(wide.more()).is_some_and(|after| self.number_fits(wide.with(b), length, after))
            }
            (State::Length(wide), Sym::Known(b)) => {
                let after = after.checked_sub(wide.more());
                after.is_some_and(|after| self.value_fits(self.option, wide.with(b), after))
            }
            _ => false,
        }
    }

    /// Takes the next byte. False where it cannot come.
    pub(super) fn hear(&mut self, sym: Sym, source: Source) -> bool {
        if !self.allows(sym, source) {
            return false;
        }
        self.left -= 1;
        let b = if let Sym::Known(b) = sym { b } else { 0 };
        self.state = match self.state {
            State::First => {
                (self.kind, self.token) = (b >> 4 & 3, b & 15);
                State::Code
            }
            State::Code => {
                self.is_request = (1..=REQUEST_MAX).contains(&b);
                State::Id(2)
            }
            State::Id(2) => State::Id(1),
            State::Id(_) if self.token > 0 => State::Token(self.token),
            State::Token(n @ 2..) => State::Token(n - 1),
            State::Bytes(n @ 2..) => State::Bytes(n - 1),
            State::Id(_) | State::Token(_) | State::Bytes(_) => State::Option,
            State::Option if b == MARKER => State::Bytes(self.left),
            State::Option => match begun(b >> 4) {
                Some((_, _, Some(wide))) => State::Delta(wide, b & 15),
                _ => self.numbered((b >> 4).into(), b & 15),
            },
            State::Delta(Wide::High, length) => State::Delta(Wide::Low(b), length),
            State::Delta(wide, length) => self.numbered(wide.with(b).0, length),
            State::Length(Wide::High) => State::Length(Wide::Low(b)),
            State::Length(wide) => value(wide.with(b).0),
        };
        true
    }

    /// The option's number is known, and how its length begins.
    fn numbered(&mut self, delta: u32, length: u8) -> State {
        self.option += delta as u16;
        match begun(length) {
            Some((_, _, Some(wide))) => State::Length(wide),
            _ => value(length.into()),
        }
    }

    /// Whether a message can begin with `b`, with `after` bytes behind it.
    fn can_begin(&self, b: u8, after: u16) -> bool {
        let (version, kind, token) = (b >> 6, b >> 4 & 3, b & 15);
        let Some(rest) = after.checked_sub(3 + u16::from(token)) else { return false };
        if version != 1 || token > TOKEN_MAX {
            return false;
        }
        // An empty message has no token; a reset is always empty (section 4.1).
        let can_be_empty = token == 0 && rest == 0 && (kind != NON_CONFIRMABLE);
        let is_echo = self.echo == 0 || u16::from(token) + HEADER_LEN == self.echo;
        let can_be_full = if self.is_reply { kind <= ACKNOWLEDGEMENT && is_echo } else { kind <= NON_CONFIRMABLE };
        can_be_empty || can_be_full && self.is_filled(0, rest)
    }

    fn can_be_code(&self, b: u8, after: u16) -> bool {
        // Behind a number of two bytes.
        let rest = after - 2;
        let is_empty = self.token == 0 && rest == 0 && self.kind != NON_CONFIRMABLE;
        match b {
            0 => is_empty,
            1..=REQUEST_MAX => !self.is_reply && self.kind <= NON_CONFIRMABLE,
            _ => {
                let is_echo = self.echo == 0 || u16::from(self.token) + HEADER_LEN == self.echo;
                self.is_reply && self.kind <= ACKNOWLEDGEMENT && is_echo && RESPONSES.contains(&b)
            }
        }
    }

    /// Whether an option that is so many behind the last, of a length that begins so, can come, with `after` bytes behind its number.
    fn number_fits(&self, delta: (u32, u32), length: u8, after: u16) -> bool {
        let Some((from, to, wide)) = begun(length) else { return false };
        let Some(after) = after.checked_sub(width(wide)) else { return false };
        let last = u32::from(self.option);
        if self.takes_any {
            return last + delta.0 <= 0xffff && from <= after.into();
        }
        OPTIONS.iter().any(|(number, ..)| {
            let number_is = (last + delta.0..=last + delta.1).contains(&u32::from(*number));
            number_is && self.value_fits(*number, (from, to), after)
        })
    }

    /// Whether an option can have a value of a length in `range`, of `after` bytes that are left.
    fn value_fits(&self, number: u16, range: (u32, u32), after: u16) -> bool {
        if self.takes_any {
            return range.0 <= after.into();
        }
        let Some((_, least, most)) = OPTIONS.iter().find(|option| option.0 == number) else { return false };
        let (from, to) = (range.0.max((*least).into()), range.1.min((*most).into()).min(after.into()));
        // Of two lengths one leaves enough.
        from <= to && (self.is_filled(number, after - from as u16) || self.is_filled(number, after - to as u16))
    }

    /// Whether what can follow option `last` fills `left` bytes: one alone is an option without a value, more can be a payload.
    fn is_filled(&self, last: u16, left: u16) -> bool {
        let is_next = |number: u16| (last..=last + 12).contains(&number);
        left != 1 || self.takes_any || OPTIONS.iter().any(|(number, least, _)| *least == 0 && is_next(*number))
    }
}

/// So many bytes of a value.
fn value(len: u32) -> State {
    if len == 0 { State::Option } else { State::Bytes(len as u16) }
}
