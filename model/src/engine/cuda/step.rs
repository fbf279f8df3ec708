//! One token for each stream through all blocks and the head.
//!
//! For few streams the products are our own kernels', fused with what stands around them, with f32 activations: of so little work the
//! launches are the price. For many they are cuBLAS's, with activations as in [`forward`](super::forward).

use super::buffers::DeviceState;
use super::forward::matrix;
use super::gpu::{Buffer, Gpu, GpuMatrix, Number, Recording, Span};
use super::kernels::{FEW_STREAMS, StepConv, StepScan, StepShape};
use super::weights::Weights;
use crate::codec::Token;
use crate::mamba::MambaConfig;

/// Everything that a step of `b` streams writes between the tokens and the logits.
#[derive(Debug)]
pub(super) struct StepBuffers {
    shape: StepShape,
    tokens: Buffer,
    /// Residual stream, f32, (b, d_model).
    residual: Buffer,
    /// Normed residual stream, (b, d_model); of many only.
    normed: Buffer,
    /// Input projection, (b, 2 d_inner).
    xz: Buffer,
    /// Convolved input, (b, d_inner).
    conv: Buffer,
    /// dt before its projection, B, C, (b, dt_rank + 2 d_state).
    x_dbl: Buffer,
    /// dt before bias and softplus, (b, d_inner); of many only.
    dt: Buffer,
    /// Gated output of the scan, (b, d_inner).
    y: Buffer,
    /// Tokens as the device takes them.
    host_tokens: Vec<u32>,
    has_run: bool,
    /// The step as one graph, once it has run.
    recording: Option<Recording>,
}

impl StepBuffers {
    pub(super) fn new(gpu: &Gpu, c: &MambaConfig, number: Number, b: usize) -> Self {
        let is_few = b <= FEW_STREAMS;
        let number = if is_few { Number::F32 } else { number };
        let of_many = |len: usize| gpu.alloc(number, if is_few { 0 } else { len });
        Self {
            shape: StepShape { b, d_inner: c.d_inner, d_conv: c.d_conv, dt_rank: c.dt_rank },
            tokens: gpu.alloc(Number::U32, b),
            residual: gpu.alloc(Number::F32, b * c.d_model),
            normed: of_many(b * c.d_model),
            xz: gpu.alloc(number, b * 2 * c.d_inner),
            conv: gpu.alloc(number, b * c.d_inner),
            x_dbl: gpu.alloc(number, b * c.x_proj_width()),
            dt: of_many(b * c.d_inner),
            y: gpu.alloc(number, b * c.d_inner),
            host_tokens: Vec::new(),
            has_run: false,
            recording: None,
        }
    }

    /// Moves `state`, always the same one, on by `inputs`, and writes the logits. Launched one by one the first time, recorded the second
    /// time, and from then on run as one graph.
    ///
    /// # Panics
    /// When there is not one token for each stream, or one is outside the vocabulary.
    pub(super) fn step(
        &mut self,
        gpu: &Gpu,
        weights: &Weights,
        inputs: &[Token],
        state: &DeviceState,
        logits: &Buffer,
    ) {
        assert_eq!(inputs.len(), self.shape.b, "one token for each stream");
        if inputs.is_empty() {
            return;
        }
        let vocab_size = weights.config().vocab_size;
        self.host_tokens.clear();
        self.host_tokens.extend(inputs.iter().map(|t| t.0));
        if let Some(token) = self.host_tokens.iter().find(|t| **t as usize >= vocab_size) {
            panic!("token {token} outside a vocabulary of {vocab_size}");
        }
        gpu.write(self.tokens.span(), &self.host_tokens);
        if !std::mem::replace(&mut self.has_run, true) {
            return self.launch(gpu, weights, state, logits);
        }
        let recording = self.recording.take();
        let mut recording = recording.unwrap_or_else(|| gpu.record(|| self.launch(gpu, weights, state, logits)));
        gpu.replay(&mut recording);
        self.recording = Some(recording);
    }

    fn launch(&self, gpu: &Gpu, weights: &Weights, state: &DeviceState, logits: &Buffer) {
        let (c, layout, b) = (weights.config(), &weights.layout, self.shape.b);
        let (d, v) = (c.d_model, c.vocab_size);
        gpu.embed(weights.master(layout.embedding, v * d), self.tokens.span(), self.residual.span());
        let is_few = b <= FEW_STREAMS;
        for layer in 0..c.n_layer {
            if is_few {
                self.few(gpu, weights, layer, state);
            } else {
                self.many(gpu, weights, layer, state);
            }
        }
        let norm_f = weights.master(layout.norm_f, d);
        if is_few {
            let table = weights.of_products(layout.embedding, v * d);
            gpu.step_head(self.residual.span(), norm_f, table, logits.span(), b, c.norm_eps);
        } else {
            gpu.norm_forward(self.residual.span(), norm_f, self.normed.span(), Span::NONE, c.norm_eps);
            let table = weights.matrix(layout.embedding, v, d);
            gpu.multiply(matrix(logits, b, v), matrix(&self.normed, b, d), table.t(), false);
        }
    }

    /// A block for few streams.
    fn few(&self, gpu: &Gpu, weights: &Weights, layer: usize, state: &DeviceState) {
        let (c, at) = (weights.config(), &weights.layout.layers[layer]);
        let (b, d, di) = (self.shape.b, c.d_model, c.d_inner);
        let (norm, in_proj) = (weights.master(at.norm, d), weights.of_products(at.in_proj, 2 * di * d));
        gpu.step_in(self.residual.span(), norm, in_proj, &self.conv(weights, layer, state), c.norm_eps);
        let x_proj = weights.of_products(at.x_proj, c.x_proj_width() * di);
        gpu.step_product(x_proj, self.conv.span(), self.x_dbl.span(), b, false);
        gpu.step_dt_scan(&self.scan(weights, layer, state), weights.of_products(at.dt_weight, di * c.dt_rank));
        gpu.step_product(weights.of_products(at.out_proj, d * di), self.y.span(), self.residual.span(), b, true);
    }

    /// A block for many streams.
    fn many(&self, gpu: &Gpu, weights: &Weights, layer: usize, state: &DeviceState) {
        let (c, at) = (weights.config(), &weights.layout.layers[layer]);
        let (b, d, di, width) = (self.shape.b, c.d_model, c.d_inner, c.x_proj_width());
        gpu.norm_forward(self.residual.span(), weights.master(at.norm, d), self.normed.span(), Span::NONE, c.norm_eps);
        let in_proj = weights.matrix(at.in_proj, 2 * di, d);
        gpu.multiply(matrix(&self.xz, b, 2 * di), matrix(&self.normed, b, d), in_proj.t(), false);
        gpu.step_conv(&self.conv(weights, layer, state));
        let x_proj = weights.matrix(at.x_proj, width, di);
        gpu.multiply(matrix(&self.x_dbl, b, width), matrix(&self.conv, b, di), x_proj.t(), false);
        let dt_proj = weights.matrix(at.dt_weight, di, c.dt_rank);
        let dt_low = GpuMatrix::strided(self.x_dbl.span(), b, c.dt_rank, width);
        gpu.multiply(matrix(&self.dt, b, di), dt_low, dt_proj.t(), false);
        gpu.step_scan(&self.scan(weights, layer, state), self.dt.span());
        let out_proj = weights.matrix(at.out_proj, d, di);
        gpu.multiply(matrix(&self.residual, b, d), matrix(&self.y, b, di), out_proj.t(), true);
    }

    fn conv(&self, weights: &Weights, layer: usize, state: &DeviceState) -> StepConv {
        let (c, at) = (weights.config(), &weights.layout.layers[layer]);
        StepConv {
            shape: self.shape,
            weight: weights.master(at.conv_weight, c.d_inner * c.d_conv),
            bias: weights.master(at.conv_bias, c.d_inner),
            window: state.conv(c, layer),
            xz: self.xz.span(),
            conv: self.conv.span(),
        }
    }

    fn scan(&self, weights: &Weights, layer: usize, state: &DeviceState) -> StepScan {
        let (c, at) = (weights.config(), &weights.layout.layers[layer]);
        StepScan {
            shape: self.shape,
            x: self.conv.span(),
            xz: self.xz.span(),
            x_dbl: self.x_dbl.span(),
            a_log: weights.master(at.a_log, c.d_inner * c.d_state),
            dt_bias: weights.master(at.dt_bias, c.d_inner),
            d_skip: weights.master(at.d, c.d_inner),
            state: state.ssm(c, layer),
            y: self.y.span(),
        }
    }
}
