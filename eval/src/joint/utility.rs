//! Whether synthetic flows can stand in for real ones: a classifier of labels that learned from synthetic flows is
//! tested on real ones, next to a classifier that learned from as many real flows.

use serde::Serialize;

use super::features::FlowFeatures;
use super::forest::{Given, Table, classify};
use super::sample::{Sample, mix};

/// Flows that a label needs to be learned and tested.
const LABEL_FLOWS_MIN: usize = 5;
/// Rows that a forest on flow statistics learns from, and rows that it is tested on.
const STATS_ROWS_MAX: usize = 2_000;
/// The same for bits.
const BITS_ROWS_MAX: usize = 800;

/// How well labels are told, by a classifier trained on real and one trained on synthetic flows; both tested on the
/// same real flows that neither has seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UtilityReport {
    /// The labels told apart: those with enough real flows.
    pub labels: Vec<String>,
    /// Whether no training flows were given, so that the real ones were dealt into halves to learn from and test on.
    pub halved: bool,
    /// From flow statistics.
    pub stats: Utility,
    /// From nPrint bits of the first packets.
    pub bits: Utility,
}

/// The two classifiers on one kind of features.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Utility {
    /// Trained on real flows.
    pub real: Scores,
    /// Trained on synthetic flows.
    pub synthetic: Scores,
    /// What is lost: macro-F1 of `real` minus macro-F1 of `synthetic`.
    pub gap: f64,
}

/// A classifier's record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// Flows it learned from.
    pub trained_on: usize,
    /// Flows it was tested on.
    pub tested_on: usize,
    /// Share of tested flows that were given their label.
    pub accuracy: f64,
    /// Mean over labels of the harmonic mean of precision and recall.
    pub macro_f1: f64,
}

/// Real flows to learn from, synthetic flows to learn from and real flows to test on, of one label.
struct Label<'a> {
    train: Vec<&'a FlowFeatures>,
    synthetic: Vec<&'a FlowFeatures>,
    test: Vec<&'a FlowFeatures>,
}

/// Trains and tests on both kinds of features. `Err` says what is missing.
pub(super) fn utility(
    real: &Sample,
    synthetic: &Sample,
    train: &Sample,
    names: impl Fn(usize) -> String,
    seed: u64,
) -> Result<UtilityReport, String> {
    let halved = train.kept() == 0;
    let (mut labels, mut told) = (Vec::new(), Vec::new());
    for name in real.labels() {
        let mut test = real.of(name);
        let train = if halved { test.split_off(test.len() / 2) } else { train.of(name) };
        if test.len().min(train.len()) >= LABEL_FLOWS_MIN {
            labels.push(names(name));
            told.push(Label { train, synthetic: synthetic.of(name), test });
        }
    }
    if told.len() < 2 {
        return Err(format!(
            "2 labels with {LABEL_FLOWS_MIN} real flows to learn from and {LABEL_FLOWS_MIN} to test on are needed, there are {}",
            told.len()
        ));
    }
    let learnable: usize = told.iter().map(|label| label.synthetic.len()).sum();
    if learnable < LABEL_FLOWS_MIN {
        return Err(format!("{learnable} synthetic flows carry one of the labels"));
    }
    let (stats, bits) = rayon::join(
        || on(Given::Stats, &told, STATS_ROWS_MAX, mix(seed, 0)),
        || on(Given::Bits, &told, BITS_ROWS_MAX, mix(seed, 1)),
    );
    Ok(UtilityReport { labels, halved, stats, bits })
}

/// Trains and tests on one kind of features, with at most `rows_max` rows to learn from and to test on, shared out
/// evenly over the labels. Both classifiers learn from as many flows of a label, unless there is no synthetic one.
fn on(given: Given, labels: &[Label<'_>], rows_max: usize, seed: u64) -> Utility {
    let each = (rows_max / labels.len()).max(LABEL_FLOWS_MIN);
    let (mut flows, mut class) = (Vec::new(), Vec::new());
    let (mut train, mut synthetic, mut test) = (Vec::new(), Vec::new(), Vec::new());
    for (label, of) in labels.iter().enumerate() {
        let paired = if of.synthetic.is_empty() { each } else { each.min(of.synthetic.len()) };
        for (rows, from, count) in [
            (&mut train, &of.train, paired.min(of.train.len())),
            (&mut synthetic, &of.synthetic, paired.min(of.train.len())),
            (&mut test, &of.test, each),
        ] {
            for features in from.iter().take(count) {
                rows.push(flows.len());
                flows.push(*features);
                class.push(label as u32);
            }
        }
    }
    let table = Table::new(given, &flows);
    let truth: Vec<u32> = test.iter().map(|row| class[*row]).collect();
    let run = |train: &[usize], seed: u64| {
        let told = classify(&table, train, &class, &test, seed);
        let accuracy = told.iter().zip(&truth).filter(|(a, b)| a == b).count() as f64 / truth.len() as f64;
        let macro_f1 = macro_f1(&told, &truth, labels.len());
        Scores { trained_on: train.len(), tested_on: test.len(), accuracy, macro_f1 }
    };
    let (real, synthetic) = rayon::join(|| run(&train, seed), || run(&synthetic, seed));
    let gap = real.macro_f1 - synthetic.macro_f1;
    Utility { real, synthetic, gap }
}

/// Mean F1 over the classes; a class that is neither there nor told counts 0.
fn macro_f1(told: &[u32], truth: &[u32], classes: usize) -> f64 {
    let f1 = |class: u32| {
        let count = |of: &[u32]| of.iter().filter(|c| **c == class).count();
        let right = told.iter().zip(truth).filter(|(a, b)| **a == class && **b == class).count();
        2.0 * right as f64 / ((count(told) + count(truth)) as f64).max(1.0)
    };
    (0..classes as u32).map(f1).sum::<f64>() / classes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macro_f1_weighs_classes_alike() {
        // Class 0: 2 right of 2 told and 3 true, F1 4/5; class 1: 1 right of 2 told and 1 true, F1 2/3.
        let f1 = macro_f1(&[0, 0, 1, 1], &[0, 0, 0, 1], 2);
        assert!((f1 - (0.8 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
    }
}
