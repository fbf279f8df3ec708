//! Which of the two products a pass uses.

use super::bf16::{Bf16Isa, Bf16Scratch, matmul_bf16};
use super::lanes::Isa;
use super::matmul::{Matrix, matmul};

/// Matrix products in f32, or over operands rounded to bf16.
#[derive(Debug, Default)]
pub struct Products {
    bf16: Option<Bf16Isa>,
    scratch: Bf16Scratch,
}

impl Products {
    /// From now on as bf16, by what `isa` has for it, or as f32.
    pub fn set_bf16(&mut self, isa: Isa, bf16: bool) {
        self.bf16 = bf16.then(|| Bf16Isa::within(isa));
    }

    /// `ret` (m, n), rows `ret_stride` apart, becomes `a` (m, k) times `b` (k, n), or has that added when `accumulate`.
    ///
    /// # Panics
    /// When shapes do not fit.
    pub fn matmul(&mut self, ret: &mut [f32], ret_stride: usize, a: Matrix<'_>, b: Matrix<'_>, accumulate: bool) {
        match self.bf16 {
            Some(isa) => matmul_bf16(isa, &mut self.scratch, ret, ret_stride, a, b, accumulate),
            None => matmul(ret, ret_stride, a, b, accumulate),
        }
    }
}
