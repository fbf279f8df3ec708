//! Threads that compute for one owner, and are gone with it.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// A pool of threads, ended and waited for when dropped: a host may unload what they run, or fork.
#[derive(Debug)]
pub struct Threads {
    pool: Option<ThreadPool>,
    handles: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Threads {
    /// Starts `count` threads, which are called `name` and a number; for 0 as many as rayon would: one for each core, or
    /// `RAYON_NUM_THREADS`.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(count: usize, name: &'static str) -> Result<Self, ThreadPoolBuildError> {
        let handles: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let started = Arc::clone(&handles);
        let pool = ThreadPoolBuilder::new()
            .num_threads(count)
            .spawn_handler(move |thread| {
                let name = format!("{name}-{}", thread.index());
                let handle = std::thread::Builder::new().name(name).spawn(|| thread.run())?;
                started.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
                Ok(())
            })
            .build()?;
        Ok(Self { pool: Some(pool), handles })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.pool().current_num_threads()
    }

    /// The pool that they are.
    ///
    /// # Panics
    /// Never: it is there until this is dropped.
    pub fn pool(&self) -> &ThreadPool {
        self.pool.as_ref().expect("it is there until it is dropped")
    }

    /// Runs `work` in one of them, and what it does in parallel in all of them.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool().install(work)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Tells the threads to end.
        drop(self.pool.take());
        for handle in self.handles.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    static ALIVE: AtomicUsize = AtomicUsize::new(0);

    /// Counts the threads that have one; the last thing that a thread does is to drop it.
    struct Alive;

    impl Drop for Alive {
        fn drop(&mut self) {
            std::thread::sleep(std::time::Duration::from_millis(2));
            ALIVE.fetch_sub(1, SeqCst);
        }
    }

    thread_local! {
        static MINE: Alive = {
            ALIVE.fetch_add(1, SeqCst);
            Alive
        };
    }

    #[test]
    fn they_are_gone_when_it_is_dropped() {
        for _ in 0..20 {
            let threads = Threads::start(3, "soon-gone").unwrap();
            threads.pool().broadcast(|_| MINE.with(|_| {}));
            assert_eq!((threads.count(), ALIVE.load(SeqCst)), (3, 3));
            drop(threads);
            assert_eq!(ALIVE.load(SeqCst), 0);
        }
    }
}
