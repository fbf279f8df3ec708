//! Products of matrices in device memory, by cuBLAS.

use std::ffi::c_void;

use cudarc::cublas::{self, sys as blas};

use super::Gpu;
use super::memory::{Number, Span};
use crate::device::DeviceFailure;

/// Scratch of the matrix products: what NVIDIA recommends for compute capability 9.0, and enough for the others.
const WORKSPACE_BYTES: usize = 32 << 20;

/// A matrix in device memory, row-major, perhaps to be read as its transpose.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine::cuda) struct GpuMatrix {
    span: Span,
    rows: usize,
    columns: usize,
    stride: usize,
    is_transposed: bool,
}

impl GpuMatrix {
    /// `rows` x `columns` numbers behind one another.
    pub(in crate::engine::cuda) fn new(span: Span, rows: usize, columns: usize) -> Self {
        Self::strided(span, rows, columns, columns)
    }

    /// `rows` rows of `columns` numbers, `stride` numbers apart.
    ///
    /// # Panics
    /// When the span is too short.
    pub(in crate::engine::cuda) fn strided(span: Span, rows: usize, columns: usize, stride: usize) -> Self {
        assert!(
            columns <= stride && rows > 0 && (rows - 1) * stride + columns <= span.len,
            "a matrix outside of its span"
        );
        Self { span, rows, columns, stride, is_transposed: false }
    }

    /// Its transpose.
    pub(in crate::engine::cuda) fn t(self) -> Self {
        Self { is_transposed: !self.is_transposed, ..self }
    }

    fn shape(&self) -> (usize, usize) {
        if self.is_transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    fn operation(&self) -> blas::cublasOperation_t {
        // cuBLAS takes columns where we have rows, so every matrix is already its transpose, and the product is turned round.
        if self.is_transposed { blas::cublasOperation_t::CUBLAS_OP_T } else { blas::cublasOperation_t::CUBLAS_OP_N }
    }

    fn data_type(&self) -> blas::cudaDataType {
        match self.span.number {
            Number::F32 => blas::cudaDataType::CUDA_R_32F,
            Number::Bf16 => blas::cudaDataType::CUDA_R_16BF,
            other => panic!("no products of {other:?}"),
        }
    }
}

impl Gpu {
    pub(super) fn open_blas(&mut self) -> Result<(), cublas::result::CublasError> {
        self.blas = cublas::result::create_handle()?;
        let workspace = self.alloc(Number::U8, WORKSPACE_BYTES);
        // SAFETY: the handle was just made; stream and workspace live as long as it.
        unsafe {
            cublas::result::set_stream(self.blas, self.inner.stream.cu_stream().cast())?;
            blas::cublasSetWorkspace_v2(self.blas, workspace.ptr as *mut c_void, WORKSPACE_BYTES).result()?;
            // Sums of bf16 products are f32 all the way.
            let mode = blas::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
            blas::cublasSetMathMode(self.blas, mode).result()?;
        }
        self.workspace = Some(workspace);
        Ok(())
    }

    /// `ret` becomes a b, or has it added.
    ///
    /// # Panics
    /// When shapes do not fit, or `a` and `b` are not of the same numbers.
    pub(in crate::engine::cuda) fn multiply(&self, ret: GpuMatrix, a: GpuMatrix, b: GpuMatrix, accumulate: bool) {
        let ((m, k), (k_b, n)) = (a.shape(), b.shape());
        assert!(k == k_b && ret.shape() == (m, n) && !ret.is_transposed, "{a:?} {b:?} {ret:?}");
        assert_eq!(a.span.number, b.span.number, "products are of one kind of number");
        let (alpha, beta) = (1.0f32, if accumulate { 1.0f32 } else { 0.0 });
        let int = |n: usize| i32::try_from(n).expect("sizes of a matrix are below 2^31");
        // SAFETY: the matrices lie inside of their spans, which was checked when they were made.
        let done = unsafe {
            cublas::result::gemm_ex(
                self.blas,
                b.operation(),
                a.operation(),
                int(n),
                int(m),
                int(k),
                std::ptr::from_ref(&alpha).cast(),
                b.span.ptr as *const c_void,
                b.data_type(),
                int(b.stride),
                a.span.ptr as *const c_void,
                a.data_type(),
                int(a.stride),
                std::ptr::from_ref(&beta).cast(),
                ret.span.ptr as *mut c_void,
                ret.data_type(),
                int(ret.stride),
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        if let Err(e) = done {
            DeviceFailure::Failed { what: "a product", why: format!("{:?}", e.0) }.raise();
        }
    }
}
