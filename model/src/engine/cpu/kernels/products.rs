//! Which of the products a pass uses.

use super::bf16::{Bf16Isa, Bf16Scratch, matmul_bf16};
use super::lanes::Isa;
use super::matmul::{Matrix, matmul};
use super::tiled::{TiledScratch, matmul_tiled};

/// Matrix products in f32, or over operands rounded to bf16.
#[derive(Debug, Default)]
pub struct Products {
    by: By,
    bf16: Bf16Scratch,
    tiled: TiledScratch,
}

#[derive(Debug, Default, Clone, Copy)]
enum By {
    #[default]
    Gemm,
    Tiled(Isa),
    Bf16(Bf16Isa),
}

impl Products {
    /// From now on in f32, or over operands rounded to bf16, by what `isa` has for it.
    ///
    /// In f32 that is our own tiles with AVX2, where they are faster than the `gemm` crate, and the crate with AVX-512, where a step takes as
    /// long by either.
    pub fn choose(&mut self, isa: Isa, bf16: bool) {
        self.by = match isa {
            _ if bf16 => By::Bf16(Bf16Isa::within(isa)),
            Isa::Avx512 => By::Gemm,
            Isa::Avx2 | Isa::Scalar => By::Tiled(isa),
        };
    }

    /// `ret` (m, n), rows `ret_stride` apart, becomes `a` (m, k) times `b` (k, n), or has that added when `accumulate`.
    ///
    /// # Panics
    /// When shapes do not fit.
    pub fn matmul(&mut self, ret: &mut [f32], ret_stride: usize, a: Matrix<'_>, b: Matrix<'_>, accumulate: bool) {
        match self.by {
            By::Gemm => matmul(ret, ret_stride, a, b, accumulate),
            By::Tiled(isa) => matmul_tiled(isa, &mut self.tiled, ret, ret_stride, a, b, accumulate),
            By::Bf16(isa) => matmul_bf16(isa, &mut self.bf16, ret, ret_stride, a, b, accumulate),
        }
    }
}
