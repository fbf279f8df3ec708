//! What a record of a handshake holds, byte by byte: a hello, or one message of which only the head is asked (RFC 8446, section 4; RFC
//! 5246, section 7.4).
//!
//! Before a byte is taken it is seen that what is left of the message can be filled exactly.

use super::super::exchange::Sym;
use super::extensions::{self, Form, HEAD, Said};
use crate::wire::certificate;

/// Bytes of a message's type and length.
const MESSAGE_HEAD: u16 = 4;
/// Bytes of a version and random ones.
const BEGIN: u16 = 2 + 32;
/// Bytes of the shortest hellos: without a session, of a client with one cipher suite and one method of compression.
const CLIENT_HELLO_MIN: u16 = BEGIN + 1 + 4 + 2;
const SERVER_HELLO_MIN: u16 = BEGIN + 1 + 3;
/// Longest session id.
const SESSION_MAX: u8 = 32;
/// A message with certificates has one at least, as what follows a server's hello in its record; a client may have none to show.
const CERTIFICATE_MIN: u16 = MESSAGE_HEAD + certificate::CHAIN_MIN as u16;
const NO_CERTIFICATE: u16 = MESSAGE_HEAD + 3;

/// Kinds of messages: hellos, those of a server, those of a client.
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// A server is done: nothing is in it.
const DONE: u8 = 14;
pub(super) const CERTIFICATE: u8 = 11;
const SERVER: [u8; 6] = [4, CERTIFICATE, 12, 13, DONE, 22];
const CLIENT: [u8; 3] = [CERTIFICATE, 15, 16];

/// What the next byte is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Kind,
    /// The message's length, behind so many of its bytes.
    Length(u8),
    /// The version, behind so many of its bytes.
    Version(u8),
    SessionLen,
    CiphersLen,
    CompressionLen,
    /// A server's choice of compression.
    Compression,
    ExtensionsLen,
    ExtensionKind,
    ExtensionLen,
    /// A length in an extension's data, of one byte or of two, behind which so many bytes follow in the data: all of the data, of a
    /// name's or a key's what fits.
    ListLen(Width),
    /// The type of a server's name.
    NameType,
    NameLen,
    EntryLen,
    ShareLen(bool),
    /// So many bytes of which nothing is asked.
    Free(u16),
    /// So many that are drawn: certificates come in their place.
    Shown(u16),
    /// So many that are said.
    Said(u16),
    /// So many of text that are said.
    Word(u16),
    /// So many of a name of a host: in all.
    Name(u16, u16),
    /// Zeros.
    Zeros(u16),
    /// These.
    Exactly(&'static [u8]),
    /// Methods of compression.
    Methods(u16),
    /// Two bytes of a version of TLS 1.2 or later.
    Chosen(bool),
    End,
}

/// How wide a list's length is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    One,
    Two,
}

/// Where the hello is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Begin,
    Random,
    Session,
    Ciphers,
    Methods,
    Extensions,
    /// Behind the last byte that is asked for.
    Rest,
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Content {
    is_server: bool,
    is_hello: bool,
    /// Whether the message has certificates.
    is_shown: bool,
    /// Whether names of hosts are said as they are; else they are drawn.
    keep_names: bool,
    /// Bytes of the record, those that the segment has, and those that were heard.
    len: u16,
    visible: u16,
    at: u16,
    /// Where the message ends.
    end: u16,
    /// Where the data of the extension under way ends.
    data_end: u16,
    part: Part,
    state: State,
    /// The byte before, of a number of two.
    high: Option<u8>,
    form: Form,
    said: Said,
}

impl Content {
    /// What a record of `len` bytes holds, of which the segment has `visible`; `None` where these are too few for anything.
    pub(super) fn new((is_server, is_hello): (bool, bool), keep_names: bool, len: u16, visible: u16) -> Option<Self> {
        let is_enough = visible.min(len) >= Self::lengths(is_server, is_hello).0;
        is_enough.then_some(Self {
            is_server,
            is_hello,
            is_shown: false,
            keep_names,
            len,
            visible,
            at: 0,
            end: len,
            data_end: 0,
            part: Part::Begin,
            state: State::Kind,
            high: None,
            form: Form::Nothing,
            said: 0,
        })
    }

    /// Lengths that a record has at least, and at most where it goes on behind its segment: a client's hello does not.
    pub(super) fn lengths(is_server: bool, is_hello: bool) -> (u16, u16) {
        match (is_server, is_hello) {
            (false, true) => (MESSAGE_HEAD + CLIENT_HELLO_MIN, 0),
            (true, true) => (MESSAGE_HEAD + SERVER_HELLO_MIN, MESSAGE_HEAD + SERVER_HELLO_MIN + CERTIFICATE_MIN),
            (false, false) => (MESSAGE_HEAD + 1, MESSAGE_HEAD + 1),
            (true, false) => (MESSAGE_HEAD, MESSAGE_HEAD),
        }
    }

    /// Whether a side says messages of this type behind its hello.
    pub(super) fn is_message(is_server: bool, kind: u8) -> bool {
        if is_server { SERVER.contains(&kind) } else { CLIENT.contains(&kind) }
    }

    /// Whether the next byte is the type of a message that is no hello.
    pub(super) fn is_at_message(&self) -> bool {
        self.state == State::Kind && !self.is_hello
    }

    /// In how many tokens the rest can be said at most: one a byte, but for the server's name.
    pub(in super::super) fn tokens_most(&self) -> usize {
        usize::from(self.visible - self.at.min(self.visible)) + 2
    }

    /// Bytes of the name of a host that can come; 0 where none can.
    pub(super) fn name(&self) -> u16 {
        match self.state {
            State::Name(left, all) if left == all => left,
            _ => 0,
        }
    }

    /// So many bytes come of which nothing is asked.
    pub(super) fn free(&self) -> u16 {
        if let State::Free(left) = self.state { left } else { 0 }
    }

    /// So many bytes come that can be drawn.
    pub(super) fn drawn(&self) -> u16 {
        if let State::Shown(left) = self.state { left } else { self.free() }
    }

    /// Takes `n` of them.
    pub(super) fn pass(&mut self, n: u16) {
        if let State::Free(left) | State::Shown(left) = &mut self.state {
            *left -= n;
            self.at += n;
            if *left == 0 {
                self.go_on();
            }
        }
    }

    fn left(&self) -> u16 {
        self.end - self.at
    }

    fn data_left(&self) -> u16 {
        self.data_end - self.at
    }

    /// Whether a message may have this length.
    fn is_end(&self, n: u16) -> bool {
        let all = self.len - MESSAGE_HEAD;
        if !(self.is_hello && self.is_server) {
            return n == all;
        }
        let is_whole = n == all || n <= all.saturating_sub(CERTIFICATE_MIN);
        n >= SERVER_HELLO_MIN && is_whole && n <= self.visible - MESSAGE_HEAD
    }

    /// Whether there is such a length with this high byte.
    fn is_end_high(&self, high: u8) -> bool {
        let all = self.len - MESSAGE_HEAD;
        let (from, to) = (u16::from(high) << 8, u16::from(high) << 8 | 255);
        let most = all.saturating_sub(CERTIFICATE_MIN).min(self.visible - MESSAGE_HEAD).min(to);
        (from..=to).contains(&all) && self.is_end(all)
            || self.is_hello && self.is_server && from.max(SERVER_HELLO_MIN) <= most
    }

    /// Whether this can be the next byte.
    pub(super) fn allows(&self, sym: Sym) -> bool {
        if self.at >= self.visible {
            return false;
        }
        match (self.state, sym) {
            (State::Free(_), Sym::Known(_) | Sym::Drawn | Sym::Text) => true,
            (State::Name(left, all), Sym::Text) => left <= all,
            (state, Sym::Known(b)) => self.allows_known(state, b),
            _ => false,
        }
    }

    fn allows_known(&self, state: State, b: u8) -> bool {
        // Extensions are there or not; what is left for their length and them.
        let is_rest = |n: u16| n == 0 || n == 2 || n >= 2 + HEAD;
        let two = |high: u8| u16::from(high) << 8 | u16::from(b);
        match state {
            State::Kind if self.is_hello => b == if self.is_server { SERVER_HELLO } else { CLIENT_HELLO },
            State::Kind if self.len == MESSAGE_HEAD => b == DONE,
            State::Kind if b == CERTIFICATE => self.len == NO_CERTIFICATE || self.len >= CERTIFICATE_MIN,
            State::Kind => b != DONE && Self::is_message(self.is_server, b),
            State::Length(0) => b == 0,
            State::Length(1) => self.is_end_high(b),
            State::Length(_) => self.high.is_some_and(|high| self.is_end(two(high))),
            State::Version(0) => b == 3,
            State::Version(_) => b <= 3,
            State::SessionLen => {
                let after = (self.left() - 1).checked_sub(u16::from(b)).filter(|_| b <= SESSION_MAX);
                after.is_some_and(|n| if self.is_server { n >= 3 && is_rest(n - 3) } else { n >= 6 })
            }
            State::CiphersLen => {
                let fits = |n: u16| {
                    let after = (self.left() - 1 - u16::from(self.high.is_none())).checked_sub(n);
                    let has_methods = |after: u16| (2..=3).any(|n| after.checked_sub(n).is_some_and(is_rest));
                    n >= 2 && n.is_multiple_of(2) && after.is_some_and(has_methods)
                };
                match self.high {
                    Some(high) => fits(two(high)),
                    None => u16::from(b) << 8 <= self.left() && (0..=255).any(|low| fits(u16::from(b) << 8 | low)),
                }
            }
            State::CompressionLen => matches!(b, 1 | 2) && (self.left() - 1).checked_sub(b.into()).is_some_and(is_rest),
            // None is the method that everybody has.
            State::Methods(left) => b == u8::from(left > 1),
            State::Compression => b == 0,
            State::ExtensionsLen => match self.high {
                None => b == ((self.left() - 2) >> 8) as u8,
                Some(_) => b == (self.left() - 1) as u8,
            },
            State::ExtensionKind => {
                let (kind, used) = match self.high {
                    None => ((b, None), 0),
                    Some(high) => ((high, Some(b)), 1),
                };
                let room = self.left() + used - HEAD;
                extensions::can_begin(self.is_server, self.said, kind, room)
            }
            State::ExtensionLen => match self.high {
                None => self.form.lengths().fits_high(b, self.left() - 2),
                Some(high) => self.form.lengths().fits(two(high), self.left() - 1),
            },
            State::ListLen(Width::One) => b == (self.data_left() - 1) as u8,
            State::ListLen(Width::Two) | State::NameLen | State::ShareLen(true) => match self.high {
                None => b == ((self.data_left() - 2) >> 8) as u8,
                Some(_) => b == (self.data_left() - 1) as u8,
            },
            // Another entry takes two bytes at least, another key five.
            State::EntryLen => {
                let after = (self.data_left() - 1).checked_sub(b.into());
                b > 0 && after.is_some_and(|n| n != 1)
            }
            State::ShareLen(false) => {
                let fits = |n: u16, used: u16| {
                    let after = (self.data_left() - used).checked_sub(n);
                    n > 0 && after.is_some_and(|n| n == 0 || n >= 5)
                };
                match self.high {
                    Some(high) => fits(two(high), 1),
                    None => {
                        let (from, to) = (u16::from(b) << 8, u16::from(b) << 8 | 255);
                        let room = self.data_left() - 2;
                        (from..=to).contains(&room) || from.max(1) <= room.saturating_sub(5).min(to)
                    }
                }
            }
            State::NameType | State::Zeros(_) => b == 0,
            State::Said(_) => true,
            State::Word(_) => matches!(b, 0x21..0x7f),
            State::Name(..) => self.keep_names && (b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
            State::Exactly(bytes) => bytes.first() == Some(&b),
            State::Chosen(false) => b == 3,
            State::Chosen(true) => matches!(b, 3 | 4),
            State::Free(_) => true,
            State::Shown(_) | State::End => false,
        }
    }

    /// Takes the next byte. False where it cannot come.
    pub(super) fn hear(&mut self, sym: Sym) -> bool {
        if !self.allows(sym) {
            return false;
        }
        let b = if let Sym::Known(b) = sym { b } else { 0 };
        self.at += 1;
        let number = self.high.map(|high| u16::from(high) << 8 | u16::from(b));
        // Of a number of two bytes the first is kept.
        let is_wide = matches!(
            self.state,
            State::CiphersLen
                | State::ExtensionsLen
                | State::ExtensionKind
                | State::ExtensionLen
                | State::ListLen(Width::Two)
                | State::NameLen
                | State::ShareLen(_)
                | State::Length(1..)
        );
        if is_wide && number.is_none() {
            self.high = Some(b);
            if self.state == State::Length(1) {
                self.state = State::Length(2);
            }
            return true;
        }
        self.high = None;
        let number = number.unwrap_or(b.into());
        let one_less = |n: u16, more: fn(u16) -> State| if n > 1 { Some(more(n - 1)) } else { None };
        let next = match self.state {
            State::Kind => {
                self.is_shown = b == CERTIFICATE;
                Some(State::Length(0))
            }
            State::Length(0) => Some(State::Length(1)),
            State::Length(_) => {
                self.end = self.at + number;
                self.after_head()
            }
            State::Version(0) => Some(State::Version(1)),
            State::Version(_) => self.enter(Part::Random, 32),
            State::SessionLen => self.enter(Part::Session, number),
            State::CiphersLen => {
                self.part = Part::Ciphers;
                Some(State::Said(number))
            }
            State::CompressionLen => {
                self.part = Part::Methods;
                Some(State::Methods(number))
            }
            State::ExtensionsLen => {
                self.part = Part::Extensions;
                self.data_end = self.at;
                None
            }
            State::ExtensionKind => {
                self.form = extensions::form(self.is_server, number).unwrap_or(Form::Nothing);
                extensions::say(self.is_server, number, &mut self.said);
                Some(State::ExtensionLen)
            }
            State::ExtensionLen => {
                self.data_end = self.at + number;
                if number > 0 { Some(self.data_begins()) } else { None }
            }
            State::ListLen(_) => match self.form {
                Form::ServerName => Some(State::NameType),
                Form::Names => Some(State::EntryLen),
                Form::Shares => Some(State::Said(2)),
                _ => Some(State::Said(self.data_left())),
            },
            State::NameType => Some(State::NameLen),
            State::NameLen => Some(State::Name(number, number)),
            State::EntryLen => Some(State::Word(number)),
            State::ShareLen(_) => Some(State::Free(number)),
            State::Free(n) => one_less(n, State::Free),
            State::Shown(n) => one_less(n, State::Shown),
            State::Said(n) => match one_less(n, State::Said) {
                None if self.part == Part::Extensions && matches!(self.form, Form::Shares | Form::Share) => {
                    Some(State::ShareLen(self.form == Form::Share))
                }
                next => next,
            },
            State::Word(n) => one_less(n, State::Word),
            State::Name(n, all) => (n > 1).then(|| State::Name(n - 1, all)),
            State::Zeros(n) => one_less(n, State::Zeros),
            State::Methods(n) => one_less(n, State::Methods),
            State::Exactly(bytes) => (bytes.len() > 1).then(|| State::Exactly(&bytes[1..])),
            State::Chosen(false) => Some(State::Chosen(true)),
            State::Compression | State::Chosen(true) | State::End => None,
        };
        match next {
            Some(state) => self.state = state,
            None => self.go_on(),
        }
        true
    }

    /// Behind a message's head.
    fn after_head(&mut self) -> Option<State> {
        if self.is_hello {
            return Some(State::Version(0));
        }
        self.part = Part::Rest;
        let left = self.end - self.at;
        let body = if self.is_shown && self.len != NO_CERTIFICATE { State::Shown(left) } else { State::Free(left) };
        (left > 0).then_some(body)
    }

    /// Into a part of `n` free bytes.
    fn enter(&mut self, part: Part, n: u16) -> Option<State> {
        self.part = part;
        (n > 0).then_some(State::Free(n))
    }

    fn data_begins(&self) -> State {
        let n = self.data_left();
        match self.form {
            Form::Exactly(bytes) => State::Exactly(bytes),
            Form::Nothing | Form::Free(..) => State::Free(n),
            Form::Zeros => State::Zeros(n),
            Form::Short(_) => State::ListLen(Width::One),
            Form::Long | Form::Names | Form::ServerName | Form::Shares => State::ListLen(Width::Two),
            Form::Share => State::Said(2),
            Form::Version => State::Chosen(false),
        }
    }

    /// To what follows a part, or something in it, that is complete.
    fn go_on(&mut self) {
        self.state = match self.part {
            Part::Random => State::SessionLen,
            Part::Session if self.is_server => {
                self.part = Part::Ciphers;
                State::Said(2)
            }
            Part::Session => State::CiphersLen,
            Part::Ciphers if self.is_server => {
                self.part = Part::Methods;
                State::Compression
            }
            Part::Ciphers => State::CompressionLen,
            Part::Methods if self.left() > 0 => State::ExtensionsLen,
            Part::Extensions if self.at < self.data_end => match self.form {
                Form::Names => State::EntryLen,
                // Another key, behind its group.
                Form::Shares | Form::Share => State::Said(2),
                _ => State::End,
            },
            Part::Extensions if self.left() > 0 => State::ExtensionKind,
            // What follows a server's hello in its record.
            Part::Methods | Part::Extensions | Part::Begin | Part::Rest if self.len > self.end && self.is_hello => {
                self.part = Part::Rest;
                let tail = self.len - self.end;
                self.end = self.len;
                State::Shown(tail)
            }
            _ => State::End,
        };
    }
}
