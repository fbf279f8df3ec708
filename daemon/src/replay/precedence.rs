//! Who gives way to whom on a processor that the sender shares.
//!
//! Whoever wakes may take the processor from the one that runs. Often that is the sender's: the kernel likes to run a thread
//! where it was woken, and the sender wakes those who wait for its packets. A reader of the interface that takes a block of
//! packets then holds the sender up for a quarter of a millisecond. So the sender is as little nice as a thread can be
//! (`sched(7)`, `setpriority(2)`), and the source, which this program may always ask, never interrupts anybody.

use std::io;
use std::thread::available_parallelism;

use crate::sys;

/// The least nice, before which others have to wait.
const FIRST: i32 = -20;

/// While it lives, the thread that made it goes before others on its processor.
#[derive(Debug)]
pub(super) struct Precedence {
    nice_before: i32,
}

impl Precedence {
    /// Lets the calling thread go first; `None`, and a word in the log, where it may not. On a single processor it never does:
    /// the source would starve.
    pub(super) fn take() -> Option<Self> {
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

/// From now on the calling thread, and those that it starts, interrupt nobody when they wake.
pub(super) fn give_way() {
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
