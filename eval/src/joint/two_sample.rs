//! The classifier two-sample test (Lopez-Paz and Oquab 2017): when a forest that learned from some flows cannot tell
//! real from synthetic among others (an area under the ROC curve of one half), nothing that it looked at gives the
//! synthetic ones away.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::features::FlowFeatures;
use super::forest::{Binary, Given, Table};
use super::sample::mix;

/// Parts of the cross-validation.
const FOLDS: usize = 5;
/// Coin-flip deals that make the floor.
const DEALS: u64 = 3;
/// How many features are reported as telling.
const TELLING: usize = 5;

/// A feature that gives synthetic flows away.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Telling {
    /// Its name.
    pub feature: String,
    /// Its share of the impurity that the forest took away, in [0, 1]; the list is sorted by this.
    pub importance: f64,
    /// AUC of the feature alone: above one half where synthetic flows have more of it, and about one half where it
    /// tells by something else than being more or less.
    pub auc: f64,
}

/// Area under the ROC curve: the chance that a positive has the higher score than a negative, ties as halves
/// (Mann-Whitney U over the number of pairs). `None` unless both are there.
pub fn auc(scores: &[f64], positive: &[bool]) -> Option<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let (mut wins, mut negatives, mut positives) = (0.0, 0usize, 0usize);
    for tied in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let here = tied.iter().filter(|row| positive[**row]).count();
        let others = tied.len() - here;
        wins += here as f64 * (negatives as f64 + others as f64 / 2.0);
        negatives += others;
        positives += here;
    }
    (positives > 0 && negatives > 0).then(|| wins / (positives as f64 * negatives as f64))
}

/// Cross-validated AUC of a forest that tells `others` from `ones`, and what it told them by. One half when no
/// feature varies. There must be as many flows on a side as there are folds.
///
/// Folds are stratified; the AUC is the mean over folds, each over flows that its forest has not seen.
pub(super) fn told_apart(
    given: Given,
    ones: &[&FlowFeatures],
    others: &[&FlowFeatures],
    seed: u64,
) -> (f64, Vec<Telling>) {
    let table = Table::new(given, &[ones, others].concat());
    if table.columns() == 0 {
        return (0.5, Vec::new());
    }
    let class: Vec<bool> = (0..ones.len() + others.len()).map(|row| row >= ones.len()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut fold = vec![0; class.len()];
    for side in [0..ones.len(), ones.len()..class.len()] {
        let mut rows: Vec<usize> = side.collect();
        rows.shuffle(&mut rng);
        rows.iter().enumerate().for_each(|(i, row)| fold[*row] = i % FOLDS);
    }
    let folds: Vec<(f64, Vec<f64>)> = (0..FOLDS)
        .into_par_iter()
        .map(|held_out| {
            let (test, train): (Vec<_>, Vec<_>) = (0..class.len()).partition(|row| fold[*row] == held_out);
            let forest = Binary::grow(&table, &train, &class, mix(seed, held_out as u64));
            let truth: Vec<bool> = test.iter().map(|row| class[*row]).collect();
            let auc = auc(&forest.votes(&table, &test), &truth).expect("each fold has both sides");
            (auc, forest.importances(&table))
        })
        .collect();

    let mean = folds.iter().map(|(auc, _)| auc).sum::<f64>() / FOLDS as f64;
    let importance = |column: usize| folds.iter().map(|(_, i)| i[column]).sum::<f64>() / FOLDS as f64;
    let mut ranked: Vec<(usize, f64)> = (0..table.columns()).map(|column| (column, importance(column))).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let telling = ranked.into_iter().take(TELLING).map(|(column, importance)| {
        let values: Vec<f64> = table.column(column).collect();
        let auc = auc(&values, &class).expect("both sides have flows");
        Telling { feature: table.name(column), importance, auc }
    });
    (mean, telling.collect())
}

/// The floor: the mean AUC when flows of one kind are dealt into two classes by chance, `each` at most in a class.
pub(super) fn floor(given: Given, flows: &[&FlowFeatures], each: usize, seed: u64) -> f64 {
    let deal = |deal: u64| {
        let mut flows = flows.to_vec();
        flows.shuffle(&mut ChaCha8Rng::seed_from_u64(mix(seed, deal)));
        let each = each.min(flows.len() / 2);
        told_apart(given, &flows[..each], &flows[each..2 * each], mix(seed, DEALS + deal)).0
    };
    (0..DEALS).into_par_iter().map(deal).sum::<f64>() / DEALS as f64
}
