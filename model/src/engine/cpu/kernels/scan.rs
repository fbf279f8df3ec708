//! The selective scan, forward, fused with softplus before it and the skip and the gate after it.
//!
//! dt = softplus(dt_raw + bias); h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t; y_t = (C_t h_t + D x_t) silu(z_t)
//! (Gu and Dao 2023, arXiv:2312.00752, equation 2 and section 3.2.)
//!
//! A register holds one number for each of several channels, so the `d_state` states of those channels are `d_state`
//! registers and time is walked serially: the states never reach memory, except every [`SCAN_CHUNK`] tokens, where
//! they are kept as checkpoints from which the backward pass recomputes.

use rayon::prelude::*;

use super::lanes::{Isa, Lanes, exp2, isa_kernel, sigmoid, softplus};
use super::shared::Shared;

/// Tokens between two checkpoints of the state. 32 steps of 16 states of 16 channels are 32 KiB: they stay in the
/// second-level cache while the backward pass walks them.
pub const SCAN_CHUNK: usize = 32;

/// Channels that one task of the forward pass takes: two cache lines of each row.
const CHANNELS_PER_TASK: usize = 64;

/// The inputs of a scan over `b` rows of `l` tokens; t counts all b * l tokens.
#[derive(Debug, Clone, Copy)]
pub struct ScanArgs<'a> {
    /// Rows.
    pub b: usize,
    /// Tokens in a row.
    pub l: usize,
    /// Channels.
    pub d_inner: usize,
    /// States of a channel.
    pub d_state: usize,
    /// Columns of `x_dbl` before B.
    pub dt_rank: usize,
    /// The convolved input, (t, d_inner).
    pub x: &'a [f32],
    /// Bias of dt, (d_inner).
    pub dt_bias: &'a [f32],
    /// dt before its projection, B, C, side by side: (t, dt_rank + 2 d_state).
    pub x_dbl: &'a [f32],
    /// Input projection, (t, 2 d_inner); the gate z is the second half of each row.
    pub xz: &'a [f32],
    /// A log2(e), (d_state, d_inner); negative.
    pub a2: &'a [f32],
    /// The skip D, (d_inner).
    pub d: &'a [f32],
    /// Where a new sample begins, (t): the state before such a token is zero.
    pub starts: &'a [bool],
}

impl ScanArgs<'_> {
    pub(super) fn tokens(&self) -> usize {
        self.b * self.l
    }

    pub(super) fn width(&self) -> usize {
        self.dt_rank + 2 * self.d_state
    }

    /// Checkpoints of a row.
    pub(super) fn chunks(&self) -> usize {
        self.l.div_ceil(SCAN_CHUNK)
    }

    /// Numbers in the checkpoints of all rows, (b, chunks, d_state, d_inner).
    pub fn checkpoints_len(b: usize, l: usize, d_state: usize, d_inner: usize) -> usize {
        b * l.div_ceil(SCAN_CHUNK) * d_state * d_inner
    }

    pub(super) fn check(&self) {
        let (t, c) = (self.tokens(), self.d_inner);
        assert_eq!(self.x.len(), t * c, "x");
        assert_eq!(self.dt_bias.len(), c, "dt_bias");
        assert_eq!(self.x_dbl.len(), t * self.width(), "x_dbl");
        assert_eq!(self.xz.len(), t * 2 * c, "xz");
        assert_eq!(self.a2.len(), self.d_state * c, "a2");
        assert_eq!(self.d.len(), c, "d");
        assert_eq!(self.starts.len(), t, "starts");
    }
}

/// Calls the instance of a kernel for this `d_state`.
macro_rules! for_d_state {
    ($d_state:expr, $S:ident => $call:expr) => {
        match $d_state {
            4 => {
                const $S: usize = 4;
                $call
            }
            8 => {
                const $S: usize = 8;
                $call
            }
            16 => {
                const $S: usize = 16;
                $call
            }
            32 => {
                const $S: usize = 32;
                $call
            }
            64 => {
                const $S: usize = 64;
                $call
            }
            other => panic!("d_state {other} has no kernel; 4, 8, 16, 32 and 64 have"),
        }
    };
}
pub(super) use for_d_state;

/// Runs the scan.
///
/// | argument | shape | |
/// |---|---|---|
/// | `dt_raw` | (b l, d_inner) | before bias and softplus |
/// | `state` | (b, d_state, d_inner) | read as the start, left as the end |
/// | `ret_y` | (b l, d_inner) | gated output |
/// | `ret_checkpoints` | (b, chunks, d_state, d_inner) | state before each chunk; `None` when nobody needs it |
///
/// # Panics
/// When a shape does not fit, or `d_state` is none of 4, 8, 16, 32, 64.
pub fn scan_forward(
    isa: Isa,
    args: &ScanArgs<'_>,
    dt_raw: &[f32],
    state: &mut [f32],
    ret_y: &mut [f32],
    ret_checkpoints: Option<&mut [f32]>,
) {
    args.check();
    assert!(isa.is_supported(), "{isa:?} on a CPU without it");
    let (t, c) = (args.tokens(), args.d_inner);
    assert_eq!(dt_raw.len(), t * c, "dt_raw");
    assert_eq!(ret_y.len(), t * c, "ret_y");
    assert_eq!(state.len(), args.b * args.d_state * c, "state");
    let checkpoints = ret_checkpoints.map(|buffer| {
        assert_eq!(buffer.len(), ScanArgs::checkpoints_len(args.b, args.l, args.d_state, c), "ret_checkpoints");
        Shared::new(buffer)
    });
    let (state, y) = (Shared::new(state), Shared::new(ret_y));
    let tasks_per_row = c.div_ceil(CHANNELS_PER_TASK);
    (0..args.b * tasks_per_row).into_par_iter().for_each(|task| {
        let (row, part) = (task / tasks_per_row, task % tasks_per_row);
        let channels = part * CHANNELS_PER_TASK..((part + 1) * CHANNELS_PER_TASK).min(c);
        for_d_state!(args.d_state, S => {
            // SAFETY: support was checked, every length too, and each task has its own (row, channels).
            unsafe { forward_task::<S>(isa, args, dt_raw, row, channels, state, y, checkpoints) }
        });
    });
}

isa_kernel! {
    #[allow(clippy::too_many_arguments)]
    fn forward_task<const S: usize>(
        args: &ScanArgs<'_>, dt_raw: &[f32], row: usize, channels: std::ops::Range<usize>,
        state: Shared, y: Shared, checkpoints: Option<Shared>,
    ) = forward_body
}

/// # Safety
/// Lengths as [`scan_forward`] checks them; no other task uses these channels of this row.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn forward_body<V: Lanes, const S: usize>(
    args: &ScanArgs<'_>,
    dt_raw: &[f32],
    row: usize,
    channels: std::ops::Range<usize>,
    state: Shared,
    y: Shared,
    checkpoints: Option<Shared>,
) {
    let c_count = args.d_inner;
    for chunk in 0..args.chunks() {
        let times = chunk * SCAN_CHUNK..((chunk + 1) * SCAN_CHUNK).min(args.l);
        // SAFETY: within this task's channels and row.
        unsafe {
            if let Some(checkpoints) = checkpoints {
                for n in 0..S {
                    let from = state.at((row * S + n) * c_count + channels.start);
                    let to = checkpoints.at(((row * args.chunks() + chunk) * S + n) * c_count + channels.start);
                    std::ptr::copy_nonoverlapping(from, to, channels.len());
                }
            }
            let mut c = channels.start;
            while c + V::N <= channels.end {
                forward_tile::<V, S>(args, dt_raw, row, times.clone(), c, state, y);
                c += V::N;
            }
            while c < channels.end {
                forward_tile::<f32, S>(args, dt_raw, row, times.clone(), c, state, y);
                c += 1;
            }
        }
    }
}

/// One chunk of time for the `V::N` channels from `c`.
///
/// # Safety
/// As [`forward_body`].
#[inline(always)]
unsafe fn forward_tile<V: Lanes, const S: usize>(
    args: &ScanArgs<'_>,
    dt_raw: &[f32],
    row: usize,
    times: std::ops::Range<usize>,
    c: usize,
    state: Shared,
    y: Shared,
) {
    let (c_count, width) = (args.d_inner, args.width());
    // SAFETY: t < b l, c + V::N <= d_inner and n < S keep every index inside the lengths that were checked.
    unsafe {
        let a2 = args.a2.as_ptr().add(c);
        let h_at = |n: usize| state.at((row * S + n) * c_count + c);
        let mut h: [V; S] = std::array::from_fn(|n| V::load(h_at(n)));
        let bias = V::load(args.dt_bias.as_ptr().add(c));
        let d = V::load(args.d.as_ptr().add(c));
        for time in times {
            let t = row * args.l + time;
            if *args.starts.get_unchecked(t) {
                h = [V::splat(0.0); S];
            }
            let x = V::load(args.x.as_ptr().add(t * c_count + c));
            let dt = softplus(V::load(dt_raw.as_ptr().add(t * c_count + c)).add(bias));
            let dtx = dt.mul(x);
            let b_in = args.x_dbl.as_ptr().add(t * width + args.dt_rank);
            let c_out = b_in.add(S);
            // Several sums, so that additions do not wait for one another.
            let mut sums = [V::splat(0.0); 4];
            for n in 0..S {
                let da = decay(dt, V::load(a2.add(n * c_count)));
                h[n] = h[n].mul_add(da, dtx.mul(V::splat(*b_in.add(n))));
                sums[n % 4] = h[n].mul_add(V::splat(*c_out.add(n)), sums[n % 4]);
            }
            let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
            let z = V::load(args.xz.as_ptr().add(t * 2 * c_count + c_count + c));
            let gated = d.mul_add(x, sum).mul(z.mul(sigmoid(z)));
            gated.store(y.at(t * c_count + c));
        }
        for (n, h) in h.into_iter().enumerate() {
            h.store(h_at(n));
        }
    }
}

/// exp(dt A), with A log2(e) given.
#[inline(always)]
pub(super) unsafe fn decay<V: Lanes>(dt: V, a2: V) -> V {
    // SAFETY: the caller has V's instruction set.
    unsafe { exp2(dt.mul(a2)) }
}
