//! Where the parameters, their gradients and the optimiser's moments live while a network learns.
//!
//! A [`Learner`] has them together, so that on a GPU none of them crosses the bus in a step. [`HostLearner`] is the plain one:
//! any [`Mamba`] with flat buffers in memory.

use std::borrow::Cow;
use std::sync::Arc;

use super::optimizer::{AdamW, AdamWOptions, global_norm};
use super::parallel::AllReduce;
use crate::mamba::{Batch, Loss, Mamba, Params, State};

/// AdamW's memory: enough to go on exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments<'a> {
    /// First moments, as long as the parameters.
    pub first: Cow<'a, [f32]>,
    /// Second moments.
    pub second: Cow<'a, [f32]>,
    /// Updates made so far, which the bias correction counts.
    pub updates: u64,
}

impl Moments<'_> {
    /// A copy that depends on no learner.
    pub fn into_owned(self) -> Moments<'static> {
        let (first, second) = (Cow::Owned(self.first.into_owned()), Cow::Owned(self.second.into_owned()));
        Moments { first, second, updates: self.updates }
    }
}

/// A network that learns, with everything that a step changes.
pub trait Learner: Send {
    /// The network, to be measured or given other parameters.
    fn model_mut(&mut self) -> &mut dyn Mamba;

    /// The parameters as they are now.
    fn params(&self) -> &Params;

    /// Gives the network back.
    fn into_model(self: Box<Self>) -> Box<dyn Mamba>;

    /// Sets the gradients to zero.
    fn zero_gradients(&mut self);

    /// Adds `scale` times the derivative of the summed cross-entropy of `batch` to the gradients. The rows begin with the carried
    /// state, which moves on to their ends.
    fn accumulate(&mut self, batch: &Batch, scale: f32) -> Loss;

    /// Sums the gradients over all processes.
    fn reduce_gradients(&mut self, all: &dyn AllReduce);

    /// Euclidean norm of the gradients; not finite when one of them is not.
    fn gradient_norm(&mut self) -> f64;

    /// One step of AdamW with the gradients times `clip`. The gradients mean nothing afterwards.
    fn update(&mut self, clip: f32, learning_rate: f64);

    /// AdamW's memory.
    fn moments(&self) -> Moments<'_>;

    /// Takes over saved moments. Returns false, and changes nothing, when their lengths are not those of the parameters.
    #[must_use]
    fn restore_moments(&mut self, moments: &Moments<'_>) -> bool;

    /// The recurrent state that the next rows begin with.
    fn carried(&self) -> Cow<'_, State>;

    /// Sets it; it belongs to the same network and has as many rows as before.
    fn set_carried(&mut self, state: State);

    /// Sets every row back to the state before the first token.
    fn zero_carried(&mut self);
}

/// A [`Learner`] in memory, around any network.
pub struct HostLearner {
    model: Box<dyn Mamba>,
    optimizer: AdamW,
    /// Gradients while a step is computed; the new parameters at its end.
    gradients: Params,
    carried: State,
}

impl HostLearner {
    /// A learner without history for batches of `rows` rows.
    pub fn new(model: Box<dyn Mamba>, rows: usize, options: AdamWOptions) -> Self {
        let layout = Arc::clone(&model.params().layout);
        Self {
            optimizer: AdamW::new(&layout, options),
            carried: State::new(model.params().config(), rows),
            gradients: Params { data: vec![0.0; layout.len], layout },
            model,
        }
    }
}

impl Learner for HostLearner {
    fn model_mut(&mut self) -> &mut dyn Mamba {
        &mut *self.model
    }

    fn params(&self) -> &Params {
        self.model.params()
    }

    fn into_model(self: Box<Self>) -> Box<dyn Mamba> {
        self.model
    }

    fn zero_gradients(&mut self) {
        self.gradients.data.fill(0.0);
    }

    fn accumulate(&mut self, batch: &Batch, scale: f32) -> Loss {
        self.model.gradients(batch, &mut self.carried, scale, &mut self.gradients)
    }

    fn reduce_gradients(&mut self, all: &dyn AllReduce) {
        all.sum_f32(&mut self.gradients.data);
    }

    fn gradient_norm(&mut self) -> f64 {
        global_norm(&self.gradients.data)
    }

    fn update(&mut self, clip: f32, learning_rate: f64) {
        self.optimizer.update(&self.model.params().data, &mut self.gradients.data, clip, learning_rate);
        self.model.set_params(&self.gradients.data);
    }

    fn moments(&self) -> Moments<'_> {
        let (first, second) = self.optimizer.moments();
        Moments { first: Cow::Borrowed(first), second: Cow::Borrowed(second), updates: self.optimizer.updates() }
    }

    fn restore_moments(&mut self, moments: &Moments<'_>) -> bool {
        self.optimizer.restore(&moments.first, &moments.second, moments.updates)
    }

    fn carried(&self) -> Cow<'_, State> {
        Cow::Borrowed(&self.carried)
    }

    fn set_carried(&mut self, state: State) {
        self.carried = state;
    }

    fn zero_carried(&mut self) {
        self.carried.conv.fill(0.0);
        self.carried.ssm.fill(0.0);
    }
}
