//! Who gives way to whom on a processor that the sender shares, and where the sender stays.
//!
//! Whoever wakes may take the processor from the one that runs. Often that is the sender's: the kernel likes to run a thread
//! where it was woken, and the sender wakes those who wait for its packets. A reader of the interface that takes a block of
//! packets then holds the sender up for a quarter of a millisecond. So the sender is as little nice as a thread can be
//! (`sched(7)`, `setpriority(2)`), and the source, which this program may always ask, never interrupts anybody.
//! Who reads what a device lets through comes between the two, so that the device is not taken to be slow for it.

use std::io;
use std::thread::available_parallelism;

use nix::sched::CpuSet;

use super as sys;

/// The least nice, before which others have to wait.
const FIRST: i32 = -20;
/// Before programs of the usual kind, and not before [`FIRST`].
const SECOND: i32 = -10;

/// While it lives, the thread that made it goes before others on its processor.
#[derive(Debug)]
pub(crate) struct Precedence {
    nice_before: i32,
}

impl Precedence {
    /// Lets the calling thread go first; `None`, and a word in the log, where it may not. On a single processor it never does:
    /// the source would starve.
    pub(crate) fn take() -> Option<Self> {
        if available_parallelism().is_ok_and(|n| n.get() == 1) {
            return None;
        }
        let taken = || -> io::Result<Self> {
            let nice_before = sys::thread_nice()?;
            sys::set_thread_nice(FIRST)?;
            Ok(Self { nice_before })
        };
        taken()
            .inspect_err(|error| tracing::debug!(%error, "the sender goes before nobody: others may interrupt it"))
            .ok()
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        // It was so before, and to be nicer needs no permission.
        let _ = sys::set_thread_nice(self.nice_before);
    }
}

/// From now on the calling thread goes before those of other programs, where it may.
pub(crate) fn come_second() {
    if let Err(error) = sys::set_thread_nice(SECOND) {
        tracing::debug!(%error, "other programs may hold up who reads behind the device");
    }
}

/// While it lives, the thread that made it stays on one processor.
///
/// A kernel that routes or bridges has a queue for each processor: what a thread sends after it was moved to another one can
/// overtake what it sent before, and the device would be blamed for it.
#[derive(Debug)]
pub(crate) struct OneProcessor {
    before: CpuSet,
}

impl OneProcessor {
    /// Keeps the calling thread where it is; `None`, and a word in the log, where that is not allowed.
    pub(crate) fn keep() -> Option<Self> {
        let kept = sys::thread_processors().and_then(|before| sys::stay_on_processor().map(|()| Self { before }));
        kept.inspect_err(|error| tracing::debug!(%error, "the sender may be moved to another processor")).ok()
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        // It was so before.
        let _ = sys::set_thread_processors(&self.before);
    }
}

/// From now on the calling thread, and those that it starts, interrupt nobody when they wake.
pub(crate) fn give_way() {
    if let Err(error) = sys::set_thread_batch() {
        tracing::debug!(%error, "the source may interrupt the sender");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence_ends_with_its_holder() {
        let before = sys::thread_nice().unwrap();
        match Precedence::take() {
            Some(taken) => {
                assert_eq!(sys::thread_nice().unwrap(), FIRST);
                drop(taken);
            }
            None => eprintln!("skipped: this test may not be less nice, or has one processor"),
        }
        assert_eq!(sys::thread_nice().unwrap(), before);
    }

    #[test]
    fn a_thread_stays_on_one_processor_for_a_while() {
        let allowed = || {
            let set = sys::thread_processors().unwrap();
            (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap()).collect::<Vec<_>>()
        };
        let before = allowed();
        let kept = OneProcessor::keep().expect("any thread may");
        assert_eq!(allowed().len(), 1);
        drop(kept);
        assert_eq!(allowed(), before);
    }

    #[test]
    fn precedence_is_a_threads_own() {
        let before = sys::thread_nice().unwrap();
        let taken = Precedence::take();
        assert_eq!(
            std::thread::spawn(|| sys::set_thread_nice(19).and_then(|()| sys::thread_nice())).join().unwrap().unwrap(),
            19
        );
        assert_ne!(sys::thread_nice().unwrap(), 19);
        drop(taken);
        assert_eq!(sys::thread_nice().unwrap(), before);
    }
}
