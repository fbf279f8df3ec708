//! Trivial generators: the traffic that a model has to beat.
//!
//! Each takes real flows and packets and gives synthetic packets, without learning more than frequencies. `random`,
//! `shuffle` and `independent-bits` know frames only and ignore flows; `markov` and `bootstrap` make whole flows. All
//! chance comes from one seed, and what cannot be used is counted. Who reads and writes captures is not here.

mod bootstrap;
mod frames;
mod markov;
mod readdress;
#[cfg(test)]
mod tests;
mod timeline;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use wiremamba_model::flow::Flow;
use wiremamba_model::packet::{Packet, Timestamp};
use wiremamba_model::wire::plan::Plan;

/// A trivial way to make traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// Uniform bytes in frames of real lengths at real times: the worst score that makes sense.
    Random,
    /// The real packets, permuted over the real times: right in every single packet, wrong in all order.
    Shuffle,
    /// Every header bit drawn on its own from its frequency at that place: right in every column, wrong in all else.
    IndependentBits,
    /// A chain of order 2 over direction, flags (or protocol) and payload size: new traffic with a short memory.
    Markov,
    /// Real flows drawn with replacement, between new hosts: as real as can be, and copied.
    Bootstrap,
}

impl Baseline {
    /// All of them, the least real first.
    pub const ALL: [Self; 5] = [Self::Random, Self::Shuffle, Self::IndependentBits, Self::Markov, Self::Bootstrap];

    /// Whether it makes flows; the others make packets, and [`Options::flows`] means nothing to them.
    pub fn makes_flows(self) -> bool {
        matches!(self, Self::Markov | Self::Bootstrap)
    }
}

impl std::fmt::Display for Baseline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::Shuffle => "shuffle",
            Self::IndependentBits => "independent-bits",
            Self::Markov => "markov",
            Self::Bootstrap => "bootstrap",
        })
    }
}

/// How much to make, and who it is between.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Flows to make. Where neither this nor `packets` is given, as many as there are real ones that can be used.
    pub flows: Option<usize>,
    /// Packets to make at most; the earliest are kept. `random` and `shuffle` have no more than the real ones.
    pub packets: Option<usize>,
    /// Captured bytes to make at most, plus one flow. Default 8 GiB.
    pub bytes_max: u64,
    /// Same seed and input, same packets. Default 1.
    pub seed: u64,
    /// Time of the first packet, except for `random` and `shuffle`, which keep the real times.
    pub start: Timestamp,
    /// Networks and link addresses of `markov` and `bootstrap`.
    pub plan: Plan,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            flows: None,
            packets: None,
            bytes_max: 8 << 30,
            seed: 1,
            start: Timestamp::from_parts(1_700_000_000, 0),
            plan: Plan::default(),
        }
    }
}

/// What was made, and of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counters {
    /// Flows made; 0 for a baseline that makes packets.
    pub flows: u64,
    /// Flows that were ended because they reached the most packets of a flow (a chain may go in circles).
    pub flows_cut: u64,
    /// Real flows of which no packet could be used.
    pub flows_left_out: u64,
    /// Real packets that could not be used, those of such flows included.
    pub packets_left_out: u64,
    /// Whether [`Options::bytes_max`] ended it.
    pub bytes_max_reached: bool,
}

/// Synthetic traffic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Generated {
    /// The packets, all of one link type. In the order of their times, but where packets of one real flow were captured
    /// out of order, they are so again.
    pub packets: Vec<Packet>,
    /// What was met on the way.
    pub counters: Counters,
}

/// There is no real traffic that the baseline could be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NothingUsable {
    /// The baseline.
    pub baseline: Baseline,
    /// Real packets that were given.
    pub packets: u64,
}

impl std::fmt::Display for NothingUsable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { baseline, packets } = self;
        let need = match baseline {
            Baseline::Random | Baseline::Shuffle | Baseline::IndependentBits => "packets",
            Baseline::Markov => "flows of TCP, UDP or ICMP",
            Baseline::Bootstrap => "flows over IP",
        };
        match packets {
            0 => write!(f, "{baseline} is made of real {need}, and there is no packet"),
            1 => write!(f, "{baseline} is made of real {need}, and the only packet is of no use for it"),
            n => write!(f, "{baseline} is made of real {need}, and none of {n} packets is of use for it"),
        }
    }
}

impl std::error::Error for NothingUsable {}

/// Makes traffic out of real flows and `strays`, the packets that belong to none.
///
/// `flows` and `strays` are expected as they were captured, one capture after another: what lies more than an hour apart,
/// or goes back in time, counts as another capture, and the gap between them as none.
///
/// # Errors
/// [`NothingUsable`] for no packets, or none of the kind that the baseline needs.
pub fn generate(
    baseline: Baseline,
    flows: &[Flow],
    strays: &[Packet],
    options: &Options,
) -> Result<Generated, NothingUsable> {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let made = match baseline {
        Baseline::Random => frames::random(&in_time_order(flows, strays), options, &mut rng),
        Baseline::Shuffle => frames::shuffle(&in_time_order(flows, strays), options, &mut rng),
        Baseline::IndependentBits => frames::independent_bits(&in_time_order(flows, strays), options, &mut rng),
        Baseline::Markov => markov::generate(flows, options, &mut rng),
        Baseline::Bootstrap => bootstrap::generate(flows, options, &mut rng),
    };
    let real = flows.iter().map(|f| f.packets.len()).sum::<usize>() + strays.len();
    let mut made = made.ok_or(NothingUsable { baseline, packets: real as u64 })?;
    if baseline.makes_flows() {
        made.counters.packets_left_out += strays.len() as u64;
    }
    Ok(made)
}

/// All packets by their times; those of one time as they were given.
fn in_time_order<'a>(flows: &'a [Flow], strays: &'a [Packet]) -> Vec<&'a Packet> {
    let mut packets: Vec<&Packet> = flows.iter().flat_map(|f| f.packets.iter().map(|(_, p)| p)).chain(strays).collect();
    packets.sort_by_key(|p| p.ts);
    packets
}
