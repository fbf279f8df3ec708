//! Products against plain loops over rounded numbers, on every instruction set, and rounding against what it must be.

use super::super::matmul::Matrix;
use super::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers in [-1, 1).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

#[test]
fn rounds_to_nearest_ties_to_even_and_keeps_what_is_no_number() {
    // bf16 has 8 significant bits: steps of 2^-7 between 1 and 2. A tie goes to the even neighbour.
    let step = 2f32.powi(-7);
    for (v, expected) in [
        (1.0, 1.0),
        (1.0 + 0.4 * step, 1.0),
        (1.0 + 0.5 * step, 1.0),
        (1.0 + 0.6 * step, 1.0 + step),
        (1.0 + 1.5 * step, 1.0 + 2.0 * step),
        (-(1.0 + 0.5 * step), -1.0),
        (2.0 - 0.5 * step, 2.0),
        (0.0, 0.0),
        (f32::MAX, f32::INFINITY),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
    ] {
        assert_eq!(round_to_bf16(v), expected, "{v}");
    }
    for bits in [0x7fc0_0000u32, 0x7f80_0001, 0x7fff_ffff, 0xffff_ffff, 0xff80_0001] {
        assert!(round_to_bf16(f32::from_bits(bits)).is_nan(), "{bits:#x}");
    }
}

/// What the product has to be: f64 sums over rounded operands; `b` by columns.
fn expected(a: &[Vec<f32>], b: &[Vec<f32>], before: f32) -> Vec<f64> {
    let product = |x: &f32, y: &f32| f64::from(round_to_bf16(*x)) * f64::from(round_to_bf16(*y));
    let dot = |row: &[f32], col: &[f32]| row.iter().zip(col).map(|(x, y)| product(x, y)).sum::<f64>();
    a.iter().flat_map(|row| b.iter().map(move |col| dot(row, col) + f64::from(before))).collect()
}

fn rows(data: &[f32], rows: usize, cols: usize, stride: usize) -> Vec<Vec<f32>> {
    (0..rows).map(|r| data[r * stride..r * stride + cols].to_vec()).collect()
}

fn transposed(rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    (0..rows[0].len()).map(|c| rows.iter().map(|r| r[c]).collect()).collect()
}

#[test]
fn products_are_those_of_rounded_numbers_in_every_layout() {
    // Rests of tiles and panels, an odd inner dimension, several blocks of it, more than one task.
    for (m, n, k) in [(1, 1, 1), (5, 7, 3), (13, 37, 16), (50, 33, 70), (99, 48, 1031), (12, 32, 2), (200, 65, 513)] {
        for isa in Bf16Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
            for (a_transposed, b_transposed) in [(false, false), (false, true), (true, false), (true, true)] {
                one_layout(isa, (m, n, k), a_transposed, b_transposed);
            }
        }
    }
}

fn one_layout(isa: Bf16Isa, (m, n, k): (usize, usize, usize), a_transposed: bool, b_transposed: bool) {
    let case = format!("{isa:?} {m} {n} {k} {a_transposed} {b_transposed}");
    let ((a_rows, a_cols), (b_rows, b_cols)) =
        (if a_transposed { (k, m) } else { (m, k) }, if b_transposed { (n, k) } else { (k, n) });
    let (a_stride, b_stride, stride) = (a_cols + 3, b_cols, n + 5);
    let (a, b) = (numbers(a_rows * a_stride, 1), numbers(b_rows * b_stride, 2));
    let (a_lists, b_lists) = (rows(&a, a_rows, a_cols, a_stride), rows(&b, b_rows, b_cols, b_stride));
    let a_lists = if a_transposed { transposed(&a_lists) } else { a_lists };
    let b_lists = if b_transposed { b_lists } else { transposed(&b_lists) };
    let (a, b) = (Matrix::strided(&a, a_rows, a_cols, a_stride), Matrix::strided(&b, b_rows, b_cols, b_stride));
    let a = if a_transposed { a.t() } else { a };
    let b = if b_transposed { b.t() } else { b };
    let mut scratch = Bf16Scratch::default();
    for accumulate in [false, true] {
        let mut ret = vec![0.5f32; m * stride];
        matmul_bf16(isa, &mut scratch, &mut ret, stride, a, b, accumulate);
        let expected = expected(&a_lists, &b_lists, if accumulate { 0.5 } else { 0.0 });
        for r in 0..m {
            for c in 0..n {
                // Sums of k products below 1 in f32: k roundings of at most half a last place of the sum.
                let (found, expected) = (f64::from(ret[r * stride + c]), expected[r * n + c]);
                assert!((found - expected).abs() < 1e-7 * k as f64 + 1e-7, "{case} at {r}, {c}: {found} {expected}");
            }
            assert!(ret[r * stride + n..(r + 1) * stride].iter().all(|v| *v == 0.5), "{case}: beyond row {r}");
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let (m, n, k) = (300, 100, 1100);
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    for isa in Bf16Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
        let run = |threads: usize, transposed: bool| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut ret = vec![0.0; m * n];
            let a = if transposed { Matrix::new(&a, k, m).t() } else { Matrix::new(&a, m, k) };
            pool.install(|| {
                matmul_bf16(isa, &mut Bf16Scratch::default(), &mut ret, n, a, Matrix::new(&b, k, n), false);
            });
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
