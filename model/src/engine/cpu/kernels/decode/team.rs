//! A few threads that walk through the phases of a step together.
//!
//! A step has a hundred phases of microseconds each: handing each of them to rayon costs more than the phases. So the helpers
//! join once a step, and a phase ends when all its parts are done, which is one counter to spin on. A helper that comes late, or not
//! at all, holds nobody up: whoever waits takes over a part that nobody has begun.

use std::sync::atomic::{AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// Looks at the counter before parts of others may be taken over, and before the thread offers its core to others.
const LOOKS_BEFORE_HELPING: usize = 200;
const LOOKS_BEFORE_YIELDING: usize = 20_000;

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

/// Calls `work(phase, part)` once for each of `parts` parts of each of `phases` phases, on as many threads at most. No part of a
/// phase begins before all parts of the phase before are done.
///
/// Part i tends to be on the same thread in every phase, which finds what it wrote in its own cache.
pub(super) fn run(parts: usize, phases: usize, work: &(dyn Fn(usize, usize) + Sync)) {
    if parts <= 1 {
        (0..phases).for_each(|phase| work(phase, 0));
        return;
    }
    let alone = |_| Alone(AtomicUsize::new(0));
    let team = Team { begun: (0..parts).map(alone).collect(), done: alone(0), present: alone(0), phases, work };
    rayon::in_place_scope(|scope| {
        for me in 1..parts {
            let team = &team;
            scope.spawn(move |_| team.walk(me));
        }
        team.walk(0);
    });
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

    #[test]
    fn every_part_is_done_once_and_after_the_phase_before() {
        for parts in [1, 2, 3, 7] {
            let counts: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
            let seen: Vec<AtomicUsize> = (0..50 * parts).map(|_| AtomicUsize::new(0)).collect();
            run(parts, 50, &|phase, part| {
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
    fn it_works_where_no_helper_ever_comes() {
        // One thread, which is busy with the caller itself.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let count = AtomicUsize::new(0);
        pool.install(|| {
            run(4, 10, &|_, _| {
                count.fetch_add(1, SeqCst);
            });
        });
        assert_eq!(count.load(SeqCst), 40);
    }
}
