//! A learner whose parameters, gradients, moments and carried state stay in device memory.

use std::borrow::Cow;

use super::buffers::{Buffers, DeviceState};
use super::gpu::{Buffer, Number};
use super::kernels::{AdamWStep, SQUARE_BLOCKS};
use super::{CudaEngine, accumulate, check_rows};
use crate::mamba::{Batch, Loss, Mamba, ParamLayout, Params, State};
use crate::train::{AdamWOptions, AllReduce, Learner, Moments};

/// Numbers that one block of AdamW updates.
const PIECE: usize = 64 * 1024;

/// A [`Learner`] on a GPU: in a step only the batch goes to the device, and only the loss and the norm come back.
#[derive(Debug)]
pub struct CudaLearner {
    engine: CudaEngine,
    options: AdamWOptions,
    buffers: Option<Buffers>,
    gradients: Buffer,
    first: Buffer,
    second: Buffer,
    /// Pieces of the flat buffers, (n, 3): begin, length, whether it decays.
    pieces: Buffer,
    square_partial: Buffer,
    square: Buffer,
    carried: DeviceState,
    updates: u64,
}

impl CudaLearner {
    /// A learner without history for batches of `rows` rows.
    pub fn new(engine: CudaEngine, rows: usize, options: AdamWOptions) -> Self {
        let (gpu, layout) = (&engine.gpu, &engine.weights.layout);
        gpu.bind();
        Self {
            buffers: None,
            gradients: gpu.zeros(Number::F32, layout.len),
            first: gpu.zeros(Number::F32, layout.len),
            second: gpu.zeros(Number::F32, layout.len),
            pieces: gpu.upload(&pieces(layout)),
            square_partial: gpu.alloc(Number::F64, SQUARE_BLOCKS),
            square: gpu.alloc(Number::F64, 1),
            carried: DeviceState::new(gpu, &layout.config, rows),
            updates: 0,
            options,
            engine,
        }
    }

    /// The engine.
    pub fn engine(&self) -> &CudaEngine {
        &self.engine
    }

    fn read(&self, from: &Buffer) -> Vec<f32> {
        self.engine.gpu.bind();
        let mut ret = vec![0.0; from.span().len()];
        self.engine.gpu.read(from.span(), &mut ret);
        ret
    }
}

/// Every tensor in pieces.
pub(super) fn pieces(layout: &ParamLayout) -> Vec<u32> {
    let int = |n: usize| u32::try_from(n).expect("a network of fewer than 2^32 parameters");
    let pieces = layout.entries.iter().flat_map(|entry| {
        let range = entry.range();
        range.clone().step_by(PIECE).map(move |at| [int(at), int(PIECE.min(range.end - at)), u32::from(entry.decays)])
    });
    pieces.flatten().collect()
}

impl Learner for CudaLearner {
    fn model_mut(&mut self) -> &mut dyn Mamba {
        &mut self.engine
    }

    fn params(&self) -> &Params {
        self.engine.params()
    }

    fn into_model(self: Box<Self>) -> Box<dyn Mamba> {
        Box::new(self.engine)
    }

    fn zero_gradients(&mut self) {
        self.engine.gpu.bind();
        self.engine.gpu.zero(self.gradients.span());
    }

    fn accumulate(&mut self, batch: &Batch, scale: f32) -> Loss {
        check_rows(batch, self.carried.b);
        let CudaEngine { gpu, weights, .. } = &self.engine;
        gpu.bind();
        accumulate(gpu, weights, &mut self.buffers, batch, scale, &self.carried, &self.gradients)
    }

    /// By NCCL where the processes have joined by it, else through the host's memory.
    fn reduce_gradients(&mut self, all: &dyn AllReduce) {
        #[cfg(feature = "nccl")]
        if let Some(nccl) = all.nccl() {
            self.engine.gpu.bind();
            return nccl.sum(&self.engine.gpu, self.gradients.span());
        }
        let mut gradients = self.read(&self.gradients);
        all.sum_f32(&mut gradients);
        self.engine.gpu.write(self.gradients.span(), &gradients);
    }

    fn gradient_norm(&mut self) -> f64 {
        let gpu = &self.engine.gpu;
        gpu.bind();
        gpu.square_sum(self.gradients.span(), self.square_partial.span(), self.square.span());
        let mut square = [0.0f64];
        gpu.read(self.square.span(), &mut square);
        square[0].sqrt()
    }

    fn update(&mut self, clip: f32, learning_rate: f64) {
        self.updates += 1;
        let o = self.options;
        let correction = |beta: f64| 1.0 - beta.powi(self.updates.min(i32::MAX as u64) as i32);
        let step = AdamWStep {
            clip,
            beta1: o.beta1 as f32,
            rest1: (1.0 - o.beta1) as f32,
            beta2: o.beta2 as f32,
            rest2: (1.0 - o.beta2) as f32,
            eps: o.eps as f32,
            step_size: (learning_rate / correction(o.beta1)) as f32,
            root_correction: correction(o.beta2).sqrt() as f32,
            kept: (1.0 - learning_rate * o.weight_decay) as f32,
        };
        let CudaEngine { gpu, weights, .. } = &mut self.engine;
        gpu.bind();
        let (params, halves) = weights.spans_to_update();
        let (first, second) = (self.first.span(), self.second.span());
        gpu.adamw(params, self.gradients.span(), first, second, halves, self.pieces.span(), &step);
    }

    fn moments(&self) -> Moments<'_> {
        let (first, second) = (Cow::Owned(self.read(&self.first)), Cow::Owned(self.read(&self.second)));
        Moments { first, second, updates: self.updates }
    }

    fn restore_moments(&mut self, moments: &Moments<'_>) -> bool {
        let len = self.gradients.span().len();
        if moments.first.len() != len || moments.second.len() != len {
            return false;
        }
        let gpu = &self.engine.gpu;
        gpu.bind();
        gpu.write(self.first.span(), &moments.first);
        gpu.write(self.second.span(), &moments.second);
        self.updates = moments.updates;
        true
    }

    fn carried(&self) -> Cow<'_, State> {
        let CudaEngine { gpu, weights, .. } = &self.engine;
        gpu.bind();
        let mut state = State::new(weights.config(), self.carried.b);
        self.carried.read(gpu, weights.config(), &mut state);
        Cow::Owned(state)
    }

    fn set_carried(&mut self, state: State) {
        let CudaEngine { gpu, weights, .. } = &self.engine;
        gpu.bind();
        self.carried.write(gpu, weights.config(), &state);
    }

    fn zero_carried(&mut self) {
        self.engine.gpu.bind();
        self.carried.zero(&self.engine.gpu);
    }
}
