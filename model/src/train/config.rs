//! Every setting of a training run, with its default and its allowed range. The command line fills it.

use serde::{Deserialize, Serialize};

use super::dataset::DatasetLimits;
use super::eval::EvalOptions;
use super::optimizer::AdamWOptions;
use super::schedule::Schedule;
use crate::engine::Precision;

/// Settings of a training run.
///
/// The defaults of the optimiser are those of the NAIC '24 paper; window, rows and warm-up are ours. Numbers written
/// by people survive the way through JSON exactly (at most 15 significant digits), so a resumed run computes the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// Steps of the whole run, on which the learning rate's decay is laid out. At least 1, default 1000.
    pub steps: u64,
    /// Rows of a batch, each a stream of samples. At least 1, default 8.
    pub batch: usize,
    /// Tokens of each row in a step; gradients reach no further back. At least 1, default 512.
    pub seq_len: usize,
    /// Batches whose gradients make one step. At least 1, default 1.
    pub accumulate: usize,
    /// Seed of the sample order and of the split. Default 0.
    pub seed: u64,
    /// Whether the recurrent state goes on from window to window, so that long samples are seen whole. Default true.
    pub carry: bool,
    /// Operands of the matrix products of a step: f32 or bf16, default f32. What makes the network keeps to it
    /// ([`CpuEngine::training_in`](crate::engine::CpuEngine::training_in)); it is saved here so that a resumed run does too.
    pub precision: Precision,
    /// Highest learning rate. Above 0, default 5e-4.
    pub learning_rate: f64,
    /// Steps of linear warm-up. Default 50.
    pub warmup_steps: u64,
    /// Share of the learning rate that is left at the last step. 0 to 1, default 0.1.
    pub learning_rate_floor: f64,
    /// The optimiser.
    pub adamw: AdamWOptions,
    /// Largest global norm of the gradient; longer ones are scaled down to it. Above 0, default 1.0.
    pub clip_norm: f64,
    /// Steps in a row with a loss or gradient that is not finite before the run stops. At least 1, default 10.
    pub nonfinite_steps_max: u32,
    /// Share of the samples of each label that is kept for evaluation. 0 to 0.5, default 0.05.
    pub held_out_share: f64,
    /// Limits of the encoded samples.
    pub dataset: DatasetLimits,
    /// Limits of an evaluation.
    pub eval: EvalOptions,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 8,
            seq_len: 512,
            accumulate: 1,
            seed: 0,
            carry: true,
            precision: Precision::F32,
            learning_rate: 5e-4,
            warmup_steps: 50,
            learning_rate_floor: 0.1,
            adamw: AdamWOptions::default(),
            clip_norm: 1.0,
            nonfinite_steps_max: 10,
            held_out_share: 0.05,
            dataset: DatasetLimits::default(),
            eval: EvalOptions::default(),
        }
    }
}

/// A setting outside its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{key} is {found}, allowed is {allowed}")]
pub struct ConfigError {
    /// The setting, as its field is called.
    pub key: &'static str,
    /// Its value.
    pub found: String,
    /// The range.
    pub allowed: &'static str,
}

/// Returns an error naming `key` unless `holds`.
pub(crate) fn require(
    holds: bool,
    key: &'static str,
    found: impl ToString,
    allowed: &'static str,
) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError { key, found: found.to_string(), allowed }) }
}

impl TrainOptions {
    /// Largest `batch` * `seq_len`; a batch beyond it is taken for a slip of the keyboard.
    const BATCH_TOKENS_MAX: usize = 1 << 24;

    /// Checks every range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let a = &self.adamw;
        let positive = |v: f64| v.is_finite() && v > 0.0;
        require(self.steps >= 1, "steps", self.steps, "at least 1")?;
        require(self.batch >= 1, "batch", self.batch, "at least 1")?;
        require(self.seq_len >= 1, "seq_len", self.seq_len, "at least 1")?;
        let tokens = self.batch.saturating_mul(self.seq_len);
        require(tokens <= Self::BATCH_TOKENS_MAX, "batch * seq_len", tokens, "at most 16777216")?;
        require((1..=4096).contains(&self.accumulate), "accumulate", self.accumulate, "1 to 4096")?;
        let learns = self.precision != Precision::Int8;
        require(learns, "precision", self.precision.name(), "f32 or bf16")?;
        require(positive(self.learning_rate), "learning_rate", self.learning_rate, "above 0")?;
        let floor = self.learning_rate_floor;
        require((0.0..=1.0).contains(&floor), "learning_rate_floor", floor, "0 to 1")?;
        require((0.0..1.0).contains(&a.beta1), "adamw.beta1", a.beta1, "0 to below 1")?;
        require((0.0..1.0).contains(&a.beta2), "adamw.beta2", a.beta2, "0 to below 1")?;
        require(positive(a.eps), "adamw.eps", a.eps, "above 0")?;
        require((0.0..=1.0).contains(&a.weight_decay), "adamw.weight_decay", a.weight_decay, "0 to 1")?;
        require(positive(self.clip_norm), "clip_norm", self.clip_norm, "above 0")?;
        require(self.nonfinite_steps_max >= 1, "nonfinite_steps_max", self.nonfinite_steps_max, "at least 1")?;
        require((0.0..=0.5).contains(&self.held_out_share), "held_out_share", self.held_out_share, "0 to 0.5")?;
        let d = &self.dataset;
        require(d.sample_tokens_max >= 2, "dataset.sample_tokens_max", d.sample_tokens_max, "at least 2")?;
        require(d.tokens_max >= 2, "dataset.tokens_max", d.tokens_max, "at least 2")?;
        require(self.eval.tokens_max >= 2, "eval.tokens_max", self.eval.tokens_max, "at least 2")?;
        require(self.eval.batch >= 1, "eval.batch", self.eval.batch, "at least 1")?;
        require(self.eval.seq_len >= 1, "eval.seq_len", self.eval.seq_len, "at least 1")
    }

    /// The learning rate of each step.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            learning_rate: self.learning_rate,
            warmup_steps: self.warmup_steps,
            steps: self.steps,
            floor: self.learning_rate_floor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_papers_and_valid() {
        let options = TrainOptions::default();
        options.validate().unwrap();
        assert_eq!((options.learning_rate, options.clip_norm), (5e-4, 1.0));
        let a = options.adamw;
        assert_eq!((a.beta1, a.beta2, a.eps, a.weight_decay), (0.9, 0.999, 1e-8, 1e-2));
        assert_eq!(options.dataset.sample_tokens_max, 50_000);
    }

    #[test]
    fn bad_values_are_named_with_their_range() {
        let mut options = TrainOptions { batch: 0, ..Default::default() };
        assert_eq!(options.validate().unwrap_err().to_string(), "batch is 0, allowed is at least 1");
        options.batch = 1;
        options.learning_rate = f64::NAN;
        assert_eq!(options.validate().unwrap_err().key, "learning_rate");
        options.learning_rate = 1e-3;
        options.adamw.beta2 = 1.0;
        assert_eq!(options.validate().unwrap_err().key, "adamw.beta2");
        options.adamw.beta2 = 0.9;
        options.precision = Precision::Int8;
        assert_eq!(options.validate().unwrap_err().to_string(), "precision is int8, allowed is f32 or bf16");
    }

    #[test]
    fn json_keeps_every_digit_and_refuses_unknown_keys() {
        let precision = Precision::Bf16;
        let options = TrainOptions { learning_rate: 3.14159e-4, clip_norm: 0.7, precision, ..Default::default() };
        let json = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<TrainOptions>(&json).unwrap(), options);
        // Runs that were saved before there was a choice were f32.
        assert_eq!(serde_json::from_str::<TrainOptions>("{}").unwrap().precision, Precision::F32);
        assert!(serde_json::from_str::<TrainOptions>(r#"{"lerning_rate": 1}"#).is_err());
    }
}
