//! A DNS message byte by byte: which byte may come next so that the message ends where the datagram does.
//!
//! RFC 1035, section 4. Whatever was heard so far, some byte can follow, down to the last: before one is taken, it is seen
//! whether what is left of the datagram can still be filled exactly.

use super::records::{CLASSES, Field, HEADER, Number, OPT, QUESTION, RECORD, RECORD_CLASSES, TYPES, data_of};
use crate::wire::plan;

/// Bytes of the header.
const HEADER_LEN: u16 = 12;
/// Longest name in a message, with its lengths and its end (RFC 1035, section 2.3.4).
const NAME_MAX: u16 = 255;
/// Longest label of a service (RFC 6335, section 5.1), with its underscore.
const SERVICE_MAX: u8 = 16;
/// Places that pointers can point at which are remembered, in a message and in a name; others are not pointed at.
const TARGETS_MAX: usize = 80;
const STARTS_MAX: usize = 40;
/// Longest query: what fits a datagram of RFC 1035 (section 4.2.1). Bytes behind the header that a question and EDNS cannot fill.
const QUERY_MAX: u32 = 512;
const QUERY_HOLE: u16 = 17;
/// Fewest bytes of a question; of a record with data, as only EDNS has none.
const QUESTION_MIN: u32 = 5;
const RECORD_MIN: u32 = 12;
/// Most bytes of a question.
const QUESTION_MAX: u32 = NAME_MAX as u32 + 4;

/// A byte of a message as far as it is known before it is rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sym {
    /// This one.
    Known(u8),
    /// Drawn: any.
    Drawn,
    /// The first byte of the labels of a name that is drawn, without the end; so many follow.
    Name(u8),
    /// Another byte of them.
    InName,
}

/// Where a byte comes from: the packet's own tokens, or the last message of its sender or of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Said,
    Own,
    Peer,
}

/// Whose rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// RFC 1035.
    Unicast,
    /// RFC 4795: names are in UTF-8.
    Link,
    /// RFC 6762.
    Multicast,
}

/// How names are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// As anybody may.
    Literal,
    /// As the codec does: names of hosts are drawn, of services literal, but those of the local link may be either.
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
    /// The first of so many bytes of a service's label.
    Service(u8),
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
pub(super) struct Message {
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
    pub(super) fn new(dialect: Dialect, names: Names, is_reply: bool, len: u16) -> Self {
        let mut ret = Self {
            dialect,
            names: if dialect == Dialect::Multicast { Names::Literal } else { names },
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
    pub(super) fn answering(self, echo: u16) -> Self {
        Self { echo, ..self }
    }

    /// Where the first question ended; 0 where there was none.
    pub(super) fn question_end(&self) -> u16 {
        self.question_end
    }

    /// Lengths that messages have: a header alone is an answer, and a name without labels has one length. An answer repeats the
    /// question that ended at `echo`, where that is not 0, and has room for records or has none.
    pub(super) fn lengths(is_reply: bool, echo: u16, most: u32) -> [(u32, u32); 2] {
        if echo > 0 {
            let echo = u32::from(echo);
            return [(echo, echo), (echo + RECORD_MIN, most)];
        }
        if is_reply { [(12, 12), (19, most)] } else { [(17, 17), (19, most.min(QUERY_MAX))] }
    }

    /// Whether the next byte comes from inside a drawn name: then a token may end here only where another goes on alike.
    pub(super) fn is_inside_name(&self) -> bool {
        matches!(self.state, State::InName(..))
    }

    /// Whether the message is complete.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0 && self.state == State::Done
    }

    /// So many bytes come of which nothing is asked.
    pub(super) fn free(&self) -> u16 {
        if let State::Bytes(n) = self.state
            && !self.repeats()
        {
            n
        } else {
            0
        }
    }

    /// Bytes to come that have to be said one by one, and those of the query that are repeated.
    pub(super) fn still_to_come(&self) -> (u16, u16) {
        let repeated = self.echo.saturating_sub(self.at.max(HEADER_LEN));
        (self.left - repeated, repeated)
    }

    /// Bytes of the query that come next without a break.
    pub(super) fn still_to_repeat(&self) -> u16 {
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
    pub(super) fn pass(&mut self, n: u16) {
        debug_assert!(n < self.free());
        self.state = State::Bytes(self.free() - n);
        (self.at, self.left, self.room) = (self.at + n, self.left - n, self.room - n);
    }

    /// Takes the next byte. False where it cannot come.
    pub(super) fn hear(&mut self, sym: Sym, source: Source) -> bool {
        let allows = self.allows(sym, source);
        if allows {
            self.take(sym, source);
        }
        allows
    }

    /// Whether this can be the next byte.
    pub(super) fn allows(&self, sym: Sym, source: Source) -> bool {
        // Bytes behind it, in the message or the data.
        let Some(room) = self.room.checked_sub(1) else { return false };
        if self.repeats() && source != Source::Peer {
            return false;
        }
        match (self.state, sym) {
            (State::InName(_, from), Sym::InName) => from == source,
            (State::Label, Sym::Name(n)) => self.name_may_be_drawn(n, room),
            (State::Bytes(_) | State::Option(0..2, _), Sym::Known(_) | Sym::Drawn) => true,
            (State::InLabel(_), Sym::Known(b)) => self.label_holds(b),
            (State::Service(_), Sym::Known(b)) => b == b'_',
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
            (State::InName(1, _) | State::InLabel(1), _) => self.state = State::Label,
            (State::InName(n, from), _) => self.state = State::InName(n - 1, from),
            (State::InLabel(n) | State::Service(n), _) => self.state = State::InLabel(n - 1),
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

    /// Whether section `i` can have `n` entries, with `after` bytes behind the number.
    fn count_fits(&self, i: usize, n: u16, after: u16) -> bool {
        let mut counts = self.counts;
        counts[i] = n;
        let Some(after) = u32::from(after).checked_sub(2 * (3 - i as u32)) else { return false };
        let (questions, records) = (u32::from(counts[0]), counts[1..].iter().map(|n| u32::from(*n)).sum::<u32>());
        // A question that is repeated is as long as it was.
        let echo = u32::from(self.echo.saturating_sub(HEADER_LEN));
        let only_questions = if echo > 0 { after == echo * questions } else { questions_fit(questions, after, false) };
        let allows_entries = match (self.dialect, i) {
            (Dialect::Multicast, _) => true,
            // One question (RFC 9619), save in an answer that is a header alone.
            (_, 0) => n == 1 || n == 0 && after == 0 && self.is_reply,
            (_, 3) if self.asks() => n == 0 || n == 1 && after != u32::from(QUERY_HOLE),
            _ => n == 0 || self.is_reply,
        };
        if !allows_entries {
            return false;
        }
        let needed = echo.max(QUESTION_MIN) * questions + RECORD_MIN * records;
        match (records, i) {
            (0, 3) => only_questions,
            // One for EDNS can still come.
            (0, _) => only_questions || after + 1 >= needed + RECORD_MIN,
            (_, 3) if n > 0 => after + 1 >= needed,
            _ => after >= needed,
        }
    }

    /// Whether no entry follows the one under way.
    fn is_last(&self) -> bool {
        self.counts == [0; 4]
    }

    /// Fewest bytes of the entries that follow the one under way.
    fn entries_min(&self, has_opt: bool) -> u32 {
        let [questions, records @ ..] = self.counts.map(u32::from);
        let one_is_short = records[2] > 0 && !has_opt;
        QUESTION_MIN * questions + RECORD_MIN * records.iter().sum::<u32>() - u32::from(one_is_short)
    }

    /// Whether the entries that follow can fill `left` bytes exactly.
    fn entries_fit(&self, left: u16) -> bool {
        if self.asks() && self.counts[3] > 0 {
            // EDNS without options, or with some.
            return matches!(left, 11 | 15..);
        }
        if self.counts[1..] != [0; 3] {
            return u32::from(left) >= self.entries_min(self.has_opt);
        }
        questions_fit(u32::from(self.counts[0]), u32::from(left), self.points(NAME_MAX))
    }

    /// Whether it is a query of one server, which has a question and perhaps EDNS.
    fn asks(&self) -> bool {
        !self.is_reply && self.dialect != Dialect::Multicast
    }

    fn may_be_opt(&self, is_root: bool) -> bool {
        is_root && self.section == 3 && !self.has_opt
    }

    /// Whether a record's data and what follows can fill `left` bytes.
    fn record_fits(&self, left: u16, is_root: bool) -> bool {
        let left = u32::from(left);
        if self.asks() {
            return is_root && matches!(left, 0 | 4..);
        }
        let fits = |least: u32, has_opt| {
            if self.is_last() { left >= least } else { left >= least + self.entries_min(has_opt) }
        };
        // TXT has a byte at least, and takes any number of them.
        fits(1, self.has_opt) || self.may_be_opt(is_root) && fits(0, true)
    }

    /// Whether data of these fields can have exactly `n` bytes.
    fn data_fits(&self, data: &[Field], n: u16) -> bool {
        let Some(over) = n.checked_sub(data.iter().map(|field| field.least()).sum()) else { return false };
        let most = data.iter().try_fold(0u16, |most, field| Some(most + field.most()?));
        let has = |is_one: fn(&Field) -> bool| data.iter().any(is_one);
        let is_right_over = if has(|field| matches!(field, Field::Text | Field::Texts | Field::Rest)) {
            true
        } else if has(|field| *field == Field::Name) {
            // A name of two bytes is a pointer.
            over != 1 || self.points(NAME_MAX)
        } else if has(|field| *field == Field::Options) {
            matches!(over, 0 | 4..)
        } else {
            !has(|field| *field == Field::Bitmaps) || matches!(over, 0 | 3..)
        };
        is_right_over && most.is_none_or(|most| n <= most)
    }

    /// Whether `rest`, which is fields behind a name or a string, and what follows can fill `left` bytes.
    fn fit(&self, rest: &[Field], left: u16, is_root: bool) -> bool {
        if self.is_in_data {
            return self.data_fits(rest, left);
        }
        let fixed: u16 = rest.iter().map(|field| field.least()).sum();
        let Some(left) = left.checked_sub(fixed) else { return false };
        match rest.last() {
            Some(Field::Number(Number::Length)) => self.record_fits(left, is_root),
            _ => self.entries_fit(left),
        }
    }

    /// Whether the rest of the name under way, of at most `name_left` bytes, and what follows can fill `left` bytes.
    ///
    /// What follows can fill any number of bytes between its least and its most, save some of the three after the least: so it is
    /// enough to try the shortest ends of a name, and those that leave the least and the most.
    fn name_fits(&self, name_left: u16, left: u16) -> bool {
        let rest = &self.fields[1..];
        let fits = |n: u16| {
            let is_end = if n == 2 { self.points(name_left) } else { n >= 1 && n <= name_left };
            is_end && n <= left && self.fit(rest, left - n, false)
        };
        if (1..=6).any(fits) {
            return true;
        }
        let (least, most) = self.fill(rest);
        let [least, most] = [least, most].map(|n| u32::from(left).saturating_sub(n).min(u32::from(u16::MAX)) as u16);
        [least, most, most.saturating_add(1)].into_iter().any(fits)
    }

    /// Fewest and most bytes that `rest` and what follows fill.
    fn fill(&self, rest: &[Field]) -> (u32, u32) {
        let least: u32 = rest.iter().map(|field| u32::from(field.least())).sum();
        if self.is_in_data {
            let most = rest.iter().try_fold(0, |most, field| Some(most + u32::from(field.most()?)));
            return (least, most.unwrap_or(u32::MAX));
        }
        let questions = u32::from(self.counts[0]);
        let is_exact = self.counts[1..] == [0; 3] && rest.last() != Some(&Field::Number(Number::Length));
        let most = if is_exact { least + QUESTION_MAX * questions } else { u32::MAX };
        (least + self.entries_min(self.has_opt), most)
    }

    /// Whether a name of at most `name_left` bytes can be pointed at.
    fn points(&self, name_left: u16) -> bool {
        self.targets().iter().any(|t| u16::from(t.1) <= name_left)
    }

    fn targets(&self) -> &[(u16, u8)] {
        &self.targets[..usize::from(self.targets_len)]
    }

    /// Whether a label can begin with `b`, with `room` bytes behind it: a length, the end, or a pointer.
    fn label_may_be(&self, b: u8, room: u16) -> bool {
        let n = u16::from(b);
        match b {
            0 => self.fit(&self.fields[1..], room, self.is_root),
            1..=63 => match (self.name_left.checked_sub(1 + n), room.checked_sub(n)) {
                (Some(name_left), Some(left)) => {
                    let is_service = b <= SERVICE_MAX && (b > 1 || !self.is_root);
                    let may_be_said = self.names == Names::Literal || !self.is_drawn && is_service;
                    may_be_said && self.name_fits(name_left, left)
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
                let is_service = self.names == Names::Drawn && self.is_root;
                self.state = if is_service { State::Service(b) } else { State::InLabel(b) };
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

    /// Whether a label has such bytes: of hosts and services, where people choose also spaces and UTF-8 (RFC 6763, section 4.1).
    fn label_holds(&self, b: u8) -> bool {
        match (self.dialect, self.names) {
            (_, Names::Drawn) => b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'),
            (Dialect::Unicast, _) => b.is_ascii_graphic() && b != b'.',
            (Dialect::Link | Dialect::Multicast, _) => b >= b' ' && b != 0x7f,
        }
    }

    /// Whether a drawn name of `n` bytes more can begin here, with `room` bytes behind its first.
    fn name_may_be_drawn(&self, n: u8, room: u16) -> bool {
        let len = u16::from(n);
        match (self.name_left.checked_sub(1 + len), room.checked_sub(len)) {
            (Some(_), Some(left)) if self.names == Names::Drawn => {
                // The end, or a pointer, comes next.
                let fits = |n: u16| left >= n && self.fit(&self.fields[1..], left - n, false);
                n > 0 && self.is_root && (fits(1) || fits(2) && self.points(self.name_left - 1 - len))
            }
            (Some(name_left), Some(left)) => n > 0 && self.name_fits(name_left, left),
            _ => false,
        }
    }
}

/// Whether an option of `n` bytes fits into `room` bytes and leaves enough for another, or nothing.
fn option_fits(room: u16, n: u16) -> bool {
    room.checked_sub(n).is_some_and(|left| matches!(left, 0 | 4..))
}

/// Whether so many questions alone can fill `left` bytes: one of a name of two bytes is a pointer.
fn questions_fit(questions: u32, left: u32, can_point: bool) -> bool {
    let over = left.checked_sub(QUESTION_MIN * questions);
    over.is_some_and(|over| left <= QUESTION_MAX * questions && (over != 1 || can_point))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[test]
    fn a_name_fits_where_one_of_all_its_lengths_does() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut seen = [0; 2];
        for round in 0..600 {
            let mut message = Message::new(
                Dialect::Unicast,
                Names::Literal,
                true,
                rng.random_range(19..if round % 3 > 0 { 90 } else { 900 }),
            );
            while !message.is_done() {
                let can_come: Vec<u8> = (0..=255).filter(|b| message.allows(Sym::Known(*b), Source::Said)).collect();
                // Labels are short, so that there are many names.
                let count = if message.state == State::Label { can_come.len().min(5) } else { can_come.len() };
                assert!(message.hear(Sym::Known(can_come[rng.random_range(0..count)]), Source::Said));
                if message.state != State::Label {
                    continue;
                }
                for left in (0..12).chain([message.room.saturating_sub(9), message.room, 300, 530]) {
                    for name_left in [1, 2, 3, 4, 9, message.name_left, NAME_MAX] {
                        let fits = |n: u16| {
                            (n != 2 || message.points(name_left))
                                && n <= left
                                && message.fit(&message.fields[1..], left - n, false)
                        };
                        let plain = (1..=name_left).any(fits);
                        assert_eq!(message.name_fits(name_left, left), plain, "{left} {name_left} {message:?}");
                        seen[usize::from(plain)] += 1;
                    }
                }
            }
        }
        assert!(seen.iter().all(|n| *n > 10_000), "{seen:?}");
    }
}
