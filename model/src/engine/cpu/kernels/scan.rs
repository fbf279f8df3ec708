//! The selective scan, forward, fused with softplus before it and the skip and the gate after it.
//!
//! dt = softplus(dt_raw + bias); h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t; y_t = (C_t h_t + D x_t) silu(z_t)
//! (Gu and Dao 2023, arXiv:2312.00752, equation 2 and section 3.2.)
//!
//! A register holds one number for each of several channels, so the `d_state` states of those channels are `d_state`
//! registers and time is walked serially: the states never reach memory, except every [`SCAN_CHUNK`] tokens, where
//! they are kept as checkpoints from which the backward pass recomputes.

use rayon::prelude::*;

use super::lanes::{Isa, Lanes, isa_kernel, over_lanes, prefetch, sigmoid, softplus};
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

/// What a task keeps of a chunk, time after time, [`CHANNELS_PER_TASK`] channels each.
///
/// In the buffers of the whole batch a channel's next token is kilobytes away. So each chunk is read once, row by row, with what
/// needs no other token computed on the way; the recurrence walks this copy, which stays in the first-level cache; and what
/// comes out is gated and written row by row again.
#[repr(C, align(64))]
struct Chunk {
    dt: [f32; SCAN_CHUNK * CHANNELS_PER_TASK],
    /// dt x
    dtx: [f32; SCAN_CHUNK * CHANNELS_PER_TASK],
    /// C h
    y: [f32; SCAN_CHUNK * CHANNELS_PER_TASK],
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
    let mut own = std::mem::MaybeUninit::<Chunk>::uninit();
    let own = own.as_mut_ptr();
    for chunk in 0..args.chunks() {
        let times = chunk * SCAN_CHUNK..((chunk + 1) * SCAN_CHUNK).min(args.l);
        // SAFETY: within this task's channels and row, and each part of the chunk is written before it is read.
        unsafe {
            if let Some(checkpoints) = checkpoints {
                for n in 0..S {
                    let from = state.at((row * S + n) * c_count + channels.start);
                    let to = checkpoints.at(((row * args.chunks() + chunk) * S + n) * c_count + channels.start);
                    std::ptr::copy_nonoverlapping(from, to, channels.len());
                }
            }
            for time in times.clone() {
                let at = Place { t: row * args.l + time, i: time - times.start, first: channels.start };
                at.read_ahead(args, dt_raw, row, &channels);
                over_lanes!(V, c in channels.clone() => before::<_>(args, dt_raw, at, c, own));
            }
            over_lanes!(V, c in channels.clone() => recurrence::<_, S>(args, row, times.clone(), channels.start, c, state, own));
            for time in times.clone() {
                let at = Place { t: row * args.l + time, i: time - times.start, first: channels.start };
                over_lanes!(V, c in channels.clone() => after::<_>(args, at, c, own, y));
            }
        }
    }
}

/// A token: in the batch, in its chunk, and the first channel of the task.
#[derive(Clone, Copy)]
struct Place {
    t: usize,
    i: usize,
    first: usize,
}

impl Place {
    /// Where channel `c` of this token lies in a part of the chunk.
    fn own(self, c: usize) -> usize {
        self.i * CHANNELS_PER_TASK + c - self.first
    }

    /// Asks for what the row a few tokens later will need, and for the gate of this one, which is needed after the recurrence.
    #[inline(always)]
    fn read_ahead(self, args: &ScanArgs<'_>, dt_raw: &[f32], row: usize, channels: &std::ops::Range<usize>) {
        const TOKENS: usize = 4;
        let c_count = args.d_inner;
        let later = (self.t + TOKENS).min((row + 1) * args.l - 1);
        for c in channels.clone().step_by(16) {
            prefetch(&args.x[later * c_count + c]);
            prefetch(&dt_raw[later * c_count + c]);
            prefetch(&args.xz[self.t * 2 * c_count + c_count + c]);
        }
    }
}

/// dt after bias and softplus, and dt x, of one token's channels from `c`.
///
/// # Safety
/// As [`forward_body`]; c + V::N <= d_inner, within the task's channels.
#[inline(always)]
unsafe fn before<V: Lanes>(args: &ScanArgs<'_>, dt_raw: &[f32], at: Place, c: usize, own: *mut Chunk) {
    // SAFETY: inside the lengths that were checked, and inside the chunk.
    unsafe {
        let x = V::load(args.x.as_ptr().add(at.t * args.d_inner + c));
        let raw = V::load(dt_raw.as_ptr().add(at.t * args.d_inner + c));
        let dt = softplus(raw.add(V::load(args.dt_bias.as_ptr().add(c))));
        dt.store((&raw mut (*own).dt).cast::<f32>().add(at.own(c)));
        dt.mul(x).store((&raw mut (*own).dtx).cast::<f32>().add(at.own(c)));
    }
}

/// The skip and the gate.
///
/// # Safety
/// As [`before`], which has run, as has the recurrence.
#[inline(always)]
unsafe fn after<V: Lanes>(args: &ScanArgs<'_>, at: Place, c: usize, own: *mut Chunk, y: Shared) {
    // SAFETY: inside the lengths that were checked, and inside the chunk.
    unsafe {
        let sum = V::load((&raw const (*own).y).cast::<f32>().add(at.own(c)));
        let x = V::load(args.x.as_ptr().add(at.t * args.d_inner + c));
        let z = V::load(args.xz.as_ptr().add(at.t * 2 * args.d_inner + args.d_inner + c));
        let d = V::load(args.d.as_ptr().add(c));
        d.mul_add(x, sum).mul(z.mul(sigmoid(z))).store(y.at(at.t * args.d_inner + c));
    }
}

/// One chunk of time for the `V::N` channels from `c`.
///
/// # Safety
/// As [`before`], which has run for all tokens of the chunk.
#[inline(always)]
unsafe fn recurrence<V: Lanes, const S: usize>(
    args: &ScanArgs<'_>,
    row: usize,
    times: std::ops::Range<usize>,
    first: usize,
    c: usize,
    state: Shared,
    own: *mut Chunk,
) {
    let (c_count, width) = (args.d_inner, args.width());
    // SAFETY: t < b l, c + V::N <= d_inner and n < S keep every index inside the lengths that were checked.
    unsafe {
        let h_at = |n: usize| state.at((row * S + n) * c_count + c);
        let mut h: [V; S] = std::array::from_fn(|n| V::load(h_at(n)));
        let a2: [V; S] = std::array::from_fn(|n| V::load(args.a2.as_ptr().add(n * c_count + c)));
        for (i, time) in times.enumerate() {
            let at = Place { t: row * args.l + time, i, first };
            if *args.starts.get_unchecked(at.t) {
                h = [V::splat(0.0); S];
            }
            let dt = V::load((&raw const (*own).dt).cast::<f32>().add(at.own(c)));
            let dtx = V::load((&raw const (*own).dtx).cast::<f32>().add(at.own(c)));
            let b_in = args.x_dbl.as_ptr().add(at.t * width + args.dt_rank);
            let c_out = b_in.add(S);
            // Two sums, so that additions do not wait for one another; the inner loop's length is fixed, so that they stay
            // in registers.
            let mut sums = [V::splat(0.0); 2];
            for two in (0..S).step_by(2) {
                for (j, sum) in sums.iter_mut().enumerate() {
                    let n = two + j;
                    let da = dt.exp2_of_product(a2[n]);
                    h[n] = h[n].mul_add(da, dtx.mul(V::splat(*b_in.add(n))));
                    *sum = h[n].mul_add(V::splat(*c_out.add(n)), *sum);
                }
            }
            let sum = sums[0].add(sums[1]);
            sum.store((&raw mut (*own).y).cast::<f32>().add(at.own(c)));
        }
        for (n, h) in h.into_iter().enumerate() {
            h.store(h_at(n));
        }
    }
}
