//! What a report draws: distributions, quantiles, flows over time, and where in the packet the sides differ.

mod distributions;
mod heat;
mod timelines;

use std::sync::Arc;

use super::evaluation::BothSides;
use super::halves::Halves;
use super::timing;
use super::view::View;
use wiremamba_model::flow::Direction;

pub use distributions::{Histogram, Quantiles};
pub use heat::{BYTES, Map, POSITIONS, Row};
pub use timelines::{Packet, TimelineFlow};

/// The accumulator of one side: what no other group keeps.
#[derive(Debug, Clone)]
pub(crate) struct Side {
    bytes: heat::Side,
    flows: timelines::Sample,
}

impl Side {
    pub(crate) fn new(halves: Arc<Halves>, is_real: bool) -> Self {
        Self { bytes: heat::Side::new(halves, is_real), flows: timelines::Sample::default() }
    }

    /// The flow of this number.
    pub(crate) fn flow(&mut self, number: usize, views: &[(Direction, View<'_>)]) {
        self.bytes.flow(number, views);
        self.flows.flow(number, views);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.bytes.merge(&other.bytes);
        self.flows.merge(other.flows);
    }
}

/// What there is to draw.
#[derive(Debug, Clone, PartialEq)]
pub struct Pictures {
    /// Real over synthetic, by kind of [`mod@super::timing`].
    pub histograms: Vec<Histogram>,
    /// Synthetic against real quantiles of the gaps.
    pub quantiles: Vec<Quantiles>,
    /// Some flows of each side, drawn by chance.
    pub flows: BothSides<Vec<TimelineFlow>>,
    /// Synthetic against half of the real flows: how far the values of each byte are apart.
    pub bytes: Map,
    /// The other real half against the same: what chance makes of it.
    pub bytes_floor: Map,
}

/// What two sides look like. The timing of both is sorted.
pub(crate) fn pictures(real: Side, synthetic: Side, times: Option<(&timing::Side, &timing::Side)>) -> Pictures {
    let (histograms, quantiles) = times.map(|(r, s)| distributions::of(r, s)).unwrap_or_default();
    let (bytes, bytes_floor) = heat::maps(&real.bytes, &synthetic.bytes);
    let flows = BothSides { real: real.flows.flows(), synthetic: synthetic.flows.flows() };
    Pictures { histograms, quantiles, flows, bytes, bytes_floor }
}
