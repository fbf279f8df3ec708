//! Group 1, similarity: how far the header bits and fields of two sides are apart.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use wiremamba_model::flow::Direction;
use wiremamba_model::packet::{LinkType, Packet};

use super::fields::{ATTRIBUTES, FieldCounts, IDENTITY, STRUCTURE};
use super::first_packets::FirstPackets;
use super::halves::{HALVINGS, Halves};
use super::nprint::{BitCounts, is_1088, is_tcp};
use super::stats::Distances;
use super::view::View;

/// Packets of a flow that `bit_positional` looks at.
const POSITIONS: usize = 10;
/// Frames of uniform bytes that the `random` baseline is made of, at most.
const RANDOM_MAX: u64 = 20_000;
/// Bytes of such a frame that are drawn; headers end before.
const RANDOM_BYTES: usize = 192;

/// What is counted of one set of flows.
#[derive(Debug, Clone, Default)]
struct Counted {
    pooled: BitCounts,
    /// By position in the flow and direction.
    positional: [[BitCounts; 2]; POSITIONS],
    fields: FieldCounts,
}

impl Counted {
    /// A packet of a flow.
    fn add(&mut self, position: usize, direction: Direction, view: &View<'_>) {
        self.pooled.add(view);
        if let Some(cells) = self.positional.get_mut(position) {
            cells[usize::from(direction == Direction::Resp)].add(view);
        }
        self.fields.add(direction, view);
    }

    fn add_stray(&mut self, view: &View<'_>) {
        self.pooled.add(view);
        self.fields.add(Direction::Orig, view);
    }

    fn add_flow(&mut self, views: &[(Direction, View<'_>)]) {
        views.iter().enumerate().for_each(|(position, (direction, view))| self.add(position, *direction, view));
    }

    fn merge(&mut self, other: &Self) {
        self.pooled.merge(&other.pooled);
        for (cell, more) in self.positional.iter_mut().flatten().zip(other.positional.iter().flatten()) {
            cell.merge(more);
        }
        self.fields.merge(&other.fields);
    }
}

/// The accumulator of one side.
#[derive(Debug, Clone)]
pub struct Side {
    halves: Arc<Halves>,
    is_real: bool,
    all: Counted,
    /// First and second halves of the real side; the matched samples of the synthetic side.
    first: [Counted; HALVINGS],
    second: [Counted; HALVINGS],
    random: BitCountsByPosition,
    rng: ChaCha8Rng,
}

/// A number in [0, 1) for a packet in a halving: the same in every run, whichever thread sees the packet.
fn lot(packet: &Packet, halving: usize) -> f64 {
    let mut hasher = DefaultHasher::new();
    (packet.ts.0, &packet.data, halving).hash(&mut hasher);
    (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Bits of the `random` baseline.
type BitCountsByPosition = Box<(BitCounts, [[BitCounts; 2]; POSITIONS])>;

impl Side {
    /// The real side.
    pub fn real(halves: Arc<Halves>, seed: u64) -> Self {
        Self::new(halves, true, seed)
    }

    /// The synthetic side.
    pub fn synthetic(halves: Arc<Halves>) -> Self {
        Self::new(halves, false, 0)
    }

    fn new(halves: Arc<Halves>, is_real: bool, seed: u64) -> Self {
        Self {
            halves,
            is_real,
            all: Counted::default(),
            first: Default::default(),
            second: Default::default(),
            random: Default::default(),
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// A frame of no flow. It is in as large a share of the halves and the matched samples as flows are, so that frames
    /// that cannot be read count there too.
    pub fn stray(&mut self, view: &View<'_>) {
        self.all.add_stray(view);
        let share = if self.is_real { self.halves.real_share() } else { self.halves.synthetic_share() };
        for i in 0..HALVINGS {
            let lot = lot(view.packet, i);
            if lot < share {
                self.first[i].add_stray(view);
            } else if self.is_real && lot < 2.0 * share {
                self.second[i].add_stray(view);
            }
        }
    }

    /// The flow of this number, counted from 0 in the order in which the halves were dealt.
    pub fn flow(&mut self, number: usize, views: &[(Direction, View<'_>)]) {
        self.all.add_flow(views);
        for i in 0..HALVINGS {
            if self.is_real {
                if self.halves.is_first(i, number) {
                    self.first[i].add_flow(views);
                } else if self.halves.is_second(i, number) {
                    self.second[i].add_flow(views);
                }
            } else if self.halves.is_matched(i, number) {
                self.first[i].add_flow(views);
            }
        }
        if self.is_real {
            self.add_random(views);
        }
    }

    /// Frames of uniform bytes, as long as the real ones.
    fn add_random(&mut self, views: &[(Direction, View<'_>)]) {
        let (pooled, positional) = &mut *self.random;
        for (position, (direction, view)) in views.iter().enumerate() {
            if pooled.rows() >= RANDOM_MAX {
                return;
            }
            let mut data = vec![0; view.packet.data.len().min(RANDOM_BYTES)];
            self.rng.fill_bytes(&mut data);
            let noise = Packet { ts: view.ts(), linktype: LinkType::ETHERNET, len: view.packet.len, data };
            let noise = View::new(&noise);
            pooled.add(&noise);
            if let Some(cells) = positional.get_mut(position) {
                cells[usize::from(*direction == Direction::Resp)].add(&noise);
            }
        }
    }

    /// Takes the counts of another in, which was dealt the same halves.
    pub fn merge(&mut self, other: &Self) {
        self.all.merge(&other.all);
        for (a, b) in self.first.iter_mut().chain(&mut self.second).zip(other.first.iter().chain(&other.second)) {
            a.merge(b);
        }
        self.random.0.merge(&other.random.0);
        for (a, b) in self.random.1.iter_mut().flatten().zip(other.random.1.iter().flatten()) {
            a.merge(b);
        }
    }
}

/// Means over columns or fields. `structure` and `identity` are null for baselines that are only bits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Averages {
    /// All 1,408 columns.
    pub bit_all: Distances,
    /// Without IPv6: the columns of earlier work.
    pub bit_1088: Distances,
    /// The columns of TCP.
    pub bit_tcp480: Distances,
    /// Columns that are there at least once on either side.
    pub bit_active: Distances,
    /// `bit_active` by position in the flow (0 to 9) and direction, weighted by real packets.
    pub bit_positional: Distances,
    /// Fields that are no identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structure: Option<Distances>,
    /// Fields that are; for information, never a target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Distances>,
}

/// Similarity of the synthetic to the real side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SimilarityReport {
    /// All real packets against all synthetic ones.
    #[serde(flatten)]
    pub pooled: Averages,
    /// Real against real: mean over 5 halvings of the real flows.
    pub floor: Averages,
    /// Synthetic flows against the first of these halves, as many flows on each side.
    pub matched: Averages,
    /// `matched` minus `floor`: what is owed to the generator.
    pub excess: Averages,
    /// Each header bit drawn from its own frequency in the first half, against the second.
    pub independent_bits: Averages,
    /// Frames of uniform bytes with real lengths.
    pub random: Averages,
    /// The fields behind `structure`.
    pub fields: BTreeMap<&'static str, Distances>,
    /// What earlier work compares beside bits: addresses by rank, ports, protocol, sizes.
    pub attributes: BTreeMap<&'static str, Distances>,
    /// Flows in each half and matched sample.
    pub flows_per_half: usize,
    /// Each synthetic capture against the real one that prompted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paired: Option<Paired>,
}

/// Synthetic captures against the real ones that prompted them: means over the pairs in which a figure is defined.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Paired {
    /// Pairs of captures.
    pub pairs: usize,
    /// All packets of a capture against all of the other.
    #[serde(flatten)]
    pub pooled: Averages,
    /// Halves of a real capture against each other.
    pub floor: Averages,
    /// The synthetic capture against these halves, as many flows.
    pub matched: Averages,
    /// `matched` minus `floor`.
    pub excess: Averages,
    /// The first packets, one by one.
    pub first_packets: FirstPackets,
}

/// The means over pairs; there is at least one.
pub fn paired(pairs: &[SimilarityReport], first_packets: FirstPackets) -> Paired {
    let mean = |of: fn(&SimilarityReport) -> &Averages| mean(&pairs.iter().map(|p| of(p).clone()).collect::<Vec<_>>());
    let (floor, matched) = (mean(|p| &p.floor), mean(|p| &p.matched));
    let excess = combine(&matched, &floor, Distances::minus);
    Paired { pairs: pairs.len(), pooled: mean(|p| &p.pooled), floor, matched, excess, first_packets }
}

/// Compares the two sides.
pub fn report(real: &Side, synthetic: &Side) -> SimilarityReport {
    let mean = |each: [Averages; HALVINGS]| mean(&each);
    let floor = mean(std::array::from_fn(|i| averages(&real.first[i], &real.second[i])));
    let matched = mean(std::array::from_fn(|i| averages(&real.first[i], &synthetic.first[i])));
    let by_bits = |pooled: &BitCounts, cells: &[[BitCounts; 2]; POSITIONS], real: &Counted| bits(real, pooled, cells);
    let independent_bits = mean(std::array::from_fn(|i| {
        let drawn = &real.first[i].pooled;
        let cells = std::array::from_fn(|_| [drawn.clone(), drawn.clone()]);
        by_bits(drawn, &cells, &real.second[i])
    }));
    let named = |names: &[&'static str], of: &[Distances]| names.iter().copied().zip(of.iter().copied()).collect();
    SimilarityReport {
        pooled: averages(&real.all, &synthetic.all),
        excess: combine(&matched, &floor, Distances::minus),
        floor,
        matched,
        independent_bits,
        random: by_bits(&real.random.0, &real.random.1, &real.all),
        fields: named(&STRUCTURE, &real.all.fields.structure(&synthetic.all.fields)),
        attributes: named(&ATTRIBUTES, &real.all.fields.attributes(&synthetic.all.fields)),
        flows_per_half: real.halves.size(),
        paired: None,
    }
}

fn averages(real: &Counted, synthetic: &Counted) -> Averages {
    let plain = |of: &[Distances]| Some(Distances::mean(of.iter().map(|d| (1.0, *d))));
    let mut ret = bits(real, &synthetic.pooled, &synthetic.positional);
    let is_defined = real.pooled.rows() > 0 && synthetic.pooled.rows() > 0;
    debug_assert_eq!((STRUCTURE.len(), IDENTITY.len()), (16, 9));
    ret.structure =
        if is_defined { plain(&real.fields.structure(&synthetic.fields)) } else { Some(Distances::UNDEFINED) };
    ret.identity =
        if is_defined { plain(&real.fields.identity(&synthetic.fields)) } else { Some(Distances::UNDEFINED) };
    ret
}

/// The averages over bits.
fn bits(real: &Counted, pooled: &BitCounts, positional: &[[BitCounts; 2]; POSITIONS]) -> Averages {
    if real.pooled.rows() == 0 || pooled.rows() == 0 {
        let [bit_all, bit_1088, bit_tcp480, bit_active, bit_positional] = [Distances::UNDEFINED; 5];
        return Averages { bit_all, bit_1088, bit_tcp480, bit_active, bit_positional, structure: None, identity: None };
    }
    let columns = real.pooled.distances(pooled);
    let over = |keep: &dyn Fn(usize, bool) -> bool| {
        let kept = columns.iter().enumerate().filter(|(i, (active, _))| keep(*i, *active));
        Distances::mean(kept.map(|(_, (_, d))| (1.0, *d)))
    };
    let cells = real.positional.iter().flatten().zip(positional.iter().flatten());
    let cells = cells.filter(|(real, _)| real.rows() > 0).map(|(real, synthetic)| {
        let active = real.distances(synthetic).into_iter().filter(|(active, _)| *active);
        (real.rows() as f64, Distances::mean(active.map(|(_, d)| (1.0, d))))
    });
    Averages {
        bit_all: over(&|_, _| true),
        bit_1088: over(&|i, _| is_1088(i)),
        bit_tcp480: over(&|i, _| is_tcp(i)),
        bit_active: over(&|_, active| active),
        bit_positional: Distances::mean(cells),
        structure: None,
        identity: None,
    }
}

/// The mean of those that are defined.
fn mean(each: &[Averages]) -> Averages {
    let of = |average: fn(&Averages) -> Option<Distances>| {
        let all: Vec<Distances> = each.iter().filter_map(average).collect();
        let defined = all.iter().filter(|d| !d.jsd.is_nan()).map(|d| (1.0, *d));
        (!all.is_empty()).then(|| Distances::mean(defined))
    };
    let bits = |average| of(average).unwrap_or(Distances::UNDEFINED);
    Averages {
        bit_all: bits(|a| Some(a.bit_all)),
        bit_1088: bits(|a| Some(a.bit_1088)),
        bit_tcp480: bits(|a| Some(a.bit_tcp480)),
        bit_active: bits(|a| Some(a.bit_active)),
        bit_positional: bits(|a| Some(a.bit_positional)),
        structure: of(|a| a.structure),
        identity: of(|a| a.identity),
    }
}

fn combine(a: &Averages, b: &Averages, f: impl Fn(Distances, Distances) -> Distances) -> Averages {
    let both = |a: Option<Distances>, b: Option<Distances>| Some(f(a?, b?));
    Averages {
        bit_all: f(a.bit_all, b.bit_all),
        bit_1088: f(a.bit_1088, b.bit_1088),
        bit_tcp480: f(a.bit_tcp480, b.bit_tcp480),
        bit_active: f(a.bit_active, b.bit_active),
        bit_positional: f(a.bit_positional, b.bit_positional),
        structure: both(a.structure, b.structure),
        identity: both(a.identity, b.identity),
    }
}
