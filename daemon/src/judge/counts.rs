//! Counts of words that other programs print: bounded, comparable, and cut to a table for people.

use std::collections::HashMap;

use serde::Serialize;

/// Different keys that are counted one by one; what comes later is counted together. The programs know some hundreds
/// of protocols and messages, so that more than this is text out of the packets.
const KEYS_MAX: usize = 4096;
/// Bytes of a key; the rest is cut. A protocol path names every object of a certificate and comes to several hundred.
const KEY_BYTES_MAX: usize = 1024;

/// How often each key was seen.
#[derive(Debug, Default)]
pub(super) struct Counts {
    by_key: HashMap<String, u64>,
    /// Sightings of keys that came after [`KEYS_MAX`] others.
    other: u64,
    total: u64,
}

/// The most frequent keys, for a report.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Table {
    /// Sightings in all.
    pub total: u64,
    /// The same for each 1,000 of what was looked at, which the field that holds the table names.
    pub per_1000: f64,
    /// Most frequent first.
    pub top: Vec<Row>,
    /// Sightings of everything that has no row.
    pub other: u64,
}

/// One key of a [`Table`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The key.
    pub what: String,
    /// How often it was seen.
    pub count: u64,
    /// The same for each 1,000 of what was looked at.
    pub per_1000: f64,
}

impl Counts {
    pub(super) fn add(&mut self, key: &str, count: u64) {
        self.total += count;
        let key = cut(key);
        if let Some(sum) = self.by_key.get_mut(key) {
            *sum += count;
        } else if self.by_key.len() < KEYS_MAX {
            self.by_key.insert(key.to_owned(), count);
        } else {
            self.other += count;
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// How often `key` was seen.
    pub(super) fn count(&self, key: &str) -> u64 {
        self.by_key.get(key).copied().unwrap_or_default()
    }

    /// The sum over keys of min(p, q): 1 for equal distributions, 0 for disjoint ones, `None` where a side is empty.
    ///
    /// Keys beyond [`KEYS_MAX`] may be different ones on the two sides, so that they count as not shared.
    pub(super) fn overlap(&self, with: &Self) -> Option<f64> {
        if self.total == 0 || with.total == 0 {
            return None;
        }
        // In whole numbers until the end: a distribution overlaps itself by exactly 1.
        let shared: u128 = self
            .by_key
            .iter()
            .map(|(key, &count)| {
                (u128::from(count) * u128::from(with.total)).min(u128::from(with.count(key)) * u128::from(self.total))
            })
            .sum();
        Some(shared as f64 / (u128::from(self.total) * u128::from(with.total)) as f64)
    }

    /// The `rows_max` most frequent keys; of equally frequent ones the alphabet's first. `of` is how many packets or
    /// flows were looked at.
    pub(super) fn table(&self, rows_max: usize, of: u64) -> Table {
        let mut rows: Vec<(&String, u64)> = self.by_key.iter().map(|(key, &count)| (key, count)).collect();
        rows.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        rows.truncate(rows_max);
        let top: Vec<Row> = rows
            .into_iter()
            .map(|(key, count)| Row { what: key.clone(), count, per_1000: per_1000(count, of) })
            .collect();
        let other = self.total - top.iter().map(|row| row.count).sum::<u64>();
        Table { total: self.total, per_1000: per_1000(self.total, of), top, other }
    }
}

/// `count` for each 1,000 of `of`; 0 where there is nothing to look at.
pub(super) fn per_1000(count: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { 1000.0 * count as f64 / of as f64 }
}

/// A key of at most [`KEY_BYTES_MAX`], cut between characters.
fn cut(key: &str) -> &str {
    let end = (0..=KEY_BYTES_MAX).rev().find(|&end| key.is_char_boundary(end));
    if key.len() <= KEY_BYTES_MAX { key } else { &key[..end.unwrap_or_default()] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(of: &[(&str, u64)]) -> Counts {
        let mut counts = Counts::default();
        for (key, count) in of {
            counts.add(key, *count);
        }
        counts
    }

    /// By hand: min(1/2, 1/4) + min(1/2, 1/4) = 1/2.
    #[test]
    fn overlap_is_the_sum_of_the_smaller_shares() {
        let (p, q) = (counts(&[("a", 5), ("b", 5)]), counts(&[("a", 1), ("b", 1), ("c", 2)]));
        assert_eq!((p.overlap(&q), q.overlap(&p)), (Some(0.5), Some(0.5)));
        assert_eq!(p.overlap(&counts(&[("d", 1)])), Some(0.0));
        assert_eq!(p.overlap(&Counts::default()), None);
    }

    #[test]
    fn a_table_keeps_the_total_whatever_it_cuts() {
        let table = counts(&[("a", 1), ("b", 3), ("c", 3), ("d", 1)]).table(2, 4000);
        let row = |what: &str| Row { what: what.into(), count: 3, per_1000: 0.75 };
        assert_eq!(table, Table { total: 8, per_1000: 2.0, top: vec![row("b"), row("c")], other: 2 });
    }

    #[test]
    fn keys_without_end_take_bounded_memory_and_none_is_lost() {
        let mut counts = Counts::default();
        for key in 0..3 * KEYS_MAX {
            counts.add(&format!("{key}{}", "ä".repeat(KEY_BYTES_MAX)), 1);
        }
        assert_eq!((counts.by_key.len(), counts.other), (KEYS_MAX, 2 * KEYS_MAX as u64));
        assert!(counts.by_key.keys().all(|key| key.len() <= KEY_BYTES_MAX));
        assert_eq!(counts.table(1, 1).other, 3 * KEYS_MAX as u64 - 1);
    }

    proptest! {
        #[test]
        fn a_distribution_overlaps_itself_by_exactly_1(of in prop::collection::vec((0..50_u8, 1..1_000_000_u64), 1..40)) {
            let mut counts = Counts::default();
            for (key, count) in of {
                counts.add(&key.to_string(), count);
            }
            prop_assert_eq!(counts.overlap(&counts), Some(1.0));
        }
    }
}
