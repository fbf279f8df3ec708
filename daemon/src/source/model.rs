//! Packets fresh from a model, on one time line.

use std::sync::{Arc, Mutex, PoisonError};

use wiremamba_model::generate::{Arrivals, GeneratedFlow, Generator, GeneratorCounters, Timeline};

use super::{Next, PacketSource, SourceError};

/// Where the flows come from, in the order of their starts.
pub type NextFlow = Box<dyn FnMut() -> Option<GeneratedFlow> + Send>;

/// Packets of generated flows in the order of their times. Memory does not grow with the number of flows.
pub struct ModelSource {
    timeline: Timeline<NextFlow>,
    counters: Arc<Mutex<GeneratorCounters>>,
    /// Packets still to be given; `None` for as many as there are.
    left: Option<u64>,
}

impl std::fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelSource").field("left", &self.left).finish_non_exhaustive()
    }
}

impl ModelSource {
    /// The packets of `generator`, whose flows were asked for at the times of `arrivals`; at most `packets_max` of them.
    pub fn new(mut generator: Generator, arrivals: Arrivals, packets_max: Option<u64>) -> Self {
        let counters = Arc::new(Mutex::new(GeneratorCounters::default()));
        let shared = Arc::clone(&counters);
        let next_flow: NextFlow = Box::new(move || {
            let flow = generator.next_flow();
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = generator.counters();
            flow
        });
        Self { counters, ..Self::of_flows(next_flow, arrivals, packets_max) }
    }

    /// The packets of the flows that `next_flow` gives; its counters stay zero.
    pub fn of_flows(next_flow: NextFlow, arrivals: Arrivals, packets_max: Option<u64>) -> Self {
        let timeline = Timeline::new(next_flow, arrivals, Timeline::<NextFlow>::HELD_PACKETS_MAX);
        Self { timeline, counters: Arc::default(), left: packets_max }
    }

    /// What the generator did so far; it works ahead of the packets given out.
    pub fn counters(&self) -> GeneratorCounters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PacketSource for ModelSource {
    fn next_packet(&mut self) -> Result<Next, SourceError> {
        if self.left == Some(0) {
            return Ok(Next::End);
        }
        let Some(next) = self.timeline.next() else { return Ok(Next::End) };
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        Ok(Next::Packet(next.packet))
    }
}
