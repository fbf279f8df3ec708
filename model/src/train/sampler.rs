//! The order in which samples are learned from: endless, seeded, and resumable at the token.

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::dataset::{Dataset, shuffle};
use crate::mamba::Batch;

/// Where a row is: the next token to hand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowPosition {
    /// Index of its sample in the data set.
    pub sample: usize,
    /// Tokens of it that were handed out.
    pub offset: usize,
}

/// Everything needed to go on exactly where a [`Sampler`] was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplerPosition {
    /// Seed of the shuffles.
    pub seed: u64,
    /// The shuffle that samples are taken from, counted from 0.
    pub epoch: u64,
    /// Samples of that shuffle that were given to a row.
    pub taken: usize,
    /// The rows.
    pub rows: Vec<RowPosition>,
    /// Tokens handed out since the beginning.
    pub tokens: u64,
    /// [`Dataset::fingerprint`] of the data.
    pub fingerprint: String,
}

/// Why a sampler could not be made or moved.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// Nothing to learn from.
    #[error("the training set has no samples")]
    NoSamples,
    /// The saved position belongs to other data.
    #[error("the saved run was trained on other data (fingerprint {expected}, this data has {found})")]
    OtherData {
        /// Fingerprint in the saved position.
        expected: String,
        /// Fingerprint of the data at hand.
        found: String,
    },
    /// The saved position has another number of rows.
    #[error("the saved run has {expected} rows (batch), this one {found}")]
    OtherBatch {
        /// Rows in the saved position.
        expected: usize,
        /// Rows asked for.
        found: usize,
    },
    /// The saved position contradicts itself.
    #[error("saved sampler position: {0}")]
    Invalid(&'static str),
}

/// Hands out windows of `b` rows, each row a stream of samples that follow one another without padding.
///
/// A row that ends its sample takes the next one of the epoch's shuffle; when that is used up, the next epoch's begins.
#[derive(Debug, Clone)]
pub struct Sampler {
    data: Arc<Dataset>,
    order: Vec<usize>,
    position: SamplerPosition,
    epoch_tokens: u64,
}

impl Sampler {
    /// A sampler at the beginning of `data` with `b` rows.
    pub fn new(data: Arc<Dataset>, b: usize, seed: u64) -> Result<Self, SamplerError> {
        if data.samples().is_empty() || b == 0 {
            return Err(SamplerError::NoSamples);
        }
        let fingerprint = data.fingerprint();
        let position =
            SamplerPosition { seed, epoch: 0, taken: 0, rows: Vec::with_capacity(b), tokens: 0, fingerprint };
        let epoch_tokens = data.token_count();
        let mut sampler = Self { order: Vec::new(), data, position, epoch_tokens };
        sampler.order = sampler.epoch_order();
        for _ in 0..b {
            let sample = sampler.take();
            sampler.position.rows.push(RowPosition { sample, offset: 0 });
        }
        Ok(sampler)
    }

    /// Writes the next `l` tokens of every row to `ret`, reusing its buffers.
    ///
    /// The last token of a sample has [`Batch::IGNORE`] as target: which label comes next is no property of traffic.
    pub fn fill(&mut self, l: usize, ret: &mut Batch) {
        (ret.b, ret.l) = (self.position.rows.len(), l);
        ret.tokens.clear();
        ret.targets.clear();
        ret.starts.clear();
        for row in 0..ret.b {
            for _ in 0..l {
                let RowPosition { sample, offset } = self.position.rows[row];
                let tokens = self.data.tokens(&self.data.samples()[sample]);
                ret.tokens.push(tokens[offset]);
                ret.starts.push(offset == 0);
                if let Some(&next) = tokens.get(offset + 1) {
                    ret.targets.push(next);
                    self.position.rows[row].offset = offset + 1;
                } else {
                    ret.targets.push(Batch::IGNORE);
                    let sample = self.take();
                    self.position.rows[row] = RowPosition { sample, offset: 0 };
                }
            }
        }
        self.position.tokens += (ret.b * l) as u64;
    }

    /// The data.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// Passes over the data so far, with fractions: tokens handed out by tokens there are.
    pub fn epochs(&self) -> f64 {
        self.position.tokens as f64 / self.epoch_tokens as f64
    }

    /// Where it is.
    pub fn position(&self) -> &SamplerPosition {
        &self.position
    }

    /// Goes to `position`, saved from a sampler over the same data.
    pub fn restore(&mut self, position: SamplerPosition) -> Result<(), SamplerError> {
        let (found, rows) = (&self.position.fingerprint, self.position.rows.len());
        if position.fingerprint != *found {
            return Err(SamplerError::OtherData { expected: position.fingerprint, found: found.clone() });
        }
        if position.rows.len() != rows {
            return Err(SamplerError::OtherBatch { expected: position.rows.len(), found: rows });
        }
        let samples = self.data.samples();
        if position.taken > samples.len() {
            return Err(SamplerError::Invalid("more samples taken than there are"));
        }
        if position.rows.iter().any(|r| samples.get(r.sample).is_none_or(|s| r.offset >= s.range.len())) {
            return Err(SamplerError::Invalid("a row points outside its sample"));
        }
        self.position = position;
        self.order = self.epoch_order();
        Ok(())
    }

    /// The next sample of the shuffle, of the next epoch's when this one is used up.
    fn take(&mut self) -> usize {
        if self.position.taken == self.order.len() {
            self.position.epoch += 1;
            self.position.taken = 0;
            self.order = self.epoch_order();
        }
        self.position.taken += 1;
        self.order[self.position.taken - 1]
    }

    /// The shuffle of the current epoch: a function of seed and epoch alone.
    fn epoch_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.data.samples().len()).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(self.position.seed);
        rng.set_stream(self.position.epoch);
        shuffle(&mut order, &mut rng);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NibbleCodec, empty_batch, session};
    use super::*;
    use crate::codec::{LabelId, Token};

    /// 20 samples of 4 to 22 tokens.
    fn data() -> Arc<Dataset> {
        let codec = NibbleCodec::new(&["a", "b"]);
        let sessions: Vec<_> =
            (0..20u8).map(|i| (LabelId(u16::from(i % 2)), session(&[&vec![i; usize::from(i % 10) + 1][..]]))).collect();
        Arc::new(Dataset::encode(&codec, &sessions, Default::default()))
    }

    #[test]
    fn rows_are_whole_samples_one_after_another() {
        let data = data();
        let mut sampler = Sampler::new(Arc::clone(&data), 3, 1).unwrap();
        let mut batch = empty_batch();
        let mut rows: Vec<Vec<(Token, Token, bool)>> = vec![Vec::new(); 3];
        while sampler.epochs() < 3.0 {
            sampler.fill(7, &mut batch);
            for (row, seen) in rows.iter_mut().enumerate() {
                seen.extend((row * 7..row * 7 + 7).map(|i| (batch.tokens[i], batch.targets[i], batch.starts[i])));
            }
        }
        for seen in rows {
            let starts: Vec<usize> = (0..seen.len()).filter(|&i| seen[i].2).collect();
            assert_eq!(starts[0], 0);
            for pair in starts.windows(2) {
                let sample: Vec<Token> = seen[pair[0]..pair[1]].iter().map(|s| s.0).collect();
                assert!(data.samples().iter().any(|s| data.tokens(s) == sample), "{sample:?}");
                let targets: Vec<Token> = seen[pair[0]..pair[1]].iter().map(|s| s.1).collect();
                assert_eq!(targets[..targets.len() - 1], sample[1..]);
                assert_eq!(targets.last(), Some(&Batch::IGNORE));
            }
        }
    }

    #[test]
    fn an_epoch_gives_every_sample_once_in_another_order() {
        let mut sampler = Sampler::new(data(), 1, 1).unwrap();
        let first = sampler.order.clone();
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
        let mut batch = empty_batch();
        while sampler.position().epoch == 0 {
            sampler.fill(5, &mut batch);
        }
        assert_ne!(sampler.order, first);
        assert!((sampler.epochs() - 1.0).abs() < 0.1);
    }

    #[test]
    fn a_restored_position_hands_out_the_same_tokens() {
        let mut sampler = Sampler::new(data(), 4, 9).unwrap();
        let (mut ours, mut theirs) = (empty_batch(), empty_batch());
        for _ in 0..23 {
            sampler.fill(5, &mut ours);
        }
        let json = serde_json::to_string(sampler.position()).unwrap();
        let mut other = Sampler::new(data(), 4, 1234).unwrap();
        other.restore(serde_json::from_str(&json).unwrap()).unwrap();
        for _ in 0..50 {
            sampler.fill(5, &mut ours);
            other.fill(5, &mut theirs);
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn positions_of_other_runs_are_refused() {
        let mut sampler = Sampler::new(data(), 4, 9).unwrap();
        let good = sampler.position().clone();
        let other = SamplerPosition { fingerprint: "x".into(), ..good.clone() };
        assert!(matches!(sampler.restore(other), Err(SamplerError::OtherData { .. })));
        let other = SamplerPosition { rows: good.rows[..2].to_vec(), ..good.clone() };
        assert_eq!(sampler.restore(other), Err(SamplerError::OtherBatch { expected: 2, found: 4 }));
        let other = SamplerPosition { rows: vec![RowPosition { sample: 99, offset: 0 }; 4], ..good };
        assert!(matches!(sampler.restore(other), Err(SamplerError::Invalid(_))));
    }
}
