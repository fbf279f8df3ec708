//! RMSNorm, forward and backward: y = w x / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019, arXiv:1910.07467).

use rayon::prelude::*;

use super::lanes::{Isa, Lanes, isa_kernel};
use super::shared::Shared;

/// Tokens of one task; also the unit in which weight gradients are summed, so it does not depend on the threads.
const TOKENS_PER_TASK: usize = 64;

/// Normalises the rows of `x`, (t, d), into `ret`.
///
/// # Panics
/// When a shape does not fit.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, ret: &mut [f32]) {
    let d = weight.len();
    assert!(isa.is_supported(), "{isa:?} on a CPU without it");
    assert_eq!(x.len(), ret.len(), "ret");
    assert_eq!(x.len() % d, 0, "x");
    let pairs = ret.par_chunks_mut(TOKENS_PER_TASK * d).zip(x.par_chunks(TOKENS_PER_TASK * d));
    pairs.for_each(|(ret, x)| {
        // SAFETY: support and lengths were checked.
        unsafe { forward(isa, x, weight, eps, Shared::new(ret)) };
    });
}

isa_kernel! { fn forward(x: &[f32], weight: &[f32], eps: f32, ret: Shared) = forward_body }

/// # Safety
/// `x` and `ret` are whole rows of `weight.len()` numbers.
#[inline(always)]
unsafe fn forward_body<V: Lanes>(x: &[f32], weight: &[f32], eps: f32, ret: Shared) {
    let d = weight.len();
    for (i, row) in x.chunks_exact(d).enumerate() {
        // SAFETY: c stays below d.
        unsafe {
            let scale = inverse_rms::<V>(row, eps);
            let to = ret.at(i * d);
            let mut c = 0;
            while c + V::N <= d {
                let w = V::load(weight.as_ptr().add(c));
                V::load(row.as_ptr().add(c)).mul(V::splat(scale)).mul(w).store(to.add(c));
                c += V::N;
            }
            for c in c..d {
                *to.add(c) = row[c] * scale * weight[c];
            }
        }
    }
}

/// 1 / sqrt(mean(x^2) + eps)
#[inline(always)]
unsafe fn inverse_rms<V: Lanes>(row: &[f32], eps: f32) -> f32 {
    // SAFETY: the caller has V's instruction set; a row against itself.
    let sum = unsafe { dot::<V>(row, row) };
    1.0 / (sum / row.len() as f32 + eps).sqrt()
}

/// # Safety
/// `b` is at least as long as `a`.
#[inline(always)]
unsafe fn dot<V: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: c stays below the length.
    unsafe {
        let mut sum = V::splat(0.0);
        let mut c = 0;
        while c + V::N <= a.len() {
            sum = V::load(a.as_ptr().add(c)).mul_add(V::load(b.as_ptr().add(c)), sum);
            c += V::N;
        }
        let mut rest = 0.0;
        for c in c..a.len() {
            rest += *a.get_unchecked(c) * *b.get_unchecked(c);
        }
        sum.sum() + rest
    }
}

/// Goes backward through [`rms_norm`]: adds to `d_x` the gradient of `x`, and to `d_weight` that of the weight.
///
/// `d_y` (t, d) is the gradient of the output; it is used up as scratch.
///
/// # Panics
/// When a shape does not fit.
pub fn rms_norm_backward(
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    d_y: &mut [f32],
    d_x: &mut [f32],
    d_weight: &mut [f32],
) {
    let d = weight.len();
    assert!(isa.is_supported(), "{isa:?} on a CPU without it");
    assert_eq!(x.len(), d_y.len(), "d_y");
    assert_eq!(x.len(), d_x.len(), "d_x");
    assert_eq!(x.len() % d, 0, "x");
    assert_eq!(d_weight.len(), d, "d_weight");
    let block = TOKENS_PER_TASK * d;
    let mut partial = vec![0.0; x.len().div_ceil(block) * d];
    partial
        .par_chunks_mut(d)
        .zip(d_x.par_chunks_mut(block))
        .zip(d_y.par_chunks_mut(block).zip(x.par_chunks(block)))
        .for_each(|((partial, d_x), (d_y, x))| {
            // SAFETY: support and lengths were checked.
            unsafe { backward(isa, x, weight, eps, d_y, Shared::new(d_x), Shared::new(partial)) };
        });
    for sums in partial.chunks_exact(d) {
        for (total, sum) in d_weight.iter_mut().zip(sums) {
            *total += sum;
        }
    }
}

isa_kernel! {
    fn backward(x: &[f32], weight: &[f32], eps: f32, d_y: &mut [f32], d_x: Shared, d_weight: Shared) = backward_body
}

/// With r the inverse root mean square and g = d_y w: dx = r (g - x r^2 mean(g x)); dw = sum over t of d_y x r.
///
/// # Safety
/// `x`, `d_y` and `d_x` are the same whole rows of `weight.len()` numbers.
#[inline(always)]
unsafe fn backward_body<V: Lanes>(x: &[f32], weight: &[f32], eps: f32, d_y: &mut [f32], d_x: Shared, d_weight: Shared) {
    let d = weight.len();
    for (i, (row, d_row)) in x.chunks_exact(d).zip(d_y.chunks_exact_mut(d)).enumerate() {
        // SAFETY: c stays below d.
        unsafe {
            let r = inverse_rms::<V>(row, eps);
            let mut c = 0;
            while c + V::N <= d {
                let (at, w_at) = (d_row.as_mut_ptr().add(c), d_weight.at(c));
                let dy = V::load(at);
                let normed = V::load(row.as_ptr().add(c)).mul(V::splat(r));
                dy.mul_add(normed, V::load(w_at)).store(w_at);
                dy.mul(V::load(weight.as_ptr().add(c))).store(at);
                c += V::N;
            }
            for c in c..d {
                *d_weight.at(c) += d_row[c] * row[c] * r;
                d_row[c] *= weight[c];
            }
            let mean = dot::<V>(d_row, row) / d as f32;
            let along = -r * r * r * mean;
            let to = d_x.at(i * d);
            let mut c = 0;
            while c + V::N <= d {
                let g = V::load(d_row.as_ptr().add(c)).mul_add(V::splat(r), V::load(to.add(c)));
                V::load(row.as_ptr().add(c)).mul_add(V::splat(along), g).store(to.add(c));
                c += V::N;
            }
            for c in c..d {
                *to.add(c) += d_row[c] * r + row[c] * along;
            }
        }
    }
}
