//! One tile of a product in registers: a few rows times two registers of columns.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m256, __m512};

use crate::engine::cpu::kernels::lanes::{Isa, Lanes, prefetch_to_write};

/// Rows of a tile: as many as leave room for two registers of columns and one of the row beside their sums.
pub(super) const fn rows(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => 12,
        Isa::Avx2 => 6,
        Isa::Scalar => 4,
    }
}

/// Columns of a tile, and of a panel of the right operand: two registers.
pub(super) const fn cols(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => 32,
        Isa::Avx2 => 16,
        Isa::Scalar => 2,
    }
}

/// How the rows of the left operand lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Row by row, so many numbers from one to the next.
    Rows(usize),
    /// The numbers of a tile's rows side by side.
    Panel,
}

/// A tile: `rows` rows of the left operand times `cols` columns of one panel of the right one.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// First number of the first row. A whole tile's rows are readable, whatever `rows` says.
    pub(super) left: *const f32,
    pub(super) layout: Left,
    /// A panel of the right operand, row after row.
    pub(super) right: *const f32,
    /// Numbers to sum over.
    pub(super) depth: usize,
    /// Where the first number of the result goes.
    pub(super) ret: *mut f32,
    /// Numbers from a row of the result to the next.
    pub(super) ret_row: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Whether the result has the products added, or becomes them.
    pub(super) accumulate: bool,
}

/// Multiplies one tile.
///
/// # Safety
/// The CPU has `isa`; a tile's rows and one panel are readable over the depth; `rows` x `cols` numbers of the result, at most a
/// tile, are this thread's to write.
pub(super) unsafe fn multiply(isa: Isa, tile: Tile) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq,fma,avx2")]
    unsafe fn avx512(tile: Tile) {
        // SAFETY: handed on to the caller.
        unsafe { either::<__m512, { rows(Isa::Avx512) }>(tile) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(tile: Tile) {
        // SAFETY: handed on to the caller.
        unsafe { either::<__m256, { rows(Isa::Avx2) }>(tile) }
    }
    // SAFETY: the caller vouches for the instruction set and for the lengths.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512(tile),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(tile),
            _ => either::<f32, { rows(Isa::Scalar) }>(tile),
        }
    }
}

/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn either<V: Lanes, const R: usize>(tile: Tile) {
    // SAFETY: handed on to the caller.
    unsafe {
        match tile.layout {
            Left::Rows(row) => body::<V, R, 1>(tile, row),
            Left::Panel => body::<V, R, R>(tile, 1),
        }
    }
}

/// Numbers of the largest tile.
const TILE_MAX: usize = 12 * 32;
/// Steps of the inner dimension written out in the loop.
const UNROLL: usize = 4;

/// Keeps the compiler from moving loads of one step before another's, for which it would run out of registers.
#[inline(always)]
fn in_order() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: no instruction.
    unsafe {
        std::arch::asm!("", options(nostack, preserves_flags));
    }
}

/// A row's next number is STEP further on, the next row `row`.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn body<V: Lanes, const R: usize, const STEP: usize>(tile: Tile, row: usize) {
    let width = 2 * V::N;
    // SAFETY: the operands are readable, and the result is writable, by the caller's promise.
    unsafe {
        for r in 0..tile.rows {
            // The result is needed at the end; its lines are on their way meanwhile.
            let to = tile.ret.add(r * tile.ret_row);
            prefetch_to_write(to);
            prefetch_to_write(to.add(tile.cols - 1));
        }
        let mut sums = [[V::splat(0.0); 2]; R];
        // Several pointers, each for some rows: with one, the additions that lead from row to row would wait for one another
        // as long as the products take.
        let third = R.div_ceil(3);
        let mut lefts = [tile.left, tile.left.add(third * row), tile.left.add(2 * third * row)];
        let mut right = tile.right;
        let mut left = tile.depth;
        while left >= UNROLL {
            for step in 0..UNROLL {
                in_order();
                let (b0, b1) = (V::load(right.add(step * width)), V::load(right.add(step * width + V::N)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = V::splat(*lefts[r / third].add(r % third * row + step * STEP));
                    sums[0] = a.mul_add(b0, sums[0]);
                    sums[1] = a.mul_add(b1, sums[1]);
                }
            }
            lefts = lefts.map(|left| left.add(UNROLL * STEP));
            right = right.add(UNROLL * width);
            left -= UNROLL;
        }
        for _ in 0..left {
            let (b0, b1) = (V::load(right), V::load(right.add(V::N)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = V::splat(*lefts[r / third].add(r % third * row));
                sums[0] = a.mul_add(b0, sums[0]);
                sums[1] = a.mul_add(b1, sums[1]);
            }
            lefts = lefts.map(|left| left.add(STEP));
            right = right.add(width);
        }
        if tile.rows == R && tile.cols == width {
            for (r, sums) in sums.into_iter().enumerate() {
                let to = tile.ret.add(r * tile.ret_row);
                for (half, sum) in sums.into_iter().enumerate() {
                    let to = to.add(half * V::N);
                    let before = if tile.accumulate { V::load(to) } else { V::splat(0.0) };
                    sum.add(before).store(to);
                }
            }
            return;
        }
        let mut lanes = [0.0f32; TILE_MAX];
        for (r, sums) in sums.into_iter().enumerate() {
            sums[0].store(lanes.as_mut_ptr().add(r * width));
            sums[1].store(lanes.as_mut_ptr().add(r * width + V::N));
        }
        for (r, lanes) in lanes.chunks_exact(width).enumerate().take(tile.rows) {
            for (c, sum) in lanes.iter().enumerate().take(tile.cols) {
                let to = tile.ret.add(r * tile.ret_row + c);
                *to = if tile.accumulate { *to } else { 0.0 } + sum;
            }
        }
    }
}
