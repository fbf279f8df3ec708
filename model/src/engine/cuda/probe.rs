//! What the GPU can do at most: copies of its memory, and products by cuBLAS, nothing else.

use super::CudaError;
use super::gpu::{Buffer, Gpu, GpuMatrix, Number};
use crate::engine::{DeviceProbe, Precision};
use crate::mamba::MambaConfig;

/// Bytes that a copy has, at most: well beyond every cache.
const COPY_BYTES: usize = 1 << 30;
/// Rows of the products: as many tokens as keep a large GPU busy.
const ROWS: usize = 8192;

/// A GPU with work at its limits.
#[derive(Debug)]
pub struct CudaProbe {
    peak_bytes: u64,
    from: Buffer,
    to: Buffer,
    f32s: Product,
    bf16s: Product,
    gpu: Gpu,
}

/// The matrices of a product, (rows, k) by (k, columns).
#[derive(Debug)]
struct Product {
    shape: (usize, usize, usize),
    a: Buffer,
    b: Buffer,
    ret: Buffer,
}

impl Product {
    /// Numbers of one kind, which are no zeros: those cost a GPU less power, and so less time.
    fn new(gpu: &Gpu, number: Number, shape: (usize, usize, usize)) -> Self {
        let (rows, k, columns) = shape;
        let filled = |len: usize| {
            let numbers: Vec<f32> = (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5).collect();
            let f32s = gpu.upload(&numbers);
            if number == Number::F32 {
                return f32s;
            }
            let ret = gpu.alloc(number, len);
            gpu.cast(f32s.span(), ret.span());
            ret
        };
        Self { shape, a: filled(rows * k), b: filled(k * columns), ret: gpu.alloc(number, rows * columns) }
    }

    fn run(&self, gpu: &Gpu) -> f64 {
        let (rows, k, columns) = self.shape;
        let matrix = |buffer: &Buffer, rows, columns| GpuMatrix::new(buffer.span(), rows, columns);
        gpu.multiply(matrix(&self.ret, rows, columns), matrix(&self.a, rows, k), matrix(&self.b, k, columns), false);
        2.0 * (rows * k * columns) as f64
    }
}

impl CudaProbe {
    /// Opens device `ordinal` for products of the shapes of `config`.
    ///
    /// # Errors
    /// When the device cannot be used.
    pub fn new(ordinal: usize, config: &MambaConfig) -> Result<Self, CudaError> {
        let gpu = Gpu::open(ordinal)?;
        let peak_bytes = gpu.peak_bytes();
        let bytes = (gpu.free_bytes() / 4).min(COPY_BYTES);
        let shape = (ROWS, config.d_model, 2 * config.d_inner);
        let (f32s, bf16s) = (Product::new(&gpu, Number::F32, shape), Product::new(&gpu, Number::Bf16, shape));
        let (from, to) = (gpu.zeros(Number::U8, bytes), gpu.zeros(Number::U8, bytes));
        gpu.synchronize();
        Ok(Self { peak_bytes, from, to, f32s, bf16s, gpu })
    }
}

impl DeviceProbe for CudaProbe {
    fn gpu(&self) -> &crate::device::Gpu {
        self.gpu.info()
    }

    fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    fn copy(&mut self, times: usize) -> f64 {
        self.gpu.bind();
        for _ in 0..times {
            self.gpu.copy(self.to.span(), self.from.span());
        }
        self.gpu.synchronize();
        2.0 * (times * self.from.span().len()) as f64
    }

    fn multiply(&mut self, precision: Precision, times: usize) -> f64 {
        self.gpu.bind();
        let product = match precision {
            Precision::F32 => &self.f32s,
            Precision::Bf16 => &self.bf16s,
            Precision::Int8 => panic!("cuBLAS's products here are f32 or bf16"),
        };
        let done = (0..times).map(|_| product.run(&self.gpu)).sum();
        self.gpu.synchronize();
        done
    }
}
