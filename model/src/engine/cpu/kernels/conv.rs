//! The causal depthwise convolution with SiLU, forward and backward.
//!
//! out_t = silu(bias + sum_j w_j x_{t-j}), where inputs before the start of a sample are zero and those before the
//! start of a row come from the carried window.

use rayon::prelude::*;

use super::lanes::{Isa, Lanes, isa_kernel, sigmoid};
use super::shared::Shared;

/// Tokens of one task; also the unit in which weight gradients are summed, so it does not depend on the threads.
const TOKENS_PER_TASK: usize = 128;

/// The inputs of a convolution over `b` rows of `l` tokens; t counts all b * l tokens.
#[derive(Debug, Clone, Copy)]
pub struct ConvArgs<'a> {
    /// Rows.
    pub b: usize,
    /// Tokens in a row.
    pub l: usize,
    /// Channels.
    pub d_inner: usize,
    /// Taps: 2, 3 or 4.
    pub d_conv: usize,
    /// Input projection, (t, 2 d_inner); x is the first half of each row.
    pub xz: &'a [f32],
    /// Weights, (d_conv, d_inner), oldest tap first.
    pub weight: &'a [f32],
    /// Bias, (d_inner).
    pub bias: &'a [f32],
    /// Inputs before each row, oldest first, (b, d_conv - 1, d_inner).
    pub window: &'a [f32],
    /// Tokens before t in its sample, the carried ones included, capped at d_conv - 1: (t).
    pub reach: &'a [u8],
}

impl ConvArgs<'_> {
    fn check(&self) {
        let (t, c) = (self.b * self.l, self.d_inner);
        assert_eq!(self.xz.len(), t * 2 * c, "xz");
        assert_eq!(self.weight.len(), self.d_conv * c, "weight");
        assert_eq!(self.bias.len(), c, "bias");
        assert_eq!(self.window.len(), self.b * (self.d_conv - 1) * c, "window");
        assert_eq!(self.reach.len(), t, "reach");
    }

    fn tasks_per_row(&self) -> usize {
        self.l.div_ceil(TOKENS_PER_TASK)
    }

    /// Row and times of task `task`.
    fn task(&self, task: usize) -> (usize, std::ops::Range<usize>) {
        let (row, block) = (task / self.tasks_per_row(), task % self.tasks_per_row());
        (row, block * TOKENS_PER_TASK..((block + 1) * TOKENS_PER_TASK).min(self.l))
    }

    /// The input `j` tokens before `time`: in the row, in the carried window, or `None` before the sample's start.
    #[inline(always)]
    fn input(&self, row: usize, time: usize, j: usize) -> Option<&[f32]> {
        let c = self.d_inner;
        if usize::from(self.reach[row * self.l + time]) < j {
            None
        } else if time >= j {
            let from = (row * self.l + time - j) * 2 * c;
            Some(&self.xz[from..from + c])
        } else {
            let from = (row * (self.d_conv - 1) + self.d_conv - 1 + time - j) * c;
            Some(&self.window[from..from + c])
        }
    }

    /// Writes the last d_conv - 1 inputs of each row, the window to carry on with; zero before a sample's start.
    pub fn next_window(&self, ret: &mut [f32]) {
        self.check();
        assert_eq!(ret.len(), self.window.len(), "ret");
        let (k, c) = (self.d_conv - 1, self.d_inner);
        for row in 0..self.b {
            // Tokens of the open sample that the next token can look back on.
            let last = usize::from(self.reach[row * self.l + self.l - 1]) + 1;
            for slot in 0..k {
                let back = k - 1 - slot;
                let to = (row * k + slot) * c;
                match self.input(row, self.l - 1, back).filter(|_| back < last) {
                    Some(input) => ret[to..to + c].copy_from_slice(input),
                    None => ret[to..to + c].fill(0.0),
                }
            }
        }
    }
}

/// Tokens before each one in its sample, capped at d_conv - 1, for [`ConvArgs::reach`]; `starts` is (b, l).
///
/// At the start of a row the carried window counts as whole: where the stream itself has just begun, it holds zeros.
pub fn reach(starts: &[bool], l: usize, d_conv: usize, ret: &mut Vec<u8>) {
    ret.clear();
    let cap = (d_conv - 1) as u8;
    for row in starts.chunks_exact(l) {
        let mut before = cap;
        for &start in row {
            before = if start { 0 } else { before };
            ret.push(before);
            before = (before + 1).min(cap);
        }
    }
}

macro_rules! for_d_conv {
    ($d_conv:expr, $K:ident => $call:expr) => {
        match $d_conv {
            2 => {
                const $K: usize = 2;
                $call
            }
            3 => {
                const $K: usize = 3;
                $call
            }
            4 => {
                const $K: usize = 4;
                $call
            }
            other => panic!("d_conv {other} has no kernel; 2, 3 and 4 have"),
        }
    };
}

/// Writes silu(conv(x) + bias), (t, d_inner).
///
/// # Panics
/// When a shape does not fit, or `d_conv` is none of 2, 3, 4.
pub fn conv_forward(isa: Isa, args: &ConvArgs<'_>, ret: &mut [f32]) {
    args.check();
    assert!(isa.is_supported(), "{isa:?} on a CPU without it");
    assert_eq!(ret.len(), args.b * args.l * args.d_inner, "ret");
    let ret = Shared::new(ret);
    let zeros = vec![0.0; args.d_inner];
    (0..args.b * args.tasks_per_row()).into_par_iter().with_min_len(min_tasks(args)).for_each(|task| {
        for_d_conv!(args.d_conv, K => {
            // SAFETY: support and lengths were checked; each task writes its own tokens.
            unsafe { forward_task::<K>(isa, args, task, &zeros, ret) }
        });
    });
}

/// Tasks that one job takes at least, so that a job is worth handing to a thread.
fn min_tasks(args: &ConvArgs<'_>) -> usize {
    const NUMBERS_PER_JOB: usize = 16 * 1024;
    (NUMBERS_PER_JOB / (args.l.min(TOKENS_PER_TASK) * args.d_inner)).max(1)
}

isa_kernel! {
    fn forward_task<const K: usize>(args: &ConvArgs<'_>, task: usize, zeros: &[f32], ret: Shared) = forward_body
}

/// # Safety
/// Lengths as [`conv_forward`] checks them; no other thread writes this task's tokens.
#[inline(always)]
unsafe fn forward_body<V: Lanes, const K: usize>(args: &ConvArgs<'_>, task: usize, zeros: &[f32], ret: Shared) {
    let (row, times) = args.task(task);
    for time in times {
        let inputs: [&[f32]; K] = std::array::from_fn(|j| args.input(row, time, j).unwrap_or(zeros));
        // SAFETY: every input, weight row and output row has d_inner numbers, and c stays below.
        unsafe {
            let to = ret.at((row * args.l + time) * args.d_inner);
            let mut c = 0;
            while c + V::N <= args.d_inner {
                let pre = before_silu::<V, K>(args, &inputs, c);
                pre.mul(sigmoid(pre)).store(to.add(c));
                c += V::N;
            }
            while c < args.d_inner {
                let pre = before_silu::<f32, K>(args, &inputs, c);
                pre.mul(sigmoid(pre)).store(to.add(c));
                c += 1;
            }
        }
    }
}

/// bias + sum_j w_j x_{t-j} for the channels from `c`.
#[inline(always)]
unsafe fn before_silu<V: Lanes, const K: usize>(args: &ConvArgs<'_>, inputs: &[&[f32]; K], c: usize) -> V {
    // SAFETY: c + V::N <= d_inner by the caller's promise.
    unsafe {
        let mut sum = V::load(args.bias.as_ptr().add(c));
        for (j, input) in inputs.iter().enumerate() {
            let weight = V::load(args.weight.as_ptr().add((K - 1 - j) * args.d_inner + c));
            sum = V::load(input.as_ptr().add(c)).mul_add(weight, sum);
        }
        sum
    }
}

/// Goes backward through [`conv_forward`].
///
/// | argument | shape | |
/// |---|---|---|
/// | `d_out` | (t, d_inner) | in: gradient of the output; out: of the value before SiLU |
/// | `ret_d_xz` | (t, 2 d_inner) | first half of each row: gradient of x |
/// | `d_weight` | (d_inner, 1, d_conv) | added to |
/// | `d_bias` | (d_inner) | added to |
///
/// No gradient goes into the carried window.
///
/// # Panics
/// When a shape does not fit, or `d_conv` is none of 2, 3, 4.
pub fn conv_backward(
    isa: Isa,
    args: &ConvArgs<'_>,
    d_out: &mut [f32],
    ret_d_xz: &mut [f32],
    d_weight: &mut [f32],
    d_bias: &mut [f32],
) {
    args.check();
    assert!(isa.is_supported(), "{isa:?} on a CPU without it");
    let (t, c, k) = (args.b * args.l, args.d_inner, args.d_conv);
    assert_eq!(d_out.len(), t * c, "d_out");
    assert_eq!(ret_d_xz.len(), t * 2 * c, "ret_d_xz");
    assert_eq!(d_weight.len(), c * k, "d_weight");
    assert_eq!(d_bias.len(), c, "d_bias");
    let tasks = args.b * args.tasks_per_row();
    // Gradients of weights (by tap back in time) and bias, of each task: (tasks, d_conv + 1, d_inner).
    let mut partial = vec![0.0; tasks * (k + 1) * c];
    let zeros = vec![0.0; c];
    let (d_pre, d_xz) = (Shared::new(d_out), Shared::new(ret_d_xz));
    partial.par_chunks_mut((k + 1) * c).enumerate().for_each(|(task, partial)| {
        for_d_conv!(k, K => {
            // SAFETY: support and lengths were checked; each task writes its own tokens and its own sums.
            unsafe { before_silu_task::<K>(isa, args, task, &zeros, d_pre, Shared::new(partial)) }
        });
    });
    (0..tasks).into_par_iter().for_each(|task| {
        for_d_conv!(k, K => {
            // SAFETY: as above; `d_pre` is only read from here on.
            unsafe { inputs_task::<K>(isa, args, task, &zeros, d_pre, d_xz) }
        });
    });
    for sums in partial.chunks_exact((k + 1) * c) {
        for ch in 0..c {
            for j in 0..k {
                d_weight[ch * k + k - 1 - j] += sums[j * c + ch];
            }
            d_bias[ch] += sums[k * c + ch];
        }
    }
}

isa_kernel! {
    fn before_silu_task<const K: usize>(
        args: &ConvArgs<'_>, task: usize, zeros: &[f32], d_pre: Shared, partial: Shared,
    ) = before_silu_backward
}

/// Turns the gradient of the output into that of the value before SiLU, and sums weights' and bias's.
///
/// # Safety
/// Lengths as [`conv_backward`] checks them; no other thread uses this task's tokens or sums.
#[inline(always)]
unsafe fn before_silu_backward<V: Lanes, const K: usize>(
    args: &ConvArgs<'_>,
    task: usize,
    zeros: &[f32],
    d_pre: Shared,
    partial: Shared,
) {
    let (row, times) = args.task(task);
    for time in times {
        let inputs: [&[f32]; K] = std::array::from_fn(|j| args.input(row, time, j).unwrap_or(zeros));
        // SAFETY: as in `forward_body`.
        unsafe {
            let at = d_pre.at((row * args.l + time) * args.d_inner);
            let mut c = 0;
            while c + V::N <= args.d_inner {
                before_silu_lanes::<V, K>(args, &inputs, c, at, partial);
                c += V::N;
            }
            while c < args.d_inner {
                before_silu_lanes::<f32, K>(args, &inputs, c, at, partial);
                c += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn before_silu_lanes<V: Lanes, const K: usize>(
    args: &ConvArgs<'_>,
    inputs: &[&[f32]; K],
    c: usize,
    d_row: *mut f32,
    partial: Shared,
) {
    // SAFETY: c + V::N <= d_inner by the caller's promise.
    unsafe {
        let pre = before_silu::<V, K>(args, inputs, c);
        let s = sigmoid(pre);
        let one = V::splat(1.0);
        let slope = s.mul(pre.mul_add(one.sub(s), one));
        let d = V::load(d_row.add(c)).mul(slope);
        d.store(d_row.add(c));
        for (j, input) in inputs.iter().enumerate() {
            let sum = partial.at(j * args.d_inner + c);
            V::load(input.as_ptr().add(c)).mul_add(d, V::load(sum)).store(sum);
        }
        let sum = partial.at(K * args.d_inner + c);
        d.add(V::load(sum)).store(sum);
    }
}

isa_kernel! {
    fn inputs_task<const K: usize>(
        args: &ConvArgs<'_>, task: usize, zeros: &[f32], d_pre: Shared, d_xz: Shared,
    ) = inputs_backward
}

/// dx_t = sum_j w_j d_pre_{t+j}, over the later tokens that look back on t.
///
/// # Safety
/// Lengths as [`conv_backward`] checks them; no other thread writes this task's tokens of `d_xz`.
#[inline(always)]
unsafe fn inputs_backward<V: Lanes, const K: usize>(
    args: &ConvArgs<'_>,
    task: usize,
    zeros: &[f32],
    d_pre: Shared,
    d_xz: Shared,
) {
    let (row, times) = args.task(task);
    for time in times {
        let t = row * args.l + time;
        // SAFETY: rows of later tokens of the same row, d_inner numbers each, and c stays below.
        unsafe {
            let sources: [*const f32; K] = std::array::from_fn(|j| {
                if time + j < args.l && usize::from(*args.reach.get_unchecked(t + j)) >= j {
                    d_pre.at((t + j) * args.d_inner).cast_const()
                } else {
                    zeros.as_ptr()
                }
            });
            let to = d_xz.at(t * 2 * args.d_inner);
            let mut c = 0;
            while c + V::N <= args.d_inner {
                inputs_lanes::<V, K>(args, &sources, c, to);
                c += V::N;
            }
            while c < args.d_inner {
                inputs_lanes::<f32, K>(args, &sources, c, to);
                c += 1;
            }
        }
    }
}

#[inline(always)]
unsafe fn inputs_lanes<V: Lanes, const K: usize>(
    args: &ConvArgs<'_>,
    sources: &[*const f32; K],
    c: usize,
    to: *mut f32,
) {
    // SAFETY: c + V::N <= d_inner by the caller's promise.
    unsafe {
        let mut sum = V::splat(0.0);
        for (j, source) in sources.iter().enumerate() {
            let weight = V::load(args.weight.as_ptr().add((K - 1 - j) * args.d_inner + c));
            sum = V::load(source.add(c)).mul_add(weight, sum);
        }
        sum.store(to.add(c));
    }
}
