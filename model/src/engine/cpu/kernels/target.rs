//! What our products of several blocks write to, whatever they multiply.

use super::matmul::Matrix;
use super::shared::Shared;

/// Where a product of ours goes, and its shape.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) start: Shared,
    pub(super) stride: usize,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) accumulate: bool,
}

impl Target {
    /// `ret`, rows `stride` apart, for `a` times `b`; `None` where there is nothing to write.
    ///
    /// # Panics
    /// When shapes do not fit.
    pub(super) fn new(ret: &mut [f32], stride: usize, a: Matrix<'_>, b: Matrix<'_>, accumulate: bool) -> Option<Self> {
        let ((m, k), (k_b, n)) = (a.shape(), b.shape());
        assert_eq!(k, k_b, "inner dimensions");
        assert!(n <= stride, "rows of {n} do not fit a stride of {stride}");
        if m == 0 || n == 0 {
            return None;
        }
        assert!((m - 1) * stride + n <= ret.len(), "result too short for {m} x {n}");
        Some(Self { start: Shared::new(ret), stride, m, n, k, accumulate })
    }
}
