//! How what is late is made up for: in steps so small that hardly a gap is wrong by more than they are.
//!
//! After a stall all packets that were due in it could leave at once. That is a burst which the traffic never had, and a
//! device with short queues drops it. So each packet is less late than the one before by one step only.

/// Smallest step: seven in ten of the error that a gap may have.
const STEP_MIN_NS: u64 = 10_000;
/// Of a long delay a larger part, so that it does not last.
const SHARE: u64 = 512;

/// How late a packet should leave, where the one before was late by `lag_ns`.
pub(super) fn next_lag(lag_ns: u64) -> u64 {
    lag_ns.saturating_sub((lag_ns / SHARE).max(STEP_MIN_NS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_made_up_for_in_small_steps() {
        assert_eq!([0, 9_000, 10_000, 25_000, 270_000].map(next_lag), [0, 0, 0, 15_000, 260_000]);
        assert_eq!(next_lag(64_000_000), 63_875_000);
    }

    #[test]
    fn the_longest_delay_is_over_after_two_thousand_packets() {
        let mut lags = vec![100_000_000];
        while let Some(lag) = lags.last().map(|lag| next_lag(*lag)).filter(|lag| *lag > 0) {
            lags.push(lag);
        }
        assert!(lags.len() < 2_500, "{}", lags.len());
    }
}
