//! How much earlier a packet has to be sent after a pause, so that it leaves at its time.
//!
//! The way to the sink is slower the longer nothing went it: caches and branch predictors belong to whoever ran, or what
//! ran, meanwhile. Packets sent after a pause would all leave a little later than the others, and every gap between two
//! kinds would be wrong by that. What the call that sends takes longer than after the shortest pauses is measured for each
//! length of pause, and a packet is sent earlier by the part of it that comes before the packet leaves.

/// A sample moves its mean by this share of the distance ...
const SHARE: f64 = 1.0 / 32.0;
/// ... which counts for this share of the mean at most: an interruption weighs no more than a slow call.
const STEP_MAX: f64 = 0.25;
/// Calls of a kind before there is a lead: until then its mean comes from its first calls.
const CALLS_MIN: u32 = 32;
/// What a call takes longer comes before the packet leaves by this part: 0.29 to 0.38 at the other end of a veth.
const BEFORE: f64 = 0.36;
/// Most that a packet is sent before its time.
const LEAD_MAX_NS: f64 = 6_000.0;
/// Pauses up to 8 µs, up to 16, and so on; the last from 16 ms on.
const KINDS: usize = 13;
/// The first kind's longest pause is less than two to the power of this, in nanoseconds.
const FIRST_BITS: u32 = 13;

/// What sending took after pauses of each length.
#[derive(Debug, Clone, Default)]
pub(super) struct Lead {
    means: [Mean; KINDS],
}

impl Lead {
    /// Takes what it took to send a packet after a pause, from the end of its wait to the return of the call.
    pub(super) fn sent(&mut self, pause_ns: u64, took_ns: u64) {
        self.means[kind(pause_ns)].push(took_ns as f64);
    }

    /// Nanoseconds before its time at which a packet is sent after a pause.
    pub(super) fn ns(&self, pause_ns: u64) -> u64 {
        let known = |mean: &&Mean| mean.calls >= CALLS_MIN;
        let shortest = self.means.iter().find(known);
        let own = Some(&self.means[kind(pause_ns)]).filter(known);
        own.zip(shortest).map_or(0, |(own, shortest)| ((own.ns - shortest.ns) * BEFORE).clamp(0.0, LEAD_MAX_NS) as u64)
    }
}

fn kind(pause_ns: u64) -> usize {
    let bits = u64::BITS - pause_ns.leading_zeros();
    (bits.saturating_sub(FIRST_BITS) as usize).min(KINDS - 1)
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

    const LONG_NS: u64 = 1_600_000;
    const SHORT_NS: u64 = 20_000;

    /// The lead after `calls` calls of each kind, of which every `nth` was interrupted for 40 µs.
    fn lead(long_ns: u64, short_ns: u64, calls: usize, nth: usize) -> u64 {
        let mut lead = Lead::default();
        for n in 1..=calls {
            let more = if n % nth == 0 { 40_000 } else { 0 };
            lead.sent(LONG_NS, long_ns + more);
            lead.sent(SHORT_NS, short_ns + more);
        }
        assert_eq!(lead.ns(SHORT_NS), 0, "it is what others are held against");
        lead.ns(LONG_NS)
    }

    #[test]
    fn the_lead_is_the_part_before_it_leaves_of_what_a_call_takes_longer_after_a_pause() {
        assert_eq!(lead(3_600, 2_600, 1000, usize::MAX), 360);
        assert_eq!(lead(2_600, 2_600, 1000, usize::MAX), 0);
        // Where a pause made it faster, nothing is sent after its time for that.
        assert_eq!(lead(2_500, 2_600, 1000, usize::MAX), 0);
        assert_eq!(lead(90_000, 2_600, 1000, usize::MAX), 6_000);
    }

    #[test]
    fn a_few_calls_or_interrupted_ones_make_no_lead() {
        assert_eq!(lead(3_600, 2_600, CALLS_MIN as usize - 1, usize::MAX), 0);
        // One in fifty: each moves its mean by a 32nd of a quarter of it, and the calls between bring it back.
        let interrupted = lead(3_600, 2_600, 2000, 50);
        assert!((340..=400).contains(&interrupted), "{interrupted}");
    }

    #[test]
    fn pauses_are_told_apart_by_their_power_of_two() {
        let kinds = [0, 8_191, 8_192, 20_000, 1_600_000, 16_777_215, 16_777_216, u64::MAX].map(kind);
        assert_eq!(kinds, [0, 0, 1, 2, 8, 11, 12, 12]);
    }
}
