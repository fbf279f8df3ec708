//! Matrix products by the `gemm` crate, over views into flat buffers.

/// A view of a row-major matrix inside a flat buffer.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    transposed: bool,
}

impl std::fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rows, columns) = self.shape();
        write!(f, "matrix of {rows} x {columns}")
    }
}

impl<'a> Matrix<'a> {
    /// The dense (rows, cols) matrix at the start of `data`.
    ///
    /// # Panics
    /// When `data` is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix whose rows begin `row_stride` numbers apart.
    ///
    /// # Panics
    /// When `data` is too short or rows overlap.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(cols <= row_stride, "rows of {cols} do not fit a stride of {row_stride}");
        assert!(rows == 0 || (rows - 1) * row_stride + cols <= data.len(), "buffer too short for {rows} x {cols}");
        Self { data, rows, cols, row_stride, transposed: false }
    }

    /// The transpose of the view; no data moves.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// The numbers of row `row` of a matrix that is not transposed.
    ///
    /// # Panics
    /// When it is, or there is no such row.
    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        assert!(!self.transposed && row < self.rows, "row {row} of {self:?}");
        &self.data[row * self.row_stride..][..self.cols]
    }

    /// (rows, columns)
    pub(super) fn shape(&self) -> (usize, usize) {
        if self.transposed { (self.cols, self.rows) } else { (self.rows, self.cols) }
    }

    /// The matrix as it lies in memory: its numbers, rows, columns, numbers from a row to the next, and whether the view is its
    /// transpose.
    pub(super) fn stored(&self) -> (&'a [f32], usize, usize, usize, bool) {
        (self.data, self.rows, self.cols, self.row_stride, self.transposed)
    }

    /// (column stride, row stride)
    fn strides(&self) -> (isize, isize) {
        let stride = self.row_stride as isize;
        if self.transposed { (stride, 1) } else { (1, stride) }
    }
}

/// `ret` (m, n), rows `ret_stride` apart, becomes `a` (m, k) times `b` (k, n), or has that added when `accumulate`.
///
/// # Panics
/// When shapes do not fit.
pub fn matmul(ret: &mut [f32], ret_stride: usize, a: Matrix<'_>, b: Matrix<'_>, accumulate: bool) {
    let (m, k) = a.shape();
    let (k_b, n) = b.shape();
    assert_eq!(k, k_b, "inner dimensions");
    assert!(n <= ret_stride, "rows of {n} do not fit a stride of {ret_stride}");
    if m == 0 || n == 0 {
        return;
    }
    assert!((m - 1) * ret_stride + n <= ret.len(), "result too short for {m} x {n}");
    let (a_cs, a_rs) = a.strides();
    let (b_cs, b_rs) = b.strides();
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    // SAFETY: the constructors and the assertions above keep every (row, column) of the three matrices inside its
    // slice, and `ret` is exclusively borrowed.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            ret.as_mut_ptr(),
            1,
            ret_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a_cs,
            a_rs,
            b.data.as_ptr(),
            b_cs,
            b_rs,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}
