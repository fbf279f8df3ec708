//! Training, one step after another.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

use super::config::{ConfigError, TrainOptions};
use super::dataset::Dataset;
use super::eval::{Eval, evaluate};
use super::learner::{HostLearner, Learner, Moments};
use super::parallel::{self, AllReduce};
use super::sampler::{Sampler, SamplerError, SamplerPosition};
use crate::codec::Token;
use crate::mamba::{Batch, Loss, Mamba, Params, State};

/// Why training cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting is outside its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data cannot be used.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The data was encoded with a larger vocabulary than the network has.
    #[error("the data has token {}, the network's vocabulary ends at {vocab_size}", .token.0)]
    Vocabulary {
        /// The highest token of the data.
        token: Token,
        /// Tokens that the network knows.
        vocab_size: usize,
    },
    /// The rows of a batch cannot be shared out evenly.
    #[error("a batch of {batch} rows cannot be shared out evenly to {processes} processes")]
    Uneven {
        /// Rows of a batch.
        batch: usize,
        /// Processes that learn together.
        processes: usize,
    },
    /// A saved state belongs to another network or batch.
    #[error("saved {what} has {found} numbers, this run needs {expected}")]
    OtherShape {
        /// Which part.
        what: &'static str,
        /// Length that this run needs.
        expected: usize,
        /// Length of the saved one.
        found: usize,
    },
    /// The loss or the gradient was not finite too often in a row.
    #[error(
        "{steps} steps in a row up to step {step} had a loss or gradient that was not finite; a lower learning rate may help"
    )]
    NotFinite {
        /// How many steps.
        steps: u32,
        /// The last of them.
        step: u64,
    },
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// Mean cross-entropy of the batch before the step, in nats a token.
    pub nats_per_token: f64,
    /// The same in bits.
    pub bits_per_token: f64,
    /// Bits a token times the training set's mean number of tokens a packet.
    pub bits_per_packet: f64,
    /// Global norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Tokens that went through the network.
    pub tokens: u64,
    /// Passes over the training set so far.
    pub epoch: f64,
    /// Whether the loss or gradient was not finite, so that nothing was learned.
    pub is_skipped: bool,
}

/// All that a training run is beside its parameters and its data: enough to go on bit for bit.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainState<'a> {
    /// Settings of the run.
    pub options: TrainOptions,
    /// Steps done.
    pub step: u64,
    /// Steps whose update was made, which the optimiser's bias correction counts.
    pub updates: u64,
    /// Steps that were skipped because of numbers that were not finite.
    pub skipped_steps: u64,
    /// How many of those came last, in a row.
    pub skipped_in_a_row: u32,
    /// AdamW's first moments, as long as the parameters.
    pub first_moment: Cow<'a, [f32]>,
    /// AdamW's second moments.
    pub second_moment: Cow<'a, [f32]>,
    /// The recurrent state that the next window starts from.
    pub carried: Cow<'a, State>,
    /// Where the sampler is.
    pub sampler: SamplerPosition,
}

/// Teaches a network, step by step. It owns the network while it learns; it never loops by itself and knows no clock.
pub struct Trainer {
    learner: Box<dyn Learner>,
    parallel: Option<Box<dyn AllReduce>>,
    options: TrainOptions,
    sampler: Sampler,
    batches: Vec<Batch>,
    step: u64,
    skipped_steps: u64,
    skipped_in_a_row: u32,
    tokens_per_packet: f64,
}

impl Trainer {
    /// A run at its first step, in memory.
    pub fn new(model: Box<dyn Mamba>, data: Arc<Dataset>, options: TrainOptions) -> Result<Self, TrainError> {
        options.validate()?;
        let learner = HostLearner::new(model, options.batch, options.adamw);
        Self::with_learner(Box::new(learner), data, options)
    }

    /// A run at its first step with a learner that was made for batches of `options.batch` rows and for `options.adamw`.
    pub fn with_learner(
        learner: Box<dyn Learner>,
        data: Arc<Dataset>,
        options: TrainOptions,
    ) -> Result<Self, TrainError> {
        options.validate()?;
        let config = learner.params().config();
        if let Some(token) = data.token_max().filter(|t| t.0 as usize >= config.vocab_size) {
            return Err(TrainError::Vocabulary { token, vocab_size: config.vocab_size });
        }
        let tokens_per_packet = data.target_count() as f64 / data.packet_count().max(1) as f64;
        let sampler = Sampler::new(data, options.batch, options.seed)?;
        let batch = Batch { b: 0, l: 0, tokens: Vec::new(), targets: Vec::new(), starts: Vec::new() };
        let batches = vec![batch; options.accumulate];
        Ok(Self {
            learner,
            parallel: None,
            options,
            sampler,
            batches,
            step: 0,
            skipped_steps: 0,
            skipped_in_a_row: 0,
            tokens_per_packet,
        })
    }

    /// A run at its first step, together with other processes: `learner` was made for this process's share of the rows, and
    /// `options.batch` counts those of all.
    pub fn in_parallel(
        learner: Box<dyn Learner>,
        data: Arc<Dataset>,
        options: TrainOptions,
        all: Box<dyn AllReduce>,
    ) -> Result<Self, TrainError> {
        let (batch, processes) = (options.batch, all.size());
        if !batch.is_multiple_of(processes) {
            return Err(TrainError::Uneven { batch, processes });
        }
        Ok(Self { parallel: Some(all), ..Self::with_learner(learner, data, options)? })
    }

    /// Learns from the next window (`accumulate` windows) of every row.
    ///
    /// A step whose loss or gradient is not finite changes no parameter and no moment; the carried state is zeroed then,
    /// in case the bad numbers came from there. After `nonfinite_steps_max` of them in a row it is an error.
    pub fn step(&mut self) -> Result<StepReport, TrainError> {
        for batch in &mut self.batches {
            self.sampler.fill(self.options.seq_len, batch);
        }
        // The mean over all windows needs the number of targets before the first of them is computed.
        let targets = self.batches.iter().flat_map(|b| &b.targets).filter(|t| **t != Batch::IGNORE).count();
        let scale = 1.0 / targets.max(1) as f32;
        self.learner.zero_gradients();
        let mut loss = Loss::default();
        for batch in &self.batches {
            if !self.options.carry {
                self.learner.zero_carried();
            }
            let part = match &self.parallel {
                None => self.learner.accumulate(batch, scale),
                Some(all) => {
                    let rows = parallel::rows(batch.b, all.rank(), all.size());
                    self.learner.accumulate(&parallel::part(batch, &rows), scale)
                }
            };
            loss.nats += part.nats;
            loss.count += part.count;
        }
        if let Some(all) = &self.parallel {
            self.learner.reduce_gradients(&**all);
            let mut sums = [loss.nats, loss.count as f64];
            all.sum_f64(&mut sums);
            loss = Loss { nats: sums[0], count: sums[1] as u64 };
        }
        let gradient_norm = self.learner.gradient_norm();
        let learning_rate = self.options.schedule().learning_rate(self.step);
        let is_skipped = !(loss.nats.is_finite() && gradient_norm.is_finite());
        self.step += 1;
        if is_skipped {
            self.skipped_steps += 1;
            self.skipped_in_a_row += 1;
            self.learner.zero_carried();
            if self.skipped_in_a_row >= self.options.nonfinite_steps_max {
                return Err(TrainError::NotFinite { steps: self.skipped_in_a_row, step: self.step });
            }
        } else {
            self.skipped_in_a_row = 0;
            // PyTorch's clip_grad_norm_ adds 1e-6 as well.
            let clip = (self.options.clip_norm / (gradient_norm + 1e-6)).min(1.0) as f32;
            self.learner.update(clip, learning_rate);
        }
        let bits_per_token = loss.mean() / std::f64::consts::LN_2;
        Ok(StepReport {
            step: self.step,
            nats_per_token: loss.mean(),
            bits_per_token,
            bits_per_packet: bits_per_token * self.tokens_per_packet,
            gradient_norm,
            learning_rate,
            tokens: self.batches.iter().map(|b| b.tokens.len() as u64).sum(),
            epoch: self.sampler.epochs(),
            is_skipped,
        })
    }

    /// How well the network predicts `held_out` now; learns nothing and leaves the run as it is.
    pub fn evaluate(&mut self, held_out: &Dataset) -> Eval {
        evaluate(self.learner.model_mut(), held_out, &self.options.eval)
    }

    /// The network's parameters.
    pub fn params(&self) -> &Params {
        self.learner.params()
    }

    /// The network.
    pub fn model_mut(&mut self) -> &mut dyn Mamba {
        self.learner.model_mut()
    }

    /// Gives the network back.
    pub fn into_model(self) -> Box<dyn Mamba> {
        self.learner.into_model()
    }

    /// The settings.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// Whether any of the processes that learn together says so; for one process, what it says. As every step, all have to ask.
    pub fn any<const N: usize>(&self, says: [bool; N]) -> [bool; N] {
        let Some(all) = &self.parallel else { return says };
        let mut sums = says.map(|s| f64::from(u8::from(s)));
        all.sum_f64(&mut sums);
        sums.map(|s| s > 0.0)
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Steps skipped because of numbers that were not finite.
    pub fn skipped_steps(&self) -> u64 {
        self.skipped_steps
    }

    /// Passes over the training set so far.
    pub fn epochs(&self) -> f64 {
        self.sampler.epochs()
    }

    /// The optimiser's memory, so that it can go on from one run to the next.
    pub fn moments(&self) -> Moments<'_> {
        self.learner.moments()
    }

    /// Takes over the moments of another run. Returns false, and changes nothing, when they belong to another network.
    #[must_use]
    pub fn restore_moments(&mut self, moments: &Moments<'_>) -> bool {
        self.learner.restore_moments(moments)
    }

    /// What has to be saved, beside the parameters, to go on exactly. Where several processes learn together, all have to ask for it.
    pub fn state(&self) -> TrainState<'_> {
        let moments = self.learner.moments();
        let carried = match &self.parallel {
            None => self.learner.carried(),
            Some(all) => {
                let config = self.learner.params().config();
                Cow::Owned(parallel::whole_state(&**all, &self.learner.carried(), self.options.batch, config))
            }
        };
        TrainState {
            options: self.options.clone(),
            step: self.step,
            updates: moments.updates,
            skipped_steps: self.skipped_steps,
            skipped_in_a_row: self.skipped_in_a_row,
            first_moment: moments.first,
            second_moment: moments.second,
            carried,
            sampler: self.sampler.position().clone(),
        }
    }

    /// Goes on from `state`, whose parameters the network was given already. On an error nothing has changed.
    ///
    /// This run's own options stay: to be equal to a run that was not interrupted they have to be `state.options`. The data and
    /// the number of rows must be the same; steps, rates and window length may differ.
    pub fn restore(&mut self, state: TrainState<'_>) -> Result<(), TrainError> {
        let expect = |what, expected: usize, found: usize| {
            if expected == found { Ok(()) } else { Err(TrainError::OtherShape { what, expected, found }) }
        };
        let (len, carried) =
            (self.learner.params().data.len(), State::new(self.learner.params().config(), self.options.batch));
        expect("first moment", len, state.first_moment.len())?;
        expect("second moment", len, state.second_moment.len())?;
        expect("recurrent state (rows)", carried.b, state.carried.b)?;
        expect("recurrent state (convolution)", carried.conv.len(), state.carried.conv.len())?;
        expect("recurrent state (scan)", carried.ssm.len(), state.carried.ssm.len())?;
        self.sampler.restore(state.sampler)?;
        let moments = Moments { first: state.first_moment, second: state.second_moment, updates: state.updates };
        let is_restored = self.learner.restore_moments(&moments);
        debug_assert!(is_restored, "lengths were checked above");
        self.learner.set_carried(match &self.parallel {
            None => state.carried.into_owned(),
            Some(all) => {
                let rows = parallel::rows(self.options.batch, all.rank(), all.size());
                parallel::state_part(&state.carried, &rows, self.learner.params().config())
            }
        });
        (self.step, self.skipped_steps) = (state.step, state.skipped_steps);
        self.skipped_in_a_row = state.skipped_in_a_row;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
