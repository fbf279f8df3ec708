//! What other threads may ask of a source while it works.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use wiremamba_abi::SourceStats;

/// A flag and counters, none of which waits for anybody.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    interrupted: AtomicBool,
    packets: AtomicU64,
    bytes: AtomicU64,
    flows: AtomicU64,
    malformed: AtomicU64,
}

impl Watch {
    /// Async-signal-safe.
    pub(crate) fn interrupt(&self) {
        self.interrupted.store(true, Relaxed);
    }

    /// Whether it was interrupted; an interruption is told once.
    pub(crate) fn take_interruption(&self) -> bool {
        self.interrupted.load(Relaxed) && self.interrupted.swap(false, Relaxed)
    }

    pub(crate) fn count_packet(&self, bytes: usize) {
        self.packets.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn generated(&self, flows: u64, malformed: u64) {
        self.flows.store(flows, Relaxed);
        self.malformed.store(malformed, Relaxed);
    }

    pub(crate) fn stats(&self) -> SourceStats {
        SourceStats {
            packets: self.packets.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            flows: self.flows.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
        }
    }

    pub(crate) fn reset(&self) {
        [&self.packets, &self.bytes, &self.flows, &self.malformed].iter().for_each(|count| count.store(0, Relaxed));
    }
}
