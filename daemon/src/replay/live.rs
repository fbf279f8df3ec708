//! A pace that somebody else may change while packets are sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Pace, ReplayError};

/// A pace, shared between the job that sends and whoever changes it. A clone is the same pace.
#[derive(Debug, Clone)]
pub struct LivePace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pace: Mutex<Pace>,
    changes: AtomicU64,
}

impl LivePace {
    /// Begins with `pace`.
    pub fn new(pace: Pace) -> Self {
        Self(Arc::new(Inner { pace: Mutex::new(pace), changes: AtomicU64::new(0) }))
    }

    /// The pace as it is.
    pub fn get(&self) -> Pace {
        self.0.pace.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another pace, from the next packet on: one that is being waited for is sent at its time.
    ///
    /// # Errors
    /// It is none; nothing has changed.
    pub fn set(&self, pace: Pace) -> Result<(), ReplayError> {
        pace.check()?;
        *self.0.pace.lock().unwrap_or_else(PoisonError::into_inner) = pace;
        self.0.changes.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// How often it was changed.
    pub(super) fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }
}

impl PartialEq for LivePace {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
