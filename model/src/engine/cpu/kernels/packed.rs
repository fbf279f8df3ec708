//! A weight matrix laid out for many streams: one pass over the weights serves all of them.
//!
//! Panels of 32 outputs, input by input, so that a step reads the weights once, in order. Where rows are few this beats
//! a general product, which packs its operands anew at each call.

use rayon::prelude::*;

use super::lanes::{Isa, Lanes, isa_kernel};
use super::matmul::Matrix;
use super::shared::Shared;

/// Outputs in a panel: two of the widest registers.
const PANEL: usize = 32;
/// Rows that the largest kernel takes at once.
const ROWS_MAX: usize = 12;

/// A (outputs, inputs) matrix in panels.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    outputs: usize,
    inputs: usize,
    /// (panels, inputs, PANEL), zero beyond the last output.
    data: Vec<f32>,
}

impl PackedMatrix {
    /// Packs the row-major (outputs, inputs) matrix `weights`.
    ///
    /// # Panics
    /// When the length does not fit.
    pub fn new(weights: &[f32], outputs: usize, inputs: usize) -> Self {
        assert_eq!(weights.len(), outputs * inputs, "weights");
        let mut data = vec![0.0; outputs.div_ceil(PANEL) * inputs * PANEL];
        data.par_chunks_mut(inputs * PANEL).enumerate().for_each(|(panel, data)| {
            for o in 0..PANEL.min(outputs - panel * PANEL) {
                let row = &weights[(panel * PANEL + o) * inputs..][..inputs];
                for (i, w) in row.iter().enumerate() {
                    data[i * PANEL + o] = *w;
                }
            }
        });
        Self { outputs, inputs, data }
    }

    /// `ret` (rows, outputs) becomes `x` (rows, inputs) times the transposed weights, or has that added when `accumulate`.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn multiply(&self, isa: Isa, x: Matrix<'_>, ret: &mut [f32], accumulate: bool) {
        assert!(isa.is_supported(), "{isa:?} on a CPU without it");
        let (rows, inputs) = x.shape();
        assert_eq!(inputs, self.inputs, "inputs");
        assert_eq!(ret.len(), rows * self.outputs, "ret");
        // Tiles of even height: a low last one would wait for its own additions.
        let tile = rows.div_ceil(rows.div_ceil(rows_at_once(isa)).max(1)).max(1);
        let packed_x = pack_rows(x, tile);
        let job = Job { x: &packed_x, rows, tile, ret: Shared::new(ret), ret_stride: self.outputs, accumulate };
        let panels = self.outputs.div_ceil(PANEL);
        // A thread costs microseconds to wake: give it at least this many multiply-adds.
        const PER_TASK: usize = 1 << 18;
        let least = (PER_TASK / (self.inputs * PANEL * rows.max(1))).clamp(1, panels);
        (0..panels).into_par_iter().with_min_len(least).for_each(|panel| {
            // SAFETY: support and lengths were checked; each panel has its own columns of `ret`.
            unsafe { self.panel(isa, &job, panel) };
        });
    }

    /// # Safety
    /// The CPU has `isa`, the job's lengths fit, and no other thread uses this panel's columns.
    unsafe fn panel(&self, isa: Isa, job: &Job<'_>, panel: usize) {
        let weights = &self.data[panel * self.inputs * PANEL..(panel + 1) * self.inputs * PANEL];
        let outputs = panel * PANEL..((panel + 1) * PANEL).min(self.outputs);
        let mut row = 0;
        while row < job.rows {
            let count = job.tile.min(job.rows - row);
            macro_rules! dispatch {
                ($($r:literal)*) => {
                    match count {
                        // SAFETY: handed on to the caller; count rows from `row` exist.
                        $($r => unsafe { rows::<$r>(isa, job, weights, row, outputs.clone()) },)*
                        _ => unreachable!("at most 12 rows"),
                    }
                };
            }
            dispatch!(1 2 3 4 5 6 7 8 9 10 11 12);
            row += count;
        }
    }
}

/// As many rows at once as leave two registers a row, and some for weights and inputs.
fn rows_at_once(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => ROWS_MAX,
        Isa::Avx2 => 6,
        Isa::Scalar => 4,
    }
}

/// Lays `x` out as it is read: for each `tile` of rows, input by input, the numbers of its rows side by side.
fn pack_rows(x: Matrix<'_>, tile: usize) -> Vec<f32> {
    let (rows, inputs) = x.shape();
    let mut packed = vec![0.0; rows * inputs];
    packed.par_chunks_mut(tile * inputs).enumerate().with_min_len(2).for_each(|(index, packed)| {
        let count = packed.len() / inputs;
        for r in 0..count {
            let row = x.row(index * tile + r);
            for (to, v) in packed.iter_mut().skip(r).step_by(count).zip(row) {
                *to = *v;
            }
        }
    });
    packed
}

/// The operands of one product.
struct Job<'a> {
    /// From [`pack_rows`].
    x: &'a [f32],
    rows: usize,
    tile: usize,
    ret: Shared,
    ret_stride: usize,
    accumulate: bool,
}

isa_kernel! {
    fn rows<const R: usize>(job: &Job<'_>, weights: &[f32], row: usize, outputs: std::ops::Range<usize>) = rows_body
}

/// R rows times one panel.
///
/// # Safety
/// Rows `row..row + R` exist in the job, `weights` is a whole panel, and no other thread uses these outputs.
#[inline(always)]
unsafe fn rows_body<V: Lanes, const R: usize>(
    job: &Job<'_>,
    weights: &[f32],
    row: usize,
    outputs: std::ops::Range<usize>,
) {
    let inputs = weights.len() / PANEL;
    // SAFETY: the offsets stay inside the operands by the caller's promise; a panel is always whole.
    unsafe {
        for part in (0..PANEL).step_by(2 * V::N) {
            let mut sums = [[V::splat(0.0); 2]; R];
            let mut w = weights.as_ptr().add(part);
            let mut x_at = job.x.as_ptr().add(row * inputs);
            for _ in 0..inputs {
                let (w0, w1) = (V::load(w), V::load(w.add(V::N)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = V::splat(*x_at.add(r));
                    sums[0] = x.mul_add(w0, sums[0]);
                    sums[1] = x.mul_add(w1, sums[1]);
                }
                w = w.add(PANEL);
                x_at = x_at.add(R);
            }
            // Through memory once: writing out straight from the registers, with its branches, makes the compiler keep
            // them in memory all along.
            let mut lanes = [0.0f32; ROWS_MAX * PANEL];
            for (r, sums) in sums.into_iter().enumerate() {
                sums[0].store(lanes.as_mut_ptr().add(r * PANEL));
                sums[1].store(lanes.as_mut_ptr().add(r * PANEL + V::N));
            }
            let first = (outputs.start + part).min(outputs.end);
            let count = (2 * V::N).min(outputs.end - first);
            for r in 0..R {
                let to = std::slice::from_raw_parts_mut(job.ret.at((row + r) * job.ret_stride + first), count);
                let sums = &lanes[r * PANEL..r * PANEL + count];
                if job.accumulate {
                    to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
                } else {
                    to.copy_from_slice(sums);
                }
            }
        }
    }
}
