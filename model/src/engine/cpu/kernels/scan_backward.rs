//! The selective scan, backward: recomputes each chunk from its checkpoint, then walks it in reverse.
//!
//! With g_t the gradient of h_t: g_t = C_t dy_t + exp(dt_{t+1} A) g_{t+1}; from it dC = dy h, dB = g dt x,
//! dx = dt (g B) + D dy, dA = g exp(dt A) h_{t-1} dt, and d(dt) = x (g B) + g exp(dt A) h_{t-1} A.

use std::ops::Range;

use rayon::prelude::*;

use super::lanes::{Isa, Lanes, isa_kernel, sigmoid, softplus};
use super::scan::{SCAN_CHUNK, ScanArgs, decay, for_d_state};
use super::shared::Shared;

/// A row is cut by channels until there are this many tasks. A constant, not the number of threads: sums are then
/// taken in the same order on every machine.
const TASKS_MIN: usize = 4;
/// Channels in the widest register: parts are cut at multiples of it.
const LANES_MAX: usize = 16;

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
            let mut scratch = Scratch::new(S, channels.len());
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
    h: Vec<f32>,
    /// exp(dt A), (SCAN_CHUNK, S, lanes); zero where a sample begins.
    decay: Vec<f32>,
    /// Output before the gate, dt, (SCAN_CHUNK, 2, lanes).
    y_dt: Vec<f32>,
    /// dB and dC of a chunk before their lanes are added up, (SCAN_CHUNK, 2 S, LANES_MAX).
    bc: Vec<f32>,
    /// Gradient of the state between chunks, (S, channels).
    dh: Vec<f32>,
}

impl Scratch {
    fn new(s: usize, channels: usize) -> Self {
        Self {
            h: vec![0.0; (SCAN_CHUNK + 1) * s * LANES_MAX],
            decay: vec![0.0; SCAN_CHUNK * s * LANES_MAX],
            y_dt: vec![0.0; SCAN_CHUNK * 2 * LANES_MAX],
            bc: vec![0.0; SCAN_CHUNK * 2 * s * LANES_MAX],
            dh: vec![0.0; s * channels],
        }
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
    for chunk in (0..args.chunks()).rev() {
        let times = chunk * SCAN_CHUNK..((chunk + 1) * SCAN_CHUNK).min(args.l);
        scratch.bc[..times.len() * 2 * S * LANES_MAX].fill(0.0);
        let mut c = channels.start;
        // SAFETY: within this task's channels and row.
        unsafe {
            while c + V::N <= channels.end {
                backward_tile::<V, S>(args, checkpoints, row, chunk, times.clone(), c, &channels, out, scratch);
                c += V::N;
            }
            while c < channels.end {
                backward_tile::<f32, S>(args, checkpoints, row, chunk, times.clone(), c, &channels, out, scratch);
                c += 1;
            }
            for (i, time) in times.enumerate() {
                let to = out.bc.at((part * args.tokens() + row * args.l + time) * 2 * S);
                for n in 0..2 * S {
                    *to.add(n) = sum_lanes::<V>(scratch.bc.as_ptr().add((i * 2 * S + n) * LANES_MAX));
                }
            }
        }
    }
}

/// The sum of `LANES_MAX` numbers.
#[inline(always)]
unsafe fn sum_lanes<V: Lanes>(p: *const f32) -> f32 {
    let mut sum = 0.0;
    // SAFETY: LANES_MAX numbers by the caller's promise, and V::N divides LANES_MAX.
    unsafe {
        for i in (0..LANES_MAX).step_by(V::N) {
            sum += V::load(p.add(i)).sum();
        }
    }
    sum
}

/// One chunk of time for the `V::N` channels from `c`.
///
/// # Safety
/// As [`backward_body`].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn backward_tile<V: Lanes, const S: usize>(
    args: &ScanArgs<'_>,
    checkpoints: &[f32],
    row: usize,
    chunk: usize,
    times: Range<usize>,
    c: usize,
    channels: &Range<usize>,
    out: &Outputs,
    scratch: &mut Scratch,
) {
    let (c_count, width) = (args.d_inner, args.width());
    let zero_time = times.start;
    // SAFETY: t < b l, c + V::N <= d_inner, n < S and i <= SCAN_CHUNK keep every index inside the lengths that were
    // checked or allocated.
    unsafe {
        let a2 = args.a2.as_ptr().add(c);
        let bias = V::load(args.dt_bias.as_ptr().add(c));
        let d = V::load(args.d.as_ptr().add(c));
        let hs = scratch.h.as_mut_ptr();
        let decays = scratch.decay.as_mut_ptr();
        let y_dt = scratch.y_dt.as_mut_ptr();

        // Forward again, this time keeping what the way back needs.
        let from = checkpoints.as_ptr().add((row * args.chunks() + chunk) * S * c_count + c);
        let mut h: [V; S] = std::array::from_fn(|n| V::load(from.add(n * c_count)));
        for (n, h) in h.iter().enumerate() {
            h.store(hs.add(n * V::N));
        }
        for time in times.clone() {
            let (t, i) = (row * args.l + time, time - zero_time);
            let start = *args.starts.get_unchecked(t);
            let x = V::load(args.x.as_ptr().add(t * c_count + c));
            let dt = softplus(V::load(out.dt_raw.at(t * c_count + c)).add(bias));
            let dtx = dt.mul(x);
            let b_in = args.x_dbl.as_ptr().add(t * width + args.dt_rank);
            let c_out = b_in.add(S);
            if start {
                h = [V::splat(0.0); S];
            }
            let mut sums = [V::splat(0.0); 4];
            for n in 0..S {
                let da = decay(dt, V::load(a2.add(n * c_count)));
                da.store(decays.add((i * S + n) * V::N));
                h[n] = h[n].mul_add(da, dtx.mul(V::splat(*b_in.add(n))));
                sums[n % 4] = h[n].mul_add(V::splat(*c_out.add(n)), sums[n % 4]);
                h[n].store(hs.add(((i + 1) * S + n) * V::N));
            }
            if start {
                for n in 0..S {
                    V::splat(0.0).store(decays.add((i * S + n) * V::N));
                }
            }
            let y = d.mul_add(x, sums[0].add(sums[1]).add(sums[2].add(sums[3])));
            y.store(y_dt.add(2 * i * V::N));
            dt.store(y_dt.add((2 * i + 1) * V::N));
        }

        // And back.
        let channel = |n: usize| out.channel.at((row * (S + 2) + n) * c_count + c);
        let dh_at = scratch.dh.as_mut_ptr().add(c - channels.start);
        let mut dh: [V; S] = std::array::from_fn(|n| V::load(dh_at.add(n * channels.len())));
        let mut d_skip = V::load(channel(S));
        let mut d_bias = V::load(channel(S + 1));
        let mut d_a: [V; S] = std::array::from_fn(|n| V::load(channel(n)));
        for time in times.rev() {
            let (t, i) = (row * args.l + time, time - zero_time);
            let x = V::load(args.x.as_ptr().add(t * c_count + c));
            let raw = V::load(out.dt_raw.at(t * c_count + c)).add(bias);
            let z = V::load(args.xz.as_ptr().add(t * 2 * c_count + c_count + c));
            let y = V::load(y_dt.add(2 * i * V::N));
            let dt = V::load(y_dt.add((2 * i + 1) * V::N));
            let d_gated = V::load(out.y.at(t * c_count + c));

            let sigmoid_z = sigmoid(z);
            let silu_z = z.mul(sigmoid_z);
            let one = V::splat(1.0);
            let silu_slope = sigmoid_z.mul(z.mul_add(one.sub(sigmoid_z), one));
            d_gated.mul(y).mul(silu_slope).store(out.xz.at(t * 2 * c_count + c_count + c));
            y.mul(silu_z).store(out.y.at(t * c_count + c));
            let dy = d_gated.mul(silu_z);
            d_skip = dy.mul_add(x, d_skip);

            let dtx = dt.mul(x);
            let b_in = args.x_dbl.as_ptr().add(t * width + args.dt_rank);
            let c_out = b_in.add(S);
            let bc = scratch.bc.as_mut_ptr().add(i * 2 * S * LANES_MAX);
            let (mut g_b, mut g_a2) = ([V::splat(0.0); 2], [V::splat(0.0); 2]);
            for n in 0..S {
                let h_after = V::load(hs.add(((i + 1) * S + n) * V::N));
                let h_before = V::load(hs.add((i * S + n) * V::N));
                let g = dh[n].add(dy.mul(V::splat(*c_out.add(n))));
                let (to_b, to_c) = (bc.add(n * LANES_MAX), bc.add((S + n) * LANES_MAX));
                g.mul_add(dtx, V::load(to_b)).store(to_b);
                dy.mul_add(h_after, V::load(to_c)).store(to_c);
                g_b[n % 2] = g.mul_add(V::splat(*b_in.add(n)), g_b[n % 2]);
                dh[n] = g.mul(V::load(decays.add((i * S + n) * V::N)));
                let g_decay = dh[n].mul(h_before);
                g_a2[n % 2] = g_decay.mul_add(V::load(a2.add(n * c_count)), g_a2[n % 2]);
                d_a[n] = g_decay.mul_add(dt, d_a[n]);
            }
            let g_b = g_b[0].add(g_b[1]);
            let g_a = g_a2[0].add(g_a2[1]).mul(V::splat(std::f32::consts::LN_2));
            g_b.mul_add(dt, dy.mul(d)).store(out.x.at(t * c_count + c));
            let d_raw = g_b.mul_add(x, g_a).mul(sigmoid(raw));
            d_raw.store(out.dt_raw.at(t * c_count + c));
            d_bias = d_raw.add(d_bias);
        }
        for n in 0..S {
            dh[n].store(dh_at.add(n * channels.len()));
            d_a[n].store(channel(n));
        }
        d_skip.store(channel(S));
        d_bias.store(channel(S + 1));
    }
}
