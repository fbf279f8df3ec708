//! Encoded samples in one flat store, bounded, and their split into training and held-out.

use std::ops::Range;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::codec::{Codec, LabelId, Render, Token};
use crate::flow::Session;
use crate::packet::Timestamp;

/// Sessions encoded at a time: enough for every core, few enough that the copies waiting to be stored stay small.
const ENCODE_CHUNK: usize = 256;

/// Limits of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetLimits {
    /// Tokens of a sample; longer ones are cut there and counted. At least 2, default 50,000 (the NAIC '24 paper's).
    pub sample_tokens_max: usize,
    /// Tokens of all samples, 4 bytes each; samples beyond are refused and counted. Default 500,000,000 (2 GB).
    pub tokens_max: usize,
}

impl Default for DatasetLimits {
    fn default() -> Self {
        Self { sample_tokens_max: 50_000, tokens_max: 500_000_000 }
    }
}

/// What the limits refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DatasetCounters {
    /// Samples cut at `sample_tokens_max`.
    pub truncated_samples: u64,
    /// Tokens cut off them.
    pub truncated_tokens: u64,
    /// Samples refused because the store was at `tokens_max`.
    pub refused_samples: u64,
    /// Samples of fewer than two tokens, from which nothing can be learned.
    pub empty_samples: u64,
}

/// One sample: where its tokens lie, and what they stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Its tokens in the store.
    pub range: Range<usize>,
    /// Its label.
    pub label: LabelId,
    /// Whole packets that the tokens stand for.
    pub packets: u64,
    /// Bytes of those packets, as the codec gives them back.
    pub bytes: u64,
}

impl Sample {
    /// Tokens to be predicted: all but the first.
    pub fn targets(&self) -> u64 {
        self.range.len() as u64 - 1
    }
}

/// Samples over one shared store of tokens. Parts of a split share the store.
#[derive(Debug, Clone)]
pub struct Dataset {
    tokens: Arc<Vec<Token>>,
    samples: Vec<Sample>,
    counters: DatasetCounters,
}

impl Dataset {
    /// Encodes `sessions`, on all cores, in their order.
    ///
    /// Where the limit on all tokens refuses a sample, shorter later ones may still fit; whoever wants an even share
    /// of the labels shuffles before.
    pub fn encode(codec: &dyn Codec, sessions: &[(LabelId, Session)], limits: DatasetLimits) -> Self {
        let mut tokens = Vec::new();
        let mut samples = Vec::new();
        let mut counters = DatasetCounters::default();
        for chunk in sessions.chunks(ENCODE_CHUNK) {
            let encoded: Vec<Encoded> =
                chunk.par_iter().map(|(label, session)| Encoded::new(codec, *label, session, limits)).collect();
            for e in encoded {
                if e.tokens.len() < 2 {
                    counters.empty_samples += 1;
                } else if tokens.len() + e.tokens.len() > limits.tokens_max {
                    counters.refused_samples += 1;
                } else {
                    counters.truncated_samples += u64::from(e.cut_tokens > 0);
                    counters.truncated_tokens += e.cut_tokens;
                    let range = tokens.len()..tokens.len() + e.tokens.len();
                    tokens.extend_from_slice(&e.tokens);
                    samples.push(Sample { range, label: e.label, packets: e.packets, bytes: e.bytes });
                }
            }
        }
        Self { tokens: Arc::new(tokens), samples, counters }
    }

    /// Adds the samples of `other` with these places, which must exist; a place may come more than once.
    pub fn extend_from(&mut self, other: &Dataset, places: impl IntoIterator<Item = usize>) {
        let tokens = Arc::make_mut(&mut self.tokens);
        for sample in places.into_iter().map(|place| &other.samples[place]) {
            let begin = tokens.len();
            tokens.extend_from_slice(other.tokens(sample));
            self.samples.push(Sample { range: begin..tokens.len(), ..sample.clone() });
        }
    }

    /// Splits by sample into (training, held-out).
    ///
    /// Of every label with at least two samples, `share` of them (rounded, but at least one, and never all) is held
    /// out; `share` 0 holds out nothing. Which ones depends on `seed` and the label's own samples only. Held-out samples are
    /// ordered one of each label in turn, so that a bounded evaluation sees every label.
    pub fn split(self, share: f64, seed: u64) -> (Dataset, Dataset) {
        let labels = self.samples.iter().map(|s| usize::from(s.label.0) + 1).max().unwrap_or(0);
        let mut by_label: Vec<Vec<usize>> = vec![Vec::new(); labels];
        for (i, sample) in self.samples.iter().enumerate() {
            by_label[usize::from(sample.label.0)].push(i);
        }
        let mut held_out_ranks: Vec<(usize, usize)> = Vec::new(); // (rank within its label, sample)
        let mut is_held_out = vec![false; self.samples.len()];
        for (label, members) in by_label.iter_mut().enumerate() {
            if members.len() < 2 || share <= 0.0 {
                continue;
            }
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(u64::MAX - label as u64); // the sampler has the streams from 0 up
            shuffle(members, &mut rng);
            let count = ((members.len() as f64 * share).round() as usize).clamp(1, members.len() - 1);
            for (rank, &sample) in members[..count].iter().enumerate() {
                held_out_ranks.push((rank, sample));
                is_held_out[sample] = true;
            }
        }
        held_out_ranks.sort_unstable_by_key(|&(rank, sample)| (rank, self.samples[sample].label, sample));
        let held_out = held_out_ranks.iter().map(|&(_, sample)| self.samples[sample].clone()).collect();
        let training = self.samples.iter().zip(&is_held_out).filter(|(_, out)| !**out).map(|(s, _)| s.clone());
        let training =
            Dataset { tokens: Arc::clone(&self.tokens), samples: training.collect(), counters: self.counters };
        (training, Dataset { tokens: self.tokens, samples: held_out, counters: DatasetCounters::default() })
    }

    /// The samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The tokens of `sample`.
    pub fn tokens(&self, sample: &Sample) -> &[Token] {
        &self.tokens[sample.range.clone()]
    }

    /// What the limits refused while encoding.
    pub fn counters(&self) -> DatasetCounters {
        self.counters
    }

    /// Tokens of all samples.
    pub fn token_count(&self) -> u64 {
        self.samples.iter().map(|s| s.range.len() as u64).sum()
    }

    /// Tokens to be predicted, of all samples.
    pub fn target_count(&self) -> u64 {
        self.samples.iter().map(Sample::targets).sum()
    }

    /// Packets of all samples.
    pub fn packet_count(&self) -> u64 {
        self.samples.iter().map(|s| s.packets).sum()
    }

    /// Bytes of all packets.
    pub fn byte_count(&self) -> u64 {
        self.samples.iter().map(|s| s.bytes).sum()
    }

    /// The highest token number, or `None` without samples: what a network's vocabulary has to cover.
    pub fn token_max(&self) -> Option<Token> {
        self.samples.iter().filter_map(|s| self.tokens(s).iter().max().copied()).max()
    }

    /// A digest of labels and tokens in their order, so that a resumed run notices other data.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for sample in &self.samples {
            hash.update(sample.label.0.to_le_bytes());
            hash.update((sample.range.len() as u64).to_le_bytes());
            hash.update(bytemuck::cast_slice::<Token, u8>(self.tokens(sample)));
        }
        hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
    }
}

/// A sample on its way into the store.
struct Encoded {
    tokens: Vec<Token>,
    label: LabelId,
    packets: u64,
    bytes: u64,
    cut_tokens: u64,
}

impl Encoded {
    fn new(codec: &dyn Codec, label: LabelId, session: &Session, limits: DatasetLimits) -> Self {
        let mut tokens = Vec::new();
        codec.encode(label, session, &mut tokens);
        let cut_tokens = tokens.len().saturating_sub(limits.sample_tokens_max) as u64;
        tokens.truncate(limits.sample_tokens_max);
        // Decoding tells what the kept tokens stand for: a codec may keep headers only, and a cut loses packets.
        let mut render = Render { rng: ChaCha8Rng::seed_from_u64(0), start: Timestamp::default() };
        let decoded = codec.decode(&tokens, &mut render);
        let bytes = decoded.packets.iter().map(|p| p.data.len() as u64).sum();
        Self { tokens, label, packets: decoded.packets.len() as u64, bytes, cut_tokens }
    }
}

/// Shuffles `items` (Fisher and Yates, Durstenfeld's order), the same way on every platform.
pub(super) fn shuffle<T>(items: &mut [T], rng: &mut ChaCha8Rng) {
    for i in (1..items.len()).rev() {
        // The high half of a 64 x 64 product: uniform to within 2^-64 of the range (Lemire 2019).
        let j = ((u128::from(rng.next_u64()) * (i as u128 + 1)) >> 64) as usize;
        items.swap(i, j);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{NibbleCodec, session};
    use super::*;

    fn codec() -> NibbleCodec {
        NibbleCodec::new(&["a", "b", "c"])
    }

    #[test]
    fn samples_know_their_tokens_packets_and_bytes() {
        // NibbleCodec: label, two tokens a byte, one mark between packets, end: 1 + 2*(2+1) + 1 + 1 = 9.
        let data = Dataset::encode(&codec(), &[(LabelId(1), session(&[&[0x12, 0x34], &[0x56]]))], Default::default());
        let sample = &data.samples()[0];
        assert_eq!((sample.packets, sample.bytes, sample.range.len(), sample.targets()), (2, 3, 9, 8));
        let numbers: Vec<u32> = data.tokens(sample).iter().map(|t| t.0).collect();
        assert_eq!(numbers, [19, 1, 2, 3, 4, 17, 5, 6, 16]);
        assert_eq!((data.token_count(), data.packet_count(), data.byte_count()), (9, 2, 3));
        assert_eq!(data.token_max(), Some(Token(19)));
    }

    #[test]
    fn long_samples_are_cut_and_counted() {
        let limits = DatasetLimits { sample_tokens_max: 7, ..Default::default() };
        let data = Dataset::encode(&codec(), &[(LabelId(0), session(&[&[1, 2], &[3]]))], limits);
        assert_eq!(data.samples()[0].range.len(), 7);
        assert_eq!((data.samples()[0].packets, data.samples()[0].bytes), (1, 2));
        assert_eq!((data.counters().truncated_samples, data.counters().truncated_tokens), (1, 2));
    }

    #[test]
    fn the_store_is_bounded_and_counts_what_it_refuses() {
        let limits = DatasetLimits { tokens_max: 12, ..Default::default() };
        let sessions: Vec<_> = (0..4).map(|_| (LabelId(0), session(&[&[1]]))).collect(); // 4 tokens each
        let data = Dataset::encode(&codec(), &sessions, limits);
        assert_eq!((data.samples().len(), data.token_count(), data.counters().refused_samples), (3, 12, 1));
    }

    #[test]
    fn split_is_stratified_deterministic_and_loses_nothing() {
        let mut sessions: Vec<_> = (0..40u8).map(|i| (LabelId(0), session(&[&[i]]))).collect();
        sessions.extend((0..3u8).map(|i| (LabelId(1), session(&[&[100 + i]]))));
        sessions.push((LabelId(2), session(&[&[200]])));
        let data = Dataset::encode(&codec(), &sessions, Default::default());
        let (train, held_out) = data.clone().split(0.1, 7);
        let count = |d: &Dataset, label| d.samples().iter().filter(|s| s.label == LabelId(label)).count();
        assert_eq!([0, 1, 2].map(|l| count(&held_out, l)), [4, 1, 0]);
        assert_eq!([0, 1, 2].map(|l| count(&train, l)), [36, 2, 1]);
        assert_eq!([0, 1].map(|i| held_out.samples()[i].label.0), [0, 1], "labels take turns");
        let mut all: Vec<_> = train.samples().iter().chain(held_out.samples()).map(|s| s.range.start).collect();
        all.sort_unstable();
        assert_eq!(all, data.samples().iter().map(|s| s.range.start).collect::<Vec<_>>());
        let (_, again) = data.clone().split(0.1, 7);
        assert_eq!(again.samples(), held_out.samples());
        assert_ne!(data.clone().split(0.1, 8).1.samples(), held_out.samples());
        assert!(data.clone().split(0.0, 7).1.samples().is_empty());
        assert_ne!(train.fingerprint(), held_out.fingerprint());
    }
}
