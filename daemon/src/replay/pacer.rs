//! Waiting for a deadline on the monotonic clock: sleep until shortly before, then spin.
//!
//! How long before is measured: the margin follows the thread's own late wake-ups. Sleeps are absolute, so a late
//! one moves nothing after it, and come in slices, so a stop is seen soon.

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
/// Wake-ups in the sliding window: enough that a 99th percentile means something.
const WINDOW: usize = 256;
/// Wake-ups between two looks at the window.
const REFRESH: usize = 16;
/// Sleeps before the first packet, which measure the margin and warm the caches: 16 of 250 µs.
const WARM_UP_SLEEPS: u32 = 16;
/// Time that is left for what warms the way to the sink: a system call on cold caches.
const WARM_NS: u64 = 8_000;
/// Length of each.
const WARM_UP_NS: u64 = 250_000;

/// How long before a deadline to stop sleeping and spin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spin {
    /// The 99th percentile of the measured wake-up lateness, 20 to 500 µs.
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
                Ok(_) => self.margin.record(now.saturating_sub(wake)),
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

/// How long before a deadline to wake: fixed, or the 99th percentile of the last wake-ups' lateness.
#[derive(Debug, Clone)]
struct Margin {
    ns: u64,
    adaptive: bool,
    window: [u64; WINDOW],
    recorded: usize,
}

impl Margin {
    fn new(spin: Spin) -> Self {
        let (ns, adaptive) = match spin {
            Spin::Adaptive => (MARGIN_START_NS, true),
            Spin::Fixed(margin) => (margin.as_nanos().try_into().unwrap_or(u64::MAX), false),
        };
        Self { ns, adaptive, window: [0; WINDOW], recorded: 0 }
    }

    /// Takes one wake-up that came `late_ns` after the time asked for.
    fn record(&mut self, late_ns: u64) {
        self.window[self.recorded % WINDOW] = late_ns;
        self.recorded += 1;
        if self.adaptive && self.recorded.is_multiple_of(REFRESH) {
            let mut seen = self.window;
            let seen = &mut seen[..self.recorded.min(WINDOW)];
            let rank = (seen.len() * 99).div_ceil(100) - 1;
            let (_, &mut p99, _) = seen.select_nth_unstable(rank);
            self.ns = p99.saturating_add(MARGIN_EXTRA_NS).clamp(MARGIN_MIN_NS, MARGIN_MAX_NS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_is_the_99th_percentile_within_its_bounds() {
        let mut margin = Margin::new(Spin::Adaptive);
        assert_eq!(margin.ns, MARGIN_START_NS);
        for n in 1..=WINDOW as u64 {
            margin.record(n * 1_000); // 1 to 256 µs; rank ⌈0.99 · 256⌉ = 254
        }
        assert_eq!(margin.ns, 254_000 + MARGIN_EXTRA_NS);
        for _ in 0..WINDOW {
            margin.record(100);
        }
        assert_eq!(margin.ns, MARGIN_MIN_NS);
        for _ in 0..WINDOW {
            margin.record(u64::MAX / 2);
        }
        assert_eq!(margin.ns, MARGIN_MAX_NS);
    }

    #[test]
    fn a_fixed_margin_stays() {
        let mut margin = Margin::new(Spin::Fixed(Duration::from_micros(7)));
        (0..1000).for_each(|_| margin.record(400_000));
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
