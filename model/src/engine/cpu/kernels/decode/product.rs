//! Rows times a weight matrix in panels.
//!
//! Whatever the number of rows, the registers and the threads, an output is summed over its inputs one after another, so that a row's
//! results do not depend on its neighbours.

use std::ops::Range;

use super::super::lanes::{Isa, isa_kernel};
use super::lines::{SharedLines, TILE};
use super::narrow::{self, Narrow};
use super::panels::Weights;
use super::wide::Wide;
use crate::engine::Precision;

/// Outputs in half a tile: the unit in which outputs are shared out.
pub(super) const HALF: usize = TILE / 2;
const _: () = assert!(2 * HALF == TILE);

/// What a product reads besides weights: `rows` rows in tiles `stride` lines apart, and the same made narrow where the kernel needs that.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) lines: SharedLines,
    /// The line of the first row in the first tile.
    pub(super) first: usize,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) narrow: &'a Narrow,
}

/// Where a product writes: tiles `stride` lines apart.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub(super) lines: SharedLines,
    /// The line of the first row in the first tile.
    pub(super) first: usize,
    pub(super) stride: usize,
    /// Added to what is there.
    pub(super) accumulate: bool,
}

/// Computes the outputs in `halves` (half tiles) of every row.
///
/// # Safety
/// The CPU has `isa`; input and output have room for the matrix and the rows, `input.narrow` was made of them where
/// [`narrow::is_needed`]; no other thread writes the input, or uses these outputs; on AVX-512 `halves` are whole tiles.
pub(super) unsafe fn product(isa: Isa, panels: &Weights<'_>, input: &Input<'_>, halves: Range<usize>, output: &Output) {
    if halves.is_empty() {
        return;
    }
    // SAFETY: handed on.
    unsafe {
        if narrow::is_needed(isa, panels.precision) {
            return narrow::product(isa, panels, input, halves, output);
        }
        match panels.precision {
            Precision::F32 => full(isa, panels, input, halves, output),
            _ => half(isa, panels, input, halves, output),
        }
    }
}

/// How a line's weights become registers.
trait Loader {
    /// Bytes between the lines of two pairs of inputs.
    const PAIR_BYTES: usize;
    /// Bytes of an output in a line.
    const OUTPUT_BYTES: usize = 4;
    /// Weights of the first of two inputs, and of the second.
    unsafe fn first<V: Wide>(p: *const u8) -> V;
    unsafe fn second<V: Wide>(p: *const u8) -> V;
}

struct Full;
impl Loader for Full {
    const PAIR_BYTES: usize = 128;
    #[inline(always)]
    unsafe fn first<V: Wide>(p: *const u8) -> V {
        // SAFETY: a line of the panel, by the caller's promise.
        unsafe { V::load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn second<V: Wide>(p: *const u8) -> V {
        // SAFETY: the next line of the panel.
        unsafe { V::load(p.add(64).cast()) }
    }
}

struct Half;
impl Loader for Half {
    const PAIR_BYTES: usize = 64;
    #[inline(always)]
    unsafe fn first<V: Wide>(p: *const u8) -> V {
        // SAFETY: a line of the panel, by the caller's promise.
        unsafe { V::load_lower_halves(p.cast()) }
    }
    #[inline(always)]
    unsafe fn second<V: Wide>(p: *const u8) -> V {
        // SAFETY: as above.
        unsafe { V::load_upper_halves(p.cast()) }
    }
}

isa_kernel! {
    fn full(panels: &Weights<'_>, input: &Input<'_>, halves: Range<usize>, output: &Output) = full_body
}
isa_kernel! {
    fn half(panels: &Weights<'_>, input: &Input<'_>, halves: Range<usize>, output: &Output) = half_body
}

#[inline(always)]
unsafe fn full_body<V: Wide>(panels: &Weights<'_>, input: &Input<'_>, halves: Range<usize>, output: &Output) {
    // SAFETY: handed on.
    unsafe { all::<V, Full>(panels, input, halves, output) }
}

#[inline(always)]
unsafe fn half_body<V: Wide>(panels: &Weights<'_>, input: &Input<'_>, halves: Range<usize>, output: &Output) {
    // SAFETY: handed on.
    unsafe { all::<V, Half>(panels, input, halves, output) }
}

/// Walks over the outputs, as many registers of them at once as the rows leave, and for each over the rows: weights are read
/// from memory once, and again from the nearest caches.
///
/// # Safety
/// As [`product`].
#[inline(always)]
unsafe fn all<V: Wide, W: Loader>(panels: &Weights<'_>, input: &Input<'_>, halves: Range<usize>, output: &Output) {
    let job = Job { panels, input, output };
    let mut col = halves.start * HALF / V::N;
    let end = halves.end * HALF / V::N;
    let rows = input.rows;
    let tall = tallest(V::N);
    // Registers of outputs at once: few rows leave room for many.
    let wide = widest(V::N, rows.min(tall));
    while col < end {
        let mut count = wide;
        while count > end - col {
            count /= 2;
        }
        let mut row = 0;
        while row < rows {
            let r = step(V::N, rows - row);
            // SAFETY: handed on; these rows and columns exist.
            unsafe {
                macro_rules! dispatch {
                    ($(($r:literal, $p:literal))*) => {
                        match (r, count) {
                            $(($r, $p) => tile::<V, W, $r, $p>(&job, row, col),)*
                            _ => unreachable!("no kernel of {r} rows and {count} registers"),
                        }
                    };
                }
                match V::N {
                    16 => dispatch!((1, 8)(1, 4)(1, 2)(1, 1)(2, 8)(2, 4)(2, 2)(2, 1)(4, 4)(4, 2)(4, 1)(6, 4)(6, 2)(
                        6, 1
                    )(12, 2)(12, 1)),
                    8 => {
                        dispatch!((1, 8)(1, 4)(1, 2)(1, 1)(2, 4)(2, 2)(2, 1)(3, 4)(3, 2)(3, 1)(4, 2)(4, 1)(6, 2)(6, 1))
                    }
                    _ => dispatch!((1, 1)),
                }
            }
            row += r;
        }
        col += count;
    }
}

/// Rows at once, at most.
#[inline(always)]
fn tallest(lanes: usize) -> usize {
    match lanes {
        16 => 12,
        8 => 6,
        _ => 1,
    }
}

/// Rows at once when `left` are left.
#[inline(always)]
fn step(lanes: usize, left: usize) -> usize {
    match (lanes, left) {
        (16, 12..) => 12,
        (16 | 8, 6..) => 6,
        (16 | 8, 4..) => 4,
        (8, 3) => 3,
        (16 | 8, 2..) => 2,
        _ => 1,
    }
}

/// Registers of outputs at once where `rows` are, a power of two.
#[inline(always)]
fn widest(lanes: usize, rows: usize) -> usize {
    match (lanes, rows) {
        (16, 1..3) | (8, 1) => 8,
        (16, 3..12) | (8, 2..4) => 4,
        (16 | 8, _) => 2,
        _ => 1,
    }
}

struct Job<'a> {
    panels: &'a Weights<'a>,
    input: &'a Input<'a>,
    output: &'a Output,
}

/// R rows from `row` times P registers of outputs from register `col`.
///
/// # Safety
/// They exist.
#[inline(always)]
unsafe fn tile<V: Wide, W: Loader, const R: usize, const P: usize>(job: &Job<'_>, row: usize, col: usize) {
    let Job { panels, input, output } = job;
    // SAFETY: a panel has `panel_lines` lines, the input a line of every row in every tile; both reach to the padded inputs.
    unsafe {
        let panel_bytes = panels.panel_lines() * 64;
        let weights = panels.lines.as_ptr().cast::<u8>();
        let w: [*const u8; P] = std::array::from_fn(|p| {
            let output = (col + p) * V::N;
            weights.add(output / TILE * panel_bytes + output % TILE * W::OUTPUT_BYTES)
        });
        let mut sums = [[V::splat(0.0); P]; R];
        let mut at = 0;
        let inputs = panels.inputs.next_multiple_of(4);
        for tile in 0..inputs.div_ceil(TILE) {
            let x = input.lines.at(input.first + tile * input.stride + row);
            for pair in 0..(inputs - tile * TILE).min(TILE) / 2 {
                let x = x.add(2 * pair);
                let first: [V; P] = std::array::from_fn(|p| W::first(w[p].add(at)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = V::splat(*x.add(r * TILE));
                    for (sum, w) in sums.iter_mut().zip(first) {
                        *sum = x.mul_add(w, *sum);
                    }
                }
                let second: [V; P] = std::array::from_fn(|p| W::second(w[p].add(at)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = V::splat(*x.add(r * TILE + 1));
                    for (sum, w) in sums.iter_mut().zip(second) {
                        *sum = x.mul_add(w, *sum);
                    }
                }
                at += W::PAIR_BYTES;
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (p, sum) in sums.into_iter().enumerate() {
                let column = (col + p) * V::N;
                let to = output.lines.at(output.first + column / TILE * output.stride + row + r).add(column % TILE);
                let sum = if output.accumulate { V::load(to).add(sum) } else { sum };
                sum.store(to);
            }
        }
    }
}
