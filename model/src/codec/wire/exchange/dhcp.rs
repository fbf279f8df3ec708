//! DHCP over UDP (RFC 2131, section 2): a header of fixed fields, a cookie, options (RFC 2132) to the end mark, then zeros.
//!
//! Byte by byte, as for DNS: an option is begun only where its value, the kind of the message, and the end still fit. What the frame
//! around it determines is filled in when it is rendered ([`crate::wire::dhcp`]).

use super::super::vocab::RUN_MAX;
use super::{Source, Sym};
use crate::wire::dhcp::{CLIENT_ID, COOKIE, COOKIE_AT, END, ETHERNET, KIND, MAC_LEN, NAMES_AT, OPTIONS_AT, PORTS};

/// Port of the server.
pub(super) const PORT: u16 = PORTS[0];
/// Port of a client.
pub(super) const CLIENT_PORT: u16 = PORTS[1];
/// Bytes of the shortest message: its kind is an option of three bytes.
const LEN_MIN: u16 = OPTIONS_AT as u16 + KIND_LEN + 1;
const KIND_LEN: u16 = 3;
/// Relays that a message can have passed (RFC 1542, section 4.1.1).
const HOPS_MAX: u8 = 16;

/// The option with a client's name, and where in its value the name begins.
const NAME: u8 = 81;
const NAME_AT: u8 = 3;

/// Kinds of messages (RFC 2132, section 9.6): of clients, of servers.
const CLIENT: [u8; 5] = [1, 3, 4, 7, 8];
const SERVER: [u8; 3] = [2, 5, 6];

/// How the value of an option is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Bytes of which nothing is asked.
    Any,
    /// Printable text, perhaps with a zero behind it.
    Text,
    /// The message's kind.
    Kind,
    /// A client's identifier: of hardware, text, or as RFC 4361 has it.
    Client,
    /// A client's name behind flags and two bytes that are obsolete (RFC 4702, section 2).
    Name,
}

/// An option: how long its value is at least, in steps of what, at most, and its form. Those whose values have parts of their own
/// (RFC 3046, 3397, 3442) are not made.
const fn option(code: u8) -> Option<(u8, u8, u8, Form)> {
    use Form::{Any, Client, Kind, Text};
    Some(match code {
        // Lists of addresses, and of pairs of them.
        3..=11 | 41 | 42 | 44 | 45 | 48 | 49 | 65 | 68..=76 | 150 => (4, 4, 252, Any),
        21 | 33 => (8, 8, 248, Any),
        1 | 2 | 16 | 24 | 28 | 32 | 35 | 38 | 50 | 51 | 54 | 58 | 59 | 108 => (4, 4, 4, Any),
        13 | 22 | 26 | 57 => (2, 2, 2, Any),
        19 | 20 | 23 | 27 | 29 | 30 | 31 | 34 | 36 | 37 | 39 | 46 | 116 => (1, 1, 1, Any),
        12 | 14 | 15 | 17 | 40 | 47 | 56 | 60 | 62 | 64 | 66 | 67 | 100 | 101 | 114 | 160 | 252 => (1, 1, 255, Text),
        KIND => (1, 1, 1, Kind),
        // What is asked for, and for the server's program to understand.
        43 | 55 => (1, 1, 255, Any),
        CLIENT_ID => (2, 1, 255, Client),
        80 => (0, 1, 0, Any),
        NAME => (NAME_AT + 1, 1, 255, Form::Name),
        _ => return None,
    })
}

/// What the next byte is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The header, at the message's length less what is left.
    Header,
    Code,
    /// The length of this option's value.
    Len(u8),
    /// A value: its option, bytes to come, bytes in all.
    Value(u8, u8, u8),
    /// Behind the end.
    Rest,
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    is_reply: bool,
    len: u16,
    at: u16,
    state: State,
    /// Options that were said, as bits.
    said: [u64; 4],
    /// First byte of a client's identifier.
    client: u8,
    /// Whether options may be any, and stand where they like, as readers take them.
    takes_any: bool,
}

impl Message {
    /// A message of `len` bytes, of the server or of a client.
    pub(super) fn new(is_reply: bool, len: u16) -> Self {
        Self { is_reply, len, at: 0, state: State::Header, said: [0; 4], client: 0, takes_any: false }
    }

    /// The same, in which options that are not made may come.
    pub(super) fn with_any_option(self) -> Self {
        Self { takes_any: true, ..self }
    }

    /// Lengths that messages have.
    pub(super) fn lengths(told: u32, most: u32) -> [(u32, u32); 2] {
        // All but the options is told in so many tokens, an option in at most two a byte.
        let before = NAMES_AT + (COOKIE_AT - NAMES_AT).div_ceil(RUN_MAX) + COOKIE.len();
        [(LEN_MIN.into(), most.min((told + OPTIONS_AT as u32).saturating_sub(before.div_ceil(2) as u32))); 2]
    }

    /// Whether the message is complete.
    pub(super) fn is_done(&self) -> bool {
        self.at == self.len && self.state == State::Rest
    }

    /// In how many tokens the rest can be said at most: what is drawn at once in as few as there can be, and of options text of one
    /// byte in two.
    pub(super) fn tokens_most(&self) -> usize {
        let to = |from: usize, to: usize| to.saturating_sub(from.max(self.at.into()));
        to(0, NAMES_AT)
            + usize::from(self.at_once_from(NAMES_AT)).div_ceil(RUN_MAX)
            + to(COOKIE_AT, OPTIONS_AT)
            + 2 * to(OPTIONS_AT, self.len.into())
    }

    /// Bytes that come next and are drawn, or copied, in as few tokens as there can be.
    pub(super) fn at_once(&self) -> u16 {
        if usize::from(self.at) < NAMES_AT { 0 } else { self.at_once_from(NAMES_AT) }
    }

    fn at_once_from(&self, from: usize) -> u16 {
        COOKIE_AT.saturating_sub(from.max(self.at.into())) as u16
    }

    fn left(&self) -> u16 {
        self.len - self.at
    }

    fn has(&self, code: u8) -> bool {
        self.said[usize::from(code / 64)] >> (code % 64) & 1 == 1
    }

    /// Bytes that have to follow an option of this code.
    fn reserved(&self, code: u8) -> u16 {
        1 + if code == KIND || self.has(KIND) { 0 } else { KIND_LEN }
    }

    /// Bytes that a name in text has, where one can come; 0 where none can.
    pub(super) fn text(&self) -> Option<u16> {
        match self.state {
            State::Value(code, left, all) if matches!(option(code), Some((.., Form::Text))) => {
                Some(if left == all { left.into() } else { 0 })
            }
            State::Value(CLIENT_ID, left, all) if self.client == 0 && all - left == 1 => Some(left.into()),
            State::Value(NAME, left, all) if all - left == NAME_AT => Some(left.into()),
            _ => Some(0),
        }
    }

    /// So many bytes come of which nothing is asked.
    pub(super) fn free(&self) -> u16 {
        match (self.state, usize::from(self.at)) {
            (State::Header, at @ 4..10) => 10 - at as u16,
            (State::Header, at @ 12..34) => 34 - at as u16,
            (State::Header, at @ NAMES_AT..COOKIE_AT) => (COOKIE_AT - at) as u16,
            (State::Value(code, left, _), _) if matches!(option(code), None | Some((.., Form::Any))) => left.into(),
            _ => 0,
        }
        .min(self.left())
    }

    /// Takes `n` of them, but not the last.
    pub(super) fn pass(&mut self, n: u16) {
        self.at += n;
        if let State::Value(_, left, _) = &mut self.state {
            *left -= n as u8;
        }
    }

    /// Whether this can be the next byte.
    pub(super) fn allows(&self, sym: Sym, _: Source) -> bool {
        if self.at >= self.len || self.len < LEN_MIN {
            return false;
        }
        if self.free() > 0 {
            return matches!(sym, Sym::Known(_) | Sym::Drawn | Sym::Text);
        }
        match (self.state, sym) {
            (State::Value(code, left, all), sym) => self.allows_in(code, left, all, sym),
            (State::Header, Sym::Known(b)) => self.allows_in_header(b),
            (State::Code, Sym::Known(b)) => self.allows_code(b),
            (State::Len(code), Sym::Known(len)) => self.allows_len(code, len),
            (State::Rest, Sym::Known(b)) => b == 0 || self.takes_any,
            _ => false,
        }
    }

    fn allows_in_header(&self, b: u8) -> bool {
        match usize::from(self.at) {
            0 => b == 1 + u8::from(self.is_reply),
            1 => b == ETHERNET,
            2 => usize::from(b) == MAC_LEN,
            3 => b <= HOPS_MAX,
            // The one flag that there is, and zeros (section 2, figure 2).
            10 => b & 0x7f == 0,
            at @ COOKIE_AT..OPTIONS_AT => b == COOKIE[at - COOKIE_AT],
            34..44 if self.takes_any => true,
            _ => b == 0,
        }
    }

    fn allows_code(&self, code: u8) -> bool {
        if code == END {
            return self.has(KIND);
        }
        if self.takes_any && code == 0 {
            return self.left() > self.reserved(0);
        }
        let least = match option(code) {
            Some((least, ..)) => least,
            None if self.takes_any && code != 0 => 0,
            None => return false,
        };
        (!self.has(code) || self.takes_any) && self.left() >= 2 + u16::from(least) + self.reserved(code)
    }

    fn allows_len(&self, code: u8, len: u8) -> bool {
        let fits = self.left() > u16::from(len) + self.reserved(code);
        let is_right = option(code)
            .is_none_or(|(least, step, most, _)| (least..=most).contains(&len) && (len - least).is_multiple_of(step));
        fits && is_right
    }

    fn allows_in(&self, code: u8, left: u8, all: u8, sym: Sym) -> bool {
        let is_text = |sym| match sym {
            Sym::Text => true,
            Sym::Known(b) => matches!(b, 0x20..0x7f) || left == 1 && matches!(b, 0 | b'\n') || self.takes_any,
            _ => false,
        };
        match (option(code), sym) {
            (Some((.., Form::Kind)), Sym::Known(b)) => {
                let kinds: &[u8] = if self.is_reply { &SERVER } else { &CLIENT };
                kinds.contains(&b)
            }
            (Some((.., Form::Text)), sym) => is_text(sym),
            // The name is no DNS labels.
            (Some((.., Form::Name)), Sym::Known(b)) if left == all => b & 0xf4 == 0 || self.takes_any,
            (Some((.., Form::Name)), Sym::Known(b)) if all - left < NAME_AT => matches!(b, 0 | 255) || self.takes_any,
            (Some((.., Form::Name)), sym) if all - left >= NAME_AT => is_text(sym),
            (Some((.., Form::Client)), Sym::Known(b)) if left == all => match b {
                ETHERNET => usize::from(all) == 1 + MAC_LEN,
                // Behind four bytes comes a unique identifier, of time and hardware, or of an enterprise (RFC 8415, section 11).
                255 => all == 19 || self.takes_any,
                0 => true,
                _ => self.takes_any,
            },
            (Some((.., Form::Client)), sym) if left < all => match (self.client, all - left) {
                (0, _) => is_text(sym) || sym == Sym::Drawn,
                (255, 5) => matches!(sym, Sym::Known(0)) || self.takes_any,
                (255, 6) => matches!(sym, Sym::Known(1 | 2)) || self.takes_any,
                _ => matches!(sym, Sym::Known(_) | Sym::Drawn),
            },
            _ => false,
        }
    }

    /// Takes the next byte. False where it cannot come.
    pub(super) fn hear(&mut self, sym: Sym, source: Source) -> bool {
        if !self.allows(sym, source) {
            return false;
        }
        self.at += 1;
        let known = if let Sym::Known(b) = sym { b } else { 0 };
        self.state = match self.state {
            State::Header if usize::from(self.at) == OPTIONS_AT => State::Code,
            State::Header => State::Header,
            State::Code if known == END => State::Rest,
            State::Code if known == 0 => State::Code,
            State::Code => {
                self.said[usize::from(known / 64)] |= 1 << (known % 64);
                State::Len(known)
            }
            State::Len(_) if known == 0 => State::Code,
            State::Len(code) => State::Value(code, known, known),
            State::Value(code, left, all) => {
                if code == CLIENT_ID && left == all {
                    self.client = known;
                }
                if left > 1 { State::Value(code, left - 1, all) } else { State::Code }
            }
            State::Rest => State::Rest,
        };
        true
    }
}
