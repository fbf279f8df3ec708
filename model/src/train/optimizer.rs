//! AdamW over flat buffers, in one fused pass, and the global norm of a gradient.
//!
//! Both give the same bits on any number of threads: the update is element by element, and the norm is summed over chunks of
//! a fixed size.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::mamba::ParamLayout;

/// Elements that one task updates or sums: 4 streams of 128 KiB, about a core's second-level cache.
const CHUNK: usize = 32 * 1024;

/// Settings of [`AdamW`]; the defaults are the NAIC '24 paper's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWOptions {
    /// Decay of the first moment. 0 to below 1, default 0.9.
    pub beta1: f64,
    /// Decay of the second moment. 0 to below 1, default 0.999.
    pub beta2: f64,
    /// Added to the square root of the second moment. Above 0, default 1e-8.
    pub eps: f64,
    /// Share of a matrix's weights that decays in a step, times the learning rate. 0 to 1, default 0.01.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2 }
    }
}

/// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2), with PyTorch's order of operations.
#[derive(Debug, Clone)]
pub struct AdamW {
    options: AdamWOptions,
    /// Pieces of the flat buffer, none longer than [`CHUNK`], and whether they decay.
    pieces: Vec<(usize, bool)>,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    updates: u64,
}

impl AdamW {
    /// An optimiser without history for parameters laid out as `layout`.
    pub fn new(layout: &ParamLayout, options: AdamWOptions) -> Self {
        let mut pieces = Vec::new();
        for entry in &layout.entries {
            let mut left = entry.numel();
            while left > 0 {
                let len = left.min(CHUNK);
                pieces.push((len, entry.decays));
                left -= len;
            }
        }
        let zeros = || vec![0.0; layout.len];
        Self { options, pieces, first_moment: zeros(), second_moment: zeros(), updates: 0 }
    }

    /// Turns `gradients` into the new parameters, given the old ones.
    ///
    /// The gradient is multiplied by `scale` (for clipping) on its way in. Writing over the gradients, which are not
    /// needed any more, saves a third copy of the parameters.
    ///
    /// # Panics
    /// When a slice is not as long as the layout.
    pub fn update(&mut self, params: &[f32], gradients: &mut [f32], scale: f32, learning_rate: f64) {
        assert_eq!((params.len(), gradients.len()), (self.first_moment.len(), self.first_moment.len()));
        self.updates += 1;
        let o = self.options;
        let correction = |beta: f64| 1.0 - beta.powi(self.updates.min(i32::MAX as u64) as i32);
        let (beta1, beta2, eps) = (o.beta1 as f32, o.beta2 as f32, o.eps as f32);
        let (rest1, rest2) = ((1.0 - o.beta1) as f32, (1.0 - o.beta2) as f32);
        let step_size = (learning_rate / correction(o.beta1)) as f32;
        let root_correction = correction(o.beta2).sqrt() as f32;
        let kept = (1.0 - learning_rate * o.weight_decay) as f32;

        let mut tasks = Vec::with_capacity(self.pieces.len());
        let (mut p, mut g) = (params, gradients);
        let (mut m, mut v) = (&mut self.first_moment[..], &mut self.second_moment[..]);
        for &(len, decays) in &self.pieces {
            let (p_now, p_rest) = p.split_at(len);
            let (g_now, g_rest) = g.split_at_mut(len);
            let (m_now, m_rest) = m.split_at_mut(len);
            let (v_now, v_rest) = v.split_at_mut(len);
            tasks.push((p_now, g_now, m_now, v_now, decays));
            (p, g, m, v) = (p_rest, g_rest, m_rest, v_rest);
        }
        tasks.into_par_iter().for_each(|(p, g, m, v, decays)| {
            let kept = if decays { kept } else { 1.0 };
            for (((p, g), m), v) in p.iter().zip(g).zip(m).zip(v) {
                let gradient = *g * scale;
                *m = beta1 * *m + rest1 * gradient;
                *v = beta2 * *v + rest2 * gradient * gradient;
                let denominator = v.sqrt() / root_correction + eps;
                *g = *p * kept - step_size * (*m / denominator);
            }
        });
    }

    /// Updates made so far, which the bias correction counts.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// First and second moments, in the layout's order.
    pub fn moments(&self) -> (&[f32], &[f32]) {
        (&self.first_moment, &self.second_moment)
    }

    /// Takes over saved moments. Returns false, and changes nothing, when their lengths are not the layout's.
    #[must_use]
    pub fn restore(&mut self, first_moment: &[f32], second_moment: &[f32], updates: u64) -> bool {
        if first_moment.len() != self.first_moment.len() || second_moment.len() != self.second_moment.len() {
            return false;
        }
        self.first_moment.copy_from_slice(first_moment);
        self.second_moment.copy_from_slice(second_moment);
        self.updates = updates;
        true
    }
}

/// The Euclidean norm of `values`, summed in f64; not finite when one of them is not.
pub fn global_norm(values: &[f32]) -> f64 {
    const LANES: usize = 8; // independent sums, so that the compiler can use wide registers
    let sum_of = |chunk: &[f32]| {
        let mut sums = [0.0f64; LANES];
        let (whole, rest) = chunk.as_chunks::<LANES>();
        for eight in whole {
            for (sum, &x) in sums.iter_mut().zip(eight) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
    };
    let partial: Vec<f64> = values.par_chunks(CHUNK).map(sum_of).collect();
    partial.iter().sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests;
