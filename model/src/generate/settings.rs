//! How flows are generated: how many at once, with which chance, and where they end at the latest.

use serde::{Deserialize, Serialize};

use super::sampling::Sampling;
use crate::codec::{Codec, LabelId};
use crate::train::ConfigError;
use crate::train::config::require;

/// Packets of a flow at most where nothing else is asked for, and how many times as long as the longest one that was learned it can
/// be: one in many is longer than all that were seen, but what goes on beyond that has lost its end.
const PACKETS_MAX: usize = 10_000;
const LONGEST_TIMES: usize = 2;

/// Settings of a [`Generator`](super::Generator).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateOptions {
    /// Flows decoded in one batch. 1 to 65,536, default 16.
    pub streams: usize,
    /// Seed of all chance. Default 0.
    pub seed: u64,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Tokens of a flow, prompt included. At least 2, default 50,000 (as training cuts samples).
    pub tokens_max: usize,
    /// Packets of a flow, prompt included, at least 1. By default twice as many as the longest flow of the label that was learned,
    /// where that is known, and 10,000 at most.
    pub packets_max: Option<usize>,
    /// Only what the codec's grammar allows is drawn, where it has one. Default true.
    pub mask: bool,
    /// Flows begun and not taken out, for each stream: a long flow keeps later ones waiting for their turn, and streams idle where no
    /// more may begin. 2 to 1,024, default 2.
    pub ahead: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            streams: 16,
            seed: 0,
            sampling: Sampling::default(),
            tokens_max: 50_000,
            packets_max: None,
            mask: true,
            ahead: 2,
        }
    }
}

impl GenerateOptions {
    /// Checks every range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let s = &self.sampling;
        require((1..=65_536).contains(&self.streams), "streams", self.streams, "1 to 65536")?;
        require((0.0..=100.0).contains(&s.temperature), "temperature", s.temperature, "0 to 100")?;
        require(s.top_p > 0.0 && s.top_p <= 1.0, "top_p", s.top_p, "above 0, at most 1")?;
        require((2..=1024).contains(&self.ahead), "ahead", self.ahead, "2 to 1024")?;
        require(self.tokens_max >= 2, "tokens_max", self.tokens_max, "at least 2")?;
        require(self.packets_max != Some(0), "packets_max", 0, "at least 1")
    }

    /// Packets that a flow of `label` has at most.
    pub(super) fn flow_packets_max(&self, codec: &dyn Codec, label: LabelId) -> usize {
        self.packets_max.unwrap_or_else(|| {
            let longest = codec.longest(label).and_then(|packets| usize::try_from(packets).ok());
            longest.map_or(PACKETS_MAX, |packets| packets.saturating_mul(LONGEST_TIMES).clamp(1, PACKETS_MAX))
        })
    }
}
