//! When the kernel's clock tick will take the processor away.
//!
//! A thread that spins is interrupted by every tick. On bare metal a tick takes a microsecond, in a virtual machine 15 or 20,
//! and a packet that is due in that time leaves after it. Ticks come at the same phase of their period, so a thread that
//! reads the clock all the time finds out when: what is due in the first half of the next one is sent just before it, and is
//! early by half a tick at most instead of late by a whole one.

use nix::time::{ClockId, clock_getres};

/// A step of the clock from one reading to the next that is an interruption.
const TAKEN_MIN_NS: u64 = 3_000;
/// Longer ones are another program's turn, or the host's, and say nothing about ticks.
const TAKEN_MAX_NS: u64 = 60_000;
/// Interruptions that are looked at.
const SEEN: usize = 64;
/// New ones between two looks.
const REFRESH: usize = 16;
/// Ticks begin this close to each other in their period.
const WIDTH_NS: u64 = 3_000;
/// As many of [`SEEN`] have to: others are the host's, at any time.
const TICKS_MIN: usize = 16;
/// What sending takes: a packet that is sent before a tick has to have left by then.
const SENDING_NS: u64 = 3_000;

/// What is known of the tick.
#[derive(Debug, Clone)]
pub(super) struct Tick {
    /// Zero where it is not known: nothing is done then.
    period_ns: u64,
    /// Phase of the beginning and length of each interruption.
    seen: [(u64, u64); SEEN],
    pushed: usize,
    looked: usize,
    taken: Option<Taken>,
}

/// The part of each period in which the processor is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    phase_ns: u64,
    len_ns: u64,
}

impl Tick {
    pub(super) fn new() -> Self {
        // The coarse clock is the time of the last tick, and its resolution the time between two (`clock_getres(2)`).
        let period =
            clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec());
        Self::with_period(u64::try_from(period).unwrap_or(0))
    }

    fn with_period(period_ns: u64) -> Self {
        // Where ticks were so close, there would be no time between them.
        let period_ns = if period_ns < 4 * TAKEN_MAX_NS { 0 } else { period_ns };
        Self { period_ns, seen: [(0, 0); SEEN], pushed: 0, looked: 0, taken: None }
    }

    /// Takes two readings of the clock, one after the other with nothing between.
    pub(super) fn clock(&mut self, before_ns: u64, now_ns: u64) {
        let len = now_ns - before_ns;
        if (TAKEN_MIN_NS..=TAKEN_MAX_NS).contains(&len) && self.period_ns > 0 {
            self.seen[self.pushed % SEEN] = (before_ns % self.period_ns, len);
            self.pushed += 1;
        }
    }

    /// Looks at what was seen, where enough is new; takes some microseconds then.
    pub(super) fn look(&mut self) {
        if self.pushed >= SEEN && self.pushed - self.looked >= REFRESH {
            self.looked = self.pushed;
            self.taken = self.find();
        }
    }

    /// When to send what is due at `deadline_ns`: then, or before the tick that would make it later.
    pub(super) fn aim(&self, deadline_ns: u64) -> u64 {
        let Some(taken) = self.taken else { return deadline_ns };
        let latest = taken.phase_ns + self.period_ns - SENDING_NS;
        let since = (deadline_ns % self.period_ns + 2 * self.period_ns - latest) % self.period_ns;
        if since < (SENDING_NS + taken.len_ns) / 2 { deadline_ns - since } else { deadline_ns }
    }

    /// Where in the period most interruptions begin, and how long the median of them is from the first one's beginning.
    fn find(&self) -> Option<Taken> {
        let mut seen = self.seen;
        seen.sort_unstable();
        // Once more, a period later: ticks may begin around its end.
        let from = |first: usize| {
            let begins = move |n: usize| seen[n % SEEN].0 + if n < SEEN { 0 } else { self.period_ns };
            (first..first + SEEN).take_while(move |n| begins(*n) - begins(first) <= WIDTH_NS)
        };
        let first = (0..SEEN).max_by_key(|first| from(*first).count())?;
        let mut lens: Vec<u64> = from(first).map(|n| seen[n % SEEN].1).collect();
        if lens.len() < TICKS_MIN {
            return None;
        }
        lens.sort_unstable();
        Some(Taken { phase_ns: seen[first].0, len_ns: lens[lens.len() / 2] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: u64 = 4_000_000;

    /// A tick that was seen a hundred times, at `phase` with a jitter of 400 ns, 17 µs long; and as often something else that
    /// is spread over the period.
    fn seen(phase: u64) -> Tick {
        let mut tick = Tick::with_period(PERIOD);
        for n in 0..100 {
            let begins = n * PERIOD + phase + n % 5 * 100;
            tick.clock(begins - 30, begins); // a reading without anything between
            tick.clock(begins, begins + 17_000);
            let other = n * PERIOD + n * 39_000;
            tick.clock(other, other + 9_000);
            tick.look();
        }
        tick
    }

    #[test]
    fn what_is_due_in_the_first_half_of_a_tick_is_sent_before_it() {
        for phase in [100, 2_000_000, 3_999_900] {
            let tick = seen(phase);
            assert_eq!(tick.taken, Some(Taken { phase_ns: phase, len_ns: 17_000 }));
            let next = 1_000 * PERIOD + phase;
            let aim = |after: i64| tick.aim(next.checked_add_signed(after).unwrap()) as i64 - next as i64;
            assert_eq!(aim(-3_001), -3_001, "it has left before the tick");
            assert_eq!((aim(-2_999), aim(0), aim(6_999)), (-3_000, -3_000, -3_000));
            assert_eq!((aim(7_000), aim(16_000), aim(30_000)), (7_000, 16_000, 30_000), "nearer to its end");
        }
    }

    #[test]
    fn interruptions_at_any_time_and_long_ones_are_no_ticks() {
        let mut tick = Tick::with_period(PERIOD);
        for n in 0..200 {
            let at = n * PERIOD + n * 19_000;
            tick.clock(at, at + 17_000);
            tick.clock(n * PERIOD, n * PERIOD + 100_000);
            tick.look();
        }
        assert_eq!((tick.taken, tick.aim(12_345)), (None, 12_345));
    }

    #[test]
    fn without_a_period_nothing_is_done() {
        let mut tick = Tick::with_period(0);
        (0..200).for_each(|n| tick.clock(n * 5_000, (n + 1) * 5_000));
        tick.look();
        assert_eq!(tick.aim(12_345), 12_345);
        // This machine's own is a number of milliseconds, and ticks fit into it.
        let period = Tick::new().period_ns;
        assert!((1_000_000..=10_000_000).contains(&period), "{period}");
    }
}
