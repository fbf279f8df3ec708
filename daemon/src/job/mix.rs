//! Which label the next flow gets: in turn, or drawn by weight.

use anyhow::{Context as _, Result, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wiremamba_model::codec::{Codec, LabelId};

/// Labels and their weights, drawn from with a seed; without weights they take turns.
#[derive(Debug)]
pub(crate) struct Labels {
    labels: Vec<(LabelId, u32)>,
    /// Chance and the sum of the weights; `None` for turns.
    draw: Option<(ChaCha8Rng, u32)>,
    turn: usize,
}

impl Labels {
    /// The labels of `names`, or all, in turn.
    pub(crate) fn in_turn(names: &[String], codec: &dyn Codec) -> Result<Self> {
        let all = (0..codec.labels().len()).map(|i| Ok(LabelId(i as u16)));
        let labels: Result<Vec<_>> =
            if names.is_empty() { all.collect() } else { names.iter().map(|n| id(n, codec.labels())).collect() };
        let labels: Vec<_> = labels?.into_iter().map(|l| (l, 1)).collect();
        ensure!(!labels.is_empty(), "the model has no labels");
        Ok(Self { labels, draw: None, turn: 0 })
    }

    /// Labels drawn by the weights of `mix`.
    pub(crate) fn drawn(mix: &[(String, u32)], seed: u64, codec: &dyn Codec) -> Result<Self> {
        let labels: Vec<_> = mix.iter().map(|(n, w)| Ok((id(n, codec.labels())?, *w))).collect::<Result<_>>()?;
        let sum = labels.iter().map(|l| l.1).sum();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(u64::MAX); // flows have the streams from 0 on
        Ok(Self { labels, draw: Some((rng, sum)), turn: 0 })
    }

    /// All labels that can come.
    pub(super) fn ids(&self) -> Vec<LabelId> {
        self.labels.iter().map(|l| l.0).collect()
    }
}

impl Iterator for Labels {
    type Item = LabelId;

    fn next(&mut self) -> Option<LabelId> {
        let Some((rng, sum)) = &mut self.draw else {
            self.turn += 1;
            return Some(self.labels[(self.turn - 1) % self.labels.len()].0);
        };
        let mut left = rng.random_range(0..*sum);
        self.labels.iter().find_map(|(label, weight)| match left.checked_sub(*weight) {
            Some(rest) => {
                left = rest;
                None
            }
            None => Some(*label),
        })
    }
}

/// The label of this name, or an error that says which there are.
pub(crate) fn id(name: &str, known: &[String]) -> Result<LabelId> {
    let place = known.iter().position(|k| k == name);
    place
        .map(|i| LabelId(i as u16))
        .with_context(|| format!("the model knows no label {name}; it knows {}", known.join(", ")))
}

/// A label and its weight, as in `zoom=3`.
pub(super) fn weight(s: &str) -> Result<(String, u32), String> {
    let expected = || "give labels with whole weights from 1 to 1000000, as in zoom=3,dns=5".to_owned();
    let (label, weight) = s.split_once('=').ok_or_else(expected)?;
    let weight = weight.parse().ok().filter(|w| (1..=1_000_000).contains(w)).ok_or_else(expected)?;
    Ok((label.to_owned(), weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_drawn_by_weight_and_the_same_with_the_same_seed() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        rng.set_stream(u64::MAX);
        let labels =
            || Labels { labels: vec![(LabelId(0), 3), (LabelId(4), 1)], draw: Some((rng.clone(), 4)), turn: 0 };
        let drawn: Vec<LabelId> = labels().take(4000).collect();
        assert_eq!(drawn, labels().take(4000).collect::<Vec<_>>());
        let first = drawn.iter().filter(|l| **l == LabelId(0)).count();
        // The standard deviation is 27.
        assert!((2860..3140).contains(&first), "{first}");
    }

    #[test]
    fn a_weight_is_a_whole_number_from_one() {
        assert_eq!(weight("zoom=3"), Ok(("zoom".to_owned(), 3)));
        for bad in ["zoom", "zoom=", "zoom=0", "zoom=-1", "zoom=1.5", "zoom=10000000"] {
            assert!(weight(bad).is_err(), "{bad}");
        }
    }
}
