//! Joint realism: whether a classifier can tell synthetic flows from real ones, and whether it can learn from them.
//!
//! Single columns and distributions may all be right while their combinations are not; a random forest sees
//! combinations. It is given two descriptions of a flow, statistics and the bits of its first packets, and asked two
//! things: which side a flow is from (the [two-sample test](two_sample)), and, having learned from synthetic flows,
//! which label a real flow carries ([utility]).
//!
//! A report on 4,000 flows a side takes about 21 s of processor time, so 11 s on two cores: samples are bounded, and
//! the rows that forests are given more so (1,000 a side for statistics, 400 for bits).

mod bits;
mod features;
mod forest;
mod sample;
pub mod two_sample;
pub mod utility;

#[cfg(test)]
mod tests;

use serde::Serialize;
use wiremamba_model::flow::Flow;

pub use bits::{COLUMNS, PacketBits, column_name};
pub use features::{FlowFeatures, STAT_NAMES, STATS};
pub use sample::FLOWS_MAX;

use forest::Given;
use sample::{Sample, mix};
use two_sample::{Telling, floor, told_apart};
use utility::{UtilityReport, utility};

/// Flows that a side needs for the two-sample test.
pub const FLOWS_MIN: usize = 10;
/// Flows per side whose statistics a forest is given; more makes the number steadier and the forest slower.
const STATS_EACH_MAX: usize = 1_000;
/// The same for bits.
const BITS_EACH_MAX: usize = 400;

/// What classifiers make of synthetic flows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JointReport {
    /// Cross-validated AUC of telling synthetic from real by flow statistics: 0.5 is the aim, 1 is told at once.
    pub auc: Option<f64>,
    /// The same by nPrint bits of the first packets.
    pub auc_bits: Option<f64>,
    /// Why there is no AUC.
    pub reason: Option<String>,
    /// Real against real, dealt into two classes by chance: what a perfect generator would score.
    pub floor: TwoAucs,
    /// TRAIN against HOLDOUT, as if TRAIN were synthetic: what the same applications captured elsewhere score. Where
    /// the two were split by capture and not by flow this is far above the floor, and no generator that learned from
    /// TRAIN can be expected below it.
    pub reference: TwoAucs,
    /// The statistics by which synthetic flows are told most.
    pub telling: Vec<Telling>,
    /// The bits by which they are told most.
    pub telling_bits: Vec<Telling>,
    /// Trained on synthetic, tested on real.
    pub utility: Option<UtilityReport>,
    /// Why there is no utility.
    pub utility_reason: Option<String>,
    /// How many flows all this was made from.
    pub flows: JointFlows,
}

/// An AUC on each description of flows.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct TwoAucs {
    /// By flow statistics.
    pub auc: Option<f64>,
    /// By nPrint bits.
    pub auc_bits: Option<f64>,
}

/// Flows behind a [`JointReport`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct JointFlows {
    /// Real flows that came by.
    pub real: u64,
    /// Synthetic flows that came by.
    pub synthetic: u64,
    /// Training flows that came by.
    pub train: u64,
    /// Flows kept of the three together, at most [`FLOWS_MAX`] per side and label.
    pub kept: usize,
    /// Flows per side in the two-sample test on statistics.
    pub told_apart: usize,
    /// Flows per side in the two-sample test on bits.
    pub told_apart_bits: usize,
    /// Flows per class in the floor on statistics.
    pub floor: usize,
    /// Flows per class in the floor on bits.
    pub floor_bits: usize,
}

/// Gathers flows for a [`JointReport`], in bounded memory.
#[derive(Debug, Clone)]
pub struct Joint {
    seed: u64,
    real: Sample,
    synthetic: Sample,
    train: Sample,
}

impl Joint {
    /// Nothing yet. All chance comes from `seed`: the same flows in any order give the same report.
    pub fn new(seed: u64) -> Self {
        let sample = |side| Sample::new(mix(seed, side));
        Self { seed, real: sample(0), synthetic: sample(1), train: sample(2) }
    }

    /// Takes a real flow that the generator has not seen (HOLDOUT).
    pub fn real(&mut self, label: usize, flow: &Flow) {
        self.real.flow(label, flow);
    }

    /// Takes a synthetic flow.
    pub fn synthetic(&mut self, label: usize, flow: &Flow) {
        self.synthetic.flow(label, flow);
    }

    /// Takes a real flow that the generator has learned from (TRAIN). Without any, the other real flows are halved
    /// where real flows to learn from are needed.
    pub fn train(&mut self, label: usize, flow: &Flow) {
        self.train.flow(label, flow);
    }

    /// Takes in what another accumulator with the same seed gathered.
    pub fn merge(&mut self, other: Self) {
        self.real.merge(other.real);
        self.synthetic.merge(other.synthetic);
        self.train.merge(other.train);
    }

    /// The report; `labels` are the names of the labels, by number.
    ///
    /// The two-sample test takes as many synthetic as real flows of each label, so that it judges flows and not how
    /// many of each label were asked for. The floor deals the same labels' real flows.
    pub fn report(&self, labels: &[String]) -> JointReport {
        let name = |label: usize| labels.get(label).cloned().unwrap_or_else(|| format!("label {label}"));
        let sides = self.sides(&self.synthetic, STATS_EACH_MAX);
        let bits = self.sides(&self.synthetic, BITS_EACH_MAX);
        let seed = |salt| mix(self.seed, salt);
        let ((stats, bits_told), (reference, utility)) = rayon::join(
            || rayon::join(|| sides.test(Given::Stats, seed(3)), || bits.test(Given::Bits, seed(4))),
            || rayon::join(|| self.reference(), || utility(&self.real, &self.synthetic, &self.train, name, seed(5))),
        );
        let (auc, floor, telling) = stats;
        let (auc_bits, floor_bits, telling_bits) = bits_told;
        let (utility, utility_reason) = match utility {
            Ok(report) => (Some(report), None),
            Err(reason) => (None, Some(reason)),
        };
        JointReport {
            auc,
            auc_bits,
            reason: auc.is_none().then(|| sides.missing()),
            floor: TwoAucs { auc: floor, auc_bits: floor_bits },
            reference,
            telling,
            telling_bits,
            utility,
            utility_reason,
            flows: JointFlows {
                real: self.real.seen(),
                synthetic: self.synthetic.seen(),
                train: self.train.seen(),
                kept: self.real.kept() + self.synthetic.kept() + self.train.kept(),
                told_apart: sides.each(),
                told_apart_bits: bits.each(),
                floor: sides.floor_each(),
                floor_bits: bits.floor_each(),
            },
        }
    }

    /// The two-sample test between the real flows and those that were trained on.
    fn reference(&self) -> TwoAucs {
        let auc =
            |given, each_max, salt| Some(self.sides(&self.train, each_max).told_apart(given, mix(self.seed, salt))?.0);
        let (auc, auc_bits) =
            rayon::join(|| auc(Given::Stats, STATS_EACH_MAX, 6), || auc(Given::Bits, BITS_EACH_MAX, 7));
        TwoAucs { auc, auc_bits }
    }

    /// Equally many real and other flows, by label, at most about `each_max` of either.
    fn sides<'a>(&'a self, other: &'a Sample, each_max: usize) -> Sides<'a> {
        let mut pairs: Vec<_> = self.real.labels().map(|label| (self.real.of(label), other.of(label))).collect();
        let common = |(real, other): &(Vec<_>, Vec<_>)| real.len().min(other.len());
        let all: usize = pairs.iter().map(common).sum();
        let mut sides = Sides::default();
        for pair in &mut pairs {
            let count = common(pair) * each_max.min(all) / all.max(1);
            sides.real.extend(&pair.0[..count]);
            sides.other.extend(&pair.1[..count]);
            sides.floor.extend(&pair.0[..(2 * count).min(pair.0.len())]);
        }
        sides
    }
}

/// The flows of a two-sample test.
#[derive(Debug, Default)]
struct Sides<'a> {
    real: Vec<&'a FlowFeatures>,
    other: Vec<&'a FlowFeatures>,
    /// Real flows for the floor: twice as many as on a side, where there are so many.
    floor: Vec<&'a FlowFeatures>,
}

impl Sides<'_> {
    /// Flows on a side; 0 where the test is not made.
    fn each(&self) -> usize {
        if self.real.len() < FLOWS_MIN { 0 } else { self.real.len() }
    }

    /// Flows in a class of the floor; 0 where there is none.
    fn floor_each(&self) -> usize {
        let each = (self.floor.len() / 2).min(self.each());
        if each < FLOWS_MIN { 0 } else { each }
    }

    /// AUC and the most telling features.
    fn told_apart(&self, given: Given, seed: u64) -> Option<(f64, Vec<Telling>)> {
        (self.each() > 0).then(|| told_apart(given, &self.real, &self.other, seed))
    }

    /// AUC, its floor, and the most telling features.
    fn test(&self, given: Given, seed: u64) -> (Option<f64>, Option<f64>, Vec<Telling>) {
        let (told, floor) = rayon::join(
            || self.told_apart(given, seed),
            || (self.floor_each() > 0).then(|| floor(given, &self.floor, self.floor_each(), mix(seed, 8))),
        );
        let (auc, telling) = told.unzip();
        (auc, floor, telling.unwrap_or_default())
    }

    fn missing(&self) -> String {
        format!("{} real and synthetic flows share a label, {FLOWS_MIN} are needed", self.real.len())
    }
}
