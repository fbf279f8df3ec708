//! How well a network predicts samples that it did not learn from.

use serde::{Deserialize, Serialize};

use super::dataset::{Dataset, Sample};
use crate::codec::{LabelId, Token};
use crate::mamba::{Batch, Mamba, State};

/// Limits of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalOptions {
    /// Tokens to evaluate on; whole samples are taken in order while they fit, the first always. At least 2, default 200,000.
    pub tokens_max: u64,
    /// Rows of a batch. At least 1, default 8.
    pub batch: usize,
    /// Tokens of a row. At least 1, default 512.
    pub seq_len: usize,
}

impl Default for EvalOptions {
    fn default() -> Self {
        Self { tokens_max: 200_000, batch: 8, seq_len: 512 }
    }
}

/// Cross-entropy over some samples, and what those stand for.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Summed cross-entropy in nats.
    pub nats: f64,
    /// Tokens that were predicted.
    pub tokens: u64,
    /// Packets that the samples stand for.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
    /// Samples.
    pub samples: u64,
}

impl Tally {
    /// Mean cross-entropy in nats a token; 0 without tokens, as for the others below.
    pub fn nats_per_token(&self) -> f64 {
        per(self.nats, self.tokens)
    }

    /// Bits a token.
    pub fn bits_per_token(&self) -> f64 {
        per(self.nats / std::f64::consts::LN_2, self.tokens)
    }

    /// Bits a packet: comparable between vocabularies.
    pub fn bits_per_packet(&self) -> f64 {
        per(self.nats / std::f64::consts::LN_2, self.packets)
    }

    /// Bits a byte: comparable between vocabularies and with byte-wise baselines.
    pub fn bits_per_byte(&self) -> f64 {
        per(self.nats / std::f64::consts::LN_2, self.bytes)
    }

    fn add(&mut self, other: &Tally) {
        self.nats += other.nats;
        self.tokens += other.tokens;
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.samples += other.samples;
    }
}

fn per(sum: f64, count: u64) -> f64 {
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// The part of an evaluation that belongs to one label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelEval {
    /// The label.
    pub label: LabelId,
    /// Its sums.
    pub tally: Tally,
}

/// The outcome of an evaluation.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Eval {
    /// All labels together.
    pub total: Tally,
    /// Each label that had a sample, in the order of labels.
    pub per_label: Vec<LabelEval>,
    /// Samples that did not fit in `tokens_max`.
    pub skipped_samples: u64,
}

/// Runs the samples of `data` through `model`, each from the zero state.
///
/// Deterministic: which samples, in which rows and windows, follows from the data and the options alone. The samples
/// of one label share batches; a row whose samples are used up is filled with what is not counted.
pub fn evaluate(model: &mut dyn Mamba, data: &Dataset, options: &EvalOptions) -> Eval {
    let mut eval = Eval::default();
    let mut chosen: Vec<&Sample> = Vec::new();
    let mut left = options.tokens_max;
    for sample in data.samples() {
        let len = sample.range.len() as u64;
        if len <= left || chosen.is_empty() {
            left = left.saturating_sub(len);
            chosen.push(sample);
        } else {
            eval.skipped_samples += 1;
        }
    }
    // Stable: within a label the order stays.
    chosen.sort_by_key(|s| s.label);
    for samples in chosen.chunk_by(|a, b| a.label == b.label) {
        let tally = evaluate_together(model, data, samples, options);
        eval.total.add(&tally);
        eval.per_label.push(LabelEval { label: samples[0].label, tally });
    }
    eval
}

/// The samples of one label.
fn evaluate_together(model: &mut dyn Mamba, data: &Dataset, samples: &[&Sample], options: &EvalOptions) -> Tally {
    let mut tally = Tally { samples: samples.len() as u64, ..Tally::default() };
    for sample in samples {
        tally.packets += sample.packets;
        tally.bytes += sample.bytes;
    }
    let rows = deal(samples, options.batch.clamp(1, samples.len()));
    let mut rows: Vec<RowReader<'_>> = rows.into_iter().map(|samples| RowReader::new(data, samples)).collect();
    let mut state = State::new(model.params().config(), rows.len());
    loop {
        let l = rows.iter().map(|r| r.left).max().unwrap_or(0).min(options.seq_len.max(1));
        if l == 0 {
            return tally;
        }
        let mut batch = Batch { b: rows.len(), l, tokens: Vec::new(), targets: Vec::new(), starts: Vec::new() };
        for row in &mut rows {
            row.fill(l, &mut batch);
        }
        let loss = model.loss(&batch, &mut state);
        tally.nats += loss.nats;
        tally.tokens += loss.count;
    }
}

/// Deals `samples` to `b` rows of about the same length: the longest first, each to the shortest row.
fn deal<'a>(samples: &[&'a Sample], b: usize) -> Vec<Vec<&'a Sample>> {
    let mut sorted = samples.to_vec();
    sorted.sort_by_key(|s| std::cmp::Reverse(s.range.len()));
    let mut rows: Vec<(usize, Vec<&Sample>)> = vec![(0, Vec::new()); b];
    for sample in sorted {
        let shortest = rows.iter_mut().min_by_key(|(len, _)| *len).expect("b is at least 1");
        shortest.0 += sample.range.len();
        shortest.1.push(sample);
    }
    rows.into_iter().map(|(_, samples)| samples).collect()
}

/// Reads one row's samples one after another, then filler.
struct RowReader<'a> {
    data: &'a Dataset,
    samples: Vec<&'a Sample>,
    at: usize,
    offset: usize,
    left: usize,
}

impl<'a> RowReader<'a> {
    fn new(data: &'a Dataset, samples: Vec<&'a Sample>) -> Self {
        let left = samples.iter().map(|s| s.range.len()).sum();
        Self { data, samples, at: 0, offset: 0, left }
    }

    fn fill(&mut self, l: usize, batch: &mut Batch) {
        for _ in 0..l {
            let Some(sample) = self.samples.get(self.at) else {
                batch.tokens.push(Token(0));
                batch.targets.push(Batch::IGNORE);
                batch.starts.push(true);
                continue;
            };
            let tokens = self.data.tokens(sample);
            batch.tokens.push(tokens[self.offset]);
            batch.starts.push(self.offset == 0);
            batch.targets.push(tokens.get(self.offset + 1).copied().unwrap_or(Batch::IGNORE));
            self.left -= 1;
            self.offset += 1;
            if self.offset == tokens.len() {
                (self.at, self.offset) = (self.at + 1, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bigram, NibbleCodec, session};
    use super::*;
    use crate::codec::Codec;

    fn data(codec: &NibbleCodec) -> Dataset {
        let sessions: Vec<_> =
            (0..9u8).map(|i| (LabelId(u16::from(i % 2)), session(&[&vec![i; usize::from(i) + 1][..], &[7]]))).collect();
        Dataset::encode(codec, &sessions, Default::default())
    }

    #[test]
    fn zero_weights_cost_the_logarithm_of_the_vocabulary() {
        let codec = NibbleCodec::new(&["a", "b"]);
        let data = data(&codec);
        let mut model = Bigram::zeros(codec.vocab_size());
        let eval = evaluate(&mut model, &data, &EvalOptions::default());
        assert_eq!(eval.total.tokens, data.target_count());
        assert!((eval.total.nats_per_token() - (codec.vocab_size() as f64).ln()).abs() < 1e-6);
        // 45 + 9 bytes in 18 packets.
        assert_eq!((eval.total.samples, eval.total.packets, eval.total.bytes), (9, 18, 54));
        assert!((eval.total.bits_per_byte() * 54.0 - eval.total.bits_per_packet() * 18.0).abs() < 1e-9);
        assert_eq!(eval.per_label.len(), 2);
        assert_eq!(eval.per_label.iter().map(|l| l.tally.tokens).sum::<u64>(), eval.total.tokens);
    }

    #[test]
    fn rows_and_windows_do_not_change_the_result() {
        let codec = NibbleCodec::new(&["a", "b"]);
        let data = data(&codec);
        let mut model = Bigram::random(codec.vocab_size(), 3);
        let mut run =
            |batch, seq_len| evaluate(&mut model, &data, &EvalOptions { batch, seq_len, ..Default::default() });
        let whole = run(1, 1000);
        for other in [run(3, 4), run(8, 1), run(2, 17)] {
            assert_eq!(other.total.tokens, whole.total.tokens);
            // f64 sums in another order.
            assert!((other.total.nats - whole.total.nats).abs() < 1e-9 * whole.total.nats);
        }
        assert_eq!(run(3, 4), run(3, 4));
    }

    #[test]
    fn tokens_are_bounded_and_the_rest_counted() {
        let codec = NibbleCodec::new(&["a", "b"]);
        let data = data(&codec);
        let mut model = Bigram::zeros(codec.vocab_size());
        let eval = evaluate(&mut model, &data, &EvalOptions { tokens_max: 20, ..Default::default() });
        assert_eq!((eval.total.samples, eval.skipped_samples), (2, 7)); // 7 and 9 tokens, then 11
        let none = evaluate(&mut model, &data.clone().split(0.0, 0).1, &EvalOptions::default());
        assert_eq!(none, Eval::default());
        assert_eq!(none.total.bits_per_byte(), 0.0);
    }
}
