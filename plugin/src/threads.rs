//! Threads that compute for one source, and are gone with it.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// A pool of threads, ended and waited for when dropped: a host may unload what they run, or fork.
pub(crate) struct Threads {
    pool: Option<ThreadPool>,
    handles: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Threads {
    /// As many threads as rayon would start: one for each core, or `RAYON_NUM_THREADS`.
    pub(crate) fn new() -> Result<Self, ThreadPoolBuildError> {
        let handles: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let started = Arc::clone(&handles);
        let pool = ThreadPoolBuilder::new()
            .spawn_handler(move |thread| {
                let name = format!("wiremamba-{}", thread.index());
                let handle = std::thread::Builder::new().name(name).spawn(|| thread.run())?;
                started.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
                Ok(())
            })
            .build()?;
        Ok(Self { pool: Some(pool), handles })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.pool.as_ref().map_or(0, ThreadPool::current_num_threads)
    }

    /// Runs `work` in one of them, and what it does in parallel in all of them.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.as_ref().expect("it is there until it is dropped").install(work)
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
