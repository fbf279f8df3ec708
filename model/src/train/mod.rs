//! Training: samples, the order in which they are learned from, the optimiser, and one step after another.
//!
//! [`Dataset`] holds encoded samples, [`Sampler`] hands out endless windows of them, and [`Trainer::step`] learns
//! from one window: no clock, no loop, no disk, so that whoever drives it decides about progress, saving and stopping.
//! The network is any [`Mamba`](crate::mamba::Mamba), taught by a [`Learner`] that knows where its numbers live; files are [`checkpoint`](crate::checkpoint)'s job.

pub mod baseline;
pub mod config;
mod dataset;
mod eval;
mod learner;
mod optimizer;
mod parallel;
mod sampler;
mod schedule;
#[cfg(test)]
pub(crate) mod testing;
mod trainer;

pub use config::{ConfigError, TrainOptions};
pub use dataset::{Dataset, DatasetCounters, DatasetLimits, Sample};
pub use eval::{Eval, EvalOptions, LabelEval, Tally, evaluate};
pub use learner::{HostLearner, Learner, Moments};
pub use optimizer::{AdamW, AdamWOptions, global_norm};
pub use parallel::AllReduce;
pub use sampler::{RowPosition, Sampler, SamplerError, SamplerPosition};
pub use schedule::Schedule;
pub use trainer::{StepReport, TrainError, TrainState, Trainer};
