//! A whole product: the right operand laid out once, then tasks of some rows, block by block through the caches.
//!
//! Blocks of the inner dimension begin at fixed places and are added in order, and no other cut touches a sum: results are the same
//! bits on any number of threads, although tasks are cut by it.

use std::ops::Range;

use rayon::prelude::*;

use super::micro::{Left, Tile, cols, multiply, rows};
use super::pack::{panel_of_rows, panels_of_columns};
use crate::engine::cpu::kernels::lanes::{Isa, prefetch_second_level};
use crate::engine::cpu::kernels::matmul::Matrix;
use crate::engine::cpu::kernels::numbers::Numbers;
use crate::engine::cpu::kernels::shared::Shared;
use crate::engine::cpu::kernels::target::Target;

/// Of the inner dimension in a block: with AVX2 a panel of the right operand is 16 KiB of it, half of a first-level cache.
const DEPTH: usize = 256;
/// Rows of a task at most: a block of them is 96 KiB, and stays in the second-level cache.
const ROWS_PER_TASK: usize = 96;
/// Products with at most so many rows, and with an inner dimension of at least so many blocks, are cut by columns instead: each task
/// lays out its own part of the right operand, block by block, where one laid out as a whole would go through memory for few rows.
const BY_COLUMNS: (usize, usize) = (256, 4);
/// Columns of such a task at most.
const COLS_PER_TASK: usize = 256;
/// Columns up to which the rows of the left operand are read where they are: copied, they would be read too few times.
const COLS_IN_PLACE: usize = 64;
/// Multiply-adds that are worth a thread of their own.
const WORK_PER_TASK: usize = 1 << 19;
/// Rows of the right operand that one task lays out.
const ROWS_PER_PACKING: usize = 64;
/// Lines of the next block that are asked for with a tile, at most: there are not so many requests a core can have on their way.
const LINES_AHEAD_MAX: usize = 12;
/// Numbers between panels, or rows, beyond their length: without them all would begin at the same place of a cache. Also the
/// room that laying out may write beyond a panel.
const GAP: usize = 16;

/// Room for laid out operands; kept, so that products of one size allocate nothing.
#[derive(Debug, Default)]
pub struct TiledScratch {
    right: Numbers,
    /// Blocks of each task.
    blocks: Numbers,
}

/// `ret` (m, n), rows `ret_stride` apart, becomes `a` (m, k) times `b` (k, n), or has that added when `accumulate`.
///
/// # Panics
/// When shapes do not fit.
pub fn matmul_tiled(
    isa: Isa,
    scratch: &mut TiledScratch,
    ret: &mut [f32],
    ret_stride: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    accumulate: bool,
) {
    assert!(isa.is_supported(), "{isa:?} on a CPU without it");
    let (stride, columns) = (ret_stride, b.shape().1);
    let Some(target) = Target::new(ret, stride, a, b, accumulate) else { return };
    if target.k == 0 {
        if !accumulate {
            ret.chunks_mut(stride).take(target.m).for_each(|row| row[..columns].fill(0.0));
        }
        return;
    }
    match isa {
        Isa::Avx512 => run::<12, 32>(isa, scratch, target, a, b),
        Isa::Avx2 => run::<6, 16>(isa, scratch, target, a, b),
        Isa::Scalar => run::<4, 2>(isa, scratch, target, a, b),
    }
}

fn run<const ROWS: usize, const COLS: usize>(
    isa: Isa,
    scratch: &mut TiledScratch,
    target: Target,
    a: Matrix<'_>,
    b: Matrix<'_>,
) {
    assert_eq!((ROWS, COLS), (rows(isa), cols(isa)), "the tile of {isa:?}");
    let Target { m, n, k, .. } = target;
    let worth = (m * n * k / WORK_PER_TASK).max(1);
    let threads = rayon::current_num_threads().min(worth);
    let (tiles, panels) = (m.div_ceil(ROWS), n.div_ceil(COLS));
    let by_columns = m <= BY_COLUMNS.0 && k >= BY_COLUMNS.1 * DEPTH && !b.stored().4;
    let block_depth = if by_columns && m > ROWS_PER_TASK { DEPTH / 2 } else { DEPTH };
    // As many tasks as give every thread equally many, of whole tiles.
    let (row_tasks, col_tasks) = if by_columns {
        (1, n.div_ceil(COLS_PER_TASK).next_multiple_of(threads).min(panels))
    } else {
        let row_tasks = m.div_ceil(ROWS_PER_TASK).next_multiple_of(threads).min(worth.max(threads)).min(tiles);
        (row_tasks, threads.div_ceil(row_tasks).min(panels))
    };
    let right = if by_columns { None } else { Some(Right::<COLS>::lay_out(isa, &mut scratch.right, n, b)) };
    let left_room = (tiles.div_ceil(row_tasks) * ROWS) * (block_depth + GAP);
    let right_room = if by_columns { panels.div_ceil(col_tasks) * (block_depth * COLS + GAP) } else { 0 };
    let room_each = (left_room + right_room).next_multiple_of(GAP);
    let room = Shared::new(scratch.blocks.first(row_tasks * col_tasks * room_each));

    (0..row_tasks * col_tasks).into_par_iter().with_max_len(1).for_each(|task| {
        let share = |index: usize, of: usize, count: usize| index * count / of..(index + 1) * count / of;
        let tiles = share(task / col_tasks, row_tasks, tiles);
        let panels = share(task % col_tasks, col_tasks, panels);
        let rows = tiles.start * ROWS..(tiles.end * ROWS).min(m);
        for from in (0..k).step_by(block_depth) {
            let depth = from..(from + block_depth).min(k);
            let (left_at, right_at) = (task * room_each, task * room_each + left_room);
            // SAFETY: each task has its own room for its tiles and panels over the depth of a block, and its own part of the
            // target; support was checked.
            unsafe {
                let left =
                    lay_out_left::<ROWS>(isa, a, rows.clone(), depth.clone(), panels.len() * COLS, room, left_at);
                let right = match &right {
                    Some(right) => (right.at(panels.start, depth.start).cast_const(), right.stride),
                    None => {
                        let (data, _, _, stride, _) = b.stored();
                        let columns = panels.start * COLS..(panels.end * COLS).min(n);
                        let (from, stride_here) = (&data[depth.start * stride..], depth.len() * COLS + GAP);
                        panels_of_columns::<COLS>(isa, from, stride, depth.len(), columns, room, right_at, stride_here);
                        (room.at(right_at).cast_const(), stride_here)
                    }
                };
                let next = if depth.end < k {
                    Ahead::of(a, rows.clone(), depth.end..(depth.end + block_depth).min(k))
                } else {
                    Ahead::of(a, rows.end..(rows.end + rows.len()).min(m), 0..block_depth.min(k))
                };
                let target = Target { accumulate: target.accumulate || from > 0, ..target };
                multiply_block::<ROWS, COLS>(isa, left, right, &rows, &panels, depth.len(), target, next);
            }
        }
    });
}

/// A block of the left operand: the first number, the numbers from a tile to the next, and how a tile lies.
struct LeftBlock {
    start: *const f32,
    tile_stride: usize,
    layout: Left,
    /// Where the last tile lies, when it is not whole and the others are read where they are.
    last: Option<(*const f32, Left)>,
}

/// Copies a block of the left operand to `to`, unless it can as well be read where it is.
///
/// # Safety
/// The CPU has `isa`, and from `at` on there is room for whole tiles, [`GAP`] beyond each row or panel, that no other thread uses.
unsafe fn lay_out_left<const ROWS: usize>(
    isa: Isa,
    a: Matrix<'_>,
    rows: Range<usize>,
    depth: Range<usize>,
    cols: usize,
    to: Shared,
    at: usize,
) -> LeftBlock {
    let (data, _, _, stride, transposed) = a.stored();
    // SAFETY: within the room that the caller promises.
    let start = unsafe { to.at(at) }.cast_const();
    if transposed {
        let tile_stride = depth.len() * ROWS + GAP;
        let from = &data[depth.start * stride..];
        // SAFETY: handed on to the caller.
        unsafe { panels_of_columns::<ROWS>(isa, from, stride, depth.len(), rows, to, at, tile_stride) };
        return LeftBlock { start, tile_stride, layout: Left::Panel, last: None };
    }
    let row_stride = depth.len() + GAP;
    let in_place = cols <= COLS_IN_PLACE;
    let copied = if in_place { rows.end - rows.len() % ROWS..rows.end } else { rows.clone() };
    for (i, row) in copied.clone().enumerate() {
        // SAFETY: within the room that the caller promises.
        let to = unsafe { std::slice::from_raw_parts_mut(to.at(at + i * row_stride), depth.len()) };
        to.copy_from_slice(&a.row(row)[depth.clone()]);
    }
    if in_place {
        let last = (!copied.is_empty()).then_some((start, Left::Rows(row_stride)));
        let start = data[rows.start * stride + depth.start..].as_ptr();
        return LeftBlock { start, tile_stride: ROWS * stride, layout: Left::Rows(stride), last };
    }
    LeftBlock { start, tile_stride: ROWS * row_stride, layout: Left::Rows(row_stride), last: None }
}

/// Lines of the next block of the left operand, asked for while this one is multiplied.
struct Ahead {
    /// The next line, where its row ends, and the rows left after it.
    at: *const f32,
    end: *const f32,
    rows: usize,
    /// Numbers from a row to the next, and of a row.
    stride: usize,
    len: usize,
}

impl Ahead {
    fn of(a: Matrix<'_>, rows: Range<usize>, depth: Range<usize>) -> Self {
        let (data, _, _, stride, transposed) = a.stored();
        let (rows, cols) = if transposed { (depth, rows) } else { (rows, depth) };
        let at = data.as_ptr().wrapping_add(rows.start * stride + cols.start);
        let rows = if cols.is_empty() { 0 } else { rows.len() };
        Self { at, end: at.wrapping_add(cols.len()), rows, stride, len: cols.len() }
    }

    /// Lines in all, rounded up.
    fn lines(&self) -> usize {
        self.rows * (self.len / GAP + 1)
    }

    /// Asks for the next `count` lines.
    #[inline(always)]
    fn ask(&mut self, count: usize) {
        for _ in 0..count {
            if self.rows == 0 {
                return;
            }
            prefetch_second_level(self.at);
            self.at = self.at.wrapping_add(GAP);
            if self.at >= self.end {
                self.rows -= 1;
                self.end = self.end.wrapping_add(self.stride);
                self.at = self.end.wrapping_sub(self.len);
            }
        }
    }
}

/// # Safety
/// The CPU has `isa`, the operands hold these rows, panels and depth, and no other thread writes this part of the target.
#[allow(clippy::too_many_arguments)]
unsafe fn multiply_block<const ROWS: usize, const COLS: usize>(
    isa: Isa,
    left: LeftBlock,
    (right, panel_stride): (*const f32, usize),
    rows: &Range<usize>,
    panels: &Range<usize>,
    depth: usize,
    target: Target,
    mut next: Ahead,
) {
    let tiles = rows.len().div_ceil(ROWS);
    let lines_a_tile = next.lines().div_ceil(tiles * panels.len()).min(LINES_AHEAD_MAX);
    for (p, panel) in panels.clone().enumerate() {
        for (i, row) in rows.clone().step_by(ROWS).enumerate() {
            next.ask(lines_a_tile);
            let own = left.last.filter(|_| i + 1 == tiles);
            // SAFETY: inside the operands and the result by the caller's promise.
            unsafe {
                let (left, layout) = own.unwrap_or((left.start.add(i * left.tile_stride), left.layout));
                let tile = Tile {
                    left,
                    layout,
                    right: right.add(p * panel_stride),
                    depth,
                    ret: target.start.at(row * target.stride + panel * COLS),
                    ret_row: target.stride,
                    rows: ROWS.min(rows.end - row),
                    cols: COLS.min(target.n - panel * COLS),
                    accumulate: target.accumulate,
                };
                multiply(isa, tile);
            }
        }
    }
}

/// The right operand in panels of W columns, each row after row.
struct Right<const W: usize> {
    numbers: Shared,
    stride: usize,
}

impl<const W: usize> Right<W> {
    /// Lays out `b`, (k, n).
    fn lay_out(isa: Isa, room: &mut Numbers, n: usize, b: Matrix<'_>) -> Self {
        let (data, rows, _, row_stride, transposed) = b.stored();
        let (k, count) = (b.shape().0, n.div_ceil(W));
        let stride = (k * W).next_multiple_of(GAP) + GAP;
        let room = room.first(count * stride);
        if transposed {
            // Stored (n, k).
            room.par_chunks_mut(stride).enumerate().with_min_len(WORK_PER_TASK.div_ceil(64 * stride)).for_each(
                |(panel, room)| {
                    panel_of_rows::<W>(b.t(), panel * W..((panel + 1) * W).min(rows), &mut room[..k * W]);
                },
            );
        }
        let right = Self { numbers: Shared::new(room), stride };
        if !transposed {
            let tasks = k.div_ceil(ROWS_PER_PACKING);
            let least = WORK_PER_TASK.div_ceil(64 * ROWS_PER_PACKING * n);
            (0..tasks).into_par_iter().with_min_len(least).for_each(|part| {
                let first = part * ROWS_PER_PACKING;
                let (data, here) = (&data[first * row_stride..], ROWS_PER_PACKING.min(k - first));
                // SAFETY: support was checked; each task has its own rows of every panel, W is a multiple of a register, so that
                // nothing is written beyond them, and panels end where the next begins.
                unsafe {
                    panels_of_columns::<W>(isa, data, row_stride, here, 0..n, right.numbers, first * W, stride);
                }
            });
        }
        right
    }

    /// # Safety
    /// As [`Shared::at`]: such a panel and row exist, and nobody else writes there.
    unsafe fn at(&self, panel: usize, row: usize) -> *mut f32 {
        // SAFETY: handed on to the caller.
        unsafe { self.numbers.at(panel * self.stride + row * W) }
    }
}
