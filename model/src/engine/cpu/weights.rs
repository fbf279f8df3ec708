//! The parameters, and what is computed from them once rather than at every use.

use std::ops::Range;

use crate::mamba::{LayerOffsets, MambaConfig, Params};

use super::kernels::PackedMatrix;

/// Parameters with their derived forms.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) params: Params,
    pub(super) layers: Vec<Derived>,
    /// The products of a step in panels; made at the first step after the parameters changed.
    pub(super) packed: Option<Packed>,
}

/// Derived forms of one block.
#[derive(Debug)]
pub(super) struct Derived {
    /// A log2(e) = -exp(A_log) log2(e), (d_state, d_inner).
    pub(super) a2: Vec<f32>,
    /// Weights of the convolution, (d_conv, d_inner), oldest tap first.
    pub(super) conv_weight: Vec<f32>,
}

/// All matrices in panels.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) layers: Vec<PackedLayer>,
    pub(super) head: PackedMatrix,
}

/// The matrices of one block in panels.
#[derive(Debug)]
pub(super) struct PackedLayer {
    pub(super) in_proj: PackedMatrix,
    pub(super) x_proj: PackedMatrix,
    pub(super) dt_proj: PackedMatrix,
    pub(super) out_proj: PackedMatrix,
}

impl Weights {
    pub(super) fn new(params: Params) -> Self {
        let c = params.config();
        let derived =
            |_| Derived { a2: vec![0.0; c.d_state * c.d_inner], conv_weight: vec![0.0; c.d_conv * c.d_inner] };
        let layers = (0..c.n_layer).map(derived).collect();
        let mut weights = Self { params, layers, packed: None };
        weights.refresh();
        weights
    }

    /// Computes the derived forms again after the parameters changed.
    pub(super) fn refresh(&mut self) {
        self.packed = None;
        let layout = self.params.layout.clone();
        let c = &layout.config;
        for (derived, offsets) in self.layers.iter_mut().zip(&layout.layers) {
            let a_log = &self.params.data[offsets.a_log..][..c.d_inner * c.d_state];
            let conv = &self.params.data[offsets.conv_weight..][..c.d_inner * c.d_conv];
            for channel in 0..c.d_inner {
                for n in 0..c.d_state {
                    derived.a2[n * c.d_inner + channel] =
                        -a_log[channel * c.d_state + n].exp() * std::f32::consts::LOG2_E;
                }
                for k in 0..c.d_conv {
                    derived.conv_weight[k * c.d_inner + channel] = conv[channel * c.d_conv + k];
                }
            }
        }
    }

    /// Lays the matrices out in panels unless they are already.
    pub(super) fn pack(&mut self) {
        if self.packed.is_some() {
            return;
        }
        let layout = self.params.layout.clone();
        let c = &layout.config;
        let matrix = |at: usize, outputs: usize, inputs: usize| {
            PackedMatrix::new(&self.params.data[at..at + outputs * inputs], outputs, inputs)
        };
        let layer = |o: &LayerOffsets| PackedLayer {
            in_proj: matrix(o.in_proj, 2 * c.d_inner, c.d_model),
            x_proj: matrix(o.x_proj, c.x_proj_width(), c.d_inner),
            dt_proj: matrix(o.dt_weight, c.d_inner, c.dt_rank),
            out_proj: matrix(o.out_proj, c.d_model, c.d_inner),
        };
        self.packed = Some(Packed {
            layers: layout.layers.iter().map(layer).collect(),
            head: matrix(layout.embedding, c.vocab_size, c.d_model),
        });
    }

    pub(super) fn config(&self) -> &MambaConfig {
        self.params.config()
    }

    pub(super) fn slice(&self, at: usize, len: usize) -> &[f32] {
        &self.params.data[at..at + len]
    }

    pub(super) fn embedding(&self) -> &[f32] {
        let c = self.config();
        self.slice(self.params.layout.embedding, c.vocab_size * c.d_model)
    }
}

/// The place of a tensor of `len` numbers at `at`.
pub(super) fn range(at: usize, len: usize) -> Range<usize> {
    at..at + len
}
