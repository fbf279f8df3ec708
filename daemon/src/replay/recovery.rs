//! How what is late is made up for: in steps so small that hardly a gap is wrong by more than they are, or in one long gap.
//!
//! After a stall all packets that were due in it could leave at once. That is a burst which the traffic never had, and a
//! device with short queues drops it. So each packet is less late than the one before by one step only. In thin traffic a long
//! delay would take seconds that way, and make every gap in them wrong; there one long gap that is a little shorter makes up for
//! all of it.

/// Smallest step: seven in ten of the error that a gap may have.
const STEP_MIN_NS: u64 = 10_000;
/// Of a long delay a larger part, so that it does not last.
const SHARE: u64 = 512;
/// A gap from this length on is a long one: no burst has it.
const LONG_GAP_NS: u64 = 1_000_000;
/// By this part of itself it may be shorter ...
const GAP_SHARE: u64 = 4;
/// ... to make up for what steps would make so many gaps wrong for.
const STEPS_MAX: u64 = 10;

/// How late a packet should leave that comes `gap_ns` after another, where that one was late by `lag_ns`.
pub(super) fn next_lag(lag_ns: u64, gap_ns: u64) -> u64 {
    if gap_ns >= LONG_GAP_NS && (STEPS_MAX * STEP_MIN_NS..=gap_ns / GAP_SHARE).contains(&lag_ns) {
        return 0;
    }
    lag_ns.saturating_sub((lag_ns / SHARE).max(STEP_MIN_NS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_made_up_for_in_small_steps() {
        let next = |lag| next_lag(lag, 100_000);
        assert_eq!([0, 9_000, 10_000, 25_000, 270_000].map(next), [0, 0, 0, 15_000, 260_000]);
        assert_eq!(next(64_000_000), 63_875_000);
    }

    #[test]
    fn a_long_gap_makes_up_for_as_much_as_a_quarter_of_it_where_that_is_many_steps() {
        assert_eq!([999_999, 1_000_000, 1_079_999, 1_080_000].map(|gap| next_lag(250_000, gap)), [240_000, 0, 0, 0]);
        assert_eq!([1_079_999, 1_080_000].map(|gap| next_lag(270_000, gap)), [260_000, 0]);
        assert_eq!([99_999, 100_000].map(|lag| next_lag(lag, 5_000_000)), [89_999, 0]);
    }

    #[test]
    fn the_longest_delay_is_over_after_two_thousand_packets() {
        let mut lags = vec![100_000_000];
        while let Some(lag) = lags.last().map(|lag| next_lag(*lag, 10_000)).filter(|lag| *lag > 0) {
            lags.push(lag);
        }
        assert!(lags.len() < 2_500, "{}", lags.len());
    }
}
