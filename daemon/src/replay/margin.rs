//! How long before a deadline the sender stops sleeping: as long as its own wake-ups are late, as far as half a core allows.

use std::time::Duration;

/// Least adaptive margin: below it nothing is won on a quiet machine.
const MARGIN_MIN_NS: u64 = 20_000;
/// Longest, whatever it costs: beyond it a sender of 10,000 packets a second would spin all the time.
const MARGIN_ANY_COST_NS: u64 = 500_000;
/// Longest where [`SPUN_SHARE_MAX`] allows it: virtual machines whose processor the host gives to others while it sleeps get it
/// back that late, several times in a thousand.
const MARGIN_MAX_NS: u64 = 2_000_000;
/// The margin before anything was measured.
const MARGIN_START_NS: u64 = 200_000;
/// What is added to the measured lateness, for the clock reading and the jump out of the kernel.
const MARGIN_EXTRA_NS: u64 = 5_000;
/// Waits in the sliding window: enough that a 99.8th percentile means something.
const WINDOW: usize = 1024;
/// Sleeps between two looks at the window; where the margin is so long that there are none, it is looked at after as many waits
/// as it holds.
const REFRESH: usize = 64;
/// A look takes a few tens of microseconds, so it is left to a wait of at least this.
const LOOK_NS: u64 = 100_000;
/// Wake-ups in a thousand that may come after the margin, whatever that costs ...
const LATE_PER_MILLE_ANY_COST: usize = 10;
/// ... and within [`SPUN_SHARE_MAX`].
const LATE_PER_MILLE: usize = 1;
/// What spinning for a better percentile may cost in all: with the sending itself, half a core.
const SPUN_SHARE_MAX: f64 = 0.38;

/// How long before a deadline to stop sleeping and spin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spin {
    /// Of the measured wake-up lateness the 99th percentile, from 20 to 500 µs, and up to the 99.9th and 2 ms as far as half a
    /// core allows.
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
    /// Sleeps and waits since the margin was chosen.
    slept: usize,
    waited: usize,
}

impl Margin {
    pub(super) fn new(spin: Spin) -> Self {
        let (ns, adaptive) = match spin {
            Spin::Adaptive => (MARGIN_START_NS, true),
            Spin::Fixed(margin) => (margin.as_nanos().try_into().unwrap_or(u64::MAX), false),
        };
        Self { ns, adaptive, late: Window::new(), waits: Window::new(), began: Window::new(), slept: 0, waited: 0 }
    }

    /// Nanoseconds before a deadline at which to wake.
    pub(super) fn ns(&self) -> u64 {
        self.ns
    }

    /// Takes one wake-up that came `late_ns` after the time asked for.
    pub(super) fn late(&mut self, late_ns: u64) {
        self.late.push(late_ns);
        self.slept += 1;
    }

    /// Takes a wait of `wait_ns` that begins at `now`; chooses the margin anew where that is due and there is time for it.
    pub(super) fn wait(&mut self, now: u64, wait_ns: u64) {
        if !self.adaptive {
            return;
        }
        self.began.push(now);
        self.waits.push(wait_ns);
        self.waited += 1;
        if (self.slept >= REFRESH || self.waited >= WINDOW) && wait_ns > LOOK_NS {
            self.ns = self.choose(now);
            (self.slept, self.waited) = (0, 0);
        }
    }

    fn choose(&self, now: u64) -> u64 {
        let mut late = self.late.numbers;
        let late = &mut late[..self.late.len().max(1)];
        late.sort_unstable();
        let span = now.saturating_sub(self.began.oldest()).max(1) as f64;
        let usual = late[late.len() / 2];
        // A wait is spun as a whole, or from its wake-up on.
        let spins = |margin: u64, wait: u64| if wait <= margin { wait } else { margin.saturating_sub(usual) };
        let spun = |margin: u64| self.waits.numbers[..self.waits.len()].iter().map(|w| spins(margin, *w)).sum::<u64>();
        let percentile = |allowed: usize| {
            let beyond = late.len() * allowed / 1000;
            late[late.len() - 1 - beyond].saturating_add(MARGIN_EXTRA_NS).max(MARGIN_MIN_NS)
        };
        // Who never sleeps does not learn that it could, so without a sleep there is no margin at any cost.
        let least =
            if self.slept == 0 { MARGIN_MIN_NS } else { percentile(LATE_PER_MILLE_ANY_COST).min(MARGIN_ANY_COST_NS) };
        let (mut margin, mut beyond) = (least, percentile(LATE_PER_MILLE).min(MARGIN_MAX_NS) + 1);
        while beyond - margin > 1 {
            let middle = margin.midpoint(beyond);
            if spun(middle) as f64 <= SPUN_SHARE_MAX * span { margin = middle } else { beyond = middle }
        }
        margin
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
    fn waited(late_ns: impl Iterator<Item = u64>, wait_ns: u64, every_ns: u64) -> Margin {
        let mut margin = Margin::new(Spin::Adaptive);
        for (n, late) in late_ns.enumerate() {
            margin.wait(n as u64 * every_ns, wait_ns);
            margin.late(late);
        }
        margin.waited = WINDOW;
        margin.wait(WINDOW as u64 * every_ns, wait_ns);
        margin
    }

    fn rising(step_ns: u64) -> impl Iterator<Item = u64> {
        (1..=WINDOW as u64).map(move |n| n * step_ns)
    }

    #[test]
    fn the_margin_is_as_high_a_percentile_of_late_wake_ups_as_half_a_core_allows() {
        let margin = |step_ns, wait_ns| waited(rising(step_ns), wait_ns, wait_ns).ns;
        // Up to 92.16 µs late, a wait of 1 ms in 1 ms: the margin costs a twentieth of a core. One in a thousand may be later.
        assert_eq!(margin(90, 1_000_000), 92_070 + MARGIN_EXTRA_NS);
        // Waits of 130 µs: any such margin costs more than 38 %, so ten in a thousand may be later.
        assert_eq!(margin(90, 130_000), 91_260 + MARGIN_EXTRA_NS);
        // 1,024 margins in 1,023 periods of 134 µs: 38 % is 50.87 µs, to which the usual wake-up, 46.17 µs late, adds.
        assert_eq!(margin(90, 134_000), 50_870 + 46_170);
        // A host that keeps the processor for up to 1.5 ms, at few packets and at many.
        assert_eq!(margin(1_500, 10_000_000), 1_534_500 + MARGIN_EXTRA_NS);
        assert_eq!(margin(1_500, 2_000_000), 759_257 + 769_500);
        assert_eq!(margin(1_500, 300_000), MARGIN_ANY_COST_NS);
    }

    #[test]
    fn the_margin_keeps_its_bounds() {
        assert_eq!(Margin::new(Spin::Adaptive).ns, MARGIN_START_NS);
        assert_eq!(waited((0..WINDOW).map(|_| 100), 1_000_000, 1_000_000).ns, MARGIN_MIN_NS);
        assert_eq!(waited((0..WINDOW).map(|_| u64::MAX / 2), 10_000_000, 10_000_000).ns, MARGIN_MAX_NS);
        assert_eq!(waited(std::iter::empty(), 1_000_000, 1_000_000).ns, MARGIN_MIN_NS);
    }

    #[test]
    fn who_never_sleeps_tries_to_again() {
        let mut margin = waited(rising(1_500), 10_000_000, 10_000_000);
        assert!(margin.ns() > 1_500_000);
        // Now packets come every 200 µs, none of which is slept for. At the end of the window 38 % of a wait is spun.
        let spun = |margin: &mut Margin, waits: u64| {
            (1..=waits).for_each(|n| margin.wait(WINDOW as u64 * 10_000_000 + n * 200_000, 200_000));
            margin.ns()
        };
        assert!(spun(&mut margin, WINDOW as u64 - 1) > 1_500_000);
        let margin = spun(&mut margin, 1);
        assert!(margin < 200_000, "{margin}");
    }

    #[test]
    fn a_fixed_margin_stays() {
        let mut margin = Margin::new(Spin::Fixed(Duration::from_micros(7)));
        (0..1000).for_each(|_| margin.late(400_000));
        assert_eq!(margin.ns, 7_000);
    }
}
