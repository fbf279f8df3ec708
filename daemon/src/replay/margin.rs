//! How long before a deadline the sender stops sleeping: as long as its own wake-ups are late, as far as half a core allows.

use std::time::Duration;

/// Bounds of the adaptive margin: below 20 µs nothing is won on a quiet machine; at 500 µs a sender of 10,000
/// packets a second spins nearly all the time, and later wake-ups are the scheduler's and not to be spun away.
const MARGIN_MIN_NS: u64 = 20_000;
/// See [`MARGIN_MIN_NS`].
const MARGIN_MAX_NS: u64 = 500_000;
/// The margin before anything was measured.
const MARGIN_START_NS: u64 = 200_000;
/// What is added to the measured lateness, for the clock reading and the jump out of the kernel.
const MARGIN_EXTRA_NS: u64 = 5_000;
/// Waits in the sliding window: enough that a 99.8th percentile means something.
const WINDOW: usize = 1024;
/// Sleeps between two looks at the window.
const REFRESH: usize = 64;
/// Wake-ups in a thousand that may come after the margin, whatever that costs; fewer where it costs no more than
/// [`SPUN_SHARE_MAX`].
const LATE_PER_MILLE: usize = 10;
/// Longest margin for the sake of a better percentile: rarer wake-ups that are later still were the host's doing, and at few
/// packets a second, where it would cost little, it would win nothing.
const MARGIN_BETTER_MAX_NS: u64 = 100_000;
/// What spinning for a better percentile may cost in all: with the sending itself, half a core.
const SPUN_SHARE_MAX: f64 = 0.38;

/// How long before a deadline to stop sleeping and spin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spin {
    /// Of the measured wake-up lateness the 99th percentile, and up to the 99.9th while that costs less than half a core;
    /// 20 to 500 µs.
    #[default]
    Adaptive,
    /// This long; zero never spins.
    Fixed(Duration),
}

/// How long before a deadline to wake: fixed, or what the last wake-ups were late by.
#[derive(Debug, Clone)]
pub(super) struct Margin {
    ns: u64,
    adaptive: bool,
    late: Window,
    /// How long each wait was, and when it began: what a margin costs.
    waits: Window,
    began: Window,
    /// Sleeps since the margin was chosen.
    since: usize,
}

impl Margin {
    pub(super) fn new(spin: Spin) -> Self {
        let (ns, adaptive) = match spin {
            Spin::Adaptive => (MARGIN_START_NS, true),
            Spin::Fixed(margin) => (margin.as_nanos().try_into().unwrap_or(u64::MAX), false),
        };
        Self { ns, adaptive, late: Window::new(), waits: Window::new(), began: Window::new(), since: 0 }
    }

    /// Nanoseconds before a deadline at which to wake.
    pub(super) fn ns(&self) -> u64 {
        self.ns
    }

    /// Takes one wake-up that came `late_ns` after the time asked for.
    pub(super) fn late(&mut self, late_ns: u64) {
        self.late.push(late_ns);
        self.since += 1;
    }

    /// Takes a wait of `wait_ns` that begins at `now`; chooses the margin anew where that is due and there is time for it.
    pub(super) fn wait(&mut self, now: u64, wait_ns: u64) {
        if !self.adaptive {
            return;
        }
        self.began.push(now);
        self.waits.push(wait_ns);
        if self.since >= REFRESH && wait_ns > self.ns {
            self.since = 0;
            self.ns = self.choose(now);
        }
    }

    fn choose(&self, now: u64) -> u64 {
        let mut late = self.late.numbers;
        let late = &mut late[..self.late.len()];
        late.sort_unstable();
        let span = now.saturating_sub(self.began.oldest()).max(1) as f64;
        let usual = late[late.len() / 2];
        // A wait is spun as a whole, or from its wake-up on.
        let spins = |margin: u64, wait: u64| if wait <= margin { wait } else { margin.saturating_sub(usual) };
        let spun = |margin: u64| self.waits.numbers[..self.waits.len()].iter().map(|w| spins(margin, *w)).sum::<u64>();
        let percentile = |allowed: usize| {
            let beyond = late.len() * allowed / 1000;
            late[late.len() - 1 - beyond].saturating_add(MARGIN_EXTRA_NS).clamp(MARGIN_MIN_NS, MARGIN_MAX_NS)
        };
        (1..LATE_PER_MILLE)
            .map(percentile)
            .find(|margin| *margin <= MARGIN_BETTER_MAX_NS && spun(*margin) as f64 <= SPUN_SHARE_MAX * span)
            .unwrap_or_else(|| percentile(LATE_PER_MILLE))
    }
}

/// The last [`WINDOW`] numbers.
#[derive(Debug, Clone)]
struct Window {
    numbers: [u64; WINDOW],
    pushed: usize,
}

impl Window {
    fn new() -> Self {
        Self { numbers: [0; WINDOW], pushed: 0 }
    }

    fn push(&mut self, number: u64) {
        self.numbers[self.pushed % WINDOW] = number;
        self.pushed += 1;
    }

    fn len(&self) -> usize {
        self.pushed.min(WINDOW)
    }

    fn oldest(&self) -> u64 {
        self.numbers[if self.pushed > WINDOW { self.pushed % WINDOW } else { 0 }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits of `wait_ns`, one every `every_ns`, each after a wake-up that came late by one of `late_ns` in turn.
    fn margin_after(late_ns: impl Iterator<Item = u64>, wait_ns: u64, every_ns: u64) -> u64 {
        let mut margin = Margin::new(Spin::Adaptive);
        for (n, late) in late_ns.enumerate() {
            margin.wait(n as u64 * every_ns, wait_ns);
            margin.late(late);
        }
        margin.since = REFRESH;
        margin.wait(WINDOW as u64 * every_ns, u64::MAX);
        margin.ns
    }

    #[test]
    fn the_margin_is_as_high_a_percentile_of_late_wake_ups_as_half_a_core_allows() {
        let rising = || (1..=WINDOW as u64).map(|n| n * 90); // up to 92.16 µs
        // A wait of 1 ms in 1 ms, the usual wake-up 46.17 µs late: the margin costs a twentieth of a core. One in a thousand may
        // be later.
        assert_eq!(margin_after(rising(), 1_000_000, 1_000_000), 92_070 + MARGIN_EXTRA_NS);
        // Waits of 130 µs: any such margin costs more than 38 %, so ten in a thousand may be later.
        assert_eq!(margin_after(rising(), 130_000, 130_000), 91_260 + MARGIN_EXTRA_NS);
        // Every 134 µs: 38 % is 50.92 µs; one in a thousand would take 50.95, two 50.86.
        assert_eq!(margin_after(rising(), 134_000, 134_000), 91_980 + MARGIN_EXTRA_NS);
        // What only a margin of over 100 µs would win is not tried.
        assert_eq!(margin_after(rising().map(|late| 2 * late), 1_000_000, 1_000_000), 2 * 91_260 + MARGIN_EXTRA_NS);
    }

    #[test]
    fn the_margin_keeps_its_bounds() {
        assert_eq!(Margin::new(Spin::Adaptive).ns, MARGIN_START_NS);
        assert_eq!(margin_after((0..WINDOW).map(|_| 100), 1_000_000, 1_000_000), MARGIN_MIN_NS);
        assert_eq!(margin_after((0..WINDOW).map(|_| u64::MAX / 2), 10_000_000, 10_000_000), MARGIN_MAX_NS);
    }

    #[test]
    fn a_fixed_margin_stays() {
        let mut margin = Margin::new(Spin::Fixed(Duration::from_micros(7)));
        (0..1000).for_each(|_| margin.late(400_000));
        assert_eq!(margin.ns, 7_000);
    }
}
