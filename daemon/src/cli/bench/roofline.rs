//! What this machine can do at most, measured in the same run as what is held against it: reading memory, and multiplying matrices.

use std::sync::Barrier;
use std::time::Instant;

use wiremamba_model::engine::Isa;
use wiremamba_model::engine::cpu::kernels::decode::read_all;
use wiremamba_model::engine::cpu::kernels::{Bf16Isa, Bf16Scratch, Matrix, Numbers, matmul, matmul_bf16};

/// Bytes that a measurement of reading goes through: long enough for a clock.
const READ_BYTES: usize = 3 << 30;

/// Memory to be read over and over. It is on huge pages where the system has them, as the weights of a decoder are.
#[derive(Debug)]
pub(super) struct Reading {
    isa: Isa,
    numbers: Numbers,
}

impl Reading {
    /// `bytes` of it.
    pub(super) fn new(isa: Isa, bytes: usize) -> Self {
        let mut numbers = Numbers::zeroed(bytes.div_ceil(4));
        numbers.fill(1.0);
        Self { isa, numbers }
    }

    /// Gigabytes a second at which `threads` threads together read all of it, each its own part. What fits in a cache is read from there.
    pub(super) fn gb_per_s(&self, threads: usize) -> f64 {
        let passes = (READ_BYTES / 4 / (4 * self.numbers.len()).max(1)).max(1);
        let barrier = Barrier::new(threads);
        let seconds = std::thread::scope(|scope| {
            let workers: Vec<_> = self
                .numbers
                .chunks(self.numbers.len().div_ceil(threads))
                .map(|part| {
                    let (isa, barrier) = (self.isa, &barrier);
                    scope.spawn(move || {
                        let mut sum = read_all(isa, part);
                        barrier.wait();
                        let start = Instant::now();
                        (0..passes).for_each(|_| sum += read_all(isa, std::hint::black_box(part)));
                        std::hint::black_box(sum);
                        start.elapsed().as_secs_f64()
                    })
                })
                .collect();
            workers.into_iter().map(|w| w.join().expect("reading does not panic")).fold(0.0, f64::max)
        });
        (passes * self.numbers.len() * 4) as f64 / seconds / 1e9
    }
}

/// GFLOP a second: the best of several products of 2048 x 2048 f32 matrices by the `gemm` crate.
pub(super) fn gemm_gflop_per_s() -> f64 {
    square_gflop_per_s(|ret, n, a, b| matmul(ret, n, a, b, false))
}

/// The same with operands rounded to bf16, by our own product; `None` where the CPU does not multiply bf16, so that f32 is the bound.
pub(super) fn bf16_gflop_per_s(isa: Isa) -> Option<f64> {
    let isa = Bf16Isa::within(isa);
    let mut scratch = Bf16Scratch::default();
    (isa == Bf16Isa::Avx512Bf16)
        .then(|| square_gflop_per_s(|ret, n, a, b| matmul_bf16(isa, &mut scratch, ret, n, a, b, false)))
}

/// The best of several products of 2048 x 2048 matrices.
fn square_gflop_per_s(mut product: impl FnMut(&mut [f32], usize, Matrix<'_>, Matrix<'_>)) -> f64 {
    const N: usize = 2048;
    let (a, b) = (vec![1.0f32; N * N], vec![1.0f32; N * N]);
    let mut c = vec![0.0f32; N * N];
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        product(&mut c, N, Matrix::new(&a, N, N), Matrix::new(&b, N, N));
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * (N * N * N) as f64 / best / 1e9
}
