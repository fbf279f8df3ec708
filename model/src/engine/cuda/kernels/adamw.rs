//! The kernels of a step of the optimiser: sums over all numbers, the step itself, and weights in bf16.

use super::super::gpu::{Arg, Gpu, Number, Span};
use super::THREADS;

/// Blocks of the sum of squares.
pub(in crate::engine::cuda) const SQUARE_BLOCKS: usize = 1024;

/// Settings of one step of AdamW, as adamw.cu takes them.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine::cuda) struct AdamWStep {
    pub(in crate::engine::cuda) clip: f32,
    pub(in crate::engine::cuda) beta1: f32,
    pub(in crate::engine::cuda) rest1: f32,
    pub(in crate::engine::cuda) beta2: f32,
    pub(in crate::engine::cuda) rest2: f32,
    pub(in crate::engine::cuda) eps: f32,
    pub(in crate::engine::cuda) step_size: f32,
    pub(in crate::engine::cuda) root_correction: f32,
    pub(in crate::engine::cuda) kept: f32,
}

impl Gpu {
    /// The sum of f32 numbers to one f64.
    pub(in crate::engine::cuda) fn total(&self, from: Span, ret: Span) {
        assert!(from.number() == Number::F32 && ret.number() == Number::F64 && ret.len() == 1, "total");
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch("total_f32", (1, 1, 1), (THREADS, 1), args![from, ret, from.len()]) };
    }

    /// The sum of the squares of f32 numbers to one f64; `partial` has [`SQUARE_BLOCKS`].
    pub(in crate::engine::cuda) fn square_sum(&self, from: Span, partial: Span, ret: Span) {
        assert!(from.number() == Number::F32 && ret.number() == Number::F64 && ret.len() == 1, "square_sum");
        assert!(partial.number() == Number::F64 && partial.len() == SQUARE_BLOCKS, "square_sum");
        let args = args![from, partial, from.len() as u64];
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch("square_sums", (SQUARE_BLOCKS, 1, 1), (THREADS, 1), args) };
        // SAFETY: as above.
        unsafe { self.launch("total_f64", (1, 1, 1), (THREADS, 1), args![partial, ret, SQUARE_BLOCKS]) };
    }

    /// f32 numbers as bf16.
    pub(in crate::engine::cuda) fn cast(&self, from: Span, to: Span) {
        assert!(from.number() == Number::F32 && to.number() == Number::Bf16 && from.len() == to.len(), "cast");
        let blocks = from.len().div_ceil(THREADS * 4).min(4096);
        // SAFETY: the kernel's arguments, of the lengths that were checked.
        unsafe { self.launch("cast_bf16", (blocks, 1, 1), (THREADS, 1), args![from, to, from.len() as u64]) };
    }

    /// A step of AdamW. `pieces`, (n, 3), cover the buffers: begin, length, whether it decays.
    #[allow(clippy::too_many_arguments)]
    pub(in crate::engine::cuda) fn adamw(
        &self,
        params: Span,
        gradients: Span,
        first: Span,
        second: Span,
        halves: Span,
        pieces: Span,
        o: &AdamWStep,
    ) {
        let AdamWStep { clip, beta1, rest1, beta2, rest2, eps, step_size, root_correction: root, kept } = *o;
        let len = params.len();
        assert!(gradients.len() == len && first.len() == len && second.len() == len, "adamw");
        assert!(halves.len() == 0 || halves.len() == len, "halves");
        let args = args![
            params, gradients, first, second, halves, pieces, clip, beta1, rest1, beta2, rest2, eps, step_size, root,
            kept
        ];
        // SAFETY: the kernel's arguments, of the lengths that were checked; the pieces are made for this layout.
        unsafe { self.launch("adamw", (pieces.len() / 3, 1, 1), (THREADS, 1), args) };
    }
}
