//! Waiting for a deadline on the monotonic clock: sleep until shortly before, then spin.
//!
//! How long before is measured: the margin follows the thread's own late wake-ups, as far as half a core allows. Sleeps are
//! absolute, so a late one moves nothing after it, and come in slices, so a stop is seen soon.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// Longest sleep without a look at the stop flag: a fifth of the 100 ms in which a stop should be done.
const SLICE_NS: u64 = 20_000_000;
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
/// Wake-ups in a thousand that may come after the margin, whatever that costs.
const LATE_PER_MILLE: usize = 10;
/// And what is better, the best first, where it costs no more than [`SPUN_SHARE_MAX`].
const LATE_PER_MILLE_BETTER: [usize; 3] = [1, 2, 5];
/// Longest margin for the sake of a better percentile: rarer wake-ups that are later still were the host's doing, and at few
/// packets a second, where it would cost little, it would win nothing.
const MARGIN_BETTER_MAX_NS: u64 = 100_000;
/// What spinning for a better percentile may cost in all: with the sending itself, half a core.
const SPUN_SHARE_MAX: f64 = 0.42;
/// Sleeps before the first packet, which measure the margin and warm the caches: 16 of 250 µs.
const WARM_UP_SLEEPS: u32 = 16;
/// Time that is left for what warms the way to the sink: a system call on cold caches.
const WARM_NS: u64 = 8_000;
/// Length of each.
const WARM_UP_NS: u64 = 250_000;

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

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The time came; it is now this many nanoseconds on the clock.
    Reached(u64),
    /// The stop flag was raised.
    Stopped,
}

/// Waits for deadlines on `CLOCK_MONOTONIC`. Belongs to one thread; while it lives, that thread's timer slack is
/// 1 ns instead of the usual 50 µs.
#[derive(Debug)]
pub(super) struct Pacer {
    margin: Margin,
    slack_before: Option<u64>,
}

impl Pacer {
    pub(super) fn new(spin: Spin) -> Self {
        let slack_before = prctl::get_timerslack().ok().and_then(|ns| u64::try_from(ns).ok());
        // Where this is not allowed, wake-ups are later and the margin grows.
        let _ = prctl::set_timerslack(1);
        Self { margin: Margin::new(spin), slack_before }
    }

    /// Sleeps a few times, so that the margin is measured and the first packet finds warm caches.
    pub(super) fn warm_up(&mut self, stop: &AtomicBool) -> Wait {
        let start = now_ns();
        for n in 1..=u64::from(WARM_UP_SLEEPS) {
            if self.sleep_until(start + n * WARM_UP_NS, now_ns(), stop) == Wait::Stopped {
                return Wait::Stopped;
            }
        }
        Wait::Reached(now_ns())
    }

    /// Waits until `deadline_ns`: sleeps until the margin before it, calls `warm` if it slept and there is time, then spins.
    pub(super) fn wait_until(&mut self, deadline_ns: u64, stop: &AtomicBool, warm: impl FnOnce()) -> Wait {
        let mut now = now_ns();
        if now < deadline_ns {
            self.margin.wait(now, deadline_ns - now);
            let wake = deadline_ns.saturating_sub(self.margin.ns);
            let sleeps = now < wake;
            if self.sleep_until(wake, now, stop) == Wait::Stopped {
                return Wait::Stopped;
            }
            now = now_ns();
            if sleeps && now + WARM_NS < deadline_ns {
                warm();
                now = now_ns();
            }
            while now < deadline_ns {
                // Without a margin there is no spinning, and sleep_until() came back at the deadline or after it.
                std::hint::spin_loop();
                if stop.load(Ordering::Relaxed) {
                    return Wait::Stopped;
                }
                now = now_ns();
            }
        }
        Wait::Reached(now)
    }

    /// Sleeps until `target_ns`, in slices, without spinning.
    fn sleep_until(&mut self, target_ns: u64, mut now: u64, stop: &AtomicBool) -> Wait {
        while now < target_ns {
            if stop.load(Ordering::Relaxed) {
                return Wait::Stopped;
            }
            let wake = target_ns.min(now + SLICE_NS);
            let slept = clock_nanosleep(
                ClockId::CLOCK_MONOTONIC,
                ClockNanosleepFlags::TIMER_ABSTIME,
                &TimeSpec::from_duration(Duration::from_nanos(wake)),
            );
            now = now_ns();
            match slept {
                Ok(_) => self.margin.late(now.saturating_sub(wake)),
                // A signal; the flag it raised is looked at above.
                Err(Errno::EINTR) => {}
                // The clock and the time are valid, so this does not happen; a busy wait would still be right.
                Err(_) => std::thread::yield_now(),
            }
        }
        Wait::Reached(now)
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        if let Some(ns) = self.slack_before {
            let _ = prctl::set_timerslack(ns);
        }
    }
}

/// Nanoseconds on `CLOCK_MONOTONIC`.
pub(super) fn now_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// The same clock at its last tick: a few milliseconds old, and several times cheaper to read.
pub(super) fn now_coarse_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC_COARSE)
}

fn read(clock: ClockId) -> u64 {
    let t = clock_gettime(clock).expect("every Linux has the monotonic clocks");
    t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
}

/// How long before a deadline to wake: fixed, or what the last wake-ups were late by.
#[derive(Debug, Clone)]
struct Margin {
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
    fn new(spin: Spin) -> Self {
        let (ns, adaptive) = match spin {
            Spin::Adaptive => (MARGIN_START_NS, true),
            Spin::Fixed(margin) => (margin.as_nanos().try_into().unwrap_or(u64::MAX), false),
        };
        Self { ns, adaptive, late: Window::new(), waits: Window::new(), began: Window::new(), since: 0 }
    }

    /// Takes one wake-up that came `late_ns` after the time asked for.
    fn late(&mut self, late_ns: u64) {
        self.late.push(late_ns);
        self.since += 1;
    }

    /// Takes a wait of `wait_ns` that begins at `now`; chooses the margin anew where that is due and there is time for it.
    fn wait(&mut self, now: u64, wait_ns: u64) {
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
        let spun =
            |margin: u64| self.waits.numbers[..self.waits.len()].iter().map(|w| margin.min(*w)).sum::<u64>() as f64;
        let percentile = |allowed: usize| {
            let beyond = late.len() * allowed / 1000;
            late[late.len() - 1 - beyond].saturating_add(MARGIN_EXTRA_NS).clamp(MARGIN_MIN_NS, MARGIN_MAX_NS)
        };
        LATE_PER_MILLE_BETTER
            .into_iter()
            .map(percentile)
            .find(|margin| *margin <= MARGIN_BETTER_MAX_NS && spun(*margin) <= SPUN_SHARE_MAX * span)
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
        // A wait of 1 ms in 1 ms: the margin costs a tenth of a core. One in a thousand may be later.
        assert_eq!(margin_after(rising(), 1_000_000, 1_000_000), 92_070 + MARGIN_EXTRA_NS);
        // Waits of 200 µs: any such margin costs more than 42 %, so ten in a thousand may be later.
        assert_eq!(margin_after(rising(), 200_000, 200_000), 91_260 + MARGIN_EXTRA_NS);
        // Every 231.3 µs: 42 % is 97.05 µs; one in a thousand would take 97.07, two 96.98.
        assert_eq!(margin_after(rising(), 231_300, 231_300), 91_980 + MARGIN_EXTRA_NS);
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

    #[test]
    fn a_wait_never_ends_before_its_deadline() {
        let stop = AtomicBool::new(false);
        for spin in [Spin::Adaptive, Spin::Fixed(Duration::ZERO), Spin::Fixed(Duration::MAX)] {
            let mut pacer = Pacer::new(spin);
            for wait_ns in [0, 1, 10_000, 300_000, 2_000_000] {
                let deadline = now_ns() + wait_ns;
                let Wait::Reached(now) = pacer.wait_until(deadline, &stop, || {}) else { panic!("nobody stopped it") };
                assert!(now >= deadline);
            }
        }
    }

    #[test]
    fn a_raised_flag_ends_a_long_wait() {
        let stop = AtomicBool::new(true);
        let mut pacer = Pacer::new(Spin::Adaptive);
        assert_eq!(pacer.wait_until(now_ns() + 3_600_000_000_000, &stop, || {}), Wait::Stopped);
        let mut spinner = Pacer::new(Spin::Fixed(Duration::MAX));
        assert_eq!(spinner.wait_until(now_ns() + 3_600_000_000_000, &stop, || {}), Wait::Stopped);
    }

    #[test]
    fn the_threads_timer_slack_comes_back() {
        let before = prctl::get_timerslack().unwrap();
        drop(Pacer::new(Spin::Adaptive));
        assert_eq!(prctl::get_timerslack().unwrap(), before);
    }
}
