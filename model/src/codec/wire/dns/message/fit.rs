//! Whether what is left of a message can still be filled exactly.

use super::super::records::{Field, Number};
use super::{Dialect, HEADER_LEN, Message, NAME_MAX};

/// Fewest bytes of a question; of a record with data, as only EDNS has none.
const QUESTION_MIN: u32 = 5;
pub(super) const RECORD_MIN: u32 = 12;
/// Most bytes of a question.
const QUESTION_MAX: u32 = NAME_MAX as u32 + 4;
/// Bytes behind a query's header that a question and EDNS cannot fill.
const QUERY_HOLE: u32 = 17;

impl Message {
    /// Whether section `i` can have `n` entries, with `after` bytes behind the number.
    pub(super) fn count_fits(&self, i: usize, n: u16, after: u16) -> bool {
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
            (_, 3) if self.asks() => n == 0 || n == 1 && after != QUERY_HOLE,
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
    pub(super) fn is_last(&self) -> bool {
        self.counts == [0; 4]
    }

    /// Fewest bytes of the entries that follow the one under way.
    pub(super) fn entries_min(&self, has_opt: bool) -> u32 {
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
    pub(super) fn asks(&self) -> bool {
        !self.is_reply && self.dialect != Dialect::Multicast
    }

    pub(super) fn may_be_opt(&self, is_root: bool) -> bool {
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
    pub(super) fn data_fits(&self, data: &[Field], n: u16) -> bool {
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
    pub(super) fn fit(&self, rest: &[Field], left: u16, is_root: bool) -> bool {
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
    pub(super) fn name_fits(&self, name_left: u16, left: u16) -> bool {
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
    pub(super) fn points(&self, name_left: u16) -> bool {
        self.targets().iter().any(|t| u16::from(t.1) <= name_left)
    }

    pub(super) fn targets(&self) -> &[(u16, u8)] {
        &self.targets[..usize::from(self.targets_len)]
    }
}

/// Whether an option of `n` bytes fits into `room` bytes and leaves enough for another, or nothing.
pub(super) fn option_fits(room: u16, n: u16) -> bool {
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

    use super::super::super::super::exchange::{Source, Sym};
    use super::super::{Names, State};
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
