//! How much a side of a TCP connection says.

use serde::{Deserialize, Serialize};

use super::super::action::Action;

/// More does not fit into a capture that this program reads.
const BYTES_MAX: u64 = 1 << 48;

/// What one side says, in bytes; all of it 0 where it is silent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// Its first segment with payload: at least, at most.
    pub first: [u16; 2],
    /// The longest payload of a segment.
    pub longest: u16,
    /// The whole stream.
    pub bytes: u64,
}

impl Said {
    /// Takes a segment into account that says something new.
    pub(in super::super) fn see(&mut self, action: &Action) {
        if action.tcp.is_none() || action.len == action.len_known {
            return;
        }
        if self.longest == 0 {
            self.first = [action.len; 2];
        }
        self.longest = self.longest.max(action.len);
        let end = action.stream_at - 1 + i64::from(action.len);
        self.bytes = self.bytes.max(u64::try_from(end).unwrap_or(0)).max(action.len.into());
    }

    /// Takes another connection into account.
    pub(super) fn merge(&mut self, other: &Self) {
        self.first = match (self.longest, other.longest) {
            (_, 0) => self.first,
            (0, _) => other.first,
            _ => [self.first[0].min(other.first[0]), self.first[1].max(other.first[1])],
        };
        self.longest = self.longest.max(other.longest);
        self.bytes = self.bytes.max(other.bytes);
    }

    /// Whether a side can have said that.
    pub(super) fn can_be(&self) -> bool {
        let [least, most] = self.first;
        let is_in_order = least <= most && most <= self.longest && u64::from(self.longest) <= self.bytes;
        is_in_order && self.bytes <= BYTES_MAX && (least > 0) == (self.longest > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_longest_segment_and_all_bytes() {
        let silent = Said::default();
        let short = Said { first: [40, 40], longest: 90, bytes: 130 };
        let mut all = silent;
        for said in [short, silent, Said { first: [20, 60], longest: 70, bytes: 400 }] {
            all.merge(&said);
        }
        assert_eq!(all, Said { first: [20, 60], longest: 90, bytes: 400 });
        assert!([silent, short, all].iter().all(Said::can_be));
        let wrong = [
            Said { first: [2, 1], longest: 9, bytes: 9 },
            Said { first: [0, 1], longest: 9, bytes: 9 },
            Said { first: [1, 9], longest: 8, bytes: 9 },
            Said { first: [1, 9], longest: 9, bytes: 8 },
            Said { first: [1, 9], longest: 9, bytes: u64::MAX },
        ];
        assert!(!wrong.iter().any(Said::can_be));
    }
}
