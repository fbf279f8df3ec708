//! Bounded samples of flows that depend on the flows and the seed alone, not on the order in which flows come or on
//! how they were shared out.

use std::collections::BTreeMap;

use wiremamba_model::flow::{Direction, Flow};

use super::features::FlowFeatures;

/// Flows kept per side and label.
pub const FLOWS_MAX: usize = 4_000;
/// Packets of a flow, and bytes of each, that its key is made of.
const KEY_PACKETS: usize = 4;
const KEY_BYTES: usize = 96;

/// Flows of one side by label, at most [`FLOWS_MAX`] each: those with the smallest keys, where a key is a hash of seed
/// and flow. That is a uniform sample (the "bottom-k" of Cohen and Kaplan 2007).
#[derive(Debug, Clone)]
pub(super) struct Sample {
    seed: u64,
    labels: BTreeMap<usize, Label>,
}

#[derive(Debug, Clone, Default)]
struct Label {
    seen: u64,
    /// By key; the second number parts flows whose keys are the same.
    flows: BTreeMap<(u64, u64), FlowFeatures>,
}

impl Label {
    fn keep(&mut self, key: u64, features: FlowFeatures) {
        let twins = self.flows.range((key, 0)..=(key, u64::MAX)).next_back().map_or(0, |((_, n), _)| n + 1);
        self.flows.insert((key, twins), features);
        if self.flows.len() > FLOWS_MAX {
            self.flows.pop_last();
        }
    }
}

impl Sample {
    /// An empty sample.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, labels: BTreeMap::new() }
    }

    /// Considers a flow.
    pub(super) fn flow(&mut self, label: usize, flow: &Flow) {
        let key = key(self.seed, flow);
        let label = self.labels.entry(label).or_default();
        label.seen += 1;
        let full = label.flows.len() == FLOWS_MAX;
        if !full || label.flows.last_key_value().is_some_and(|(last, _)| key < last.0) {
            label.keep(key, FlowFeatures::of(flow));
        }
    }

    /// Takes in the flows of another sample with the same seed.
    pub(super) fn merge(&mut self, other: Self) {
        for (name, theirs) in other.labels {
            let ours = self.labels.entry(name).or_default();
            ours.seen += theirs.seen;
            for ((key, _), features) in theirs.flows {
                ours.keep(key, features);
            }
        }
    }

    /// The labels that have flows.
    pub(super) fn labels(&self) -> impl Iterator<Item = usize> {
        self.labels.keys().copied()
    }

    /// The flows kept of a label, in random order.
    pub(super) fn of(&self, label: usize) -> Vec<&FlowFeatures> {
        self.labels.get(&label).map(|l| l.flows.values().collect()).unwrap_or_default()
    }

    /// How many flows came by.
    pub(super) fn seen(&self) -> u64 {
        self.labels.values().map(|l| l.seen).sum()
    }

    /// How many of them are kept.
    pub(super) fn kept(&self) -> usize {
        self.labels.values().map(|l| l.flows.len()).sum()
    }
}

/// A hash of the flow: its ends, packet count, times and the beginnings of its first packets.
fn key(seed: u64, flow: &Flow) -> u64 {
    let mut hash = mix(seed, flow.packets.len() as u64);
    for (direction, packet) in flow.packets.iter().take(KEY_PACKETS) {
        hash = mix(hash, u64::from(*direction == Direction::Orig));
        hash = mix(hash, packet.ts.0 as u64);
        for bytes in packet.data[..packet.data.len().min(KEY_BYTES)].chunks(8) {
            hash = bytes.iter().fold(hash.rotate_left(1), |word, byte| word.rotate_left(8) ^ u64::from(*byte));
            hash = mix(hash, bytes.len() as u64);
        }
    }
    mix(hash, flow.wire_bytes())
}

/// Mixes two numbers into one that looks random (the finaliser of SplitMix64, Steele et al. 2014): a key, or the seed
/// of one of several generators.
pub(super) fn mix(seed: u64, salt: u64) -> u64 {
    let mut x = seed ^ salt.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
