//! Random forests over flow features: the trees are smartcore's, this module hands it tables and seeds and shares the
//! work out to rayon's threads.
//!
//! Breiman 2001 with the usual settings: bootstrapped rows, the square root of the columns tried at each split, trees
//! grown to the end. smartcore keeps every column sorted at every node, so time grows with columns times rows: columns
//! that never vary and repeats of an earlier column are dropped first, and the callers limit rows.

use std::collections::HashSet;

use rayon::prelude::*;
use smartcore::ensemble::random_forest_classifier::{RandomForestClassifier, RandomForestClassifierParameters};
use smartcore::ensemble::random_forest_regressor::{RandomForestRegressor, RandomForestRegressorParameters};
use smartcore::linalg::basic::matrix::DenseMatrix;

use super::bits::{COLUMNS, column_name};
use super::features::{FlowFeatures, STAT_NAMES};
use super::sample::mix;

/// Trees of a forest on flow statistics.
const STATS_TREES: usize = 100;
/// Trees of a forest on bits, which have fifty times the columns.
const BITS_TREES: usize = 60;
/// Trees that are grown together; more than one such part can grow at a time.
const PART_TREES: usize = 20;

/// Which features a classifier is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// Flow statistics.
    Stats,
    /// nPrint bits of the first packets.
    Bits,
}

impl Given {
    /// How many trees look at them.
    pub(super) fn trees(self) -> usize {
        match self {
            Given::Stats => STATS_TREES,
            Given::Bits => BITS_TREES,
        }
    }
}

/// One row per flow, one column per feature that varies.
#[derive(Debug)]
pub(super) struct Table {
    given: Given,
    /// Which features the columns are.
    features: Vec<usize>,
    /// Row after row.
    values: Vec<f32>,
    rows: usize,
}

impl Table {
    /// The table of these flows' features.
    pub(super) fn new(given: Given, flows: &[&FlowFeatures]) -> Self {
        let all = match given {
            Given::Stats => STAT_NAMES.len(),
            Given::Bits => COLUMNS,
        };
        let column = |feature: usize| -> Vec<f32> {
            let value = |flow: &&FlowFeatures| match given {
                Given::Stats => flow.stats[feature],
                Given::Bits => f32::from(flow.bits.value(feature)),
            };
            flows.iter().map(value).collect()
        };
        let mut known = HashSet::new();
        let (mut features, mut columns) = (Vec::new(), Vec::new());
        for feature in 0..all {
            let values = column(feature);
            let varies = values.windows(2).any(|pair| pair[0] != pair[1]);
            if varies && known.insert(values.iter().map(|v| v.to_bits()).collect::<Vec<_>>()) {
                features.push(feature);
                columns.push(values);
            }
        }
        let values = (0..flows.len()).flat_map(|row| columns.iter().map(move |column| column[row])).collect();
        Self { given, features, values, rows: flows.len() }
    }

    /// How many columns vary.
    pub(super) fn columns(&self) -> usize {
        self.features.len()
    }

    /// The name of a column.
    pub(super) fn name(&self, column: usize) -> String {
        match self.given {
            Given::Stats => STAT_NAMES[self.features[column]].to_owned(),
            Given::Bits => column_name(self.features[column]),
        }
    }

    /// The values of a column, by row.
    pub(super) fn column(&self, column: usize) -> impl Iterator<Item = f64> {
        self.values.iter().skip(column).step_by(self.columns().max(1)).take(self.rows).map(|v| f64::from(*v))
    }

    fn matrix(&self, rows: &[usize]) -> DenseMatrix<f32> {
        let width = self.columns();
        let values = rows.iter().flat_map(|row| &self.values[row * width..(row + 1) * width]).copied().collect();
        DenseMatrix::new(rows.len(), width, values, false).expect("as many values as rows times columns")
    }

    /// Columns tried at each split.
    fn tried(&self) -> usize {
        ((self.columns() as f64).sqrt() as usize).max(1)
    }
}

type Votes = RandomForestRegressor<f32, f64, DenseMatrix<f32>, Vec<f64>>;
type Classes = RandomForestClassifier<f32, u32, DenseMatrix<f32>, Vec<u32>>;

/// A forest that tells two classes apart. It is grown as regression on 0 and 1: the variance of such a target is half
/// its Gini impurity, so the splits are those of classification, and the mean of the leaves is a probability.
pub(super) struct Binary {
    parts: Vec<Votes>,
}

impl Binary {
    /// Grows a forest on some rows of a table, which must have a column. `class` is by row of the table.
    pub(super) fn grow(table: &Table, rows: &[usize], class: &[bool], seed: u64) -> Self {
        let x = table.matrix(rows);
        let y: Vec<f64> = rows.iter().map(|row| f64::from(u8::from(class[*row]))).collect();
        let parts = (0..table.given.trees() / PART_TREES).into_par_iter().map(|part| {
            let parameters = RandomForestRegressorParameters::default()
                .with_n_trees(PART_TREES)
                .with_m(table.tried())
                .with_seed(mix(seed, part as u64));
            Votes::fit(&x, &y, parameters).expect("rows and columns were checked")
        });
        Self { parts: parts.collect() }
    }

    /// The probability of the class for each of these rows.
    pub(super) fn votes(&self, table: &Table, rows: &[usize]) -> Vec<f64> {
        let x = table.matrix(rows);
        let mut votes = vec![0.0; rows.len()];
        for part in &self.parts {
            for (sum, vote) in votes.iter_mut().zip(part.predict(&x).expect("the columns are those it was grown on")) {
                *sum += vote / self.parts.len() as f64;
            }
        }
        votes
    }

    /// How much of the impurity each column took away, as shares of 1.
    pub(super) fn importances(&self, table: &Table) -> Vec<f64> {
        let mut mean = vec![0.0; table.columns()];
        for part in &self.parts {
            let importances = part.compute_feature_importances().expect("it was grown");
            for (sum, importance) in mean.iter_mut().zip(importances) {
                *sum += importance / self.parts.len() as f64;
            }
        }
        mean
    }
}

/// Grows a forest on rows with any number of classes and says which class it takes each of the other rows for.
/// `class` is by row of the table.
pub(super) fn classify(table: &Table, train: &[usize], class: &[u32], test: &[usize], seed: u64) -> Vec<u32> {
    let y: Vec<u32> = train.iter().map(|row| class[*row]).collect();
    let first = y.first().copied().unwrap_or_default();
    if table.columns() == 0 || y.iter().all(|c| *c == first) {
        return vec![first; test.len()];
    }
    let parameters = RandomForestClassifierParameters::default()
        .with_n_trees(table.given.trees() as u16)
        .with_m(table.tried())
        .with_seed(seed);
    let forest = Classes::fit(&table.matrix(train), &y, parameters).expect("rows and columns were checked");
    forest.predict(&table.matrix(test)).expect("the columns are those it was grown on")
}
