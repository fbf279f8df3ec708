//! A few flows of a side, packet by packet.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wiremamba_model::flow::Direction;

use crate::view::View;

/// Flows that are drawn of a side.
const FLOWS: usize = 8;
/// Flows of fewer packets say little in a picture.
const PACKETS_MIN: usize = 4;
/// Packets of a flow that are drawn.
const PACKETS_MAX: usize = 200;

/// A packet in the picture of its flow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Packet {
    /// Seconds since the first of the flow.
    pub seconds: f64,
    /// Who sent it.
    pub direction: Direction,
    /// Bytes on the wire.
    pub len: u32,
}

/// A flow in the picture.
#[derive(Debug, Clone, PartialEq)]
pub struct TimelineFlow {
    /// IP protocol number and service port.
    pub service: (u8, u16),
    /// Packets of the flow, also those that are not drawn.
    pub packets_total: usize,
    /// The first packets.
    pub packets: Vec<Packet>,
}

/// Flows drawn by chance: those with the smallest lots.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample(BTreeMap<(u64, usize), TimelineFlow>);

impl Sample {
    pub(super) fn flow(&mut self, number: usize, views: &[(Direction, View<'_>)]) {
        let lot = ChaCha8Rng::seed_from_u64(number as u64).random();
        let is_late = self.0.len() == FLOWS && self.0.last_key_value().is_some_and(|(key, _)| *key < (lot, number));
        let Some(tuple) = views.first().and_then(|(_, view)| view.tuple) else { return };
        if views.len() < PACKETS_MIN || is_late {
            return;
        }
        let start = views[0].1.ts();
        let packet = |(direction, view): &(Direction, View<'_>)| Packet {
            seconds: view.ts().nanos_since(start) as f64 * 1e-9,
            direction: *direction,
            len: view.packet.len,
        };
        let packets = views.iter().take(PACKETS_MAX).map(packet).collect();
        let flow = TimelineFlow { service: (tuple.protocol, tuple.resp_port), packets_total: views.len(), packets };
        self.0.insert((lot, number), flow);
        self.shrink();
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
        self.shrink();
    }

    pub(super) fn flows(self) -> Vec<TimelineFlow> {
        self.0.into_values().collect()
    }

    fn shrink(&mut self) {
        while self.0.len() > FLOWS {
            self.0.pop_last();
        }
    }
}
