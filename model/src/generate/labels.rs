//! Which label the next flow gets: in turn, or drawn by weight.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::codec::{Codec, LabelId};

/// The labels that are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LabelChoice {
    /// These in turn; all that the model knows where there are none.
    InTurn(Vec<String>),
    /// Drawn by weight.
    Drawn(Vec<(String, u32)>),
}

impl Default for LabelChoice {
    fn default() -> Self {
        Self::InTurn(Vec::new())
    }
}

/// Why labels cannot be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelsError {
    /// The model has no label of this name.
    #[error("the model knows no label {name}; it knows {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A label has two weights.
    #[error("the label {0} is given twice")]
    Twice(String),
    /// Nothing can be drawn.
    #[error("the weights of the labels add up to {0}; allowed is 1 to 4294967295")]
    Weights(u64),
}

/// The label of this name.
///
/// # Errors
/// There is none; the error says which there are.
pub fn label_id(name: &str, known: &[String]) -> Result<LabelId, LabelsError> {
    match known.iter().position(|k| k == name) {
        Some(place) => Ok(LabelId(place as u16)),
        None => Err(LabelsError::Unknown { name: name.to_owned(), known: known.join(", ") }),
    }
}

/// The label of each flow, one after another: endless, unless there is none to choose.
#[derive(Debug, Clone)]
pub struct Labels {
    labels: Vec<(LabelId, u32)>,
    /// Chance and the sum of the weights; `None` for turns.
    draw: Option<(ChaCha8Rng, u32)>,
    turn: usize,
    are_chosen: bool,
}

impl Labels {
    /// The labels of `choice`, drawn with `seed` where they are drawn.
    ///
    /// # Errors
    /// The model does not know one of them, or the weights make no sense.
    pub fn new(choice: &LabelChoice, seed: u64, codec: &dyn Codec) -> Result<Self, LabelsError> {
        let known = codec.labels();
        let labels: Vec<(LabelId, u32)> = match choice {
            LabelChoice::InTurn(names) if names.is_empty() => {
                (0..known.len()).map(|i| (LabelId(i as u16), 1)).collect()
            }
            LabelChoice::InTurn(names) => {
                names.iter().map(|name| Ok((label_id(name, known)?, 1))).collect::<Result<_, LabelsError>>()?
            }
            LabelChoice::Drawn(mix) => {
                let twice =
                    mix.iter().enumerate().find(|(i, (name, _))| mix[..*i].iter().any(|other| other.0 == *name));
                if let Some((_, (name, _))) = twice {
                    return Err(LabelsError::Twice(name.clone()));
                }
                mix.iter().map(|(name, w)| Ok((label_id(name, known)?, *w))).collect::<Result<_, LabelsError>>()?
            }
        };
        let draw = match choice {
            LabelChoice::InTurn(_) => None,
            LabelChoice::Drawn(_) => {
                let sum: u64 = labels.iter().map(|l| u64::from(l.1)).sum();
                let sum = u32::try_from(sum).ok().filter(|sum| *sum > 0).ok_or(LabelsError::Weights(sum))?;
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(u64::MAX); // flows have the streams from 0 on
                Some((rng, sum))
            }
        };
        let are_chosen = !matches!(choice, LabelChoice::InTurn(names) if names.is_empty());
        Ok(Self { labels, draw, turn: 0, are_chosen })
    }

    /// Whether they are drawn by weight.
    pub fn are_drawn(&self) -> bool {
        self.draw.is_some()
    }

    /// Whether they were asked for by name, and are not just all that there are.
    pub fn are_chosen(&self) -> bool {
        self.are_chosen
    }

    /// All labels that can come.
    pub fn ids(&self) -> Vec<LabelId> {
        self.labels.iter().map(|l| l.0).collect()
    }
}

impl Iterator for Labels {
    type Item = LabelId;

    fn next(&mut self) -> Option<LabelId> {
        let Some((rng, sum)) = &mut self.draw else {
            let label = self.labels.get(self.turn)?.0;
            self.turn = (self.turn + 1) % self.labels.len();
            return Some(label);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_drawn_by_weight_and_the_same_with_the_same_seed() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        rng.set_stream(u64::MAX);
        let labels = || Labels {
            labels: vec![(LabelId(0), 3), (LabelId(4), 1)],
            draw: Some((rng.clone(), 4)),
            turn: 0,
            are_chosen: true,
        };
        let drawn: Vec<LabelId> = labels().take(4000).collect();
        assert_eq!(drawn, labels().take(4000).collect::<Vec<_>>());
        let first = drawn.iter().filter(|l| **l == LabelId(0)).count();
        // The standard deviation is 27.
        assert!((2860..3140).contains(&first), "{first}");
    }

    #[test]
    fn a_name_that_is_not_known_is_told_with_those_that_are() {
        let known = ["a".to_owned(), "b".to_owned()];
        assert_eq!(label_id("b", &known), Ok(LabelId(1)));
        assert_eq!(label_id("c", &known).unwrap_err().to_string(), "the model knows no label c; it knows a, b");
    }
}
