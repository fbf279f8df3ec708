//! Numbers of two bytes in a message, and what follows from them: flags, counts, types, classes, lengths.

use super::super::records::{CLASSES, Field, Number, OPT, RECORD_CLASSES, TYPES, data_of};
use super::{Dialect, Message};

impl Message {
    /// What the number under way decides is so from now on.
    pub(super) fn decide(&mut self, n: u16) {
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
    pub(super) fn can_be_high(&self, number: Number, high: u8, after: u16) -> bool {
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
    pub(super) fn can_be(&self, number: Number, n: u16, after: u16) -> bool {
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
}
