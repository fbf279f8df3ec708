//! Products whose inputs are narrowed too: 8-bit weights by 16-bit inputs, and bf16 by bf16 where the CPU multiplies those.
//!
//! Inputs of 16 bits in place of the usual 8 cost nothing where a step waits for its weights, and keep the outliers that the output of
//! a scan has. A row's factor is chosen at run time so that no sum of 32 bits can overflow: the sums are exact, so
//! every instruction set has the same results.

use std::ops::Range;

use super::super::lanes::{Isa, isa_kernel, prefetch};
use super::lines::{SharedLines, TILE, tiles};
use super::panels::Weights;
use super::product::{HALF, Input, Output};
use super::wide::Wide;
use crate::engine::Precision;

/// How far ahead one row asks for the weights of each panel, in bytes. The CPU guesses them too, but stops at the end of a page.
const READ_AHEAD: usize = 512;

/// Rows made narrow: scratch of one thread.
#[derive(Debug, Default)]
pub(super) struct Narrow {
    /// (tiles, rows, 16): whole numbers, or bf16.
    values: Vec<[i16; TILE]>,
    /// What a row's whole numbers are to be multiplied with.
    factors: Vec<f32>,
}

/// Whether the kernel for weights of `precision` reads narrow inputs.
pub(super) fn is_needed(isa: Isa, precision: Precision) -> bool {
    match precision {
        Precision::F32 => false,
        Precision::Bf16 => isa == Isa::Avx512 && has_bf16_products(),
        Precision::Int8 => true,
    }
}

/// Whether this CPU multiplies bf16 as they are; elsewhere they become f32 first.
pub fn has_bf16_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Whether AVX-512 multiplies 16-bit whole numbers and adds in one go; without it the AVX2 kernel does.
pub fn has_vnni() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// The largest input, so that `inputs` products with 8-bit weights stay within 32 bits.
fn largest_input(inputs: usize) -> f32 {
    (i32::MAX as usize / (127 * inputs.max(1))).min(i16::MAX as usize) as f32
}

impl Narrow {
    /// Room for `rows` rows of `width`.
    pub(super) fn new(rows: usize, width: usize) -> Self {
        Self { values: vec![[0; TILE]; rows * tiles(width)], factors: vec![0.0; rows] }
    }

    /// Whether there is room for `rows` rows of `width`.
    pub(super) fn has_room(&self, rows: usize, width: usize) -> bool {
        rows <= self.factors.len() && rows * tiles(width) <= self.values.len()
    }

    /// Makes `rows` rows of `width` numbers narrow, as weights of `precision` need it.
    ///
    /// # Safety
    /// The CPU has `isa`, the rows are there, in tiles `stride` lines apart from line `first` on, and nobody writes them.
    pub(super) unsafe fn fill(
        &mut self,
        isa: Isa,
        precision: Precision,
        lines: SharedLines,
        (first, stride): (usize, usize),
        (rows, width): (usize, usize),
    ) {
        if !is_needed(isa, precision) {
            return;
        }
        assert!(self.has_room(rows, width), "room for {rows} x {width}");
        // SAFETY: handed on; the room was checked.
        unsafe {
            match precision {
                #[cfg(target_arch = "x86_64")]
                Precision::Bf16 => avx512::round(self, lines, (first, stride), (rows, width)),
                _ => fill(isa, self, lines, (first, stride), (rows, width)),
            }
        }
    }
}

isa_kernel! {
    fn fill(narrow: &mut Narrow, lines: SharedLines, at: (usize, usize), size: (usize, usize)) = fill_body
}

/// # Safety
/// As [`Narrow::fill`]; there is room.
#[inline(always)]
unsafe fn fill_body<V: Wide>(
    narrow: &mut Narrow,
    lines: SharedLines,
    (first, stride): (usize, usize),
    (rows, width): (usize, usize),
) {
    let limit = largest_input(width);
    for row in 0..rows {
        // SAFETY: the tiles of this row.
        unsafe {
            let (mut largest, mut poison) = (V::splat(0.0), V::splat(0.0));
            for tile in 0..tiles(width) {
                let from = lines.at(first + tile * stride + row);
                for i in (0..TILE.min(width - tile * TILE).next_multiple_of(V::N)).step_by(V::N) {
                    let x = V::load(from.add(i));
                    largest = x.abs().max(largest);
                    // NaN where a number is none, so that the results are none either.
                    poison = x.mul_add(V::splat(0.0), poison);
                }
            }
            let factor = largest.largest() / limit;
            let inverse = if factor > 0.0 { 1.0 / factor } else { 0.0 };
            narrow.factors[row] = factor + poison.sum();
            for tile in 0..tiles(width) {
                let to = narrow.values[tile * rows + row].as_mut_ptr();
                V::narrow_line(lines.at(first + tile * stride + row), inverse, to);
            }
        }
    }
}

/// As [`super::product::product`], from narrow inputs.
///
/// # Safety
/// As there, and the input's `narrow` was filled from it.
pub(super) unsafe fn product(isa: Isa, panels: &Weights<'_>, input: &Input<'_>, halves: Range<usize>, output: &Output) {
    // SAFETY: handed on; the features were looked for.
    unsafe {
        match (panels.precision, isa) {
            #[cfg(target_arch = "x86_64")]
            (Precision::Bf16, _) => avx512::product_bf16(panels, input, halves, output),
            #[cfg(target_arch = "x86_64")]
            (_, Isa::Avx512) if has_vnni() => avx512::product_int8(panels, input, halves, output),
            #[cfg(target_arch = "x86_64")]
            (_, Isa::Avx512) => int8(Isa::Avx2, panels, input, halves, output),
            _ => int8(isa, panels, input, halves, output),
        }
    }
}

isa_kernel! {
    fn int8(panels: &Weights<'_>, input: &Input<'_>, halves: Range<usize>, output: &Output) = int8_body
}

/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn int8_body<V: Wide>(panels: &Weights<'_>, input: &Input<'_>, halves: Range<usize>, output: &Output) {
    let (mut col, end) = (halves.start * HALF / V::N, halves.end * HALF / V::N);
    // Registers of outputs at once: one row leaves room for those of four panels, more rows share each of their inputs between two.
    let wide = match input.rows {
        _ if V::N == 1 => 1,
        1 => 4 * TILE / V::N,
        _ => 2,
    };
    while col < end {
        let mut count = wide;
        while count > end - col {
            count /= 2;
        }
        let mut row = 0;
        while row < input.rows {
            let left = input.rows - row;
            // SAFETY: these rows and registers of outputs exist.
            let done = unsafe {
                match (left, count) {
                    (1, 8) if V::N == 8 => int8_tile::<V, 1, 8>(panels, input, row, col, output),
                    (1, 4) => int8_tile::<V, 1, 4>(panels, input, row, col, output),
                    (12.., 2) if V::N == 16 => int8_tile::<V, 12, 2>(panels, input, row, col, output),
                    (8.., 2) if V::N == 16 => int8_tile::<V, 8, 2>(panels, input, row, col, output),
                    (4.., 2) => int8_tile::<V, 4, 2>(panels, input, row, col, output),
                    (2.., 2) => int8_tile::<V, 2, 2>(panels, input, row, col, output),
                    (_, 2) => int8_tile::<V, 1, 2>(panels, input, row, col, output),
                    (4.., 1) if V::N > 1 => int8_tile::<V, 4, 1>(panels, input, row, col, output),
                    (_, 1) => int8_tile::<V, 1, 1>(panels, input, row, col, output),
                    _ => unreachable!("{count} registers of outputs for {left} rows"),
                }
            };
            row += done;
        }
        col += count;
    }
}

/// R rows from `row` times P registers of outputs from `col`; returns R.
///
/// # Safety
/// They exist.
#[inline(always)]
unsafe fn int8_tile<V: Wide, const R: usize, const P: usize>(
    panels: &Weights<'_>,
    input: &Input<'_>,
    row: usize,
    col: usize,
    output: &Output,
) -> usize {
    // SAFETY: a panel has `panel_lines` lines, the narrow input a line of every row in every tile.
    unsafe {
        let panel_bytes = panels.panel_lines() * 64;
        let weights = panels.lines.as_ptr().cast::<i8>();
        let w: [*const i8; P] = std::array::from_fn(|p| {
            let output = (col + p) * V::N;
            weights.add(output / TILE * panel_bytes + output % TILE * 4)
        });
        let mut sums = [[V::no_sum(); P]; R];
        let mut at = 0;
        let inputs = panels.inputs.next_multiple_of(4);
        for tile in 0..inputs.div_ceil(TILE) {
            let x = input.narrow.values.as_ptr().add(tile * input.rows + row).cast::<i16>();
            for quad in 0..(inputs - tile * TILE).min(TILE) / 4 {
                let x = x.add(4 * quad);
                if R == 1 {
                    (0..P).step_by(TILE / V::N).for_each(|p| prefetch(w[p].wrapping_add(at + READ_AHEAD).cast()));
                }
                let pairs: [_; P] = std::array::from_fn(|p| V::load_quads(w[p].add(at)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (sum, (outer, inner)) in sums.iter_mut().zip(pairs) {
                        *sum = V::multiply_pairs(*sum, outer, x.add(r * TILE));
                        *sum = V::multiply_pairs(*sum, inner, x.add(r * TILE + 2));
                    }
                }
                at += 64;
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let factor = V::splat(input.narrow.factors[row + r]);
            for (p, sum) in sums.into_iter().enumerate() {
                let column = (col + p) * V::N;
                let scale = V::load(panels.scales.as_ptr().cast::<f32>().add(column));
                let to = output.lines.at(output.first + column / TILE * output.stride + row + r).add(column % TILE);
                let value = V::from_sum(sum).mul(scale.mul(factor));
                let value = if output.accumulate { V::load(to).add(value) } else { value };
                value.store(to);
            }
        }
    }
    R
}

/// The kernels that need more of AVX-512 than F and DQ.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::*;

    /// # Safety
    /// As [`super::product`], on a CPU with these features.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vnni,fma,avx2")]
    pub(super) unsafe fn product_int8(panels: &Weights<'_>, input: &Input<'_>, halves: Range<usize>, output: &Output) {
        // SAFETY: handed on.
        unsafe { int8_body::<__m512>(panels, input, halves, output) }
    }

    /// Makes rows bf16, to nearest, ties to even; what is too small for a normal number becomes zero.
    ///
    /// # Safety
    /// As [`Narrow::fill`], on a CPU with these features; there is room.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn round(
        narrow: &mut Narrow,
        lines: SharedLines,
        (first, stride): (usize, usize),
        (rows, width): (usize, usize),
    ) {
        for tile in 0..tiles(width) {
            for (row, to) in narrow.values[tile * rows..(tile + 1) * rows].iter_mut().enumerate() {
                // SAFETY: a line of this row; both are sixteen numbers of 16 bits.
                unsafe {
                    let from = _mm512_loadu_ps(lines.at(first + tile * stride + row));
                    let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(from));
                    _mm256_storeu_si256(to.as_mut_ptr().cast(), rounded);
                }
            }
        }
    }

    /// # Safety
    /// As [`super::product`], on a CPU with these features.
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512bf16,fma,avx2")]
    pub(super) unsafe fn product_bf16(panels: &Weights<'_>, input: &Input<'_>, halves: Range<usize>, output: &Output) {
        let (mut panel, end) = (halves.start / 2, halves.end.div_ceil(2));
        // As many sums side by side as an addition takes, and no more than there are registers.
        let wide = match input.rows {
            1 => 8,
            2..8 => 4,
            _ => 2,
        };
        while panel < end {
            let mut count = wide;
            while count > end - panel {
                count /= 2;
            }
            let mut row = 0;
            while row < input.rows {
                // SAFETY: these rows and panels exist.
                row += unsafe {
                    match (input.rows - row, count) {
                        (12.., 2) => bf16_tile::<12, 2>(panels, input, row, panel, output),
                        (8.., 2) => bf16_tile::<8, 2>(panels, input, row, panel, output),
                        (4.., 4) => bf16_tile::<4, 4>(panels, input, row, panel, output),
                        (4.., 2) => bf16_tile::<4, 2>(panels, input, row, panel, output),
                        (2.., 4) => bf16_tile::<2, 4>(panels, input, row, panel, output),
                        (2.., 2) => bf16_tile::<2, 2>(panels, input, row, panel, output),
                        (_, 8) => bf16_tile::<1, 8>(panels, input, row, panel, output),
                        (_, 4) => bf16_tile::<1, 4>(panels, input, row, panel, output),
                        (_, 2) => bf16_tile::<1, 2>(panels, input, row, panel, output),
                        (12.., _) => bf16_tile::<12, 1>(panels, input, row, panel, output),
                        (4.., _) => bf16_tile::<4, 1>(panels, input, row, panel, output),
                        _ => bf16_tile::<1, 1>(panels, input, row, panel, output),
                    }
                };
            }
            panel += count;
        }
    }

    /// R rows from `row` times P panels; returns R.
    ///
    /// # Safety
    /// They exist.
    #[inline(always)]
    unsafe fn bf16_tile<const R: usize, const P: usize>(
        panels: &Weights<'_>,
        input: &Input<'_>,
        row: usize,
        panel: usize,
        output: &Output,
    ) -> usize {
        // SAFETY: as in `int8_tile`.
        unsafe {
            let lines = panels.panel_lines();
            let w: [*const __m512i; P] =
                std::array::from_fn(|p| panels.lines.as_ptr().add((panel + p) * lines).cast::<__m512i>());
            let mut sums = [[_mm512_setzero_ps(); P]; R];
            let mut at = 0;
            let inputs = panels.inputs.next_multiple_of(4);
            for tile in 0..inputs.div_ceil(TILE) {
                let x = input.narrow.values.as_ptr().add(tile * input.rows + row).cast::<i32>();
                for pair in 0..(inputs - tile * TILE).min(TILE) / 2 {
                    let weights: [__m512bh; P] = std::array::from_fn(|p| {
                        std::mem::transmute::<__m512i, __m512bh>(_mm512_load_si512(w[p].add(at)))
                    });
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = _mm512_set1_epi32(x.add(r * TILE / 2 + pair).read_unaligned());
                        for (sum, weights) in sums.iter_mut().zip(weights) {
                            *sum = _mm512_dpbf16_ps(*sum, std::mem::transmute::<__m512i, __m512bh>(x), weights);
                        }
                    }
                    at += 1;
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (p, sum) in sums.into_iter().enumerate() {
                    let to = output.lines.at(output.first + (panel + p) * output.stride + row + r);
                    let sum = if output.accumulate { _mm512_add_ps(_mm512_loadu_ps(to), sum) } else { sum };
                    _mm512_storeu_ps(to, sum);
                }
            }
        }
        R
    }
}
