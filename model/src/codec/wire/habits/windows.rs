//! Windows of TCP that were met often: where their tokens stand for several numbers, it is one of these that is meant.

use std::collections::BTreeMap;

use super::super::steps::window_quantised;

/// How often a window has to be met to be kept, and how many are by label.
const WINDOW_MIN: u32 = 3;
const WINDOWS_MAX: usize = 64;

/// How often windows were met.
#[derive(Debug, Default)]
pub(super) struct WindowTally(BTreeMap<u16, u32>);

impl WindowTally {
    /// Counts one.
    pub(super) fn count(&mut self, window: u16) {
        *self.0.entry(window).or_default() += 1;
    }

    /// The most frequent one of each class and byte, as long as it was met more than a few times and its tokens do not say it by themselves.
    pub(super) fn frequent(&self) -> Vec<u16> {
        let mut best: BTreeMap<u16, (u32, u16)> = BTreeMap::new();
        for (&window, &times) in &self.0 {
            let most = best.entry(window_quantised(window)).or_default();
            *most = (times, window).max(*most);
        }
        let mut ret: Vec<(u32, u16)> = best.into_values().filter(|(times, _)| *times >= WINDOW_MIN).collect();
        ret.sort_unstable_by(|a, b| b.cmp(a));
        let inexact = ret.into_iter().map(|(_, window)| window).filter(|window| window_quantised(*window) != *window);
        inexact.take(WINDOWS_MAX).collect()
    }
}

/// The window that is meant by one whose tokens stand for several.
pub(super) fn meant(known: &[u16], quantised: u16) -> u16 {
    known.iter().copied().find(|window| window_quantised(*window) == quantised).unwrap_or(quantised)
}

/// Adds those of `more` for which no other one stands.
pub(super) fn add(known: &mut Vec<u16>, more: &[u16]) {
    for &window in more {
        let quantised = window_quantised(window);
        if known.len() < WINDOWS_MAX && known.iter().all(|own| window_quantised(*own) != quantised) {
            known.push(window);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_window_is_meant() {
        let mut tally = WindowTally::default();
        for (window, times) in [(65_160, 5), (65_155, 2), (64_240, 9), (501, 9), (33_001, 3), (40_001, 2)] {
            (0..times).for_each(|_| tally.count(window));
        }
        let known = tally.frequent();
        assert_eq!(known, [65_160, 33_001]);
        let of = |window| meant(&known, window_quantised(window));
        let meant = [65_160, 65_155, 64_240, 501, 33_001, 40_001].map(of);
        assert_eq!(meant, [65_160, 65_160, 64_240, 501, 33_001, window_quantised(40_001)]);
        let mut other = vec![65_159];
        add(&mut other, &known);
        assert_eq!(other, [65_159, 33_001]);
    }
}
