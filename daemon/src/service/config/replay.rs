//! `[replay]`: a tap, and what is generated onto it.

use std::collections::BTreeMap;

use serde::Deserialize;
use wiremamba_model::device::Device;
use wiremamba_model::engine::Precision;

use super::{OutOfRange, within};

/// A tap, and what is generated onto it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayConfig {
    /// Name of the tap; made if absent.
    pub tap: String,
    /// Its MTU; as it is by default.
    pub mtu: Option<u32>,
    /// Labels and their weights; all labels in turn by default.
    #[serde(default)]
    pub mix: BTreeMap<String, u32>,
    /// New flows a second, on average.
    #[serde(default = "one")]
    pub flows_per_second: f64,
    /// How much faster than generated.
    #[serde(default = "one")]
    pub multiplier: f64,
    /// Flows that are decoded at once.
    #[serde(default = "streams")]
    pub streams: usize,
    /// Below 1 more usual, above 1 more unusual tokens.
    #[serde(default = "temperature")]
    pub temperature: f32,
    /// Where to generate: auto, cpu or cuda:N; by default where the service learns.
    pub device: Option<Device>,
    /// How the weights are held: auto, f32, bf16 or int8.
    #[serde(default)]
    pub precision: AskedPrecision,
    /// Most packets of a flow.
    #[serde(default = "flow_packets_max")]
    pub flow_packets_max: usize,
    /// Seed of all chance.
    #[serde(default)]
    pub seed: u64,
    /// Whether it begins by itself.
    #[serde(default = "yes")]
    pub start: bool,
}

fn one() -> f64 {
    1.0
}

fn streams() -> usize {
    16
}

fn temperature() -> f32 {
    1.0
}

fn flow_packets_max() -> usize {
    1000
}

fn yes() -> bool {
    true
}

/// A precision, or `None` for what suits the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct AskedPrecision(pub Option<Precision>);

impl TryFrom<String> for AskedPrecision {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Precision::or_auto(&name).map(Self)
    }
}

impl ReplayConfig {
    pub(super) fn check(&self) -> Result<(), OutOfRange> {
        let (flows, faster, warmth) = (self.flows_per_second, self.multiplier, self.temperature);
        within((1e-3..=1e6).contains(&flows), "replay.flows_per_second", flows, "0.001 to 1000000")?;
        within((1e-3..=1e6).contains(&faster), "replay.multiplier", faster, "0.001 to 1000000")?;
        within((1..=4096).contains(&self.streams), "replay.streams", self.streams, "1 to 4096")?;
        within(self.flow_packets_max > 0, "replay.flow_packets_max", 0, "at least 1")?;
        within((0.0..=100.0).contains(&warmth), "replay.temperature", warmth, "0 to 100")?;
        let are_weights = self.mix.values().all(|weight| (1..=1_000_000).contains(weight));
        within(are_weights, "replay.mix", "a weight outside", "whole weights from 1 to 1000000")
    }
}
