//! A weight matrix as a step reads it: in panels of 16 outputs, input by input, in one of three precisions.
//!
//! | precision | a line of 64 bytes holds, of the 16 outputs of a panel |
//! |---|---|
//! | f32 | the weights of one input |
//! | bf16 | those of two inputs; a 32-bit word has an output's two, the first in the lower half |
//! | int8 | those of four inputs; a 32-bit word has an output's four, and each output has a scale |
//!
//! Inputs are padded to a multiple of four, outputs to one of 16, with zeros. All panels of a network lie on one shelf, in the order in
//! which a step reads them: one panel is too short for a huge page, all of them are not.

use std::ops::Range;

use rayon::prelude::*;

use super::super::numbers::Numbers;
use super::lines::{Line, TILE, tiles, vector};
use crate::engine::Precision;

/// Where panels lie, one after another, on huge pages where the system has them.
#[derive(Debug)]
pub(super) struct Shelf {
    numbers: Numbers,
    /// Lines that are taken.
    taken: usize,
}

impl Shelf {
    /// An empty one with room for `lines` lines.
    pub(super) fn new(lines: usize) -> Self {
        Self { numbers: Numbers::zeroed(lines * TILE), taken: 0 }
    }

    /// The next `lines` lines, zero as yet, and where they are.
    ///
    /// # Panics
    /// When it has no room for them.
    fn take(&mut self, lines: usize) -> (Range<usize>, &mut [Line]) {
        let place = self.taken..self.taken + lines;
        self.taken = place.end;
        (place.clone(), &mut bytemuck::cast_slice_mut(&mut self.numbers)[place])
    }
}

/// A (outputs, inputs) matrix in panels.
#[derive(Debug, Clone)]
pub(super) struct Panels {
    inputs: usize,
    precision: Precision,
    /// Its lines on the shelf, (panels, lines of a panel).
    place: Range<usize>,
    /// Scales of the outputs; for int8 only.
    scales: Vec<Line>,
}

/// Panels as a product reads them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) inputs: usize,
    pub(super) precision: Precision,
    /// (panels, lines of a panel)
    pub(super) lines: &'a [Line],
    /// Scales of the outputs; for int8 only.
    pub(super) scales: &'a [Line],
}

impl Panels {
    /// Packs the row-major (outputs, inputs) matrix `weights` onto `shelf`.
    ///
    /// # Panics
    /// When the length does not fit, or the shelf is full.
    pub(super) fn new(shelf: &mut Shelf, weights: &[f32], outputs: usize, inputs: usize, precision: Precision) -> Self {
        assert_eq!(weights.len(), outputs * inputs, "weights");
        let mut scale_lines = Vec::new();
        if precision == Precision::Int8 {
            let largest = |row: &[f32]| row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            scale_lines = vector(&weights.chunks_exact(inputs).map(|row| largest(row) / 127.0).collect::<Vec<_>>());
        }
        let per_panel = panel_lines(inputs, precision);
        let (place, lines) = shelf.take(Self::lines(outputs, inputs, precision));
        let scales: &[f32] = bytemuck::cast_slice(&scale_lines);
        lines.par_chunks_mut(per_panel).enumerate().for_each(|(panel, lines)| {
            for o in 0..TILE.min(outputs - panel * TILE) {
                let row = &weights[(panel * TILE + o) * inputs..][..inputs];
                match precision {
                    Precision::F32 => {
                        let to: &mut [f32] = bytemuck::cast_slice_mut(lines);
                        row.iter().enumerate().for_each(|(i, w)| to[i * TILE + o] = *w);
                    }
                    Precision::Bf16 => {
                        let to: &mut [u16] = bytemuck::cast_slice_mut(lines);
                        row.iter().enumerate().for_each(|(i, w)| to[(i / 2 * TILE + o) * 2 + i % 2] = to_bf16(*w));
                    }
                    Precision::Int8 => {
                        let to: &mut [i8] = bytemuck::cast_slice_mut(lines);
                        let scale = scales[panel * TILE + o];
                        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                        for (i, w) in row.iter().enumerate() {
                            to[(i / 4 * TILE + o) * 4 + i % 4] = (w * inverse).round_ties_even() as i8;
                        }
                    }
                }
            }
        });
        Self { inputs, precision, place, scales: scale_lines }
    }

    /// Lines that such a matrix takes.
    pub(super) fn lines(outputs: usize, inputs: usize, precision: Precision) -> usize {
        tiles(outputs) * panel_lines(inputs, precision)
    }

    /// As a product reads them; `shelf` is where they were put.
    pub(super) fn on<'a>(&'a self, shelf: &'a Shelf) -> Weights<'a> {
        let lines: &[Line] = bytemuck::cast_slice(&shelf.numbers);
        Weights {
            inputs: self.inputs,
            precision: self.precision,
            lines: &lines[self.place.clone()],
            scales: &self.scales,
        }
    }

    /// Bytes that a step reads.
    pub(super) fn bytes(&self) -> usize {
        self.place.len() * size_of::<Line>() + size_of_val(&self.scales[..])
    }
}

impl Weights<'_> {
    /// Lines of a panel.
    #[inline(always)]
    pub(super) fn panel_lines(&self) -> usize {
        panel_lines(self.inputs, self.precision)
    }
}

/// Lines of a panel of so many inputs.
#[inline(always)]
fn panel_lines(inputs: usize, precision: Precision) -> usize {
    let inputs = inputs.next_multiple_of(4);
    match precision {
        Precision::F32 => inputs,
        Precision::Bf16 => inputs / 2,
        Precision::Int8 => inputs / 4,
    }
}

/// The nearest number with 8 bits of mantissa, ties to even; NaN stays NaN.
pub(super) fn to_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    if v.is_nan() { (bits >> 16) as u16 | 0x40 } else { ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16 }
}
