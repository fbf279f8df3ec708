//! The tied head with cross-entropy, a chunk of tokens at a time, so that the logits of a whole batch never exist.

use rayon::prelude::*;

use super::lanes::{Isa, Lanes, exp, isa_kernel};
use super::matmul::Matrix;
use super::numbers::Numbers;
use super::products::Products;
use super::shared::Shared;
use crate::codec::Token;
use crate::mamba::{Batch, Loss};

/// Numbers in the logits of a chunk.
const CHUNK_LOGITS: usize = 512 * 1024;
/// Tokens in a chunk, least and most.
const CHUNK_TOKENS: (usize, usize) = (64, 1024);

/// Scratch of [`head_loss`].
#[derive(Debug, Default)]
pub struct HeadBuffers {
    logits: Numbers,
    losses: Vec<f64>,
}

/// Where gradients go; `scale` multiplies the derivative of the summed cross-entropy.
#[derive(Debug)]
pub struct HeadGradients<'a> {
    /// Factor.
    pub scale: f32,
    /// Out: gradient of the normed output of the last block, (t, d_model).
    pub hidden: &'a mut [f32],
    /// Added to: gradient of the embedding, (vocab_size, d_model).
    pub embedding: &'a mut [f32],
}

/// The summed cross-entropy of `targets` (t) given `hidden`, (t, d_model), and the embedding, (vocab_size, d_model).
///
/// # Panics
/// When a shape does not fit or a target is outside the vocabulary.
#[allow(clippy::too_many_arguments)]
pub fn head_loss(
    isa: Isa,
    products: &mut Products,
    hidden: &[f32],
    embedding: &[f32],
    d_model: usize,
    targets: &[Token],
    buffers: &mut HeadBuffers,
    mut gradients: Option<HeadGradients<'_>>,
) -> Loss {
    assert!(isa.is_supported(), "{isa:?} on a CPU without it");
    let vocab_size = embedding.len() / d_model;
    assert_eq!(hidden.len(), targets.len() * d_model, "hidden");
    assert!(
        targets.iter().all(|t| *t == Batch::IGNORE || (t.0 as usize) < vocab_size),
        "a target outside the vocabulary"
    );
    let chunk = (CHUNK_LOGITS / vocab_size).clamp(CHUNK_TOKENS.0, CHUNK_TOKENS.1);
    let table = Matrix::new(embedding, vocab_size, d_model);
    buffers.losses.resize(chunk, 0.0);
    let mut loss = Loss::default();
    for (i, targets) in targets.chunks(chunk).enumerate() {
        let (rows, at) = (targets.len(), i * chunk * d_model);
        let states = Matrix::new(&hidden[at..at + rows * d_model], rows, d_model);
        let logits = buffers.logits.first(rows * vocab_size);
        products.matmul(logits, vocab_size, states, table.t(), false);
        let scale = gradients.as_ref().map_or(0.0, |g| g.scale);
        let losses = &mut buffers.losses[..rows];
        let rows_in_parallel = logits.par_chunks_mut(vocab_size).zip(targets).zip(losses.par_iter_mut());
        rows_in_parallel.with_min_len(32).for_each(|((logits, target), loss)| {
            // SAFETY: support was checked, the target is inside the vocabulary or IGNORE.
            *loss = unsafe {
                let mut result = 0.0;
                softmax(isa, Shared::new(logits), vocab_size, *target, scale, &mut result);
                result
            };
        });
        loss.nats += losses.iter().sum::<f64>();
        loss.count += targets.iter().filter(|t| **t != Batch::IGNORE).count() as u64;
        if let Some(g) = &mut gradients {
            let d_logits = Matrix::new(logits, rows, vocab_size);
            products.matmul(&mut g.hidden[at..at + rows * d_model], d_model, d_logits, table, false);
            products.matmul(g.embedding, d_model, d_logits.t(), states, true);
        }
    }
    loss
}

isa_kernel! {
    fn softmax(logits: Shared, vocab_size: usize, target: Token, scale: f32, ret_loss: &mut f64) = softmax_body
}

/// One token: writes its cross-entropy, and turns its logits into their gradient times `scale`.
///
/// # Safety
/// `logits` holds `vocab_size` numbers that no other thread uses, and `target` is below it or IGNORE.
#[inline(always)]
unsafe fn softmax_body<V: Lanes>(logits: Shared, vocab_size: usize, target: Token, scale: f32, ret_loss: &mut f64) {
    // SAFETY: v stays below vocab_size.
    unsafe {
        let at = |v: usize| logits.at(v);
        let whole = vocab_size - vocab_size % V::N;
        if target == Batch::IGNORE {
            std::slice::from_raw_parts_mut(at(0), vocab_size).fill(0.0);
            *ret_loss = 0.0;
            return;
        }
        let mut largest = V::splat(f32::NEG_INFINITY);
        for v in (0..whole).step_by(V::N) {
            largest = largest.max(V::load(at(v)));
        }
        let mut largest = largest.largest();
        for v in whole..vocab_size {
            largest = largest.max(*at(v));
        }
        let own = f64::from(*at(target.0 as usize));
        let mut sums = V::splat(0.0);
        for v in (0..whole).step_by(V::N) {
            let e = exp(V::load(at(v)).sub(V::splat(largest)));
            e.store(at(v));
            sums = sums.add(e);
        }
        let mut sum = sums.sum();
        for v in whole..vocab_size {
            let e = exp(*at(v) - largest);
            *at(v) = e;
            sum += e;
        }
        *ret_loss = f64::from(sum).ln() + f64::from(largest) - own;
        let factor = scale / sum;
        for v in (0..whole).step_by(V::N) {
            V::load(at(v)).mul(V::splat(factor)).store(at(v));
        }
        for v in whole..vocab_size {
            *at(v) *= factor;
        }
        *at(target.0 as usize) -= scale;
    }
}
