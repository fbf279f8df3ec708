//! What a block does between its products, some tiles of channels at a time for all rows.
//!
//! Rows are streams, each with a state of its own, or the tokens of one stream one after another, which share one: a
//! kernel leaves a row's state in memory before it takes the next row, so the two are the same to it.

use std::ops::Range;

use super::super::lanes::{Lanes, isa_kernel, sigmoid, softplus};
use super::lines::{Line, SharedLines, TILE, tiles};
use super::wide::{Wide, exp2_falling};

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

/// RMSNorm of `rows` rows: y = w x / sqrt(mean(x^2) + eps).
pub(super) struct Norm<'a> {
    pub(super) weight: &'a [Line],
    pub(super) width: usize,
    pub(super) eps: f32,
    pub(super) from: SharedLines,
    pub(super) to: SharedLines,
    pub(super) first: usize,
    pub(super) stride: usize,
    pub(super) rows: usize,
}

isa_kernel! { pub(super) fn norm(args: &Norm<'_>) = norm_body }

/// # Safety
/// The rows are in `from`, from line `first` on; `to` has as many lines, and nobody else uses it.
#[inline(always)]
unsafe fn norm_body<V: Lanes>(args: &Norm<'_>) {
    let tiles = tiles(args.width);
    for row in args.first..args.first + args.rows {
        // SAFETY: lines of this row.
        unsafe {
            let mut sum = V::splat(0.0);
            for tile in 0..tiles {
                let from = args.from.at(tile * args.stride + row);
                for i in (0..TILE).step_by(V::N) {
                    let x = V::load(from.add(i));
                    sum = x.mul_add(x, sum);
                }
            }
            let scale = V::splat(1.0 / (sum.sum() / args.width as f32 + args.eps).sqrt());
            for tile in 0..tiles {
                let (from, to) = (args.from.at(tile * args.stride + row), args.to.at(tile * args.stride + row));
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
    pub(super) dt_rank: usize,
    /// d_state lines.
    pub(super) states: States,
    /// The convolved input.
    pub(super) x: SharedLines,
    /// The gate.
    pub(super) z: SharedLines,
    /// dt before its projection, B, C.
    pub(super) x_dbl: SharedLines,
    /// In: dt before bias and softplus; out: y.
    pub(super) y: SharedLines,
    pub(super) stride: usize,
    pub(super) rows: usize,
}

isa_kernel! { pub(super) fn scan<const S: usize>(args: &Scan<'_>, tiles: Range<usize>) = scan_body }

/// # Safety
/// Everything has room for these tiles and the rows; nobody else uses them, nor writes `x_dbl`.
#[inline(always)]
unsafe fn scan_body<V: Wide, const S: usize>(args: &Scan<'_>, tiles: Range<usize>) {
    for tile in tiles {
        for row in 0..args.rows {
            // SAFETY: lines of this tile and row; B and C of this row.
            unsafe {
                let line = tile * args.stride + row;
                let dbl = |i: usize| *args.x_dbl.at(i / TILE * args.stride + row).add(i % TILE);
                let b_in: [f32; S] = std::array::from_fn(|n| dbl(args.dt_rank + n));
                let c_out: [f32; S] = std::array::from_fn(|n| dbl(args.dt_rank + S + n));
                let state = args.states.lines.at(args.states.line(tile, row, S));
                let a2 = args.a2.as_ptr().add(tile * S).cast::<f32>();
                for i in (0..TILE).step_by(V::N) {
                    let of = |lines: &[Line]| V::load(lines.as_ptr().add(tile).cast::<f32>().add(i));
                    let x = V::load(args.x.at(line).add(i));
                    let y_at = args.y.at(line).add(i);
                    let dt = softplus(V::load(y_at).add(of(args.dt_bias)));
                    let dtx = dt.mul(x);
                    // Several sums, so that additions do not wait for one another.
                    let mut sums = [V::splat(0.0); 4];
                    for n in 0..S {
                        let h_at = state.add(n * TILE + i);
                        let da = exp2_falling(dt.mul(V::load(a2.add(n * TILE + i))));
                        let h = V::load(h_at).mul_add(da, dtx.mul(V::splat(b_in[n])));
                        h.store(h_at);
                        sums[n % 4] = h.mul_add(V::splat(c_out[n]), sums[n % 4]);
                    }
                    let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
                    let z = V::load(args.z.at(line).add(i));
                    of(args.d).mul_add(x, sum).mul(z.mul(sigmoid(z))).store(y_at);
                }
            }
        }
    }
}
