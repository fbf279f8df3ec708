//! How much earlier a packet has to be sent after a sleep, so that it leaves at its time.
//!
//! The way to the sink is slower after a sleep than after a spin: caches and branch predictors belong to whoever ran, or what
//! ran, meanwhile. Packets sent after a sleep would all leave a little later than the others, and every gap between two
//! kinds would be wrong by that. A packet leaves about in the middle of the call that sends it, so the lead is half of what
//! the call takes longer.

/// A sample moves its mean by this share of the distance ...
const SHARE: f64 = 1.0 / 32.0;
/// ... which counts for this share of the mean at most: an interruption weighs no more than a slow call.
const STEP_MAX: f64 = 0.25;
/// Calls of each kind before there is a lead: until then the means come from their first calls.
const CALLS_MIN: u32 = 64;
/// Most that a packet is sent before its time.
const LEAD_MAX_NS: f64 = 2_000.0;

/// What sending took after a sleep and after a spin.
#[derive(Debug, Clone, Default)]
pub(super) struct Lead {
    slept: Mean,
    spun: Mean,
}

impl Lead {
    /// Takes what it took to send a packet, from the end of its wait to the return of the call.
    pub(super) fn sent(&mut self, has_slept: bool, took_ns: u64) {
        if has_slept { &mut self.slept } else { &mut self.spun }.push(took_ns as f64);
    }

    /// Nanoseconds before its time at which a packet is sent after a sleep.
    pub(super) fn ns(&self) -> u64 {
        if self.slept.calls < CALLS_MIN || self.spun.calls < CALLS_MIN {
            return 0;
        }
        ((self.slept.ns - self.spun.ns) / 2.0).clamp(0.0, LEAD_MAX_NS) as u64
    }
}

/// A mean of the newest calls that outliers hardly move.
#[derive(Debug, Clone, Default)]
struct Mean {
    ns: f64,
    calls: u32,
}

impl Mean {
    fn push(&mut self, ns: f64) {
        if self.calls == 0 {
            self.ns = ns;
        }
        let most = self.ns * STEP_MAX;
        self.ns += (ns - self.ns).clamp(-most, most) * SHARE;
        self.calls = self.calls.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lead after `calls` calls of each kind, of which every `nth` was interrupted for 40 µs.
    fn lead(slept_ns: u64, spun_ns: u64, calls: usize, nth: usize) -> u64 {
        let mut lead = Lead::default();
        for n in 1..=calls {
            let more = if n % nth == 0 { 40_000 } else { 0 };
            lead.sent(true, slept_ns + more);
            lead.sent(false, spun_ns + more);
        }
        lead.ns()
    }

    #[test]
    fn the_lead_is_half_of_what_a_call_takes_longer_after_a_sleep() {
        assert_eq!(lead(3_200, 2_600, 1000, usize::MAX), 300);
        assert_eq!(lead(2_600, 2_600, 1000, usize::MAX), 0);
        // Where a sleep made it faster, nothing is sent after its time for that.
        assert_eq!(lead(2_500, 2_600, 1000, usize::MAX), 0);
        assert_eq!(lead(30_000, 2_600, 1000, usize::MAX), 2_000);
    }

    #[test]
    fn a_few_calls_or_interrupted_ones_make_no_lead() {
        assert_eq!(lead(3_200, 2_600, CALLS_MIN as usize - 1, usize::MAX), 0);
        // One in fifty: each moves its mean by a 32nd of a quarter of it, and the calls between bring it back.
        let interrupted = lead(3_200, 2_600, 2000, 50);
        assert!((290..=330).contains(&interrupted), "{interrupted}");
    }
}
