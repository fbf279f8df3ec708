//! Products against the `gemm` crate's and against plain sums, on every instruction set and in every layout.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::lanes::Isa;
use super::super::matmul::{Matrix, matmul};
use super::*;

/// Numbers in [-1, 1).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// (m, n, k): rests of tiles and panels, several blocks of the inner dimension, narrow ones that are read in place, ones that are
/// cut by columns, more than one task.
const SHAPES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (5, 7, 3),
    (13, 37, 16),
    (50, 33, 70),
    (99, 80, 700),
    (12, 32, 2),
    (200, 130, 513),
    (310, 48, 300),
    (48, 80, 1100),
    (100, 300, 1031),
    (250, 17, 1500),
    (3, 5, 0),
];

#[test]
fn products_are_those_of_the_gemm_crate_in_every_layout() {
    for (m, n, k) in SHAPES {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            for (a_transposed, b_transposed) in [(false, false), (false, true), (true, false), (true, true)] {
                one_layout(isa, (m, n, k), a_transposed, b_transposed);
            }
        }
    }
}

fn one_layout(isa: Isa, (m, n, k): (usize, usize, usize), a_transposed: bool, b_transposed: bool) {
    let ((a_rows, a_cols), (b_rows, b_cols)) =
        (if a_transposed { (k, m) } else { (m, k) }, if b_transposed { (n, k) } else { (k, n) });
    let (a_stride, stride) = (a_cols + 3, n + 5);
    let (a, b) = (numbers(a_rows * a_stride, 1), numbers(b_rows * b_cols, 2));
    let (a, b) = (Matrix::strided(&a, a_rows, a_cols, a_stride), Matrix::new(&b, b_rows, b_cols));
    let (a, b) = (if a_transposed { a.t() } else { a }, if b_transposed { b.t() } else { b });
    let mut scratch = TiledScratch::default();
    for accumulate in [false, true] {
        let case = format!("{isa:?} {m} {n} {k} {a_transposed} {b_transposed} {accumulate}");
        let (mut ret, mut expected) = (vec![0.5f32; m * stride], vec![0.5f32; m * stride]);
        matmul_tiled(isa, &mut scratch, &mut ret, stride, a, b, accumulate);
        matmul(&mut expected, stride, a, b, accumulate);
        for (at, (found, expected)) in ret.iter().zip(&expected).enumerate() {
            // Two sums of k products below 1 in different orders: k roundings of at most half a last place of the sum, which
            // stays below a tenth of k.
            let error = (found - expected).abs();
            assert!(
                error <= 1e-7 * (k as f32).max(10.0),
                "{case} at {} {}: {found} {expected}",
                at / stride,
                at % stride
            );
        }
        let beyond = ret.chunks(stride).flat_map(|row| &row[n..]).all(|v| *v == 0.5);
        assert!(beyond, "{case}: written beyond the rows");
    }
}

#[test]
fn products_of_whole_numbers_are_exact() {
    // Small whole numbers: every partial sum is a whole number below 2^24, so all orders give the same bits. The sums are those
    // of integers.
    for (m, n, k) in SHAPES {
        let whole = |len: usize, seed| numbers(len, seed).iter().map(|v| (v * 8.0).round()).collect::<Vec<f32>>();
        let (a, b) = (whole(m * k, 3), whole(k * n, 4));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            let mut ret = vec![1.0; m * n];
            let (left, right) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            matmul_tiled(isa, &mut TiledScratch::default(), &mut ret, n, left, right, true);
            for r in 0..m {
                for c in 0..n {
                    let sum: i64 = (0..k).map(|i| a[r * k + i] as i64 * b[i * n + c] as i64).sum();
                    assert_eq!(ret[r * n + c] as i64, sum + 1, "{isa:?} {m} {n} {k} at {r}, {c}");
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    for (m, n, k) in [(300, 100, 1100), (100, 300, 1100), (700, 40, 600)] {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            let run = |threads: usize, transposed: bool| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut ret = vec![0.0; m * n];
                let a = if transposed { Matrix::new(&a, k, m).t() } else { Matrix::new(&a, m, k) };
                let b = Matrix::new(&b, k, n);
                pool.install(|| matmul_tiled(isa, &mut TiledScratch::default(), &mut ret, n, a, b, false));
                ret
            };
            for transposed in [false, true] {
                let expected = run(1, transposed);
                for threads in [2, 3, 7] {
                    let found = run(threads, transposed);
                    assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa:?} {threads}");
                }
            }
        }
    }
}
