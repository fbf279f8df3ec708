//! A DNS message byte by byte: which byte may come next so that the message ends where the datagram does.
//!
//! RFC 1035, section 4. Whatever was heard so far, some byte can follow, down to the last: before one is taken, it is seen
//! whether what is left of the datagram can still be filled exactly.

mod edns;
mod fit;
mod name;
mod number;

use self::fit::{RECORD_MIN, option_fits};
use self::name::{is_service, words_of, words_with};
use super::super::exchange::{Source, Sym};
use super::records::{Field, HEADER, QUESTION, RECORD};
use crate::wire::plan;

/// Bytes of the header.
const HEADER_LEN: u16 = 12;
/// Longest name in a message, with its lengths and its end (RFC 1035, section 2.3.4).
const NAME_MAX: u16 = 255;
/// Places that pointers can point at which are remembered, in a message and in a name; others are not pointed at.
const TARGETS_MAX: usize = 80;
const STARTS_MAX: usize = 40;
/// Longest query: what fits a datagram of RFC 1035 (section 4.2.1).
const QUERY_MAX: u32 = 512;

/// Whose rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Dialect {
    /// RFC 1035.
    Unicast,
    /// RFC 4795: names are in UTF-8.
    Link,
    /// RFC 6762.
    Multicast,
}

/// How names are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Names {
    /// As anybody may.
    Literal,
    /// As the codec does: names are drawn, save the labels of services and a few words, which are literal. What stands in front of a
    /// service is a name in text, label by label.
    Drawn,
}

/// What the next byte is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Bytes of which nothing is asked.
    Bytes(u16),
    /// A number's high byte, or its low one.
    High,
    Low(u8),
    /// A label's length, a pointer, or the end of the name.
    Label,
    InLabel(u8),
    /// The first of so many bytes of a label that is literal only where it identifies nobody.
    Opening(u8),
    /// So many bytes of a word to come: one of these, as bits.
    InWord(u8, u16),
    /// So many bytes of a label that is a name in text.
    InText(u8),
    /// The low byte of a pointer.
    Pointer(u8),
    /// Bytes of a drawn name, all from one source.
    InName(u8, Source),
    /// A string's length.
    TextLength,
    /// Number and length of an option: the byte, and what the length's high byte was.
    Option(u8, u8),
    /// The head of a client's network: the place in it, the family, bytes of the address.
    Subnet(u8, u8, u16),
    /// Number and length of a block.
    Bitmap(u8),
    Done,
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Message {
    dialect: Dialect,
    names: Names,
    is_reply: bool,
    at: u16,
    /// Bytes to come: of the message, and of what the fields are in.
    left: u16,
    room: u16,
    is_in_data: bool,
    /// Fields from the one under way on.
    fields: &'static [Field],
    state: State,
    /// Where the question of the query ends that is answered: until there it is repeated, and so is the number. 0 where it is not
    /// known.
    echo: u16,
    /// Where the first question ended; 0 before.
    question_end: u16,
    /// Entries of each section that are still to begin, and the section under way.
    counts: [u16; 4],
    section: u8,
    has_opt: bool,
    is_opt: bool,
    /// Number of the option under way, and whether EDNS may have options that are not made.
    option: u16,
    takes_any: bool,
    /// The data of the record under way.
    data: &'static [Field],
    /// Of the name under way: bytes that it can still have, whether it is the root so far or has a drawn part, where its labels
    /// begin.
    name_left: u16,
    is_root: bool,
    is_drawn: bool,
    starts: [u16; STARTS_MAX],
    starts_len: u8,
    /// Where names begin that a pointer can stand for, and their lengths.
    targets: [(u16, u8); TARGETS_MAX],
    targets_len: u8,
}

impl Message {
    /// A message of `len` bytes, of the flow's responder or its opener.
    pub(in super::super) fn new(dialect: Dialect, names: Names, is_reply: bool, len: u16) -> Self {
        let mut ret = Self {
            dialect,
            names,
            is_reply,
            at: 0,
            left: len,
            room: len,
            is_in_data: false,
            fields: &HEADER,
            state: State::Done,
            echo: 0,
            question_end: 0,
            counts: [0; 4],
            section: 0,
            has_opt: false,
            is_opt: false,
            option: 0,
            takes_any: false,
            data: &[],
            name_left: 0,
            is_root: false,
            is_drawn: false,
            starts: [0; STARTS_MAX],
            starts_len: 0,
            targets: [(0, 0); TARGETS_MAX],
            targets_len: 0,
        };
        ret.begin();
        ret
    }

    /// The same, answering a query whose question ended at `echo`; 0 where that is not known.
    pub(in super::super) fn answering(self, echo: u16) -> Self {
        Self { echo, ..self }
    }

    /// The same with options of any number and length in EDNS.
    pub(in super::super) fn with_any_option(self) -> Self {
        Self { takes_any: true, ..self }
    }

    /// Where the first question ended; 0 where there was none.
    pub(in super::super) fn question_end(&self) -> u16 {
        self.question_end
    }

    /// Lengths that messages have: a header alone is an answer, and a name without labels has one length. An answer repeats the
    /// question that ended at `echo`, where that is not 0, and has room for records or has none.
    pub(in super::super) fn lengths(is_reply: bool, echo: u16, most: u32) -> [(u32, u32); 2] {
        if echo > 0 {
            let echo = u32::from(echo);
            return [(echo, echo), (echo + RECORD_MIN, most)];
        }
        if is_reply { [(12, 12), (19, most)] } else { [(17, 17), (19, most.min(QUERY_MAX))] }
    }

    /// Whether the next byte comes from inside a drawn name: then a token may end here only where another goes on alike.
    pub(in super::super) fn is_inside_name(&self) -> bool {
        matches!(self.state, State::InName(..))
    }

    /// Whether the message is complete.
    pub(in super::super) fn is_done(&self) -> bool {
        self.left == 0 && self.state == State::Done
    }

    /// So many bytes come of which nothing is asked.
    pub(in super::super) fn free(&self) -> u16 {
        if let State::Bytes(n) = self.state
            && !self.repeats()
        {
            n
        } else {
            0
        }
    }

    /// Bytes to come that have to be said one by one, and those of the query that are repeated.
    pub(in super::super) fn still_to_come(&self) -> (u16, u16) {
        let repeated = self.echo.saturating_sub(self.at.max(HEADER_LEN));
        (self.left.saturating_sub(repeated), repeated)
    }

    /// Bytes of the query that come next without a break.
    pub(in super::super) fn still_to_repeat(&self) -> u16 {
        match self.at {
            0..2 if self.echo > 0 => 2 - self.at,
            _ if self.repeats() => self.echo - self.at,
            _ => 0,
        }
    }

    /// Whether the next byte is the query's.
    fn repeats(&self) -> bool {
        self.at < 2 && self.echo > 0 || (HEADER_LEN..self.echo).contains(&self.at)
    }

    /// Takes `n` of them, but not the last.
    pub(in super::super) fn pass(&mut self, n: u16) {
        debug_assert!(n < self.free());
        self.state = State::Bytes(self.free() - n);
        (self.at, self.left, self.room) = (self.at + n, self.left - n, self.room - n);
    }

    /// Takes the next byte. False where it cannot come.
    pub(in super::super) fn hear(&mut self, sym: Sym, source: Source) -> bool {
        let allows = self.allows(sym, source);
        if allows {
            self.take(sym, source);
        }
        allows
    }

    /// Whether this can be the next byte.
    pub(in super::super) fn allows(&self, sym: Sym, source: Source) -> bool {
        // Bytes behind it, in the message or the data.
        let Some(room) = self.room.checked_sub(1) else { return false };
        if self.repeats() && source != Source::Peer {
            return false;
        }
        match (self.state, sym) {
            (State::InName(_, from), Sym::InName) => from == source,
            (State::Label, Sym::Name(n)) => self.name_may_be_drawn(n, room),
            (State::Bytes(_), Sym::Known(_) | Sym::Drawn | Sym::Text) => true,
            (State::Option(0..2, _), Sym::Known(_) | Sym::Drawn | Sym::Text) if !self.asks_options() => true,
            (State::InLabel(_), Sym::Known(b)) => self.label_holds(b),
            (State::Opening(_) | State::InText(_), Sym::Text) => true,
            (State::Opening(n), Sym::Known(b)) => is_service(n, b) || words_with(n, words_of(n), b) != 0,
            (State::InWord(n, words), Sym::Known(b)) => words_with(n, words, b) != 0,
            (state, Sym::Known(b)) => self.allows_byte(state, b, room),
            _ => false,
        }
    }

    /// A byte whose value matters, with `room` bytes behind it.
    fn allows_byte(&self, state: State, b: u8, room: u16) -> bool {
        match (state, self.fields.first()) {
            (State::High, Some(Field::Number(number))) => room > 0 && self.can_be_high(*number, b, room - 1),
            (State::Low(high), Some(Field::Number(number))) => {
                self.can_be(*number, u16::from_be_bytes([high, b]), room)
            }
            (State::Label, _) => self.label_may_be(b, room),
            (State::Pointer(high), _) => self.target(high, b).is_some(),
            (State::TextLength, _) => {
                let n = u16::from(b);
                n <= room && self.fit(self.after_field(), room - n, false)
            }
            // All numbers are below 256.
            (State::Option(0, _), _) => b == 0,
            (State::Option(1, _), _) => room >= 2 && edns::code_fits(b.into(), room - 2),
            (State::Option(2, _), _) if self.asks_options() => {
                let fits = |low| edns::value_fits(self.option, room - 1, u16::from_be_bytes([b, low]));
                room > 0 && (0..=255).any(fits)
            }
            (State::Option(_, high), _) if self.asks_options() => {
                edns::value_fits(self.option, room, u16::from_be_bytes([high, b]))
            }
            (State::Subnet(at, family, octets), _) => edns::subnet_allows(at, family, octets, b),
            (State::Option(2, _), _) => {
                room > 0 && (0..=255).any(|low| option_fits(room - 1, u16::from_be_bytes([b, low])))
            }
            (State::Option(_, high), _) => option_fits(room, u16::from_be_bytes([high, b])),
            (State::Bitmap(0), _) => true,
            (State::Bitmap(_), _) => {
                let n = u16::from(b);
                (1..=32).contains(&n) && n <= room && matches!(room - n, 0 | 3..)
            }
            _ => false,
        }
    }

    /// Takes a byte that is allowed.
    fn take(&mut self, sym: Sym, source: Source) {
        let at = self.at;
        (self.at, self.left, self.room) = (at + 1, self.left - 1, self.room - 1);
        let b = if let Sym::Known(b) = sym { b } else { 0 };
        match (self.state, sym) {
            (State::Label, Sym::Name(n)) => {
                let mut place = at;
                for label in plan::name_labels(usize::from(n)) {
                    self.start(place);
                    place += 1 + label as u16;
                }
                self.name_left -= 1 + u16::from(n);
                (self.is_root, self.is_drawn, self.state) = (false, true, State::InName(n, source));
            }
            (
                State::InName(1, _) | State::InLabel(1) | State::Opening(1) | State::InWord(1, _) | State::InText(1),
                _,
            ) => self.state = State::Label,
            (State::InName(n, from), _) => self.state = State::InName(n - 1, from),
            (State::InLabel(n), _) => self.state = State::InLabel(n - 1),
            (State::Opening(n) | State::InText(n), Sym::Text) => self.state = State::InText(n - 1),
            (State::InText(n), _) => self.state = State::InText(n - 1),
            (State::Opening(n), _) if is_service(n, b) => self.state = State::InLabel(n - 1),
            (State::Opening(n), _) => self.state = State::InWord(n - 1, words_with(n, words_of(n), b)),
            (State::InWord(n, words), _) => self.state = State::InWord(n - 1, words_with(n, words, b)),
            (State::Bytes(1), _) => self.end_of_field(),
            (State::Bytes(n), _) => self.state = State::Bytes(n - 1),
            (State::High, _) => self.state = State::Low(b),
            (State::Low(high), _) => self.decide(u16::from_be_bytes([high, b])),
            (State::Label, _) => self.label(at, b),
            (State::Pointer(high), _) => {
                let more = self.target(high, b).map_or(0, |target| u16::from(target.1));
                self.end_of_name(at - 1, more);
            }
            (State::TextLength, _) => self.bytes(u16::from(b)),
            (State::Option(i @ 0..3, high), _) => {
                if i == 1 {
                    self.option = u16::from_be_bytes([high, b]);
                }
                self.state = State::Option(i + 1, b);
            }
            (State::Option(_, high), _) if self.asks_options() && edns::is_subnet(self.option) => {
                self.state = State::Subnet(0, 0, u16::from_be_bytes([high, b]) - 4);
            }
            (State::Option(_, high), _) => self.bytes(u16::from_be_bytes([high, b])),
            (State::Subnet(3, _, octets), _) => self.bytes(octets),
            (State::Subnet(at, family, octets), _) => {
                self.state = State::Subnet(at + 1, if at == 1 { b } else { family }, octets);
            }
            (State::Bitmap(0), _) => self.state = State::Bitmap(1),
            (State::Bitmap(_), _) => self.bytes(u16::from(b)),
            (State::Done, _) => {}
        }
    }

    /// Whether options have to be those that are made.
    fn asks_options(&self) -> bool {
        self.is_opt && !self.takes_any
    }

    /// So many bytes come, of which nothing is asked.
    fn bytes(&mut self, n: u16) {
        if n == 0 {
            return self.end_of_field();
        }
        self.state = State::Bytes(n);
    }

    /// The fields that follow the one under way, with itself where it goes on to the end.
    fn after_field(&self) -> &'static [Field] {
        match self.fields {
            [Field::Texts | Field::Options | Field::Bitmaps, ..] => self.fields,
            [_, rest @ ..] => rest,
            [] => &[],
        }
    }

    /// The field under way, or a part of it that may come again, is complete.
    fn end_of_field(&mut self) {
        self.fields = self.after_field();
        self.begin();
    }

    /// Begins the next field, the data, or the next entry.
    fn begin(&mut self) {
        loop {
            match self.fields {
                [] => {
                    if self.section == 0 && self.question_end == 0 && self.at > HEADER_LEN {
                        self.question_end = self.at;
                    }
                    (self.is_in_data, self.room) = (false, self.left);
                    if !self.next_entry() {
                        return self.state = State::Done;
                    }
                }
                [Field::Name, ..] => {
                    (self.name_left, self.is_root, self.is_drawn, self.starts_len) = (NAME_MAX, true, false, 0);
                    self.state = State::Label;
                    return;
                }
                [Field::Bytes(n), ..] => return self.state = State::Bytes(*n),
                [Field::Number(_), ..] => return self.state = State::High,
                [Field::Text, ..] => return self.state = State::TextLength,
                [Field::Texts | Field::Options | Field::Bitmaps | Field::Rest, rest @ ..] if self.room == 0 => {
                    self.fields = rest;
                }
                [Field::Texts, ..] => return self.state = State::TextLength,
                [Field::Options, ..] => return self.state = State::Option(0, 0),
                [Field::Bitmaps, ..] => return self.state = State::Bitmap(0),
                [Field::Rest, ..] => return self.state = State::Bytes(self.room),
            }
        }
    }

    fn next_entry(&mut self) -> bool {
        let Some(section) = self.counts.iter().position(|n| *n > 0) else { return false };
        self.counts[section] -= 1;
        (self.section, self.is_opt) = (section as u8, false);
        self.fields = if section == 0 { &QUESTION } else { &RECORD };
        true
    }
}
