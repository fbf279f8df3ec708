//! The selective scan, backward: recomputes each chunk from its checkpoint, then walks it in reverse.
//!
//! With g_t the gradient of h_t: g_t = C_t dy_t + exp(dt_{t+1} A) g_{t+1}; from it dC = dy h, dB = g dt x,
//! dx = dt (g B) + D dy, dA = g exp(dt A) h_{t-1} dt, and d(dt) = x (g B) + g exp(dt A) h_{t-1} A.

use std::ops::Range;

use rayon::prelude::*;

use super::lanes::{Isa, Lanes, isa_kernel, over_lanes, prefetch, sigmoid, softplus};
use super::lines::Lines;
use super::scan::{SCAN_CHUNK, ScanArgs, for_d_state};
use super::shared::Shared;

/// A row is cut by channels until there are this many tasks. A constant, not the number of threads: sums are then
/// taken in the same order on every machine.
const TASKS_MIN: usize = 4;
/// Channels in the widest register: parts are cut at multiples of it.
const LANES_MAX: usize = 16;
/// Channels that go through a chunk together: a few cache lines of each row.
const BLOCK: usize = 64;

/// The gradients that go in and come out.
#[derive(Debug)]
pub struct ScanGradients<'a> {
    /// In: dt before bias and softplus, (t, d_inner). Out: its gradient.
    pub dt_raw: &'a mut [f32],
    /// In: gradient of the gated output, (t, d_inner). Out: the gated output itself, recomputed.
    pub y: &'a mut [f32],
    /// Out: gradient of `x`, (t, d_inner).
    pub x: &'a mut [f32],
    /// Out: gradient of the input projection, (t, 2 d_inner); only the gate's half is written.
    pub xz: &'a mut [f32],
    /// Out: gradient of `x_dbl`, (t, dt_rank + 2 d_state); only B's and C's columns are written.
    pub x_dbl: &'a mut [f32],
    /// Added to: gradient of A_log, (d_inner, d_state).
    pub a_log: &'a mut [f32],
    /// Added to: gradient of D, (d_inner).
    pub d: &'a mut [f32],
    /// Added to: gradient of the bias of dt, (d_inner).
    pub dt_bias: &'a mut [f32],
}

/// Runs the scan backward from the checkpoints that [`super::scan_forward`] left.
///
/// # Panics
/// When a shape does not fit, or `d_state` is none of 4, 8, 16, 32, 64.
pub fn scan_backward(isa: Isa, args: &ScanArgs<'_>, checkpoints: &[f32], gradients: ScanGradients<'_>) {
    args.check();
    assert!(isa.is_supported(), "{isa:?} on a CPU without it");
    let (t, c, s) = (args.tokens(), args.d_inner, args.d_state);
    let g = gradients;
    assert_eq!(checkpoints.len(), ScanArgs::checkpoints_len(args.b, args.l, s, c), "checkpoints");
    assert_eq!(g.dt_raw.len(), t * c, "dt_raw");
    assert_eq!(g.y.len(), t * c, "y");
    assert_eq!(g.x.len(), t * c, "x");
    assert_eq!(g.xz.len(), t * 2 * c, "xz");
    assert_eq!(g.x_dbl.len(), t * args.width(), "x_dbl");
    assert_eq!(g.a_log.len(), c * s, "a_log");
    assert_eq!(g.d.len(), c, "d");
    assert_eq!(g.dt_bias.len(), c, "dt_bias");

    let parts = TASKS_MIN.div_ceil(args.b.max(1)).min(c.div_ceil(LANES_MAX)).max(1);
    let channels_per_part = c.div_ceil(LANES_MAX).div_ceil(parts) * LANES_MAX;
    // dB and dC of each part, (parts, t, 2 d_state): shared by all channels, so summed over parts afterwards.
    let mut partial_bc = vec![0.0; parts * t * 2 * s];
    // dA, dD and dbias of each row, (b, d_state + 2, d_inner).
    let mut partial_channel = vec![0.0; args.b * (s + 2) * c];
    let out = Outputs {
        dt_raw: Shared::new(g.dt_raw),
        y: Shared::new(g.y),
        x: Shared::new(g.x),
        xz: Shared::new(g.xz),
        bc: Shared::new(&mut partial_bc),
        channel: Shared::new(&mut partial_channel),
    };
    (0..args.b * parts).into_par_iter().for_each(|task| {
        let (row, part) = (task / parts, task % parts);
        let channels = (part * channels_per_part).min(c)..((part + 1) * channels_per_part).min(c);
        for_d_state!(s, S => {
            let mut scratch = Scratch::new(S, channels.len(), isa.lanes());
            // SAFETY: support was checked, every length too, and each task has its own (row, channels, part).
            unsafe { backward_task::<S>(isa, args, checkpoints, row, part, channels, &out, &mut scratch) }
        });
    });

    let width = args.width();
    g.x_dbl.par_chunks_mut(width).enumerate().for_each(|(t_index, row)| {
        let target = &mut row[args.dt_rank..];
        target.fill(0.0);
        for part in 0..parts {
            let from = (part * t + t_index) * 2 * s;
            for (sum, v) in target.iter_mut().zip(&partial_bc[from..from + 2 * s]) {
                *sum += v;
            }
        }
    });
    for per_row in partial_channel.chunks_exact((s + 2) * c) {
        for n in 0..s {
            for ch in 0..c {
                // dA/dA_log = A, and a2 = A log2(e).
                g.a_log[ch * s + n] += per_row[n * c + ch] * args.a2[n * c + ch] * std::f32::consts::LN_2;
            }
        }
        for ch in 0..c {
            g.d[ch] += per_row[s * c + ch];
            g.dt_bias[ch] += per_row[(s + 1) * c + ch];
        }
    }
}

/// Where the tasks write.
struct Outputs {
    dt_raw: Shared,
    y: Shared,
    x: Shared,
    xz: Shared,
    bc: Shared,
    channel: Shared,
}

/// What one task needs beside its outputs; allocated once a task.
struct Scratch {
    /// States before and after each token of a chunk, (SCAN_CHUNK + 1, S, lanes).
    h: Lines<f32>,
    /// exp(dt A), (SCAN_CHUNK, S, lanes); zero where a sample begins.
    decay: Lines<f32>,
    /// dB and dC of a chunk before their lanes are added up, (SCAN_CHUNK, 2 S, lanes).
    bc: Lines<f32>,
    /// Gradient of the state between chunks, (S, channels).
    dh: Lines<f32>,
    /// What a block's tokens are to the scan and get from it: [`PARTS`] arrays of (SCAN_CHUNK, BLOCK).
    parts: Lines<f32>,
}

/// The parts of a block in the scratch. As in the forward pass each chunk is read and written row by row; between, the scan walks
/// these copies.
#[derive(Clone, Copy)]
enum Part {
    Dt,
    /// dt x
    Dtx,
    /// Gradient of the output before the gate.
    Dy,
    /// That of the gate, but for the factor y.
    Dz,
    /// silu(z)
    Gate,
    /// Slope of softplus.
    Slope,
    /// Output before the gate, without the skip.
    Y,
    /// g B
    Gb,
    /// g exp(dt A) h A
    Ga,
}

/// How many [`Part`]s there are.
const PARTS: usize = 9;

impl Scratch {
    fn new(s: usize, channels: usize, lanes: usize) -> Self {
        let lines = |len: usize| {
            let mut lines = Lines::default();
            lines.first(len);
            lines
        };
        Self {
            h: lines((SCAN_CHUNK + 1) * s * lanes),
            decay: lines(SCAN_CHUNK * s * lanes),
            bc: lines(SCAN_CHUNK * 2 * s * lanes),
            dh: lines(s * channels),
            parts: lines(PARTS * SCAN_CHUNK * BLOCK),
        }
    }
}

/// The scratch as the kernels see it.
#[derive(Clone, Copy)]
struct Own {
    h: *mut f32,
    decay: *mut f32,
    bc: *mut f32,
    dh: *mut f32,
    parts: *mut f32,
    /// Lanes that `bc` has room for.
    lanes: usize,
    /// First channel of the task, and how many it has.
    channels: (usize, usize),
    /// First channel of the block.
    first: usize,
}

impl Own {
    /// Channel `c` of token `i` of the chunk.
    ///
    /// # Safety
    /// They are in the chunk and in the block.
    #[inline(always)]
    unsafe fn part(self, part: Part, i: usize, c: usize) -> *mut f32 {
        // SAFETY: inside the scratch by the caller's promise.
        unsafe { self.parts.add((part as usize * SCAN_CHUNK + i) * BLOCK + c - self.first) }
    }
}

isa_kernel! {
    #[allow(clippy::too_many_arguments)]
    fn backward_task<const S: usize>(
        args: &ScanArgs<'_>, checkpoints: &[f32], row: usize, part: usize, channels: Range<usize>,
        out: &Outputs, scratch: &mut Scratch,
    ) = backward_body
}

/// # Safety
/// Lengths as [`scan_backward`] checks them; no other task uses these channels of this row, or this part of it.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn backward_body<V: Lanes, const S: usize>(
    args: &ScanArgs<'_>,
    checkpoints: &[f32],
    row: usize,
    part: usize,
    channels: Range<usize>,
    out: &Outputs,
    scratch: &mut Scratch,
) {
    let mut own = Own {
        h: scratch.h.start(),
        decay: scratch.decay.start(),
        bc: scratch.bc.start(),
        dh: scratch.dh.start(),
        parts: scratch.parts.start(),
        lanes: V::N,
        channels: (channels.start, channels.len()),
        first: channels.start,
    };
    for chunk in (0..args.chunks()).rev() {
        let times = chunk * SCAN_CHUNK..((chunk + 1) * SCAN_CHUNK).min(args.l);
        // SAFETY: within the scratch, and within this task's channels and row.
        unsafe {
            std::slice::from_raw_parts_mut(own.bc, times.len() * 2 * S * V::N).fill(0.0);
            for first in channels.clone().step_by(BLOCK) {
                let block = first..(first + BLOCK).min(channels.end);
                own.first = first;
                for (i, time) in times.clone().enumerate() {
                    read_ahead(args, row, time, &block, out);
                    over_lanes!(V, c in block.clone() => before::<_>(args, row * args.l + time, i, c, out, own));
                }
                over_lanes!(V, c in block.clone() => tile::<_, S>(args, checkpoints, row, chunk, times.clone(), c, out, own));
                for (i, time) in times.clone().enumerate() {
                    over_lanes!(V, c in block.clone() => after::<_, S>(args, row, time, i, c, out, own));
                }
            }
            for (i, time) in times.enumerate() {
                let to = out.bc.at((part * args.tokens() + row * args.l + time) * 2 * S);
                for n in 0..2 * S {
                    *to.add(n) = V::load(own.bc.add((i * 2 * S + n) * V::N)).sum();
                }
            }
        }
    }
}

/// Asks for what the row a few tokens later will need.
#[inline(always)]
fn read_ahead(args: &ScanArgs<'_>, row: usize, time: usize, block: &Range<usize>, out: &Outputs) {
    const TOKENS: usize = 4;
    let c_count = args.d_inner;
    let later = row * args.l + (time + TOKENS).min(args.l - 1);
    for c in block.clone().step_by(LANES_MAX) {
        prefetch(&args.x[later * c_count + c]);
        prefetch(&args.xz[later * 2 * c_count + c_count + c]);
        // SAFETY: inside the buffers, whose lengths were checked; nothing is read or written.
        unsafe {
            prefetch(out.dt_raw.at(later * c_count + c));
            prefetch(out.y.at(later * c_count + c));
        }
    }
}

/// All that the scan needs of token `t`, the chunk's `i`th, which needs no other token.
///
/// # Safety
/// As [`backward_body`]; c + V::N <= d_inner, within the block.
#[inline(always)]
unsafe fn before<V: Lanes>(args: &ScanArgs<'_>, t: usize, i: usize, c: usize, out: &Outputs, own: Own) {
    let (c_count, one) = (args.d_inner, 1.0);
    // SAFETY: inside the lengths that were checked, and inside the scratch.
    unsafe {
        let one = V::splat(one);
        let x = V::load(args.x.as_ptr().add(t * c_count + c));
        let raw = V::load(out.dt_raw.at(t * c_count + c)).add(V::load(args.dt_bias.as_ptr().add(c)));
        let dt = softplus(raw);
        dt.store(own.part(Part::Dt, i, c));
        dt.mul(x).store(own.part(Part::Dtx, i, c));
        sigmoid(raw).store(own.part(Part::Slope, i, c));
        let z = V::load(args.xz.as_ptr().add(t * 2 * c_count + c_count + c));
        let d_gated = V::load(out.y.at(t * c_count + c));
        let sigmoid_z = sigmoid(z);
        let silu_z = z.mul(sigmoid_z);
        let silu_slope = sigmoid_z.mul(z.mul_add(one.sub(sigmoid_z), one));
        silu_z.store(own.part(Part::Gate, i, c));
        d_gated.mul(silu_z).store(own.part(Part::Dy, i, c));
        d_gated.mul(silu_slope).store(own.part(Part::Dz, i, c));
    }
}

/// What comes out for a token, from what the scan left.
///
/// # Safety
/// As [`before`], which has run, as has [`tile`].
#[inline(always)]
unsafe fn after<V: Lanes, const S: usize>(
    args: &ScanArgs<'_>,
    row: usize,
    time: usize,
    i: usize,
    c: usize,
    out: &Outputs,
    own: Own,
) {
    let (c_count, t) = (args.d_inner, row * args.l + time);
    // SAFETY: inside the lengths that were checked, and inside the scratch.
    unsafe {
        let of = |part: Part| V::load(own.part(part, i, c));
        let (x, d) = (V::load(args.x.as_ptr().add(t * c_count + c)), V::load(args.d.as_ptr().add(c)));
        let (dy, g_b) = (of(Part::Dy), of(Part::Gb));
        let y = d.mul_add(x, of(Part::Y));
        of(Part::Dz).mul(y).store(out.xz.at(t * 2 * c_count + c_count + c));
        y.mul(of(Part::Gate)).store(out.y.at(t * c_count + c));
        g_b.mul_add(of(Part::Dt), dy.mul(d)).store(out.x.at(t * c_count + c));
        let g_a = of(Part::Ga).mul(V::splat(std::f32::consts::LN_2));
        let d_raw = g_b.mul_add(x, g_a).mul(of(Part::Slope));
        d_raw.store(out.dt_raw.at(t * c_count + c));
        let sum = |n: usize| out.channel.at((row * (S + 2) + n) * c_count + c);
        dy.mul_add(x, V::load(sum(S))).store(sum(S));
        d_raw.add(V::load(sum(S + 1))).store(sum(S + 1));
    }
}

/// One chunk of time for the `V::N` channels from `c`: the states again, this time keeping what the way back needs, and back.
///
/// # Safety
/// As [`before`], which has run for all tokens of the chunk.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<V: Lanes, const S: usize>(
    args: &ScanArgs<'_>,
    checkpoints: &[f32],
    row: usize,
    chunk: usize,
    times: Range<usize>,
    c: usize,
    out: &Outputs,
    own: Own,
) {
    let (c_count, width) = (args.d_inner, args.width());
    let first = row * args.l + times.start;
    // SAFETY: first + i < b l, c + V::N <= d_inner, n < S and i <= SCAN_CHUNK keep every index inside the lengths that were
    // checked or allocated.
    unsafe {
        let a2: [V; S] = std::array::from_fn(|n| V::load(args.a2.as_ptr().add(n * c_count + c)));
        let from = checkpoints.as_ptr().add((row * args.chunks() + chunk) * S * c_count + c);
        let mut h: [V; S] = std::array::from_fn(|n| V::load(from.add(n * c_count)));
        for (n, h) in h.iter().enumerate() {
            h.store(own.h.add(n * V::N));
        }
        for i in 0..times.len() {
            let start = *args.starts.get_unchecked(first + i);
            let (dt, dtx) = (V::load(own.part(Part::Dt, i, c)), V::load(own.part(Part::Dtx, i, c)));
            let b_in = args.x_dbl.as_ptr().add((first + i) * width + args.dt_rank);
            let c_out = b_in.add(S);
            if start {
                h = [V::splat(0.0); S];
            }
            let mut sums = [V::splat(0.0); 2];
            for two in (0..S).step_by(2) {
                for (j, sum) in sums.iter_mut().enumerate() {
                    let n = two + j;
                    let da = dt.exp2_of_product(a2[n]);
                    da.store(own.decay.add((i * S + n) * V::N));
                    h[n] = h[n].mul_add(da, dtx.mul(V::splat(*b_in.add(n))));
                    *sum = h[n].mul_add(V::splat(*c_out.add(n)), *sum);
                    h[n].store(own.h.add(((i + 1) * S + n) * V::N));
                }
            }
            if start {
                for n in 0..S {
                    V::splat(0.0).store(own.decay.add((i * S + n) * V::N));
                }
            }
            sums[0].add(sums[1]).store(own.part(Part::Y, i, c));
        }

        let channel = |n: usize| out.channel.at((row * (S + 2) + n) * c_count + c);
        let dh_at = own.dh.add(c - own.channels.0);
        let mut dh: [V; S] = std::array::from_fn(|n| V::load(dh_at.add(n * own.channels.1)));
        let mut d_a: [V; S] = std::array::from_fn(|n| V::load(channel(n)));
        // Two tokens at once: what is summed over time is read and written half as often.
        let mut left = times.len();
        while left >= 2 {
            left -= 2;
            back::<V, S, 2>(args, first, left, c, own, &a2, &mut dh, &mut d_a);
        }
        if left == 1 {
            back::<V, S, 1>(args, first, 0, c, own, &a2, &mut dh, &mut d_a);
        }
        for n in 0..S {
            dh[n].store(dh_at.add(n * own.channels.1));
            d_a[n].store(channel(n));
        }
    }
}

/// The way back over the tokens `i + T - 1` to `i` of a chunk that begins at token `first`.
///
/// # Safety
/// As [`tile`], which has kept the states and decays of the chunk.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn back<V: Lanes, const S: usize, const T: usize>(
    args: &ScanArgs<'_>,
    first: usize,
    i: usize,
    c: usize,
    own: Own,
    a2: &[V; S],
    dh: &mut [V; S],
    d_a: &mut [V; S],
) {
    // SAFETY: i + T <= SCAN_CHUNK and n < S keep every index inside the scratch; the tokens exist.
    unsafe {
        let of = |part: Part| -> [V; T] { std::array::from_fn(|k| V::load(own.part(part, i + k, c))) };
        let (dt, dtx, dy) = (of(Part::Dt), of(Part::Dtx), of(Part::Dy));
        let b_in = args.x_dbl.as_ptr().add((first + i) * args.width() + args.dt_rank);
        let (mut g_b, mut g_a) = ([V::splat(0.0); T], [V::splat(0.0); T]);
        for n in 0..S {
            let (mut g, mut sum) = (dh[n], d_a[n]);
            let mut h_after = V::load(own.h.add(((i + T) * S + n) * V::N));
            for k in (0..T).rev() {
                let h_before = V::load(own.h.add(((i + k) * S + n) * V::N));
                let b_in = b_in.add(k * args.width() + n);
                let bc = own.bc.add((i + k) * 2 * S * own.lanes);
                let (to_b, to_c) = (bc.add(n * own.lanes), bc.add((S + n) * own.lanes));
                g = dy[k].mul_add(V::splat(*b_in.add(S)), g);
                g.mul_add(dtx[k], V::load(to_b)).store(to_b);
                dy[k].mul_add(h_after, V::load(to_c)).store(to_c);
                g_b[k] = g.mul_add(V::splat(*b_in), g_b[k]);
                g = g.mul(V::load(own.decay.add(((i + k) * S + n) * V::N)));
                let g_decay = g.mul(h_before);
                g_a[k] = g_decay.mul_add(a2[n], g_a[k]);
                sum = g_decay.mul_add(dt[k], sum);
                h_after = h_before;
            }
            (dh[n], d_a[n]) = (g, sum);
        }
        for k in 0..T {
            g_b[k].store(own.part(Part::Gb, i + k, c));
            g_a[k].store(own.part(Part::Ga, i + k, c));
        }
    }
}
