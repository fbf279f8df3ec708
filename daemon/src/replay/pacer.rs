//! Waiting for a deadline on the monotonic clock: sleep until shortly before, then spin.
//!
//! How long before is measured ([`Margin`]), and so is how much earlier a packet has to be sent after a pause ([`Lead`]) and
//! before a tick of the kernel's clock ([`Tick`]). Sleeps are absolute, so a late one moves nothing after it, and come in
//! slices, so a stop is seen soon.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

use super::lead::Lead;
use super::margin::{Margin, Spin};
use super::tick::Tick;

/// Longest sleep without a look at the stop flag: a fifth of the 100 ms in which a stop should be done.
const SLICE_NS: u64 = 20_000_000;
/// Sleeps before the first packet, which measure the margin and warm the caches: 16 of 250 µs.
const WARM_UP_SLEEPS: u32 = 16;
/// Length of each.
const WARM_UP_NS: u64 = 250_000;
/// A pause of this length or more leaves the way to the sink cold.
const COLD_NS: u64 = 50_000;
/// In one of this length waking earlier, for what warms the way, costs little.
const LONG_NS: u64 = 1_000_000;
/// Beginning later than planned by this much is no reason not to go the way once more.
const SLACK_NS: u64 = 2_000;

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The time came; it is now this many nanoseconds on the clock.
    Reached(u64),
    /// The stop flag was raised.
    Stopped,
}

/// What going the sink's way without a packet takes.
#[derive(Debug)]
struct Way {
    mean_ns: f64,
}

impl Way {
    /// Least and most that is set aside for it.
    const RESERVE_NS: std::ops::RangeInclusive<f64> = 8_000.0..=100_000.0;

    fn new(first_guess_ns: u32) -> Self {
        Self { mean_ns: f64::from(first_guess_ns) }
    }

    /// Time to set aside: twice of what it takes on average, since it is never the same.
    fn reserve_ns(&self) -> u64 {
        (2.0 * self.mean_ns).clamp(*Self::RESERVE_NS.start(), *Self::RESERVE_NS.end()) as u64
    }

    fn go(&mut self, warm: &mut impl FnMut()) {
        let began = now_ns();
        warm();
        // What took longer than twice the mean was interrupted, or moves it slowly.
        let took = ((now_ns() - began) as f64).min(2.0 * self.mean_ns + 1_000.0);
        self.mean_ns += (took - self.mean_ns) / 16.0;
    }
}

/// Waits for deadlines on `CLOCK_MONOTONIC`. Belongs to one thread; while it lives, that thread's timer slack is
/// 1 ns instead of the usual 50 µs.
#[derive(Debug)]
pub(super) struct Pacer {
    margin: Margin,
    lead: Lead,
    tick: Tick,
    /// What warming the way takes where it is cold, and once more.
    cold_way: Way,
    warm_way: Way,
    /// When something was sent last.
    sent_ns: u64,
    slack_before: Option<u64>,
}

impl Pacer {
    pub(super) fn new(spin: Spin) -> Self {
        let slack_before = prctl::get_timerslack().ok().and_then(|ns| u64::try_from(ns).ok());
        // Where this is not allowed, wake-ups are later and the margin grows.
        let _ = prctl::set_timerslack(1);
        Self {
            margin: Margin::new(spin),
            lead: Lead::default(),
            tick: Tick::new(),
            cold_way: Way::new(20_000),
            warm_way: Way::new(6_000),
            sent_ns: 0,
            slack_before,
        }
    }

    /// Sleeps a few times, so that the margin is measured and the first packet finds warm caches.
    pub(super) fn warm_up(&mut self, stop: &AtomicBool) -> Wait {
        let start = now_ns();
        for n in 1..=u64::from(WARM_UP_SLEEPS) {
            if self.sleep_until(start + n * WARM_UP_NS, stop) == Wait::Stopped {
                return Wait::Stopped;
            }
        }
        Wait::Reached(now_ns())
    }

    /// Waits until `deadline_ns`: sleeps until the margin before it, then spins, so that what is sent then leaves at the deadline:
    /// see [`Lead`] and [`Tick`] for how much before it this may end. After a pause it calls `warm` when it wakes and once more
    /// shortly before the end, where there is time.
    pub(super) fn wait_until(&mut self, deadline_ns: u64, stop: &AtomicBool, mut warm: impl FnMut()) -> Wait {
        let now = now_ns();
        if now >= deadline_ns {
            return Wait::Reached(now);
        }
        self.margin.wait(now, deadline_ns - now);
        self.tick.look();
        let pause_ns = deadline_ns.saturating_sub(self.sent_ns);
        // Who does not spin does not do so for that either.
        let earlier_ns = if pause_ns >= LONG_NS && self.margin.ns() > 0 { self.warming_ns() } else { 0 };
        let wake = deadline_ns.saturating_sub(self.margin.ns().saturating_add(earlier_ns));
        let Wait::Reached(now) = self.sleep_until(wake, stop) else { return Wait::Stopped };
        let target = self.tick.aim(deadline_ns - self.lead.ns(pause_ns));
        if pause_ns >= COLD_NS && now + self.warming_ns() < target {
            self.cold_way.go(&mut warm);
            let again = target - self.warm_way.reserve_ns();
            match self.spin_until(again, stop) {
                Wait::Reached(now) if now < again + SLACK_NS => self.warm_way.go(&mut warm),
                Wait::Reached(_) => {}
                Wait::Stopped => return Wait::Stopped,
            }
        }
        self.spin_until(target, stop)
    }

    /// What is set aside for warming the way twice.
    fn warming_ns(&self) -> u64 {
        self.cold_way.reserve_ns() + self.warm_way.reserve_ns()
    }

    /// Reads the clock until it is `target_ns` or later. Without a margin that is at once: the sleep ended there or after it.
    fn spin_until(&mut self, target_ns: u64, stop: &AtomicBool) -> Wait {
        let mut now = now_ns();
        while now < target_ns {
            std::hint::spin_loop();
            if stop.load(Ordering::Relaxed) {
                return Wait::Stopped;
            }
            let before = now;
            now = now_ns();
            self.tick.clock(before, now);
        }
        Wait::Reached(now)
    }

    /// Takes note of a packet that was sent at `now_ns`, without a wait for it.
    pub(super) fn sent(&mut self, now_ns: u64) {
        self.sent_ns = now_ns;
    }

    /// Takes note of a packet that was waited for until `reached_ns` and sent by a call that returned just now.
    pub(super) fn sent_in_time(&mut self, reached_ns: u64) {
        let now = now_ns();
        self.lead.sent(reached_ns.saturating_sub(self.sent_ns), now - reached_ns);
        self.sent_ns = now;
    }

    /// Sleeps until `target_ns`, in slices, without spinning.
    pub(super) fn sleep_until(&mut self, target_ns: u64, stop: &AtomicBool) -> Wait {
        let mut now = now_ns();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_at_its_deadline() {
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
    fn the_way_is_warmed_at_both_ends_of_a_wait_and_not_in_a_short_one() {
        let stop = AtomicBool::new(false);
        // Spins all the time, so that no wake-up is late.
        let mut pacer = Pacer::new(Spin::Fixed(Duration::MAX));
        let mut warmed = |pause_ns: u64| {
            let mut calls = 0;
            let now = now_ns();
            pacer.sent(now);
            pacer.wait_until(now + pause_ns, &stop, || calls += 1);
            calls
        };
        // Whoever is interrupted shortly before the end does without the second time.
        let calls: [u32; 20] = std::array::from_fn(|_| warmed(2_000_000));
        assert!(calls.contains(&2) && calls.iter().all(|calls| *calls <= 2), "{calls:?}");
        assert_eq!((0..100).map(|_| warmed(30_000)).sum::<u32>(), 0, "nothing gets cold in so short a pause");
    }

    #[test]
    fn what_is_set_aside_for_the_way_follows_what_it_takes() {
        let mut way = Way::new(20_000);
        assert_eq!(way.reserve_ns(), 40_000);
        (0..200).for_each(|_| way.go(&mut || {}));
        assert_eq!(way.reserve_ns(), 8_000);
        (0..200).for_each(|_| way.go(&mut || std::thread::sleep(Duration::from_micros(100))));
        assert_eq!(way.reserve_ns(), 100_000);
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
