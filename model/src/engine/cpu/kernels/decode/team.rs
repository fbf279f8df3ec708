//! A few threads that walk through the phases of a step together.
//!
//! A step has a hundred phases of microseconds each: handing each of them to a pool costs more than the phases. So the helpers
//! join once a step, and a phase ends when all its parts are done, which is one counter to spin on. A helper that comes late, or not
//! at all, holds nobody up: whoever waits takes over a part that nobody has begun.

use std::sync::atomic::{AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crate::threads::Threads;

/// Looks at the counter before parts of others may be taken over, and before the thread offers its core to others.
const LOOKS_BEFORE_HELPING: usize = 200;
const LOOKS_BEFORE_YIELDING: usize = 20_000;

/// Threads that have been seen to help.
const THREADS_MAX: usize = 16;

/// A number alone on its cache lines (x86 fetches them in pairs).
#[repr(align(128))]
struct Alone(AtomicUsize);

struct Team<'a> {
    /// For each part, how many phases of it were begun.
    begun: Vec<Alone>,
    /// Parts done, of all phases.
    done: Alone,
    /// Helpers that have come.
    present: Alone,
    phases: usize,
    work: &'a (dyn Fn(usize, usize) + Sync),
}

/// The caller of a step and the threads that help it: a pool that nobody else uses, since a thread more than there are cores, and be
/// it only looking for work, takes a core from those who have it.
#[derive(Debug)]
pub struct Crew {
    helpers: Option<Threads>,
}

impl Crew {
    /// As many threads as the current pool has, 16 at most, the caller included; only the caller where no thread can be had.
    pub fn of_current_pool() -> Self {
        let helpers = rayon::current_num_threads().clamp(1, THREADS_MAX) - 1;
        Self { helpers: (helpers > 0).then(|| Threads::start(helpers, "decode")).and_then(Result::ok) }
    }

    /// Threads, the caller included.
    pub(super) fn threads(&self) -> usize {
        1 + self.helpers.as_ref().map_or(0, Threads::count)
    }

    /// Calls `work` once for each thread, at once where they all come in time.
    pub fn share(&self, work: &(dyn Fn() + Sync)) {
        self.run(self.threads(), 1, &|_, _| work());
    }

    /// Calls `work(phase, part)` once for each of `parts` parts of each of `phases` phases. No part of a phase begins before all parts of
    /// the phase before are done.
    ///
    /// Part i tends to be on the same thread in every phase, which finds what it wrote in its own cache.
    pub(super) fn run(&self, parts: usize, phases: usize, work: &(dyn Fn(usize, usize) + Sync)) {
        let alone = |_| Alone(AtomicUsize::new(0));
        let team = Team { begun: (0..parts).map(alone).collect(), done: alone(0), present: alone(0), phases, work };
        match &self.helpers {
            Some(helpers) if parts > 1 => helpers.pool().in_place_scope(|scope| {
                for me in 1..parts {
                    let team = &team;
                    scope.spawn(move |_| team.walk(me));
                }
                team.walk(0);
            }),
            _ => team.walk(0),
        }
    }
}

impl Team<'_> {
    /// Takes part `me` of every phase, and others where they are left over.
    fn walk(&self, me: usize) {
        let parts = self.begun.len();
        self.present.0.fetch_add(1, Relaxed);
        for phase in 0..self.phases {
            self.take(phase, me);
            let all = (phase + 1) * parts;
            let mut looks = 0;
            while self.done.0.load(Acquire) < all {
                let may_help = looks >= LOOKS_BEFORE_HELPING || self.present.0.load(Relaxed) < parts;
                let helped = may_help && (0..parts).any(|part| part != me && self.take(phase, part));
                looks = if helped { 0 } else { looks + 1 };
                if looks < LOOKS_BEFORE_YIELDING { std::hint::spin_loop() } else { std::thread::yield_now() }
            }
        }
    }

    /// Does a part unless somebody has begun it.
    fn take(&self, phase: usize, part: usize) -> bool {
        let begun = &self.begun[part].0;
        // Acquire and release go through `done`; this only gives the part to one.
        if begun.load(Relaxed) != phase || begun.compare_exchange(phase, phase + 1, Relaxed, Relaxed).is_err() {
            return false;
        }
        let _done = Done(&self.done.0);
        (self.work)(phase, part);
        true
    }
}

/// Counts a part as done, also when it panics: the others go on, and the panic comes out of the scope.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;

    fn crew(threads: usize) -> Crew {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(Crew::of_current_pool)
    }

    #[test]
    fn every_part_is_done_once_and_after_the_phase_before() {
        for (threads, parts) in [(1, 1), (1, 4), (2, 2), (2, 3), (4, 3), (7, 7)] {
            let crew = crew(threads);
            assert_eq!(crew.threads(), threads);
            let counts: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
            let seen: Vec<AtomicUsize> = (0..50 * parts).map(|_| AtomicUsize::new(0)).collect();
            crew.run(parts, 50, &|phase, part| {
                assert!(phase == 0 || counts[phase - 1].load(SeqCst) == parts);
                if (phase + part) % 5 == 0 {
                    std::thread::sleep(std::time::Duration::from_micros(50));
                }
                seen[phase * parts + part].fetch_add(1, SeqCst);
                counts[phase].fetch_add(1, SeqCst);
            });
            assert!(seen.iter().all(|n| n.load(SeqCst) == 1));
        }
    }

    #[test]
    fn a_panic_of_a_part_comes_out_and_the_crew_goes_on() {
        let crew = crew(3);
        let run = || crew.run(3, 4, &|phase, part| assert!((phase, part) != (2, 1), "as it should"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
        let count = AtomicUsize::new(0);
        crew.run(3, 4, &|_, _| {
            count.fetch_add(1, SeqCst);
        });
        assert_eq!(count.load(SeqCst), 12);
    }
}
