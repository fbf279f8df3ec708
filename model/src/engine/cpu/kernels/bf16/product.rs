//! A whole product: operands laid out, then block by block through the caches.
//!
//! The left operand's rows are dealt out to tasks; a task takes [`PAIRS_PER_BLOCK`] of the inner dimension at a time, holds its
//! rows of them in the second-level cache, and meets one panel of the right operand after another, which stays in the first.
//! Where blocks begin depends on the shape alone, so the order of every sum is the same on any number of threads.

use std::ops::Range;

use rayon::prelude::*;

use super::Bf16Isa;
use super::micro::{Tile, multiply};
use super::pack::{interleave, round_row, transpose};
use crate::engine::cpu::kernels::lines::Lines;
use crate::engine::cpu::kernels::matmul::Matrix;
use crate::engine::cpu::kernels::shared::Shared;
use crate::engine::cpu::kernels::target::Target;

/// Pairs of the inner dimension in a block: a panel of 32 columns of them is 32 KiB.
const PAIRS_PER_BLOCK: usize = 256;
/// Rows of a task where there are many, and where there are few: whole tiles of every instruction set.
const ROWS_PER_TASK: (usize, usize) = (96, 48);
/// With at least this many rows there are many.
const ROWS_MANY: usize = 2048;
/// Columns are dealt out as well until there are this many tasks.
const TASKS_MIN: usize = 16;
/// Pairs that one task lays out.
const PAIRS_PER_PACKING: usize = 64;
/// Words between panels beyond their length: without them all would begin at the same place of a cache.
const PANEL_GAP: usize = 16;

/// Room for the laid out operands of a product; kept, so that products of one size allocate nothing.
#[derive(Debug, Default)]
pub struct Bf16Scratch {
    left: Lines<u32>,
    right: Lines<u32>,
}

/// `ret` (m, n), rows `ret_stride` apart, becomes `a` (m, k) times `b` (k, n), both rounded to bf16, or has that added when
/// `accumulate`; sums are f32.
///
/// # Panics
/// When shapes do not fit.
pub fn matmul_bf16(
    isa: Bf16Isa,
    scratch: &mut Bf16Scratch,
    ret: &mut [f32],
    ret_stride: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    accumulate: bool,
) {
    assert!(isa.is_supported(), "{isa:?} on a CPU without it");
    let Some(target) = Target::new(ret, ret_stride, a, b, accumulate) else { return };
    match isa {
        Bf16Isa::Avx512Bf16 => run::<12, 32>(isa, scratch, target, a, b),
        Bf16Isa::Avx2 => run::<6, 16>(isa, scratch, target, a, b),
        Bf16Isa::Scalar => run::<4, 2>(isa, scratch, target, a, b),
    }
}

fn run<const ROWS: usize, const COLS: usize>(
    isa: Bf16Isa,
    scratch: &mut Bf16Scratch,
    target: Target,
    a: Matrix<'_>,
    b: Matrix<'_>,
) {
    assert_eq!((ROWS, COLS), (isa.rows(), isa.cols()), "the tile of {isa:?}");
    let right = Panels::<COLS>::new(&mut scratch.right, target.n, target.k);
    right.fill(isa, b.t());
    let (_, _, _, _, transposed) = a.stored();
    let left = transposed.then(|| {
        let left = Panels::<ROWS>::new(&mut scratch.left, target.m, target.k);
        left.fill(isa, a);
        left
    });

    let rows_per_task = if target.m >= ROWS_MANY { ROWS_PER_TASK.0 } else { ROWS_PER_TASK.1 };
    let row_tasks = target.m.div_ceil(rows_per_task);
    let panels_per_task = right.count.div_ceil(TASKS_MIN.div_ceil(row_tasks)).max(1);
    let col_tasks = right.count.div_ceil(panels_per_task);
    (0..row_tasks * col_tasks).into_par_iter().for_each_init(Lines::default, |words, task| {
        let (row_task, col_task) = (task / col_tasks, task % col_tasks);
        let rows = row_task * rows_per_task..((row_task + 1) * rows_per_task).min(target.m);
        let panels = col_task * panels_per_task..((col_task + 1) * panels_per_task).min(right.count);
        let blocks = right.pairs.div_ceil(PAIRS_PER_BLOCK).max(1);
        for block in 0..blocks {
            let pairs = block * PAIRS_PER_BLOCK..((block + 1) * PAIRS_PER_BLOCK).min(right.pairs);
            let left = match &left {
                Some(left) => Left::Panels(left),
                None => Left::Rows(round_rows(isa, a, rows.clone(), rows_per_task, pairs.clone(), words)),
            };
            let accumulate = target.accumulate || block > 0;
            // SAFETY: support was checked, both operands are laid out for these rows, panels and pairs, and each task has
            // its own rows and columns of the target.
            unsafe { block_product(isa, &left, &right, rows.clone(), panels.clone(), pairs, target, accumulate) };
        }
    });
}

/// The left operand of a block.
enum Left<'a, const ROWS: usize> {
    /// Rows of this block, from the task's first on, and the words from one to the next.
    Rows((*const u32, usize)),
    /// All of it, in panels.
    Panels(&'a Panels<ROWS>),
}

/// Rounds the columns of `pairs` of some rows; there is room for `rows_max` rows behind one another.
fn round_rows(
    isa: Bf16Isa,
    a: Matrix<'_>,
    rows: Range<usize>,
    rows_max: usize,
    pairs: Range<usize>,
    words: &mut Lines<u32>,
) -> (*const u32, usize) {
    let stride = pairs.len() + PANEL_GAP;
    let words = words.first(rows_max * stride);
    let (_, k) = a.shape();
    let cols = 2 * pairs.start..(2 * pairs.end).min(k);
    for (row, words) in rows.zip(words.chunks_exact_mut(stride)) {
        // SAFETY: support was checked.
        unsafe { round_row(isa, &a.row(row)[cols.clone()], &mut words[..pairs.len()]) };
    }
    (words.as_ptr(), stride)
}

/// # Safety
/// The CPU has `isa`, the operands hold these rows, panels and pairs, and no other thread writes this part of the target.
#[allow(clippy::too_many_arguments)]
unsafe fn block_product<const ROWS: usize, const COLS: usize>(
    isa: Bf16Isa,
    left: &Left<'_, ROWS>,
    right: &Panels<COLS>,
    rows: Range<usize>,
    panels: Range<usize>,
    pairs: Range<usize>,
    target: Target,
    accumulate: bool,
) {
    for panel in panels {
        for row in rows.clone().step_by(ROWS) {
            // SAFETY: inside the operands and the result by the caller's promise.
            unsafe {
                let (left, left_row, left_pair) = match left {
                    Left::Rows((start, stride)) => (start.add((row - rows.start) * stride), *stride, 1),
                    Left::Panels(left) => (left.at(row / ROWS, pairs.start).cast_const(), 1, ROWS),
                };
                let tile = Tile {
                    left,
                    left_row,
                    left_pair,
                    right: right.at(panel, pairs.start),
                    pairs: pairs.len(),
                    ret: target.start.at(row * target.stride + panel * COLS),
                    ret_row: target.stride,
                    rows: ROWS.min(rows.end - row),
                    cols: COLS.min(target.n - panel * COLS),
                    accumulate,
                };
                multiply(isa, tile);
            }
        }
    }
}

/// An operand in panels of W rows or columns, each pair after pair.
struct Panels<const W: usize> {
    words: Shared<u32>,
    len: usize,
    count: usize,
    pairs: usize,
    stride: usize,
}

impl<const W: usize> Panels<W> {
    /// Panels for `width` rows or columns over an inner dimension of `k`.
    fn new(words: &mut Lines<u32>, width: usize, k: usize) -> Self {
        let (count, pairs) = (width.div_ceil(W), k.div_ceil(2));
        let stride = (pairs * W).next_multiple_of(16) + PANEL_GAP;
        let words = words.first(count * stride);
        Self { len: words.len(), words: Shared::new(words), count, pairs, stride }
    }

    /// # Safety
    /// As [`Shared::at`]: such a panel and pair exist, and nobody else writes there.
    unsafe fn at(&self, panel: usize, pair: usize) -> *mut u32 {
        // SAFETY: handed on to the caller.
        unsafe { self.words.at(panel * self.stride + pair * W) }
    }

    /// Lays out `matrix`, (width, k).
    fn fill(&self, isa: Bf16Isa, matrix: Matrix<'_>) {
        let (data, rows, cols, row_stride, transposed) = matrix.stored();
        if transposed {
            // Stored (k, width): neighbours of the inner dimension are rows.
            (0..self.pairs.div_ceil(PAIRS_PER_PACKING)).into_par_iter().for_each(|part| {
                let first = 2 * part * PAIRS_PER_PACKING;
                let count = (2 * PAIRS_PER_PACKING).min(rows - first);
                let data = &data[first * row_stride..];
                let at = part * PAIRS_PER_PACKING * W;
                // SAFETY: support was checked, each task has its own pairs, and panels end where the next begins.
                unsafe { interleave::<W>(isa, data, row_stride, count, cols, self.words, at, self.stride) };
            });
        } else {
            // Stored (width, k).
            // SAFETY: nobody else uses the words until this function returns.
            let words = unsafe { std::slice::from_raw_parts_mut(self.words.at(0), self.len) };
            words.par_chunks_mut(self.stride).enumerate().for_each_init(Vec::new, |scratch, (panel, words)| {
                scratch.resize(self.pairs, 0);
                let (first, count) = (panel * W, W.min(rows - panel * W));
                let words = &mut words[..self.pairs * W];
                // SAFETY: support was checked.
                unsafe { transpose::<W>(isa, &data[first * row_stride..], row_stride, count, cols, scratch, words) };
            });
        }
    }
}
