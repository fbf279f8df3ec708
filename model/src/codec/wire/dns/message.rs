//! A DNS message byte by byte: which byte may come next so that the message ends where the datagram does.
//!
//! RFC 1035, section 4. Whatever was heard so far, some byte can follow, down to the last: before one is taken, it is seen
//! whether what is left of the datagram can still be filled exactly.

mod fit;

use self::fit::{RECORD_MIN, option_fits};
use super::super::exchange::{Source, Sym};
use super::records::{CLASSES, Field, HEADER, Number, OPT, QUESTION, RECORD, RECORD_CLASSES, TYPES, data_of};
use crate::wire::names::dns::{SERVICE_MAX, WORDS};
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
            (State::Bytes(_) | State::Option(0..2, _), Sym::Known(_) | Sym::Drawn | Sym::Text) => true,
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
            (State::Option(i @ 0..3, _), _) => self.state = State::Option(i + 1, b),
            (State::Option(_, high), _) => self.bytes(u16::from_be_bytes([high, b])),
            (State::Bitmap(0), _) => self.state = State::Bitmap(1),
            (State::Bitmap(_), _) => self.bytes(u16::from(b)),
            (State::Done, _) => {}
        }
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

    /// What the number under way decides is so from now on.
    fn decide(&mut self, n: u16) {
        match self.fields.first() {
            Some(Field::Number(Number::Count(i))) => self.counts[usize::from(*i)] = n,
            Some(Field::Number(Number::Type)) => {
                self.is_opt = n == OPT;
                self.has_opt |= self.is_opt;
                self.data = data_of(n).unwrap_or_default();
            }
            Some(Field::Number(Number::Length)) => {
                (self.fields, self.room, self.is_in_data) = (self.data, n, true);
                return self.begin();
            }
            _ => {}
        }
        self.end_of_field();
    }

    /// Whether some number with this high byte can come, with `after` bytes behind both.
    fn can_be_high(&self, number: Number, high: u8, after: u16) -> bool {
        let with = |low: u8| u16::from_be_bytes([high, low]);
        match number {
            Number::Type => TYPES.iter().any(|t| t.0 >> 8 == u16::from(high) && self.can_be(number, t.0, after)),
            // If any is right, so is this one.
            Number::Flags => self.can_be(number, with(0), after),
            Number::Class => self.can_be(number, with(1), after),
            // More entries need more room, and the fewest that questions need is below 256.
            Number::Count(_) if high > 0 => self.can_be(number, with(0), after),
            Number::Length if u16::from(high) > after >> 8 => false,
            _ => (0..=255).any(|low| self.can_be(number, with(low), after)),
        }
    }

    /// Whether `n` can be this number, with `after` bytes behind it.
    fn can_be(&self, number: Number, n: u16, after: u16) -> bool {
        match number {
            Number::Flags => {
                let [high, low] = n.to_be_bytes();
                let is_right_way = self.dialect == Dialect::Multicast || (high & 0x80 != 0) == self.is_reply;
                // A standard query or its answer; the reserved bit is 0; no extended response code.
                is_right_way && high >> 3 & 15 == 0 && low & 0x40 == 0 && low & 15 <= 10
            }
            Number::Count(i) => self.count_fits(usize::from(i), n, after),
            Number::Asked => n > 0 && n != OPT,
            Number::Class if self.is_opt && self.section > 0 => true,
            Number::Class => {
                let cache = if self.dialect == Dialect::Multicast { 0x8000 } else { 0 };
                let classes = if self.section == 0 { &CLASSES[..] } else { &RECORD_CLASSES };
                classes.contains(&(n & !cache))
            }
            Number::Type => {
                let is_opt = n == OPT;
                let Some((data, after)) = data_of(n).zip(after.checked_sub(8)) else { return false };
                if is_opt && !self.may_be_opt(self.is_root) || !is_opt && self.asks() {
                    return false;
                }
                if self.is_last() {
                    return self.data_fits(data, after);
                }
                let others = self.entries_min(self.has_opt || is_opt);
                let most = u32::from(after).checked_sub(others);
                most.is_some_and(|most| (0..=most as u16).any(|n| self.data_fits(data, n)))
            }
            Number::Length if self.is_last() => n == after && self.data_fits(self.data, n),
            Number::Length => {
                let left = u32::from(after).checked_sub(u32::from(n));
                left.is_some_and(|left| left >= self.entries_min(self.has_opt)) && self.data_fits(self.data, n)
            }
        }
    }

    /// Whether a label can begin with `b`, with `room` bytes behind it: a length, the end, or a pointer.
    fn label_may_be(&self, b: u8, room: u16) -> bool {
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
    fn label(&mut self, at: u16, b: u8) {
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
    fn target(&self, high: u8, low: u8) -> Option<&(u16, u8)> {
        let to = u16::from_be_bytes([high & 0x3f, low]);
        self.targets().iter().find(|t| t.0 == to && u16::from(t.1) <= self.name_left)
    }

    /// The name ends at `end` with what another has, `more` bytes of it: its labels can be pointed at.
    fn end_of_name(&mut self, end: u16, more: u16) {
        for i in 0..usize::from(self.starts_len) {
            let (start, place) = (self.starts[i], usize::from(self.targets_len));
            if place < TARGETS_MAX && start < 0x4000 {
                self.targets[place] = (start, (end - start + more) as u8);
                self.targets_len += 1;
            }
        }
        self.end_of_field();
    }

    fn start(&mut self, at: u16) {
        if let Some(place) = self.starts.get_mut(usize::from(self.starts_len)) {
            *place = at;
            self.starts_len += 1;
        }
    }

    /// Bytes of the label under way that can be of a name in text, where one is.
    pub(in super::super) fn label_of_text(&self) -> Option<u16> {
        match self.state {
            State::Opening(n) | State::InText(n) if !self.repeats() => Some(u16::from(n)),
            _ => None,
        }
    }

    /// Whether a label has such bytes: of hosts and services, where people choose also spaces and UTF-8 (RFC 6763, section 4.1).
    fn label_holds(&self, b: u8) -> bool {
        match (self.dialect, self.names) {
            (_, Names::Drawn) => b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'),
            (Dialect::Unicast, _) => b.is_ascii_graphic(),
            (Dialect::Link | Dialect::Multicast, _) => b >= b' ' && b != 0x7f,
        }
    }

    /// Whether a drawn name of `n` bytes more can begin here, with `room` bytes behind its first.
    fn name_may_be_drawn(&self, n: u8, room: u16) -> bool {
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
fn is_service(n: u8, b: u8) -> bool {
    b == b'_' && (2..=SERVICE_MAX).contains(&usize::from(n))
}

/// The words of `n` bytes, as bits.
fn words_of(n: u8) -> u16 {
    let is_one = |word: &&[u8]| word.len() == usize::from(n);
    WORDS.iter().enumerate().filter(|(_, word)| is_one(word)).map(|(i, _)| 1 << i).sum()
}

/// Those of `words` that have `b` in front of their last `n - 1` bytes.
fn words_with(n: u8, words: u16, b: u8) -> u16 {
    let has = |word: &[u8]| word[word.len() - usize::from(n)].eq_ignore_ascii_case(&b);
    (0..WORDS.len()).filter(|i| words >> i & 1 == 1 && has(WORDS[*i])).map(|i| 1 << i).sum()
}

const _: () = assert!(WORDS.len() <= 16);
