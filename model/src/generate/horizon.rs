//! How far into the future packets are wanted, where only the first ones are.

use std::collections::BinaryHeap;

use crate::packet::Timestamp;

/// The time of the last of the first N packets, as far as it is known: of those that were seen it is the N-th, and with more of
/// them it can only be earlier.
#[derive(Debug)]
pub(super) struct Horizon {
    wanted: usize,
    /// The earliest times, at most `wanted`, the latest on top.
    times: BinaryHeap<Timestamp>,
}

impl Horizon {
    /// Of the first `wanted` packets, of which none is known.
    pub(super) fn new(wanted: usize) -> Self {
        Self { wanted, times: BinaryHeap::new() }
    }

    /// There is a packet at this time.
    pub(super) fn see(&mut self, ts: Timestamp) {
        if self.times.len() < self.wanted {
            self.times.push(ts);
        } else if let Some(mut last) = self.times.peek_mut()
            && ts < *last
        {
            *last = ts;
        }
    }

    /// After this time nothing is wanted; `None` while too few packets are known.
    pub(super) fn time(&self) -> Option<Timestamp> {
        if self.times.len() < self.wanted { None } else { self.times.peek().copied() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_time_of_the_last_wanted_packet_and_only_comes_nearer() {
        let mut horizon = Horizon::new(3);
        let mut seen = Vec::new();
        let mut before = Timestamp(i64::MAX);
        for ns in [50, 10, 70, 20, 90, 20, 5] {
            horizon.see(Timestamp(ns));
            seen.push(ns);
            seen.sort_unstable();
            assert_eq!(horizon.time(), seen.get(2).map(|ns| Timestamp(*ns)));
            assert!(horizon.time().is_none_or(|now| now <= before));
            before = horizon.time().unwrap_or(before);
        }
    }
}
