//! What a block does between its products, some tiles of channels at a time for all rows.
//!
//! Rows are streams, each with a state of its own, or the tokens of one stream one after another, which share one: a
//! kernel leaves a row's state in memory before it takes the next row, so the two are the same to it.

use std::ops::Range;

use super::super::lanes::{Lanes, isa_kernel, prefetch, sigmoid, softplus};
use super::lines::{Line, SharedLines, TILE, tiles};

/// Whose state a row has, and where it lies: (tiles, slots, lines a slot).
#[derive(Clone, Copy)]
pub(super) struct States {
    pub(super) lines: SharedLines,
    /// Slots that there are.
    pub(super) slots: usize,
    /// The slot of the first row.
    pub(super) first: usize,
    /// Slots from one row to the next: 1 for streams, 0 for the tokens of one.
    pub(super) step: usize,
}

impl States {
    /// The first line of `tile`'s state of `row`, of `lines` lines.
    #[inline(always)]
    fn line(&self, tile: usize, row: usize, lines: usize) -> usize {
        (tile * self.slots + self.first + row * self.step) * lines
    }
}

/// Rows ahead of the one at work whose windows, and whose states, are asked for.
const WINDOWS_AHEAD: usize = 8;
const STATES_AHEAD: usize = 2;

/// Asks for the state of a row some rows after the one at `line`, of `lines` lines each. With AVX-512 only, where it was
/// measured to help.
///
/// # Safety
/// None beyond the instruction set's: any address will do.
#[inline(always)]
unsafe fn read_ahead<V: Lanes>(line: *const f32, lines: usize, rows: usize) {
    if V::N == TILE {
        (0..lines).for_each(|i| prefetch(line.wrapping_add((rows * lines + i) * TILE)));
    }
}

/// RMSNorm of `rows` rows: y = w x / sqrt(mean(x^2) + eps).
pub(super) struct Norm<'a> {
    pub(super) weight: &'a [Line],
    pub(super) width: usize,
    pub(super) eps: f32,
    pub(super) from: SharedLines,
    pub(super) from_stride: usize,
    pub(super) to: SharedLines,
    pub(super) to_stride: usize,
    pub(super) rows: usize,
}

isa_kernel! { pub(super) fn norm(args: &Norm<'_>) = norm_body }

/// # Safety
/// The rows are in `from`, and nobody writes them; `to` has room for as many, and nobody else uses it.
#[inline(always)]
unsafe fn norm_body<V: Lanes>(args: &Norm<'_>) {
    let tiles = tiles(args.width);
    for row in 0..args.rows {
        // SAFETY: lines of this row.
        unsafe {
            let mut sum = V::splat(0.0);
            for tile in 0..tiles {
                let from = args.from.at(tile * args.from_stride + row);
                for i in (0..TILE).step_by(V::N) {
                    let x = V::load(from.add(i));
                    sum = x.mul_add(x, sum);
                }
            }
            let scale = V::splat(1.0 / (sum.sum() / args.width as f32 + args.eps).sqrt());
            for tile in 0..tiles {
                let from = args.from.at(tile * args.from_stride + row);
                let to = args.to.at(tile * args.to_stride + row);
                let weight = args.weight.as_ptr().add(tile).cast::<f32>();
                for i in (0..TILE).step_by(V::N) {
                    V::load(from.add(i)).mul(scale).mul(V::load(weight.add(i))).store(to.add(i));
                }
            }
        }
    }
}

/// The causal convolution with SiLU, in place, and its window moved on: out = silu(bias + sum_j w_j x_{t-j}).
pub(super) struct Conv<'a> {
    /// (tiles, d_conv), oldest tap first.
    pub(super) weight: &'a [Line],
    /// (tiles)
    pub(super) bias: &'a [Line],
    /// The inputs before, oldest first: d_conv - 1 lines.
    pub(super) windows: States,
    /// In: inputs; out: outputs.
    pub(super) x: SharedLines,
    pub(super) stride: usize,
    pub(super) rows: usize,
}

isa_kernel! { pub(super) fn conv<const K: usize>(args: &Conv<'_>, tiles: Range<usize>) = conv_body }

/// # Safety
/// Everything has room for these tiles and the rows, and nobody else uses them.
#[inline(always)]
unsafe fn conv_body<V: Lanes, const K: usize>(args: &Conv<'_>, tiles: Range<usize>) {
    for tile in tiles {
        for row in 0..args.rows {
            // SAFETY: lines of this tile and row.
            unsafe {
                let x_at = args.x.at(tile * args.stride + row);
                let window = args.windows.lines.at(args.windows.line(tile, row, K - 1));
                read_ahead::<V>(window, K - 1, WINDOWS_AHEAD);
                let weight = args.weight.as_ptr().add(tile * K).cast::<f32>();
                let bias = args.bias.as_ptr().add(tile).cast::<f32>();
                for i in (0..TILE).step_by(V::N) {
                    let x = V::load(x_at.add(i));
                    let mut sum = x.mul_add(V::load(weight.add((K - 1) * TILE + i)), V::load(bias.add(i)));
                    // Newest first, as the kernel over sequences adds.
                    let past: [V; 3] =
                        std::array::from_fn(|j| if j < K - 1 { V::load(window.add(j * TILE + i)) } else { x });
                    for j in (0..K - 1).rev() {
                        sum = past[j].mul_add(V::load(weight.add(j * TILE + i)), sum);
                    }
                    for (j, newer) in past[1..K - 1].iter().enumerate() {
                        newer.store(window.add(j * TILE + i));
                    }
                    x.store(window.add((K - 2) * TILE + i));
                    sum.mul(sigmoid(sum)).store(x_at.add(i));
                }
            }
        }
    }
}

/// A step of the selective scan for each row, with softplus before it and the skip and the gate after it.
pub(super) struct Scan<'a> {
    pub(super) dt_bias: &'a [Line],
    /// A log2(e), (tiles, d_state).
    pub(super) a2: &'a [Line],
    pub(super) d: &'a [Line],
    /// d_state lines.
    pub(super) states: States,
    /// The convolved input.
    pub(super) x: SharedLines,
    /// In: the gate; out: its SiLU.
    pub(super) z: SharedLines,
    /// (rows, 2, d_state): B and C.
    pub(super) b_c: &'a [f32],
    /// In: dt before bias and softplus; out: y.
    pub(super) y: SharedLines,
    pub(super) stride: usize,
    pub(super) rows: usize,
}

/// Channels' sums that are added up side by side, so that additions do not wait for one another.
const SUMS: usize = 4;

isa_kernel! { pub(super) fn scan<const S: usize>(args: &Scan<'_>, tiles: Range<usize>) = scan_body }

/// # Safety
/// Everything has room for these tiles and the rows; nobody else uses them.
#[inline(always)]
unsafe fn scan_body<V: Lanes, const S: usize>(args: &Scan<'_>, tiles: Range<usize>) {
    const { assert!(S.is_multiple_of(SUMS)) };
    assert!(args.b_c.len() >= args.rows * 2 * S, "B and C");
    for tile in tiles {
        let of = |lines: &[Line]| lines[tile].0.as_ptr();
        let (dt_bias, d) = (of(args.dt_bias), of(args.d));
        let a2 = args.a2[tile * S..][..S].as_ptr().cast::<f32>();
        // First what takes long for one number, for all rows: a row need not wait for the one before. Then the scans.
        for row in 0..args.rows {
            // SAFETY: lines of this tile and row.
            unsafe {
                let (y, z) = (args.y.at(tile * args.stride + row), args.z.at(tile * args.stride + row));
                for i in (0..TILE).step_by(V::N) {
                    softplus(V::load(y.add(i)).add(V::load(dt_bias.add(i)))).store(y.add(i));
                    let gate = V::load(z.add(i));
                    gate.mul(sigmoid(gate)).store(z.add(i));
                }
            }
        }
        for row in 0..args.rows {
            // SAFETY: lines of this tile and row; B and C of this row.
            unsafe {
                let line = tile * args.stride + row;
                let b = args.b_c.as_ptr().add(row * 2 * S);
                let c = b.add(S);
                let state = args.states.lines.at(args.states.line(tile, row, S));
                read_ahead::<V>(state, S, STATES_AHEAD);
                for i in (0..TILE).step_by(V::N) {
                    let x = V::load(args.x.at(line).add(i));
                    let y_at = args.y.at(line).add(i);
                    let dt = V::load(y_at);
                    let dtx = dt.mul(x);
                    let mut sums = [V::splat(0.0); SUMS];
                    for n in (0..S).step_by(SUMS) {
                        // A loop of its own, which the compiler unrolls: else the sums lie in memory.
                        for (k, sum) in sums.iter_mut().enumerate() {
                            let n = n + k;
                            let h_at = state.add(n * TILE + i);
                            let da = dt.exp2_of_product(V::load(a2.add(n * TILE + i)));
                            let h = V::load(h_at).mul_add(da, dtx.mul(V::splat(*b.add(n))));
                            h.store(h_at);
                            *sum = h.mul_add(V::splat(*c.add(n)), *sum);
                        }
                    }
                    let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
                    V::load(d.add(i)).mul_add(x, sum).mul(V::load(args.z.at(line).add(i))).store(y_at);
                }
            }
        }
    }
}
