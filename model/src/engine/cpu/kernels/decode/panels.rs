//! A weight matrix as a step reads it: in panels of 16 outputs, input by input, in one of three precisions.
//!
//! | precision | a line of 64 bytes holds, of the 16 outputs of a panel |
//! |---|---|
//! | f32 | the weights of one input |
//! | bf16 | those of two inputs; a 32-bit word has an output's two, the first in the lower half |
//! | int8 | those of four inputs; a 32-bit word has an output's four, and each output has a scale |
//!
//! Inputs are padded to a multiple of four, outputs to one of 16, with zeros.

use rayon::prelude::*;

use super::lines::{Line, TILE, tiles, vector};
use crate::engine::Precision;

/// A (outputs, inputs) matrix in panels.
#[derive(Debug, Clone)]
pub(super) struct Panels {
    #[cfg(test)]
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) precision: Precision,
    /// (panels, lines of a panel)
    pub(super) lines: Vec<Line>,
    /// Scales of the outputs; for int8 only.
    pub(super) scales: Vec<Line>,
}

impl Panels {
    /// Packs the row-major (outputs, inputs) matrix `weights`.
    ///
    /// # Panics
    /// When the length does not fit.
    pub(super) fn new(weights: &[f32], outputs: usize, inputs: usize, precision: Precision) -> Self {
        assert_eq!(weights.len(), outputs * inputs, "weights");
        let mut panels = Self {
            #[cfg(test)]
            outputs,
            inputs,
            precision,
            lines: Vec::new(),
            scales: Vec::new(),
        };
        if precision == Precision::Int8 {
            let largest = |row: &[f32]| row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            panels.scales = vector(&weights.chunks_exact(inputs).map(|row| largest(row) / 127.0).collect::<Vec<_>>());
        }
        let per_panel = panels.panel_lines();
        panels.lines = vec![Line::ZERO; tiles(outputs) * per_panel];
        let scales: &[f32] = bytemuck::cast_slice(&panels.scales);
        panels.lines.par_chunks_mut(per_panel).enumerate().for_each(|(panel, lines)| {
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
        panels
    }

    /// Lines of a panel.
    pub(super) fn panel_lines(&self) -> usize {
        let inputs = self.inputs.next_multiple_of(4);
        match self.precision {
            Precision::F32 => inputs,
            Precision::Bf16 => inputs / 2,
            Precision::Int8 => inputs / 4,
        }
    }

    /// Bytes that a step reads.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.lines[..]) + size_of_val(&self.scales[..])
    }
}

/// The nearest number with 8 bits of mantissa, ties to even; NaN stays NaN.
pub(super) fn to_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    if v.is_nan() { (bits >> 16) as u16 | 0x40 } else { ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16 }
}
